"""Tiles joined on the grid of their slice: weights, means and the cleaning by hand."""

from __future__ import annotations

import numpy as np
import pytest

from coinseg.config.schema import MaskSettings
from coinseg.masks.tiles import blended, joined_mask, window


def test_a_tile_counts_by_the_squared_sine_of_its_middles() -> None:
    assert window(4).tolist() == pytest.approx([0.146447, 0.853553, 0.853553, 0.146447], abs=1e-6)
    assert window(1).tolist() == [1.0]
    assert window(3).dtype == np.float32


def test_where_two_tiles_show_a_pixel_their_weighted_mean_counts_and_nothing_where_none_is() -> None:
    """Two tiles of 4 columns that share two: weights 0.85 and 0.15, then 0.15 and 0.85."""
    pieces = [(slice(0, 1), slice(0, 4), np.full((1, 4), 1.0)), (slice(0, 1), slice(2, 6), np.full((1, 4), 3.0))]
    found = blended(pieces, (2, 7))
    assert found[0].tolist() == pytest.approx([1, 1, 1 + 2 * 0.146447, 3 - 2 * 0.146447, 3, 3, 0], abs=1e-5)
    assert not found[1].any()
    assert found.dtype == np.float32


def test_a_joined_mask_is_above_a_half_and_cleaned_as_a_slice_of_that_many_pixels() -> None:
    sure = np.zeros((12, 12))
    sure[1:5, 1:5], sure[7:10, 7:10], sure[11] = 0.51, 0.9, 0.5
    settings = MaskSettings(opening=0, closing=0, keep="all", min_px=4)
    assert (joined_mask(sure, settings, 1.0) == (sure > 0.5)).all()
    assert joined_mask(sure, settings, 2.0).sum() == 16  # 4 prepared pixels are 16 here, and the other has 9
