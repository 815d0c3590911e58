"""Volumes: the way back to the file, the radiological view, and the wording of every refusal."""

from __future__ import annotations

import gzip
import struct
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coinseg.data.readers.geometry import Geometry
from coinseg.data.readers.volume import read_mask, read_volume, write_mask, write_scan
from coinseg.errors import UserError
from coinseg.types import MaskSource
from writers import ORIENTATIONS, affine_of, broken, write_nifti

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


def load(path: Path) -> Any:
    """nibabel's own view of a file; it is typed too loosely to look into."""
    return nib.load(path)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    orientation=st.sampled_from(ORIENTATIONS),
    spacing=st.tuples(*[st.floats(0.3, 5)] * 3),
    angle=st.floats(-0.3, 0.3),
    shape=st.tuples(*[st.integers(2, 6)] * 3),
    place=st.tuples(*[st.integers(0, 5)] * 3),
    suffix=st.sampled_from([".nii", ".nii.gz"]),
    codes=st.sampled_from([(1, 1), (2, 0), (0, 1)]),
)
def test_mask_finds_its_way_back(
    tmp_path: Path,
    orientation: tuple[tuple[int, ...], tuple[int, ...]],
    spacing: tuple[float, ...],
    angle: float,
    shape: tuple[int, ...],
    place: tuple[int, ...],
    suffix: str,
    codes: tuple[int, int],
) -> None:
    voxel = tuple(p % n for p, n in zip(place, shape, strict=True))
    array = np.zeros(shape, np.int16)
    array[voxel] = 1234
    image = nib.Nifti1Image(array, affine_of(*orientation, spacing, angle))
    image.set_sform(image.affine, codes[0])
    image.set_qform(image.affine, codes[1])
    source, output = tmp_path / f"scan{suffix}", tmp_path / f"mask{suffix}"
    nib.save(image, source)
    before = source.read_bytes()

    volume = read_volume(source)
    write_mask(output, volume.scan == 1234, volume.geometry, overwrite=True)

    old, new = load(source), load(output)
    mask = np.asarray(new.dataobj)
    assert mask.dtype == np.uint8
    assert new.shape == old.shape
    assert np.argwhere(mask).tolist() == [list(voxel)]
    assert np.array_equal(new.affine, old.affine)
    assert all(new.header[name] == old.header[name] for name in ("sform_code", "qform_code"))
    assert np.array_equal(read_mask(MaskSource(output), volume.geometry), volume.scan == 1234)
    assert source.read_bytes() == before


@pytest.mark.parametrize("orientation", ORIENTATIONS, ids=str)
def test_canonical_view_is_radiological(tmp_path: Path, orientation: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    """Voxels hold their own world coordinate: it must fall or grow along the right canonical axis only."""
    affine, shape = affine_of(*orientation, (1.0, 2.0, 3.0)), (4, 5, 6)
    world = nib.affines.apply_affine(affine, np.indices(shape).reshape(3, -1).T).reshape(*shape, 3)
    # RAS+ coordinates: to the Left x falls, to Posterior y falls, to Superior z grows.
    for axis, coordinate, sign in ((2, 0, -1), (1, 1, -1), (0, 2, 1)):
        scan = read_volume(write_nifti(tmp_path / "w.nii", world[..., coordinate].astype(np.float32), affine)).scan
        assert (np.sign(np.diff(scan.astype(np.float64), axis=axis)) == sign).all()
        assert not any(np.diff(scan, axis=other).any() for other in {0, 1, 2} - {axis})


def test_spacing_follows_the_canonical_axes(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "a.nii", np.zeros((2, 3, 4), np.int16), affine_of((1, 2, 0), (1, -1, 1), (1.0, 2.0, 3.0)))
    volume = read_volume(path)
    assert volume.scan.shape == (3, 2, 4)  # stored axes lie along y, z and x
    assert volume.spacing == pytest.approx((2.0, 1.0, 3.0))


def test_slope_and_intercept_give_int16(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.zeros((3, 3, 3), np.int16), np.eye(4))
    block = bytearray(image.to_bytes())
    block[112:120] = struct.pack("<2f", 2.0, -1024.0)
    block[352:354] = struct.pack("<h", 5)
    (tmp_path / "a.nii").write_bytes(bytes(block))
    scan = read_volume(tmp_path / "a.nii").scan
    assert scan.dtype == np.int16
    assert (scan.min(), scan.max()) == (-1024, -1014)


@pytest.mark.parametrize(
    ("value", "stored", "read"),
    [
        (7, np.uint8, np.int16),
        (40000, np.uint16, np.float32),
        (3.0, np.float64, np.int16),
        (0.5, np.float32, np.float32),
    ],
)
def test_int16_when_the_values_fit(tmp_path: Path, value: float, stored: type, read: type) -> None:
    scan = read_volume(write_nifti(tmp_path / "a.nii.gz", np.full((2, 2, 2), value, stored))).scan
    assert scan.dtype == read
    assert (scan == value).all()


def test_trailing_singleton_is_accepted(tmp_path: Path) -> None:
    assert read_volume(write_nifti(tmp_path / "a.nii", np.zeros((3, 4, 5, 1), np.int16))).scan.shape == (5, 4, 3)


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_scan_round_trip(tmp_path: Path, dtype: type) -> None:
    source = write_nifti(
        tmp_path / "a.nii", np.arange(24).reshape(2, 3, 4).astype(np.int16), affine_of(*ORIENTATIONS[11], (1, 2, 3))
    )
    volume = read_volume(source)
    write_scan(tmp_path / "b.nii.gz", volume.scan.astype(dtype), volume.geometry)
    written = load(tmp_path / "b.nii.gz")
    assert written.get_data_dtype() == dtype
    assert np.array_equal(written.get_fdata(), load(source).get_fdata())


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("missing", "missing"),
        ("half", "cannot be read"),
        ("empty", "cannot"),
        ("no gzip", "cannot be read"),
        ("huge", "GiB"),
        ("no axis", "affine"),
        ("lost axis", "affine"),
        ("4-D", "4 dimensions"),
        ("2-D", "2 dimensions"),
        ("nan", "NaN or inf"),
        ("inf", "NaN or inf"),
        ("complex", "complex64"),
        ("checksum", "cannot be read"),
        ("tail", "cannot be read"),
    ],
)
def test_unusable_volumes_are_refused_in_one_line(tmp_path: Path, kind: str, text: str) -> None:
    path = broken(tmp_path, kind)
    with pytest.raises(UserError) as caught:
        read_volume(path)
    message = str(caught.value)
    assert text in message
    assert str(path) in message
    assert "\n" not in message


@pytest.mark.parametrize("end", [0, 9000])
def test_a_flipped_byte_never_changes_a_voxel(tmp_path: Path, end: int) -> None:
    """Whatever byte is wrong, the file is refused or every voxel is right, also where `end` bytes follow the voxels."""
    array = np.random.default_rng(0).integers(-500, 500, (4, 3, 3)).astype(np.int16)
    packed = gzip.compress(nib.Nifti1Image(array, np.eye(4)).to_bytes() + bytes(end))
    path = tmp_path / "x.nii.gz"
    path.write_bytes(packed)
    right = read_volume(path).scan
    refused = 0
    for place in range(len(packed)):
        path.write_bytes(packed[:place] + bytes([packed[place] ^ 64]) + packed[place + 1 :])
        try:
            assert np.array_equal(read_volume(path).scan, right)
        except UserError:
            refused += 1
    assert refused >= len(packed) - 10  # the header of gzip holds a time and the like, which nothing covers


@pytest.mark.parametrize("value", [7, 255])
def test_a_wrong_byte_in_the_header_raises_nothing_but_a_user_error(
    tmp_path: Path, value: int, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = nib.Nifti1Image(np.ones((4, 4, 4), np.int16), np.eye(4)).to_bytes()
    path = tmp_path / "x.nii"
    for place in range(0, 352, 3):  # among them the code of the unit, byte 123
        path.write_bytes(whole[:place] + bytes([value]) + whole[place + 1 :])
        with suppress(UserError):
            read_volume(path)
    assert capfd.readouterr().err == ""


def test_float_labels_are_rounded(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "a.nii", np.full((2, 2, 2), 1.9999, np.float32))
    geometry = read_volume(path).geometry
    assert read_mask(MaskSource(path, (2,)), geometry).all()
    assert not read_mask(MaskSource(path, (1,)), geometry).any()
    assert read_mask(MaskSource(path, (1, 2)), geometry).all()


def test_mask_stored_in_another_axis_order(tmp_path: Path) -> None:
    array = np.zeros((3, 4, 5), np.int16)
    array[0, 1, 2] = 1
    volume = read_volume(write_nifti(tmp_path / "a.nii", array, np.eye(4)))
    flipped = np.diag([-1.0, 1.0, 1.0, 1.0])
    flipped[0, 3] = 2.0
    mask = read_mask(MaskSource(write_nifti(tmp_path / "m.nii", array[::-1].astype(np.uint8), flipped)), volume.geometry)
    assert np.array_equal(mask, volume.scan == 1)


def refused_mask(path: Path, geometry: Geometry) -> bool:
    """Whether the mask is refused for lying elsewhere."""
    try:
        read_mask(MaskSource(path), geometry)
    except UserError as error:
        return "the same grid" in str(error) and str(path) in str(error)
    return False


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("shift", [0.0, 0.09, -0.09, 0.11, -0.11, 0.4, 5.0])
def test_a_mask_may_lie_a_tenth_of_a_voxel_off(tmp_path: Path, axis: int, shift: float) -> None:
    affine = affine_of((1, 0, 2), (1, -1, 1), (0.7, 0.8, 5.0), angle=0.2)
    geometry = read_volume(write_nifti(tmp_path / "a.nii", np.zeros((3, 4, 5), np.int16), affine)).geometry
    moved = affine.copy()
    moved[:3, 3] += shift * affine[:3, axis]
    assert refused_mask(write_nifti(tmp_path / "m.nii", np.zeros((3, 4, 5), np.uint8), moved), geometry) == (abs(shift) > 0.1)


def test_a_mask_of_another_shape_or_spacing_is_refused(tmp_path: Path) -> None:
    geometry = read_volume(write_nifti(tmp_path / "a.nii", np.zeros((3, 3, 3), np.int16))).geometry
    assert refused_mask(write_nifti(tmp_path / "m.nii", np.zeros((3, 3, 4), np.uint8)), geometry)
    assert refused_mask(write_nifti(tmp_path / "n.nii", np.zeros((3, 3, 3), np.uint8), np.diag([1.1, 1, 1, 1])), geometry)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    orientation=st.sampled_from(ORIENTATIONS),
    angle=st.floats(-0.7, 0.7),
    place=st.tuples(*[st.floats(-2000, 2000)] * 3),
    quaternion=st.booleans(),
)
def test_rounding_of_affines_is_not_refused(
    tmp_path: Path,
    orientation: tuple[tuple[int, ...], tuple[int, ...]],
    angle: float,
    place: tuple[float, ...],
    quaternion: bool,
) -> None:
    """The scan keeps its affine exactly; the mask in float32, as a matrix or (where it is a rotation) a quaternion."""
    shape, affine = (512, 2, 3), affine_of(*orientation, (0.7, 0.8, 2.5), angle)
    affine[:3, 3] = place
    scan = read_volume(write_nifti(tmp_path / "a.nii", np.zeros(shape, np.int16), affine))
    exact = replace(scan.geometry, affine=affine)
    mask = nib.Nifti1Image(np.zeros(shape, np.uint8), affine)
    if quaternion:
        mask.set_sform(None, 0)
        mask.set_qform(affine, 1)
    nib.save(mask, tmp_path / "m.nii")
    assert not refused_mask(tmp_path / "m.nii", exact)


def test_outputs_are_not_replaced_unasked(tmp_path: Path) -> None:
    volume = read_volume(write_nifti(tmp_path / "a.nii", np.zeros((3, 3, 3), np.int16)))
    write_mask(tmp_path / "o.nii.gz", volume.scan > 0, volume.geometry)
    with pytest.raises(UserError, match="already exists"):
        write_mask(tmp_path / "o.nii.gz", volume.scan > 0, volume.geometry)
    write_mask(tmp_path / "o.nii.gz", volume.scan == 0, volume.geometry, overwrite=True)
    assert np.asarray(load(tmp_path / "o.nii.gz").dataobj).all()
    with pytest.raises(UserError, match=r"\.nii"):
        write_mask(tmp_path / "o.txt", volume.scan > 0, volume.geometry)
    with pytest.raises(ValueError, match="shape"):
        write_mask(tmp_path / "p.nii", np.zeros((2, 2, 2), bool), volume.geometry)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.nii", "o.nii.gz"]


def test_real_ct_lies_right(tmp_path: Path) -> None:
    folder = DATA / "totalsegmentator-example-ct"
    if not folder.is_dir():
        pytest.skip("the shared example data is not on this machine")
    volume = read_volume(folder / "example_ct.nii.gz")
    left, right, liver = (read_mask(MaskSource(folder / "example_seg.nii.gz", (v,)), volume.geometry) for v in (1, 2, 4))
    assert volume.scan.dtype == np.int16
    assert volume.spacing == (3.0, 3.0, 3.0)
    assert np.nonzero(left)[2].mean() > np.nonzero(right)[2].mean()  # the patient's left is on the right of the picture
    assert np.nonzero(liver)[1].mean() < np.nonzero(left)[1].mean()  # the liver reaches further to the front
