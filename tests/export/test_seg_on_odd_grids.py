"""A DICOM SEG lies where its mask lies, whatever the plane of the series and the unit of the mask."""

from pathlib import Path

import highdicom
import nibabel as nib
import numpy as np
import pytest
from pydicom import Dataset

from coinseg.cli.main import main
from coinseg.data.readers.dicom import read_series
from coinseg.data.readers.volume import read_geometry, write_mask
from coinseg.errors import UserError
from coinseg.export.dicom_seg import frames_of, write_dicom_seg
from writers import ORIENTATIONS, TO_LPS, affine_of, scan_of, write_series


def places(inside: np.ndarray, affine: np.ndarray) -> list[list[float]]:
    """RAS+ millimetres of the voxels inside, sorted."""
    voxels = np.argwhere(inside)
    return sorted(((np.c_[voxels, np.ones(len(voxels))] @ affine.T)[:, :3]).round(2).tolist())


@pytest.mark.parametrize("order", ORIENTATIONS[::5])
def test_another_reader_finds_the_voxels_of_the_mask_and_the_line_counts_images(
    tmp_path: Path, order: tuple[tuple[int, ...], tuple[int, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    affine = affine_of(*order, (0.8, 1.3, 3.0))
    series = write_series(tmp_path / "series", scan_of((9, 8, 7)), affine, FrameOfReferenceUID="1.2.9")
    stored = np.random.default_rng(0).random((9, 8, 7)) > 0.8
    stored[:, :, 2] = False
    grid = read_geometry(series)
    write_mask(tmp_path / "mask.nii.gz", grid.to_canonical(stored), grid)
    out = tmp_path / "mask.dcm"
    assert main(["export-seg", str(tmp_path / "mask.nii.gz"), "--dicom", str(series), "-o", str(out)]) == 0
    assert f"{stored.sum()} voxels on 6 of 7 images" in capsys.readouterr().out
    found = highdicom.seg.segread(str(out)).get_volume(combine_segments=True)
    file = nib.Nifti1Image.from_filename(tmp_path / "mask.nii.gz")
    assert places(found.array > 0, TO_LPS @ found.affine) == places(np.asarray(file.dataobj) > 0, file.affine)


def test_a_mask_in_metres_finds_its_series(tmp_path: Path) -> None:
    series = write_series(tmp_path / "series", scan_of(), FrameOfReferenceUID="1.2.9")
    grid = read_geometry(series)
    inside = np.ones(grid.canonical_shape, bool)
    image = nib.Nifti1Image(grid.to_source(inside).astype(np.uint8), np.diag([0.001, 0.001, 0.001, 1]) @ grid.affine)
    image.header.set_xyzt_units("meter")
    nib.save(image, tmp_path / "mask.nii.gz")
    out = tmp_path / "mask.dcm"
    assert main(["export-seg", str(tmp_path / "mask.nii.gz"), "--dicom", str(series), "-o", str(out)]) == 0
    assert (highdicom.seg.segread(str(out)).get_volume(combine_segments=True).array > 0).all()


@pytest.mark.parametrize("order", ORIENTATIONS[::11])
@pytest.mark.parametrize(("step", "digits"), [(0.625, 1), (0.45, 1), (2.5, 0)])
def test_a_series_of_rounded_positions_carries_its_own_mask(
    tmp_path: Path, step: float, digits: int, order: tuple[tuple[int, ...], tuple[int, ...]]
) -> None:
    """Reading takes them for even; in the plane of an image a tenth of a pixel is too much all the same."""
    affine = affine_of(*order, (0.8, 1.3, step))

    def rounded(found: list[Dataset]) -> None:
        for ds in found:
            ds.ImagePositionPatient = [round(float(value) + 0.03, digits) for value in ds.ImagePositionPatient]

    series = write_series(tmp_path / "series", scan_of((9, 8, 20)), affine, edit=rounded, FrameOfReferenceUID="1.2.9")
    grid = read_geometry(series)
    inside = np.random.default_rng(0).random(grid.canonical_shape) > 0.8
    images = read_series(series)
    assert write_dicom_seg(inside, images, tmp_path / "mask.dcm", grid.canonical_to_mm) == 20
    assert frames_of(inside, grid.canonical_to_mm, images).sum() == inside.sum()
    for ds in images:
        ds.ImagePositionPatient = list(np.array(ds.ImagePositionPatient, float) + 0.2 * np.array(ds.ImageOrientationPatient[:3]))
    with pytest.raises(UserError, match="does not lie on voxels of the mask"):
        frames_of(inside, grid.canonical_to_mm, images)
