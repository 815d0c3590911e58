"""The number of threads is chosen by trying; `import coinseg` and the help stay light."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from coinseg.runtime import threads

HEAVY = {"torch", "numpy", "lightning_fabric", "scipy", "nibabel", "timm", "kornia", "matplotlib", "pydicom", "beartype"}


def costs(seconds: dict[int, float]) -> tuple[object, object]:
    """A piece of work and a clock that says it takes so long with so many threads."""
    now = [0.0]

    def work() -> None:
        now[0] += seconds[torch.get_num_threads()]

    return work, lambda: now[0]


@pytest.mark.parametrize(
    ("seconds", "best"),
    [({1: 1.0, 2: 0.5, 4: 0.3, 6: 0.2}, 6), ({1: 1.0, 2: 20.0, 4: 20.0, 6: 20.0}, 1), ({1: 1.0, 2: 0.5, 4: 0.48, 6: 9.0}, 2)],
)
def test_the_quickest_number_is_taken_and_the_smaller_where_it_hardly_matters(seconds: dict[int, float], best: int) -> None:
    before = torch.get_num_threads()
    assert threads.quickest(6, *costs(seconds)) == best  # type: ignore[arg-type]
    assert torch.get_num_threads() == before


def test_the_users_word_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_chosen", [])
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert threads.threads() == 3


def test_a_folder_keeps_its_number_while_the_machine_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_chosen", [2])
    monkeypatch.setattr(threads, "cores", lambda: 4)
    threads.keep_threads(tmp_path)
    assert json.loads((tmp_path / threads.FILE).read_text()) == {"threads": 2}
    monkeypatch.setattr(threads, "_chosen", [1])
    threads.keep_threads(tmp_path)
    assert threads.threads() == 2
    monkeypatch.setattr(threads, "_chosen", [1])
    monkeypatch.setattr(threads, "cores", lambda: 1)
    threads.keep_threads(tmp_path)
    assert threads.threads() == 1


@pytest.mark.parametrize("words", ["import coinseg", "from coinseg.cli.main import build_parser; build_parser(['--help'])"])
def test_nothing_heavy_is_imported_before_it_is_needed(words: str) -> None:
    code = f"{words}\nimport sys\nprint(*sorted(name for name in sys.modules if '.' not in name))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not HEAVY & set(found)


def test_the_options_of_segment_need_no_torch() -> None:
    code = "from coinseg.cli.main import build_parser; build_parser(['run']); build_parser(['segment'])"
    code += "; import sys; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"
