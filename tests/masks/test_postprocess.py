"""From difference to mask: the guided filter, the three ways to a threshold, and the cleaning, on worked cases."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from coinseg.config.schema import MaskSettings
from coinseg.errors import UserError
from coinseg.masks.postprocess import clean, masks_of, peaks, scaled, with_seeds
from coinseg.masks.refine import GUIDE_EPS, channel_changes, guided_filter, refine
from coinseg.masks.threshold import choose_threshold, rule_of

RAW = MaskSettings(threshold=0.5, refine="none", opening=0, closing=0, keep="all", min_px=1)
NOTHING = np.zeros((0, 4, 4))


def canvas(*blocks: tuple[slice, slice], shape: tuple[int, int] = (16, 16)) -> np.ndarray:
    """A mask with these blocks inside."""
    mask = np.zeros(shape, bool)
    for block in blocks:
        mask[block] = True
    return mask


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).random(shape)


# The guided filter


@pytest.mark.parametrize("radius", [1, 3])
def test_guided_filter_keeps_a_constant(radius: int) -> None:
    found = guided_filter(np.full((2, 12, 9), 0.37), noise(0, 2, 12, 9), radius)
    np.testing.assert_allclose(found, 0.37, atol=1e-12)


def test_guided_filter_is_linear_in_the_values() -> None:
    u, v, guide = noise(1, 10, 11), noise(2, 10, 11), noise(3, 10, 11)
    together = guided_filter(2.5 * u - 0.7 * v, guide, 2)
    np.testing.assert_allclose(together, 2.5 * guided_filter(u, guide, 2) - 0.7 * guided_filter(v, guide, 2), atol=1e-12)


def test_guided_filter_without_edges_averages_twice() -> None:
    # A flat guide has no slope: the mean over 3x3, and the mean of that; an impulse spreads as 9, 6, 3 x 9, 6, 3 / 81.
    impulse = np.zeros((9, 9))
    impulse[4, 4] = 1
    found = guided_filter(impulse, np.full((9, 9), 0.5), 1)
    weights = np.array([1, 2, 3, 2, 1]) / 9
    np.testing.assert_allclose(found[2:7, 2:7], np.outer(weights, weights), atol=1e-12)
    assert found.sum() == pytest.approx(1, abs=1e-12)


def test_guided_filter_follows_an_edge_of_the_guide() -> None:
    step = np.zeros((1, 16, 16))
    step[..., 8:] = 1
    blurred = guided_filter(step, np.full_like(step, 0.5), 3)
    sharp = guided_filter(step, step, 3, eps=1e-8)
    np.testing.assert_allclose(sharp, step, atol=1e-5)
    assert blurred[0, 8, 8] - blurred[0, 8, 7] < 0.2
    # A difference smeared over the edge gets the edge back.
    mended = guided_filter(blurred, step, 3)
    assert mended[0, 8, 8] - mended[0, 8, 7] > 2.5 * (blurred[0, 8, 8] - blurred[0, 8, 7])


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_equal_channels_guide_as_one(channels: int) -> None:
    values, guide = noise(6, 2, 14, 11), noise(7, 2, 14, 11)
    repeated = np.repeat(guide[:, None], channels, axis=1)
    np.testing.assert_allclose(guided_filter(values, repeated, 2), guided_filter(values, guide, 2), atol=1e-9)
    settings = MaskSettings(refine="guided")
    np.testing.assert_allclose(refine(values, repeated, settings), refine(values, guide, settings), atol=1e-9)


def test_the_order_of_channels_does_not_matter_and_images_do_not_see_each_other() -> None:
    values, guide = noise(8, 3, 12, 12), noise(9, 3, 3, 12, 12)
    together = guided_filter(values, guide, 2)
    np.testing.assert_allclose(guided_filter(values, guide[:, ::-1], 2), together, atol=1e-9)
    for i in range(3):
        np.testing.assert_allclose(guided_filter(values[i], guide[i], 2), together[i], atol=1e-9)


def test_an_edge_that_only_one_channel_shows_is_followed() -> None:
    """Red and green swap where the luminance (their sum) is flat: grey sees no edge there."""
    step = np.zeros((16, 16))
    step[:, 8:] = 1
    blurred = guided_filter(step, np.full_like(step, 0.5), 3)
    swapped = guided_filter(blurred, np.stack([step, 1 - step, np.full_like(step, 0.5)]), 3)
    grey = guided_filter(blurred, np.full_like(step, 0.5), 3)
    assert swapped[8, 8] - swapped[8, 7] > 2.5 * (grey[8, 8] - grey[8, 7])


def test_guided_filter_averages_where_the_guide_hardly_moves() -> None:
    values, guide = noise(4, 12, 12), 0.5 + 1e-4 * noise(5, 12, 12)
    flat = guided_filter(values, np.full((12, 12), 0.5), 2)
    np.testing.assert_allclose(guided_filter(values, guide, 2), flat, atol=1e-3)


def test_guided_filter_images_do_not_see_each_other() -> None:
    values, guide = noise(6, 3, 8, 8), noise(7, 3, 8, 8)
    singles = np.stack([guided_filter(v, g, 2) for v, g in zip(values, guide, strict=True)])
    np.testing.assert_allclose(guided_filter(values, guide, 2), singles, atol=1e-12)


def test_guided_filter_takes_float32_and_flips() -> None:
    values, guide = noise(8, 8, 9).astype(np.float32), noise(9, 8, 9).astype(np.float32)
    found = guided_filter(values, guide, 2)
    np.testing.assert_allclose(guided_filter(values[:, ::-1], guide[:, ::-1], 2), found[:, ::-1], atol=1e-12)


def test_guided_filter_computes_in_double_precision_whatever_it_is_given() -> None:
    """Of single precision the variance of a bright and nearly flat guide, a difference of two large numbers, would be lost."""
    values, guide = noise(8, 16, 16).astype(np.float32), (0.9 + 0.01 * noise(9, 16, 16)).astype(np.float32)
    found = guided_filter(values, guide, 2)
    assert found.dtype == np.float64
    assert np.array_equal(found, guided_filter(values.astype(np.float64), guide.astype(np.float64), 2))
    assert np.array_equal(
        guided_filter(values > 0.5, guide > 0.905, 2), guided_filter(1.0 * (values > 0.5), 1.0 * (guide > 0.905), 2)
    )


def test_refine() -> None:
    saliency, image = noise(10, 2, 48, 48), noise(11, 2, 48, 48)
    assert np.array_equal(refine(saliency, image, replace(RAW, refine="none")), saliency)
    found = refine(saliency, image, replace(RAW, refine="guided"))
    # 4 / 96 of 48 pixels is a radius of 2.
    np.testing.assert_allclose(found, np.clip(guided_filter(saliency, image, 2), 0, 1), atol=1e-12)
    assert found.min() >= 0
    assert found.max() <= 1


def test_refine_stays_in_0_to_1_and_never_has_radius_0() -> None:
    image = np.zeros((1, 8, 8))
    image[..., 4:] = 1
    # A step with a grey pixel on its dark side: the local lines leave [0, 1] here.
    image[0, 2, 2] = 0.3
    raw = guided_filter(image > 0.1, image, 1)
    assert raw.max() > 1
    found = refine(image > 0.1, image, replace(RAW, refine="guided"))
    assert 0 <= found.min() <= found.max() == 1
    impulse = np.zeros((1, 8, 8))
    impulse[0, 3, 3] = 1
    assert refine(impulse, np.zeros((1, 8, 8)), replace(RAW, refine="guided"))[0, 3, 3] == pytest.approx(1 / 9)


# The threshold


def test_quantile_of_the_normals_by_hand() -> None:
    normals = np.arange(101).reshape(1, 101, 1) / 100
    found = choose_threshold(normals, NOTHING, MaskSettings(threshold="normals", quantile=0.9))
    assert found.value == pytest.approx(0.9, abs=1e-12)
    assert found.rule == "0.9 quantile of the difference on training images labelled normal"
    assert (normals > found.value).sum() == 10


def test_normals_do_not_look_at_the_abnormals_and_otsu_not_at_the_normals() -> None:
    a, b, c = noise(0, 2, 5, 5), noise(1, 2, 5, 5), noise(2, 2, 5, 5)
    for rule, other in (("normals", [(a, b), (a, c)]), ("otsu", [(b, a), (c, a)])):
        settings = MaskSettings(threshold=rule)  # type: ignore
        found = [choose_threshold(normals, abnormals, settings).value for normals, abnormals in other]
        assert found[0] == found[1]


def test_otsu_splits_two_heaps() -> None:
    values = np.array([0.1] * 12 + [0.12] * 4 + [0.8] * 3 + [0.9] * 5).reshape(1, 4, 6)
    found = choose_threshold(NOTHING, values, MaskSettings(threshold="otsu"))
    assert 0.12 <= found.value < 0.8
    assert (values > found.value).sum() == 8
    assert found.rule == "Otsu on the differences of training images labelled abnormal"


def test_otsu_of_one_value_marks_nothing() -> None:
    values = np.full((2, 5, 5), 0.25)
    assert not (values > choose_threshold(NOTHING, values, MaskSettings(threshold="otsu")).value).any()


@pytest.mark.parametrize("value", [0.3, 1, 1.0, 1e-6])
def test_a_number_is_taken_as_it_is(value: float) -> None:
    found = choose_threshold(NOTHING, NOTHING, MaskSettings(threshold=value))
    assert (found.value, found.rule) == (value, "given by the user")


@pytest.mark.parametrize("value", [0, -0.2, 1.5])
def test_a_number_outside_is_refused(value: float) -> None:
    with pytest.raises(
        UserError, match=rf"masks\.threshold is {value}; required: auto, normals, otsu, decision_flip or a number in \(0, 1\]"
    ):
        choose_threshold(noise(0, 1, 2, 2), noise(0, 1, 2, 2), MaskSettings(threshold=value))


@pytest.mark.parametrize(("rule", "which"), [("normals", "normal"), ("otsu", "abnormal")])
def test_no_images_for_the_rule(rule: str, which: str) -> None:
    text = f"no training image is labelled {which}; required: some for masks.threshold {rule}; set a number"
    with pytest.raises(UserError) as caught:
        choose_threshold(NOTHING, NOTHING, MaskSettings(threshold=rule))  # type: ignore[arg-type]
    assert str(caught.value) == text


# Cleaning


def test_opening_removes_what_is_thinner_than_its_square() -> None:
    block, pixel, line = (slice(2, 7), slice(2, 7)), (slice(10, 11), slice(10, 11)), (slice(13, 15), slice(1, 12))
    found = clean(canvas(block, pixel, line), replace(RAW, opening=3))
    assert np.array_equal(found, canvas(block))
    assert np.array_equal(clean(canvas(block, pixel, line), RAW), canvas(block, pixel, line))


def test_closing_fills_a_hole_and_a_gap() -> None:
    mask = canvas((slice(2, 9), slice(2, 9)))
    mask[5, 5] = mask[2:9, 6] = False
    found = clean(mask, replace(RAW, closing=3))
    assert np.array_equal(found, canvas((slice(2, 9), slice(2, 9))))


@pytest.mark.parametrize("side", [0, 2, 3, 4, 5])
@pytest.mark.parametrize("corner", [(0, 0), (0, 10), (10, 0), (10, 10), (0, 5)])
def test_what_touches_the_border_is_kept(side: int, corner: tuple[int, int]) -> None:
    mask = canvas((slice(corner[0], corner[0] + 6), slice(corner[1], corner[1] + 6)))
    for settings in (replace(RAW, opening=side), replace(RAW, closing=side), replace(RAW, opening=side, closing=side)):
        assert np.array_equal(clean(mask, settings), mask)


def test_a_full_mask_stays_full() -> None:
    assert clean(np.ones((9, 7), bool), MaskSettings()).all()


@pytest.mark.parametrize("side", [2, 3, 5])
def test_opening_only_removes_and_closing_only_adds(side: int) -> None:
    for seed in range(5):
        mask = noise(seed, 20, 20) < 0.6
        assert not (clean(mask, replace(RAW, opening=side)) & ~mask).any()
        assert not (mask & ~clean(mask, replace(RAW, closing=side))).any()


SMALL, LARGE = (slice(1, 3), slice(1, 3)), (slice(6, 10), slice(6, 10))
DOT = (slice(14, 15), slice(1, 2))


def test_largest_or_all() -> None:
    mask = canvas(SMALL, LARGE, DOT)
    assert np.array_equal(clean(mask, replace(RAW, keep="largest")), canvas(LARGE))
    assert np.array_equal(clean(mask, RAW), mask)


def test_seeds_are_components_that_reach_the_share_of_the_highest_value_of_their_image() -> None:
    maps = np.zeros((3, *canvas().shape), np.float32)
    for part, value in ((SMALL, 0.699), (LARGE, 0.4), (DOT, 1.0)):
        maps[0][part] = value
    maps[0, 8, 8] = 0.701  # one pixel is enough
    maps[1][SMALL] = 0.3  # alone in its image: the values of others do not count
    settings = replace(RAW, min_px=0, peak=0.0, keep="seeds")
    found = masks_of(maps, 0.2, settings)
    assert np.array_equal(found, np.stack([canvas(LARGE, DOT), canvas(SMALL), canvas()]))
    alone = np.concatenate([masks_of(maps[i : i + 1], 0.2, settings) for i in range(3)])
    assert np.array_equal(found, alone)


def test_a_seed_that_is_dropped_for_its_size_does_not_count() -> None:
    maps = np.zeros((1, *canvas().shape), np.float32)
    maps[0][LARGE], maps[0][DOT] = 0.4, 1.0
    assert np.array_equal(masks_of(maps, 0.2, replace(RAW, min_px=4, peak=0.0, keep="seeds")), canvas(LARGE)[None])


def test_parts_with_seeds_are_whole_components_and_at_least_one_is_left() -> None:
    for seed in range(5):
        maps = noise(seed, 20, 20)[None]
        mask = maps > 0.6
        kept = with_seeds(mask, maps)
        components, _ = ndimage.label(mask[0])
        assert kept.any()
        assert set(np.unique(components[kept[0]])).isdisjoint(np.unique(components[mask[0] & ~kept[0]]))
        assert np.array_equal(with_seeds(kept, maps), kept)


def test_min_px_at_its_edge() -> None:
    mask = canvas(SMALL, LARGE, DOT)  # 4, 16 and 1 pixels
    assert np.array_equal(clean(mask, replace(RAW, min_px=4)), canvas(SMALL, LARGE))
    assert np.array_equal(clean(mask, replace(RAW, min_px=5)), canvas(LARGE))
    for keep in ("largest", "all"):
        assert np.array_equal(clean(mask, replace(RAW, min_px=16, keep=keep)), canvas(LARGE))
        assert not clean(mask, replace(RAW, min_px=17, keep=keep)).any()


def test_only_one_of_two_equals_is_the_largest() -> None:
    mask = canvas((slice(1, 4), slice(1, 4)), (slice(8, 11), slice(8, 11)))
    assert clean(mask, replace(RAW, keep="largest")).sum() == 9
    rows = np.flatnonzero(clean(mask, replace(RAW, keep="largest")).any(1))
    assert rows[0] == np.flatnonzero(mask.any(1))[0], "the first in raster order"


@pytest.mark.parametrize("settings", [RAW, MaskSettings(), replace(RAW, min_px=0), replace(MaskSettings(), min_px=0, keep="all")])
def test_empty_stays_empty(settings: MaskSettings) -> None:
    found = clean(np.zeros((8, 8), bool), settings)
    assert found.dtype == bool
    assert found.shape == (8, 8)
    assert not found.any()


def test_a_mask_of_numbers_comes_back_as_one_of_yes_and_no() -> None:
    for values in (np.zeros((4, 4), np.uint8), np.full((4, 4), 255, np.uint8)):
        found = clean(values, RAW)
        assert found.dtype == bool
        assert np.array_equal(found, values > 0)


def test_min_px_zero_does_not_mark_the_background() -> None:
    mask = canvas(LARGE)
    assert np.array_equal(clean(mask, replace(RAW, min_px=0)), mask)
    assert np.array_equal(clean(mask, replace(RAW, min_px=0, keep="largest")), mask)


def test_cleaning_does_not_change_its_input() -> None:
    mask = noise(0, 16, 16) < 0.5
    before = mask.copy()
    clean(mask, MaskSettings())
    assert np.array_equal(mask, before)


def test_masks_of_is_strictly_above_the_threshold() -> None:
    refined = np.zeros((2, 4, 4))
    refined[0, :2, :2] = 0.5
    refined[1, :2, :2] = 0.5000001
    found = masks_of(refined, 0.5, RAW)
    assert found.dtype == bool
    assert found.sum((1, 2)).tolist() == [0, 4]


def test_masks_of_none() -> None:
    found = masks_of(np.zeros((0, 5, 6)), 0.5, MaskSettings())
    assert found.shape == (0, 5, 6)
    assert found.dtype == bool


def test_a_pixel_must_also_exceed_a_share_of_the_peak_of_its_own_image() -> None:
    refined = np.zeros((2, 20, 20))
    refined[0, 2:8, 2:8], refined[0, 8:12, 2:8] = 0.8, 0.2  # a strong change with a skirt
    refined[1, 2:8, 2:8] = 0.1  # a weak change, weaker than that skirt
    found = masks_of(refined, 0.05, replace(RAW, peak=0.35))
    assert np.array_equal(found[0], refined[0] == 0.8)
    assert np.array_equal(found[1], refined[1] == 0.1)
    assert masks_of(refined, 0.05, replace(RAW, peak=0.0))[0].sum() == 36 + 24  # one threshold marks the skirt
    assert not masks_of(refined, 0.15, replace(RAW, peak=0.35))[1].any()  # the floor still holds


def test_the_peak_is_that_of_the_image_whatever_else_is_in_the_batch() -> None:
    refined = np.random.default_rng(0).random((3, 16, 16))
    together = masks_of(refined, 0.1, replace(RAW, peak=0.5))
    singles = np.concatenate([masks_of(one[None], 0.1, replace(RAW, peak=0.5)) for one in refined])
    assert np.array_equal(together, singles)


@pytest.mark.parametrize("keep", ["largest", "all"])
def test_a_stack_is_cleaned_as_its_images_are(keep: str) -> None:
    settings = MaskSettings(opening=3, closing=3, keep=keep, min_px=5)  # type: ignore[arg-type]
    rng = np.random.default_rng(0)
    smooth = ndimage.gaussian_filter(rng.normal(size=(12, 30, 26)), (0, 2, 2))
    masks = smooth > 0.05
    masks[3] = False
    expected = np.stack([clean(mask, settings) for mask in masks])
    assert expected.any((1, 2)).sum() > 6
    np.testing.assert_array_equal(clean(masks, settings), expected)
    for mask, cleaned in zip(masks, expected, strict=True):
        opened = ndimage.binary_closing(np.pad(ndimage.binary_opening(mask, np.ones((3, 3))), 3), np.ones((3, 3)))[3:-3, 3:-3]
        components, count = ndimage.label(opened)
        sizes = [int((components == k).sum()) for k in range(1, count + 1)]
        best = 1 + int(np.argmax(sizes)) if sizes else 0
        wanted = [k for k in range(1, count + 1) if sizes[k - 1] >= 5 and (keep == "all" or k == best)]
        np.testing.assert_array_equal(cleaned, np.isin(components, wanted))


def test_the_peak_leaves_out_one_pixel_of_a_thousand() -> None:
    values = np.arange(1001, dtype=float)
    np.random.default_rng(0).shuffle(values)
    maps = np.stack([values, values * 2]).reshape(2, 7, 143)
    assert peaks(maps).tolist() == pytest.approx([999, 1998])
    assert peaks(np.zeros((0, 4, 4))).shape == (0,)


@pytest.mark.parametrize("contrast", [0.05, 0.3])
def test_guided_filter_keeps_as_much_of_an_edge_as_its_variance_weighs_against_eps(contrast: float) -> None:
    """Stripes of period 3 have one mean and one variance in every window of 3: slope = variance / (variance + eps)."""
    guide = np.tile(np.array([0.0, 0.0, contrast]), (9, 5))
    values = guide * 2
    variance = contrast**2 * 2 / 9
    slope = 2 * variance / (variance + GUIDE_EPS)
    wanted = slope * (guide - contrast / 3) + 2 * contrast / 3
    np.testing.assert_allclose(guided_filter(values[None], guide[None], 1)[0, 3:-3, 3:-3], wanted[3:-3, 3:-3], atol=1e-12)
    assert GUIDE_EPS == 0.005


def test_the_radius_of_the_guided_filter_is_a_twenty_fourth_of_the_side() -> None:
    image, values = np.random.default_rng(0).random((2, 1, 48, 48))
    found = refine(values, image, MaskSettings(refine="guided"))
    np.testing.assert_allclose(found, np.clip(guided_filter(values, image, 2), 0, 1), atol=1e-12)


def test_the_rule_of_a_counterfactual_looks_at_normal_images_and_that_of_an_attribution_at_abnormal_ones() -> None:
    assert [rule_of(MaskSettings(), counterfactual) for counterfactual in (True, False)] == ["normals", "otsu"]
    for rule in ("normals", "otsu", "decision_flip", 0.3):
        assert [rule_of(MaskSettings(threshold=rule), counterfactual) for counterfactual in (True, False)] == [rule] * 2


def test_cleaning_grows_with_the_pixels_and_what_is_on_stays_on() -> None:
    settings = MaskSettings(opening=3, closing=2, min_px=5, keep="all")
    assert scaled(settings, 2.5) == replace(settings, opening=8, closing=5, min_px=31)
    assert scaled(settings, 0.1) == replace(settings, opening=1, closing=1, min_px=0)
    assert scaled(replace(settings, opening=0, closing=0), 4.0) == replace(settings, opening=0, closing=0, min_px=80)
    assert scaled(settings, 1.0) == settings


def test_the_change_of_a_channel_is_its_mean_inside_of_the_mask() -> None:
    images, painted, masks = np.zeros((2, 2, 3, 3)), np.zeros((2, 2, 3, 3)), np.zeros((2, 3, 3), bool)
    masks[0, 1] = True
    painted[0, 0, 1], painted[0, 1, 1] = (0.5, 0.25, 0.0), (0.0, 0.3, -0.3)
    painted[0, :, 0] = 1.0  # outside of the mask
    found = channel_changes(images, painted, masks)
    np.testing.assert_allclose(found, [[0.25, 0.2], [np.nan, np.nan]], rtol=1e-6)
    assert found.dtype == np.float32
