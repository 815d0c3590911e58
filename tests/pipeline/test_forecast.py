"""The estimate of a run: what is measured, what is counted, and that nothing of it is left behind."""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

from coinseg.pipeline import forecast
from coinseg.pipeline.counts import Counts, counted
from coinseg.pipeline.forecast import Measure, Seconds, stages
from coinseg.pipeline.run import Workspace
from conftest import tiny_settings, write_images

COUNTS = Counts(cases=100, slices=1000, abnormal=400, weak=False, wanted=50, cut=500, reading=0.0)


def test_a_step_is_measured_with_few_images_where_they_are_large() -> None:
    """Two networks asked about 16 images of 256 x 256 took 11 GB: two images say how long sixteen take."""
    settings = tiny_settings()
    for side, images in ((32, 16), (64, 16), (128, 8), (256, 2), (1024, 2)):
        assert Measure(replace(settings, data=replace(settings.data, size=side))).count(16) == images


def test_every_network_of_a_run_is_measured_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = count()
    settings = tiny_settings()
    full = Measure(settings, 1, lambda: float(next(ticks))).seconds()
    assert min(full.classifier, full.coin, full.student, full.imagenet, full.explained, full.drawn, full.patch, full.lesion) > 0
    # Two looks at the clock, after the first step and after the last of `STEPS` more.
    assert full.classifier == full.coin == full.student == full.imagenet == pytest.approx(1 / forecast.STEPS)
    without = Measure(replace(settings, student=replace(settings.student, steps=0))).seconds()
    assert min(without.classifier, without.coin, without.f, without.explained) > 0
    assert without.student == without.imagenet == without.opinion == without.drawn == without.patch == without.lesion == 0
    rise = Measure(replace(settings, method="rise", student=replace(settings.student, steps=0))).seconds()
    assert (rise.coin, rise.explained > 0) == (0, True)


def test_the_generator_is_timed_over_whole_rounds() -> None:
    """Of five steps one updates the generator too: all five are timed."""
    ticks = count()
    settings = tiny_settings()
    rare = replace(settings, coin=replace(settings.coin, generator_every=5), student=replace(settings.student, steps=0))
    seen: list[int] = []
    measure = Measure(rare, 1, lambda: float(next(ticks)))
    train_coin = forecast.train_coin

    def counted_steps(data, f, short, report):  # type: ignore[no-untyped-def]
        seen.append(short.coin.steps)
        return train_coin(data, f, short, report=report)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forecast, "train_coin", counted_steps)
        measure.seconds()
    assert seen == [6]


def test_stages_are_steps_times_seconds() -> None:
    settings = tiny_settings()
    found = stages(settings, COUNTS, Seconds(classifier=2.0, coin=3.0, student=5.0, imagenet=7.0))
    s = settings
    assert found["classifier"] == 2.0 * s.classifier.steps
    assert found["coin"] == 3.0 * s.coin.steps
    assert found["student"] == 5.0 * s.student.steps
    assert found["classifier of the second opinion"] == 7.0 * s.student.imagenet_steps
    two = replace(settings, student=replace(settings.student, teachers=2))
    names = list(stages(two, COUNTS, Seconds(classifier=2.0, coin=3.0)))
    assert names[:5] == ["prepare", "classifier", "coin", "classifier of teacher-2", "coin of teacher-2"]
    without = replace(settings, student=replace(settings.student, steps=0, teachers=2))
    assert list(stages(without, COUNTS, Seconds(1.0, 1.0))) == ["prepare", "classifier", "coin", "evaluate", "masks", "pages"]
    few = replace(COUNTS, abnormal=20)  # of which 16 are trained on: no student
    assert list(stages(two, few, Seconds(1.0, 1.0))) == list(stages(without, few, Seconds(1.0, 1.0)))
    searched = stages(without, replace(COUNTS, weak=True), Seconds(classifier=2.0))
    assert searched["witnesses"] == 2.0 * 4 * (s.classifier.steps // 2)


def test_images_cost_what_is_asked_about_them() -> None:
    settings = tiny_settings()
    without = replace(settings, student=replace(settings.student, steps=0))
    of_f = stages(without, COUNTS, Seconds(f=1.0))
    assert of_f["classifier"] == pytest.approx(200)  # held-out slices are scored
    assert of_f["masks"] == pytest.approx(500)
    assert stages(without, COUNTS, Seconds(explained=1.0))["masks"] == pytest.approx(0.4 * 500)
    read = stages(without, replace(COUNTS, reading=2.0), Seconds())
    assert read["masks"] == pytest.approx(3 * 50 * 2)
    assert read["prepare"] == pytest.approx(100 * 2 / forecast.readers())
    assert read["pages"] == pytest.approx(50 * 2 * 2)
    tiled = stages(without, replace(COUNTS, squares=9.0), Seconds(explained=1.0))
    assert tiled["pages"] == pytest.approx(50 * 2 * 9)
    classes = stages(without, COUNTS, Seconds(f=1.0), classes=3)
    assert classes["masks"] == pytest.approx(3 * 500)


def test_a_cohort_is_counted_from_a_few_cases(tmp_path: Path) -> None:
    work = Workspace(write_images(tmp_path / "data"), tmp_path / "out", tiny_settings())
    found = counted(work)
    assert (found.cases, found.slices, found.abnormal, found.weak) == (24, 24, 12, False)
    assert (found.wanted, found.cut) == (12, 12)
    assert found.reading > 0
    assert found.squares == 1
    tiled = replace(work.settings, data=replace(work.settings.data, tile=16, size=16))
    assert counted(Workspace(work.data, tmp_path / "out", tiled)).squares > 4
    assert not (tmp_path / "out").exists()


def test_finished_stages_take_no_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        forecast, "Measure", lambda *words: type("M", (), {"seconds": lambda self: Seconds(1, 1, 1, 1, 1, 1, 1, 1, 1, 1)})()
    )
    work = Workspace(write_images(tmp_path / "data", patients=20), tmp_path / "out", tiny_settings())
    for name in ("slices/store.json", "classifier/stage.json", "opinion/classifier/stage.json"):
        (tmp_path / "out" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "out" / name).touch()
    fresh, found = forecast.forecast(work), forecast.forecast(work, work.root)
    done = {"prepare", "classifier", "classifier of the second opinion"}
    assert {name for name, seconds in found.items() if seconds == 0} == done
    assert all(fresh.values())
