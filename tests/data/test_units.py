"""Files in metres or microns are what they are in millimetres, and what lies behind a gzip stream is nobody's voxels."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from coinseg.data.readers.nifti import _DRAIN
from coinseg.data.readers.volume import read_geometry, read_mask, read_volume, write_mask
from coinseg.errors import UserError
from coinseg.types import MaskSource
from writers import write_itk

IN_MM = np.array([[-0.8, 0, 0, 5.0], [0, -0.8, 0, 6.0], [0, 0, 2.5, -7.0], [0, 0, 0, 1.0]])
UNITS = {"meter": 0.001, "mm": 1.0, "micron": 1000.0}


def scan(shape: tuple[int, ...] = (8, 7, 6), kind: type = np.int16) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 3, shape).astype(kind)


def saved(path: Path, unit: str | None, scale: float | None = None, affine: np.ndarray = IN_MM) -> Path:
    """The same volume in a unit; with `scale` its affine is not in it, and without a unit the header names none."""
    factor = UNITS[unit or "mm"] if scale is None else scale
    image = nib.Nifti1Image(scan(), np.diag([factor, factor, factor, 1.0]) @ affine)
    image.header.set_xyzt_units(unit)
    nib.save(image, path)
    return path


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("other", UNITS)
def test_a_mask_in_another_unit_lies_on_its_scan(tmp_path: Path, unit: str, other: str) -> None:
    geometry = read_geometry(saved(tmp_path / "scan.nii.gz", unit))
    assert geometry.spacing == pytest.approx((2.5, 0.8, 0.8))
    assert geometry.voxel_ml == pytest.approx(0.0016)
    mask = MaskSource(saved(tmp_path / "mask.nii.gz", other), (2,))
    assert (read_mask(mask, geometry) == (read_volume(tmp_path / "scan.nii.gz").scan == 2)).all()
    in_itk = write_itk(tmp_path / "mask.nrrd", scan(kind=np.uint8), IN_MM)
    assert (read_mask(MaskSource(in_itk, (2,)), geometry) == read_mask(mask, geometry)).all()
    moved = MaskSource(saved(tmp_path / "moved.nii.gz", other, affine=IN_MM + np.diag([0, 0, 0.5, 0])))
    with pytest.raises(UserError, match="voxels away from its scan"):
        read_mask(moved, geometry)


def test_a_mask_whose_tool_forgot_the_unit_lies_on_its_scan(tmp_path: Path) -> None:
    geometry = read_geometry(saved(tmp_path / "scan.nii.gz", "meter"))
    assert read_mask(MaskSource(saved(tmp_path / "mask.nii.gz", None, scale=0.001)), geometry).any()


def test_a_fine_grid_in_metres_is_read_and_its_mask_keeps_the_unit(tmp_path: Path) -> None:
    geometry = read_geometry(saved(tmp_path / "scan.nii.gz", "meter", affine=np.diag([0.02, 0.02, 0.05, 1])))
    assert geometry.spacing == pytest.approx((0.05, 0.02, 0.02))
    write_mask(tmp_path / "mask.nii.gz", np.ones(geometry.canonical_shape, bool), geometry)
    assert nib.load(tmp_path / "mask.nii.gz").header.get_xyzt_units()[0] == "meter"  # type: ignore[attr-defined]
    assert read_mask(MaskSource(tmp_path / "mask.nii.gz"), geometry).all()


@pytest.mark.parametrize(("unit", "factor"), [("m", 1000), ("mm", 1), ("um", 0.001), ("µm", 0.001), ("cm", 10), ("furlong", 1)])
def test_the_unit_of_a_nrrd(tmp_path: Path, unit: str, factor: float) -> None:
    path = write_itk(tmp_path / "scan.nrrd", scan(), IN_MM)
    header, _, voxels = path.read_bytes().partition(b"\n\n")
    path.write_bytes(header + f'\nspace units: "{unit}" "{unit}" "{unit}"\n\n'.encode() + voxels)
    assert read_geometry(path).spacing == pytest.approx((2.5 * factor, 0.8 * factor, 0.8 * factor))
    assert (read_volume(path).scan == read_volume(saved(tmp_path / "scan.nii.gz", "mm")).scan).all()


@pytest.mark.parametrize("behind", [b"\0", bytes(10_000), b"garbage" * 30, b"\n", b"\x1f", b"\x1f\x8b" + b"x" * 40])
@pytest.mark.parametrize("size", [8, 128], ids=["small", "of several blocks"])
def test_what_lies_behind_a_gzip_stream(tmp_path: Path, behind: bytes, size: int) -> None:
    voxels = scan((size, size, size // 2))
    assert size == 8 or voxels.nbytes > _DRAIN
    path = tmp_path / "scan.nii.gz"
    path.write_bytes(gzip.compress(nib.Nifti1Image(voxels, IN_MM).to_bytes(), 1) + behind)
    if behind.startswith(b"\x1f\x8b"):  # what says that it is another stream has to be one
        with pytest.raises(UserError, match="cannot be read"):
            read_volume(path)
    else:
        assert read_volume(path).scan.sum() == voxels.sum()


@pytest.mark.parametrize("spoil", [-6, -2])
def test_the_checksum_is_still_asked(tmp_path: Path, spoil: int) -> None:
    content = bytearray(gzip.compress(nib.Nifti1Image(scan(), IN_MM).to_bytes()))
    content[spoil] ^= 1
    (tmp_path / "scan.nii.gz").write_bytes(bytes(content) + b"garbage")
    with pytest.raises(UserError, match="cannot be read"):
        read_volume(tmp_path / "scan.nii.gz")
