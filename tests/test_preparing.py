"""Cases are read several at once; what is written does not depend on how many."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import numpy as np
import pytest

from coinseg.config import DataSettings, Settings
from coinseg.data import slices
from coinseg.data.intensity import Window
from coinseg.data.layouts import read_layout
from coinseg.data.phantom import PhantomSettings, write_cohort
from coinseg.data.preparing import in_order
from coinseg.errors import UserError


def test_as_many_as_asked_are_ahead_and_the_order_is_that_of_the_items() -> None:
    began: list[int] = []
    lock = threading.Lock()

    def work(item: int) -> int:
        with lock:
            began.append(item)
        if item == 3:
            raise UserError("3", "another", "mend it")
        return item * item

    found = []
    for done, future in enumerate(in_order(work, range(20), 4)):
        assert len(began) <= done + 5
        found.append(None if future.exception() else future.result())
    assert found == [None if i == 3 else i * i for i in range(20)]


def test_the_store_is_the_same_with_one_reader_and_with_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cohort(tmp_path / "data", PhantomSettings(patients=5, slices=8, size=48, lesions="masses"), processes=1)
    (tmp_path / "data" / "s0003" / "ct.nii.gz").write_bytes(b"no scan")
    settings = Settings(data=DataSettings(size=32, organ=("kidney_left", "kidney_right"), min_organ_px=1))
    made = {}
    for count in (1, 4):
        monkeypatch.setattr(slices, "readers", lambda count=count: count)
        cohort = read_layout(tmp_path / "data", settings.data)
        store = slices.prepare(cohort, settings, tmp_path / f"store{count}")
        files = {f.name: f.read_bytes() for f in store.root.iterdir() if f.name != "store.json"}
        meta = json.loads((store.root / "store.json").read_text())
        made[count] = (files, {k: v for k, v in meta.items() if k != "seconds"})
    assert made[1] == made[4]
    assert any("s0003" in problem for problem in made[1][1]["problems"])
    assert len(made[1][0]["images.bin"]) == 2 * 32 * 32 * len(store)


def test_a_window_gives_the_same_bits_as_its_formula() -> None:
    stored, window = np.random.default_rng(0).integers(-1100, 3000, (3, 16, 16)).astype(np.int16), Window(-160.0, 243.0)
    kept = stored.copy()
    expected = np.clip((stored.astype(np.float32) - window.low) / (window.high - window.low), 0, 1)
    assert np.array_equal(window.unit(stored), expected)
    assert np.array_equal(stored, kept)
