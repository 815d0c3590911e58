"""What leaves coinseg: a run in one folder, ONNX, DICOM SEG, nnU-Net data, tables; each opened again by other means."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
import torch
from PIL import Image
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from torch import nn

import coinseg
from coinseg.cli import main as cli
from coinseg.config.parsing import settings_from
from coinseg.config.schema import Settings
from coinseg.data.layouts.registry import read_layout
from coinseg.data.readers.image import write_image_map, write_image_mask
from coinseg.data.readers.volume import read_mask, read_volume, write_mask, write_scan
from coinseg.data.slices.crop import Box, Cut
from coinseg.data.slices.intensity import percentiles
from coinseg.errors import UserError
from coinseg.explain.counterfactual.generator import build_generator
from coinseg.export.card import model_card
from coinseg.export.dicom_seg import frames_of, write_dicom_seg
from coinseg.export.folder import export_run
from coinseg.export.nnunet import TrainingCase, Uncertain, cases_in, ring, write_nnunet
from coinseg.export.to_onnx import compare, probe_images, write_onnx
from coinseg.inference import sources
from coinseg.inference.classes import ClassPredictors
from coinseg.inference.maps import ConfidenceMap
from coinseg.inference.predictor import Predictor
from coinseg.inference.scans import Segmentation
from coinseg.inference.table import TOLD, as_csv, measure
from coinseg.networks import classifier
from coinseg.networks.classes import generator_of, logit_of, map_of
from coinseg.networks.classifier import Classifier, build
from coinseg.parts.base import Part
from coinseg.parts.patchcore import FEATURES, MemoryBank, PatchCore
from coinseg.pipeline import run_folder
from coinseg.pipeline.label_maps import names_beside, palette, surest, write_label_map
from coinseg.types import MaskSource
from conftest import SIZE, tiny_settings
from models import with_parts
from writers import PLAIN, make_run, make_scan, scan_of, write_series

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


class TinyNetwork(nn.Module):
    """The classifier of somebody else."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 1)
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x))


class Bright(Part):
    """A part that has a network of its own and adds to the image score."""

    onnx = "novelty"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, 0] + 1

    def score(self, logits: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return logits + x.mean((1, 2, 3))


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line of a command that must fail."""
    assert cli.main([str(word) for word in arguments]) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("coinseg: error: ")]
    assert len(said) == 1
    assert "; required: " in said[0]
    return said[0]


# --- a run in one folder -------------------------------------------------------------------------------------------


def test_an_exported_run_gives_the_same_masks_from_anywhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tiny_settings()
    settings = replace(
        settings, data=replace(settings.data, masks="secret_masks", organ_from="/secret/organs", normal=("/secret/normal",)),
        classifier=replace(settings.classifier, weights="/secret/weights.pt"),
        student=replace(settings.student, reviewed="/secret/review"),
    )  # fmt: skip
    root, out, scan = make_run(tmp_path / "run", settings), tmp_path / "away" / "model", make_scan(tmp_path / "scan.nii.gz")
    (root / "manifest.json").write_text(json.dumps({
        "version": "0.1.0", "created": "then", "seed": 3, "command": "coinseg run /secret/data", "warnings": ["data: /secret"],
        "settings": {"data": {"masks": "/secret"}}, "data": {"path": "/secret/data", "cases": 7, "label_source": "/secret/x.csv"},
        "scores": {"iou_mask_free": 0.5}, "threshold": {"value": 0.05, "rule": "r"}, "versions": {"torch": "2"},
    }))  # fmt: skip
    before = coinseg.load(root).segment(scan).mask
    assert before.any()
    assert cli.main(["export", str(root), "-o", str(out)]) == 0
    assert "8 files" in capsys.readouterr().out
    root.rename(tmp_path / "gone")
    asked: list[str | None] = []
    monkeypatch.setattr(classifier, "build", lambda settings, *rest: asked.append(settings.weights) or build(settings, *rest))
    assert np.array_equal(coinseg.load(out).segment(scan).mask, before)
    assert cli.main(["segment", "-i", str(scan), "-o", str(tmp_path / "m.nii.gz"), "--model", str(out)]) == 0
    assert np.asarray(nib.load(tmp_path / "m.nii.gz").dataobj).sum() == before.sum()
    coinseg.load(tmp_path / "gone")
    assert set(asked) == {None}  # pretrained weights are not looked for, in an export or a run
    files = [path for path in out.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".json", ".safetensors", ".md"}
    for path in files:
        assert b"secret" not in path.read_bytes()
        assert str(tmp_path).encode() not in path.read_bytes()
    kept = json.loads((out / "manifest.json").read_text())
    assert (kept["scores"], kept["data"]["cases"], kept["seed"]) == ({"iou_mask_free": 0.5}, 7, 3)


def test_the_card_says_what_the_model_is_and_is_not(tmp_path: Path) -> None:
    scores = {
        "iou_mask_free": 0.51, "iou_oracle": 0.6, "auroc": None, "slices_abnormal": 9, "slices_normal": 8, "slices_scored": 4,
        "null_because": {"auroc": "only one class\nis held out"},
    }  # fmt: skip
    data = {
        "cases": 7, "patients": 6, "layout": "csv", "slices": 70, "abnormal": 30, "patients_held_out": 2,
        "labels_from_lesion_masks": True,
    }  # fmt: skip
    manifest = {"coinseg": "9", "trained_with": "8", "trained": "then", "verdict": "DOUBTFUL: x", "data": data, "scores": scores}
    settings = tiny_settings(seed=5)
    card = " ".join(model_card(manifest, settings, "hu").split())
    for words in (
        "**DOUBTFUL: x**", "written by coinseg 9", "Trained with coinseg 8 at then, seed 5", "CT in Hounsfield units",
        "7 cases of 6 patients (csv), 70 slices; 30 of the slices are abnormal", "2 patients were held out",
        "The image labels were made from lesion masks.", "No lesion mask was used for the training or the threshold",
        "| IoU over abnormal images (the threshold saw no mask) | 0.510 |", "**an upper bound, no score** | 0.600 |",
        "| AUROC of the classifier, by image | not known: only one class is held out |",
        "9 abnormal images; 8 normal images; 4 of the abnormal ones have a lesion mask.", "**not a medical device**",
        f"- `data.size: 96 -> {settings.data.size}`",
    ):  # fmt: skip
        assert words in card, words
    assert "auroc_scans" not in card
    reviewed = replace(settings, student=replace(settings.student, reviewed="x"))
    said = " ".join(model_card(manifest | {"verdict": None, "scores": None}, reviewed, "percentile").split())
    assert "No lesion mask was used" not in said
    assert "The student also learnt masks that a person had reviewed" in said
    assert "**This run was not judged.**" in said
    assert "Not known: the run has no manifest" in said
    assert "each scaled by its own percentiles" in said


def test_an_export_takes_no_ones_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, out = make_run(tmp_path / "run"), tmp_path / "out"
    assert "is the run" in refused(capsys, "export", root, "-o", root, "--overwrite")
    assert "has no model.json" in refused(capsys, "export", tmp_path, "-o", out)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.docx").write_text("mine")
    assert "holds something else" in refused(capsys, "export", root, "-o", tmp_path / "mine", "--overwrite")
    assert (tmp_path / "mine" / "thesis.docx").exists()
    export_run(root, out)
    assert "exists" in refused(capsys, "export", root, "-o", out)
    export_run(root, out, overwrite=True)
    (root / "coin" / "generator.safetensors").unlink()
    assert "is missing" in refused(capsys, "export", root, "-o", tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_onnx_without_the_library_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("onnx", "onnxruntime", "onnxscript"):
        monkeypatch.setitem(sys.modules, name, None)
    line = refused(capsys, "export", make_run(tmp_path / "run"), "-o", tmp_path / "out", "--onnx")
    assert "the library onnx is not installed" in line
    assert "pip install 'coinseg[onnx]'" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_onnx_networks_make_the_same_masks_for_any_number_of_images(tmp_path: Path) -> None:
    ort = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    settings = tiny_settings()
    settings = replace(
        settings, coin=replace(settings.coin, depth=1, skips=0), classifier=replace(settings.classifier,
            name="test_export:TinyNetwork")
    )  # fmt: skip
    root = make_run(tmp_path / "run", settings, "percentile")
    run, folder = coinseg.load(root, classifier="test_export:TinyNetwork"), tmp_path / "onnx"
    patchcore = PatchCore(MemoryBank(torch.rand(60, FEATURES), 1.0))
    run = with_parts(run, [patchcore])
    folder.mkdir()
    probes = probe_images(root, run)
    assert probes.shape == (7, 1, SIZE, SIZE)
    said = write_onnx(run, folder, probes)
    assert said["mask_pixels_that_differ"] == 0 < said["mask_pixels"]
    assert said["largest_difference"] < 1e-4
    # by other means, with another number of images than the probes and the example
    x = torch.rand(3, 1, SIZE, SIZE) * 2 - 1
    for name, network in (("f", run.f), ("generator", run.generator), ("novelty", patchcore)):
        found = ort.InferenceSession(str(folder / f"{name}.onnx")).run(None, {"image": x.numpy()})[0]
        torch.testing.assert_close(torch.from_numpy(found), network(x).detach(), atol=1e-4, rtol=1e-4)
        assert str(Path(coinseg.__file__).parent).encode() not in (folder / f"{name}.onnx").read_bytes()
    # networks that are not those of the run are found out
    torch.nn.init.normal_(run.generator.head[-1].weight, std=0.5)
    with pytest.raises(UserError, match=r"ONNX networks differ from torch.*; required: the same masks"):
        compare(run, folder, probes)


def test_onnx_networks_of_several_classes_give_what_segment_gives(tmp_path: Path) -> None:
    ort = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    settings = tiny_settings()
    settings = replace(settings, coin=replace(settings.coin, depth=1, skips=0))
    one = coinseg.load(make_run(tmp_path / "run", settings))
    generator, student = build_generator(settings.coin, 1, 2), nn.Conv2d(1, 2, 3, padding=1).eval()
    for module in generator.modules():
        if isinstance(module, nn.Embedding | nn.Conv2d):
            nn.init.normal_(module.weight, std=0.3)
    f, other = (Classifier(nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(16, 2)), 2).frozen() for _ in range(2))

    def of_class(number: int) -> Predictor:
        explainer = replace(one.explainer, f=logit_of(f, number, 2), generator=generator_of(generator, number, 2))
        networks, others, parts = map_of(student, number, 2), [logit_of(other, number, 2)], [Bright()] if number else []
        return Predictor.of(explainer, one.preparation, one.threshold, networks, others, 0.3 + number, parts)

    run = ClassPredictors({"cyst": of_class(0), "mass": of_class(1)})
    probes, folder = probe_images(tmp_path, run), tmp_path / "onnx"
    folder.mkdir()
    assert all(one.logits(probes)[:, 1].std() > 0 for one in run.of.values())
    said = write_onnx(run, folder, probes)
    assert said["mask_pixels_that_differ"] == 0 < said["mask_pixels"]
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.onnx")) == [
        "classes/mass/novelty.onnx", "f.onnx", "generator.onnx", "posterior.onnx", "student.onnx",
    ]  # fmt: skip

    def outputs(name: str, **values: torch.Tensor) -> torch.Tensor:
        session = ort.InferenceSession(str(folder / f"{name}.onnx"))
        return torch.from_numpy(session.run(None, {key: value.numpy() for key, value in values.items()})[0])

    x, numbers = torch.rand(3, 1, SIZE, SIZE) * 2 - 1, torch.tensor([1, 0, 1])
    logits, posterior, pixels, painted = (
        outputs("f", image=x), outputs("posterior", image=x), outputs("student", image=x),
        outputs("generator", image=x, **{"class": numbers}),
    )  # fmt: skip
    assert (logits.shape, pixels.shape) == ((3, 2), (3, 2, SIZE, SIZE))
    for number, one in enumerate(run.of.values()):
        found = torch.from_numpy(one.logits(x))
        torch.testing.assert_close(torch.stack([logits[:, number], posterior[:, number]], 1), found, atol=1e-4, rtol=1e-4)
        own = torch.from_numpy(np.asarray(one.student(x).detach()))[:, 0]
        torch.testing.assert_close(pixels[:, number], own, atol=1e-4, rtol=1e-4)
        asked = numbers == number
        torch.testing.assert_close(painted[asked].clamp(-1, 1), one.explainer.counterfactual(x)[asked], atol=1e-4, rtol=1e-4)
    with torch.no_grad():
        student.bias[1] += 3.0
    with pytest.raises(UserError, match=r"ONNX networks differ from torch.*; required: the same masks"):
        compare(run, folder, probes)


def test_an_exported_run_of_several_classes_marks_what_the_run_marks(tmp_path: Path) -> None:
    root, scan = make_run(tmp_path / "run", classes=("cyst", "mass")), make_scan(tmp_path / "scan.nii.gz")
    assert cli.main(["export", str(root), "-o", str(tmp_path / "model")]) == 0
    found = [coinseg.load(folder).segment(scan) for folder in (root, tmp_path / "model")]
    assert list(found[0]) == list(found[1]) == ["cyst", "mass"]
    assert all(np.array_equal(found[0][name].mask, found[1][name].mask) for name in found[0])
    assert not np.array_equal(found[0]["cyst"].mask, found[0]["mass"].mask)


def test_segment_writes_one_scan_with_several_classes_as_a_label_map(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, scan = make_run(tmp_path / "run", classes=("cyst", "mass")), make_scan(tmp_path / "scans" / "scan.nii.gz")
    mask, sure = tmp_path / "m.nii.gz", tmp_path / "c.nii.gz"
    command = ["segment", "-i", str(scan), "-o", str(mask), "--model", str(root)]
    assert cli.main([*command, "--confidence", str(sure)]) == 0
    assert "values: 1 cyst, 2 mass; in an overlap the class with the highest confidence" in capsys.readouterr().out
    found = coinseg.load(root).segment(scan)
    masks, percents = ([pick(one) for one in found.values()] for pick in (
        lambda one: one.mask, lambda one: np.asarray(one.pixel_confidence.percent),
    ))  # fmt: skip
    labels, confidence = read_volume(mask).scan, read_volume(sure).scan
    assert np.array_equal(labels, surest(np.stack(masks), np.stack(percents)))
    assert {*np.unique(labels)} == {0, 1, 2}
    assert (masks[0] & masks[1]).any()
    for value, percent in enumerate(percents, 1):
        assert np.array_equal(confidence[labels == value], percent[labels == value])
    assert np.array_equal(confidence[labels == 0], np.maximum(*percents)[labels == 0])
    assert names_beside(mask) == ("cyst", "mass")

    folder = ["segment", "-i", str(scan.parent), "-o", str(tmp_path / "out"), "--model", str(root)]
    assert cli.main(folder) == 0
    assert (tmp_path / "out" / "scan.nii.gz").read_bytes() == mask.read_bytes()
    assert "leave --confidence out" in refused(capsys, *folder, "--confidence", tmp_path / "sure", "--overwrite")
    assert "m.nii.gz exists" in refused(capsys, *command)
    mask.unlink()
    assert "m.labels.json exists" in refused(capsys, *command)
    assert "and a run of 2 classes" in refused(capsys, *command, "--difference", tmp_path / "d.nii.gz")
    one = make_run(tmp_path / "one")
    assert "m.labels.json exists" in refused(capsys, *command[:-1], one)
    assert cli.main([*command[:-1], str(one), "--overwrite"]) == 0
    assert names_beside(mask) == ()  # a mask of one class has no names of an earlier label map


def test_an_image_with_several_classes_is_a_palette_png_in_the_colours_of_a_run(tmp_path: Path) -> None:
    masks = np.zeros((2, 1, 4, 6), bool)
    masks[0, 0, :3], masks[1, 0, 2:] = True, True

    def of(mask: np.ndarray, percent: int) -> Segmentation:
        nan, sure = np.full(1, np.nan), ConfidenceMap(mask.shape, "axial")
        sure.add(Cut(0, -1, Box(0, 0, 4, 6), None), np.full((8, 8), percent / 100))
        return Segmentation(mask, nan, nan, nan, nan, sure)

    found = {"cyst": of(masks[0], 60), "mass": of(masks[1], 80)}
    write_label_map(found, tmp_path / "m.png", tmp_path / "m.labels.json")
    with Image.open(tmp_path / "m.png") as picture:
        assert (picture.mode, picture.getpalette()[:9]) == ("P", palette(2)[:9])
        assert np.asarray(picture).tolist() == [[1] * 6] * 2 + [[2] * 6] * 2


# --- DICOM SEG -----------------------------------------------------------------------------------------------------

TURN = np.array([[np.cos(0.3), np.sin(0.3), 0.0], [-np.sin(0.3) * np.cos(0.2), np.cos(0.3) * np.cos(0.2), np.sin(0.2)]])


def make_series(folder: Path, slices: int = 5, rows: int = 12, columns: int = 10) -> list[Dataset]:
    """An oblique CT series whose files are in another order than its slices; returns it by slice."""
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    folder.mkdir(parents=True)
    datasets = []
    for i, place in enumerate(np.random.default_rng(1).permutation(slices)):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        image = FileDataset(str(folder / f"{place}.dcm"), {}, file_meta=meta, preamble=b"\0" * 128)
        image.SOPClassUID, image.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
        image.PatientID, image.PatientName, image.PatientBirthDate, image.PatientSex = "p", "A^B", "", ""
        image.StudyInstanceUID, image.SeriesInstanceUID, image.FrameOfReferenceUID = study, series, frame
        image.StudyDate, image.StudyTime, image.StudyID, image.AccessionNumber = "20240101", "101010", "1", ""
        image.ReferringPhysicianName, image.Modality, image.SeriesNumber, image.InstanceNumber = "", "CT", 1, i + 1
        image.PositionReferenceIndicator, image.Manufacturer = "", "none"
        image.ImageOrientationPatient = [f"{value:.10f}" for value in TURN.ravel()]
        origin = np.array([-10.0, 20.0, 5.0]) + i * 3.0 * np.cross(*TURN)
        image.ImagePositionPatient = [f"{value:.8f}" for value in origin]
        image.PixelSpacing, image.SliceThickness = [0.9, 0.6], 3.0
        image.Rows, image.Columns, image.SamplesPerPixel, image.PhotometricInterpretation = rows, columns, 1, "MONOCHROME2"
        image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 16, 15, 1
        image.PixelData = np.zeros((rows, columns), np.int16).tobytes()
        image.save_as(folder / f"{place}.dcm", enforce_file_format=True)
        datasets.append(image)
    return datasets


def affine_of(series: list[Dataset]) -> np.ndarray:
    """(column, flipped row, slice) indices of `make_series` to RAS+ millimetres."""
    lps = np.eye(4)
    lps[:3, 0], lps[:3, 1], lps[:3, 2] = TURN[0] * 0.6, -TURN[1] * 0.9, 3.0 * np.cross(*TURN)
    lps[:3, 3] = np.array(series[0].ImagePositionPatient, float) + TURN[1] * 0.9 * 11
    return np.diag([-1.0, -1, 1, 1]) @ lps


def frames_in(path: Path, series: list[Dataset], segment: int = 1) -> np.ndarray:
    """A segment of a SEG read with pydicom alone: (images, rows, columns) in the order of `series`, by what frames refer to."""
    seg = pydicom.dcmread(path)
    assert seg.SegmentationType == "BINARY"
    bits = np.unpackbits(np.frombuffer(seg.PixelData, np.uint8), bitorder="little")
    frames = bits[: seg.NumberOfFrames * seg.Rows * seg.Columns].reshape(seg.NumberOfFrames, seg.Rows, seg.Columns)
    order = [image.SOPInstanceUID for image in series]
    found = np.zeros((len(series), seg.Rows, seg.Columns), bool)
    for frame, facts in zip(frames, seg.PerFrameFunctionalGroupsSequence, strict=True):
        source = facts.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        i = order.index(source)
        np.testing.assert_allclose(facts.PlanePositionSequence[0].ImagePositionPatient, series[i].ImagePositionPatient, atol=1e-4)
        shared = seg.SharedFunctionalGroupsSequence[0]  # of a single segment
        of = (facts if "SegmentIdentificationSequence" in facts else shared).SegmentIdentificationSequence[0]
        if of.ReferencedSegmentNumber == segment:
            found[i] |= frame > 0
    return found


def test_a_seg_has_every_voxel_where_it_was_and_says_what_it_is(tmp_path: Path) -> None:
    series = make_series(tmp_path / "series")
    shuffled = [series[i] for i in (3, 0, 4, 2, 1)]
    mask = np.random.default_rng(0).random((5, 12, 10)) > 0.6
    mask[2] = False
    write_dicom_seg(mask, shuffled, tmp_path / "mask.dcm")
    assert np.array_equal(frames_in(tmp_path / "mask.dcm", shuffled), mask)
    seg = pydicom.dcmread(tmp_path / "mask.dcm")
    assert (seg.Modality, seg.PatientID, seg.StudyInstanceUID) == ("SEG", "p", series[0].StudyInstanceUID)
    assert seg.FrameOfReferenceUID == series[0].FrameOfReferenceUID
    assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == series[0].SeriesInstanceUID
    segment = seg.SegmentSequence[0]
    kind, what = segment.SegmentedPropertyCategoryCodeSequence[0], segment.SegmentedPropertyTypeCodeSequence[0]
    assert (kind.CodingSchemeDesignator, kind.CodeValue) == ("SCT", "49755003")
    assert (what.CodingSchemeDesignator, what.CodeValue, what.CodeMeaning) == ("SCT", "52988006", "Lesion")
    algorithm = segment.SegmentationAlgorithmIdentificationSequence[0]
    assert (segment.SegmentAlgorithmType, algorithm.AlgorithmName) == ("AUTOMATIC", "coinseg")
    write_dicom_seg(np.zeros_like(mask), series, tmp_path / "empty.dcm")
    assert not frames_in(tmp_path / "empty.dcm", series).any()


def test_a_series_without_the_patient_can_carry_a_seg_and_stays_as_it_is(tmp_path: Path) -> None:
    """Removing names often removes the elements themselves, which DICOM allows to be empty and not to be absent."""
    series = make_series(tmp_path / "series")
    for image in series:
        del image.PatientID, image.PatientName, image.PatientBirthDate, image.PatientSex, image.StudyDate, image.AccessionNumber
    mask = np.random.default_rng(0).random((5, 12, 10)) > 0.6
    write_dicom_seg(mask, series, tmp_path / "mask.dcm")
    assert np.array_equal(frames_in(tmp_path / "mask.dcm", series), mask)
    assert all("PatientSex" not in image and "PatientID" not in image for image in series)


def test_a_mask_on_the_scans_grid_finds_its_series(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The scan as a converter would write it: columns and rows swapped for NIfTI, rows flipped, RAS."""
    series, out = make_series(tmp_path / "series"), tmp_path / "mask.dcm"
    mask = np.random.default_rng(2).random((5, 12, 10)) > 0.7
    affine = affine_of(series)
    file = tmp_path / "mask.nii.gz"
    nib.save(nib.Nifti1Image(mask[:, ::-1].transpose(2, 1, 0).astype(np.uint8), affine), file)
    assert cli.main(["export-seg", str(file), "--dicom", str(tmp_path / "series"), "-o", str(out)]) == 0
    assert "on 5 of 5 images" in capsys.readouterr().out
    assert np.array_equal(frames_in(out, series), mask)
    assert "exists" in refused(capsys, "export-seg", file, "--dicom", tmp_path / "series", "-o", out)
    assert ".dcm" in refused(capsys, "export-seg", file, "--dicom", tmp_path / "series", "-o", tmp_path / "x.seg")
    (tmp_path / "series" / "0.dcm").unlink()
    assert "lie on no image of the series" in refused(
        capsys, "export-seg", file, "--dicom", tmp_path / "series", "-o", out, "--overwrite"
    )
    affine[0, 3] += 0.4
    nib.save(nib.Nifti1Image(mask[:, ::-1].transpose(2, 1, 0).astype(np.uint8), affine), file)
    assert "does not lie on voxels" in refused(
        capsys, "export-seg", file, "--dicom", tmp_path / "series", "-o", out, "--overwrite"
    )
    (tmp_path / "none").mkdir()
    assert "no DICOM file" in refused(capsys, "export-seg", file, "--dicom", tmp_path / "none", "-o", out, "--overwrite")
    make_series(tmp_path / "series" / "other")
    assert "2 DICOM series" in refused(capsys, "export-seg", file, "--dicom", tmp_path / "series", "-o", out, "--overwrite")
    with pytest.raises(UserError, match=r"the mask has shape .* and the series"):
        write_dicom_seg(mask[:3], series, tmp_path / "y.dcm")
    with pytest.raises(UserError, match="two images of the series lie on one slice"):
        frames_of(mask[:, ::-1], affine_of(series), [*series, series[2]])
    del series[1].FrameOfReferenceUID, series[0].FrameOfReferenceUID
    with pytest.raises(UserError, match=r"cannot carry a segmentation .*; required: single-frame images"):
        write_dicom_seg(mask, series, tmp_path / "y.dcm")
    assert not (tmp_path / "y.dcm").exists()


def write_labels(file: Path, labels: np.ndarray, affine: np.ndarray, names: Sequence[str] = ("kyste", "tumor, left")) -> Path:
    """A label map as `segment` leaves it for one scan, of (slices, rows, columns) from inferior and anterior."""
    file.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(labels[:, ::-1].transpose(2, 1, 0).astype(np.uint8), affine), file)
    values = {"background": 0} | {name: value for value, name in enumerate(names, 1)}
    file.with_name(f"{file.name.removesuffix('.nii.gz')}.labels.json").write_text(json.dumps({"labels": values, "overlap": "-"}))
    return file


def test_a_label_map_becomes_a_segment_for_each_class(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    series, out = make_series(tmp_path / "series"), tmp_path / "mask.dcm"
    labels = np.random.default_rng(2).integers(0, 3, (5, 12, 10))
    labels[3] *= labels[3] != 2
    file = write_labels(tmp_path / "mask.nii.gz", labels, affine_of(series))
    command = ["export-seg", str(file), "--dicom", str(tmp_path / "series"), "-o", str(out)]
    assert cli.main(command) == 0
    each = [int((labels == value).sum()) for value in (1, 2)]
    assert f"{sum(each)} voxels (kyste {each[0]}, tumor, left {each[1]}) on 5 of 5 images" in capsys.readouterr().out
    segments = pydicom.dcmread(out).SegmentSequence
    assert [(one.SegmentNumber, one.SegmentLabel) for one in segments] == [(1, "kyste"), (2, "tumor, left")]
    for value in (1, 2):
        assert np.array_equal(frames_in(out, series, value), labels == value)
    assert "2 classes: kyste, tumor, left; required: the names" in refused(capsys, *command, "--overwrite", "--label", "x")
    labels[0, 0, 0] = 7
    write_labels(file, labels, affine_of(series))
    assert "has the values 7; required: 0, and 1 to 2, which kyste, tumor, left have" in refused(capsys, *command, "--overwrite")
    (tmp_path / "mask.labels.json").write_text('{"labels": {"background": 0, "kyste": 2}}')
    assert "mask.labels.json is damaged (it does not number" in refused(capsys, *command, "--overwrite")


def test_the_names_of_a_mask_are_those_of_its_own_folder(tmp_path: Path) -> None:
    """The binary masks of one class lie below the label maps, and have no names of classes."""
    own = tmp_path / "classes" / "a" / "masks"
    for folder in (tmp_path, own):
        (folder / "sub").mkdir(parents=True)
        (folder / "index.json").write_text("{}")
    (tmp_path / "labels.json").write_text(json.dumps({"labels": {"background": 0, "a": 1, "b": 2}}))
    assert names_beside(tmp_path) == names_beside(tmp_path / "x.nii.gz") == names_beside(tmp_path / "sub" / "x.png") == ("a", "b")
    assert names_beside(own) == names_beside(own / "x.nii.gz") == names_beside(own / "sub" / "x.png") == ()


def test_a_real_ct_as_nifti_and_as_dicom_has_one_mask_that_the_seg_carries(tmp_path: Path) -> None:
    """3D-IRCADb-01: a few slices through both kidneys; NIfTI -> DICOM -> segment -> SEG, and NIfTI -> segment."""
    source = DATA / "3dircadb1-ct-kidney" / "ircad01_ct.nii.gz"
    if not source.is_file():
        pytest.skip("the shared data set 3dircadb1-ct-kidney is not on this machine")
    whole = nib.load(source)
    part = whole.slicer[100:420, 150:400, 60:66]
    nib.save(part, tmp_path / "ct.nii.gz")
    hu = np.asarray(part.dataobj)
    folder = write_series(tmp_path / "series", hu.astype(np.int16), part.affine, FrameOfReferenceUID="1.2.3.5")
    root = make_run(tmp_path / "run")
    for scan, name in ((tmp_path / "ct.nii.gz", "nifti"), (folder, "dicom")):
        assert cli.main(["segment", "-i", str(scan), "-o", str(tmp_path / f"{name}.nii.gz"), "--model", str(root)]) == 0
    mask = np.asarray(nib.load(tmp_path / "nifti.nii.gz").dataobj) > 0
    assert mask.shape == hu.shape
    assert 0.001 < mask.mean() < 0.9
    geometry = read_volume(tmp_path / "ct.nii.gz").geometry
    assert np.array_equal(read_mask(MaskSource(tmp_path / "dicom.nii.gz"), geometry), geometry.to_canonical(mask))
    seg = tmp_path / "seg.dcm"
    assert cli.main(["export-seg", str(tmp_path / "dicom.nii.gz"), "--dicom", str(folder), "-o", str(seg)]) == 0
    series = sorted((pydicom.dcmread(path) for path in folder.iterdir()), key=lambda image: float(image.ImagePositionPatient[2]))
    assert np.array_equal(frames_in(seg, series), mask.transpose(2, 1, 0))


# --- nnU-Net -------------------------------------------------------------------------------------------------------


def test_the_ring_by_hand() -> None:
    mask = np.zeros((1, 9, 9), bool)
    mask[0, 2:7, 2:7] = True
    mask[0, 0, 0] = True  # nothing certain would be left of it
    found = ring(mask, 1)
    assert not found[0, 3:6, 3:6].any()
    assert found[0, 2, 2:7].all()
    assert found[0, 1, 2:7].all()
    assert not found[0, 1, 1]  # diagonal: 1.4 pixels away
    assert not found[0, 0, 0]
    assert found[0, 0, 1]
    assert not ring(mask, 0).any()


def test_nnunet_data_are_what_nnunet_wants(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scans, masks, out = tmp_path / "scans", tmp_path / "masks", tmp_path / "Dataset101_lesion"
    written = {}
    for i in range(2):
        volume = read_volume(make_scan(scans / f"s{i}.nii.gz", seed=i))
        mask = np.zeros(volume.scan.shape, bool)
        mask[1, 10:20, 12:22] = True
        write_mask(masks / f"s{i}.nii.gz", mask, volume.geometry)
        difference = np.where(np.arange(volume.scan.shape[2]) < 3, 5.0, 0.0).astype(np.float32) + np.zeros_like(mask, np.float32)
        write_scan(tmp_path / "differences" / f"s{i}.nii.gz", difference, volume.geometry)
        written[f"s{i}"] = mask
    (scans / "unsegmented").mkdir()
    make_scan(scans / "unsegmented" / "x.nii.gz")
    assert cli.main([
        "export-nnunet", str(scans), "--masks", str(masks), "-o", str(out), "--band", "2", "--between", "4", "6",
        "--differences", str(tmp_path / "differences"),
    ]) == 0  # fmt: skip
    about = json.loads((out / "dataset.json").read_text())
    assert about["labels"] == {"background": 0, "lesion": 1, "ignore": 2}
    assert (about["channel_names"], about["numTraining"], about["file_ending"]) == ({"0": "CT"}, 2, ".nii.gz")
    assert sorted(p.name for p in (out / "imagesTr").iterdir()) == ["s0_0000.nii.gz", "s1_0000.nii.gz"]
    for name, mask in written.items():
        image, label = nib.load(out / "imagesTr" / f"{name}_0000.nii.gz"), nib.load(out / "labelsTr" / f"{name}.nii.gz")
        np.testing.assert_array_equal(image.affine, label.affine)
        assert (out / "imagesTr" / f"{name}_0000.nii.gz").read_bytes() == (scans / f"{name}.nii.gz").read_bytes()
        labels = read_volume(out / "labelsTr" / f"{name}.nii.gz").scan
        assert set(np.unique(labels)) == {0, 1, 2}
        assert (labels[..., :3] == 2).all()
        assert np.array_equal(labels[..., 3:] == 2, ring(mask, 2)[..., 3:])
        assert (labels[1, 12:18, 14:20] == 1).all()
    assert "exists" in refused(capsys, "export-nnunet", scans, "--masks", masks, "-o", out)
    assert "mend them" in refused(capsys, "export-nnunet", scans, "--masks", masks, "-o", out, "--between", "1", "2")
    assert "is not a coinseg run" in refused(capsys, "export-nnunet", scans, "-o", tmp_path / "other")
    assert "has a mask in" in refused(capsys, "export-nnunet", scans, "--masks", tmp_path, "-o", tmp_path / "other")
    with pytest.raises(UserError, match="unique names"):
        write_nnunet(tmp_path / "other", [TrainingCase("a", scans / "s0.nii.gz", None)] * 2)
    write_image_mask(tmp_path / "plain.png", np.zeros((4, 4), bool))
    both = [TrainingCase("a", tmp_path / "plain.png", None), TrainingCase("b", scans / "s0.nii.gz", None)]
    with pytest.raises(UserError, match="a volume and a plain image"):
        write_nnunet(tmp_path / "other", both, Uncertain(1))
    with pytest.raises(UserError, match="--between and plain images"):
        write_nnunet(tmp_path / "other", both[:1], Uncertain(0, (1, 2)))
    assert not (tmp_path / "other").exists()
    assert "ignore" not in write_nnunet(tmp_path / "other", [TrainingCase("a", scans / "s0.nii.gz", None)])["labels"]


def test_plain_images_become_nnunet_data_of_png(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng, data, root = np.random.default_rng(0), tmp_path / "data", tmp_path / "run"
    pictures, mask = {}, np.zeros((20, 24), bool)
    mask[5:13, 6:16] = True
    for name in ("normal/n0", "abnormal/a0", "abnormal/a1"):
        pictures[name] = rng.integers(0, 256, (20, 24)).astype(np.uint8)
        write_image_map(data / f"{name}.png", pictures[name])
    run_folder.write_settings(data, root, Settings())
    write_image_mask(root / "masks" / "abnormal__a0.png", mask)
    assert cli.main(["export-nnunet", str(root), "-o", str(tmp_path / "grey"), "--band", "1"]) == 0
    assert "nnU-Net finds it by a name such as Dataset101_lesion: rename" in capsys.readouterr().out
    about = json.loads((tmp_path / "grey" / "dataset.json").read_text())
    assert (about["file_ending"], about["channel_names"], about["numTraining"]) == (".png", {"0": "grey"}, 2)
    assert sorted(p.name for p in (tmp_path / "grey" / "imagesTr").iterdir()) == ["abnormal__a0_0000.png", "normal__n0_0000.png"]
    image = np.asarray(Image.open(tmp_path / "grey" / "imagesTr" / "abnormal__a0_0000.png"))
    assert np.array_equal(image, pictures["abnormal/a0"])
    labels = np.asarray(Image.open(tmp_path / "grey" / "labelsTr" / "abnormal__a0.png"))
    assert np.array_equal(labels == 2, ring(mask[None], 1)[0])
    assert np.array_equal(labels == 1, mask & (labels != 2))
    assert not np.asarray(Image.open(tmp_path / "grey" / "labelsTr" / "normal__n0.png")).any()
    # In colour, of several classes, from a folder and its masks.
    colour = rng.integers(0, 256, (20, 24, 3)).astype(np.uint8)
    write_image_map(tmp_path / "new" / "x.png", colour)
    values = mask.astype(np.uint8)
    values[:3, :3] = 2
    write_image_map(tmp_path / "marked" / "x.png", values)
    cases, _ = cases_in(tmp_path / "new", tmp_path / "marked")
    about = write_nnunet(tmp_path / "Dataset007_two", cases, labels=("a", "b"))
    assert about["channel_names"] == {"0": "R", "1": "G", "2": "B"}
    assert about["labels"] == {"background": 0, "a": 1, "b": 2}
    assert np.array_equal(np.asarray(Image.open(tmp_path / "Dataset007_two" / "imagesTr" / "x_0000.png")), colour)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "Dataset007_two" / "labelsTr" / "x.png")), values)


def test_a_run_becomes_nnunet_data_that_coinseg_reads_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, root, out = tmp_path / "data", tmp_path / "run", tmp_path / "Dataset102_x"
    for name in ("normal/n0", "abnormal/a0", "abnormal/a1"):
        make_scan(data / f"{name}.nii.gz")
    volume = read_volume(data / "abnormal" / "a0.nii.gz")
    mask = np.zeros(volume.scan.shape, bool)
    mask[0, 5:15, 5:15] = True
    run_folder.write_settings(data, root, Settings())
    assert "finish it with `coinseg run` first" in refused(capsys, "export-nnunet", root, "-o", out)
    write_mask(root / "masks" / "abnormal__a0.nii.gz", mask, volume.geometry)
    assert cli.main(["export-nnunet", str(root), "-o", str(out), "--label", "cyst"]) == 0
    assert sorted(p.name for p in (out / "labelsTr").iterdir()) == ["abnormal__a0.nii.gz", "normal__n0.nii.gz"]
    assert not read_volume(out / "labelsTr" / "normal__n0.nii.gz").scan.any()
    cohort = read_layout(out, settings_from({"data": {"lesion": ["cyst"]}}).data)
    assert (cohort.layout, len(cohort.cases)) == ("nnunet", 2)
    source = next(case for case in cohort.cases if case.id == "abnormal__a0").lesion[0]
    assert np.array_equal(read_mask(source, volume.geometry), mask & ~ring(mask, 1))
    assert "background and ignore" in refused(capsys, "export-nnunet", root, "-o", tmp_path / "y", "--label", "ignore")


def test_label_maps_become_nnunet_data_with_the_names_of_their_classes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scans, masks, out = tmp_path / "scans", tmp_path / "masks", tmp_path / "Dataset103_x"
    volume = read_volume(make_scan(scans / "s0.nii.gz"))
    labels = np.zeros(volume.scan.shape, np.uint8)
    labels[1, 10:20, 12:22], labels[1, 20:30, 12:22] = 1, 2
    write_scan(masks / "s0.nii.gz", labels, volume.geometry)
    (masks / "labels.json").write_text(json.dumps({"labels": {"background": 0, "cyst": 1, "tumour": 2}, "overlap": "-"}))
    command = ["export-nnunet", str(scans), "--masks", str(masks), "-o", str(out)]
    assert cli.main(command) == 0
    assert "labels background, cyst, tumour, ignore" in (said := capsys.readouterr().out)
    assert "where classes overlap, the surest counts" in said
    assert json.loads((out / "dataset.json").read_text())["labels"] == {"background": 0, "cyst": 1, "tumour": 2, "ignore": 3}
    found = read_volume(out / "labelsTr" / "s0.nii.gz").scan[1]
    border = ring(labels == 1, 1)[1] | ring(labels == 2, 1)[1]
    assert np.array_equal(found, np.where(border, 3, labels[1]))
    assert (found[19:21, 14:20] == 3).all()  # where two classes meet
    assert {*np.unique(found)} == {0, 1, 2, 3}
    assert "leave --label out" in refused(capsys, *command, "--overwrite", "--label", "x")
    assert cli.main([*command, "--overwrite", "--band", "0"]) == 0
    assert np.array_equal(read_volume(out / "labelsTr" / "s0.nii.gz").scan, labels)
    cohort = read_layout(out, settings_from({"data": {"classes": ["tumour", "cyst"], "split_by": "slice"}}).data)
    assert [one.lesion[0].values for one in cohort.cases[0].classes] == [(2,), (1,)]


def write_sequences(root: Path, cases: int = 2) -> Path:
    """Scans s0, s1 as two sequences each, the second of which is stored with its axes turned."""
    for i in range(cases):
        first, other = (nib.Nifti1Image(scan_of((24, 20, 3), seed), PLAIN) for seed in (i, 9 + i))
        (root / f"s{i}").mkdir(parents=True)
        nib.save(first, root / f"s{i}" / f"s{i}_flair.nii.gz")
        nib.save(other.as_reoriented(np.array([[0, -1], [1, 1], [2, 1]])), root / f"s{i}" / f"s{i}_t2.nii.gz")
    return root


def check_channels(out: Path, data: Path, name: str, order: tuple[str, ...] = ("flair", "t2")) -> None:
    """Every channel of a case is that sequence, on the grid of the first file and of the labels, for two other programs."""
    about = json.loads((out / "dataset.json").read_text())
    assert about["channel_names"] == {str(i): sequence for i, sequence in enumerate(order)}
    label = sitk.ReadImage(str(out / "labelsTr" / f"{name}.nii.gz"))
    for number, sequence in enumerate(order):
        scan = name.partition("_")[0]
        file, source = out / "imagesTr" / f"{name}_{number:04}.nii.gz", read_volume(data / scan / f"{scan}_{sequence}.nii.gz")
        image = sitk.ReadImage(str(file))
        assert (image.GetSize(), image.GetSpacing()) == (label.GetSize(), label.GetSpacing())
        assert (image.GetOrigin(), image.GetDirection()) == (label.GetOrigin(), label.GetDirection())
        np.testing.assert_array_equal(read_volume(file).scan, source.scan)
        assert np.asarray(nib.load(file).dataobj).std() > 0


def test_every_sequence_of_a_scan_becomes_a_channel_of_nnunet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, masks, out = write_sequences(tmp_path / "data"), tmp_path / "masks", tmp_path / "Dataset104_x"
    for i in range(2):
        volume = read_volume(data / f"s{i}" / f"s{i}_flair.nii.gz")
        mask = np.zeros(volume.scan.shape, bool)
        mask[1, 5:15, 5:15] = True
        write_mask(masks / f"s{i}" / f"s{i}_flair.nii.gz", mask, volume.geometry)
    command = ["export-nnunet", str(data), "--masks", str(masks), "-o", str(out), "--band", "0"]
    assert cli.main(command) == 0
    assert "2 cases of 2 channels (flair, t2)" in capsys.readouterr().out
    assert len(list((out / "imagesTr").iterdir())) == 4
    check_channels(out, data, "s1__s1_flair")
    cohort = read_layout(out, settings_from({"data": {"lesion": ["lesion"]}}).data)
    assert (cohort.sequences, [len(case.others) for case in cohort.cases]) == (("flair", "t2"), [1, 1])
    assert "leave --channel out" in refused(capsys, *command, "--channel", "MR", "--overwrite")
    # The mask of a run that begins with T2 lies under that name, and the channels begin with it.
    for i in range(2):
        (masks / f"s{i}" / f"s{i}_flair.nii.gz").rename(masks / f"s{i}" / f"s{i}_t2.nii.gz")
    assert cli.main([*command, "--overwrite"]) == 0
    assert json.loads((out / "dataset.json").read_text())["channel_names"] == {"0": "t2", "1": "flair"}

    # Of a run: its cases, with the channels it was trained on.
    (data / "labels.csv").write_text("case,label\ns0,1\ns1,0\n")
    root = tmp_path / "run"
    run_folder.write_settings(data, root, Settings())
    volume = read_volume(data / "s0" / "s0_flair.nii.gz")
    write_mask(root / "masks" / "s0.nii.gz", np.zeros(volume.scan.shape, bool), volume.geometry)
    assert cli.main(["export-nnunet", str(root), "-o", str(tmp_path / "Dataset105_x")]) == 0
    check_channels(tmp_path / "Dataset105_x", data, "s0")
    check_channels(tmp_path / "Dataset105_x", data, "s1")
    run_folder.write_settings(data, tmp_path / "grey", settings_from({"data": {"channels": "grey"}}))
    write_mask(tmp_path / "grey" / "masks" / "s0.nii.gz", np.zeros(volume.scan.shape, bool), volume.geometry)
    assert cli.main(["export-nnunet", str(tmp_path / "grey"), "-o", str(tmp_path / "Dataset106_x")]) == 0
    assert json.loads((tmp_path / "Dataset106_x" / "dataset.json").read_text())["channel_names"] == {"0": "CT"}


def test_channels_on_two_grids_and_cases_without_one_are_refused(tmp_path: Path) -> None:
    data = write_sequences(tmp_path / "data", 1)
    first, other = (data / "s0" / f"s0_{name}.nii.gz" for name in ("flair", "t2"))
    image = nib.load(other)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), image.affine + np.diag([0, 0, 1.0, 0])), other)
    with pytest.raises(UserError, match=r"channel .*s0_t2.nii.gz lies up to .*resample the channel onto the scan"):
        write_nnunet(tmp_path / "out", [TrainingCase("a", first, None, others=(other,))], channels=("flair", "t2"))
    with pytest.raises(UserError, match="1 of 1 cases have not the channels flair, t2: a"):
        write_nnunet(tmp_path / "out", [TrainingCase("a", first, None)], channels=("flair", "t2"))
    assert not (tmp_path / "out").exists()


# --- the table beside the masks ------------------------------------------------------------------------------------


def test_the_numbers_of_a_mask_by_hand(tmp_path: Path) -> None:
    """Voxels of 0.5 x 2 x 3 mm; the file's axes run to the left, to the back and up."""
    affine = np.array([[-0.5, 0, 0, 100], [0, -2.0, 0, 50], [0, 0, 3.0, -7], [0, 0, 0, 1]])
    nib.save(nib.Nifti1Image(np.zeros((8, 7, 6), np.int16), affine), tmp_path / "scan.nii.gz")
    geometry = read_volume(tmp_path / "scan.nii.gz").geometry
    stored = np.zeros((8, 7, 6), bool)
    stored[1:4, 2:4, 1] = True  # 6 voxels
    stored[4, 4, 2] = True  # touches them at a corner: the same component
    stored[7, 0, 5] = True
    found = measure(geometry.to_canonical(stored), geometry)
    assert (found["pixels"], found["components"], found["volume_ml"]) == (8, 2, 0.024)
    assert found["box"] == {"min": [1, 0, 1], "max": [7, 4, 5]}
    assert [part["pixels"] for part in found["parts"]] == [7, 1]
    assert found["parts"][1]["box"] == {"min": [7, 0, 5], "max": [7, 0, 5]}
    assert found["parts"][1]["box_mm"] == {"min": [96.25, 49.0, 6.5], "max": [96.75, 51.0, 9.5]}
    empty = measure(np.zeros((6, 7, 8), bool), geometry)
    assert (empty["pixels"], empty["volume_ml"], empty["components"], empty["box"], empty["parts"]) == (0, 0.0, 0, None, [])
    image = measure(np.eye(4, dtype=bool)[None, :, ::-1], None)
    assert (image["components"], image["volume_ml"], image["box_mm"]) == (1, None, None)
    assert image["box"] == {"min": [0, 0], "max": [3, 3]}


def test_cells_are_no_formulas() -> None:
    rows = [{"case": name, "mask": "m.png", "pixels": -3, "highest_f": None} for name in ("=1+1", "+x", "-x", "@x", "\tx", "x=1")]
    lines = list(csv.DictReader(io.StringIO(as_csv(rows), newline="")))
    assert [line["case"] for line in lines] == ["'=1+1", "'+x", "'-x", "'@x", "'\tx", "x=1"]
    assert {line["pixels"] for line in lines} == {"-3"}


def test_a_folder_gets_a_table_that_survives_going_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, scans, out = make_run(tmp_path / "run"), tmp_path / "scans", tmp_path / "masks"
    for name in ("=cmd()", "sub/b"):
        make_scan(scans / f"{name}.nii.gz")
    command = ["segment", "-i", str(scans), "-o", str(out), "--model", str(root)]
    assert cli.main(command) == 0
    table = json.loads((out / "index.json").read_text())
    assert [row["case"] for row in table["masks"]] == ["=cmd().nii.gz", "sub/b.nii.gz"]
    row = table["masks"][1]
    mask = nib.load(out / row["mask"])
    inside = np.argwhere(np.asarray(mask.dataobj) > 0)
    assert row["pixels"] == len(inside) > 0
    assert row["volume_ml"] == pytest.approx(len(inside) * abs(np.linalg.det(mask.affine[:3, :3])) / 1000, abs=1e-3)
    assert row["box"] == {"min": inside.min(0).tolist(), "max": inside.max(0).tolist()}
    assert 0.5 < row["highest_f"] <= 1
    lines = list(csv.DictReader((out / "index.csv").open(newline="")))
    assert [line["case"] for line in lines] == ["'=cmd().nii.gz", "sub/b.nii.gz"]
    assert int(lines[1]["max_2"]) == row["box"]["max"][2]
    assert float(lines[1]["min_x_mm"]) == row["box_mm"]["min"][0]
    make_scan(scans / "later.nii.gz")
    assert cli.main(command) == 0
    again = {one["case"]: one for one in json.loads((out / "index.json").read_text())["masks"]}
    assert (len(again), again["sub/b.nii.gz"]) == (3, row)
    (out / "index.json").unlink()
    assert cli.main(command) == 0
    measured = {one["case"]: one for one in json.loads((out / "index.json").read_text())["masks"]}
    assert measured["sub/b.nii.gz"] == row | dict.fromkeys(TOLD)
    (out / "index.json").write_text("{}")
    assert "is no table of masks" in refused(capsys, *command)


# --- counterfactual and difference in HU ---------------------------------------------------------------------------


def test_what_is_not_painted_is_the_source_to_the_last_bit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, scan = make_run(tmp_path / "run"), make_scan(tmp_path / "scan.nii.gz")
    mask, painted, map_ = (tmp_path / f"{name}.nii.gz" for name in ("mask", "painted", "map"))
    command = ["segment", "-i", str(scan), "-o", str(mask), "--model", str(root)]
    assert cli.main([*command, "--counterfactual", str(painted), "--difference", str(map_)]) == 0
    source, made, difference = (nib.load(path) for path in (scan, painted, map_))
    np.testing.assert_array_equal(made.affine, source.affine)
    before, after = (np.asarray(image.dataobj).astype(float) for image in (source, made))
    touched = before != after
    assert made.get_data_dtype() == np.int16
    assert 0.05 < touched.mean() < 1
    assert (after[touched] > -160 - 200).all()
    run = coinseg.load(root)
    native = read_volume(scan).scan
    cut = next(sources.load(run, scan).cuts(run.settings.data))
    x = torch.from_numpy(run.preparation.window.unit(cut.box.resize(native[0], SIZE).round()) * 2 - 1)[None, None].float()
    change = ((run.explain(x).counterfactual - x) / 2 * 400)[0, 0].numpy()
    painted_on = cut.box.paste(change, native.shape[1:])
    expected = native[0] + painted_on
    found = read_volume(painted).scan[0]
    assert (found == native[0])[np.abs(painted_on) < 0.4].all()
    where = found != native[0]
    np.testing.assert_allclose(found[where], expected[where], atol=0.51)
    values = np.asarray(difference.dataobj)
    assert difference.get_data_dtype() == np.float32
    assert 0 < values.max() <= 400
    assert values.min() >= 0
    plain = tmp_path / "plain.nii.gz"
    assert cli.main(["segment", "-i", str(scan), "-o", str(plain), "--model", str(root)]) == 0
    assert np.array_equal(np.asarray(nib.load(plain).dataobj), np.asarray(nib.load(mask).dataobj))
    capsys.readouterr()
    mask.unlink()
    assert "exists" in refused(capsys, *command, "--difference", map_)
    assert "a name of its own" in refused(capsys, *command, "--difference", mask)
    assert "a name of its own" in refused(capsys, *command, "--difference", tmp_path / "map.png")
    assert "a name of its own" in refused(capsys, *command, "--difference", scan, "--overwrite")
    folder = ["segment", "-i", str(tmp_path), "-o", str(tmp_path / "o"), "--model", str(root)]
    assert "one volume" in refused(capsys, *folder, "--difference", tmp_path / "d.nii.gz")
    # Where intensities are percentiles the units are still those of the scan: the range of its own percentiles is 0 to 1.
    other, own = make_run(tmp_path / "percentile", kind="percentile"), tmp_path / "own.nii.gz"
    assert cli.main([*command[:-1], str(other), "--difference", str(own)]) == 0
    low, high = percentiles(native)
    assert 1 < np.asarray(nib.load(own).dataobj).max() <= high - low


def test_a_scan_that_f_calls_normal_comes_back_as_it_is(tmp_path: Path) -> None:
    run, scan = coinseg.load(make_run(tmp_path / "run")), make_scan(tmp_path / "scan.nii.gz")
    run.f.network.head.bias.data.fill_(-9.0)
    found = run.segment(scan, maps=True)
    assert np.array_equal(found.maps.counterfactual, read_volume(scan).scan)
    assert not np.asarray(found.maps.difference).any()
    assert run.segment(scan).maps is None


def test_how_far_to_trust_each_voxel_is_written_beside_the_mask(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, scan = make_run(tmp_path / "run"), make_scan(tmp_path / "scans" / "a.nii.gz")
    mask, sure = tmp_path / "m.nii.gz", tmp_path / "c.nii.gz"
    command = ["segment", "-i", str(scan), "-o", str(mask), "--model", str(root), "--confidence"]
    assert cli.main([*command, str(sure)]) == 0
    inside, percent = (np.asarray(nib.load(path).dataobj) for path in (mask, sure))
    assert nib.load(sure).get_data_dtype() == np.uint8
    assert np.array_equal(nib.load(sure).affine, nib.load(scan).affine)
    assert percent.max() <= 100
    assert inside.any()
    assert percent[inside > 0].mean() > max(50, percent[inside == 0].mean())
    before = mask.read_bytes()
    assert "exists" in refused(capsys, *command, sure)
    assert "a name for each" in refused(capsys, *command, mask, "--overwrite")
    assert "mend --confidence" in refused(capsys, *command, tmp_path / "c.png", "--overwrite")
    assert mask.read_bytes() == before


def test_a_folder_of_confidences_is_of_its_masks_and_nothing_is_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, scans = make_run(tmp_path / "run"), tmp_path / "scans"
    for i, name in enumerate(("a", "b")):
        make_scan(scans / f"{name}.nii.gz", seed=i)
    out, folder = tmp_path / "masks", tmp_path / "sure"
    command = ["segment", "-i", str(scans), "-o", str(out), "--model", str(root)]
    assert cli.main(command) == 0  # without it first: it is made up for
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.name != "manifest.json"}
    kept = b"a mask that somebody corrected"
    (out / "a.nii.gz").write_bytes(kept)
    for place, said in (
        (out, "lie in each other"), (out / "sub", "lie in each other"), (tmp_path, "lie in each other"), (scans, "lies inside"),
        (root / "coin", "something else in it"), (scans / "a.nii.gz", "lies inside"),
    ):  # fmt: skip
        assert said in refused(capsys, *command, "--confidence", place), place
    (tmp_path / "file").write_text("no folder")
    assert "is a file" in refused(capsys, *command, "--confidence", tmp_path / "file")
    assert cli.main([*command, "--confidence", str(folder)]) == 0
    assert (out / "a.nii.gz").read_bytes() == kept
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.name not in ("manifest.json", "a.nii.gz")} == {
        name: value for name, value in before.items() if name != "a.nii.gz"
    }
    assert sorted(path.name for path in folder.iterdir()) == ["a.nii.gz", "b.nii.gz", "confidence.json"]
    states = [record["state"] for record in json.loads((out / "manifest.json").read_text())["inputs"]]
    assert states == ["skipped", "skipped"]

    alone = tmp_path / "alone.nii.gz"
    single = ["segment", "-i", str(scans / "b.nii.gz"), "-o", str(tmp_path / "m.nii.gz"), "--model", str(root)]
    assert cli.main([*single, "--confidence", str(alone)]) == 0
    assert np.array_equal(np.asarray(nib.load(folder / "b.nii.gz").dataobj), np.asarray(nib.load(alone).dataobj))

    elsewhere = [*command[:4], str(tmp_path / "masks2"), *command[5:], "--confidence", str(folder)]
    stamp = (folder / "a.nii.gz").read_bytes()
    assert "is of other masks" in refused(capsys, *elsewhere)
    assert "is of other masks" in refused(capsys, *elsewhere)  # saying so changed nothing
    assert (folder / "a.nii.gz").read_bytes() == stamp
    assert cli.main([*elsewhere, "--overwrite"]) == 0


def test_a_confidence_that_cannot_be_written_costs_no_mask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, scan = make_run(tmp_path / "run"), make_scan(tmp_path / "scans" / "a.nii.gz")
    out, folder = tmp_path / "masks", tmp_path / "sure"
    command = ["segment", "-i", str(scan.parent), "-o", str(out), "--model", str(root), "--confidence", str(folder)]
    assert cli.main(command) == 0
    before = (out / "a.nii.gz").read_bytes()

    def fails(*ignored: object, **also: object) -> None:
        raise UserError("it cannot be written", "room", "make some")

    monkeypatch.setattr(Segmentation, "write_confidence", fails)
    assert cli.main([*command, "--overwrite"]) == 2
    assert (out / "a.nii.gz").read_bytes() == before
