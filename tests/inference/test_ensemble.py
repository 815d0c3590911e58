"""Teachers together: one is itself, two alike are one, their order does not matter, and what only one sees counts half."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from coinseg.config.schema import MaskSettings
from coinseg.data.slices.intensity import Window
from coinseg.explain.counterfactual.generator import Generator
from coinseg.inference.ensemble import Ensemble
from coinseg.inference.scans import Run
from coinseg.networks.classifier import build
from coinseg.runtime.devices import make_fabric
from coinseg.types import Explanation
from conftest import tiny_settings

PLAIN = MaskSettings(peak=0.0, refine="none", opening=0, closing=0, keep="all", min_px=0)
IMAGES = torch.zeros(2, 1, 32, 32)


def teacher(probability: float, agreement: float, threshold: float, **where: float) -> Run:
    """A run whose difference is a value in the left, the middle and the right third, for the first of two images."""
    base = replace(tiny_settings(), masks=PLAIN)
    run = Run(
        base, build(base.classifier), Generator(base.coin), "hu", Window(0.0, 1.0), False, threshold, make_fabric(base.engine)
    )
    maps = np.zeros((2, 32, 32), np.float32)
    for name, part in (("left", slice(0, 10)), ("middle", slice(10, 20)), ("right", slice(20, 32))):
        maps[0, :, part] = where.get(name, 0.0)

    def differences(images: torch.Tensor, inpaint_all: bool = False) -> tuple[Explanation, np.ndarray]:
        each = torch.full((2,), probability)
        return Explanation(each, images, torch.from_numpy(maps), None, torch.full((2,), agreement)), maps

    run.differences = differences  # type: ignore[method-assign]
    return run


def together(*runs: Run) -> tuple[np.ndarray, np.ndarray]:
    nobody: Any = None
    made = Ensemble(runs[0], [], nobody)
    made.runs = list(runs)
    return made.trusted(IMAGES)


def test_one_teacher_gives_its_own_masks() -> None:
    run = teacher(0.9, 0.8, 0.3, left=0.5, middle=0.2)
    masks, sure = together(run)
    own = run.marked(IMAGES)
    assert (masks == own.masks).all()
    assert masks[0, :, :10].all()
    assert masks.sum() == 320
    np.testing.assert_allclose(sure, own.confidence)
    np.testing.assert_allclose(sure, [0.72, np.nan], rtol=1e-6)


def test_two_teachers_alike_are_one_and_their_order_does_not_matter() -> None:
    one, other = teacher(0.9, 0.8, 0.3, left=0.5), teacher(0.7, 0.4, 0.1, left=0.3, middle=0.5)
    for a, b in ((together(one, one), together(one)), (together(one, other), together(other, one))):
        assert (a[0] == b[0]).all()
        np.testing.assert_allclose(a[1], b[1])


def test_the_mean_of_the_differences_is_held_against_the_mean_of_the_thresholds() -> None:
    masks, sure = together(teacher(0.9, 0.8, 0.3, left=0.5, right=0.3), teacher(0.7, 0.4, 0.1, left=0.3, middle=0.5))
    # Left 0.4 and middle 0.25 exceed 0.2, right 0.15 does not.
    assert masks[0].any(0).tolist() == [True] * 20 + [False] * 12
    np.testing.assert_allclose(sure, [0.8 * 0.6, np.nan], rtol=1e-6)


@pytest.mark.parametrize(("other", "marked"), [(0.2, True), (0.05, False)])
def test_the_mean_of_their_classifiers_decides_whether_there_is_a_mask(other: float, marked: bool) -> None:
    masks, _ = together(teacher(0.9, 0.8, 0.1, left=0.5), teacher(other, 0.8, 0.1, left=0.5))
    assert masks.any() == marked
