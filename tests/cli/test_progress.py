"""What people are told while they wait."""

from __future__ import annotations

import pytest

from coinseg.cli.progress import ConsoleReport


def test_a_stage_says_whose_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    with ConsoleReport() as report:
        report("coin", 1, 10, {})
        report("coin of teacher-2", 1, 10, {})
        report("something new", 1, 10, {})
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in lines] == ["training COIN", "training COIN of teacher-2", "something new"]
