"""Who the patients are stays where it was: sentinels in DICOM headers are looked for in everything that is written or said.

What a user names (files, folders, a column `patient`) is the user's, and is repeated; a DICOM SEG is an object of the patient's
study and carries what DICOM wants of it, nothing else.
"""

from __future__ import annotations

import gzip
import logging
import re
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from pydicom import Dataset, Sequence, dcmread
from pydicom._dicom_dict import DicomDictionary
from pydicom.uid import generate_uid

import coinseg
from coinseg.cli import main as cli
from coinseg.data.readers.volume import read_volume
from conftest import TINY, write_images
from examples import LPS, hounsfield, labelled, save, text
from writers import header, make_run, save_dicom, write_itk, write_series

SECRET = {
    "PatientName": "SENTINELNAME^GRETA", "PatientID": "PID-SENTINEL-4711081547", "PatientBirthDate": "19440817",
        "StudyDate": "20110922",
    "AccessionNumber": "ACC-SENTINEL-7", "InstitutionName": "SENTINEL CLINIC", "ReferringPhysicianName": "SENTINELDOC^OTTO",
    "OperatorsName": "SENTINELOP", "StudyInstanceUID": "1.2.826.0.1.3680043.5551212789", "PatientAddress": "SENTINEL STREET 5",
    "OtherPatientIDs": "OTHER-SENTINEL", "PatientComments": "SENTINEL comment", "StudyID": "SENTINEL-STUDY",
}  # fmt: skip
# Numbers are long: those of a lock in a debug log have fifteen digits, and have had 4711 among them.
WORDS = ("SENTINEL", "GRETA", "OTTO", "19440817", "20110922", "5551212789", "4711081547", "3680043.88", "3680043.99")
SERIES = "1.2.826.0.1.3680043.88"
IN_A_SEG = {
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "StudyDate",
    "AccessionNumber",
    "ReferringPhysicianName",
    "StudyInstanceUID",
    "StudyID",
}

REFERENCES = {"FrameOfReferenceUID", "SeriesInstanceUID", "ReferencedSOPInstanceUID", "ReferencedFrameOfReferenceUID"}


def patients(root: Path) -> Path:
    """Four studies in folders with names that say nothing; the labels are named by PatientID."""
    for i in range(4):
        changes = SECRET | {"PatientID": f"{SECRET['PatientID']}-{i}"}
        scan = hounsfield(np.repeat(np.repeat(labelled(i % 2 == 1), 3, 1), 3, 2), i).T

        def edit(found: list[Dataset]) -> None:
            for ds in found:
                ds.FrameOfReferenceUID = generate_uid(prefix="1.2.826.0.1.3680043.99.")
                ds.add_new(0x00091001, "LO", "SENTINEL private")
            for ds in found[1:]:
                ds.FrameOfReferenceUID = found[0].FrameOfReferenceUID

        write_series(root / f"p{i}", scan, LPS, series=f"{SERIES}.{i}", edit=edit, **changes)
    rows = "".join(f"{SECRET['PatientID']}-{i},{i % 2}\n" for i in range(4))
    text(root / "labels.csv", f"PatientID,label\n{rows}")
    return root


def everything(folder: Path) -> dict[str, bytes]:
    """The bytes of every file, compressed ones also unpacked."""
    found = {}
    for path in folder.rglob("*"):
        found[f"{path.relative_to(folder)} (name)"] = str(path.relative_to(folder)).encode()
        if path.is_file():
            content = path.read_bytes()
            found[path.relative_to(folder).as_posix()] = content + (gzip.decompress(content) if path.suffix == ".gz" else b"")
            if path.suffix == ".npz":
                with np.load(path) as file:
                    found[f"{path.name} (arrays)"] = b"".join(str(file[name]).encode() for name in file)
    return found


def told(found: dict[str, bytes]) -> list[str]:
    return [f"{name}: {word}" for name, content in found.items() for word in WORDS if word.encode() in content]


def test_no_identifier_of_dicom_leaves_its_file(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    caplog.set_level(logging.DEBUG)
    data, out = patients(tmp_path / "data"), tmp_path / "written"
    caplog.clear()
    size = [*TINY, "--data.size", "16", "--data.label_level", "slice", "--engine.logger", "auto"]
    assert cli.main(["inspect", str(data)]) == cli.main(["inspect", str(data), "--json"]) == 0
    assert cli.main(["run", str(data), "-o", str(out / "run"), *size, "--dry-run"]) == 0
    assert cli.main(["run", str(data), "-o", str(out / "run"), *size]) == 0
    model = ["--model", str(out / "run")]
    assert cli.main(["segment", "-i", str(data), "-o", str(out / "masks"), *model]) == 0
    made = [str(out / "one.nii.gz"), "--counterfactual", str(out / "cf.nii.gz"), "--difference", str(out / "d.nii.gz")]
    assert cli.main(["segment", "-i", str(data / "p1"), "-o", *made, *model]) == 0
    assert cli.main(["segment", "-i", str(data / "p1"), "-o", str(out / "one.nrrd"), *model]) == 0
    assert cli.main(["export", str(out / "run"), "-o", str(out / "model")]) == 0
    assert cli.main(["export-nnunet", str(data), "--masks", str(out / "masks"), "-o", str(out / "Dataset001_x")]) == 0
    assert (
        cli.main(["export-seg", str(out / "one.nii.gz"), "--dicom", str(data / "p1"), "-o", str(tmp_path / "seg" / "m.dcm")]) == 0
    )
    run, reviewed = str(out / "run"), ["--reviewer", "ann", "--accept"]
    assert cli.main(["review-page", run, "-o", str(out / "pages.html")]) == 0
    assert cli.main(["review-import", run, str(out / "run" / "masks"), *reviewed]) == 0
    for kind in ("masks", "nnunet", "prompts", "csv"):
        assert cli.main(["review-export", run, kind, "-o", str(out / "reviewed" / kind)]) == 0
    for kind in ("dicom-seg", "rtstruct"):
        assert cli.main(["review-export", run, kind, "-o", str(tmp_path / "seg" / kind)]) == 0
    files = everything(out)
    assert {
        "run/report.html",
        "run/manifest.json",
        "run/slices/index.csv",
        "masks/index.csv",
        "run/evaluation/slices.csv",
    } <= files.keys()
    said = capfd.readouterr()
    warned = "".join(str(w.message) for w in recwarn)
    assert (
        told(
            files
            | {"stdout": said.out.encode(), "stderr": said.err.encode(), "log": caplog.text.encode(), "warnings": warned.encode()}
        )
        == []
    )
    # A SEG belongs to the study; what else the series says of the patient stays behind.
    objects = sorted((tmp_path / "seg").rglob("*.dcm"))
    assert {path.parent.name for path in objects} == {"seg", "dicom-seg", "rtstruct"}
    for path in objects:
        here = {e.keyword for e in dcmread(path).iterall() if e.VR != "SQ" and any(word in str(e.value) for word in WORDS)}
        assert {"PatientID", "PatientName", "StudyInstanceUID"} <= here
        assert here <= IN_A_SEG | REFERENCES, path


def without(name: str) -> Callable[[list[Dataset]], object]:
    return lambda found: [delattr(ds, name) for ds in found]


BREAKS: dict[str, Callable[[list[Dataset]], object]] = {
    "a slice missing": lambda found: found.pop(1),
    "no position": without("ImagePositionPatient"),
    "no spacing": without("PixelSpacing"),
    "no intercept": without("RescaleIntercept"),
    "no pixels": without("PixelData"),
    "no study": without("StudyInstanceUID"),
    "no frame of reference": lambda found: None,
    "names for positions": lambda found: [ds[0x00200032].__setattr__("_value", SECRET["PatientName"]) for ds in found],
    "another spacing": lambda found: setattr(found[1], "PixelSpacing", [9, 9]),
    "colour": lambda found: setattr(found[0], "SamplesPerPixel", 3),
    "its first image twice": lambda found: setattr(found[1], "ImagePositionPatient", found[0].ImagePositionPatient),
}


@pytest.mark.parametrize("how", BREAKS)
def test_errors_name_nobody(
    tmp_path: Path,
    how: str,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    recwarn: pytest.WarningsRecorder,
) -> None:
    caplog.set_level(logging.DEBUG)
    scan = hounsfield(labelled()).T
    name = f"SENTINEL {SECRET['PatientName']} venous"
    folder = write_series(tmp_path / "p", scan, LPS, series=SERIES, edit=BREAKS[how], SeriesDescription=name, **SECRET)
    save(tmp_path / "m.nii.gz", labelled())
    other = tmp_path / "other"
    write_series(other / "a", scan, LPS, series=f"{SERIES}.1", **SECRET)
    write_series(other / "b", scan, LPS, series=f"{SERIES}.2", number=9, SeriesDescription=name, **SECRET)
    text(tmp_path / "p" / "labels.csv", f"PatientID,label\n{SECRET['PatientID']},1\n")
    recwarn.clear()
    for words in (
        ["inspect", str(tmp_path), "--data.layout", "dicom"],
        ["export-seg", str(tmp_path / "m.nii.gz"), "--dicom", str(folder), "-o", str(tmp_path / "s.dcm")],
        ["export-seg", str(tmp_path / "m.nii.gz"), "--dicom", str(other), "-o", str(tmp_path / "t.dcm")],
        ["run", str(tmp_path), "-o", str(tmp_path.parent / "out"), "--data.layout", "dicom", "--dry-run"],
    ):
        cli.main(words)
    for path in (folder, other):
        try:
            read_volume(path)
        except coinseg.UserError as error:
            print(error)
    said = capfd.readouterr()
    assert said.err.count("coinseg: error:") >= 2
    warned = "".join(str(w.message) for w in recwarn)
    assert (
        told({"out": said.out.encode(), "err": said.err.encode(), "log": caplog.text.encode(), "warnings": warned.encode()}) == []
    )


TEXTS = {
    "SH": "SENTINEL-SH", "LO": "SENTINEL LO", "PN": "SENTINELNAME^GRETA", "ST": "SENTINEL st", "LT": "SENTINEL lt",
    "UT": "SENTINEL ut", "UC": "SENTINEL uc", "CS": "SENTINEL", "AE": "SENTINELAE",
}  # fmt: skip
"""What is planted into tags by their type."""
NUMBERS = ("SeriesNumber", "InstanceNumber", "SliceThickness", "SpacingBetweenSlices")
NEEDED = {"PhotometricInterpretation", "SpecificCharacterSet", "ImageType"}
"""Texts without which it is no image, or another one."""


def planted() -> Dataset:
    """Names in every tag of a text type that the standard has, in private ones and in sequences."""
    names = Dataset()
    for tag, (kind, _, _, retired, keyword) in DicomDictionary.items():
        if kind in TEXTS and not retired and 0x0008 <= tag >> 16 <= 0x0040 and keyword not in NEEDED:
            names.add_new(tag, kind, TEXTS[kind])
    inside = Dataset()
    inside.PatientName = inside.CodeMeaning = "SENTINEL^OTTO"
    names.ReferencedStudySequence = names.RequestAttributesSequence = Sequence([inside])
    names.add_new(0x00091001, "LO", "SENTINEL private")
    names.ImageType = ["SENTINEL", "PRIMARY", "GRETA"]
    return names


def as_text(*tags: str) -> Callable[[list[Dataset]], object]:
    return lambda found: [ds.add_new(tag, "LO", "SENTINEL") for ds in found for tag in tags]


PLANTED: dict[str, Callable[[list[Dataset]], object]] = {
    "nothing": lambda found: None,
    "numbers nobody needs": as_text(*NUMBERS),
    "a modality": lambda found: [setattr(ds, "Modality", "SENTINEL") for ds in found],
    "the size": as_text("Rows"),
    "the frames": as_text("NumberOfFrames"),
    "the slope": as_text("RescaleSlope"),
    "the padding": as_text("PixelPaddingValue"),
    "the class": lambda found: [setattr(ds, "SOPClassUID", "SENTINEL") for ds in found],
    "a mosaic": lambda found: [setattr(ds, "ImageType", ["SENTINEL", "MOSAIC"]) for ds in found],
} | {how: BREAKS[how] for how in ("a slice missing", "names for positions", "no pixels")}


@pytest.mark.parametrize("how", PLANTED)
def test_names_in_any_text_tag_are_in_no_message(
    tmp_path: Path, how: str, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture,
    recwarn: pytest.WarningsRecorder,
) -> None:  # fmt: skip
    """Every command that reads DICOM, where it works and where it fails: one series, two, single files in a table, an X-ray."""
    caplog.set_level(logging.DEBUG)
    scan, model, names = hounsfield(np.repeat(np.repeat(labelled(), 3, 1), 3, 2)).T, make_run(tmp_path / "model"), planted()
    of_images = make_run(tmp_path / "of_images", kind="percentile")

    def edit(found: list[Dataset]) -> None:
        for ds in found:
            modality = ds.Modality
            ds.update(names)
            ds.Modality, ds.FrameOfReferenceUID = modality, "1.2.826.0.1.3680043.99.1"
        PLANTED[how](found)

    place, out = tmp_path / "in", tmp_path / "out"
    data = place / "data"
    write_series(data / "one", scan, LPS, series=f"{SERIES}.1", edit=edit, **SECRET)
    write_series(data / "two" / "a", scan, LPS, series=f"{SERIES}.2", edit=edit, **SECRET)
    write_series(data / "two" / "b", scan[:, :, :2], LPS, series=f"{SERIES}.3", number=9, edit=edit, **SECRET)
    files = sorted(path.relative_to(place).as_posix() for path in (data / "one").iterdir())
    text(place / "single.csv", "file,label\n" + "".join(f"{name},{i % 2}\n" for i, name in enumerate(files)))
    text(data / "labels.csv", "case,label\none,1\ntwo,0\n")
    photo = [header(Modality="DX", SOPClassUID="1.2.840.10008.5.1.4.1.1.1.1", Rows=6, Columns=5, PixelData=bytes(60), **SECRET)]
    photo[0].update(names)
    photo[0].Modality = "DX"
    if how not in BREAKS:
        PLANTED[how](photo)
    save_dicom(photo[0], tmp_path / "x.dcm")
    recwarn.clear()
    caplog.clear()
    commands = [
        ["inspect", data], ["inspect", place / "single.csv"], ["segment", "-i", data / "one", "-o", out / "one.nii.gz"],
        ["segment", "-i", data / "two", "-o", out / "two.nii.gz"], ["segment", "-i", place / files[0], "-o", out / "a.nii.gz"],
        ["segment", "-i", tmp_path / "x.dcm", "-o", out / "x.png", "--model", of_images],
        ["segment", "-i", data, "-o", out / "masks"],
        ["export-seg", out / "one.nii.gz", "--dicom", data / "one", "-o", tmp_path / "one.dcm"],
        ["export-seg", out / "one.nii.gz", "--dicom", data / "two", "-o", tmp_path / "two.dcm"],
    ]  # fmt: skip
    if how in ("nothing", "no pixels"):  # seconds each: one that works and one that fails
        commands.append(["run", place / "single.csv", "-o", out / "run", "--dry-run", *TINY, "--data.size", "16"])
    more = {"segment": ["--model", model], "export-seg": []}  # all have one PatientID and one study
    more |= {"inspect": ["--data.split_by", "slice"], "run": ["--data.split_by", "slice"]}
    codes = [cli.main([str(w) for w in words + ([] if "--model" in words else more[str(words[0])])]) for words in commands]
    assert set(codes) <= {0, 2}
    if how in ("nothing", "numbers nobody needs"):
        assert [codes[i] for i in (0, 1, 2, 4, 5, 7, *range(9, len(codes)))] == [0] * (len(codes) - 3)
        assert (tmp_path / "one.dcm").exists()
    said = capfd.readouterr()
    warned = "".join(str(w.message) for w in recwarn)
    parts = {"out": said.out, "err": said.err, "log": caplog.text, "warnings": warned}
    assert told({name: content.encode() for name, content in parts.items()} | everything(out)) == []


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_texts_in_the_header_of_a_scan_are_in_no_mask_of_it(tmp_path: Path, kind: type[nib.Nifti1Image]) -> None:
    """Converters write names there (dcm2nii: `db_name`); masks, maps and confidences are given away without the scan."""
    scans, out, model = tmp_path / "scans", tmp_path / "out", make_run(tmp_path / "model")
    scan = kind(hounsfield(np.repeat(np.repeat(labelled(), 3, 1), 3, 2)).T, LPS)
    for name in ("data_type", "descrip", "aux_file", "intent_name", "db_name"):
        if name in scan.header.keys():  # noqa: SIM118
            scan.header[name] = b"SENTINEL"
    scan.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"SENTINEL"))
    for name in ("a.nii.gz", "b.nii"):
        scans.mkdir(exist_ok=True)
        nib.save(scan, scans / name)
    more = [word for name in ("counterfactual", "difference", "confidence") for word in (f"--{name}", f"{out / name}.nii.gz")]
    for words in (
        ["segment", "-i", scans, "-o", out / "masks", "--confidence", out / "sure", "--model", model],
        ["segment", "-i", scans / "b.nii", "-o", out / "one.nii", "--model", model, *more],
        ["segment", "-i", scans / "b.nii", "-o", out / "one.nrrd", "--model", model],
        ["export-nnunet", scans, "--masks", out / "masks", "-o", tmp_path / "Dataset001_x"],
    ):  # fmt: skip
        assert cli.main([str(word) for word in words]) == 0
    assert told(everything(out) | everything(tmp_path / "Dataset001_x" / "labelsTr")) == []
    read, given = nib.load(out / "one.nii"), nib.load(scans / "b.nii")
    assert np.array_equal(read.affine, given.affine)
    assert int(read.header["sform_code"]) == int(given.header["sform_code"])


@pytest.mark.parametrize("line", ["type: SENTINEL", "space: SENTINEL^GRETA", "encoding: SENTINEL", "kinds: SENTINEL a b"])
def test_what_an_nrrd_header_says_is_in_no_message(tmp_path: Path, capfd: pytest.CaptureFixture[str], line: str) -> None:
    good = write_itk(tmp_path / "good.nrrd", labelled().T.astype(np.int16), LPS).read_bytes().split(b"\n\n", 1)
    key = line.partition(":")[0].encode()
    lines = [each for each in good[0].splitlines() if not each.startswith(key + b":")]
    (tmp_path / "x.nrrd").write_bytes(b"\n".join([*lines, line.encode(), b"", good[1]]))
    words = ["segment", "-i", tmp_path / "x.nrrd", "-o", tmp_path / "m.nii.gz", "--model", make_run(tmp_path / "model")]
    assert cli.main([str(word) for word in words]) == 2
    said = capfd.readouterr()
    assert told({"out": said.out.encode(), "err": said.err.encode()}) == []


def test_names_of_files_run_nothing_in_a_report_or_a_spreadsheet(tmp_path: Path) -> None:
    """A whole run on images and folders with hostile names."""
    data, out = write_images(tmp_path / "<b onload=x>'\"&", patients=4, each=2), tmp_path / "out"
    names = {
        "i00": "=cmd|' C'!A0",
        "i01": "<script>alert(1)</script>".replace("/", "_"),
        "i02": "@SUM(1)",
        "i03": '"><img src=x onerror=y>',
        "i05": "-1+1",
        "i07": "{{7*7}}",
    }
    for path in sorted(data.rglob("*.png")):
        if path.stem in names:
            path.rename(path.with_name(f"{names[path.stem]}.png"))
    Image.new("L", (9, 9)).save(data / "masks" / "=no image <i>.png")
    assert cli.main(["run", str(data), "-o", str(out), *TINY]) == 0
    assert cli.main(["segment", "-i", str(data / "abnormal"), "-o", str(tmp_path / "masks"), "--model", str(out)]) == 0
    page = (out / "report.html").read_text()
    assert not re.search(r"<script|<img src=x|<b onload|onerror=y>|<i>", page)
    assert "https://" not in page
    assert "http://" not in page
    assert all(source.startswith("data:image/png;base64,") for source in re.findall(r'src="([^"]*)"', page))
    links = [link for link in re.findall(r'href="([^"]*)"', page) if not link.startswith("data:image/webp;base64,")]
    assert not any(re.match(r"[a-z]+:|//", link, re.I) for link in links)
    assert "&lt;i&gt;" in page
    for table in [*out.rglob("*.csv"), *(tmp_path / "masks").rglob("*.csv")]:
        for cell in re.split(r"[,\n]", table.read_text()):
            assert not re.match(r'"?[=@\t]', cell), f"{table}: {cell}"
            assert not re.match(r'"?[+-]', cell) or float(cell) < 1e9
