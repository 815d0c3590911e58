"""`--dry-run`, and what a run says of the time that is left."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from coinseg.cli import dry_run
from coinseg.cli.progress import ConsoleReport
from coinseg.pipeline.run import Workspace
from conftest import tiny_settings, write_images


def test_the_time_is_said_with_the_stages_that_take_most_of_it() -> None:
    said = dry_run.time_of({"prepare": 1.0, "classifier": 240.0, "coin": 359.0, "pages": 0.0})
    assert said == "about 10 min here, while the machine is as busy as now: training the classifier f 4 min, training COIN 6 min"


def test_only_a_long_run_is_timed_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(dry_run, "forecast", lambda work, root: {"classifier": 300.0, "coin": 300.0})
    settings = tiny_settings()
    data = write_images(tmp_path / "data")
    with ConsoleReport() as report:
        dry_run.foretell(Workspace(data, tmp_path / "out", settings), report)
        assert report.left is None
        long = replace(settings, classifier=replace(settings.classifier, steps=10**6))
        dry_run.foretell(Workspace(data, tmp_path / "out", long), report)
        report("classifier", 0, 10, {})
    assert "training the classifier f: 0/10, about 10 min to the end of the run" in capsys.readouterr().err


def test_a_run_begins_where_nobody_knows_how_long_it_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(work: Workspace, root: Path) -> dict[str, float]:
        raise MemoryError

    monkeypatch.setattr(dry_run, "forecast", fails)
    settings = tiny_settings()
    long = replace(settings, classifier=replace(settings.classifier, steps=10**6))
    report = ConsoleReport(-1)
    dry_run.foretell(Workspace(tmp_path, tmp_path / "out", long), report)
    assert report.left is None
