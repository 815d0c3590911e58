"""Images in tiles: their masks, confidences and counterfactuals lie on their own grid, as if there were no tiles."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from coinseg.data.slices.case import LoadedCase, is_weak
from coinseg.data.slices.crop import Box, Cut
from coinseg.inference.distribution import foreign, of_places
from coinseg.inference.predictor import Predictor
from coinseg.types import Case
from models import Brightness, PaintBlack, bright_run, explainer_of, hu

SIDE = 32


def run_of(tile: int, f: Any = None, **data: object) -> Predictor:
    """A predictor that marks what is bright, in tiles of so many pixels."""
    one = bright_run()
    settings = replace(one.settings, data=replace(one.settings.data, size=SIDE, tile=tile, **data))  # type: ignore[arg-type]
    return Predictor.of(explainer_of(settings, f or one.f, PaintBlack()), hu(0.0, 1000.0), 0.5)


def blobs(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Black scans (slices, H, W) in HU with bright pixels anywhere."""
    return np.where(np.random.default_rng(seed).random(shape) < 0.3, 1000, 0).astype(np.int16)


@pytest.mark.parametrize("shape", [(1, 70, 91), (2, 33, 200), (3, 40, 32)])
def test_a_mask_joined_of_tiles_is_that_of_the_whole_slice(shape: tuple[int, int, int]) -> None:
    scan = blobs(shape)
    found = run_of(SIDE).segment_cases([LoadedCase(scan, (), None)], maps=True)[0]
    assert np.array_equal(found.mask, scan > 500)
    assert np.array_equal(np.asarray(found.pixel_confidence.percent), np.where(scan > 500, 100, 0))
    assert found.maps is not None
    # What tiles change is blended: added, it would be -1000 HU where two of them overlap.
    assert not np.asarray(found.maps.counterfactual).any()
    np.testing.assert_allclose(np.asarray(found.maps.difference), scan, atol=0.01)


def test_other_planes_are_cut_into_tiles_too() -> None:
    scan = blobs((40, 12, 45))
    found = run_of(SIDE, axis="coronal").segment_cases([LoadedCase(scan, (), None)])[0]
    assert np.array_equal(found.mask, scan > 500)
    assert found.probability.shape == (12,)


@pytest.mark.parametrize("tile", [50, 16384])
def test_one_tile_is_no_tile_to_the_last_bit(tile: int) -> None:
    case = LoadedCase(np.random.default_rng(0).integers(0, 1000, (2, 50, 41)).astype(np.int16), (), None)
    one, none = (run_of(side).segment_cases([case], maps=True)[0] for side in (tile, 0))
    for name in ("mask", "probability", "confidence", "image_score", "distance"):
        assert np.array_equal(getattr(one, name), getattr(none, name), equal_nan=True), name
    assert np.array_equal(np.asarray(one.pixel_confidence.percent), np.asarray(none.pixel_confidence.percent))
    assert one.maps is not None
    assert none.maps is not None
    assert np.array_equal(np.asarray(one.maps.counterfactual), np.asarray(none.maps.counterfactual))


def test_images_together_are_segmented_as_alone() -> None:
    run = run_of(SIDE, Brightness())
    cases = [LoadedCase(blobs((1, *shape), seed), (), None) for seed, shape in enumerate(((70, 91), (20, 20), (32, 100)))]
    for together, alone in zip(run.segment_cases(cases), (run.segment_cases([case])[0] for case in cases), strict=True):
        assert np.array_equal(together.mask, alone.mask)
        assert np.array_equal(together.probability, alone.probability)
        assert np.array_equal(together.confidence, alone.confidence, equal_nan=True)


def test_a_tile_that_is_called_normal_has_its_say() -> None:
    # Columns 10 to 31 are bright: most of the left tile (0 to 31), a quarter of the right one (24 to 55), which is normal for f.
    scan = np.zeros((1, SIDE, 56), np.int16)
    scan[..., 10:32] = 1000
    found = run_of(SIDE, Brightness()).segment_cases([LoadedCase(scan, (), None)])[0]
    assert np.flatnonzero(found.mask[0, 0]).tolist() == list(range(10, 28))  # to the middle of what both show, 24 to 31
    assert (np.diff(found.pixel_confidence.sure(0)[0, 20:40]) <= 0).all()
    assert found.probability[0] > 0.5  # an image is as abnormal as its most abnormal tile


def test_the_confidence_of_an_image_is_that_of_its_tiles_by_their_pixels() -> None:
    run = run_of(SIDE, Brightness())
    scan = np.zeros((1, SIDE, 2 * SIDE), np.int16)
    scan[..., :20] = 1000
    one = run.segment_cases([LoadedCase(scan, (), None)])[0]
    (own, marked), *others = one.tiles[0]
    assert marked == 20 * SIDE
    assert not any(pixels for _, pixels in others)
    assert one.confidence[0] == pytest.approx(own, abs=1e-4)
    black = run.segment_cases([LoadedCase(scan * 0, (), None)])[0]
    assert np.isnan(black.confidence).all()


def test_larger_tiles_are_shrunk_and_their_masks_cover_the_native_pixels() -> None:
    scan = np.zeros((1, 130, 150), np.int16)
    scan[0, 20:60, 70:120] = 1000
    found = run_of(2 * SIDE).segment_cases([LoadedCase(scan, (), None)])[0]
    assert found.mask.shape == scan.shape
    around = ndimage.generate_binary_structure(3, 2) & (np.arange(3) == 1)[:, None, None]
    assert not (found.mask & ~ndimage.binary_dilation(scan > 500, around, 2)).any()  # at most two native pixels off
    assert not (ndimage.binary_erosion(scan > 500, around, 2) & ~found.mask).any()


def test_whose_label_a_tile_has() -> None:
    case, tile = Case("a", "a", Path("a"), False, 1), Cut(0, 2, Box(0, 0, 4, 4), None, is_tile=True)
    assert is_weak(case, tile, 1, "auto", 1)
    assert not is_weak(case, tile, 1, "slice", 1)
    assert not is_weak(replace(case, label=0), tile, 0, "auto", 1)
    assert not is_weak(case, replace(tile, is_tile=False), 1, "auto", 1)
    labelled = replace(case, volume=True, slice_labels={0: 1})  # the label of a slice says nothing of one of its tiles either
    assert is_weak(labelled, tile, 1, "auto", 3)
    loaded = LoadedCase(np.zeros((1, 8, 8)), (), None, case=case)
    assert loaded.given(tile, "auto", 1) is None
    assert replace(loaded, case=replace(case, label=0)).given(tile, "auto", 1) == 0
    assert loaded.given(replace(tile, is_tile=False), "auto", 1) == 1


def test_one_odd_tile_does_not_make_an_image_foreign() -> None:
    apart, cases, numbers = np.array([0.2, 0.4, 9.0, 2.0]), np.array(["a"] * 3 + ["b"]), np.zeros(4, int)
    assert foreign(apart, cases, numbers, tiles=True).tolist() == [False, False, False, True]
    assert foreign(apart, cases, numbers).tolist() == [True] * 4  # of organ regions the farthest counts
    unknown = of_places(np.array([np.nan, 0.5, np.nan]), np.array([[0, 0], [0, 0], [1, 0]]), tiles=True)[1]
    assert np.array_equal(unknown, [0.5, np.nan], equal_nan=True)
