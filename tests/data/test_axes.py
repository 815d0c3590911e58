"""Slices along any axis and of a fixed size in millimetres: the view, the way back, and the wording of refusals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coinseg.config.schema import Axis, DataSettings, Settings
from coinseg.data.readers.axes import reordered, require_views, turned, turned_back
from coinseg.data.readers.volume import read_geometry, read_mask, write_mask, write_scan
from coinseg.data.slices.crop import Box, box_of, window_around
from coinseg.data.slices.store import prepare
from coinseg.errors import UserError
from coinseg.types import Case, Cohort, MaskSource
from conftest import tiny_settings
from models import bright_run
from writers import ORIENTATIONS, affine_of, write_as

AXES: list[Axis] = ["axial", "coronal", "sagittal"]
DATA = DataSettings(size=8, spacing=1.0)
SHAPE = (12, 10, 9)


# --- axes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("axis", "slices", "rows", "columns"), [("axial", "S", "P", "L"), ("coronal", "P", "I", "L"), ("sagittal", "L", "I", "P")]
)
def test_slices_rows_and_columns_run_where_a_radiologist_has_them(axis: Axis, slices: str, rows: str, columns: str) -> None:
    s, p, left = np.indices((3, 4, 5))  # canonical: to superior, posterior and the patient's left
    towards = {"S": turned(s, axis), "I": turned(-s, axis), "P": turned(p, axis), "L": turned(left, axis)}
    for place, letter in enumerate((slices, rows, columns)):
        steps = [np.diff(towards[letter], axis=i) for i in range(3)]
        assert (steps[place] == 1).all()
        assert not any(step.any() for i, step in enumerate(steps) if i != place)


@pytest.mark.parametrize("axis", AXES)
def test_turning_back_is_the_inverse_and_both_are_views(axis: Axis) -> None:
    canonical = np.arange(60).reshape(3, 4, 5)
    view = turned(canonical, axis)
    assert view.shape == reordered((3, 4, 5), axis)
    assert np.array_equal(turned_back(view, axis), canonical)
    view[0, 0, 0] = -1
    turned_back(view, axis)[1, 1, 1] = -2
    assert sorted(canonical.ravel())[:2] == [-2, -1]


def cohort_of(*cases: Case) -> Cohort:
    return Cohort("csv", cases, "the table")


@pytest.mark.parametrize(
    ("case", "changes", "text"),
    [
        (Case("a", "a", Path("a.png"), volume=False), {"axis": "coronal"}, "data.axis is coronal and the data are plain images"),
        (Case("a", "a", Path("a.png"), volume=False), {"spacing": 1.0}, "data.spacing is 1 mm and the data are plain images"),
        (Case("a", "a", Path("a.nii"), volume=True), {"spacing": -1.0}, "data.spacing is -1"),
        (Case("a", "a", Path("a.nii"), volume=True), {"spacing": float("nan")}, "data.spacing is nan"),
        (
            Case("a", "a", Path("a.nii"), volume=True, slice_labels={3: 1}),
            {"axis": "sagittal"},
            "data.axis is sagittal and a has labels by slice number",
        ),
    ],
)
def test_what_the_data_do_not_have_is_refused_in_one_line(case: Case, changes: dict[str, Any], text: str) -> None:
    with pytest.raises(UserError, match=text) as caught:
        require_views(cohort_of(case), replace(DataSettings(), **changes))
    assert "\n" not in str(caught.value)
    require_views(cohort_of(case), DataSettings())


# --- millimetres ------------------------------------------------------------------------------------------------------


def test_window_by_hand() -> None:
    # 8 mm are 4 rows of 2 mm and 16 columns of 0.5 mm, around the centre of 20 x 30 pixels.
    assert window_around(Box(0, 0, 20, 30), DATA, (2.0, 0.5)) == Box(8, 7, 4, 16)
    # Larger than the slice: as much beyond one side as beyond the other.
    assert window_around(Box(0, 0, 2, 10), DATA, (2.0, 0.5)) == Box(-1, -3, 4, 16)


def test_voxels_become_square() -> None:
    # A square of 24 mm in a coronal slice: 8 rows of 3 mm, 24 columns of 1 mm.
    native = np.zeros((20, 40), np.float32)
    native[6:14, 8:32] = 1
    box = window_around(Box(0, 0, 20, 40), replace(DATA, size=40), (3.0, 1.0))
    found = box.resize(native, 40) >= 0.5
    assert (found.any(1).sum(), found.any(0).sum()) == (24, 24)
    assert np.array_equal(box.paste_mask(found, native.shape), native > 0)


def test_beyond_the_slice_there_is_the_fill() -> None:
    found = Box(-2, -3, 8, 8).resize(np.full((4, 4), 50.0), 8, fill=-1024)
    inside = np.zeros((8, 8), bool)
    inside[2:6, 3:7] = True
    assert (found[inside] == 50).all()
    assert (found[~inside] == -1024).all()


def test_where_nothing_is_resampled_crop_and_paste_are_exact() -> None:
    native = np.random.default_rng(0).normal(size=(11, 14)).astype(np.float32)
    box = window_around(Box(0, 0, 11, 14), replace(DATA, size=8, spacing=0.7), (0.7, 0.7))
    assert (box.height, box.width) == (8, 8)
    rows, columns = slice(int(box.top), int(box.top) + 8), slice(int(box.left), int(box.left) + 8)
    assert np.array_equal(box.resize(native, 8), native[rows, columns])
    back = box.paste(native[rows, columns], native.shape)
    assert np.array_equal(back[rows, columns], native[rows, columns])
    back[rows, columns] = 0
    assert not back.any()


@settings(max_examples=60, deadline=None)
@given(
    top=st.floats(-30, 30), left=st.floats(-30, 30), height=st.floats(0.5, 60), width=st.floats(0.5, 60), size=st.integers(1, 24)
)
def test_any_box_fills_the_pixels_whose_centre_it_holds(top: float, left: float, height: float, width: float, size: int) -> None:
    box, shape = Box(top, left, height, width), (13, 17)
    assert box.resize(np.ones(shape), size, fill=1.0) == pytest.approx(1)
    y, x = (np.arange(n) + 0.5 for n in shape)
    inside = ((y >= top) & (y < top + height))[:, None] & ((x >= left) & (x < left + width))[None]
    assert np.array_equal(box.paste_mask(np.ones((size, size)), shape), inside)


def organ(rows: slice, columns: slice) -> np.ndarray:
    mask = np.zeros((3, 40, 40), bool)
    mask[1, rows, columns] = True
    return mask


def test_a_window_lies_around_the_organ_and_never_cuts_it_off() -> None:
    corner, data = organ(slice(0, 6), slice(34, 40)), replace(DATA, roi="organ")
    assert box_of(corner, (40, 40), data, (1.0, 1.0)) == Box(-1, 33, 8, 8)
    with pytest.raises(
        UserError, match=r"the organ is 9 x 6 mm .* would be cut off by slices that show 8 mm; required: .*; raise"
    ):
        box_of(organ(slice(0, 9), slice(34, 40)), (40, 40), data, (1.0, 1.0))
    with pytest.raises(UserError, match=r"8 mm around their centre.*set data.roi to organ"):
        box_of(corner, (40, 40), DATA, (1.0, 1.0))


def test_absurd_voxel_sizes_are_refused() -> None:
    with pytest.raises(UserError, match=r"pixels of 1e-06 x 1e-06 mm.*check the voxel size"):
        window_around(Box(0, 0, 9, 9), DATA, (1e-6, 1e-6))


# --- there and back -----------------------------------------------------------------------------------------------------


def points(path: Path) -> set[tuple[float, ...]]:
    """Where the marked voxels of a file lie, in LPS+ mm, as other programs read it."""
    if ".nii" in path.name:
        image: Any = nib.load(path)
        found = nib.affines.apply_affine(image.affine, np.argwhere(np.asarray(image.dataobj))) * (-1, -1, 1)
    else:
        image = sitk.ReadImage(str(path))
        indices = np.argwhere(sitk.GetArrayFromImage(image))[:, ::-1]
        found = np.array([image.TransformIndexToPhysicalPoint(index.tolist()) for index in indices])
    return {tuple(np.round(place, 1) + 0.0) for place in found}


RUN = bright_run()
there = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
views = {
    "orientation": st.sampled_from(ORIENTATIONS),
    "angle": st.floats(-0.3, 0.3),
    "axis": st.sampled_from(AXES),
    "source": st.sampled_from([".nii.gz", ".nrrd", ".mha", ".mhd", "dicom"]),
    "target": st.sampled_from([".nii.gz", ".nrrd", ".mha"]),
    "corner": st.tuples(*[st.integers(1, 3)] * 3),  # not at the border, where the air beyond is mixed in
}


def segmented(folder: Path, source: str, target: str, affine: np.ndarray, corner: tuple[int, ...], data: DataSettings) -> Any:
    """Write a scan with a bright block of 5 x 5 x 5 voxels and segment it: the scan, its block, the mask's file, the mask."""
    hu = np.zeros(SHAPE, np.int16)
    hu[tuple(slice(c, c + 5) for c in corner)] = 1000
    folder = folder / str(len(list(folder.iterdir())))
    folder.mkdir()
    scan = write_as(folder, source, hu, affine)
    found = RUN.with_settings(replace(RUN.settings, data=data)).segment(scan, maps=True)
    out = folder / f"mask{target}"
    write_mask(out, found.mask, read_geometry(scan))
    block = nib.affines.apply_affine(affine, np.argwhere(hu)) * (-1, -1, 1)
    return scan, {tuple(np.round(place, 1) + 0.0) for place in block}, out, found


@there
@given(**views, side=st.floats(0.5, 2))
def test_where_nothing_is_resampled_every_voxel_comes_back(
    tmp_path: Path, orientation: Any, angle: float, axis: Axis, source: str, target: str, corner: tuple[int, ...], side: float
) -> None:
    side = round(side, 2)
    data = DataSettings(size=16, spacing=side, axis=axis, intensity="hu")
    affine = affine_of(*orientation, (side, side, side), angle)
    scan, block, out, found = segmented(tmp_path, source, target, affine, corner, data)
    marked = points(out)
    assert len(marked) == 125
    # Rounding to 0.1 mm may go either way.
    far = [min(max(abs(a - b) for a, b in zip(one, other, strict=True)) for other in block) for one in list(marked)[::9]]
    assert max(far) <= 0.11
    assert np.asarray(found.maps.counterfactual).max() == 0
    assert np.array_equal(np.asarray(found.maps.difference), found.mask * np.float32(1000))
    assert np.array_equal(np.asarray(found.pixel_confidence.percent), found.mask * np.uint8(100))
    geometry = read_geometry(scan)
    write_scan(out.with_name("cf.nii.gz"), found.maps.difference, geometry)
    assert points(out.with_name("cf.nii.gz")) == points(out) or target != ".nii.gz"


@there
@given(**views, spacing=st.tuples(*[st.floats(1, 2.5)] * 3), fine=st.floats(0.5, 1))
def test_resampled_masks_overlap_what_they_mark(
    tmp_path: Path,
    orientation: Any,
    angle: float,
    axis: Axis,
    source: str,
    target: str,
    corner: tuple[int, ...],
    spacing: tuple[float, float, float],
    fine: float,
) -> None:
    """At a spacing no coarser than the voxels all but the corners comes back: of 5 x 5 pixels at least 21."""
    data = DataSettings(size=64, spacing=fine, axis=axis, intensity="hu")
    scan, _, out, _ = segmented(tmp_path, source, target, affine_of(*orientation, spacing, angle), corner, data)
    geometry = read_geometry(scan)
    one, other = read_mask(MaskSource(out), geometry), read_mask(MaskSource(scan, (1000,)), geometry)
    assert (one & other).sum() >= 0.8 * (one | other).sum()


# --- the store ------------------------------------------------------------------------------------------------------------


def make_cohort(root: Path) -> Cohort:
    """Four scans of 24 x 20 x 10 voxels of 1 x 1 x 3 mm; every second has a lesion in coronal slices 4 to 6."""
    affine, cases = np.diag([-1.0, -1.0, 3.0, 1.0]), []
    for i in range(4):
        rng = np.random.default_rng(i)
        hu, lesion = rng.normal(40, 10, (24, 20, 10)).astype(np.int16), np.zeros((24, 20, 10), np.uint8)
        hu[0, 0, 0] = -1000  # air
        if i % 2:
            lesion[3:9, 4:7, 2:5] = 1
        for name, array in (("scan", hu), ("lesion", lesion)):
            nib.save(nib.Nifti1Image(array, affine), root / f"{name}{i}.nii.gz")
        found = (MaskSource(root / f"lesion{i}.nii.gz"),)
        cases.append(Case(f"c{i}", f"p{i}", root / f"scan{i}.nii.gz", volume=True, lesion=found))
    return Cohort("csv", tuple(cases), "lesion masks")


def store_settings(**changes: Any) -> Settings:
    base = tiny_settings()
    return replace(base, data=replace(base.data, validation=0.5, **changes))


def test_a_store_of_coronal_slices_in_millimetres(tmp_path: Path) -> None:
    cohort = make_cohort(tmp_path)
    store = prepare(cohort, store_settings(axis="coronal", spacing=1.0, size=32), tmp_path / "store")
    assert len(store) == 4 * 20
    abnormal = store.index["label"] == 1
    assert set(store.index["slice"][abnormal]) == {4, 5, 6}
    assert set(store.index["height"]) == {10.667}
    # 3 voxels of 3 mm are 9 rows, 6 of 1 mm 6 columns.
    truth = store.truth()[np.flatnonzero(abnormal)[0]]
    assert (truth.any(1).sum(), truth.any(0).sum()) == (9, 6)
    # Of 32 mm the scan has 30 (upright, from row 0) x 24, and is filled with air.
    assert (store.images[0, 0, -1] == -1024).all()
    assert ((store.images[0, 0, :30] != -1024).sum(1) == 24).all()
    assert store.meta["problems"] == []


def test_what_the_window_does_not_show_is_said(tmp_path: Path) -> None:
    store = prepare(make_cohort(tmp_path), store_settings(axis="coronal", spacing=0.5, size=32), tmp_path / "store")
    said = "; ".join(store.meta["problems"])
    assert "4 scans are larger than the 16 mm a slice shows" in said
    assert "in 6 slices the lesion reaches beyond the 16 mm a slice shows" in said


def test_spacing_zero_is_the_plain_resize(tmp_path: Path) -> None:
    store = prepare(make_cohort(tmp_path), store_settings(size=24), tmp_path / "store")
    assert {name: set(store.index[name]) for name in ("top", "left", "height", "width")} == {
        "top": {0}, "left": {0}, "height": {20}, "width": {24},
    }  # fmt: skip


def test_a_run_on_another_axis_refuses_images(tmp_path: Path) -> None:
    run = bright_run()
    run = replace(run, preparation=replace(run.preparation, kind="percentile"))
    run = run.with_settings(replace(run.settings, data=DataSettings(axis="coronal")))
    with pytest.raises(UserError, match=r"data.axis is coronal and .*a.png is a plain image"):
        run.segment(tmp_path / "a.png")
