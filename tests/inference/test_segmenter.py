"""From image scores and maps to masks: who is asked about what, which views agree, and what the parts may change."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from coinseg.config.schema import MaskSettings, Settings
from coinseg.inference import segmenter as room
from coinseg.inference.image_score import ImageScore, ImageScores
from coinseg.inference.segmenter import DifferenceSegmenter, StudentSegmenter, segment
from coinseg.masks.student_maps import LEVEL, rescale_to_peak
from coinseg.parts.base import Part, Views
from coinseg.types import Maps
from conftest import tiny_settings
from models import Brightness, SameLogit, explainer_of

SIDE = 16
CPU = torch.device("cpu")


def settings_of(threshold: float = 0.5, gate: float = 0.4, **masks: Any) -> Settings:
    base = tiny_settings()
    plain = MaskSettings(peak=0.0, refine="none", opening=0, closing=0, keep="all", min_px=0)
    return replace(
        base,
        masks=replace(plain, **masks),
        classifier=replace(base.classifier, threshold=threshold),
        student=replace(base.student, gate=gate),
    )


def scores(*ensemble: float, f: float = 0.0, given: tuple[float, ...] = ()) -> ImageScores:
    return ImageScores(np.full(len(ensemble), f, np.float32), np.array(ensemble, np.float32), np.array(given))


class Draws(nn.Module):
    """A student: probability 0.8 in the first four columns of what it is shown, 0.6 in the next four, nearly 0 elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.shown.append(x)
        p = torch.full_like(x, 1e-6)
        p[..., :4], p[..., 4:8] = 0.8, 0.6
        return torch.logit(p)


def columns(*values: float) -> np.ndarray:
    """A map of four bands of four columns."""
    return np.repeat(np.array(values), 4)[None].repeat(SIDE, 0)


def difference_of(settings: Settings, threshold: float = 0.05) -> DifferenceSegmenter:
    return DifferenceSegmenter(explainer_of(settings, SameLogit(0.0), Left()), threshold)


def student_of(settings: Settings, *parts: Part) -> StudentSegmenter:
    return StudentSegmenter(Draws().train(), parts, difference_of(settings))


# --- the student ------------------------------------------------------------------------------------------------------------


def test_the_map_of_a_student_is_the_mean_of_both_views_and_their_masks_are_compared() -> None:
    one = student_of(settings_of())
    found = one.maps(torch.zeros(1, 1, SIDE, SIDE), scores(0.9))
    np.testing.assert_allclose(found.values[0], columns(0.4, 0.3, 0.3, 0.4), atol=1e-5)
    assert found.mirrored is not None
    assert found.mirrored.tolist() == [0.0]  # one view marks the left half, the other the right one
    assert (found.levels, found.image_score) == (None, pytest.approx([0.9]))
    assert one.level == LEVEL == 0.5
    assert not one.student.training
    # Of the peak 0.8 a share of 0.8 is 0.64: of each view only the outer four columns are marked, and of the mean of both, whose
    # peak is 0.4, what exceeds 0.32.
    sharp = student_of(settings_of(peak=0.8)).maps(torch.zeros(1, 1, SIDE, SIDE), scores(0.9))
    assert (sharp.values[0] > LEVEL).tolist() == (columns(1, 0, 0, 1) > 0).tolist()
    np.testing.assert_allclose(
        sharp.values[0], rescale_to_peak(columns(0.4, 0.3, 0.3, 0.4)[None], np.array([True]), 0.8)[0], atol=1e-5
    )


def test_a_student_is_asked_about_what_its_gate_lets_in_or_a_label_says_and_about_nothing_else() -> None:
    one = student_of(settings_of(gate=0.4))
    images = torch.arange(6.0).reshape(6, 1, 1, 1).expand(6, 1, SIDE, SIDE) / 10
    nan = float("nan")
    found = one.maps(images, scores(0.9, 0.4, 0.39, 0.9, 0.1, 0.1, given=(nan, nan, nan, 0, 1, nan)))
    assert found.values.any((1, 2)).tolist() == [True, True, False, False, True, False]
    shown = one.student.shown  # type: ignore[union-attr]
    assert all(torch.equal(torch.unique(x), images[[0, 1, 4], 0, 0, 0]) for x in shown)
    assert len(shown) == 2  # both views
    nobody = student_of(settings_of(gate=0.95))
    empty = nobody.maps(images, scores(*[0.9] * 6))
    assert not empty.values.any()
    assert empty.values.dtype == np.float32
    assert nobody.student.shown == []  # type: ignore[union-attr]


def test_maps_are_rescaled_where_the_ensemble_reaches_the_threshold_of_f_and_not_where_only_the_gate_is_reached() -> None:
    found = student_of(settings_of(threshold=0.7, gate=0.4, peak=0.5)).maps(
        torch.zeros(3, 1, SIDE, SIDE), scores(0.7, 0.69, 0.3, f=0.9)
    )
    np.testing.assert_allclose(found.values.max((1, 2)), [1.0, 0.4, 0.0], atol=1e-5)  # half of the peak 0.4 becomes LEVEL


class Raises(Part):
    """Adds to the maps of the images that are called abnormal, and keeps what it was shown."""

    def __init__(self, level: float) -> None:
        super().__init__()
        self.level, self.seen = level, []  # type: ignore[var-annotated]

    def add(self, views: Views, device: torch.device) -> None:
        self.seen.append((views.images, views.called.copy(), views.mean.copy(), device))
        for maps in (views.mean, views.own, views.other):
            maps[views.called, 8:] = self.level


def test_parts_change_the_maps_one_after_another_and_what_they_add_counts_for_agreement() -> None:
    parts = Raises(0.9), Raises(0.95)
    images = torch.rand(3, 1, SIDE, SIDE)
    found = student_of(settings_of(threshold=0.7, gate=0.4), *parts).maps(images, scores(0.9, 0.1, 0.5))
    for part, before in zip(parts, (0.4, 0.9), strict=True):
        ((shown, called, mean, device),) = part.seen
        assert torch.equal(shown, images[[0, 2]])
        assert called.tolist() == [True, False]
        assert mean[0, 8:].max() == pytest.approx(before, abs=1e-5)
        assert device == CPU
    assert not parts[0].training
    np.testing.assert_allclose(found.values[0, 8:], 0.95)
    assert not found.values[1].any()
    # Eight rows of 16 are marked in both views; of the other eight each marks half, and not the same.
    assert found.mirrored is not None
    assert found.mirrored.tolist() == pytest.approx([128 / (128 + 64), 0.0, 0.0])


def test_the_agreement_of_a_mask_of_the_student_is_that_of_mirror_image_pixels_and_difference() -> None:
    images = torch.zeros(3, 1, SIDE, SIDE)
    settings = settings_of()
    found = student_of(settings, Raises(0.9)).maps(images, replace(scores(0.9, 0.9, 0.1), probability=np.array([0.9, 0.1, 0.9])))
    mirrored = 128 / (128 + 64)
    # Marked are the lower eight rows at 0.9; of the upper ones the outer columns have 0.4 and the inner ones 0.3.
    pixels = 2 * 128 * 0.9 / (128 * 0.9 + 64 * 0.4 + 64 * 0.3 + 128)
    difference = 128 / (128 + 128)  # of both views it marks everything, the student half of it
    assert found.agreement is not None
    assert found.agreement[0] == pytest.approx((mirrored + pixels + 2 * difference / 1.5) / 3, rel=1e-4)
    assert found.agreement[1] == pytest.approx((mirrored + pixels) / 3, rel=1e-4)  # f changes nothing there
    assert found.agreement[2] == 0  # nobody is asked about it
    assert student_of(settings_of(), Raises(0.9)).maps(images[:1], scores(0.9, f=0.9)).agreement == pytest.approx(
        found.agreement[:1]
    )


# --- the difference ---------------------------------------------------------------------------------------------------------


class Left(nn.Module):
    """A generator that lowers the first eight columns by 0.4 and the next four by 0.2."""

    def forward(self, x: Tensor) -> Tensor:
        found = x.clone()
        found[..., :8] -= 0.4
        found[..., 8:12] -= 0.2
        return found


def test_the_difference_is_of_what_f_calls_abnormal_and_its_views_are_held_against_the_threshold() -> None:
    images = torch.zeros(3, 1, SIDE, SIDE)
    known = ImageScores.of_f(torch.tensor([0.5, 0.49, 0.9]))
    for threshold, agreement in ((0.15, 0.0), (0.05, 2 * 128 / (192 + 192)), (0.3, 0.0)):
        one = DifferenceSegmenter(explainer_of(settings_of(), SameLogit(0.0), Left()), threshold)
        found = one.maps(images, known)
        assert (one.level, found.levels, found.image_score) == (threshold, None, None)
        assert not found.values[1].any()
        for i in (0, 2):
            np.testing.assert_allclose(found.values[i], columns(0.1, 0.15, 0.15, 0.1), atol=1e-6)
        assert found.mirrored is not None
        assert found.mirrored.tolist() == pytest.approx([agreement, 0, agreement])
    alone = DifferenceSegmenter(explainer_of(settings_of(hflip=False), SameLogit(0.0), Left()), 0.1).maps(images, known)
    assert alone.mirrored is alone.agreement is None
    np.testing.assert_allclose(alone.values[0], columns(0.2, 0.2, 0.1, 0.0), atol=1e-6)
    given = DifferenceSegmenter(explainer_of(settings_of(hflip=False), SameLogit(0.0), Left()), 0.1)
    assert np.array_equal(given.maps(images, known, torch.full((3, SIDE, SIDE), 0.7)).values[:, 0, 0] > 0.5, [True, False, True])


def test_the_level_at_which_f_turns_is_asked_of_both_views_and_lies_between_that_and_the_peak(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Corner(nn.Module):
        """Sees the upper left pixel."""

        def forward(self, x: Tensor) -> Tensor:
            return 4 * x[:, 0, 0, 0]

    seen: list[Any] = []

    def flip(image: np.ndarray, painted: np.ndarray, maps: np.ndarray, ask: Any, normal: float) -> np.ndarray:
        seen.append((image, painted, maps, ask, normal))
        return np.array([0.09, np.nan])

    monkeypatch.setattr(room, "flip_levels", flip)
    base = settings_of(threshold=0.6, peak=0.5)
    settings = replace(base, masks=replace(base.masks, threshold="decision_flip"))
    images = torch.rand(3, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) - 0.5
    one = DifferenceSegmenter(explainer_of(settings, Corner(), Left()), 0.05)
    levels = one.maps(images, ImageScores.of_f(torch.tensor([0.9, 0.1, 0.6]))).levels
    ((image, painted, maps, ask, normal),) = seen
    asked = images[[0, 2]].numpy()
    np.testing.assert_allclose(image, asked / 2 + 0.5)
    np.testing.assert_allclose(painted, Left()(images[[0, 2]]).numpy() / 2 + 0.5, atol=1e-6)
    np.testing.assert_allclose(maps, np.stack([columns(0.1, 0.15, 0.15, 0.1)] * 2), atol=1e-6)
    assert normal == 0.6
    sigmoid = lambda z: 1 / (1 + np.exp(-z))
    np.testing.assert_allclose(ask(image), (sigmoid(4 * asked[:, 0, 0, 0]) + sigmoid(4 * asked[:, 0, 0, -1])) / 2, rtol=1e-5)
    # The first: the geometric mean of 0.09 and half of its peak 0.15; the last: nothing turns f, and half of its peak counts.
    assert levels is not None
    np.testing.assert_allclose(levels, [np.sqrt(0.09 * 0.075), np.nan, 0.075], rtol=1e-5)


def test_the_difference_agrees_with_itself_so_that_mirror_image_and_pixels_count() -> None:
    images, known = torch.zeros(2, 1, SIDE, SIDE), ImageScores.of_f(torch.tensor([0.9, 0.1]))
    found = difference_of(settings_of(), 0.08).maps(images, known)
    # Each view marks twelve columns (0.2, 0.2, 0.1) and both eight of them; the mean marks all: 0.1, 0.15, 0.15, 0.1.
    sure = np.array([0.1, 0.15, 0.15, 0.1]) / 0.16
    pixels = 2 * sure.sum() / (sure.sum() + 4)
    assert found.agreement is not None
    assert found.agreement.tolist() == pytest.approx([(128 * 2 / (192 + 192) + pixels + 1) / 3, 0], rel=1e-5)


# --- both -------------------------------------------------------------------------------------------------------------------


class Known:
    """A segmenter with known maps."""

    def __init__(self, maps: Maps, level: float, **cleaning: Any) -> None:
        self.known, self.level, self.cleaning = maps, level, settings_of(**cleaning).masks

    def maps(self, images: Tensor, scores: ImageScores, saliency: Tensor | None = None) -> Maps:
        return self.known


def test_masks_are_the_maps_above_their_level_and_a_pixel_at_it_is_as_sure_as_not() -> None:
    values = np.stack([columns(0.1, 0.2, 0.4, 0.8), columns(0.1, 0.2, 0.4, 0.8), columns(0, 0, 0, 0)]).astype(np.float32)
    known, images = scores(0.9, 0.9, 0.9, f=0.5), torch.zeros(3, 1, SIDE, SIDE)
    found = segment(Known(Maps(values, agreement=np.array([0.8, 0.4, 0.0])), 0.2), images, known)  # type: ignore[arg-type]
    assert found.scores is known
    assert [mask.sum() for mask in found.masks] == [128, 128, 0]
    np.testing.assert_allclose(found.confidence, [0.4, 0.2, np.nan], rtol=1e-6)  # f times agreement
    np.testing.assert_allclose(found.pixel_confidence[0], columns(0.25, 0.5, 1, 1), rtol=1e-6)
    each = segment(Known(Maps(values, np.array([0.15, 0.5, 0.1])), 0.2), images, known)  # type: ignore[arg-type]
    assert [mask.sum() for mask in each.masks] == [192, 64, 0]
    assert np.isnan(each.confidence).all()  # no mirror images
    np.testing.assert_allclose(each.pixel_confidence[1], columns(0.1, 0.2, 0.4, 0.8), rtol=1e-6)
    peak = segment(Known(Maps(values, None), 0.1, peak=0.5, min_px=200), images, known)  # type: ignore[arg-type]
    assert not peak.masks.any()  # 64 pixels exceed half of the peak, and 200 are asked for
    np.testing.assert_allclose(peak.pixel_confidence[0], columns(0.125, 0.25, 0.5, 1), rtol=1e-6)


# --- image scores -----------------------------------------------------------------------------------------------------------


def test_image_scores_by_hand() -> None:
    logits = np.array([[0.0, 2.0], [-1.0, 50.0]], np.float32)
    found = ImageScores.of_logits(logits)
    np.testing.assert_allclose(found.probability, [0.5, 1 / (1 + np.e)], rtol=1e-6)
    np.testing.assert_allclose(found.ensemble, [1 / (1 + np.exp(-2)), 1.0], rtol=1e-6)
    assert found.probability.dtype == found.ensemble.dtype == np.float32
    smoothed = ImageScores.of_logits(logits, np.array([-800.0, 0.0]))
    assert smoothed.ensemble.tolist() == [0.0, 0.5]
    np.testing.assert_allclose(smoothed.probability, found.probability)
    assert np.isnan(found.given).all()
    assert found.given.shape == (2,)
    alone = ImageScores.of_f(torch.tensor([0.3, 0.7]))
    assert alone.probability.tolist() == alone.ensemble.tolist() == pytest.approx([0.3, 0.7])
    nan = float("nan")
    some = scores(0.4, 0.39, 0.9, 0.1, given=(nan, nan, 0, 1))
    assert some.abnormal(0.4).tolist() == [True, False, False, True]
    part = some[np.array([3, 0])]
    assert (part.ensemble.tolist(), part.given[0], np.isnan(part.given[1])) == (pytest.approx([0.1, 0.4]), 1, True)
    assert some[1:3].abnormal(0.3).tolist() == [True, False]


def test_parts_change_the_mean_of_the_ensemble_one_after_another_before_the_share_is_added() -> None:
    class Doubles(Part):
        def score(self, logits: Tensor, x: Tensor) -> Tensor:
            return 2 * logits

    class AddsBrightness(Part):
        def score(self, logits: Tensor, x: Tensor) -> Tensor:
            return logits + x.mean((1, 2, 3))

    x = torch.tensor([0.5, -0.5]).reshape(2, 1, 1, 1).expand(2, 1, 8, 8)
    fs = [Brightness(), SameLogit(1.0)]  # 4 and -4, and 1: their means are 2.5 and -1.5
    for parts, wanted in (
        ((), [2.5, -1.5]), ((Doubles(), AddsBrightness()), [5.5, -3.5]), ((AddsBrightness(), Doubles()), [6.0, -4.0]),
    ):  # fmt: skip
        found = ImageScore(fs, 0.25, parts)
        assert found.both(x).tolist() == [[4.0, wanted[0] + 0.25], [-4.0, wanted[1] + 0.25]]
        assert found(x).tolist() == [value + 0.25 for value in wanted]
