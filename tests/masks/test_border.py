"""Borders asked of the image: laws, and lesions whose difference is too wide or too narrow."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from coinseg.config.schema import StudentSettings
from coinseg.masks.border import CAP, QUIET, _fit_component, fill_concavities, fit_border, resemblance
from coinseg.metrics.overlap import dice

SIDE = 64
ROWS, COLUMNS = np.mgrid[:SIDE, :SIDE]


def disc(radius: float, row: float = 30, column: float = 32) -> np.ndarray:
    return (ROWS - row) ** 2 + (COLUMNS - column) ** 2 <= radius**2


WEIGHT = StudentSettings().border_weight


def pictured(lesion: np.ndarray, seed: int = 0) -> np.ndarray:
    """A noisy image with a brighter lesion."""
    noise = np.random.default_rng(seed).normal(0, 0.05, lesion.shape)
    return np.where(lesion, 0.3, -0.2) + noise


def one(image: np.ndarray, difference: np.ndarray, mask: np.ndarray, share: float, weight: float) -> np.ndarray:
    """`by_contrast` of a single image."""
    return fit_border(image[None, None], difference[None], mask[None], share, weight)[0]


def asked(image: np.ndarray, difference: np.ndarray, weight: float = WEIGHT) -> tuple[np.ndarray, np.ndarray]:
    mask = difference > 0.4 * np.quantile(difference, 0.999)
    return mask, one(image, difference, mask, 0.4, weight)


CHANGES = {
    "a haze around a small one": (disc(4), ndimage.gaussian_filter(disc(4).astype(float), 4)),
    "part of a large one": (disc(15), np.where(disc(15), np.clip((COLUMNS - 18) / 25, 0.22, 1), 0.02) * 0.2),
}


@pytest.mark.parametrize("name", CHANGES)
def test_the_border_is_moved_to_where_the_image_has_it(name: str) -> None:
    lesion, difference = CHANGES[name]
    before, after = (dice(mask, lesion) for mask in asked(pictured(lesion), difference))
    assert before is not None
    assert after is not None
    assert after > before + 0.05


@pytest.mark.parametrize("name", CHANGES)
def test_it_does_not_matter_which_way_the_image_lies_or_whether_the_lesion_is_bright(name: str) -> None:
    lesion, difference = CHANGES[name]
    image = pictured(lesion)
    mask, found = asked(image, difference)
    for turn in (np.fliplr, np.flipud, np.transpose):
        assert (turn(found) == one(turn(image), turn(difference), turn(mask), 0.4, WEIGHT)).all()
    assert (found == one(-image, difference, mask, 0.4, WEIGHT)).all()


def test_without_an_inside_or_without_surroundings_a_mask_stays_as_it_is() -> None:
    image, nothing = pictured(disc(9)), np.zeros((SIDE, SIDE), bool)
    assert not one(image, nothing.astype(float), nothing, 0.4, WEIGHT).any()
    everywhere = np.ones((SIDE, SIDE))
    assert one(image, everywhere, everywhere > 0, 0.4, WEIGHT).all()


def test_a_pixel_is_like_what_it_equals() -> None:
    lesion = disc(12)
    like = resemblance(np.where(lesion, 0.4, -0.4)[None], disc(6), ~disc(20))
    assert like[disc(9)].min() == pytest.approx(1, abs=1e-3)
    assert like[~disc(15)].max() == pytest.approx(-1, abs=1e-3)


def test_a_flat_image_says_nothing() -> None:
    difference = np.where(disc(12), 1.0, 0.0)
    flat = np.full((SIDE, SIDE), 0.1)
    assert (resemblance(flat[None], disc(6), ~disc(20)) == 0).all()
    mask, found = asked(flat, difference)
    assert dice(found, mask) == pytest.approx(1, abs=0.01)


def test_a_stack_is_its_images_one_by_one_and_components_keep_to_themselves() -> None:
    lesions = [disc(9), disc(5, 20, 40), disc(6, 14, 14) | disc(7, 46, 46)]
    images = np.stack([pictured(lesion, i) for i, lesion in enumerate(lesions)])
    maps = np.stack([ndimage.gaussian_filter(lesion.astype(float), 2) for lesion in lesions])
    masks = maps > 0.4 * np.quantile(maps, 0.999, axis=(1, 2))[:, None, None]
    found = fit_border(images[:, None], maps, masks, 0.4, WEIGHT)
    for i in range(3):
        assert (found[i] == one(images[i], maps[i], masks[i], 0.4, WEIGHT)).all()
    assert ndimage.label(found[2])[1] == 2
    assert (dice(found[2], lesions[2]) or 0) > 0.8


@pytest.mark.parametrize("name", CHANGES)
def test_equal_channels_count_as_one(name: str) -> None:
    lesion, difference = CHANGES[name]
    image = pictured(lesion)
    mask, found = asked(image, difference)
    three = np.broadcast_to(image, (1, 3, SIDE, SIDE))
    assert (fit_border(three, difference[None], mask[None], 0.4, WEIGHT)[0] == found).all()


def test_a_border_that_only_one_channel_shows_is_found_and_the_order_of_channels_does_not_matter() -> None:
    lesion, difference = CHANGES["part of a large one"]
    flat = np.random.default_rng(1).normal(0, 0.05, lesion.shape)
    mask = difference > 0.4 * np.quantile(difference, 0.999)
    found = []
    for channels in ([pictured(lesion), flat], [flat, pictured(lesion)]):
        found.append(fit_border(np.stack(channels)[None], difference[None], mask[None], 0.4, WEIGHT)[0])
    assert (found[0] == found[1]).all()
    assert (dice(found[0], lesion) or 0) > (dice(one(flat, difference, mask, 0.4, WEIGHT), lesion) or 0) + 0.05


def test_a_bay_is_filled_and_what_has_none_stays_as_it_is() -> None:
    cavity = disc(6, 26)
    rim = disc(12) & ~cavity & ~((ROWS < 30) & (abs(COLUMNS - 32) < 3))
    assert (fill_concavities(rim) & cavity).sum() > 0.95 * cavity.sum()
    for whole in (disc(9), disc(1), disc(0), np.ones((SIDE, SIDE), bool), np.zeros((SIDE, SIDE), bool), ROWS < 20):
        assert (fill_concavities(whole) == whole).all()


# --- each term of the rule, on an image made for it

FLAT = np.zeros((SIDE, SIDE))
"""An image that resembles nothing: only the difference and the level decide."""
NONE = np.zeros((SIDE, SIDE), bool)


def fitted(
    image: np.ndarray, difference: np.ndarray, mask: np.ndarray, others: np.ndarray = NONE, weight: float = 1.0
) -> np.ndarray:
    return _fit_component(image[None], difference, mask, others, 0.4, weight)


@pytest.mark.parametrize(("radius", "rim", "kept"), [(4, 0.45, False), (4, 0.55, True), (14, 0.45, True), (14, 0.38, False)])
def test_a_small_mask_has_a_higher_level(radius: int, rim: float, kept: bool) -> None:
    """0.4 + 0.2 exp(-(4 / 5)^2) = 0.505 of the peak for a radius of 4, 0.4 for one of 14."""
    difference = np.where(disc(radius - 1.5), 1.0, np.where(disc(radius), rim, 0.0))
    found = fitted(FLAT, difference, disc(radius))
    assert found.sum() == pytest.approx(disc(radius if kept else radius - 1.5).sum(), abs=4)
    assert bool(found[disc(radius) & ~disc(radius - 1.5)].mean() > 0.8) is kept


def test_a_mask_takes_nothing_of_another_component_and_does_not_learn_its_surroundings_from_it() -> None:
    mask, others = disc(6, 30, 22), disc(6, 30, 36)
    bridge = (abs(ROWS - 30) < 3) & (COLUMNS > 20) & (COLUMNS < 38)
    difference = np.where(mask | others | bridge, 1.0, 0.0)
    assert not (fitted(FLAT, difference, mask, others) & others).any()


def test_the_surroundings_are_those_outside_of_other_components() -> None:
    """Half of what lies around is another component as bright as the lesion: with it the dark rim would not be like its
    surroundings."""
    lesion, rim = disc(5), disc(7)
    others = ~disc(10) & (COLUMNS > 29)
    image = np.where(lesion | others, 0.5, -0.5)
    difference = np.where(lesion, 1.0, np.where(rim, 0.6, 0.0))
    assert fitted(image, difference, rim, others).sum() < lesion.sum() + 16
    assert fitted(image, difference, rim).sum() > rim.sum() - 8


def test_no_pixel_below_half_of_the_level_is_added_however_like_the_inside_it_looks() -> None:
    mask, lesion = disc(12), disc(16)
    image = np.where(lesion, 0.5, -0.5)
    for outside, added in ((0.15, False), (0.25, True)):  # the level is 0.4
        found = fitted(image, np.where(mask, 1.0, outside), mask, weight=3.0)
        assert bool(found[lesion & ~disc(13)].mean() > 0.5) is added


def test_only_large_masks_gain_pixels() -> None:
    for radius, gains in ((6, False), (10, True)):
        lesion = disc(radius + 3)
        found = fitted(np.where(lesion, 0.5, -0.5), np.where(disc(radius), 1.0, 0.3), disc(radius))
        assert bool(found.sum() > disc(radius + 1).sum()) is gains


def test_the_narrower_of_two_equal_means_is_the_likelier_one_at_the_mean() -> None:
    """At the common mean the ratio is log(wide / narrow), which only a normalised density has."""
    rng = np.random.default_rng(0)
    inside, outside = disc(9), ~disc(14)
    image = np.where(inside, rng.normal(0, 0.05, FLAT.shape), rng.normal(0, 0.5, FLAT.shape))
    image[disc(13) & ~disc(10)] = 0.0
    like = resemblance(image[None], inside, outside)
    assert like[(ROWS == 30) & (COLUMNS == 32 + 11)].item() > 0.7
    assert resemblance(image[None], outside, inside)[(ROWS == 30) & (COLUMNS == 32 + 11)].item() < -0.7


def test_a_resemblance_by_hand() -> None:
    """Medians 0.4 and -0.4, both spreads at their floor of 0.02: a pixel of 0.004 has the ratio 0.5 (20.2^2 - 19.8^2) = 8, above
    the cap; one of 0.0005 has 0.5 (20.025^2 - 19.975^2) = 1, half of the cap of 2."""
    image = np.where(disc(6), 0.4, -0.4)
    image[(COLUMNS > 44) & (COLUMNS < 54)] = 0.0005
    image[COLUMNS > 58] = 0.004
    like = resemblance(image[None], disc(6), (COLUMNS < 12))
    assert like[30, 49] == pytest.approx(0.5, abs=0.01)
    assert like[30, 62] == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(("wide", "stays"), [(1, False), (2, True)])
@pytest.mark.parametrize("turned", [False, True])
def test_what_is_thinner_than_two_pixels_is_taken_away(wide: int, stays: bool, turned: bool) -> None:
    body = disc(10, 30, 20)
    arm = (ROWS >= 30) & (30 + wide > ROWS) & (COLUMNS > 31) & (COLUMNS < 38)
    bar = (ROWS >= 30) & (30 + wide > ROWS) & (COLUMNS > 20) & (COLUMNS < 38)
    difference = np.where(body, 1.0, np.where(bar, 0.5, 0.0))
    mask = difference > 0.4
    if turned:
        difference, mask, arm = difference.T, mask.T, arm.T
    assert bool(fitted(FLAT, difference, mask)[arm].mean() > 0.7) is stays


# --- its constants, each at the pixel or value where it decides

DARK, BRIGHT = -0.5, 0.5


def grown(mask: np.ndarray, steps: int) -> np.ndarray:
    """So many steps along rows and columns."""
    return ndimage.binary_dilation(mask, iterations=steps)


def mostly_dark(near: np.ndarray, width: int) -> np.ndarray:
    """An image with just over half of a ring of this width dark, from outside in: a wider ring and a narrower one are mostly
    bright."""
    image, ring = np.full(near.shape, BRIGHT), grown(near, width) & ~near
    steps = sum((~grown(near, step)).astype(int) for step in range(width + 1))
    rows, columns = np.nonzero(ring)
    first = np.argsort(-steps[rows, columns], kind="stable")[: ring.sum() // 2 + 1]
    image[rows[first], columns[first]] = DARK
    for other in (width - 1, width + 1):
        assert (image[grown(near, other) & ~near] == BRIGHT).mean() > 0.5 or other == 0
    return image


def test_a_mask_grows_by_six_tenths_of_its_radius_and_one() -> None:
    """317 pixels have a radius of 10.05: 0.6 x 10.05 + 1 is 7 steps from column 42, the last one a tip, which is taken away."""
    mask, bar = disc(10), (abs(ROWS - 30) <= 2) & (COLUMNS >= 32)
    found = fitted(np.where(mask | bar, BRIGHT, DARK), np.where(mask, 1.0, 0.3), mask)
    assert np.flatnonzero(found.any(0)).max() == 48
    assert (found & ~mask & ~bar).sum() == 0


def test_the_surroundings_of_a_large_mask_are_half_a_radius_wide() -> None:
    """0.5 x 10.05 are 5 steps. A bright arm is added where they are dark."""
    mask, bar = disc(10), (abs(ROWS - 30) <= 2) & (COLUMNS >= 32)
    near = grown(mask, 7)
    image = mostly_dark(near, 5)
    image[near] = np.where(mask | bar, BRIGHT, DARK)[near]
    assert fitted(image, np.where(mask, 1.0, 0.3), mask)[30, 46]


def test_the_surroundings_of_a_small_mask_are_two_pixels_wide() -> None:
    """16 pixels have a radius of 2.26, of which half is 1. Dark pixels of the mask go where its surroundings are dark."""
    mask, core = np.zeros((SIDE, SIDE), bool), np.zeros((SIDE, SIDE), bool)
    mask[28:32, 28:32] = core[28:32, 28:30] = True
    near = grown(mask, 2)
    image = mostly_dark(near, 2)
    image[near] = np.where(core, BRIGHT, DARK)[near]
    assert (fitted(image, np.where(core, 1.0, np.where(mask, 0.59, 0.0)), mask) == core).all()


@pytest.mark.parametrize("inside", [3, 4])
@pytest.mark.parametrize("outside", [3, 4])
def test_four_pixels_are_enough_to_compare_and_three_are_not(inside: int, outside: int) -> None:
    """On an image of 576 pixels, whose peak is that of its second brightest."""
    rows, columns = np.mgrid[:24, :24]
    mask, core = np.zeros((24, 24), bool), np.zeros((24, 24), bool)
    mask[8:14, 8:14] = core[8:10, 8:10] = True
    core[9, 9] = inside == 4
    near = grown(mask, 3)
    ring = grown(near, 2) & ~near & (rows == 11) & ((columns < 8) | (columns > 13))
    assert ring.sum() == 4
    ring[11, np.flatnonzero(ring[11])[0]] = outside == 4
    found = _fit_component(
        np.where(core, BRIGHT, DARK)[None], np.where(core, 1.0, np.where(mask, 0.59, 0.0)), mask, ~near & ~ring, 0.4, 1.0
    )
    assert (found == (core if inside == outside == 4 else mask)).all()


@pytest.mark.parametrize(
    ("share", "value", "stays"), [(0.4, 0.61, True), (0.4, 0.59, False), (0.5, 0.65, False), (0.5, 0.71, True)]
)
def test_what_changed_by_six_tenths_of_the_peak_or_by_the_level_is_inside_whatever_it_looks_like(
    share: float, value: float, stays: bool
) -> None:
    """At a share of 0.5 the level of a radius of 1.69 is 0.5 + 0.2 exp(-(1.69 / 5)^2) = 0.68."""
    mask, dark = np.zeros((SIDE, SIDE), bool), np.zeros((SIDE, SIDE), bool)
    mask[20:23, 20:23] = dark[20:23, 22] = True
    difference = np.where(dark, value, np.where(mask, 1.0, 0.0))
    found = _fit_component(np.where(mask & ~dark, BRIGHT, DARK)[None], difference, mask, NONE, share, 9.0)
    assert bool(found[20:23, 22].all()) is stays
    assert bool(found[20:23, 22].any()) is stays


@pytest.mark.parametrize(("weight", "stays"), [(0.36, True), (0.39, False)])
def test_a_resemblance_of_one_counts_as_much_as_four_tenths_of_the_peak(weight: float, stays: bool) -> None:
    """(0.55 - 0.4) / 0.4 = 0.375: a pixel that looks like the surroundings stays below that weight."""
    mask = disc(14)
    dark = mask & (COLUMNS >= 36)
    difference = np.where(dark, 0.55, np.where(mask, 1.0, 0.0))
    assert fitted(np.where(mask & ~dark, BRIGHT, DARK), difference, mask, weight=weight)[30, 41] == stays


def test_the_part_with_most_of_the_certain_inside_is_kept_though_another_is_larger_and_its_hole_is_filled() -> None:
    left, right = np.zeros((SIDE, SIDE), bool), np.zeros((SIDE, SIDE), bool)
    left[20:25, 10:15], right[16:30, 24:38] = True, True
    bridge = (abs(ROWS - 22) < 2) & (COLUMNS >= 15) & (COLUMNS < 24)
    hole = (ROWS == 22) & (COLUMNS == 12)
    difference = np.where(left | (right & (ROWS > 28)), 1.0, np.where(right, 0.55, np.where(bridge, 0.42, 0.0)))
    difference[hole] = 0.0
    found = fitted(np.where(left | right, BRIGHT, DARK), difference, (left | right | bridge) & ~hole)
    assert (found == left).all()


def test_a_line_of_the_certain_inside_is_kept_though_it_is_thin() -> None:
    body, line = disc(8, 30, 20), (ROWS == 30) & (COLUMNS > 20) & (COLUMNS < 40)
    assert fitted(FLAT, np.where(body | line, 1.0, 0.0), body | line)[line].all()


def test_intensities_are_spread_by_their_median_deviation() -> None:
    """Medians 0.4 and -0.4, deviations 0.1, so spreads 0.14826: at 0.0275 the ratio is 0.8 x 0.0275 / 0.14826^2 = 1, half of
    the cap."""
    stripes = 0.1 * np.where(COLUMNS % 2, 1.0, -1.0)
    image = np.where(COLUMNS < 16, 0.4, -0.4) + stripes
    image[(COLUMNS > 28) & (COLUMNS < 40)] = 0.0275
    like = resemblance(image[None], COLUMNS < 16, (COLUMNS > 43))
    assert like[30, 34] == pytest.approx(0.5, abs=0.001)
    assert (CAP, QUIET) == (2.0, 0.02)


def test_a_resemblance_is_smoothed_over_seven_tenths_of_a_pixel() -> None:
    """A single pixel keeps 0.57^2 of its own; exp(-1 / 0.98) = 0.36 of that each beside it."""
    image = np.where(COLUMNS < 8, 0.4, np.where(COLUMNS > 55, -0.4, 0.0))
    image[30, 30] = 0.1
    like = resemblance(image[None], COLUMNS < 8, COLUMNS > 55)
    assert like[30, 30] == pytest.approx(0.5698**2, abs=1e-3)
    assert like[30, 31] == pytest.approx(0.5698**2 * 0.3604, abs=1e-3)
