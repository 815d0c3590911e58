"""What is left of a run corrects itself."""

from __future__ import annotations

import pytest

from coinseg.pipeline.countdown import Countdown


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


FORETOLD = {"prepare": 1.0, "classifier": 100.0, "coin": 200.0, "classifier of teacher-2": 100.0, "coin of teacher-2": 200.0}


def test_at_the_beginning_all_is_left_as_foretold() -> None:
    assert Countdown(FORETOLD, Clock())("prepare", 0, 3) == pytest.approx(601)


def test_a_stage_goes_by_its_own_pace_and_what_follows_by_what_was_measured() -> None:
    """Everything takes twice as long as foretold: after the first network the rest is known within a tenth."""
    clock = Clock()
    left = Countdown(FORETOLD, clock)
    left("classifier", 1, 101)
    clock.now = 100.0
    assert left("classifier", 51, 101) == pytest.approx(100 + 200 + 100 + 200)  # nothing of another stage is known yet
    clock.now = 200.0
    assert left("classifier", 101, 101) == pytest.approx(500)
    found = left("coin", 1, 201)
    # The other classifier takes as long as the first one, COIN as all that was measured, with a tenth of the run as foretold.
    ratio = (200 + 60.1) / (100 + 60.1)
    assert found == pytest.approx(200 * ratio * 200 / 201 + 2 * 100 + 200 * ratio)
    assert 1000 / 1.5 < found < 1000 * 1.5
    clock.now = 600.0
    left("coin", 201, 201)
    assert left("classifier of teacher-2", 1, 101) == pytest.approx(2 * 100 * 100 / 101 + 2 * 200)


def test_stages_that_are_not_known_and_those_that_come_again() -> None:
    clock = Clock()
    left = Countdown({"classifier": 10.0, "evaluate": 4.0, "masks": 6.0}, clock)
    assert left("something", 0, 1) == pytest.approx(20)  # everything is still to come
    left("evaluate", 0, 4)
    clock.now = 4.0
    assert left("evaluate", 2, 4) == pytest.approx(4 + 6)
    clock.now = 8.0
    left("evaluate", 4, 4)
    assert left("evaluate", 0, 4) == pytest.approx(4 + 6)  # of the next class: what was foretold until a pace is known
    clock.now = 9.0
    assert left("evaluate", 1, 4) == pytest.approx(3 + 6)
    assert left.finished(10.0) == {"something": 0.0, "evaluate": 10.0}


def test_a_run_that_goes_on_has_no_time_left_of_what_is_there() -> None:
    clock = Clock()
    left = Countdown({"prepare": 0.0, "classifier": 0.0, "coin": 50.0}, clock)
    assert left("coin", 500, 1000) == pytest.approx(25)
    clock.now = 30.0
    assert left("coin", 600, 1000) == pytest.approx(120)


def test_a_stage_that_was_believed_to_be_done_says_nothing_of_the_pace_of_others() -> None:
    """A student of other settings is trained again: what it took was foretold as 0, and 100 s became hours."""
    clock = Clock()
    left = Countdown({"student": 0.0, "evaluate": 50.0, "masks": 50.0}, clock)
    left("student", 0, 10)
    clock.now = 1000.0
    left("student", 10, 10)
    assert left("evaluate", 0, 5) == pytest.approx(100)
