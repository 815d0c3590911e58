"""DICOM as it is met: padding, single labelled slices, X-rays and ultrasound as images, files without marks, wrong tags."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydicom import Dataset, dcmread, dcmwrite
from pydicom.uid import JPEG2000Lossless, RLELossless, generate_uid

from coinseg.cli import main as cli
from coinseg.cli.inspect import inspect
from coinseg.config.schema import DataSettings, Settings
from coinseg.data.layouts.registry import read_layout
from coinseg.data.layouts.unlabelled import scans_in
from coinseg.data.readers.dicom import read_series
from coinseg.data.readers.image import image_size, is_image, read_image
from coinseg.data.readers.image_mask import read_image_region
from coinseg.data.readers.paths import kind_of
from coinseg.data.readers.volume import is_volume, read_geometry, read_volume
from coinseg.data.slices.case import labelled_per_scan, load_case
from coinseg.data.slices.store import prepare
from coinseg.errors import UserError
from conftest import tiny_settings
from writers import PLAIN, header, make_run, save_dicom, scan_of, slices_of, write_series, zipped

DX, US, MG = ("1.2.840.10008.5.1.4.1.1." + tail for tail in ("1.1.1", "6.1", "1.2"))


def tagged(tag: int, kind: str, value: Any) -> Any:
    return lambda found: [ds.add_new(tag, kind, value) for ds in found]


def picture(path: Path, pixels: np.ndarray, modality: str = "DX", sort: str = DX, **changes: Any) -> Path:
    """A 2-D image, (H, W) or (H, W, 3), uint8 or uint16."""
    ds = header(series=generate_uid(), SOPClassUID=sort, Modality=modality, StudyInstanceUID=generate_uid())
    ds.Rows, ds.Columns = pixels.shape[:2]
    ds.BitsAllocated = ds.BitsStored = pixels.dtype.itemsize * 8
    ds.HighBit = ds.BitsStored - 1
    if pixels.ndim == 3:
        ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "RGB", 0
    ds.PixelData = pixels.tobytes()
    for name, value in changes.items():
        setattr(ds, name, value)
    return save_dicom(ds, path)


def xray(seed: int = 0, shape: tuple[int, int] = (8, 6)) -> np.ndarray:
    return np.random.default_rng(seed).integers(100, 4000, shape).astype(np.uint16)


# --- What stored values stand for ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "value", "signed"), [("US", 63536, False), ("SS", -2000, True), ("US", 63536, True)])
def test_padding_of_a_ct_is_air(tmp_path: Path, kind: str, value: int, signed: bool) -> None:
    array = scan_of((6, 5, 4)).clip(-1000, 1000)

    def pad(found: list[Dataset]) -> None:
        for ds in found:
            pixels = np.frombuffer(ds.PixelData, "<u2").copy()
            pixels[:7] = 63536  # the bits of -2000
            ds.PixelData = pixels.tobytes()
            ds.add_new(0x00280120, kind, value)

    scan = read_volume(write_series(tmp_path / "a", array, edit=pad, signed=signed)).scan
    whole = read_volume(write_series(tmp_path / "b", array, signed=signed)).scan
    padding = scan != whole
    assert set(scan[padding].tolist()) == {-1024}
    assert padding.sum() == 7 * 4
    assert scan.max() <= 1000


def test_a_range_of_padding_and_padding_of_mr(tmp_path: Path) -> None:
    array = np.arange(100, 100 + 6 * 5 * 2, dtype=np.int16).reshape(6, 5, 2)

    def pad(found: list[Dataset]) -> None:
        for ds in found:
            pixels = np.frombuffer(ds.PixelData, "<i2").copy()
            pixels[:3] = 30000, 30001, 30002
            ds.PixelData, ds.Modality = pixels.tobytes(), "MR"
            ds.SOPClassUID = "1.2.840.10008.5.1.4.1.1.4"
            ds.add_new(0x00280120, "SS", 30002)
            ds.add_new(0x00280121, "SS", 30000)

    scan = read_volume(write_series(tmp_path / "a", array, edit=pad, signed=True)).scan
    assert scan.max() < 30000
    assert (scan == scan.min()).sum() >= 6
    assert scan.min() >= 100


def test_padding_of_an_xray_is_its_lowest_value_where_white_is_low_too(tmp_path: Path) -> None:
    pixels = xray()
    pixels[0], measured = 65535, xray()[1:].astype(float)
    for name in ("MONOCHROME1", "MONOCHROME2"):
        image = read_image(
            picture(tmp_path / f"{name}.dcm", pixels, PhotometricInterpretation=name, PixelPaddingValue=65535)
        )  # fmt: skip
        expected = measured if name == "MONOCHROME2" else measured.min() + measured.max() - measured
        assert np.array_equal(image[1:], expected)
        assert set(image[0].tolist()) == {measured.min()}


# --- Images --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("modality", "sort"), [("DX", DX), ("CR", "1.2.840.10008.5.1.4.1.1.1"), ("MG", MG), ("CR", "1.2.840.10008.5.1.4.1.1.7")]
)
@pytest.mark.parametrize("name", ["x.dcm", "x.dicom", "x"])
def test_an_xray_is_an_image(tmp_path: Path, modality: str, sort: str, name: str) -> None:
    path = picture(tmp_path / name, xray(), modality, sort)
    assert (kind_of(path), is_image(path), is_volume(path)) == ("image", True, False)
    assert image_size(path) == (8, 6)
    assert np.array_equal(read_image(path), xray())


def test_colour_of_an_ultrasound_becomes_grey(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (8, 6, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    path = picture(tmp_path / "x.dcm", pixels, "US", US)
    assert np.array_equal(read_image(path), read_image(tmp_path / "x.png"))
    luminance = Image.fromarray(pixels).convert("YCbCr")
    ybr = picture(tmp_path / "y.dcm", np.asarray(luminance), "US", US, PhotometricInterpretation="YBR_FULL")
    assert np.abs(read_image(ybr) - read_image(path)).max() < 2


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless])
def test_compressed_images_are_the_same(tmp_path: Path, syntax: Any) -> None:
    plain = picture(tmp_path / "x.dcm", xray(0, (70, 66)))
    assert np.array_equal(read_image(save_dicom(dcmread(plain), tmp_path / "y.dcm", syntax)), read_image(plain))


def test_several_frames_and_impossible_images_are_refused(tmp_path: Path) -> None:
    frames = picture(tmp_path / "x.dcm", xray(), "US", US, NumberOfFrames=2, PixelData=xray().tobytes() * 2)
    with pytest.raises(UserError, match=r"has several frames; required: one image per file"):
        read_image(frames)
    with pytest.raises(UserError, match=r"has RescaleSlope 0 and RescaleIntercept 0"):
        read_image(picture(tmp_path / "y.dcm", xray(), RescaleSlope=0, RescaleIntercept=0))
    with pytest.raises(UserError, match="while its pixels were decoded"):
        read_image(picture(tmp_path / "z.dcm", xray(), PixelData=b"12"))
    with pytest.raises(UserError, match="its header claims 65535 x 65535 pixels"):
        read_image(picture(tmp_path / "w.dcm", xray(), Rows=65535, Columns=65535))


def test_xrays_in_folders_and_in_a_table(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for i in range(4):
        picture(root / ("abnormal" if i % 2 else "normal") / f"x{i}.dcm", xray(i), PatientID="the same")
    save_dicom(header(SOPClassUID="1.2.840.10008.5.1.4.1.1.88.67", Modality="SR"), root / "normal" / "report.dcm")
    (root / "masks").mkdir()
    Image.fromarray(np.full((8, 6), 255, np.uint8)).save(root / "masks" / "x1.png")
    found = read_layout(root, DataSettings())
    assert found.layout == "folders"
    assert [(case.image.name, case.volume, case.label) for case in found.cases] == [
        ("x1.dcm", False, 1), ("x3.dcm", False, 1), ("x0.dcm", False, 0), ("x2.dcm", False, 0),
    ]  # fmt: skip
    assert [bool(case.lesion) for case in found.cases] == [True, False, False, False]
    assert len({case.patient for case in found.cases}) == 4
    assert any("every study counts as a patient" in line for line in found.problems)
    said = "1 DICOM files not read, which are reports, segmentations or other objects that are no images"
    assert [line for line in found.problems if "not read" in line] == [said]
    assert load_case(found.cases[0]).lesion.all()  # type: ignore[union-attr]
    (root / "labels.csv").write_text("file,label,patient\n" + "".join(f"x{i},{i % 2},p{i}\n" for i in range(4)))
    for i in range(4):
        (root / "images").mkdir(exist_ok=True)
        (root / ("abnormal" if i % 2 else "normal") / f"x{i}.dcm").rename(root / "images" / f"x{i}.dcm")
    table = read_layout(root, DataSettings())
    assert (table.layout, [(case.volume, case.label) for case in table.cases]) == ("csv", [(False, i % 2) for i in range(4)])


def patients_of_xrays(root: Path, **changes: Any) -> Path:
    """Four patients with two X-rays each, one of them deeper, and a report; returns the data."""
    for i in range(4):
        for view, name in enumerate(("pa.dcm", "study/lateral")):
            ids = {"PatientID": f"id-{i}", "StudyInstanceUID": f"1.9.{i}", "SeriesInstanceUID": f"1.9.{i}.{view}"}
            picture(root / f"p{i}" / name, xray(10 * i + view), **(ids | changes))
    save_dicom(header(SOPClassUID="1.2.840.10008.5.1.4.1.1.88.67", Modality="SR"), root / "p0" / "report.dcm")
    return root


@pytest.mark.parametrize("column", ["case", "PatientID", "StudyInstanceUID"])
def test_a_folder_of_xrays_for_each_patient(tmp_path: Path, column: str) -> None:
    root = patients_of_xrays(tmp_path / "data")
    named = {"case": "p{}", "PatientID": "id-{}", "StudyInstanceUID": "1.9.{}"}[column]
    (root / "labels.csv").write_text(f"{column},label\n" + "".join(f"{named.format(i)},{i % 2}\n" for i in range(4)))
    found = read_layout(root, DataSettings())
    assert found.layout == "dicom"
    assert [(case.id, case.volume, case.label) for case in found.cases] == [
        (f"p{i}__{view}", False, i % 2) for i in range(4) for view in ("pa", "study__lateral")
    ]
    assert [one.patient == other.patient for one, other in zip(found.cases, found.cases[1:], strict=False)] == [
        True, False, True, False, True, False, True,
    ]  # fmt: skip
    assert [line for line in found.problems if "no table" not in line] == [
        "8 X-rays or other plain images, a case each; the label of a folder or study counts for each image of it",
        "1 DICOM files not read, which are reports, segmentations or other objects that are no images",
    ]
    assert np.array_equal(load_case(found.cases[0]).scan[0], xray(0))
    index = prepare(found, tiny_settings(), tmp_path / "store").index
    sides = [set(index["split"][index["patient"] == who].tolist()) for who in set(index["patient"].tolist())]
    assert (len(index["case"]), [len(side) for side in sides]) == (8, [1] * 4)


def test_xrays_of_nobody_belong_to_their_folder_and_single_ones_may_be_named(tmp_path: Path) -> None:
    root = patients_of_xrays(tmp_path / "data", PatientID="")
    rows = "".join(f"p{i},{i % 2}\n" for i in range(3)) + "p3/pa.dcm,1\np3/study/lateral,0\n"
    (root / "labels.csv").write_text(f"case,label\n{rows}")
    cases = read_layout(root, DataSettings()).cases
    assert [case.patient for case in cases] == [f"p{i}" for i in range(4) for _ in range(2)]
    assert [case.label for case in cases] == [0, 0, 1, 1, 0, 0, 1, 0]
    (root / "labels.csv").write_text("case,slice,label\n" + "".join(f"p{i},0,{i % 2}\n" for i in range(4)))
    with pytest.raises(UserError, match="which is a plain image; required: one label for the image"):
        read_layout(root, DataSettings())


def test_a_model_of_images_marks_an_xray_on_its_own_grid(tmp_path: Path) -> None:
    run, folder = make_run(tmp_path / "run", kind="percentile"), tmp_path / "in"
    for i in range(2):
        picture(folder / f"x{i}.dcm", xray(i, (40, 44)), PhotometricInterpretation=f"MONOCHROME{i + 1}")
    assert cli.main(["segment", "-i", str(folder), "-o", str(tmp_path / "out"), "--model", str(run)]) == 0
    with Image.open(tmp_path / "out" / "x1.png") as mask:
        assert mask.size == (44, 40)
    assert cli.main(["segment", "-i", str(folder / "x0.dcm"), "-o", str(tmp_path / "one.png"), "--model", str(run)]) == 0
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "out" / "x0.png").read_bytes()


# --- Single slices -------------------------------------------------------------------------------------------------


def rsna(root: Path, folder: str = "images", scans: int = 3) -> list[str]:
    """One .dcm for each slice, without a thickness; returns the names."""
    names = []
    for i in range(scans):
        ids = {"SeriesInstanceUID": f"1.5.{i}", "StudyInstanceUID": f"1.4.{i}", "PatientID": f"p{i}"}
        for z, ds in enumerate(slices_of(scan_of((12, 10, 2), i), PLAIN)):
            del ds.SliceThickness, ds.SeriesNumber, ds.ImageType, ds.PatientName
            for name, value in ids.items():
                setattr(ds, name, value)
            names.append(f"ID_{i}{z}")
            save_dicom(ds, root / folder / f"{names[-1]}.dcm")
    return names


@pytest.mark.parametrize("folder", ["images", "train", "."])
@pytest.mark.parametrize(("column", "ending"), [("ID", ""), ("file", ".dcm")])
def test_a_labelled_slice_needs_no_thickness(tmp_path: Path, folder: str, column: str, ending: str) -> None:
    names = rsna(tmp_path, folder)
    (tmp_path / "labels.csv").write_text(f"{column},Label\n" + "".join(f"{n}{ending},{n[-1]}\n" for n in names))
    found = read_layout(tmp_path, DataSettings())
    assert found.layout == "csv"
    assert [(case.image.stem, dict(case.slice_labels)) for case in found.cases] == [(n, {0: int(n[-1])}) for n in names]
    assert len({case.patient for case in found.cases}) == 3
    assert not any(labelled_per_scan(case, "auto") for case in found.cases)
    loaded = load_case(found.cases[1])
    assert loaded.scan.shape == (1, 10, 12)
    assert loaded.given(next(loaded.cuts(DataSettings())), "auto", 1) == 1
    facts = inspect(tmp_path, Settings())
    assert (facts["labels"]["slices_normal"], facts["labels"]["slices_abnormal"], facts["intensity"]) == (3, 3, "hu")


def test_slices_in_class_folders_have_the_label_of_their_folder(tmp_path: Path) -> None:
    for name in ("normal", "abnormal"):
        rsna(tmp_path, name)
    found = read_layout(tmp_path, DataSettings())
    assert found.layout == "folders"
    assert sorted(next(iter(case.slice_labels.values())) for case in found.cases) == [0] * 6 + [1] * 6
    assert not any("not read" in line for line in found.problems)


def test_dicom_files_that_no_row_names_are_said_once(tmp_path: Path) -> None:
    names = rsna(tmp_path)
    (tmp_path / "labels.csv").write_text("file,label\n" + "".join(f"{n}.DCM,{n[-1]}\n" for n in names[:4]))
    said = [line for line in read_layout(tmp_path, DataSettings()).problems if "not read" in line]
    assert said == ["2 images or volumes not read, no row of labels.csv names them: ID_20.dcm, ID_21.dcm"]


def test_the_mask_of_an_xray_may_be_dicom(tmp_path: Path) -> None:
    drawn = np.zeros((8, 6), np.uint16)
    drawn[2:4, 1:5] = 255
    inside, notes = read_image_region(picture(tmp_path / "m.dcm", drawn), (8, 6), [255])
    assert (inside == (drawn > 0)).all()
    assert notes == {"255"}


def test_a_modality_is_one_of_dicom_or_nothing(tmp_path: Path) -> None:
    for word, kept in (("MR", "MR"), ("GRETA", "")):
        assert read_volume(write_series(tmp_path / word, scan_of((4, 4, 2)), Modality=word)).modality == kept


def test_a_slice_number_beside_single_slices_is_not_an_index_into_them(tmp_path: Path) -> None:
    names = rsna(tmp_path)
    rows = "".join(f"{n}.dcm,{n[-1]},p{n[3]},{17 + int(n[-1])}\n" for n in names)
    (tmp_path / "labels.csv").write_text(f"file,label,patient,slice\n{rows}")
    found = read_layout(tmp_path, DataSettings())
    assert [dict(case.slice_labels) for case in found.cases] == [{0: int(n[-1])} for n in names]
    assert any("6 DICOM slices of labels.csv are taken by themselves" in line for line in found.problems)


def test_an_id_that_leads_out_of_the_folder_opens_nothing(tmp_path: Path) -> None:
    rsna(tmp_path / "outside", ".")
    write_series(tmp_path / "data" / "p1", scan_of())
    (tmp_path / "data" / "labels.csv").write_text("id,label\n../outside/ID_00.dcm,1\n")
    with pytest.raises(UserError):
        assert read_layout(tmp_path / "data", DataSettings()).layout == "dicom"


def test_a_slice_of_unknown_thickness_has_no_volume(tmp_path: Path) -> None:
    run, scan = make_run(tmp_path / "run"), tmp_path / "in" / "images"
    names = rsna(tmp_path / "in")
    assert read_geometry(scan / f"{names[0]}.dcm").flat
    assert not read_geometry(write_series(tmp_path / "one", scan_of((6, 5, 1)))).flat
    assert [case.image.name for case in scans_in(scan, DataSettings()).cases] == [f"{n}.dcm" for n in names]
    assert cli.main(["segment", "-i", str(scan), "-o", str(tmp_path / "out"), "--model", str(run)]) == 0
    assert read_geometry(tmp_path / "out" / "ID_00.nii.gz").flat
    rows = (tmp_path / "out" / "index.csv").read_text().splitlines()
    place = rows[0].split(",").index("volume_ml")
    assert {row.split(",")[place] for row in rows[1:]} == {""}
    assert any(int(row.split(",")[place - 1]) for row in rows[1:])


def test_a_slice_in_another_plane_is_not_cut_into_lines(tmp_path: Path) -> None:
    turned = PLAIN[:, [0, 2, 1, 3]].copy()  # coronal: rows run along z
    path = next(write_series(tmp_path / "a", scan_of((6, 5, 1)), turned).iterdir())
    (tmp_path / "labels.csv").write_text(f"file,label,patient\na/{path.name},1,p\n")
    case = read_layout(tmp_path, DataSettings(layout="csv", split_by="slice"), one_class=True).cases[0]
    assert (kind_of(path), case.label) == ("volume", 1)
    with pytest.raises(UserError, match=r"has axial slices of one row or column.*; set data.axis to the plane of the scan"):
        list(load_case(case).cuts(DataSettings()))
    assert len(list(load_case(case).cuts(DataSettings(axis="coronal")))) == 1


# --- Files as they are met -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["IM{}.dcm", "IM{}"])
@pytest.mark.parametrize("implicit", [True, False])
def test_files_without_mark_and_meta_information_are_read(tmp_path: Path, name: str, implicit: bool) -> None:
    expected = read_volume(write_series(tmp_path / "a", scan_of())).scan
    (tmp_path / "b").mkdir()
    for z, ds in enumerate(slices_of(scan_of(), PLAIN)):
        dcmwrite(tmp_path / "b" / name.format(z), ds, implicit_vr=implicit, little_endian=True, enforce_file_format=False)
    assert np.array_equal(read_volume(tmp_path / "b").scan, expected)
    assert len(read_series(tmp_path / "b")) == 4


@pytest.mark.parametrize(
    "edit",
    [
        tagged(0x00080050, "LO", "A1"), tagged(0x00080050, "FD", 1.0), tagged(0x00200011, "DS", "3"),
        tagged(0x00200011, "LO", "three"), tagged(0x00180050, "LO", "2.5"), tagged(0x00180050, "UT", "thick"),
        tagged(0x0008103E, "UN", b"Abdomen "), tagged(0x00100020, "US", 7), tagged(0x00280030, "LO", ["0.7", "0.8"]),
        tagged(0x00080005, "CS", "ISO-IR 999"), tagged(0x00091002, "UN", b"\1\2"), tagged(0x0020000D, "SH", "1.2.3"),
    ],
)  # fmt: skip
def test_wrong_types_of_tags_that_nobody_needs_are_passed_over(tmp_path: Path, edit: Any) -> None:
    expected = read_volume(write_series(tmp_path / "a", scan_of()))
    found = read_volume(write_series(tmp_path / "b", scan_of(), edit=edit))
    assert np.array_equal(found.scan, expected.scan)
    assert np.allclose(found.geometry.affine, expected.geometry.affine)
    assert len(read_series(tmp_path / "b")) == 4


def test_a_value_that_cannot_be_decoded_stops_only_where_it_is_needed(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "a", scan_of())
    for path in folder.iterdir():
        content = path.read_bytes()
        place = content.index(b"\x20\0\x11\0IS")  # SeriesNumber
        path.write_bytes(content[: place + 8] + b"x?" + content[place + 10 :])
    assert read_volume(folder).scan.shape == (4, 5, 6)
    assert len(read_series(folder)) == 4
    for path in folder.iterdir():
        content = path.read_bytes()
        place = content.index(b"\x28\0\x52\x10DS")  # RescaleIntercept
        path.write_bytes(content[: place + 8] + b"x" * content[place + 6] + content[place + 8 + content[place + 6] :])
    with pytest.raises(UserError, match="its RescaleIntercept is no number"):
        read_volume(folder)


@pytest.mark.parametrize(
    "tags",
    [
        {"SpecificCharacterSet": ["", "ISO 2022 IR 87"], "PatientName": "Yamada^Tarou=山田^太郎=やまだ^たろう"},
        {"SpecificCharacterSet": ["ISO 2022 IR 6", "ISO 2022 IR 149"], "PatientName": "Hong^Gildong=洪^吉洞=홍^길동"},
        {"SpecificCharacterSet": "GB18030", "PatientName": "Wang^XiaoDong=王^小东"},
        {"SpecificCharacterSet": "ISO_IR 100", "PatientName": "Müller^Jürgen"},
        {"PatientBirthDate": "1950", "StudyTime": "12:00", "PatientSex": "male", "StudyDate": "2020.01.01"},
        {"StudyID": "1234567890123456789012", "AccessionNumber": "A" * 30},
    ],
)  # fmt: skip
@pytest.mark.parametrize("given", ["study", "study#3", "study.zip", "study.zip#3"])
def test_a_seg_repeats_its_series_letter_for_letter_and_is_found_as_segment_finds_it(
    tmp_path: Path, tags: dict[str, Any], given: str, recwarn: pytest.WarningsRecorder
) -> None:
    """Beside the series lies its localizer."""
    write_series(tmp_path / "study" / "ct", scan_of(), FrameOfReferenceUID="1.2.9", signed=True, **tags)
    write_series(
        tmp_path / "study" / "scout", scan_of((6, 5, 1)), number=1, series="1.9", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]
    )
    zipped(tmp_path / "study", tmp_path / "study.zip")
    run, mask, seg = make_run(tmp_path / "run"), tmp_path / "m.nii.gz", tmp_path / "m.dcm"
    source = str(tmp_path / given)
    assert cli.main(["segment", "-i", source, "-o", str(mask), "--model", str(run)]) == 0
    recwarn.clear()
    assert cli.main(["export-seg", str(mask), "--dicom", source, "-o", str(seg)]) == 0
    assert not [w for w in recwarn if "pydicom" in str(w.filename)]
    first = dcmread(next((tmp_path / "study" / "ct").iterdir()))
    written = dcmread(seg)
    for name in tags:
        assert written[name].value == first[name].value, name
