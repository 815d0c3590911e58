"""Boxes and cuts: always inside the slice, around the organ, and with a way back for every mask."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coinseg.config.schema import DataSettings
from coinseg.data.slices.crop import Box, cuts, square_around

SETTINGS = DataSettings(size=8, roi="none", roi_margin=0.0, min_organ_px=4)


def blocks(mask: np.ndarray, scale: int) -> np.ndarray:
    """Every pixel as a block of scale x scale."""
    return np.kron(mask, np.ones((scale, scale), mask.dtype))


def organ_of(*regions: tuple[int, slice, slice], shape: tuple[int, int, int] = (4, 20, 30)) -> np.ndarray:
    mask = np.zeros(shape, bool)
    for region in regions:
        mask[region] = True
    return mask


def extent(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any((0, 2))), np.flatnonzero(mask.any((0, 1)))
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


# Boxes


def test_same_size_is_the_slice_itself() -> None:
    native = np.random.default_rng(0).normal(size=(9, 12)).astype(np.float32)
    box = Box(2, 3, 6, 6)
    assert np.array_equal(box.resize(native, 6), native[2:8, 3:9])
    pasted = box.paste(native[2:8, 3:9], (9, 12))
    assert np.array_equal(pasted[2:8, 3:9], native[2:8, 3:9])


@pytest.mark.parametrize("seed", range(5))
def test_blocks_of_two_go_there_and_back_exactly(seed: int) -> None:
    # Whatever the neighbours are: bilinear weights at twice the side leave 9/16 with the pixel itself.
    small = np.random.default_rng(seed).random((8, 8)) < 0.5
    native = np.zeros((20, 24), bool)
    native[2:18, 5:21] = blocks(small, 2)
    box = Box(2, 5, 16, 16)
    assert np.array_equal(box.resize_mask(native, 8), small)
    assert np.array_equal(box.paste_mask(small, (20, 24)), native)


@pytest.mark.parametrize("scale", [2, 3, 4, 5])
def test_blocky_rectangles_survive_larger_scales(scale: int) -> None:
    small = np.zeros((10, 10), bool)
    small[2:5, 3:9] = small[7:9, 0:2] = True
    box, shape = Box(1, 2, 10 * scale, 10 * scale), (10 * scale + 4, 10 * scale + 3)
    native = np.zeros(shape, bool)
    native[1 : 1 + 10 * scale, 2 : 2 + 10 * scale] = blocks(small, scale)
    assert np.array_equal(box.resize_mask(native, 10), small)
    pasted = box.paste_mask(small, shape)
    assert np.array_equal(box.resize_mask(pasted, 10), small)
    # Only corners are rounded: none is more than a few pixels, and nothing is added.
    assert not (pasted & ~native).any()
    assert (native & ~pasted).sum() <= 8 * scale


def test_shrinking_averages_instead_of_dropping_pixels() -> None:
    native = np.zeros((32, 32), np.float32)
    native[::4] = 4  # every fourth row: the mean is 1
    found = Box(0, 0, 32, 32).resize(native, 4)
    np.testing.assert_allclose(found[1:3], 1, atol=0.05)


def test_constant_stays_constant() -> None:
    for size in (3, 7, 24):
        np.testing.assert_allclose(Box(1, 2, 11, 13).resize(np.full((20, 20), 5.0), size), 5, rtol=1e-6)


def test_an_oblong_box_is_stretched_to_a_square_and_back() -> None:
    native = np.tile(np.arange(8, dtype=np.float32), (16, 1))
    box = Box(0, 0, 16, 8)
    assert np.array_equal(box.resize(native, 8), np.tile(np.arange(8, dtype=np.float32), (8, 1)))
    assert box.paste(np.ones((8, 8)), (16, 8)).shape == (16, 8)


def test_outside_the_box_is_zero() -> None:
    box = Box(3, 4, 6, 6)
    found = box.paste(np.full((12, 12), 7.0), (15, 16))
    inside = np.zeros((15, 16), bool)
    inside[3:9, 4:10] = True
    assert found.dtype == np.float32
    assert found.shape == (15, 16)
    assert (found[~inside] == 0).all()
    np.testing.assert_allclose(found[inside], 7, rtol=1e-6)
    assert np.array_equal(box.paste_mask(np.ones((12, 12), bool), (15, 16)), inside)


@pytest.mark.parametrize("size", [2, 5, 10, 20])
def test_what_is_a_prepared_pixel_away_from_the_box_is_not_seen(size: int) -> None:
    # The kernel reaches half a prepared pixel over the edge, as it does between pixels inside.
    reach = max(1, 10 // size)
    native = np.full((40, 40), 1000.0)
    native[15 - reach : 25 + reach, 15 - reach : 25 + reach] = 1
    assert (Box(15, 15, 10, 10).resize(native, size) == 1).all()


# Squares


def test_square_without_margin_is_the_longer_side() -> None:
    assert square_around(organ_of((0, slice(8, 12), slice(10, 16))), 0.0) == Box(7, 10, 6, 6)


def test_margin_by_hand() -> None:
    # The longer side is 6: 6 x (1 + 2 x 0.25) = 9 pixels, centred.
    assert square_around(organ_of((0, slice(7, 13), slice(10, 16))), 0.25) == Box(5, 8, 9, 9)
    # 6 x 1.2 = 7.2 is rounded up.
    assert square_around(organ_of((0, slice(7, 13), slice(10, 16))), 0.1).height == 8


def test_all_slices_count() -> None:
    found = square_around(organ_of((0, slice(4, 6), slice(5, 7)), (3, slice(10, 12), slice(11, 13))), 0.0)
    assert found == Box(4, 5, 8, 8)


def test_at_the_border_it_is_pushed_inside_and_not_cut() -> None:
    assert square_around(organ_of((0, slice(0, 4), slice(0, 4))), 0.5) == Box(0, 0, 8, 8)
    assert square_around(organ_of((0, slice(16, 20), slice(26, 30))), 0.5) == Box(12, 22, 8, 8)


def test_where_no_square_fits_it_is_as_tall_as_the_slice() -> None:
    found = square_around(organ_of((0, slice(3, 5), slice(0, 28))), 0.0)
    assert found == Box(0, 0, 20, 28)
    assert square_around(organ_of((0, slice(0, 20), slice(0, 30))), 1.0) == Box(0, 0, 20, 30)


@st.composite
def masks(draw: st.DrawFn) -> np.ndarray:
    """Any rectangle and any further pixel in any slice."""
    height, width = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    mask = np.zeros((2, height, width), bool)
    top, left = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
    mask[0, top : draw(st.integers(top + 1, height)), left : draw(st.integers(left + 1, width))] = True
    mask[1, draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))] = True
    return mask


@settings(max_examples=150, deadline=None)
@given(mask=masks(), margin=st.floats(0, 2))
def test_box_is_inside_the_slice_and_around_the_mask(mask: np.ndarray, margin: float) -> None:
    box = square_around(mask, margin)
    height, width = mask.shape[1:]
    assert box.top >= 0
    assert box.left >= 0
    assert box.top + box.height <= height
    assert box.left + box.width <= width
    top, bottom, left, right = extent(mask)
    assert box.top <= top
    assert bottom <= box.top + box.height
    assert box.left <= left
    assert right <= box.left + box.width
    side = int(np.ceil(max(bottom - top, right - left) * (1 + 2 * margin)))
    assert (box.height, box.width) == (min(side, height), min(side, width))
    # As much room before as behind, unless the border is in the way.
    if box.top > 0 and box.top + box.height < height:
        assert abs((top - box.top) - (box.top + box.height - bottom)) <= 1
    if box.left > 0 and box.left + box.width < width:
        assert abs((left - box.left) - (box.left + box.width - right)) <= 1


@settings(max_examples=60, deadline=None)
@given(mask=masks(), margin=st.floats(0, 1), size=st.integers(1, 24))
def test_every_box_resizes_and_pastes(mask: np.ndarray, margin: float, size: int) -> None:
    box, native = square_around(mask, margin), mask[0]
    prepared = box.resize_mask(native, size)
    assert prepared.shape == (size, size)
    back = box.paste_mask(prepared, native.shape)
    assert back.shape == native.shape
    assert back.sum() <= box.height * box.width


# Cuts


def test_no_organ_means_every_slice_whole() -> None:
    found = list(cuts((3, 20, 30), [], SETTINGS))
    assert [(c.index, c.region, c.box, c.organ) for c in found] == [(z, -1, Box(0, 0, 20, 30), None) for z in range(3)]
    # The region of interest is that of an organ; without one there is nothing to crop to.
    assert list(cuts((3, 20, 30), [], replace(SETTINGS, roi="organ"))) == found


@pytest.mark.parametrize(("least", "kept"), [(3, [0, 1, 2]), (4, [1, 2]), (5, [2]), (6, [])])
def test_min_organ_px_at_its_edge(least: int, kept: list[int]) -> None:
    organ = organ_of((0, slice(5, 6), slice(5, 8)), (1, slice(5, 7), slice(5, 7)), (2, slice(5, 6), slice(5, 10)))
    assert [c.index for c in cuts(organ.shape, [organ], replace(SETTINGS, min_organ_px=least))] == kept  # type: ignore[arg-type]


def test_min_organ_px_zero_still_wants_one() -> None:
    organ = organ_of((2, slice(5, 6), slice(5, 6)))
    assert [c.index for c in cuts((4, 20, 30), [organ], replace(SETTINGS, min_organ_px=0))] == [2]


LEFT = organ_of((1, slice(4, 8), slice(2, 6)), (2, slice(4, 6), slice(2, 4)))
RIGHT = organ_of((2, slice(10, 14), slice(20, 26)))


def test_roi_none_keeps_the_whole_slice_once() -> None:
    found = list(cuts((4, 20, 30), [LEFT, RIGHT], SETTINGS))
    assert [(c.index, c.region, c.box) for c in found] == [(z, -1, Box(0, 0, 20, 30)) for z in (1, 2)]
    for c in found:
        assert c.organ is not None
        assert np.array_equal(c.organ, (LEFT | RIGHT)[c.index])


def test_pixels_of_all_regions_count_together_unless_each_is_cut() -> None:
    # Slice 2 has 4 pixels left and 24 right.
    def kept(roi: str, least: int) -> list[tuple[int, int]]:
        chosen = replace(SETTINGS, roi=roi, min_organ_px=least)  # type: ignore[arg-type]
        return [(c.index, c.region) for c in cuts((4, 20, 30), [LEFT, RIGHT], chosen)]

    assert kept("none", 28) == [(2, -1)]
    assert kept("organ", 28) == [(2, -1)]
    assert kept("each", 28) == []
    assert kept("each", 5) == [(1, 0), (2, 1)]


def test_roi_organ_is_one_square_around_all_slices_and_regions() -> None:
    found = list(cuts((4, 20, 30), [LEFT, RIGHT], replace(SETTINGS, roi="organ", roi_margin=0.0)))
    box = square_around(LEFT | RIGHT, 0.0)
    assert box == Box(0, 2, 20, 24)
    assert [(c.index, c.region, c.box) for c in found] == [(1, -1, box), (2, -1, box)]


def test_roi_each_is_one_square_around_each_region() -> None:
    found = list(cuts((4, 20, 30), [LEFT, RIGHT], replace(SETTINGS, roi="each", roi_margin=0.5)))
    assert [(c.index, c.region, c.box) for c in found] == [
        (1, 0, Box(2, 0, 8, 8)),
        (2, 0, Box(2, 0, 8, 8)),
        (2, 1, Box(6, 17, 12, 12)),
    ]
    assert np.array_equal(found[1].organ, LEFT[2])  # type: ignore[arg-type]
    assert np.array_equal(found[2].organ, RIGHT[2])  # type: ignore[arg-type]


@pytest.mark.parametrize("roi", ["none", "organ", "each"])
def test_an_absent_organ_has_no_cuts(roi: str) -> None:
    nothing, chosen = np.zeros((4, 20, 30), bool), replace(SETTINGS, roi=roi)  # type: ignore[arg-type]
    assert list(cuts((4, 20, 30), [nothing], chosen)) == []
    assert {c.region for c in cuts((4, 20, 30), [nothing, RIGHT], chosen)} == ({1} if roi == "each" else {-1})
