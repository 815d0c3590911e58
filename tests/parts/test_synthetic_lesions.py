"""Synthetic lesions: what is drawn, where, and which are kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from coinseg.data.layouts.registry import read_layout
from coinseg.data.slices.dataset import TrainingSlices
from coinseg.data.slices.intensity import Window, signed
from coinseg.data.slices.store import SliceStore, prepare
from coinseg.data.slices.student_data import Examples, PseudoMasks
from coinseg.parts import synthetic_lesions as room
from coinseg.parts.synthetic_lesions import SyntheticLesions, rise_of, synthetic_lesion
from conftest import tiny_settings, write_images
from models import learning_of

SIDE = 48


def disc(radius: float, centre: tuple[int, int] = (24, 24), side: int = SIDE) -> np.ndarray:
    rows, columns = np.indices((side, side))
    return np.hypot(rows - centre[0], columns - centre[1]) <= radius


@pytest.mark.parametrize("height", [0.4, -0.3])
def test_the_rise_is_the_contrast_to_the_ring(height: float) -> None:
    image = np.where(disc(5), 0.1 + height, 0.1)
    image[0, 0] = 1  # far away, and not asked
    assert rise_of(image[None], disc(5)) == pytest.approx([height])


def test_the_rise_of_what_fills_the_image_is_counted_from_the_image() -> None:
    assert rise_of(np.full((1, 8, 8), 0.2), np.ones((8, 8), bool)) == 0


@pytest.mark.parametrize("rise", [0.4, -0.4])
def test_a_drawn_lesion_is_one_piece_in_the_body_and_changes_nothing_else(rise: float) -> None:
    body = disc(18)
    rng = np.random.default_rng(0)
    image = np.where(body, 0.05 * rng.standard_normal((SIDE, SIDE)), -1.0).astype(np.float32)
    before, areas = image.copy(), []
    for seed in range(40):
        (made,), shape = synthetic_lesion(image[None], image > -0.9, disc(5), np.array([rise]), np.random.default_rng(seed))
        assert made.dtype == np.float32
        assert np.abs(made).max() <= 1
        if shape.any():
            assert ndimage.label(shape)[1] == 1
            assert not (shape & ~body).any()
            far = ~ndimage.binary_dilation(shape, iterations=8)
            np.testing.assert_allclose(made[far], image[far], atol=1e-3)
            assert np.sign(np.median((made - image)[shape])) == np.sign(rise)
        areas.append(shape.sum() / disc(5).sum())
    assert (image == before).all()
    assert min(areas) < 1 < max(areas)


def test_equal_channels_get_the_lesion_of_one() -> None:
    rng = np.random.default_rng(0)
    image = np.where(disc(18), 0.05 * rng.standard_normal((SIDE, SIDE)), -1.0).astype(np.float32)
    colour = np.repeat(image[None], 3, axis=0)
    assert rise_of(colour, disc(5)) == pytest.approx(np.repeat(rise_of(image[None], disc(5)), 3))
    for seed in range(5):
        grey, shape = synthetic_lesion(image[None], image > -0.9, disc(5), np.array([0.4]), np.random.default_rng(seed))
        three, same = synthetic_lesion(colour, image > -0.9, disc(5), np.full(3, 0.4), np.random.default_rng(seed))
        assert (same == shape).all()
        assert (three == grey).all()


def test_a_drawn_lesion_has_the_colour_of_the_pseudo_mask() -> None:
    """Of a flat image the change of every channel is in proportion to its rise; a channel without a rise stays as it is."""
    image, rise = np.zeros((3, SIDE, SIDE), np.float32), np.array([0.3, -0.15, 0.0])
    for seed in range(5):
        made, shape = synthetic_lesion(image, disc(18), disc(5), rise, np.random.default_rng(seed))
        assert shape.any()
        np.testing.assert_allclose(made, rise[:, None, None] * made[:1] / 0.3, atol=1e-6)


def test_where_there_is_only_air_nothing_is_drawn() -> None:
    image = np.full((SIDE, SIDE), -1.0, np.float32)
    (made,), shape = synthetic_lesion(image[None], image > -0.9, disc(5), np.array([0.5]), np.random.default_rng(0))
    assert (made == image).all()
    assert not shape.any()


def test_fat_is_part_of_the_body_though_it_is_black_in_the_window_of_an_organ() -> None:
    hu = np.full((SIDE, SIDE), -1000, np.int16)
    hu[disc(20)], hu[disc(6)] = -100, 40  # fat around an organ
    store = SliceStore.__new__(SliceStore)
    store.meta, store.window = {"kind": "hu"}, Window(-50.0, 150.0)
    vars(store)["images"] = hu[None, None]
    body, image = store.body(np.array([0])), signed(store.unit(np.array([0])))[0]
    assert (body[0] == disc(20)).all()
    shapes = [synthetic_lesion(image, body[0], disc(5), np.array([0.5]), np.random.default_rng(seed))[1] for seed in range(20)]
    assert any((shape & ~disc(6)).any() for shape in shapes)
    store.meta = {"kind": "percentile"}
    assert (store.body(np.array([0]))[0] == disc(6)).all()


@pytest.fixture(scope="module")
def slices(tmp_path_factory: pytest.TempPathFactory) -> TrainingSlices:
    root, settings = tmp_path_factory.mktemp("drawn"), tiny_settings()
    store = prepare(read_layout(write_images(root / "data", patients=16), settings.data), settings, root / "slices")
    return TrainingSlices(store, settings.anomaly, 0)


def drawn(slices: TrainingSlices, probability: Callable[[Tensor], np.ndarray], seed: int = 0) -> Examples:
    labels = slices.labels()
    members = np.flatnonzero(labels == 1)
    targets = np.stack([disc(4, (16, 16), slices.store.size)] * len(members)).astype(np.uint8)
    targets[:, 0, 0] = 2  # what is not learnt from is no part of a lesion
    pseudo_masks = PseudoMasks(members, targets, np.flatnonzero(labels == 0))
    return SyntheticLesions.examples(
        learning_of(slices, replace(tiny_settings(), seed=seed), probability=probability), pseudo_masks
    )


def test_only_what_f_takes_for_a_lesion_is_kept(slices: TrainingSlices, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "TRIES", 100)
    normals = slices.batch(np.flatnonzero(slices.labels() == 0)).image
    level = float(normals.mean((1, 2, 3)).max())  # no normal image is brighter in the mean

    def brighter(images: Tensor) -> np.ndarray:
        return 0.5 + (images.mean((1, 2, 3)) - level - 1e-6).numpy()

    made = drawn(slices, brighter)
    assert 0 < len(made.images) == len(made.masks) < 100
    assert (brighter(made.images) >= 0.5).all()
    assert (made.masks.sum((1, 2)) >= room.LEAST_PIXELS).all()
    again = drawn(slices, brighter)
    assert torch.equal(made.images, again.images)
    assert (made.masks == again.masks).all()
    assert not torch.equal(made.images[:1], drawn(slices, brighter, 1).images[:1])
    monkeypatch.setattr(room, "ENOUGH", 1)
    assert 0 < len(drawn(slices, brighter).images) <= len(made.images)
    for nothing in (0.0, 1.0):  # neither what f never calls abnormal, nor what it calls so without a lesion
        assert len(drawn(slices, lambda x, p=nothing: np.full(len(x), p)).images) == 0  # type: ignore[misc]


# --- one lesion by hand, of numbers that are not drawn but given


class Given:
    """Stands for a generator of random numbers; keeps what was asked for. Noise is flat noise, so its waves are of no matter
    where `random` is 0."""

    def __init__(self, *uniform: float, shift: tuple[float, float] = (0.0, 0.0)) -> None:
        self.uniforms, self.shift, self.asked = list(uniform), shift, []  # type: ignore[var-annotated]
        self.noise = np.random.default_rng(0)

    def uniform(self, low: float, high: float) -> float:
        self.asked.append((round(float(low), 6), round(float(high), 6)))
        return self.uniforms.pop(0)

    def normal(self, mean: float, spread: float, count: int) -> np.ndarray:
        self.asked.append((mean, spread, count))
        return np.array(self.shift)

    def random(self) -> float:
        return 0.0

    def standard_normal(self, shape: tuple[int, int]) -> np.ndarray:
        return self.noise.standard_normal(shape)


def by_hand(
    image: np.ndarray, rise: list[float], *, area: float = 0.0, angle: float = 0.0, longer: float = 0.0, patchy: float = 0.0,
    strength: float = 0.0, soft: float = 0.4, flat: float = 0.0, shift: tuple[float, float] = (0.0, 0.0),
    mask: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, Given]:  # fmt: skip
    rng = Given(area, angle, longer, patchy, strength, soft, flat, shift=shift)
    body, mask = np.ones(image.shape[1:], bool), disc(6) if mask is None else mask
    return *synthetic_lesion(image, body, mask, np.array(rise), rng), rng  # type: ignore[arg-type,return-value]


GREY = np.zeros((1, SIDE, SIDE), np.float32)


def extent(shape: np.ndarray) -> tuple[int, int]:
    """Rows and columns that it touches."""
    return int(shape.any(1).sum()), int(shape.any(0).sum())


def test_a_lesion_of_the_same_area_is_the_disc_of_the_pseudo_mask_with_the_shift() -> None:
    """113 pixels have a radius of 5.998."""
    made, shape, rng = by_hand(GREY, [0.2])
    assert (shape == (np.hypot(*(np.indices((SIDE, SIDE)) - 24)) < 5.998)).all()
    assert rng.asked == [
        (-0.5, 1.0), (0, SIDE / 16, 2), (0.0, 3.141593), (0.0, 0.5), (0.0, 0.6), (round(float(np.log(0.3)), 6),
        round(float(np.log(1.2)), 6)), (0.4, 1.2), (0.0, 0.6),
    ]  # fmt: skip
    moved = by_hand(GREY, [0.2], shift=(3.0, -2.0))[1]
    assert (moved == np.roll(shape, (3, -2), (0, 1))).all()
    assert made[0, 24, 24] == pytest.approx(0.2)


@pytest.mark.parametrize("area", [-0.5, 0.5, 1.0])
def test_its_area_is_that_of_the_pseudo_mask_times_the_exponential_of_what_is_drawn(area: float) -> None:
    assert by_hand(GREY, [0.2], area=area)[1].sum() == pytest.approx(113 * np.exp(area), rel=0.06)


def test_it_is_longer_along_its_angle_and_narrower_across_so_that_its_area_stays() -> None:
    """Half axes of 6 e^0.5 = 9.9 and 6 / e^0.5 = 3.6."""
    longer = 0.5
    down, across, slanted = (by_hand(GREY, [0.2], angle=angle, longer=longer)[1] for angle in (0.0, np.pi / 2, np.pi / 4))
    assert extent(down) == (19, 7)
    assert (across == down.T).all()
    assert (slanted == slanted.T).all()
    assert slanted[24 + 6, 24 + 6]  # 8.5 from the middle along the diagonal
    assert not slanted[24 + 3, 24 - 3]  # 4.2 across
    for shape in (down, slanted):
        assert shape.sum() == pytest.approx(113, rel=0.06)


def test_it_adds_the_rise_times_the_strength_with_a_soft_border() -> None:
    made = by_hand(GREY, [0.2], strength=float(np.log(1.5)))[0][0]
    assert made[24, 24] == pytest.approx(0.3)
    weight = ndimage.gaussian_filter((np.hypot(*(np.indices((SIDE, SIDE)) - 24)) < 5.998).astype(np.float32), 0.4)
    np.testing.assert_allclose(made, 0.3 * weight, atol=1e-6)
    soft = by_hand(GREY, [0.2], soft=1.2)[0][0]
    assert made[24, 24 + 7] < soft[24, 24 + 7] < made[24, 24 + 5]
    assert by_hand(GREY + 0.9, [0.2], strength=float(np.log(1.5)))[0].max() == 1


def test_it_loses_as_much_of_the_texture_as_is_drawn() -> None:
    image = 0.2 * np.random.default_rng(0).standard_normal((2, SIDE, SIDE)).astype(np.float32)
    made = by_hand(image, [0.0, 0.0], flat=0.6)[0]
    blurred = np.stack([ndimage.gaussian_filter(channel, 2.0) for channel in image])
    np.testing.assert_allclose(made[:, 24, 24], (0.4 * image + 0.6 * blurred)[:, 24, 24], atol=1e-5)
    np.testing.assert_allclose(made[:, 0], image[:, 0], atol=1e-5)


def test_its_patches_have_a_mean_of_one_and_stay_in_their_range() -> None:
    inner, means = disc(9), []
    for seed in range(20):
        rng = Given(0.0, 0.0, 0.0, 0.6, 0.0, 0.4, 0.0)
        rng.noise = np.random.default_rng(seed)
        made, _ = synthetic_lesion(GREY, np.ones((SIDE, SIDE), bool), disc(14), np.array([0.1]), rng)  # type: ignore[arg-type]
        patches = made[0][inner] / 0.1
        assert patches.std() > 0.1
        assert patches.min() >= 0.25 - 1e-5
        assert patches.max() <= 1.8 + 1e-5
        means.append(patches.mean())
    assert np.mean(means) == pytest.approx(1, abs=0.2)


def test_waves_have_a_deviation_of_one_and_their_width() -> None:
    rng = np.random.default_rng(0)
    narrow, wide = (room._waves(rng, 64, width) for width in (1.0, 4.0))
    assert narrow.std() == pytest.approx(1)
    assert wide.std() == pytest.approx(1)
    for waves, width in ((narrow, 1.0), (wide, 4.0)):  # noise smoothed by w is alike at a distance d by exp(-d^2 / 4 w^2)
        assert (waves * np.roll(waves, 2, 1)).mean() == pytest.approx(np.exp(-1 / width**2), abs=0.08)


def test_a_mask_of_one_pixel_has_a_radius_of_one() -> None:
    mask = np.zeros((SIDE, SIDE), bool)
    mask[24, 24] = True
    assert by_hand(GREY, [0.2], area=-0.5, mask=mask)[1].sum() == 1  # what is nearer than 1
    assert by_hand(GREY, [0.2], area=1.0, mask=mask)[1].sum() == 1  # exp(1) / pi is below 1


def test_it_keeps_a_thirty_second_of_the_side_from_the_air_and_only_its_largest_piece() -> None:
    """Of 48 pixels 1.5, which is 2 steps; a wall of air through the lesion leaves the larger side of it."""
    body = np.ones((SIDE, SIDE), bool)
    body[:, 22] = False
    rng = Given(0.0, 0.0, 0.0, 0.0, 0.0, 0.4, 0.0)
    shape = synthetic_lesion(GREY, body, disc(6), np.array([0.2]), rng)[1]  # type: ignore[arg-type]
    whole = np.hypot(*(np.indices((SIDE, SIDE)) - 24)) < 5.998
    assert (shape == (whole & (np.indices((SIDE, SIDE))[1] > 24))).all()


@pytest.mark.parametrize(("lesion", "empty", "count"), [(0.5, 0.4999, True), (0.4999, 0.4, False), (0.6, 0.5, False)])
def test_what_f_gives_the_level_is_abnormal(
    slices: TrainingSlices, monkeypatch: pytest.MonkeyPatch, lesion: float, empty: float, count: bool
) -> None:
    monkeypatch.setattr(room, "TRIES", 30)
    normals = slices.batch(np.flatnonzero(slices.labels() == 0)).image
    known = {image.numpy().tobytes() for image in normals}

    def probability(images: Tensor) -> np.ndarray:
        return np.array([empty if image.numpy().tobytes() in known else lesion for image in images])

    assert bool(len(drawn(slices, probability).images)) is count


def test_what_is_drawn_is_the_measured_recipe() -> None:
    """docs/research/student.md, study 22."""
    assert (room.TRIES, room.ENOUGH, room.LEAST_PIXELS) == (2400, 1000, 9)
    assert (room.AREA, room.STRENGTH, room.SHIFT, room.MARGIN) == ((-0.5, 1.0), (0.3, 1.2), 1 / 16, 1 / 32)


def test_lesions_are_drawn_where_the_settings_ask_for_them_and_a_second_network_learns_from_them() -> None:
    base = tiny_settings()
    for share, networks, asked in ((0.5, 2, True), (0.0, 2, False), (0.5, 1, False), (0.0, 1, False), (0.01, 3, True)):
        student = replace(base.student, synthetic_lesions=share, networks=networks)
        assert SyntheticLesions.asked_for(replace(base, student=student)) is asked


def test_the_ring_of_a_lesion_is_as_wide_as_half_its_radius_and_two_pixels_at_least() -> None:
    """Around the pixels beside the mask, 2 steps for a radius of 2 and 4 for one of 8: just over half of it, from outside in, has
    0.1; the rest has 0.3, and what is farther 0.7."""
    for radius, width in ((2, 2), (8, 4)):
        near = ndimage.binary_dilation(disc(radius))
        ring = ndimage.binary_dilation(near, iterations=width) & ~near
        farthest = np.argsort(-ndimage.distance_transform_cdt(~near, "taxicab")[ring], kind="stable")
        values = np.full(ring.sum(), 0.3)
        values[farthest[: ring.sum() // 2 + 1]] = 0.1
        image = np.full((SIDE, SIDE), 0.7)
        image[disc(radius)], image[ring] = 0.5, values
        assert rise_of(image[None], disc(radius)) == pytest.approx([0.4])
