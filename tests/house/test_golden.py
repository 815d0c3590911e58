"""The short golden run: this work tree computes what the reference did, byte by byte (studies/golden.py)."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "studies" / "golden.py"
sys.path.insert(0, str(SCRIPT.parent))
golden = pytest.importorskip("golden", reason="studies/ is not part of this copy")
golden_cases, told = golden.golden_cases, pytest.importorskip("golden_contents")


def missing() -> str | None:
    """Why there is no reference to compare with."""
    if not shutil.which("git"):
        return "git is not installed"
    asked = subprocess.run(["git", "cat-file", "-e", f"{golden.REFERENCE}^{{commit}}"], cwd=ROOT, capture_output=True)
    return f"the commit {golden.REFERENCE} is not in this copy (no repository, or a shallow clone)" if asked.returncode else None


def test_nothing_that_is_computed_has_changed() -> None:
    if why := missing():
        pytest.skip(why)
    done = subprocess.run([sys.executable, str(SCRIPT), "--short"], cwd=ROOT, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.rstrip().endswith("nothing differs")


def test_what_differs_is_named_and_names_of_tensors_are_only_reported(capsys: pytest.CaptureFixture[str]) -> None:
    then = {"run/a.json": {"x.0": 1, "y": 2}, "run/f.safetensors": {"tensors": "1", "~names": "2"}}
    assert golden.compare("case", then, then)
    assert golden.compare("case", then, then | {"run/f.safetensors": {"tensors": "1", "~names": "3"}})
    assert "run/f.safetensors: names differ, which is no difference" in capsys.readouterr().out
    assert not golden.compare("case", then, then | {"run/a.json": {"x.0": 1, "y": 3}})
    assert "run/a.json: y 2 -> 3" in capsys.readouterr().out
    assert not golden.compare("case", then, {"run/a.json": then["run/a.json"]})
    assert "run/f.safetensors is only in the reference" in capsys.readouterr().out


def test_a_file_says_the_same_whatever_its_times_and_names(tmp_path: Path) -> None:
    told_then = told.Words({"auroc": "area"}, {"masks": "shapes"})
    then = told.record(b'{"key": "a", "auroc": [0.5, {"seconds": 1}], "rule": "of masks", "settings": {"x": 1}}', told_then)
    now = told.record(b'{"key": "b", "area": [0.5, {"seconds": 2}], "rule": "of shapes", "settings": {"y": 1}}', told.NOW)
    assert {item for item in then.keys() | now.keys() if then.get(item) != now.get(item)} == {"~settings"}
    assert now["area.0"] == 0.5
    assert told.table(b"auroc,seconds_mean\n1,2\n", told_then) == told.table(b"area,seconds_mean\n1,3\n", told.NOW)
    golden_cases.draw_images(tmp_path)
    one, other = ((tmp_path / "fresh" / name).read_bytes() for name in ("i60.png", "i61.png"))
    assert told.picture(one) == told.picture(one) != told.picture(other)
