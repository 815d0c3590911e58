"""A predictor asks each network for what is needed and no more, reads a file once, and does nothing when one of its properties
is read."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from coinseg.cli import main as cli
from coinseg.data.readers import dicom, itk, nifti
from coinseg.errors import UserError
from coinseg.inference.explainer import Explainer
from coinseg.inference.image_score import ImageScores
from coinseg.inference.predictor import Predictor
from coinseg.inference.segmenter import DifferenceSegmenter, StudentSegmenter
from coinseg.parts.imagenet_classifier import ImageNetClassifier
from coinseg.parts.slice_hmm import SliceHMM
from coinseg.pipeline.job import Job
from coinseg.pipeline.run import Run, Workspace
from conftest import SIZE, tiny_settings
from models import PaintBlack, SameLogit, SamePixels, bright_run, explainer_of, hu, scores_of
from writers import PLAIN, make_run, make_scan, scan_of, write_series

IMAGES = torch.rand(5, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0)) * 2 - 1
STEPS = np.array([[0.9, 0.1], [0.3, 0.7]])


class Refuses(nn.Module):
    """A generator that must not be asked."""

    def forward(self, x: Tensor) -> Tensor:
        raise AssertionError("the generator was asked")


class Counts(nn.Module):
    """A network that counts the images it is asked about."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.asked = network, 0

    def forward(self, x: Tensor) -> Tensor:
        self.asked += len(x)
        return self.network(x)


def with_student(generator: nn.Module) -> tuple[Predictor, list[SameLogit]]:
    """A predictor with a student, and its classifiers: f, another of the ensemble, the ImageNet classifier."""
    classifiers = [SameLogit(3.0), SameLogit(4.0), SameLogit(5.0)]
    explainer = explainer_of(tiny_settings(), classifiers[0], generator)
    parts = [ImageNetClassifier(classifiers[2]), SliceHMM(STEPS)]
    return Predictor.of(explainer, hu(-160.0, 240.0), 0.05, SamePixels(9.0), classifiers[1:2], 0.5, parts), classifiers


# --- what is asked


def test_with_a_student_each_classifier_is_asked_once_per_image_and_the_generator_for_the_confidence(tmp_path: Path) -> None:
    generator = Counts(PaintBlack())
    predictor, classifiers = with_student(generator)
    assert predictor.masks(IMAGES).all()
    assert [f.asked for f in classifiers] == [len(IMAGES)] * 3
    assert generator.asked == 2 * len(IMAGES)  # both views
    segmentation = predictor.segment(make_scan(tmp_path / "scan.nii.gz", (40, 44, 7)))
    assert segmentation.mask.all()
    assert [f.asked for f in classifiers] == [len(IMAGES) + 7] * 3
    assert generator.asked == 2 * (len(IMAGES) + 7)


def test_the_generator_has_no_say_in_the_masks_of_a_student_and_is_not_asked_where_f_says_normal() -> None:
    predictor, _ = with_student(PaintBlack())
    other, _ = with_student(nn.Identity())  # changes nothing, so its difference marks nothing
    one, none = predictor.segment_images(IMAGES), other.segment_images(IMAGES)
    assert np.array_equal(one.masks, none.masks)
    assert (one.confidence > none.confidence).all()
    np.testing.assert_allclose(none.confidence, scores_of(other, IMAGES).probability * 2 / 3, rtol=1e-3)  # both others agree
    of_f = ImageScores(np.zeros(len(IMAGES), np.float32), np.ones(len(IMAGES), np.float32), np.array(()))
    assert with_student(Refuses())[0].segment_images(IMAGES, of_f).masks.all()


def test_maps_of_a_run_with_a_student_are_those_of_the_generator(tmp_path: Path) -> None:
    scan = make_scan(tmp_path / "scan.nii.gz")
    predictor, _ = with_student(PaintBlack())
    alone = Predictor.of(predictor.explainer, predictor.preparation, predictor.threshold)
    maps, expected = (one.segment(scan, maps=True).maps for one in (predictor, alone))
    assert maps is not None
    assert expected is not None
    assert np.asarray(maps.difference).any()
    assert np.array_equal(np.asarray(maps.counterfactual), np.asarray(expected.counterfactual))
    assert np.array_equal(np.asarray(maps.difference), np.asarray(expected.difference))


def test_without_a_student_f_is_asked_once_and_the_generator_about_both_views_of_what_f_calls_abnormal(tmp_path: Path) -> None:
    f, generator = SameLogit(3.0), Counts(PaintBlack())
    predictor = Predictor.of(explainer_of(tiny_settings(), f, generator), hu(-160.0, 240.0), 0.05)
    predictor.masks(IMAGES)
    assert (f.asked, generator.asked) == (len(IMAGES), 2 * len(IMAGES))
    predictor.segment(make_scan(tmp_path / "scan.nii.gz", (40, 44, 7)))
    assert (f.asked, generator.asked) == (len(IMAGES) + 7, 2 * (len(IMAGES) + 7))
    normal = Predictor.of(explainer_of(tiny_settings(), SameLogit(-3.0), Refuses()), hu(-160.0, 240.0), 0.05)
    assert not normal.masks(IMAGES).any()


def test_scores_that_are_known_are_not_asked_for_again() -> None:
    predictor, classifiers = with_student(PaintBlack())
    expected = predictor.segment_images(IMAGES)
    known = predictor.scores(predictor.logits(IMAGES))
    before = [f.asked for f in classifiers]
    again = predictor.segment_images(IMAGES, known)
    assert [f.asked for f in classifiers] == before
    assert np.array_equal(again.masks, expected.masks)
    assert np.array_equal(again.confidence, expected.confidence)


def test_both_segmenters_say_what_shape_they_want() -> None:
    predictor, _ = with_student(Refuses())
    for one in (predictor, Predictor.of(predictor.explainer, predictor.preparation, 0.05)):
        with pytest.raises(UserError, match=r"images of shape \(2, 3, 32, 32\); required: \(B, 1, S, S\) with S a multiple of 4"):
            one.masks(torch.zeros(2, 3, 32, 32))


@pytest.mark.parametrize(
    ("images", "line"),
    [
        (np.zeros((2, 1, 32, 32), np.float32), r"images of ndarray; required: a torch tensor \(B, 1, S, S\)"),
        (torch.zeros(2, 1, 32, 32, dtype=torch.uint8), r"images of torch\.uint8; required: a torch tensor"),
        (torch.zeros(2, 1, 32, 32, dtype=torch.float64), r"images of torch\.float64; required: a torch tensor"),
        (
            torch.full((2, 1, 32, 32), 255.0),
            r"images with values from 255 to 255; required: .* float32 in \[-1, 1\]; give run.masks the array",
        ),
        (torch.full((2, 1, 32, 32), -1.5), r"images with values from -1\.5 to -1\.5; required"),
        (torch.full((2, 1, 32, 32), float("nan")), r"images with values from nan to nan; required"),
        (torch.zeros(2, 1, 32, 64), r"images of shape \(2, 1, 32, 64\); required"),
    ],
)
def test_images_that_are_none_are_refused_in_one_line(images: Any, line: str) -> None:
    predictor, _ = with_student(Refuses())
    for ask in (predictor.explain, predictor.probability):  # of `masks`: test_grey_values.py
        with pytest.raises(UserError, match=line) as refused:
            ask(images)
        assert "\n" not in str(refused.value)
    predictor.explainer.require_images(torch.ones(1, 1, 32, 32) * 1.0005)  # rounding


def test_other_settings_are_those_of_every_part_of_a_predictor_and_its_networks_stay() -> None:
    predictor, _ = with_student(Refuses())
    alone = Predictor.of(predictor.explainer, predictor.preparation, 0.05)
    settings = replace(
        tiny_settings(),
        masks=replace(tiny_settings().masks, min_px=7),
        classifier=replace(tiny_settings().classifier, threshold=0.9),
    )
    for one in (predictor, alone):
        other = one.with_settings(settings)
        assert one.settings == tiny_settings()
        assert other.settings is settings
        assert other.segmenter.cleaning.min_px == 7 or other.student is not None
        assert (other.f, other.generator, other.student, other.parts) == (one.f, one.generator, one.student, one.parts)
        assert other.threshold == one.threshold
        assert type(other.segmenter) is type(one.segmenter)
    assert isinstance(predictor.with_settings(settings).segmenter, StudentSegmenter)
    assert predictor.with_settings(settings).segmenter.settings is settings
    shut = replace(settings, student=replace(settings.student, gate=1.0))
    assert not predictor.with_settings(shut).masks(IMAGES).any()


# --- what is read


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The volumes that are opened, header or voxels, one entry each time."""
    paths: list[Path] = []

    def counted(open_one: Callable[..., Any]) -> Callable[..., Any]:
        return lambda path, *rest: paths.append(Path(path)) or open_one(path, *rest)

    for reader, name in ((nifti, "open_nifti"), (itk, "open_itk"), (dicom, "open_series")):
        monkeypatch.setattr(reader, name, counted(getattr(reader, name)))
    return paths


def test_a_scan_is_read_once_when_its_mask_is_written(tmp_path: Path, opened: list[Path]) -> None:
    root = make_run(tmp_path / "run")
    scans = {
        ".nii.gz": make_scan(tmp_path / "scans" / "a.nii.gz"),
        "": write_series(tmp_path / "scans" / "b", scan_of((40, 44, 3)), PLAIN),
    }
    for scan in scans.values():
        opened.clear()
        maps = ["--counterfactual", str(tmp_path / "c.nii.gz"), "--difference", str(tmp_path / "d.nii.gz")]
        command = ["segment", "-i", str(scan), "-o", str(tmp_path / "m.nii.gz"), "--model", str(root), "--overwrite"]
        assert cli.main([*command, "--confidence", str(tmp_path / "p.nii.gz"), *maps]) == 0
        assert opened == [scan]
    opened.clear()
    command = ["segment", "-i", str(tmp_path / "scans"), "-o", str(tmp_path / "masks"), "--model", str(root)]
    assert cli.main([*command, "--confidence", str(tmp_path / "sure")]) == 0
    assert sorted(opened) == sorted(scans.values())


# --- what only looks like reading


DOES = (
    "train",
    "write",
    "fit",
    "save",
    "evaluate",
    "prepare",
    "build",
    "barrier",
    "broadcast",
    "on_main",
    "all_gather",
    "segment",
)
"""Begins the name of what trains, writes, or waits for other processes."""


@pytest.mark.parametrize("kind", [Workspace, Run, Job, Predictor, Explainer, DifferenceSegmenter, StudentSegmenter])
def test_no_property_trains_writes_or_waits(kind: type) -> None:
    properties = {name: value for name, value in vars(kind).items() if isinstance(value, property | cached_property)}
    for name, value in properties.items():
        function = value.func if isinstance(value, cached_property) else value.fget
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
        calls = {ast.unparse(node.func).split(".")[-1] for node in ast.walk(tree) if isinstance(node, ast.Call)}
        assert not [call for call in calls if call.lstrip("_").startswith(DOES)], f"{kind.__name__}.{name}"


def test_what_a_property_must_not_do_is_found() -> None:
    class Old:
        @cached_property
        def f(self) -> Any:
            return train_classifier(self)  # noqa: F821

    with pytest.raises(AssertionError, match=r"Old\.f"):
        test_no_property_trains_writes_or_waits(Old)


@pytest.mark.parametrize("turn", [lambda x: x.astype(">f4"), lambda x: x[::-1], lambda x: x.swapaxes(2, 3), np.asfortranarray])
def test_arrays_are_read_in_any_order_of_bytes_and_axes(turn: Callable[[np.ndarray], np.ndarray]) -> None:
    predictor, images = bright_run(), turn(IMAGES.numpy())
    expected = predictor.masks(torch.tensor(np.ascontiguousarray(images, np.float32)))
    assert expected.any()
    assert np.array_equal(predictor.masks(images), expected)


def test_images_in_0_to_1_are_said_to_be_so(caplog: pytest.LogCaptureFixture) -> None:
    predictor = bright_run()
    predictor.masks(IMAGES)
    predictor.masks(IMAGES[:0])
    assert not caplog.messages
    predictor.masks((IMAGES + 1) / 2)
    assert caplog.messages == ["doubtful masks: no value is below 0, are the images in [0, 1]? required: [-1, 1], 2 * images - 1"]
