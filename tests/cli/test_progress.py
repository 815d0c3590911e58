"""What people are told while they wait."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from coinseg.cli.progress import WHOLE, ConsoleReport, in_words


def test_a_stage_says_whose_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    with ConsoleReport() as report:
        report("coin", 1, 10, {})
        report("coin of teacher-2", 1, 10, {})
        report("something new", 1, 10, {})
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in lines] == ["training COIN", "training COIN of teacher-2", "something new"]


def test_what_is_left_of_the_run_is_said_beside_what_is_left_of_the_stage(capsys: pytest.CaptureFixture[str]) -> None:
    with ConsoleReport() as report:
        report.left = lambda stage, done, total: {"coin": 200.0, "masks": 40.0}[stage]
        report("coin", 1, 10, {"tv": 2.0})
        report("masks", 0, 2, {})
    assert capsys.readouterr().err.splitlines() == [
        "training COIN: 1/10, about 3 min to the end of the run  tv 2",
        "writing masks: 0/2, about 40 s to the end of the run  ",
    ]


def test_a_terminal_shows_the_whole_run_below_its_stages() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100, color_system=None)
    with ConsoleReport(0, console) as report:
        report.left = lambda stage, done, total: 600.0
        report("coin", 1, 10, {})
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert "0/600" in next(line for line in reversed(lines) if WHOLE in line)


@pytest.mark.parametrize(
    ("seconds", "words"), [(4.4, "4 s"), (99.0, "99 s"), (100.0, "2 min"), (5999.0, "100 min"), (9000, "2.5 h")]
)
def test_seconds_are_said_as_people_say_them(seconds: float, words: str) -> None:
    assert in_words(seconds) == words
