"""Pairs together: one is itself, two alike are one, their order does not matter, and what only one sees counts half."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from coinseg.config.schema import MaskSettings, Settings
from coinseg.inference import ensemble as room
from coinseg.inference.ensemble import Ensemble
from coinseg.inference.image_score import ImageScores
from coinseg.inference.segmenter import segment
from coinseg.masks.threshold import Threshold
from coinseg.types import Maps
from conftest import tiny_settings

PLAIN = MaskSettings(peak=0.0, refine="none", opening=0, closing=0, keep="all", min_px=0)
IMAGES = torch.zeros(2, 1, 32, 32)


@dataclass(frozen=True)
class Classifier:
    """An explainer whose f gives every image the same probability."""

    settings: Settings
    value: float
    has_evidence = False

    def probability(self, images: Tensor) -> Tensor:
        return torch.full((len(images),), self.value)


@dataclass(frozen=True)
class Pair:
    """A segmenter with known maps."""

    explainer: Classifier
    threshold: float
    known: Maps

    @property
    def level(self) -> float:
        return self.threshold

    @property
    def cleaning(self) -> MaskSettings:
        return self.explainer.settings.masks

    def maps(self, images: Tensor, scores: ImageScores, saliency: Tensor | None = None) -> Maps:
        return self.known


def pair(probability: float, agreement: float, threshold: float, **where: float) -> Pair:
    """A pair whose difference is a value in the left, the middle and the right third, for the first of two images."""
    maps = np.zeros((2, 32, 32), np.float32)
    for name, part in (("left", slice(0, 10)), ("middle", slice(10, 20)), ("right", slice(20, 32))):
        maps[0, :, part] = where.get(name, 0.0)
    known = Maps(maps, None, np.full(2, agreement, np.float32), np.full(2, agreement, np.float32))
    return Pair(Classifier(replace(tiny_settings(), masks=PLAIN), probability), threshold, known)


def together(*pairs: Any) -> tuple[np.ndarray, np.ndarray]:
    nothing: Any = None
    ensemble = Ensemble(pairs[0], [], nothing)
    ensemble.__dict__["pairs"] = list(pairs)
    return ensemble.pseudo_masks(IMAGES)


def test_one_pair_gives_its_own_masks() -> None:
    one = pair(0.9, 0.8, 0.3, left=0.5, middle=0.2)
    masks, sure = together(one)
    own = segment(one, IMAGES, ImageScores.of_f(one.explainer.probability(IMAGES)))
    assert (masks == own.masks).all()
    assert masks[0, :, :10].all()
    assert masks.sum() == 320
    np.testing.assert_allclose(sure, own.confidence)
    np.testing.assert_allclose(sure, [0.72, np.nan], rtol=1e-6)


def test_two_pairs_alike_are_one_and_their_order_does_not_matter() -> None:
    one, other = pair(0.9, 0.8, 0.3, left=0.5), pair(0.7, 0.4, 0.1, left=0.3, middle=0.5)
    for a, b in ((together(one, one), together(one)), (together(one, other), together(other, one))):
        assert (a[0] == b[0]).all()
        np.testing.assert_allclose(a[1], b[1])


def test_the_mean_of_the_differences_is_held_against_the_mean_of_the_thresholds() -> None:
    masks, sure = together(pair(0.9, 0.8, 0.3, left=0.5, right=0.3), pair(0.7, 0.4, 0.1, left=0.3, middle=0.5))
    # Left 0.4 and middle 0.25 exceed 0.2, right 0.15 does not.
    assert masks[0].any(0).tolist() == [True] * 20 + [False] * 12
    np.testing.assert_allclose(sure, [0.8 * 0.6, np.nan], rtol=1e-6)


@pytest.mark.parametrize(("other", "marked"), [(0.2, True), (0.05, False)])
def test_the_mean_of_their_classifiers_decides_whether_there_is_a_mask(other: float, marked: bool) -> None:
    masks, _ = together(pair(0.9, 0.8, 0.1, left=0.5), pair(other, 0.8, 0.1, left=0.5))
    assert masks.any() == marked


def test_each_other_pair_chooses_its_own_threshold_on_the_training_slices_once() -> None:
    slices: Any = object()
    asked: list[Any] = []

    class Choosing(Classifier):
        def choose_threshold(self, on: Any) -> Any:
            asked.append(on)
            return Threshold(self.value / 2, "half")

    first, others = pair(0.9, 0.8, 0.3), [Choosing(tiny_settings(), value) for value in (0.8, 0.6)]
    ensemble = Ensemble(first, others, slices)  # type: ignore[arg-type]
    assert asked == []
    assert ensemble.pairs[0] is first
    assert [one.threshold for one in ensemble.pairs] == [0.3, 0.4, 0.3]
    assert asked == [slices, slices]
    assert ensemble.probability(IMAGES).tolist() == pytest.approx([(0.9 + 0.8 + 0.6) / 3] * 2)


@pytest.mark.parametrize(("weight", "peak", "fitted"), [(3.0, 0.5, True), (0.0, 0.5, False), (3.0, 0.0, False)])
def test_borders_are_fitted_to_the_image_where_there_is_a_weight_and_a_peak(
    monkeypatch: pytest.MonkeyPatch, weight: float, peak: float, fitted: bool
) -> None:
    given: list[Any] = []

    def fit(image: np.ndarray, maps: np.ndarray, masks: np.ndarray, *rest: float) -> np.ndarray:
        given.append((image, maps, masks, rest))
        return ~masks

    monkeypatch.setattr(room, "fit_border", fit)
    one = pair(0.9, 0.8, 0.3, left=0.5, middle=0.2)
    settings = replace(one.explainer.settings, masks=replace(PLAIN, peak=peak))
    settings = replace(settings, student=replace(settings.student, border_weight=weight))
    one = replace(one, explainer=replace(one.explainer, settings=settings))
    x = torch.rand(2, 1, 32, 32)
    ensemble = Ensemble(one, [], None)  # type: ignore[arg-type]
    masks, _ = ensemble.pseudo_masks(x)
    assert bool(given) is fitted
    assert masks[0, 0, 0] != fitted
    if fitted:
        ((image, maps, before, rest),) = given
        assert np.array_equal(image, x.numpy())
        assert np.array_equal(before, ~masks)
        assert maps[0, 0, [0, 12, 25]].tolist() == pytest.approx([0.5, 0.2, 0.0])
        assert rest == (peak, weight)


def test_where_levels_differ_from_image_to_image_their_mean_counts_and_a_pair_without_one_gives_its_threshold() -> None:
    def levelled(probability: float, threshold: float, levels: list[float], left: float) -> Pair:
        plain = pair(probability, 0.5, threshold, left=left)
        maps = np.stack([plain.known.values[0]] * 2)
        return replace(plain, known=Maps(maps, np.array(levels), np.full(2, 0.5)))

    nan = float("nan")
    one, other = levelled(0.9, 0.3, [0.2, 0.6], 0.5), levelled(0.7, 0.1, [0.4, nan], 0.3)
    # Means: the map 0.4, the levels 0.3 and (0.6 + 0.1) / 2 = 0.35; a level of 0.5 leaves nothing.
    masks, sure = together(one, other)
    assert masks.any((1, 2)).tolist() == [True, True]
    np.testing.assert_allclose(sure, [0.8 * 0.5] * 2)
    masks, sure = together(one, levelled(0.7, 0.3, [0.7, nan], 0.3))
    assert masks.any((1, 2)).tolist() == [False, False]
    assert np.isnan(sure).all()
    # Without mirror images nobody knows.
    unknown = replace(one, known=replace(one.known, mirrored=None))
    masks, sure = together(unknown, other)
    assert masks.any()
    assert np.isnan(sure).all()


@dataclass(frozen=True)
class Local(Classifier):
    """An explainer whose f has evidence in the first row of the left and the middle third, and explains by known shares."""

    shares: tuple[float, float] = (1.0, 1.0)
    has_evidence = True

    def evidence(self, images: Tensor) -> np.ndarray:
        local = np.zeros((len(images), 32, 32))
        local[:, 0, :20] = 1.0
        return local

    def explained(self, images: Tensor, masks: np.ndarray) -> np.ndarray:
        """`shares` of masks that were opened, and of those that were not: these have the single column."""
        return np.full(len(images), self.shares[int(masks[0, :, 11].any())])


class Training:
    """A training side of two images, the first of them abnormal."""

    def labels(self) -> np.ndarray:
        return np.array([1, 0])

    def batch(self, indices: np.ndarray) -> Any:
        assert indices.tolist() == [0]
        return Batch(IMAGES)


@dataclass(frozen=True)
class Batch:
    """As many images as `Pair` has maps of."""

    image: Tensor


def local_pair(shares: tuple[float, float], parts: str = "evidence") -> Ensemble:
    """An ensemble of one pair: a part of ten columns, a part of one, which the opening removes, and one without evidence."""
    maps = np.zeros((2, 32, 32), np.float32)
    maps[0, :, :10] = maps[0, :, 11] = maps[0, :, 22:] = 0.5
    settings = tiny_settings()
    settings = replace(
        settings, masks=replace(PLAIN, opening=3), student=replace(settings.student, border_weight=0.0, parts=parts)
    )
    one: Any = Pair(Local(settings, 0.9, shares), 0.3, Maps(maps, None, np.full(2, 0.8, np.float32)))
    slices: Any = Training()
    return Ensemble(one, [], slices)


def columns(masks: np.ndarray) -> list[int]:
    return np.flatnonzero(masks[0].any(0)).tolist()


def test_parts_without_evidence_are_left_out_and_all_others_kept() -> None:
    assert columns(local_pair((1.0, 1.0)).pseudo_masks(IMAGES)[0]) == [*range(10)]
    assert columns(local_pair((1.0, 1.0), "masks").pseudo_masks(IMAGES)[0]) == [*range(10), *range(22, 32)]


def test_masks_are_not_opened_where_what_the_opening_removes_is_dense_with_the_decision_of_f() -> None:
    # Ten columns of 32 against eleven: the eleventh has to hold more than a root of 11 / 10, 4.9 %, of what is there.
    assert columns(local_pair((1.0, 1.04)).pseudo_masks(IMAGES)[0]) == [*range(10)]
    assert columns(local_pair((1.0, 1.06)).pseudo_masks(IMAGES)[0]) == [*range(10), 11]


def test_where_f_calls_nothing_abnormal_masks_are_opened_as_the_setting_says() -> None:
    ensemble = local_pair((0.0, 1.0))
    first: Any = ensemble.first
    quiet = replace(first, explainer=replace(first.explainer, value=0.1))
    ensemble.__dict__["pairs"] = [quiet]
    cleaning = ensemble.cleaning
    assert cleaning is not None
    assert (cleaning.opening, cleaning.keep) == (3, "all")


def test_few_abnormal_images_are_asked_about_the_opening_evenly_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[int]] = []

    class Many(Training):
        def labels(self) -> np.ndarray:
            return np.array([0, 1, 1, 1, 1, 1, 0])

        def batch(self, indices: np.ndarray) -> Any:
            asked.append(indices.tolist())
            return Batch(IMAGES)

    monkeypatch.setattr(room, "ASKED", 3)
    slices: Any = Many()
    ensemble = replace(local_pair((1.0, 1.0)), slices=slices)
    assert ensemble.cleaning is not None
    assert asked == [[1, 3, 5]]
