"""Any scan in: DICOM series, NRRD and MetaImage give the voxels and the grid NIfTI gives, and every refusal is one line."""

from __future__ import annotations

import io
import itertools
import logging
import struct
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom.data
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import Dataset, Sequence, dcmread
from pydicom.uid import (
    UID,
    EnhancedCTImageStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    RLELossless,
)  # fmt: skip
from pydicom.valuerep import DSfloat

from coinseg.config.schema import DataSettings, Settings
from coinseg.data.layouts.registry import read_layout
from coinseg.data.layouts.unlabelled import scans_in
from coinseg.data.readers import paths as scan_files
from coinseg.data.readers.volume import peek_shape, read_geometry, read_mask, read_volume, write_mask
from coinseg.data.slices.case import load_case
from coinseg.data.slices.store import store_key
from coinseg.errors import UserError
from coinseg.pipeline.request import Request, mask_name
from coinseg.pipeline.run import Workspace, train
from coinseg.pipeline.segment import segment_path
from coinseg.runtime.files import read_json
from coinseg.runtime.records import write_record
from coinseg.types import MaskSource
from conftest import tiny_settings
from writers import (
    ORIENTATIONS,
    PLAIN,
    affine_of,
    header,
    numbers,
    save_dicom,
    scan_of,
    slices_of,
    write_as,
    write_itk,
    write_nifti,
    write_series,
    zipped,
)

SECRETS = ("ANNA", "SECRETNAME", "998877", "19620304", "20130405")


def refusal(path: Path) -> str:
    """The one line a scan is refused with; nothing of the patient is in it."""
    with pytest.raises(UserError) as caught:
        read_volume(path)
    message = str(caught.value)
    assert "\n" not in message
    assert not any(secret in message for secret in SECRETS), message
    assert caught.value.required
    assert caught.value.do
    return message


fresh_folder = itertools.count()


def fresh(root: Path) -> Path:
    folder = root / f"example{next(fresh_folder)}"
    folder.mkdir()
    return folder


# --- The same voxels on the same grid -----------------------------------------------------------------------------


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    orientation=st.sampled_from(ORIENTATIONS),
    spacing=st.tuples(*[st.floats(0.3, 5)] * 3),
    angle=st.floats(-0.3, 0.3),
    shape=st.tuples(*[st.integers(2, 6)] * 3),
    seed=st.integers(0, 99),
)
def test_every_format_gives_what_nifti_gives(
    tmp_path: Path,
    orientation: tuple[tuple[int, ...], tuple[int, ...]],
    spacing: tuple[float, ...],
    angle: float,
    shape: tuple[int, int, int],
    seed: int,
) -> None:
    """NIfTI -> format -> read: voxels exactly, affine within 1e-4 mm; a mask of each format fits the scan of each other."""
    folder, array, affine = fresh(tmp_path), scan_of(shape, seed), affine_of(*orientation, spacing, angle)
    voxel = tuple(n // 2 for n in shape)
    array[voxel] = 3071
    written = [write_as(folder, suffix, array, affine) for suffix in (".nii.gz", ".nrrd", ".mha", ".mhd", "dicom")]
    first = read_volume(written[0])
    for path in written[1:]:
        volume = read_volume(path)
        assert volume.scan.dtype == np.int16
        assert np.array_equal(volume.scan, first.scan)
        assert np.allclose(volume.geometry.canonical_affine, first.geometry.canonical_affine, atol=1e-4)
        assert volume.spacing == pytest.approx(first.spacing, abs=1e-4)
        assert peek_shape(path) == first.scan.shape
        for suffix in (".nii.gz", ".nrrd", ".mha"):
            out = folder / f"mask-{path.suffix[1:] or 'dicom'}{suffix}"
            write_mask(out, volume.scan == 3071, volume.geometry)
            for other in (first, volume):
                assert np.array_equal(read_mask(MaskSource(out), other.geometry), first.scan == 3071)
        mask = nib.load(folder / f"mask-{path.suffix[1:] or 'dicom'}.nii.gz")
        world = nib.affines.apply_affine(mask.affine, np.argwhere(np.asarray(mask.dataobj)))
        expected = nib.affines.apply_affine(affine, np.argwhere(array == 3071))
        assert np.allclose(np.sort(world, 0), np.sort(expected, 0), atol=1e-3)


def test_a_mask_is_written_on_the_grid_of_an_itk_file_voxel_by_voxel(tmp_path: Path) -> None:
    array, affine = scan_of(), affine_of((1, 2, 0), (1, -1, 1), (0.7, 1.5, 3.0), 0.2)
    volume = read_volume(write_itk(tmp_path / "a.nrrd", array, affine))
    for name in ("m.nrrd", "m.mha"):
        write_mask(tmp_path / name, volume.scan > 500, volume.geometry)
        written, source = sitk.ReadImage(str(tmp_path / name)), sitk.ReadImage(str(tmp_path / "a.nrrd"))
        assert np.array_equal(sitk.GetArrayFromImage(written), sitk.GetArrayFromImage(source) > 500)
        assert np.allclose(written.GetDirection(), source.GetDirection())
        assert np.allclose(written.GetOrigin(), source.GetOrigin())
        assert np.allclose(written.GetSpacing(), source.GetSpacing())
    with pytest.raises(UserError, match=r"already exists"):
        write_mask(tmp_path / "m.mha", volume.scan > 500, volume.geometry)
    with pytest.raises(UserError, match=r"no name of a volume; required: a name ending in \.nii\.gz, \.nii, \.nrrd or \.mha"):
        write_mask(tmp_path / "m.mhd", volume.scan > 500, volume.geometry)


def test_a_mask_of_a_nifti_in_another_unit_is_written_in_millimetres(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.zeros((3, 4, 5), np.int16), np.diag([0.001, 0.002, 0.003, 1]))
    image.header.set_xyzt_units("meter")
    nib.save(image, tmp_path / "a.nii")
    volume = read_volume(tmp_path / "a.nii")
    write_mask(tmp_path / "m.mha", volume.scan == 0, volume.geometry)
    assert sitk.ReadImage(str(tmp_path / "m.mha")).GetSpacing() == pytest.approx((1, 2, 3))


@pytest.mark.parametrize("suffix", [".nrrd", ".mha", ".mhd"])
@pytest.mark.parametrize(
    ("kind", "read"),
    [(np.uint8, np.int16), (np.int32, np.int16), (np.uint16, np.int16), (np.float32, np.float32), (np.float64, np.float32)],
)
def test_types_of_itk_files(tmp_path: Path, suffix: str, kind: type, read: type) -> None:
    array = (np.arange(60).reshape(3, 4, 5) * (1.5 if np.issubdtype(kind, np.floating) else 1)).astype(kind)
    path, same = write_itk(tmp_path / f"a{suffix}", array, PLAIN), write_nifti(tmp_path / "a.nii", array, PLAIN)
    assert read_volume(path).scan.dtype == read
    assert np.array_equal(read_volume(path).scan, read_volume(same).scan)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("suffix", ["", ".dcm", ".IMA", ".7"])
def test_names_and_signs_do_not_matter(tmp_path: Path, signed: bool, suffix: str) -> None:
    array = scan_of()
    folder = write_series(tmp_path / "a", array, signed=signed, suffix=suffix)
    (folder / "notes.txt").write_text("x")
    (folder / ".hidden").write_bytes(b"x")
    expected = read_volume(write_nifti(tmp_path / "a.nii", array, PLAIN)).scan
    assert np.array_equal(read_volume(folder).scan, expected)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, RLELossless, JPEG2000Lossless])
@pytest.mark.parametrize("signed", [False, True])
def test_transfer_syntaxes_give_the_same(tmp_path: Path, syntax: UID, signed: bool) -> None:
    array = scan_of((70, 66, 3))
    plain, other = (
        write_series(tmp_path / "a", array, signed=signed),
        write_series(tmp_path / "b", array, PLAIN, syntax, signed=signed),
    )
    assert dcmread(next(other.iterdir())).file_meta.TransferSyntaxUID == syntax
    assert np.array_equal(read_volume(other).scan, read_volume(plain).scan)


def test_jpeg_lossless_gives_the_same(tmp_path: Path) -> None:
    """The most frequent compression of CT archives; GDCM encodes it here."""
    gdcm = pytest.importorskip("gdcm")
    array = scan_of((70, 66, 3))
    plain = write_series(tmp_path / "a", array)
    (tmp_path / "b").mkdir()
    for path in plain.iterdir():
        reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
        reader.SetFileName(str(path))
        assert reader.Read()
        change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer.SetFileName(str(tmp_path / "b" / path.name))
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        assert writer.Write()
    assert dcmread(next((tmp_path / "b").iterdir())).file_meta.TransferSyntaxUID == JPEGLosslessSV1
    assert np.array_equal(read_volume(tmp_path / "b").scan, read_volume(plain).scan)


def test_each_slice_has_its_own_scale(tmp_path: Path) -> None:
    array = np.zeros((4, 3, 2), np.int16)

    def scale(found: list[Dataset]) -> None:
        found[0].RescaleSlope, found[1].RescaleSlope, found[1].RescaleIntercept = 2, DSfloat(0.5), 1

    scan = read_volume(write_series(tmp_path / "a", array, edit=scale)).scan  # 1024 as stored
    assert scan.dtype == np.int16
    assert sorted(np.unique(scan).tolist()) == [513, 1024]

    def uneven(found: list[Dataset]) -> None:
        found[1].RescaleSlope = DSfloat(0.2505)

    scan = read_volume(write_series(tmp_path / "b", array, edit=uneven)).scan
    assert scan.dtype == np.float32
    assert np.unique(scan).tolist() == pytest.approx([-767.488, 0.0])


def test_one_slice_and_one_file(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "a", scan_of((6, 5, 1)))
    only = next(folder.iterdir())
    bare = tmp_path / "nameless"
    bare.write_bytes(only.read_bytes())
    for path in (folder, only, bare):
        volume = read_volume(path)
        assert volume.scan.shape == (1, 5, 6)
        assert volume.spacing == pytest.approx((2.5, 0.7, 0.8))


def enhanced(path: Path, array: np.ndarray, affine: np.ndarray) -> Path:
    """One multi-frame object, its frames in mixed order."""
    single = slices_of(array, affine)
    ds = header(SOPClassUID=EnhancedCTImageStorage)
    ds.Columns, ds.Rows, ds.NumberOfFrames = *array.shape[:2], array.shape[2]
    shared, plane, measures = Dataset(), Dataset(), Dataset()
    plane.ImageOrientationPatient = single[0].ImageOrientationPatient
    measures.PixelSpacing, measures.SliceThickness = single[0].PixelSpacing, single[0].SliceThickness
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = Sequence([plane]), Sequence([measures])
    frames, order = [], np.random.default_rng(3).permutation(len(single))
    for i in order:
        frame, place, value = Dataset(), Dataset(), Dataset()
        place.ImagePositionPatient = single[i].ImagePositionPatient
        value.RescaleSlope, value.RescaleIntercept = 1, -1024
        frame.PlanePositionSequence, frame.PixelValueTransformationSequence = Sequence([place]), Sequence([value])
        frames.append(frame)
    ds.SharedFunctionalGroupsSequence, ds.PerFrameFunctionalGroupsSequence = Sequence([shared]), Sequence(frames)
    ds.PixelData = b"".join(single[i].PixelData for i in order)
    return save_dicom(ds, path)


def test_an_enhanced_ct_is_read(tmp_path: Path) -> None:
    array, affine = scan_of(), affine_of((2, 0, 1), (-1, 1, 1), (0.7, 0.8, 2.0), 0.1)
    expected = read_volume(write_series(tmp_path / "a", array, affine))
    volume = read_volume(enhanced(tmp_path / "b" / "one.dcm", array, affine))
    assert np.array_equal(volume.scan, expected.scan)
    assert np.allclose(volume.geometry.affine, expected.geometry.affine)


# --- Which series -------------------------------------------------------------------------------------------------


def test_series_are_listed_and_chosen(tmp_path: Path) -> None:
    folder, thin, thick = tmp_path / "study", scan_of((6, 5, 4)), scan_of((6, 5, 2), 1)
    write_series(folder / "x", thin, number=2, series="1.1", SeriesDescription="Thin ANNA 20130405 b30")
    write_series(folder / "y", thick, number=5, series="1.2", SeriesDescription="Thick")
    line = refusal(folder)
    listed = "2 (CT, 4 slices of 5 x 6); 5 (CT, 2 slices of 5 x 6)"
    assert f"{folder} holds 2 DICOM series: {listed}; required: one series" in line
    assert line.endswith(f"choose one: {folder}#2")
    assert read_volume(folder.with_name("study#2")).scan.shape[0] == 4
    assert read_volume(folder.with_name("study#5")).scan.shape[0] == 2
    assert "holds no series 7 (there are: 2 (CT" in refusal(folder.with_name("study#7"))
    archive = zipped(folder, tmp_path / "study.zip")
    assert read_volume(archive.with_name("study.zip#5")).scan.shape[0] == 2


def test_series_with_one_number_have_different_keys(tmp_path: Path) -> None:
    folder = tmp_path / "study"
    for i in range(2):
        write_series(folder / str(i), scan_of((6, 5, 2 + i)), number=2, series=f"1.2.20130405.{i}")
    line = refusal(folder)
    key = line.rpartition("#")[2]
    assert key.startswith("2-")
    assert read_volume(folder.with_name(f"study#{key}")).scan.shape[0] in (2, 3)


def test_localizers_captures_and_reports_beside_a_scan_are_passed_over(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "a", scan_of())
    write_series(folder / "scout", scan_of((6, 5, 1)), number=1, series="1.9", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    write_series(folder / "dose", scan_of((6, 5, 1)), number=9, series="1.8", SOPClassUID="1.2.840.10008.5.1.4.1.1.7")
    report = header(series="1.7", SOPClassUID="1.2.840.10008.5.1.4.1.1.88.67", Modality="SR")
    save_dicom(report, folder / "report")
    index = Dataset()
    index.SOPClassUID, index.SOPInstanceUID, index.DirectoryRecordSequence = "1.2.840.10008.1.3.10", "1.2", Sequence([])
    save_dicom(index, folder / "DICOMDIR")
    del index.SOPClassUID
    index.save_as(folder / "DICOMDIR")
    save_dicom(header(series="1.6", SOPClassUID="1.2.840.10008.5.1.4.1.1.481.3", Modality="RTSTRUCT"), folder / "structures")
    write_series(folder / "rt", scan_of((6, 5, 2)), number=8, series="1.5", Modality="RTDOSE")
    assert read_volume(folder).scan.shape == (4, 5, 6)
    assert "holds only a localizer" in refusal(tmp_path / "a#1")
    assert "holds only secondary captures" in refusal(tmp_path / "a#9")
    assert "holds only doses, segmentations or other derived objects" in refusal(tmp_path / "a#8")


# --- What is refused ----------------------------------------------------------------------------------------------


def shear(found: list[Dataset]) -> None:
    for z, ds in enumerate(found):
        x, y, height = (float(value) for value in ds.ImagePositionPatient)
        ds.ImagePositionPatient = numbers((x, y + z * 0.6, height))


def turn_one(found: list[Dataset]) -> None:
    found[1].ImageOrientationPatient = [0, 1, 0, 0, 0, -1]


def twice(found: list[Dataset]) -> None:
    found[2].ImagePositionPatient = found[1].ImagePositionPatient


def uneven(found: list[Dataset]) -> None:
    x, y, z = (float(value) for value in found[1].ImagePositionPatient)
    found[1].ImagePositionPatient = numbers((x, y, z + 0.9))


def colour(found: list[Dataset]) -> None:
    found[0].SamplesPerPixel, found[0].PhotometricInterpretation, found[0].PlanarConfiguration = 3, "RGB", 0


def smaller(found: list[Dataset]) -> None:
    found[1].Rows = 4
    found[1].PixelData = found[1].PixelData[: 4 * 6 * 2]


def coarser(found: list[Dataset]) -> None:
    found[1].PixelSpacing = [1, 1]


def cut_off(found: list[Dataset]) -> None:
    found[1].PixelData = found[1].PixelData[:20]


def frames(found: list[Dataset]) -> None:
    found[:] = found[:1]
    found[0].NumberOfFrames, found[0].PixelData = 2, found[0].PixelData * 2


def without(name: str) -> Callable[[list[Dataset]], object]:
    return lambda found: [delattr(ds, name) for ds in found]


def given_as(name: str, value: Any) -> Callable[[list[Dataset]], object]:
    return lambda found: [setattr(ds, name, value) for ds in found]


@pytest.mark.parametrize(
    ("edit", "text"),
    [
        (lambda s: s.pop(2), "lacks about 1 slices between 13.5 and 18.5 mm along its stack (the usual distance is 2.50 mm)"),
        (twice, "has 1 slices at the position of another one; required: one slice at each position"),
        (uneven, "has slices 1.60 to 3.40 mm apart; required: evenly spaced slices"),
        (shear, "is a tilted stack: its slices lean by 13.5 degrees and shift by 3.0 mm"),
        (turn_one, "has slices of several orientations (1 of 6 differ from the first)"),
        (given_as("ImageType", ["ORIGINAL", "PRIMARY", "LOCALIZER"]), "holds only a localizer"),
        (given_as("SOPClassUID", "1.2.840.10008.5.1.4.1.1.7"), "holds only secondary captures"),
        (colour, "is a colour image; required: grey slices"),
        (smaller, "x 6 and of"),
        (coarser, "has slices of several pixel spacings"),
        (without("ImagePositionPatient"), "has no ImagePositionPatient in IM"),
        (without("ImageOrientationPatient"), "has no ImageOrientationPatient in IM"),
        (without("PixelSpacing"), "has no PixelSpacing in IM"),
        (without("RescaleIntercept"), "has no RescaleIntercept in IM"),
        (given_as("PixelSpacing", [0, 1]), "has impossible geometry"),
        (frames, "a multi-frame object that does not say where its frames lie"),
        (cut_off, "ValueError while its pixels were decoded); required: an intact DICOM file"),
        (without("PixelData"), "while its pixels were decoded"),
        (without("Rows"), "its tags are cut off or it is no DICOM"),
        (given_as("ImageType", ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]), "holds only mosaics, all slices of a volume side"),
        (given_as("RescaleSlope", 0), "has RescaleSlope 0 and RescaleIntercept -1.02e+03; required"),
        (given_as("RescaleSlope", -1), "required: a slope of 0.001 to 100 and an intercept within 32768 of 0"),
        (given_as("RescaleSlope", DSfloat("1e30")), "has RescaleSlope 1e+30"),
        (given_as("RescaleSlope", DSfloat("1e-9")), "has RescaleSlope 1e-09"),
        (given_as("RescaleIntercept", DSfloat("1e300")), "RescaleIntercept 1e+300"),
        (given_as("Columns", 65535), "while its pixels were decoded"),
    ],
)  # fmt: skip
def test_unusable_series_are_refused_in_one_line(
    tmp_path: Path,
    edit: Callable[[list[Dataset]], object],
    text: str,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    folder = write_series(tmp_path / "a", scan_of((6, 5, 6)), edit=edit)
    caplog.clear()
    line = refusal(folder)
    assert text in line
    assert str(folder) in line
    assert capfd.readouterr().err == ""
    assert not any(secret in caplog.text for secret in SECRETS)


@pytest.mark.parametrize(
    ("name", "value", "written"),
    [
        ("RescaleSlope", DSfloat("1.5"), (b"1.5 ", b"1,5 ")), ("RescaleSlope", DSfloat("1.5"), (b"1.5 ", b"1\\5 ")),
        ("RescaleIntercept", DSfloat("-9.5"), (b"-9.5", b"-9,5")), ("PixelSpacing", [0.5, 0.5], (b"0.5\\0.5", b"0,5\\0,5")),
    ],
)  # fmt: skip
def test_tags_with_a_comma_or_with_several_values_are_no_numbers(
    tmp_path: Path, name: str, value: object, written: tuple[bytes, bytes]
) -> None:
    folder = write_series(tmp_path / "a", scan_of((6, 5, 6)), edit=given_as(name, value))
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes().replace(*written))
    assert f": its {name} is no number; required: numbers with a point, such as 1.0; export the" in refusal(folder)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless, JPEG2000Lossless])
def test_a_wrong_byte_raises_nothing_but_a_user_error(tmp_path: Path, syntax: UID, capfd: pytest.CaptureFixture[str]) -> None:
    shape = (70, 66, 2) if syntax == JPEG2000Lossless else (6, 5, 2)
    folder = write_series(tmp_path / "a", scan_of(shape), PLAIN, syntax)
    path = sorted(folder.iterdir())[0]
    whole, lines = path.read_bytes(), []
    for place in range(130, len(whole), max(len(whole) // 60, 1)):
        for content in (whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :], whole[:place]):
            path.write_bytes(content)
            try:
                read_volume(folder)
            except UserError as error:
                lines.append(str(error))
    assert len(lines) > 10
    assert not any(secret in line for line in lines for secret in SECRETS)
    assert capfd.readouterr().err == ""


def test_folders_without_dicom_and_missing_paths(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.txt").write_text("no scan")
    assert "holds no DICOM file" in refusal(tmp_path / "a")
    assert "missing" in refusal(tmp_path / "b.zip")
    assert "missing" in refusal(tmp_path / "b#3")
    (tmp_path / "c.dcm").write_bytes(b"garbage")
    assert "c.dcm cannot be read" in refusal(tmp_path / "c.dcm")
    (tmp_path / "d.nhdr").write_text("NRRD0004\n")
    assert "a header without its voxels; required: one .nrrd file" in refusal(tmp_path / "d.nhdr")


def test_long_numbers_in_names_are_not_repeated(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    for i, ds in enumerate(slices_of(scan_of(), PLAIN)):
        del ds.PixelSpacing
        save_dicom(ds, folder / "SECRETNAME_ANNA" / f"20130405{i}.dcm")
    assert "has no PixelSpacing in …050.dcm" in refusal(folder)


# --- Archives -----------------------------------------------------------------------------------------------------


def test_an_archive_is_its_folder_and_nothing_is_unpacked_beside_it(tmp_path: Path) -> None:
    array = scan_of()
    folder = write_series(tmp_path / "a", array, suffix="")
    archive = zipped(folder, tmp_path / "a.zip")
    before = sorted(tmp_path.rglob("*")), archive.read_bytes()
    volume = read_volume(archive)
    assert np.array_equal(volume.scan, read_volume(folder).scan)
    assert (sorted(tmp_path.rglob("*")), archive.read_bytes()) == before


@pytest.mark.parametrize("name", ["../x.dcm", "/etc/x.dcm", "a/../../x.dcm", "C:\\x.dcm", "..\\x.dcm"])
def test_archives_that_point_outside_are_refused(tmp_path: Path, name: str) -> None:
    archive = zipped(write_series(tmp_path / "a", scan_of()), tmp_path / "a.zip")
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr(name, b"x")
    assert "a.zip has 1 files that point outside of it" in refusal(archive)


def test_archives_that_unpack_to_absurd_sizes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = zipped(write_series(tmp_path / "a", scan_of()), tmp_path / "a.zip")
    content = bytearray(archive.read_bytes())
    entry = content.index(b"PK\x01\x02")
    claims = content.copy()
    claims[entry + 24 : entry + 28] = struct.pack("<I", 2**32 - 2)
    archive.write_bytes(claims)
    assert "would unpack from" in refusal(archive)
    small = content.copy()  # The directory claims less than there is: never more than that is unpacked.
    small[entry + 24 : entry + 28] = struct.pack("<I", 300)
    archive.write_bytes(small)
    assert "cannot be read" in refusal(archive)
    archive.write_bytes(content)
    monkeypatch.setattr(scan_files, "MAX_FILES", 3)
    assert "a.zip has 4 files; required: at most 3 for one scan" in refusal(archive)
    monkeypatch.undo()
    monkeypatch.setattr(scan_files, "MAX_BYTES", 1000)
    assert "required: at most 0 GiB and 1100 times its own size" in refusal(archive)


def test_broken_and_locked_archives_are_refused(tmp_path: Path) -> None:
    archive = zipped(write_series(tmp_path / "a", scan_of()), tmp_path / "a.zip")
    content = archive.read_bytes()
    archive.write_bytes(content[: len(content) // 2])
    assert "cannot be read as an archive" in refusal(archive)
    locked = bytearray(content)
    entry = content.index(b"PK\x01\x02")
    locked[entry + 8] |= 1
    archive.write_bytes(locked)
    assert "locked with a password" in refusal(archive)
    empty = io.BytesIO()
    with zipfile.ZipFile(empty, "w") as file:
        file.writestr("x.txt", "no scan")
    archive.write_bytes(empty.getvalue())
    assert "a.zip holds no DICOM file" in refusal(archive)


# --- NRRD and MetaImage -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".nrrd", ".mha", ".mhd"])
def test_unusable_itk_files_are_refused_in_one_line(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    path.write_bytes(b"hello")
    assert "cannot be read" in refusal(path)
    sitk.WriteImage(sitk.Image([3, 4, 5, 2], sitk.sitkInt16), str(path))
    assert "has 4 dimensions (3, 4, 5, 2)" in refusal(path)
    sitk.WriteImage(sitk.Image([3, 4], sitk.sitkInt16), str(path))
    assert "has 2 dimensions (3, 4)" in refusal(path)
    sitk.WriteImage(sitk.Image([3, 4, 5], sitk.sitkVectorUInt8, 3), str(path))
    assert "vector of 8-bit unsigned integer" in refusal(path)
    if suffix != ".nrrd":  # MetaIO itself would write past its arrays and end the process.
        write_itk(path, scan_of(), PLAIN)
        content = path.read_bytes()
        for wrong in (b"NDims = 9", b"NDims = 2", b"NDims = 3\nNDims = 9", b"Other = 3"):
            path.write_bytes(content.replace(b"NDims = 3", wrong))
            assert "cannot be read" in refusal(path)
        path.write_bytes(content.replace(b"ElementSpacing = ", b"ElementSpacing = 1 1 1 1 "))
        assert "cannot be read (its header has a wrong ElementSpacing)" in refusal(path)
        path.write_bytes(content.replace(b"ElementDataFile = ", b"ElementDataFile = ../"))
        assert "has its voxels elsewhere or nowhere" in refusal(path)
    else:
        path.write_bytes(path.read_bytes().replace(b"\n\n", b"\ndata file: x.raw\n\n", 1))
        assert "a header without its voxels" in refusal(path)
    write_itk(path, np.full((3, 3, 3), np.nan, np.float32), PLAIN)
    assert "NaN or inf" in refusal(path)
    write_itk(path, scan_of((20, 20, 20)), PLAIN)
    voxels = scan_files.parts_of(path)[-1]
    voxels.write_bytes(voxels.read_bytes()[:3000])
    assert "cannot be read" in refusal(path)


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_a_flipped_byte_of_compressed_voxels_is_refused(tmp_path: Path, suffix: str) -> None:
    """NRRD's own checksum is read by nobody else; headers have none."""
    path = write_itk(tmp_path / f"x{suffix}", scan_of((12, 11, 10)), PLAIN)
    whole, right = path.read_bytes(), read_volume(path).scan
    for place in range(700, len(whole), 23):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 64]) + whole[place + 1 :])
        try:
            assert np.array_equal(read_volume(path).scan, right)
        except UserError as error:
            assert str(path) in str(error)  # noqa: PT017


def test_a_header_that_claims_too_much_is_refused(tmp_path: Path) -> None:
    write_itk(tmp_path / "x.mha", scan_of(), PLAIN)
    content = (tmp_path / "x.mha").read_bytes()
    (tmp_path / "x.mha").write_bytes(content.replace(b"DimSize = 6 5 4", b"DimSize = 60000 50000 40000"))
    assert "GiB" in refusal(tmp_path / "x.mha")
    (tmp_path / "x.mha").write_bytes(content.replace(b"DimSize = 6 5 4", b"DimSize = 600 500 400"))
    assert "cannot hold" in refusal(tmp_path / "x.mha")


# --- Layouts ------------------------------------------------------------------------------------------------------


def cohort(root: Path) -> Path:
    """Two folders of one patient, an archive of another, a mask and a table."""
    write_series(root / "p1", scan_of())
    write_series(root / "p2" / "deep", scan_of(seed=1))
    zipped(write_series(root / "p3x", scan_of(seed=2), PatientID="other"), root / "p3.zip")
    for path in (root / "p3x").iterdir():
        path.unlink()
    (root / "p3x").rmdir()
    (root / "masks").mkdir()
    array = np.zeros((6, 5, 4), np.uint8)
    array[1, 2, 3] = 1
    write_itk(root / "masks" / "p1.nrrd", array, PLAIN)
    (root / "labels.csv").write_text("case,label\np1,1\np2,0\np3,0\nlost,1\n")
    return root


def test_a_cohort_of_dicom_folders(tmp_path: Path) -> None:
    root = cohort(tmp_path / "data")
    found = read_layout(root, DataSettings())
    assert found.layout == "dicom"
    assert [(case.id, case.label) for case in found.cases] == [("p1", 1), ("p2", 0), ("p3", 0)]
    one, two, three = found.cases
    assert one.patient == two.patient != three.patient
    assert not any(secret in one.patient for secret in SECRETS)
    loaded = load_case(one)
    assert loaded.lesion is not None
    assert np.argwhere(loaded.lesion).tolist() == np.argwhere(np.flip(scan_like(loaded.scan.shape), (1, 2))).tolist()
    assert any("labels.csv names 1 case (row 5) that the data do not have" in line for line in found.problems)
    assert any("kept as a hash of PatientID" in line for line in found.problems)


def scan_like(shape: tuple[int, ...]) -> np.ndarray:
    array = np.zeros((6, 5, 4), bool)
    array[1, 2, 3] = True
    assert shape == array.T.shape
    return array.T


def test_patients_and_series_of_a_table(tmp_path: Path) -> None:
    root = cohort(tmp_path / "data")
    write_series(root / "p2" / "more", scan_of((6, 5, 3)), series="1.5", number=8)
    (root / "labels.csv").write_text("case,label,patient\np1,1,a\np2#3,0,b\np2#8,1,b\np3,0,c\n")
    found = read_layout(root, DataSettings(layout="dicom"))
    assert [(case.id, case.patient, case.label) for case in found.cases] == [
        ("p1", "a", 1),
        ("p2_3", "b", 0),
        ("p2_8", "b", 1),
        ("p3", "c", 0),
    ]
    assert [len(load_case(case).scan) for case in found.cases] == [4, 4, 3, 4]
    zipped(root / "p1", root / "p1.zip")
    with pytest.raises(UserError, match=r"are one case; required: a folder or a \.zip"):
        read_layout(root, DataSettings(layout="dicom"))
    with pytest.raises(UserError, match="holds no DICOM series"):
        read_layout(root / "masks", DataSettings(layout="dicom"))


def test_csv_and_folders_name_dicom_and_itk_files(tmp_path: Path) -> None:
    root = tmp_path / "data"
    write_series(root / "normal" / "n1", scan_of())
    write_itk(root / "normal" / "n2.nrrd", scan_of(), PLAIN)
    zipped(write_series(tmp_path / "z", scan_of(), PatientID="other"), root / "normal" / "n3.zip")
    (root / "abnormal").mkdir()
    write_itk(root / "abnormal" / "a1.mhd", scan_of(), PLAIN)
    plain = read_layout(root, DataSettings())
    assert plain.layout == "folders"
    assert [(case.id, case.volume) for case in plain.cases] == [
        ("abnormal__a1", True), ("normal__n1", True), ("normal__n2", True), ("normal__n3", True),
    ]  # fmt: skip
    assert all(load_case(case).scan.shape == (4, 5, 6) for case in plain.cases)
    (root / "labels.csv").write_text("file,label\nnormal/n1,0\nnormal/n2,0\nnormal/n3.zip,0\nabnormal/a1.mhd,1\nnormal/n1#3,0\n")
    table = read_layout(root, DataSettings(layout="csv"))
    assert [case.id for case in table.cases] == ["abnormal__a1", "normal__n1", "normal__n1_3", "normal__n2", "normal__n3"]
    assert table.cases[1].patient == table.cases[2].patient != table.cases[4].patient
    assert all(load_case(case).scan.shape == (4, 5, 6) for case in table.cases)
    (root / "labels.csv").write_text("file,label\nnormal/lost.zip,0\n")
    with pytest.raises(UserError, match=r"names a file that is missing"):
        read_layout(root, DataSettings(layout="csv"))


def test_a_changed_slice_is_another_store(tmp_path: Path) -> None:
    found, changed = read_layout(cohort(tmp_path / "data"), DataSettings()), Settings()
    key = store_key(found, changed)
    assert key == store_key(found, changed)
    path = next((tmp_path / "data" / "p2" / "deep").iterdir())
    path.write_bytes(path.read_bytes() + b"\0\0")
    assert key != store_key(found, changed)
    assert key != store_key(found, replace(changed, seed=9))


def test_inputs_of_a_folder(tmp_path: Path) -> None:
    root = cohort(tmp_path / "data")
    images = [case.image for case in scans_in(root, DataSettings()).cases]
    assert [path.relative_to(root).as_posix() for path in images] == ["p1", "p2", "p3.zip"]
    assert [mask_name(path) for path in images] == ["p1.nii.gz", "p2.nii.gz", "p3.nii.gz"]
    (root / "labels.csv").unlink()  # nothing says which folders are cases
    images = [case.image for case in scans_in(root, DataSettings()).cases]
    assert [path.relative_to(root).as_posix() for path in images] == ["p1", "p2/deep", "p3.zip"]
    with pytest.raises(UserError, match=r"is one DICOM series; required: the name of one mask"):
        scans_in(root / "p1", DataSettings())
    assert read_geometry(root / "p1").canonical_shape == (4, 5, 6)


@pytest.mark.parametrize(
    "name", ["MR_small", "MR_small_RLE", "MR_small_jp2klossless", "MR_small_jpeg_ls_lossless", "MR_small_bigendian"]
)
def test_pydicoms_own_examples_are_the_same_scan(name: str) -> None:
    folder = Path(pydicom.data.__file__).parent / "test_files"
    first, other = (read_volume(folder / f"{each}.dcm") for each in ("MR_small", name))
    assert np.array_equal(first.scan, other.scan)
    assert first.scan.shape == (1, 64, 64)


def test_signed_jpeg_2000_under_a_header_that_says_otherwise(tmp_path: Path) -> None:
    scan = read_volume(Path(pydicom.data.__file__).parent / "test_files" / "J2K_pixelrep_mismatch.dcm").scan
    assert (scan.min(), scan.max()) == (-2000, 1896)


# --- From a scan to its mask --------------------------------------------------------------------------------------


def test_segment_takes_every_format(tmp_path: Path, images: Path) -> None:
    tiny = tiny_settings()
    few = replace(tiny, classifier=replace(tiny.classifier, steps=2), coin=replace(tiny.coin, steps=2))
    work = Workspace(images, tmp_path / "run", few)
    work.start()
    assert train(work).predictor.preparation.kind == "percentile"
    model = read_json(work.root / "model.json")
    write_record(work.root / "model.json", model | {"trained_on": None})  # as of a run that kept no record of its plain images
    folder, array = tmp_path / "scans", scan_of((24, 20, 3))
    write_series(folder / "a", array)
    write_itk(folder / "b.nrrd", array, PLAIN)
    for out in ("m.nii.gz", "m.nrrd", "m.mha"):
        assert segment_path(Request(folder / "a", tmp_path / out, work.root, accelerator="cpu")) == (1, [])
    masks = [read_mask(MaskSource(tmp_path / out), read_geometry(folder / "a")) for out in ("m.nii.gz", "m.nrrd", "m.mha")]
    assert np.array_equal(masks[0], masks[1])
    assert np.array_equal(masks[0], masks[2])
    with pytest.raises(UserError, match="lies inside"):
        segment_path(Request(folder / "a", folder / "a" / "m.nii.gz", work.root, accelerator="cpu"))
    segment_path(Request(folder / "a#3", tmp_path / "n.nii", work.root, accelerator="cpu"))
    with pytest.raises(UserError, match=r"a name that ends in \.nii\.gz or \.nii or \.nrrd or \.mha"):
        segment_path(Request(folder / "a#3", tmp_path / "n", work.root, accelerator="cpu"))
    (folder / "broken.mha").write_bytes(b"hello")
    written, failed = segment_path(Request(folder, tmp_path / "all", work.root, accelerator="cpu"))
    assert (written, len(failed)) == (2, 1)
    assert sorted(path.name for path in (tmp_path / "all").iterdir()) == [
        "a.nii.gz", "b.nii.gz", "index.csv", "index.json", "manifest.json",
    ]  # fmt: skip
