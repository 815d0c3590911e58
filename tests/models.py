"""Predictors that were not trained: they mark what a test can foretell. And what tests ask of those that were."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from coinseg.config.schema import MaskSettings, Settings
from coinseg.data.slices.dataset import TrainingSlices
from coinseg.data.slices.intensity import Window
from coinseg.inference.explainer import Explainer
from coinseg.inference.image_score import ImageScores
from coinseg.inference.predictor import Predictor, Preparation
from coinseg.parts.base import Learning, Part
from coinseg.runtime.devices import choose_device
from coinseg.runtime.stage import Report, silent
from conftest import tiny_settings


class SameLogit(nn.Module):
    """A classifier that gives every image the same logit; it counts the images it was asked about."""

    def __init__(self, logit: float) -> None:
        super().__init__()
        self.logit, self.asked = logit, 0

    def forward(self, x: Tensor) -> Tensor:
        self.asked += len(x)
        return torch.full((len(x),), self.logit)


class Brightness(nn.Module):
    """A classifier that calls bright images abnormal."""

    def forward(self, x: Tensor) -> Tensor:
        return 8 * x.mean((1, 2, 3))


class SamePixels(nn.Module):
    """A student that gives every pixel the same logit; or a generator that paints everything alike."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: Tensor) -> Tensor:
        return torch.full_like(x, self.value)


class PaintBlack(nn.Module):
    """A generator that paints what is bright black."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x > 0, -torch.ones_like(x), x)


def explainer_of(settings: Settings, f: nn.Module, generator: nn.Module | None) -> Explainer:
    """An explainer on the device of the settings."""
    return Explainer(settings, f, generator, choose_device(settings.engine))


def hu(low: float, high: float, organs: bool = False) -> Preparation:
    """Of CT images in this window."""
    return Preparation("hu", Window(low, high), organs)


def bright_run() -> Predictor:
    """A predictor that marks what is bright, and whose counterfactual has none of it."""
    settings = replace(tiny_settings(), masks=MaskSettings(peak=0.0, refine="none", opening=0, closing=0, keep="all", min_px=0))
    return Predictor.of(explainer_of(settings, SameLogit(99.0), PaintBlack()), hu(0.0, 1000.0), 0.5)


def scores_of(predictor: Predictor, images: Tensor) -> ImageScores:
    """The scores of images, each by itself."""
    return predictor.scores(predictor.logits(images))


def maps_of(predictor: Predictor, images: Tensor) -> np.ndarray:
    """The maps (B, S, S) that the masks of images, each by itself, are read from."""
    return predictor.segmenter.maps(images, scores_of(predictor, images)).values


def part_of(predictor: Predictor, kind: type[Part]) -> Any:
    """The part of this kind; None where the predictor has none."""
    return next((part for part in predictor.parts if isinstance(part, kind)), None)


def with_parts(predictor: Predictor, parts: Sequence[Part]) -> Predictor:
    """The same networks with other parts."""
    score = predictor.image_score
    return Predictor.of(
        predictor.explainer, predictor.preparation, predictor.threshold, predictor.student, list(score.classifiers)[1:],
        score.shift, parts,
    )  # fmt: skip


def without(predictor: Predictor, kind: type[Part]) -> Predictor:
    """The same predictor without a part."""
    return with_parts(predictor, [part for part in predictor.parts if not isinstance(part, kind)])


def nobody(*ignored: Any) -> Any:
    """Stands for what a part has no reason to ask."""
    raise AssertionError("asked for nothing")


def learning_of(
    slices: TrainingSlices, settings: Settings, key: str = "k", root: Path | None = None, report: Report = silent,
    probability: Callable[[Tensor], np.ndarray] = nobody, segment: Callable[[Tensor], np.ndarray] = nobody,
) -> Learning:  # fmt: skip
    """What a part may learn from; what a test does not give must not be asked."""
    return Learning(slices, settings, key, root, report, nobody, probability, segment)


def learn_from_few(patch: pytest.MonkeyPatch) -> None:
    """Let a student learn from a single trusted mask."""
    for room in ("training.pseudo_masks", "training.student", "pipeline.recipe"):
        patch.setattr(f"coinseg.{room}.LEAST", 1)


def as_first_schema(model: dict[str, Any]) -> dict[str, Any]:
    """model.json as schema 1 had it: each part was a key."""
    first = {name: value for name, value in model.items() if name != "parts"}
    steps = model["parts"].get("slice_hmm", {"transitions": None})["transitions"]
    flags = {"opinion": "imagenet_classifier" in model["parts"], "novelty": "patchcore" in model["parts"]}
    return first | flags | {"schema": 1, "steps": steps}
