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
