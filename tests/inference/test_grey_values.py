"""What a grey value means is asked of every scan: in a cohort, of a new scan, of an array."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import coinseg
from coinseg.cli import main as cli
from coinseg.cli.inspect import inspect
from coinseg.config.schema import Settings
from coinseg.data.layouts.registry import read_layout
from coinseg.data.slices import store as slices
from coinseg.data.slices.dataset import ScoredSlices, TrainingSlices
from coinseg.data.slices.intensity import Window, signed
from coinseg.data.slices.scale import not_hu
from coinseg.data.slices.split import TRAINING, VALIDATION
from coinseg.data.slices.trained_on import TrainedOn
from coinseg.errors import UserError
from coinseg.evaluation.evaluate import evaluate
from coinseg.inference.checkpoint import load
from coinseg.inference.distribution import Distribution, features_of, fit_distribution, foreign, joined
from coinseg.inference.predictor import Predictor, Preparation
from coinseg.inference.sources import UNCHECKED
from coinseg.types import Case
from conftest import SIZE, TINY, tiny_settings
from models import PaintBlack, SameLogit, explainer_of
from writers import PLAIN, make_run, write_series

AFFINE = np.diag([0.8, 0.8, 2.5, 1.0])
ON_CT = TrainedOn(["volume"], [], True, [-1020.0, -1015.0], [0.8, 0.8], [35.2, 35.2])
ON_IMAGES = TrainedOn(["image"], [], False, [0.0, 60.0])


def ct(seed: int = 0, shape: tuple[int, int, int] = (4, 40, 44)) -> np.ndarray:
    """HU (slices, rows, columns): a body in air."""
    rng = np.random.default_rng(seed)
    _, y, x = np.indices(shape)
    body = ((y - shape[1] / 2) / (shape[1] * 0.42)) ** 2 + ((x - shape[2] / 2) / (shape[2] * 0.42)) ** 2 < 1
    return np.where(body, rng.normal(40, 12, shape), rng.normal(-1000, 8, shape)).round().astype(np.int16)


def unit(hu: np.ndarray) -> np.ndarray:
    return (np.clip(hu, -160, 240) + 160) / np.float32(400)


def mr(seed: int = 0) -> np.ndarray:
    """MR whose resampling left a few values far below 0."""
    values = np.clip(ct(seed) + 1000, 0, None) * 1.5
    values[0, 0, :9] = -300
    return values.round().astype(np.int16)


STORED = {
    "plus1024": lambda hu: hu + 1024,
    "zero_one": lambda hu: unit(hu),
    "uint8": lambda hu: (unit(hu) * 255).astype(np.uint8),
    "minus1024": lambda hu: np.clip(hu - 1024, -2000, None),
    "mr": lambda hu: mr(),
    "plus1024, padded": lambda hu: np.where(np.indices(hu.shape)[1] < 3, -2000, hu + 1024),
    "bright MR": lambda hu: np.where(hu > -500, 600 + hu, np.random.default_rng(0).integers(-550, -50, hu.shape)),
    "x16": lambda hu: np.where(hu > 0, hu.astype(np.int32) * 160, hu).astype(np.float32),
}
"""One CT as people have it, and MR; all but HU."""


def save(path: Path, scan: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    """A canonical scan as NIfTI."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    nib.save(nib.Nifti1Image(np.ascontiguousarray(scan.T.astype(np.int16 if scan.dtype.kind == "i" else np.float32)), lps), path)
    return path


# --- what Hounsfield units look like


def test_a_ct_is_in_hounsfield_units_whatever_part_of_it_is_there() -> None:
    hu = ct()
    metal, padded, lung = hu.copy(), hu.copy(), hu.copy()
    metal[0, 18:22, 18:22], padded[:, :5], lung[:, 5:35, 5:35] = 20000, -3024, -850
    crop = hu[:, 12:28, 14:30].copy()
    crop[0, 0] = -110  # fat
    for scan in (hu, metal, padded, lung, crop, hu.astype(np.float32) + 0.25, np.maximum(hu, -200)):
        assert not_hu(scan) == ""
    assert not_hu(hu, "CT") == ""
    assert not_hu(hu, "OT") == ""
    assert not_hu(hu, "MR") == "its DICOM Modality is MR"


@pytest.mark.parametrize("stored", STORED)
def test_what_is_stored_otherwise_and_mr_are_not(stored: str) -> None:
    assert not_hu(STORED[stored](ct())) != ""


# --- a cohort


def cohort(root: Path, other: str, at: int, scans: int = 6) -> Path:
    """Scans in HU, of which one is stored otherwise."""
    for i in range(scans):
        hu = ct(i)
        save(root / ("normal", "abnormal")[i % 2] / f"s{i}.nii.gz", STORED[other](hu) if i == at else hu)
    return root


@pytest.mark.parametrize("at", [0, 3])
@pytest.mark.parametrize("other", ["plus1024", "mr", "zero_one"])
def test_a_scan_of_a_cohort_that_differs_is_named_and_left_out_wherever_it_stands(tmp_path: Path, other: str, at: int) -> None:
    data, settings = cohort(tmp_path / "data", other, at), tiny_settings()
    store = slices.prepare(read_layout(data, settings.data), settings, tmp_path / "store")
    place = f"{('normal', 'abnormal')[at % 2]}/s{at}.nii.gz"
    assert store.meta["kind"] == "hu"
    line = next(line for line in store.meta["problems"] if "not in Hounsfield units" in line)
    assert line.startswith("1 of 6 scans are not in Hounsfield units (")
    assert line.endswith(f"left out: convert them: {place}")
    assert len(set(store.index["case"])) == 5
    assert line in inspect(data, settings)["problems"]
    assert store.meta["trained_on"] == {
        "kinds": ["volume"], "modalities": [], "in_hu": True, "lowest": store.meta["trained_on"]["lowest"],
        "pixel_mm": [0.8, 0.8], "field_mm": [35.2, 35.2],
    }  # fmt: skip


def test_whoever_says_that_all_are_hounsfield_units_gets_them_used_and_named(tmp_path: Path) -> None:
    settings = tiny_settings()
    settings = replace(settings, data=replace(settings.data, intensity="hu"))
    data = cohort(tmp_path / "data", "plus1024", 2)
    store = slices.prepare(read_layout(data, settings.data), settings, tmp_path / "store")
    assert len(set(store.index["case"])) == 6
    assert any(
        "1 of 6 scans are not in Hounsfield units (no value" in line and "used as" in line for line in store.meta["problems"]
    )
    assert not store.meta["trained_on"]["in_hu"]


def test_mr_with_negative_values_does_not_pass_for_ct_and_a_ct_among_it_is_named(tmp_path: Path) -> None:
    for i in range(5):
        save(tmp_path / "data" / ("normal", "abnormal")[i % 2] / f"s{i}.nii.gz", ct(i) if i == 4 else mr(i))
    settings = tiny_settings()
    store = slices.prepare(read_layout(tmp_path / "data", settings.data), settings, tmp_path / "store")
    assert store.meta["kind"] == "percentile"
    assert any("taken for MR or the like" in line for line in store.meta["problems"])
    named = "1 of 5 scans are in Hounsfield units and the others are not: normal/s4.nii.gz"
    assert named in store.meta["problems"]


ODD = {
    "cut to a window": lambda hu: np.maximum(hu, -160),
    "8 bits less 128": lambda hu: np.interp(hu, (-1000, 200), (-128, 127)),
    "MR around 0": lambda hu: np.where(hu > -500, hu + 250, np.random.default_rng(0).integers(-550, -50, hu.shape)),
    "half a unit": lambda hu: hu / 2,
    "500 less": lambda hu: np.where(hu > -500, hu - 450, hu),
}
"""One CT as it passes for Hounsfield units, each by itself."""


@pytest.mark.parametrize("odd", ODD)
def test_a_scan_that_may_be_in_hounsfield_units_but_is_unlike_the_others_is_named(tmp_path: Path, odd: str) -> None:
    assert not_hu(ODD[odd](ct())) == ""
    for i in range(5):
        hu = ct(i)
        hu[:, :3] = -3024 if i == 1 else hu[:, :3]  # padding is air
        save(tmp_path / "data" / ("normal", "abnormal")[i % 2] / f"s{i}.nii.gz", ODD[odd](hu) if i == 3 else hu)
    settings = tiny_settings()
    store = slices.prepare(read_layout(tmp_path / "data", settings.data), settings, tmp_path / "store")
    (line,) = [line for line in store.meta["problems"] if "unlike the others in their values" in line]
    assert re.fullmatch(
        r"1 of 5 scans are .* \(lowest around -\d+ and body -?\d+, the others -10\d\d and (39|40|41)\): .* abnormal/s3.nii.gz",
        line,
    )
    assert line in inspect(tmp_path / "data", settings)["problems"]
    assert len(set(store.index["case"])) == 5


# --- a new scan


def run_on(root: Path, record: TrainedOn | None, kind: str = "hu", settings: Settings | None = None) -> Path:
    return make_run(root, settings, kind, record)


@pytest.mark.parametrize("record", [ON_CT, None])
def test_a_scan_that_is_not_in_the_units_of_the_training_is_refused_and_the_others_are_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], record: TrainedOn | None
) -> None:
    root, scans, out = run_on(tmp_path / "run", record), tmp_path / "scans", tmp_path / "out"
    for name, stored in STORED.items():
        save(scans / f"{name}.nii.gz", stored(ct()))
    save(scans / "hu.nii.gz", ct())
    assert cli.main(["segment", "-i", str(scans), "-o", str(out), "--model", str(root)]) == 2
    said = " ".join("".join(capsys.readouterr()).split())
    assert f"{len(STORED)} inputs failed, 1 masks were written: " in said
    assert "minus1024.nii.gz is not in Hounsfield units (hardly a value is above -500), as the scans were that the run" in said
    assert [path.name for path in out.glob("*.nii.gz")] == ["hu.nii.gz"]
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["warnings"] == ([] if record else [UNCHECKED])
    assert (UNCHECKED in said) == (record is None)


def test_dicom_says_what_a_scan_is(tmp_path: Path) -> None:
    run = load(run_on(tmp_path / "run", replace(ON_CT, modalities=["CT"])))
    run.segment(write_series(tmp_path / "ct", ct().T, AFFINE))
    with pytest.raises(UserError, match="is MR by its DICOM Modality, and the run was trained on CT; required"):
        run.segment(write_series(tmp_path / "mr", ct().T, AFFINE, Modality="MR"))
    for kind in ("HU", "US"):
        run.segment(write_series(tmp_path / kind, ct().T, AFFINE, RescaleType=kind))
    for kind in ("EDW", "Z_EFF", "PCT"):  # dual-energy CT: electron density, atomic number, percent
        with pytest.raises(UserError, match=f"is CT with RescaleType {kind} by its DICOM Modality, and the run was trained on"):
            run.segment(write_series(tmp_path / kind, ct().T, AFFINE, RescaleType=kind))


def test_what_is_only_doubtful_is_marked_in_the_index_with_its_confidence_lowered(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, scans, out = run_on(tmp_path / "run", ON_CT), tmp_path / "scans", tmp_path / "out"
    save(scans / "like.nii.gz", ct())
    save(scans / "cut.nii.gz", np.maximum(ct(), -160))
    save(scans / "large.nii.gz", ct(), np.diag([3.0, 3.0, 2.5, 1.0]))
    assert cli.main(["segment", "-i", str(scans), "-o", str(out), "--model", str(root)]) == 0
    assert "warning: 2 of 3 inputs are unlike what the run was trained on" in " ".join("".join(capsys.readouterr()).split())
    with (out / "index.csv").open() as file:
        rows = {row["case"]: row for row in csv.DictReader(file)}
    assert rows["like.nii.gz"]["doubts"] == ""
    assert rows["cut.nii.gz"]["doubts"] == "its lowest values are around -160 HU, those of the training -1020 to -1015"
    assert rows["large.nii.gz"]["doubts"].startswith("its pixels measure 3 mm, those of the training 0.8 mm; its field of view m")
    assert [rows[f"{name}.nii.gz"]["doubtful"] for name in ("cut", "large")] == ["1", "1"]
    sure = [float(rows[f"{name}.nii.gz"]["confidence"]) for name in ("like", "large")]
    assert sure[1] == pytest.approx(sure[0] / 2, abs=1e-4)
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["warnings"][0].endswith("(index.csv: doubts): cut.nii.gz, large.nii.gz")
    command = ["segment", "-i", str(scans / "cut.nii.gz"), "-o", str(tmp_path / "one.nii.gz"), "--model", str(root)]
    assert cli.main(command) == 0
    assert "warning: cut.nii.gz: the mask is doubtful: its lowest values" in " ".join(capsys.readouterr().err.split())


def test_a_run_on_percentiles_of_ct_doubts_a_scan_that_is_stored_otherwise(tmp_path: Path) -> None:
    run, doubt = load(run_on(tmp_path / "run", ON_CT, "percentile")), "it does not look like CT in Hounsfield units, and"
    assert run.segment(save(tmp_path / "hu.nii.gz", ct())).doubts == ()
    for name, stored in STORED.items():
        found = run.segment(save(tmp_path / "other.nii.gz", stored(ct())))
        assert found.doubts[0] == f"{doubt} those of the training did", name


def test_a_run_on_plain_images_takes_no_scan_and_one_on_scans_no_image(tmp_path: Path) -> None:
    Image.fromarray((unit(ct())[0] * 255).astype(np.uint8)).save(tmp_path / "a.png")
    scan = save(tmp_path / "scan.nii.gz", ct())
    on_images = load(run_on(tmp_path / "images", ON_IMAGES, "percentile"))
    with pytest.raises(UserError, match=r"scan\.nii\.gz is a volume, and the run was trained on plain images; required"):
        on_images.segment(scan)
    on_images.segment(tmp_path / "a.png")
    on_mr = load(run_on(tmp_path / "mr", replace(ON_CT, in_hu=False), "percentile"))
    with pytest.raises(UserError, match=r"a\.png is a plain image, and the run was trained on volumes"):
        on_mr.segment(tmp_path / "a.png")
    assert on_mr.segment(scan).doubts == ("it looks like CT in Hounsfield units, and those of the training did not",)


def test_a_record_survives_the_folder_and_a_spoilt_one_is_refused(tmp_path: Path) -> None:
    root = run_on(tmp_path / "run", ON_CT)
    assert load(root).preparation.trained_on == ON_CT
    model = json.loads((root / "model.json").read_text())
    for spoilt in ({"kinds": 3}, model["trained_on"] | {"pixel_mm": [1.0]}, model["trained_on"] | {"in_hu": "no"}, []):
        (root / "model.json").write_text(json.dumps(model | {"trained_on": spoilt}))
        with pytest.raises(UserError, match="has a wrong trained_on"):
            load(root)


# --- arrays


def test_an_array_a_nibabel_image_and_a_path_of_any_kind_give_what_the_file_gives(tmp_path: Path) -> None:
    scan = save(tmp_path / "scan.nii.gz", ct())
    run, expected = load(run_on(tmp_path / "run", ON_CT)), None
    expected = run.segment(scan).mask
    assert expected.any()
    image = nib.load(scan)
    for same in (str(scan), image, ct(), ct().astype(np.float64), torch.from_numpy(ct())):
        assert np.array_equal(run.masks(same), expected)
    assert np.array_equal(run.segment(image).geometry.affine, run.segment(scan).geometry.affine)
    assert run.masks(ct()[1]).shape == (40, 44)
    prepared = np.zeros((2, 1, SIZE, SIZE))
    assert np.array_equal(run.masks(prepared), run.masks(torch.zeros(2, 1, SIZE, SIZE, dtype=torch.bfloat16)))


@pytest.mark.parametrize("colour", [False, True])
def test_an_array_of_a_picture_gives_the_mask_of_its_file(tmp_path: Path, colour: bool) -> None:
    rng = np.random.default_rng(0)
    shape = (40, 44, 3) if colour else (40, 44)
    pictures = [rng.integers(20, 160, shape).astype(np.uint8) for _ in range(2)]
    run = load(run_on(tmp_path / "run", ON_IMAGES, "percentile"))
    expected = []
    for i, picture in enumerate(pictures):
        Image.fromarray(picture).save(tmp_path / f"{i}.png")
        expected.append(run.segment(tmp_path / f"{i}.png").mask[0])
        assert expected[-1].any()
        for scaled in (picture, picture.astype(np.int64), picture / 255.0):
            assert np.array_equal(run.masks(scaled), expected[-1])
    if not colour:
        assert np.array_equal(run.masks(np.stack(pictures)), np.stack(expected))


@pytest.mark.parametrize(("record", "kind"), [(ON_IMAGES, "percentile"), (ON_CT, "hu")])
@pytest.mark.parametrize("ask", ["masks", "segment", "show"])
def test_a_last_axis_of_one_is_no_stack_of_images_of_one_column(tmp_path: Path, record: TrainedOn, kind: str, ask: str) -> None:
    """(H, W, 1), as several libraries read a grey picture, was H images of W x 1, and its mask was another one."""
    run = load(run_on(tmp_path / "run", record, kind))
    for given in (ct()[1][..., None], torch.from_numpy(ct()[1])[..., None], np.stack([ct()[1]] * 2, -1)):
        line = rf"an array of shape \(40, 44, {given.shape[2]}\), whose last axis is no row.*; give array\[\.\.\., 0\]"
        with pytest.raises(UserError, match=line):
            getattr(run, ask)(given)


@pytest.mark.parametrize("axis", ["coronal", "sagittal"])
def test_one_axial_slice_is_no_stack_of_slices_of_one_row(tmp_path: Path, axis: str) -> None:
    """For a run along another axis; a file of one slice was refused, and its array had a mask of nothing."""
    settings = tiny_settings()
    run = load(run_on(tmp_path / "run", ON_CT, settings=replace(settings, data=replace(settings.data, axis=axis))))  # type: ignore[arg-type]
    assert run.masks(ct()).shape == ct().shape
    for given in (ct()[1], ct()[1:2]):
        with pytest.raises(UserError, match=rf"which has {axis} slices of one row or column; required: \(slices, H, W\)"):
            run.masks(given)


def test_channels_that_come_first_are_not_taken_for_three_images_without_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = load(make_run(tmp_path / "run", kind="percentile", channels=("red", "green", "blue")))
    picture = np.random.default_rng(0).integers(0, 255, (40, 44, 3), np.uint8)
    assert run.masks(picture).shape == (40, 44)
    assert "grey images" not in caplog.text
    assert run.masks(np.moveaxis(picture, 2, 0)).shape == (3, 40, 44)
    assert "doubtful masks: 3 grey images for a run in colour; one image in colour is (H, W, 3)" in caplog.text


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (unit(ct()), r"the array given is not in Hounsfield units \(no value is below -100\)"),
        (ct() + 1024, "the array given is not in Hounsfield units"),
        (np.full((2, 40, 44), np.nan), "an array with NaN or infinite values"),
        (np.zeros((40, 44), bool), "an array of bool"),
        (np.zeros(7), r"an array of shape \(7,\); required: \(slices, H, W\)"),
        ([[1, 2]], "list; required: a path, a nibabel image or an array of numbers"),
        (None, "NoneType; required: a path"),
        (torch.zeros(1, 1, SIZE, SIZE) + 40, r"images with values from 40 to 40; required: .* float32 in \[-1, 1\]"),
        (torch.zeros(1, 1, SIZE, SIZE) * torch.nan, "an array with NaN or infinite values"),
        (np.zeros((1, 1, SIZE, SIZE), np.uint8), "images of torch.uint8; required: a torch tensor"),
        (np.zeros((1, 1, SIZE, SIZE), object), "an array of object"),
        (nib.Nifti1Image(np.zeros((4, 4, 4, 2), np.int16), PLAIN), "nibabel image has 4 dimensions"),
        (nib.Nifti1Image(unit(ct()), PLAIN), "the image given is not in Hounsfield units"),
        ("nowhere.nii.gz", "nowhere.nii.gz is missing"),
    ],
    ids=str,
)  # fmt: skip
def test_what_a_run_cannot_take_is_one_line(tmp_path: Path, given: object, text: str) -> None:
    with pytest.raises(UserError, match=text):
        load(run_on(tmp_path / "run", ON_CT)).masks(given)


def test_one_image_for_a_run_on_several_of_a_case_is_one_line(tmp_path: Path) -> None:
    run, scan = load(run_on(tmp_path / "run", ON_CT)), save(tmp_path / "scan.nii.gz", ct())
    run = replace(run, preparation=replace(run.preparation, channels=("flair", "t1", "t2")))
    for given in (scan, str(scan), nib.load(scan), ct(), Case("a", "a", scan, True), Case("a", "a", scan, True, others=(scan,))):
        with pytest.raises(UserError, match=r"is one image|has 2 images.* of a case, flair, t1, t2; required: all images"):
            run.segment(given)


def test_an_organ_mask_is_a_path_in_words_or_a_list_of_them(tmp_path: Path) -> None:
    settings = tiny_settings()
    settings = replace(settings, data=replace(settings.data, roi="organ"))
    run, scan = load(run_on(tmp_path / "run", ON_CT, settings=settings)), save(tmp_path / "scan.nii.gz", ct())
    organ = np.zeros((4, 40, 44), np.int16)
    organ[1:3, 10:30, 10:30] = 1
    mask = save(tmp_path / "organ.nii.gz", organ)
    masks = [run.segment(str(scan), given).mask for given in (str(mask), mask, [str(mask)], [mask])]
    assert masks[0].any()
    assert all(np.array_equal(one, masks[0]) for one in masks)
    with pytest.raises(UserError, match="no organ mask for"):
        run.segment(scan)
    with pytest.raises(UserError, match=r"organ holds ndarray; required: paths of mask files"):
        run.segment(scan, [organ])  # type: ignore[list-item]


def test_a_mask_is_written_to_a_path_in_words(tmp_path: Path) -> None:
    run, scan = load(run_on(tmp_path / "run", ON_CT)), save(tmp_path / "scan.nii.gz", ct())
    found = run.segment(scan)
    for write, name in ((found.write, "mask"), (found.write_confidence, "confidence")):
        for out in (tmp_path / f"{name}-1.nii.gz", str(tmp_path / f"{name}-2.nii.gz")):
            write(out)
        first, second = (nib.load(tmp_path / f"{name}-{number}.nii.gz").get_fdata() for number in (1, 2))
        assert np.array_equal(first, second)


# --- out of distribution


class Blobs(nn.Module):
    """A classifier with features that nobody trained."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.head, self.asked = nn.Conv2d(1, 6, 3), nn.Linear(6, 1), 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.asked += len(x)
        return self.head(torch.relu(self.stem(x)).mean((2, 3)))[:, 0]


def pictures(count: int, seed: int) -> np.ndarray:
    """(count, 32, 32) in [0, 1]: grey noise, every second with a bright square."""
    rng = np.random.default_rng(seed)
    found = rng.normal(0.35, 0.04, (count, SIZE, SIZE))
    for image in found[1::2]:
        row, column = rng.integers(2, 20, 2)
        image[row : row + 9, column : column + 9] += 0.4
    return np.clip(found, 0, 1).astype(np.float32)


FOREIGN = {
    "blank": np.zeros((SIZE, SIZE)),
    "inverted": 1 - pictures(1, 9)[0],
    "stretched": np.clip(pictures(1, 9)[0] * 2.5 - 0.4, 0, 1),
    "another body": np.where(np.hypot(*np.indices((SIZE, SIZE)) - 15.5) < 12, 0.6, 0.0),
    "another field of view": np.pad(pictures(1, 9)[0][::2, ::2], 8),
}


@pytest.fixture(scope="module")
def known() -> tuple[Blobs, Distribution]:
    f, count = Blobs(), 60
    data = coinseg.Dataset(pictures(count, 0), np.arange(count) % 2)
    sides = [TrainingSlices(data, tiny_settings().anomaly, 0, side) for side in (TRAINING, VALIDATION)]
    found = fit_distribution(f, *sides, torch.device("cpu"), None, "key")
    assert found is not None
    assert f.asked == count
    return f, found


def distances(known: tuple[Blobs, Distribution], images: np.ndarray) -> np.ndarray:
    x = torch.from_numpy(signed(images.astype(np.float32)))[:, None]
    with torch.no_grad(), features_of(known[0]) as seen:
        known[0](x)
    features = joined(seen, x)
    assert features is not None
    return known[1](features).numpy()


def test_new_images_of_the_kind_are_in_distribution_and_others_far_out(known: tuple[Blobs, Distribution]) -> None:
    assert (distances(known, pictures(100, 1)) > 1).mean() <= 0.05
    for name, image in FOREIGN.items():
        assert distances(known, image[None])[0] > 1.5, name


def test_classifiers_without_features_have_no_distribution_and_few_images_make_none() -> None:
    data = coinseg.Dataset(pictures(8, 0), np.arange(8) % 2)
    sides = [TrainingSlices(data, tiny_settings().anomaly, 0, side) for side in (TRAINING, VALIDATION)]
    assert fit_distribution(Blobs(), *sides, torch.device("cpu"), None, "key") is None
    assert fit_distribution(SameLogit(1.0), sides[0], sides[0], torch.device("cpu"), None, "key") is None


def test_f_is_asked_once_and_a_foreign_image_is_doubtful_in_the_table(
    known: tuple[Blobs, Distribution], caplog: pytest.LogCaptureFixture
) -> None:
    f, settings = Blobs(), replace(tiny_settings(), data=replace(tiny_settings().data, size=SIZE))
    f.head.bias.data.fill_(9.0)
    record = TrainedOn(["array"], [], False)
    preparation = Preparation("percentile", Window(0.0, 1.0), False, record)
    run = replace(Predictor.of(explainer_of(settings, f, PaintBlack()), preparation, 0.05), distribution=known[1])
    logits, apart = run.look(torch.from_numpy(signed(pictures(4, 1)))[:, None])
    assert (logits.shape, apart.shape, f.asked) == ((4, 2), (4,), 4)
    run.masks(pictures(4, 1))
    assert not caplog.records
    run.masks(FOREIGN["inverted"])
    assert "doubtful masks: 1 of 1 images are unlike those of the training" in caplog.text
    with pytest.raises(UserError, match=r"scan.png for a run on arrays in \[0, 1\]"):
        run.segment("scan.png")
    on_files = replace(run, preparation=Preparation("percentile", Window(0.0, 65535.0), False, ON_IMAGES))
    found = on_files.segment(np.round(FOREIGN["another body"] * 255))
    row = found.row("axial")
    assert row["out_of_distribution"]
    assert row["doubtful"]
    assert row["distance"] > 1
    assert "its images are unlike those of the training" in row["doubts"][0]


def test_a_held_out_image_is_as_foreign_as_it_is_in_the_index(known: tuple[Blobs, Distribution], tmp_path: Path) -> None:
    settings = replace(tiny_settings(), data=replace(tiny_settings().data, size=SIZE))
    data = coinseg.Dataset(np.concatenate([pictures(20, 1), np.stack(list(FOREIGN.values()))]), np.arange(20 + len(FOREIGN)) % 2)
    data.index["split"][:] = VALIDATION
    held_out = ScoredSlices(data, settings.anomaly, 0, VALIDATION)
    f = Blobs()
    f.head.bias.data.fill_(9.0)
    preparation = Preparation("percentile", Window(0.0, 1.0), False, TrainedOn(["array"], [], False))
    run = replace(Predictor.of(explainer_of(settings, f, PaintBlack()), preparation, 0.05), distribution=known[1])
    scores_of = run.scores_of(held_out)
    evaluate(held_out, lambda batch: run.evidence(batch.image, scores_of(batch.rows)), 0.05, settings, tmp_path)
    with (tmp_path / "slices.csv").open(newline="") as file:
        doubtful = [row["doubtful"] == "1" for row in csv.DictReader(file)]
    far = run.look(torch.from_numpy(signed(data.images[:])))[1] > 1
    assert far[20:].all()
    assert all(doubtful[20:])
    assert scores_of(np.arange(len(far))).foreign.tolist() == far.tolist()


def test_of_a_scan_the_median_slice_says_whether_it_is_foreign() -> None:
    cases = np.array(["a", "a", "a", "b", "b", "b", "c", "d"])
    numbers = np.array([0, 1, 2, 0, 0, 1, 0, 0])  # b has two regions in its slice 0
    found = foreign(np.array([9, 0.5, 0.5, 0.5, 9, 1.5, np.nan, 1.0]), cases, numbers)
    assert found.tolist() == [False] * 3 + [True] * 3 + [False, False]
    assert foreign(np.array([]), np.array([]), np.array([])).tolist() == []


def test_a_run_keeps_the_distribution_and_so_does_its_export(images: Path, tmp_path: Path) -> None:
    root, copy, out = tmp_path / "run", tmp_path / "copy", tmp_path / "out"
    assert cli.main(["run", str(images), "-o", str(root), *TINY, "--student.steps", "0"]) == 0
    assert (root / "distribution" / "model.safetensors").stat().st_size < 100_000
    assert cli.main(["export", str(root), "-o", str(copy)]) == 0
    new = tmp_path / "new"
    new.mkdir()
    pixels = np.asarray(Image.open(images / "normal" / "i00.png"))
    Image.fromarray(pixels).save(new / "same.png")
    Image.fromarray(np.where(np.hypot(*np.indices((40, 44)) - 20) < 14, 150, 0).astype(np.uint8)).save(new / "foreign.png")
    assert cli.main(["segment", "-i", str(new), "-o", str(out), "--model", str(copy)]) == 0
    rows = {row["case"]: row for row in json.loads((out / "index.json").read_text())["masks"]}
    assert [rows[name]["out_of_distribution"] for name in ("same.png", "foreign.png")] == [False, True]
    save(new / "scan.nii.gz", ct())
    assert cli.main(["segment", "-i", str(new), "-o", str(out), "--model", str(copy)]) == 2
    assert not (out / "scan.nii.gz").exists()
    array = np.asarray(Image.open(new / "foreign.png"))
    run = load(copy)
    assert np.array_equal(run.masks(array), run.segment(new / "foreign.png").mask[0])


def test_masked_arrays_matrices_and_no_organ(tmp_path: Path) -> None:
    run, hu = load(run_on(tmp_path / "run", ON_CT)), ct()
    wanted = run.segment(hu).mask
    with pytest.raises(UserError, match=r"an array some of whose values are masked; required: .*; fill them"):
        run.segment(np.ma.masked_greater(hu, 30))
    assert (run.segment(np.ma.array(hu)).mask == wanted).all()
    assert (run.segment(np.asmatrix(hu[0])).mask == wanted[:1]).all()
    assert (run.segment(hu, organ=None).mask == wanted).all()  # type: ignore[arg-type]
