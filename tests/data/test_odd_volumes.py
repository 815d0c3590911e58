"""Odd but legal files of scans: each is read for what it says, or refused; none is taken for something else without a word."""

from __future__ import annotations

import copy
import gzip
import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from pydicom import Dataset
from pydicom.uid import EnhancedCTImageStorage, MediaStorageDirectoryStorage, generate_uid

from coinseg.cli.main import main
from coinseg.config.schema import DataSettings
from coinseg.data.layouts.registry import read_layout
from coinseg.data.layouts.unlabelled import scans_in
from coinseg.data.readers import itk
from coinseg.data.readers.geometry import header_of
from coinseg.data.readers.paths import voxel_file
from coinseg.data.readers.volume import read_geometry, read_volume, write_mask
from coinseg.data.slices.case import load_case
from coinseg.data.slices.scale import not_hu
from coinseg.errors import UserError
from coinseg.export.nnunet import TrainingCase, Uncertain, write_nnunet
from coinseg.inference.table import measure
from coinseg.types import Case
from writers import (
    PLAIN,
    header,
    make_run,
    make_scan,
    save_dicom,
    scan_of,
    slices_of,
    write_itk,
    write_nifti,
    write_series,
    zipped,
)


def directory(path: Path) -> Path:
    """A DICOMDIR, without its records."""
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = MediaStorageDirectoryStorage, generate_uid()
    return save_dicom(ds, path)


def report(path: Path) -> Path:
    """A structured report."""
    ds = header(SOPClassUID="1.2.840.10008.5.1.4.1.1.88.11", Modality="SR")
    return save_dicom(ds, path)


@pytest.mark.parametrize("above", [directory, report])
def test_what_lies_above_the_series_of_a_cd_makes_them_no_single_scan(tmp_path: Path, above: Callable[[Path], Path]) -> None:
    for name in "ab":
        write_series(tmp_path / "cd" / "DICOM" / name, scan_of(), series=f"1.2.{ord(name)}", suffix="")
        write_series(tmp_path / "cd2" / name, scan_of(), series=f"1.3.{ord(name)}")
    above(tmp_path / "cd" / "DICOMDIR")
    above(tmp_path / "cd2" / "DICOMDIR")
    found = [case.image for case in scans_in(tmp_path / "cd", DataSettings()).cases]
    assert found == [tmp_path / "cd/DICOM/a", tmp_path / "cd/DICOM/b"]
    assert len(scans_in(tmp_path, DataSettings()).cases) == 4
    above(tmp_path / "alone" / "R1")  # nothing but this: reading it says so
    assert tmp_path / "alone" in [case.image for case in scans_in(tmp_path, DataSettings()).cases]


@pytest.mark.parametrize("above", [directory, report])
def test_a_table_finds_a_series_by_its_identifiers_behind_what_else_lies_there(
    tmp_path: Path, above: Callable[[Path], Path]
) -> None:  # fmt: skip
    for i in (1, 2):
        above(write_series(tmp_path / f"p{i}", scan_of(seed=i), series=f"1.2.{i}", StudyInstanceUID=f"1.9.{i}") / "A")
    for column, uids in (("StudyInstanceUID", ("1.9.1", "1.9.2")), ("SeriesInstanceUID", ("1.2.1", "1.2.2"))):
        (tmp_path / "labels.csv").write_text(f"{column},label,patient\n{uids[0]},0,a\n{uids[1]},1,b\n")
        assert [case.label for case in read_layout(tmp_path, DataSettings()).cases] == [0, 1]


def test_slices_of_several_studies_in_one_folder_are_said_to_be_looked_at_one_by_one(tmp_path: Path) -> None:
    for study in (1, 2):
        for i, ds in enumerate(slices_of(scan_of(), PLAIN, series=f"1.2.{study}.7", StudyInstanceUID=f"1.2.{study}")):
            save_dicom(ds, tmp_path / f"p{study}_{i}.dcm")
    found = scans_in(tmp_path, DataSettings())
    do = "put each series into a folder of its own for masks of whole scans"
    assert (len(found.cases), found.left) == (8, (f"8 DICOM slices of 2 series are segmented each by itself: {do}",))
    for path in tmp_path.glob("*_[123].dcm"):
        path.unlink()
    assert scans_in(tmp_path, DataSettings()).left == ()


def test_volumes_in_and_beside_the_folders_of_series_are_said(tmp_path: Path) -> None:
    """A converter leaves its NIfTI among the slices; no case is made of it, and somebody may miss it."""
    data, table = tmp_path / "data", "case,label,patient\np1,0,a\np2,1,b\n"
    for i in (1, 2):
        write_series(data / f"p{i}", scan_of(seed=i), series=f"1.2.{i}")
    for name in ("p1/T1.nii.gz", "p1/sub/T2.nii.gz", "p2/segmentations/liver.nii.gz", "p3/T1.nii.gz", "masks/p2.nii.gz"):
        make_scan(data / name)
    zipped(write_series(tmp_path / "x", scan_of()), data / "p2" / "x.zip")
    (data / "p2" / "notes.zip").write_bytes(b"PK\x05\x06" + bytes(18))
    said = "3 images or volumes are not segmented, they lie in the folder of a DICOM series: "
    assert f"{said}p1/T1.nii.gz, p1/sub/T2.nii.gz, p2/x.zip" in scans_in(data, DataSettings()).left
    (data / "labels.csv").write_text(table)
    (line,) = (line for line in read_layout(data, DataSettings()).problems if "not read, in or beside" in line)
    assert line.startswith("5 images or volumes not read, in or beside the DICOM series: p3/T1.nii.gz, p1/T1.nii.gz")


@pytest.mark.parametrize(("unit", "factor"), [("um", 0.001), ("mm", 1), ("cm", 10), ("?", 1)])
def test_the_unit_of_a_metaimage(tmp_path: Path, unit: str, factor: float) -> None:
    path = write_itk(tmp_path / "scan.mha", scan_of(), PLAIN)
    bare = read_geometry(path)
    path.write_bytes(path.read_bytes().replace(b"ElementSpacing", f"DistanceUnits = {unit}\nElementSpacing".encode(), 1))
    found = read_volume(path)
    assert found.geometry.voxel_ml == pytest.approx(bare.voxel_ml * factor**3)
    assert np.allclose(found.geometry.affine[:3], bare.affine[:3] * factor)
    assert (found.geometry.to_source(found.scan) == scan_of()).all()


def test_the_units_of_a_nrrd_without_a_space(tmp_path: Path) -> None:
    fields = 'type: short\ndimension: 3\nsizes: 6 5 4\nendian: little\nencoding: raw\nspacings: 1 2 3\nunits: "cm" "cm" "cm"\n\n'
    (path := tmp_path / "scan.nrrd").write_bytes(f"NRRD0004\n{fields}".encode() + scan_of().tobytes("F"))
    assert read_volume(path).spacing == pytest.approx((30, 20, 10))


@pytest.mark.parametrize("shared", [True, False])
def test_an_enhanced_ct_of_densities_is_not_in_hounsfield_units(tmp_path: Path, shared: bool) -> None:
    single = slices_of(scan_of(), PLAIN)
    ds = copy.deepcopy(single[0])
    for name in ("ImagePositionPatient", "RescaleSlope", "RescaleIntercept"):
        delattr(ds, name)
    ds.SOPClassUID, ds.NumberOfFrames = EnhancedCTImageStorage, len(single)

    def group(*parts: tuple[str, dict[str, object]]) -> Dataset:
        made = Dataset()
        for name, elements in parts:
            item = Dataset()
            for keyword, value in elements.items():
                setattr(item, keyword, value)
            setattr(made, name, [item])
        return made

    values = ("PixelValueTransformationSequence", {"RescaleSlope": 1, "RescaleIntercept": -1024, "RescaleType": "Z_EFF"})
    plane = ("PlaneOrientationSequence", {"ImageOrientationPatient": single[0].ImageOrientationPatient})
    measures = ("PixelMeasuresSequence", {"PixelSpacing": single[0].PixelSpacing})
    places = [("PlanePositionSequence", {"ImagePositionPatient": one.ImagePositionPatient}) for one in single]
    ds.SharedFunctionalGroupsSequence = [group(plane, measures, *([values] if shared else []))]
    ds.PerFrameFunctionalGroupsSequence = [group(place, *([] if shared else [values])) for place in places]
    ds.PixelData = b"".join(one.PixelData for one in single)
    volume = read_volume(save_dicom(ds, tmp_path / "scan" / "x.dcm"))
    assert not_hu(volume.scan, volume.modality) == "its DICOM Modality is CT with RescaleType Z_EFF"


def turned(angle: float) -> np.ndarray:
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    affine[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return affine


def test_channels_at_half_a_right_angle_are_not_turned_against_each_other(tmp_path: Path) -> None:
    """Rounding decides which axes are closest there, and both channels lie on one grid all the same."""
    voxels = np.random.default_rng(0).integers(0, 1000, (8, 8, 8)).astype(np.int16)
    first, second = (
        write_nifti(tmp_path / f"{name}.nii.gz", voxels, turned(np.pi / 4 + shift)) for name, shift in (("a", -1e-7), ("b", 1e-7))
    )
    loaded = load_case(Case("a", "a", first, volume=True, others=(second,)), channels=("t1", "t2"))
    assert (loaded.scan[..., 0] == loaded.scan[..., 1]).all()
    write_mask(tmp_path / "mask.nii.gz", loaded.scan[..., 0] > 500, read_geometry(first))
    out = tmp_path / "Dataset101_x"
    write_nnunet(out, [TrainingCase("a", first, tmp_path / "mask.nii.gz", others=(second,))], channels=("t1", "t2"))
    one, other = (np.asarray(nib.load(out / f"imagesTr/a_000{n}.nii.gz").dataobj) for n in "01")  # type: ignore[attr-defined]
    assert (one == other).all()


def test_a_difference_map_of_another_place_is_refused(tmp_path: Path) -> None:
    scan = write_nifti(tmp_path / "scan.nii.gz", scan_of(), PLAIN)
    write_mask(tmp_path / "mask.nii.gz", read_volume(scan).scan > 0, read_geometry(scan))
    shifted = PLAIN.copy()
    shifted[:3, 3] += 4
    other = write_nifti(tmp_path / "difference.nii.gz", scan_of().astype(np.float32), shifted)
    case = TrainingCase("a", scan, tmp_path / "mask.nii.gz", other)
    with pytest.raises(UserError, match=r"difference map .* lies up to 5\.71 voxels away from its scan"):
        write_nnunet(tmp_path / "Dataset101_x", [case], Uncertain(0.0, (1.0, 2.0)))


def test_a_sheared_grid_has_no_rotation_that_other_programs_would_take_for_it(tmp_path: Path) -> None:
    sheared = PLAIN.copy()
    sheared[0, 1] = 0.4
    grid = read_geometry(write_itk(tmp_path / "scan.mha", scan_of(), sheared))
    assert np.allclose(grid.affine, sheared)
    header_ = header_of(grid.header)
    assert (int(header_["sform_code"]), int(header_["qform_code"])) == (1, 0)
    write_mask(tmp_path / "mask.nii.gz", np.ones(grid.canonical_shape, bool), grid)
    with pytest.raises(RuntimeError, match="orthonormal"):  # better than a place that is wrong
        sitk.ReadImage(str(tmp_path / "mask.nii.gz"))
    straight = header_of(read_geometry(write_itk(tmp_path / "straight.mha", scan_of(), PLAIN)).header)
    assert int(straight["qform_code"]) == 1


def test_two_voxel_sizes_in_one_header_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Millilitres are those of the sform, and other programs may take pixdim."""
    scan = tmp_path / "scans" / "scan.nii.gz"
    make_scan(scan)
    assert read_geometry(scan).two_sizes == ""
    image = nib.Nifti1Image.from_filename(scan)
    for pixdim, said in (((1, 1, 1), False), ((0, 0, 0), False), ((0.7, 0.7, 2.46), False), ((0.7, 0.7, 1.2), True)):
        image.header["pixdim"][1:4] = pixdim
        write_as_it_is(image, scan)
        assert bool(read_geometry(scan).two_sizes) == said, pixdim
    words = "its header gives two voxel sizes, 0.7 x 0.7 x 1.2 mm (pixdim) and 0.7 x 0.7 x 2.46 mm (sform), which is taken"
    assert read_geometry(scan).two_sizes == words
    model, out = make_run(tmp_path / "model"), tmp_path / "out"
    assert main(["segment", "-i", str(scan), "-o", str(tmp_path / "mask.nii.gz"), "--model", str(model)]) == 0
    assert f"scan.nii.gz: the mask is doubtful: {words}" in capsys.readouterr().err
    assert main(["segment", "-i", str(scan.parent), "-o", str(out), "--model", str(model)]) == 0
    (row,) = json.loads((out / "index.json").read_text())["masks"]
    assert (row["doubtful"], words in row["doubts"]) == (True, True)
    voxels = np.asarray(nib.Nifti1Image.from_filename(out / "scan.nii.gz").dataobj).sum()
    assert row["volume_ml"] == pytest.approx(voxels * abs(np.linalg.det(image.affine[:3, :3])) / 1000, abs=1e-4)


def write_as_it_is(image: nib.Nifti1Image, path: Path) -> None:
    """Write an image with the header it has, which nibabel would mend."""
    image.header.set_data_offset(352)
    voxels = np.asarray(image.dataobj).astype(image.get_data_dtype())
    path.write_bytes(gzip.compress(image.header.binaryblock + bytes(4) + voxels.tobytes("F")))


def test_an_empty_mask_of_a_scan_of_one_value_is_doubtful(tmp_path: Path) -> None:
    """A failed export passed for a scan without a lesion."""
    (tmp_path / "in").mkdir()
    write_nifti(tmp_path / "in" / "x.nii.gz", np.full((40, 40, 3), 7, np.int16))
    model, out = make_run(tmp_path / "model", kind="percentile"), tmp_path / "out"
    assert main(["segment", "-i", str(tmp_path / "in"), "-o", str(out), "--model", str(model)]) == 0
    (row,) = json.loads((out / "index.json").read_text())["masks"]
    assert (row["pixels"], row["doubtful"], row["doubts"]) == (0, True, ["all of its values are 7"])


def test_the_volume_of_what_micro_ct_finds_is_not_nothing(tmp_path: Path) -> None:
    image = nib.Nifti1Image(scan_of(), np.diag([1e-5, 1e-5, 1e-5, 1]))
    image.header.set_xyzt_units("meter")
    nib.save(image, tmp_path / "scan.nii.gz")
    grid = read_geometry(tmp_path / "scan.nii.gz")
    found = measure(np.ones(grid.canonical_shape, bool), grid)
    assert (found["pixels"], found["volume_ml"]) == (120, 1.2e-7)
    assert measure(np.zeros(grid.canonical_shape, bool), grid)["volume_ml"] == 0


def test_a_file_that_may_not_be_read_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scan = write_itk(tmp_path / "scan.mhd", scan_of(), PLAIN)

    def locked(*ignored: object) -> None:
        raise PermissionError(13, "Permission denied", str(scan))

    monkeypatch.setattr(Path, "open", locked)
    assert voxel_file(scan) == scan
    with pytest.raises(UserError, match=r"scan\.mhd cannot be read .*Permission denied"):
        itk.open_itk(scan)
