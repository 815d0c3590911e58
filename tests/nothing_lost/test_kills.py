"""A short round of `tests/kill_harness.py`: kills at chosen changes of files, those among them that once did harm."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HARNESS = Path(__file__).parents[1] / "kill_harness.py"


@pytest.mark.kills
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the harness forks")
def test_after_a_kill_the_same_command_finishes_with_the_same_result() -> None:
    chosen = ["--walk", "back", "file", "seg", "mine", "others", "report", "--at", "9", "107", "145"]
    done = subprocess.run([sys.executable, str(HARNESS), *chosen], capture_output=True, text=True, check=False, timeout=300)
    lines = done.stdout.splitlines()
    assert lines[-1] == "10 kills, 0 wrong", done.stdout + done.stderr
    assert [line.split()[0] for line in lines[:-1]] == ["back"] * 3 + ["file", "seg", "mine", "others"] + ["report"] * 3
    assert done.returncode == 0
