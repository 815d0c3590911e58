"""COIN without a disk: trained on arrays, as a notebook has them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from coinseg.data.layouts.registry import read_layout
from coinseg.data.slices.arrays import Dataset
from coinseg.data.slices.dataset import TrainingSlices
from coinseg.data.slices.store import prepare
from coinseg.errors import UserError
from coinseg.pipeline.recipe import train
from coinseg.pipeline.slice_segmenter import SliceSegmenter
from coinseg.training.classifier import train_classifier
from coinseg.training.coin import train_coin
from coinseg.training.student import Lesson, train_student
from conftest import tiny_settings


def cohort() -> tuple[np.ndarray, np.ndarray]:
    """Grey noise (24, 32, 32) uint8, the first half with a bright square, and labels; from 0 to 255."""
    rng = np.random.default_rng(0)
    images, labels = rng.normal(90, 12, (24, 32, 32)), (np.arange(24) < 12).astype(int)
    for i in np.flatnonzero(labels):
        row, column = rng.integers(4, 20, 2)
        images[i, row : row + 10, column : column + 10] += 110
    # One in a hundred pixels at each end, so that percentiles leave the range as it is.
    images[:, 0, :11], images[:, 31, :11] = 0, 255
    return np.clip(images, 0, 255).astype(np.uint8), labels


def same(one: torch.nn.Module, two: torch.nn.Module) -> bool:
    return all(torch.equal(value, two.state_dict()[name]) for name, value in one.state_dict().items())


def test_arrays_train_what_a_folder_of_the_same_images_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = cohort()
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        (folder := tmp_path / "data" / ("normal", "abnormal")[label]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"image{i:06d}.png")
    settings, empty = tiny_settings(), tmp_path / "empty"
    store = prepare(read_layout(tmp_path / "data", settings.data), settings, tmp_path / "slices")
    f = train_classifier(store, settings, tmp_path / "classifier")
    generator = train_coin(store, f, settings, tmp_path / "coin")
    empty.mkdir()
    monkeypatch.chdir(empty)

    data = Dataset(images.astype(np.float32) / 255, labels)
    f_of_arrays = train_classifier(data, settings)
    generator_of_arrays = train_coin(data, f_of_arrays, settings)

    assert same(f, f_of_arrays)
    assert same(generator, generator_of_arrays)
    assert list(empty.iterdir()) == []


def test_a_student_is_trained_on_arrays_and_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("coinseg.training.student.LEAST", 1)
    images, labels = cohort()
    base = tiny_settings()
    settings = replace(
        base,
        student=replace(base.student, steps=2, batch=4, synthetic_lesions=0.0),
        engine=replace(base.engine, logger="auto"),
    )
    slices = TrainingSlices(Dataset(torch.from_numpy(images) / 255, torch.from_numpy(labels)), settings.anomaly, 0)
    steps: list[int] = []
    lesson = Lesson(slices, lambda x: (x[:, 0].numpy() > 0.3, np.ones(len(x))))
    student = train_student([lesson], settings, report=lambda stage, done, total, values: steps.append(done))[0]
    assert student is not None
    assert student(torch.zeros(2, 1, 32, 32)).shape == (2, 1, 32, 32)
    assert steps == [1, 2]
    assert list(tmp_path.iterdir()) == []


def test_patients_are_on_one_side_and_the_key_is_of_all_that_is_given() -> None:
    images, labels = cohort()
    images = images / 255
    patients = np.arange(24) // 4
    data = Dataset(images, labels, patients, held_out=0.3)
    side = data.index["split"]
    assert all(len(set(side[patients == patient])) == 1 for patient in range(6))
    assert 0 < side.sum() < 24
    other = images.copy()
    other[3, 4, 5] += 0.01
    organs = np.ones(images.shape, bool)
    organs[0, 0, 0] = False
    keys = [
        Dataset(*args).meta["contents"]
        for args in ((images, labels), (other, labels), (images, 1 - labels), (images, labels, patients))
    ]
    keys += [Dataset(images, labels, organs=organs).meta["contents"], Dataset(images, labels, held_out=0.4).meta["contents"]]
    assert len(set(keys)) == len(keys)
    images[:] = 0  # what is trained on does not follow
    assert data.images.max() == 1


@pytest.mark.parametrize("of", [np.float64, torch.tensor, list], ids=["floats", "a tensor", "mixed"])
def test_a_number_of_a_patient_is_one_name_whatever_its_type(of: Callable[[object], object]) -> None:
    images, labels = cohort()
    patients = np.arange(24) // 4
    given: object = (
        [patient if i % 2 else float(patient) for i, patient in enumerate(patients.tolist())] if of is list else of(patients)
    )
    index = Dataset(images / 255, labels, given).index  # type: ignore[arg-type]
    assert index["patient"].tolist() == list(map(str, patients))


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda x, y: (x[:, None, None], y), r"shape \(24, 1, 1, 32, 32\); required: \(N, S, S\) or \(N, C, S, S\)"),
        (lambda x, y: (np.moveaxis(np.stack([x] * 3), 0, 3), y), r"shape \(24, 32, 32, 3\); .* channels first"),
        (lambda x, y: (x[:, :0][:, None], y), r"shape \(24, 1, 0, 32\)"),
        (lambda x, y: (x[:, :, :30], y), r"shape \(24, 32, 30\); required: \(N, S, S\)"),
        (lambda x, y: (x[:, :4, :4], y), r"S at least 8"),
        (lambda x, y: (x[:0], y[:0]), r"shape \(0, 32, 32\)"),
        (lambda x, y: ((x * 255).astype(np.uint8), y), r"type uint8; required: floating point in \[0, 1\]; divide them"),
        (lambda x, y: (x * 255, y), r"between 0 and 255; required: values in \[0, 1\]"),
        (lambda x, y: (x * 2 - 1, y), r"between -1 and 1;"),
        (lambda x, y: (np.where(x > 0.9, np.nan, x), y), "NaN or infinite"),
        (lambda x, y: ([x[0], x[1][:20, :20]], y[:2]), "a list of several shapes; required: one shape for all; resize them"),
        (lambda x, y: (x, y[:5]), r"labels of shape \(5,\); required: \(24,\)"),
        (lambda x, y: (x, y + 1), "labels with other values than 0 and 1"),
        (lambda x, y: (x, y.astype(str)), "labels with other values than 0 and 1"),
        (lambda x, y: (x, 0 * y), "images labelled 0 only; required: both 0 and 1"),
        (lambda x, y: (x, y, ["a"] * 24), "images of one patient"),
        (lambda x, y: (x, y, ["a"] * 3), "3 patients; required: 24, one of each image"),
        (lambda x, y: (x, y, y, 0.5), "images of one class to train on"),
        (lambda x, y: (x, y, None, 1.0), "held_out is 1.0; required: a number above 0 and below 1"),
        (lambda x, y: (x, y, None, "0.2"), "held_out is 0.2; required: a number"),
        (lambda x, y: (x, y, None, 0.2, None, -1), "seed is -1; required: a whole number from 0"),
        (lambda x, y: (x, y, None, 0.2, None, 0.5), "seed is 0.5"),
        (lambda x, y: (x, y, None, 0.2, None, None), "seed is None"),
        (lambda x, y: (np.ma.masked_greater(x, 0.9), y), "values are masked; .* fill them"),
        (lambda x, y: (x, np.ma.masked_array(y, np.arange(24) < 3)), "values are masked"),
        (lambda x, y: (list(np.ma.masked_greater(x, 0.9)), y), "values are masked"),
        (lambda x, y: (x, y, {i: i // 2 for i in range(24)}), "patients in a dict; .* in the order of the images"),
        (lambda x, y: (x, y, set(range(24))), "patients in a set"),
        (lambda x, y: (x, y, "abcdefghijklmnopqrstuvwx"), "patients in a str"),
        (lambda x, y: (x, y, [None, *range(23)]), r"1 images have no patient \(the first: \[0\]\)"),
        (lambda x, y: (x, y, np.where(np.arange(24) < 20, 1.0, np.nan)), r"4 images have no patient \(the first: \[20\]\)"),
        (lambda x, y: (x, y, None, 0.2, x), "organs with other values"),
        (lambda x, y: (x, y, None, 0.2, np.ones((24, 8, 8))), r"organs of shape \(24, 8, 8\)"),
    ],
)  # fmt: skip
def test_arrays_that_do_not_suit_are_refused_in_one_line(change: Callable[..., tuple[object, ...]], line: str) -> None:
    images, labels = cohort()
    with pytest.raises(UserError, match=line):
        Dataset(*change(images / 255, labels))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("ask", "line"),
    [
        (lambda x, y, s: train(x, y, s), "report is Settings; required: .*; name the others: settings=..., patients=..."),
        (lambda x, y, s: train(x, y, ["a"] * 24), "report is list; required: .*; name the others"),
        (lambda x, y, s: train(x, y, settings=s.as_dict()), "settings is dict; required: coinseg.Settings; give"),
        (lambda x, y, s: SliceSegmenter(s.as_dict()).fit(x, y), "settings is dict"),
    ],
)  # fmt: skip
def test_arguments_in_the_order_of_another_function_are_refused_in_one_line(ask: Callable[..., object], line: str) -> None:
    """`train(images, labels, settings)` was a traceback in the first step."""
    images, labels = cohort()
    with pytest.raises(UserError, match=line):
        ask(images / 255, labels, tiny_settings())
