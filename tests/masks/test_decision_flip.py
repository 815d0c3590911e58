"""The level of the smallest region that turns f: values by hand, laws, and the whole way as a setting."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import nn

from coinseg.config.rules import require_consistent
from coinseg.config.schema import AttributionSettings, Settings
from coinseg.data.slices.intensity import Window
from coinseg.errors import UserError
from coinseg.explain.counterfactual.generator import Generator
from coinseg.inference.ensemble import Ensemble
from coinseg.inference.predictor import Predictor, Preparation
from coinseg.inference.segmenter import DifferenceSegmenter
from coinseg.masks.decision_flip import REGIONS, flip_levels, pasted, with_peaks
from coinseg.masks.postprocess import levels_of, masks_of, peaks
from coinseg.pipeline.run import Workspace, evaluate, train, write_masks
from coinseg.pipeline.run_manifest import threshold_of
from conftest import tiny_settings
from models import explainer_of

SIDE = 16
RISING = np.linspace(0, 1, SIDE * SIDE).reshape(1, SIDE, SIDE)
"""A map whose n largest values are its last n pixels."""
WHITE, BLACK = np.ones((1, 1, SIDE, SIDE)), np.zeros((1, 1, SIDE, SIDE))


def bright(unit: np.ndarray) -> np.ndarray:
    """An f that sees how much of an image is bright."""
    return unit.mean((1, 2, 3))


def test_pasting_takes_the_counterfactual_inside_and_the_image_outside() -> None:
    region = RISING > 0.5
    found = pasted(WHITE, BLACK, region)[:, 0]
    assert (found[region] == 0).all()
    assert (found[~region] == 1).all()


@pytest.mark.parametrize(("normal", "pixels"), [(0.99, 4), (0.95, 15), (0.8, 53), (0.76, 64)])
def test_the_level_is_that_of_the_smallest_region_that_turns_f(normal: float, pixels: int) -> None:
    """White with n black pixels of 256 has a mean of 1 - n / 256; of the areas tried 4, 15, 53 and 64 are the first below."""
    level = flip_levels(WHITE, BLACK, RISING, bright, normal)
    assert (level < RISING).sum() == pixels
    assert np.isnan(flip_levels(WHITE, BLACK, RISING, bright, 0.74))  # a quarter of the image is the most that is tried


def test_where_nothing_turns_f_there_is_no_level_and_f_is_asked_no_more_once_it_turned() -> None:
    asked: list[int] = []

    def ask(unit: np.ndarray) -> np.ndarray:
        asked.append(len(unit))
        return bright(unit)

    images = np.concatenate([WHITE, WHITE])
    painted = np.concatenate([BLACK, WHITE])
    level = flip_levels(images, painted, np.concatenate([RISING, RISING]), ask, 0.99)
    assert np.isfinite(level).tolist() == [True, False]
    assert asked[:2] == [2, 2]  # as they are, then with the smallest region
    assert asked[2:] == [1] * (len(asked) - 2)
    assert len(asked) <= REGIONS + 1


def test_what_is_called_normal_already_is_not_turned() -> None:
    assert np.isnan(flip_levels(WHITE, BLACK, RISING, bright, 1.01))
    assert np.isfinite(flip_levels(WHITE, BLACK, RISING, bright, 1.0))


def test_images_do_not_see_each_other() -> None:
    rng = np.random.default_rng(0)
    images, painted = rng.random((2, 6, 1, SIDE, SIDE))
    maps = rng.random((6, SIDE, SIDE))
    together = flip_levels(images, painted, maps, bright, 0.5)
    singles = [flip_levels(*(part[i : i + 1] for part in (images, painted, maps)), bright, 0.5)[0] for i in range(6)]
    np.testing.assert_array_equal(together, singles)


def test_the_geometric_mean_by_hand() -> None:
    flip = np.array([0.04, 0.04, np.nan, 0.0])
    assert with_peaks(flip, 0.1, np.array([0.16, 0.36, 0.36, 0.36])) == pytest.approx([0.1, 0.12, 0.36, 0.1])
    assert with_peaks(flip, 0.01, np.zeros(4)) == pytest.approx([0.04, 0.04, 0.01, 0.01])


def test_levels_of_images_take_the_place_of_threshold_and_peak() -> None:
    settings = replace(Settings().masks, opening=0, closing=0, min_px=0, keep="all")
    maps = np.concatenate([RISING, RISING]).astype(np.float32)
    levels = np.array([0.25, 0.75])
    assert levels_of(maps, levels, 0.9) is levels
    assert (masks_of(maps, levels, settings) == (maps > levels[:, None, None])).all()


def test_an_attribution_has_no_counterfactual_to_paste() -> None:
    settings = replace(
        Settings(), method="rise", masks=replace(Settings().masks, threshold="decision_flip"), attribution=AttributionSettings()
    )
    with pytest.raises(
        UserError, match=r"masks\.threshold is decision_flip and method is rise; required: method counterfactual for it"
    ):
        require_consistent(settings)
    require_consistent(replace(settings, method="counterfactual"))


class Bright(nn.Module):
    """Calls an image abnormal when a hundredth of it or more is white; logits (B,)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See above."""
        return 2000 * ((x > 0.5).float().mean((1, 2, 3)) - 0.01)


class Painter(nn.Module):
    """Paints what is white grey, and by half the amount also the pixels two to the left of it: too much."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """X_cf, (B, 1, S, S)."""
        white = (x > 0.5).float()
        return x - white * 0.9 - 0.45 * torch.roll(white, -4, -1) * (1 - white)


def test_what_is_painted_for_nothing_is_not_marked() -> None:
    """The level of an image is where its region flips f, so a change of half the strength beside the lesion is outside."""
    settings = replace(Settings(), masks=replace(Settings().masks, refine="none", hflip=False, peak=0.0, opening=0, closing=0))
    flip = replace(settings, masks=replace(settings.masks, threshold="decision_flip"))
    images = torch.zeros(2, 1, 32, 32) - 0.5
    images[0, 0, 10:16, 10:16] = 0.9
    images[1, 0, 4:7, 20:23] = 0.9  # nine pixels of 1024: called normal
    plain_images = Preparation("percentile", Window(0, 1), False)
    runs = [Predictor.of(explainer_of(s, Bright(), Painter()), plain_images, 0.01) for s in (settings, flip)]
    lesion = np.zeros((2, 32, 32), bool)
    lesion[0, 10:16, 10:16] = True
    plain, cut = (run.masks(images) for run in runs)
    assert plain[0].sum() > lesion[0].sum()
    assert (cut[0] & ~lesion[0]).sum() == 0
    assert cut[0].sum() >= 24  # f turns once fewer than 11 white pixels are left of 36
    assert not cut[1].any()
    segmented = runs[1].segment_images(images)
    refined, levels = segmented.maps.values, segmented.maps.levels
    assert levels is not None
    assert np.isnan(levels[1])
    sure = segmented.pixel_confidence
    assert ((sure > 0.5) == (refined > levels[:, None, None])).all()
    assert not sure[1].any()
    assert peaks(refined)[0] > 0


def test_a_run_with_the_rule_from_training_to_masks(images: Path, tmp_path: Path) -> None:
    tiny = tiny_settings()
    settings = replace(
        tiny,
        classifier=replace(tiny.classifier, steps=4),
        coin=replace(tiny.coin, steps=4),
        masks=replace(tiny.masks, threshold="decision_flip"),
    )
    work = Workspace(images, tmp_path / "run", settings)
    work.start()
    run = train(work)
    scores = evaluate(run)
    assert scores["iou_mask_free"] is not None
    assert "in each image also what turns f" in threshold_of(run)["rule"]
    assert isinstance(run.predictor.generator, Generator)
    assert len(write_masks(run)["masks"]) == 12
    slices = run.held_out()
    masks = run.predictor.masks(slices.scored(np.arange(len(slices))).image)
    with (work.root / "evaluation" / "slices.csv").open(newline="") as file:
        assert [int(row["mask_px"]) for row in csv.DictReader(file)] == masks.sum((1, 2)).tolist()


class Never(Bright):
    """Calls nothing abnormal."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See above."""
        return torch.full((len(x),), -5.0)


def test_a_teacher_that_calls_an_image_normal_does_not_empty_its_mask() -> None:
    """Its level is not known, so its floor counts; two of three that see a lesion are enough for a mask to learn from."""
    settings = replace(
        Settings(), masks=replace(Settings().masks, refine="none", opening=0, closing=0, threshold="decision_flip")
    )
    settings = replace(settings, student=replace(settings.student, border_weight=0.0))
    images = torch.zeros(1, 1, 32, 32) - 0.5
    images[0, 0, 10:16, 10:16] = 0.9
    pairs = [DifferenceSegmenter(explainer_of(settings, f, Painter()), 0.01) for f in (Bright(), Bright(), Never())]
    ensemble = Ensemble(pairs[0], [], cast(Any, None))
    ensemble.__dict__["pairs"] = pairs
    masks, sure = ensemble.pseudo_masks(images)
    assert masks[0, 10:16, 10:16].all()
    assert np.isfinite(sure[0])
