"""What a large scan costs in memory, held on a smaller one: allocations of numpy while it is segmented and written."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from coinseg.config.schema import MaskSettings
from coinseg.data.readers.volume import read_geometry, read_volume, write_scan
from coinseg.inference.predictor import Predictor
from coinseg.inference.table import measure
from models import bright_run

SIDE = 128
INT16 = 2 * SIDE**3


@pytest.fixture(scope="module")
def run() -> Predictor:
    made = bright_run()
    return made.with_settings(replace(made.settings, masks=replace(made.settings.masks, min_ml=0.01)))


def scan_of(path: Path, dtype: type) -> Path:
    """Noise with values of CT: a third of all voxels are marked; on the axes most files have."""
    array = np.random.default_rng(0).uniform(-500, 1050, (SIDE, SIDE, SIDE)).astype(dtype)
    nib.save(nib.Nifti1Image(array, np.diag([-1.0, -1.0, 1.0, 1.0])), path)
    return path


def peak_of(work: Callable[[], object]) -> float:
    """The most that was allocated at a time, in units of the scan as int16."""
    work()  # Once before: what is imported and cached on the way is not of the scan.
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1] / INT16
    finally:
        tracemalloc.stop()


def test_reading_takes_the_scan_and_no_copy(tmp_path: Path) -> None:
    packed, plain = scan_of(tmp_path / "a.nii.gz", np.int16), scan_of(tmp_path / "b.nii", np.float32)
    assert peak_of(lambda: read_volume(packed)) < 1.6
    assert peak_of(lambda: read_volume(plain)) < 2.6  # float32 is two int16


@pytest.mark.parametrize(("name", "dtype", "most"), [("a.nii.gz", np.int16, 3.5), ("b.nii", np.float32, 4.5)])
def test_segmenting_takes_the_scan_and_its_mask(tmp_path: Path, run: Predictor, name: str, dtype: type, most: float) -> None:
    """The scan (1, as float32 2), its mask before and after the 3-D rule (0.5 each), and what does not grow with the scan."""
    scan = scan_of(tmp_path / name, dtype)

    def everything() -> None:
        found = run.segment(scan, maps=True)
        assert found.maps is not None
        assert found.geometry is not None
        write_scan(tmp_path / "counterfactual.nii", found.maps.counterfactual, found.geometry, overwrite=True)
        write_scan(tmp_path / "difference.nii", found.maps.difference, found.geometry, overwrite=True)
        found.write(tmp_path / "mask.nii", overwrite=True)

    assert peak_of(everything) < most


def test_measuring_takes_labels_of_the_mask(tmp_path: Path) -> None:
    geometry = read_geometry(scan_of(tmp_path / "a.nii", np.int16))
    mask = np.ones((SIDE, SIDE, SIDE), bool)
    assert MaskSettings().min_ml == 0
    assert peak_of(lambda: measure(mask, geometry)) < 2.6
