"""Cases are read several at once; what is written does not depend on how many."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from coinseg.config.schema import DataSettings, Settings
from coinseg.data.layouts.registry import read_layout
from coinseg.data.phantom.cohort import PhantomSettings, write_cohort
from coinseg.data.slices import store as slices
from coinseg.data.slices.intensity import Window
from coinseg.data.slices.prepare import in_order
from coinseg.data.slices.scale import ask, kind_of_intensity
from coinseg.errors import UserError
from conftest import tiny_settings


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
        files = {f.name: f.read_bytes() for f in store.root.iterdir() if f.name not in ("store.json", "checksums.json")}
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


def volumes(root: Path, values: Callable[[np.random.Generator, int], np.ndarray]) -> Path:
    """Four scans (3, 20, 20) in two folders."""
    for i in range(4):
        file = root / ("normal", "abnormal")[i % 2] / f"s{i}.nii.gz"
        file.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(values(np.random.default_rng(i), i).astype(np.float32), np.eye(4)), file)
    return root


@pytest.mark.parametrize(
    "values",
    [
        lambda rng, i: rng.random((20, 20, 3)),
        lambda rng, i: 12000 * (i + 1) * rng.random((20, 20, 3)),
        lambda rng, i: rng.normal(0, 1, (20, 20, 3)),
    ],
    ids=["floats in [0, 1]", "every scan in units of its own", "z-scores"],
)
def test_volumes_that_are_no_ct_are_scaled_by_their_own_percentiles_and_that_is_said(tmp_path: Path, values: Any) -> None:
    settings = tiny_settings()
    cohort = read_layout(volumes(tmp_path / "data", values), settings.data)
    store = slices.prepare(cohort, settings, tmp_path / "store")
    assert store.meta["kind"] == "percentile"
    assert any("taken for MR or the like" in problem for problem in store.meta["problems"])
    unit = store.unit(np.arange(len(store)))
    assert len(np.unique(unit)) > 1000
    assert ((unit == 0) | (unit == 1)).mean(axis=(1, 2)).max() < 0.05
    forced = replace(settings, data=replace(settings.data, intensity="percentile"))
    said = slices.prepare(cohort, forced, tmp_path / "forced").meta["problems"]
    assert not any("MR" in problem for problem in said)  # whoever asks for it knows


def test_values_below_those_of_fat_are_hounsfield_units_and_a_broken_first_scan_is_passed_over(tmp_path: Path) -> None:
    settings = tiny_settings()
    data = volumes(tmp_path / "data", lambda rng, i: rng.normal(40, 200, (20, 20, 3)))
    cohort = read_layout(data, settings.data)
    assert kind_of_intensity(cohort, settings.data) == "hu"
    cohort.cases[0].image.write_bytes(b"no scan")
    assert kind_of_intensity(cohort, settings.data) == "hu"
    mr = sorted(volumes(tmp_path / "mr", lambda rng, i: rng.random((20, 20, 3))).rglob("*.nii.gz"))
    asked = ask([data / "gone.nii.gz", *mr], 32)
    assert {path: greys.not_hu for path, greys in asked.items()} == dict.fromkeys(mr, "no value is below -100")


def test_labels_of_slices_that_a_scan_does_not_have_are_said(tmp_path: Path) -> None:
    data = volumes(tmp_path / "data", lambda rng, i: rng.normal(40, 200, (20, 20, 3)))
    labels = [(f"{name}/s{i}.nii.gz", z, int(z == 2)) for i, name in enumerate(("normal", "abnormal") * 2) for z in (0, 2)]
    lines = [
        "file,slice,label",
        *(f"{file},{z},{label}" for file, z, label in labels),
        "normal/s0.nii.gz,3,1",
        "normal/s0.nii.gz,500,1",
    ]
    (data / "labels.csv").write_text("\n".join(lines))
    cohort = read_layout(data / "labels.csv", tiny_settings().data)
    store = slices.prepare(cohort, tiny_settings(), tmp_path / "store")
    (said,) = [problem for problem in store.meta["problems"] if "counted from 0" in problem]
    assert "labels of slices 3, 500, but it has 3" in said
    assert sorted(zip(store.index["slice"].tolist(), store.index["label"].tolist(), strict=True)) == [(0, 0)] * 4 + [(2, 1)] * 4
