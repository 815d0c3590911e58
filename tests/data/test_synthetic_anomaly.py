"""The synthetic anomaly (thesis 3.6.3): where it lies, how large and how bright it is, and that draws repeat."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from coinseg.config.schema import AnomalySettings
from coinseg.data.slices import synthetic_anomaly as anomaly
from coinseg.data.slices.synthetic_anomaly import blob, centre, inject

THESIS = AnomalySettings(kind="blob")
ALWAYS = replace(THESIS, probability=1.0)
SIDE = 64


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def one_pixel(row: int, column: int, side: int = SIDE) -> np.ndarray:
    organ = np.zeros((side, side), bool)
    organ[row, column] = True
    return organ


@pytest.fixture
def undeformed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(anomaly, "SCALE", (1.0, 1.0))
    monkeypatch.setattr(anomaly, "STRETCH", 0.0)
    monkeypatch.setattr(anomaly, "ROTATION", 0.0)


@pytest.mark.usefixtures("undeformed")
def test_undeformed_blob_is_the_gaussian() -> None:
    found = blob(replace(THESIS, template=21, sigma=0.4), rng())
    assert found.dtype == np.float32
    assert found[10, 10] == 1
    # One pixel is 0.1 of the grid: exp(-0.5^2 / (2 0.4^2)) five pixels away, along either axis and on the diagonal.
    assert found[10, 15] == pytest.approx(math.exp(-0.25 / 0.32), rel=1e-5)
    assert found[5, 10] == pytest.approx(math.exp(-0.25 / 0.32), rel=1e-5)
    assert found[13, 6] == pytest.approx(math.exp(-0.25 / 0.32), rel=1e-5)  # 3-4-5
    assert found[0, 0] == pytest.approx(math.exp(-2 / 0.32), rel=1e-4)


@pytest.mark.usefixtures("undeformed")
def test_level_and_alpha_by_hand() -> None:
    settings = replace(ALWAYS, template=21, sigma=0.4, alpha=0.5, level=0.25)
    image, mask = inject(np.full((41, 41), 0.125), one_pixel(20, 20, 41), settings, rng())
    assert image[20, 20] == pytest.approx(0.625)
    assert image[20, 25] == pytest.approx(0.125 + 0.5 * 0.4578, abs=1e-4)
    # exp(-r^2 / 0.32) > 1/4 is r^2 < 0.32 log 4 = 0.4436: at most 44 in squared pixels.
    rows, columns = np.indices((41, 41)) - 20
    assert np.array_equal(mask, rows**2 + columns**2 <= 44)
    assert mask[20, 20:28].tolist() == [True] * 7 + [False]
    higher = inject(np.zeros((41, 41)), one_pixel(20, 20, 41), replace(settings, level=0.5), rng())[1]
    assert np.array_equal(higher, rows**2 + columns**2 <= 22)  # 0.32 log 2 = 0.2218


@pytest.mark.usefixtures("undeformed")
def test_even_template_lies_around_its_pixel() -> None:
    _, mask = inject(np.zeros((SIDE, SIDE)), one_pixel(30, 40), ALWAYS, rng())
    rows, columns = np.nonzero(mask)
    assert (rows.mean(), columns.mean()) == (29.5, 39.5)


def test_blobs_have_unit_height_and_stay_in_their_template() -> None:
    for seed in range(50):
        found = blob(replace(THESIS, template=21), rng(seed))
        assert found.shape == (21, 21)
        assert found.min() >= 0
        assert found.max() == found[10, 10] == 1
        assert found[:, [0, -1]].max() < THESIS.level
        assert found[[0, -1]].max() < THESIS.level


def test_blobs_are_deformed_within_their_bounds() -> None:
    # The half-axes lie between 0.75 x 0.8 and 1.2 of the undeformed 6.66 pixels.
    rows, columns = np.indices((21, 21)) - 10
    distance = np.hypot(rows, columns)
    shapes = set()
    for seed in range(50):
        found = blob(replace(THESIS, template=21), rng(seed)) > THESIS.level
        assert found[distance <= 0.6 * 6.66].all()
        assert not found[distance > 1.2 * 6.66].any()
        shapes.add(found.tobytes())
    assert len(shapes) > 45


def test_area_is_about_that_of_the_thesis() -> None:
    organ = one_pixel(32, 32)
    areas = [inject(np.zeros((SIDE, SIDE)), organ, ALWAYS, rng(seed))[1].sum() for seed in range(200)]
    assert 80 < np.mean(areas) < 160
    assert min(areas) > 30
    assert max(areas) < 220


def test_same_seed_same_anomaly_and_other_seed_other_anomaly() -> None:
    image, organ = rng(9).random((SIDE, SIDE)), np.ones((SIDE, SIDE), bool)
    drawn = [inject(image, organ, ALWAYS, rng(seed)) for seed in (1, 1, 2)]
    assert np.array_equal(drawn[0][0], drawn[1][0])
    assert np.array_equal(drawn[0][1], drawn[1][1])
    assert not np.array_equal(drawn[0][1], drawn[2][1])
    # At the same pixel the deformation differs still.
    shapes = [inject(image, one_pixel(30, 30), ALWAYS, rng(seed))[1] for seed in (1, 2)]
    assert not np.array_equal(*shapes)


@pytest.mark.parametrize("place", [(30, 25), (0, 0), (63, 63), (3, 61), (0, 40)])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_image_stays_in_range_and_outside_the_template_as_it_was(place: tuple[int, int], seed: int) -> None:
    image = rng(seed + 10).random((SIDE, SIDE)).astype(np.float32)
    before = image.copy()
    found, mask = inject(image, one_pixel(*place), ALWAYS, rng(seed))
    assert np.array_equal(image, before)
    assert found.dtype == image.dtype
    assert found.min() >= 0
    assert found.max() <= 1
    inside = np.zeros((SIDE, SIDE), bool)
    inside[max(place[0] - 10, 0) : place[0] + 10, max(place[1] - 10, 0) : place[1] + 10] = True
    assert np.array_equal(found[~inside], before[~inside])
    assert not mask[~inside].any()
    assert (found >= before).all()
    assert mask[place]


def test_mask_is_where_the_image_was_raised_most() -> None:
    image = np.zeros((SIDE, SIDE))
    found, mask = inject(image, one_pixel(32, 32), ALWAYS, rng(4))
    assert np.array_equal(mask, found > 0.9 * 0.25)


def test_centre_lies_in_the_organ() -> None:
    organ = np.zeros((SIDE, SIDE), bool)
    organ[20:30, 5:9] = organ[40:44, 50:60] = True
    seen = np.zeros_like(organ)
    draw = rng(0)
    for _ in range(1000):
        seen[centre(organ, draw)] = True
    assert np.array_equal(seen, organ)  # every pixel can be drawn, and no other
    for seed in range(30):
        found, _ = inject(np.zeros((SIDE, SIDE)), organ, replace(ALWAYS, template=21), rng(seed))
        assert organ[np.unravel_index(found.argmax(), found.shape)]


def test_both_of_the_two_largest_components_and_never_the_third() -> None:
    organ = np.zeros((SIDE, SIDE), bool)
    organ[2:4, 2:4] = True  # 4 pixels, first in the order of the labels
    organ[10:30, 10:30] = True  # 400
    organ[40:45, 40:45] = True  # 25
    draw = rng(0)
    counts = {"third": 0, "first": 0, "second": 0}
    for _ in range(600):
        row, _ = centre(organ, draw)
        counts["third" if row < 5 else "first" if row < 35 else "second"] += 1
    assert counts["third"] == 0
    # Equally likely, whatever their size: 300 of 600 each, with a standard deviation of 12.
    assert abs(counts["first"] - 300) < 60


def test_one_component_is_enough() -> None:
    assert {centre(one_pixel(5, 7), rng(seed)) for seed in range(10)} == {(5, 7)}


def test_empty_organ_leaves_everything() -> None:
    image = rng(0).random((SIDE, SIDE))
    found, mask = inject(image, np.zeros((SIDE, SIDE), bool), ALWAYS, rng())
    assert np.array_equal(found, image)
    assert mask.dtype == bool
    assert not mask.any()


def test_probability() -> None:
    image, organ = np.zeros((SIDE, SIDE)), np.ones((SIDE, SIDE), bool)

    def share(probability: float, draws: int = 200) -> float:
        settings = replace(THESIS, probability=probability)
        return float(np.mean([inject(image, organ, settings, rng(seed))[1].any() for seed in range(draws)]))

    assert share(0.0) == 0
    assert share(1.0) == 1
    assert share(0.65) == pytest.approx(0.65, abs=0.12)


def test_not_injected_leaves_the_image() -> None:
    image = rng(0).random((SIDE, SIDE))
    found, mask = inject(image, np.ones((SIDE, SIDE), bool), replace(THESIS, probability=0.0), rng())
    assert np.array_equal(found, image)
    assert not mask.any()


def test_template_larger_than_the_image() -> None:
    found, mask = inject(np.zeros((9, 7)), np.ones((9, 7), bool), ALWAYS, rng())
    assert found.shape == mask.shape == (9, 7)
    assert mask.any()


class Given:
    """Draws a share of every range; of the four half-axes the first two grow as much as they may and the others shrink."""

    def __init__(self, share: float) -> None:
        self.share = share

    def uniform(self, low: float, high: float, size: int | None = None) -> object:
        return np.array([high, high, low, low]) if size else low + self.share * (high - low)


@pytest.mark.parametrize(("share", "scale", "turned"), [(1.0, 1.0, True), (0.5, 0.875, False), (0.0, 0.75, True)])
def test_blobs_are_scaled_stretched_and_turned_by_as_much_as_the_thesis_says(share: float, scale: float, turned: bool) -> None:
    found = blob(replace(THESIS, template=21), Given(share))  # type: ignore[arg-type]
    y, x = (np.indices((21, 21)) - 10) / 10
    u, v = (y, x) if turned else (x, y)  # a quarter turn either way
    wanted = np.exp(-((u / 1.2) ** 2 + (v / 0.8) ** 2) / scale**2 / (2 * 0.4**2))
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)


def test_half_axes_are_drawn_over_their_whole_range_each_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(anomaly, "SCALE", (1.0, 1.0))
    monkeypatch.setattr(anomaly, "ROTATION", 0.0)
    axes = []
    for seed in range(300):
        found = blob(replace(THESIS, template=21, sigma=0.4), rng(seed))
        axes.append(
            [math.sqrt(-0.25 / 0.32 / math.log(value)) for value in (found[10, 5], found[10, 15], found[5, 10], found[15, 10])]
        )
    low, high = np.min(axes, axis=0), np.max(axes, axis=0)
    assert (low > 0.799).all()
    assert (low < 0.82).all()
    assert (high < 1.201).all()
    assert (high > 1.18).all()
    assert np.abs(np.corrcoef(np.transpose(axes)) - np.eye(4)).max() < 0.2
