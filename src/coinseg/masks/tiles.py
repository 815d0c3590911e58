"""Tiles of one slice joined on its own grid, without seams (docs/decisions/0010-any-size.md).

blend:  v(p) = sum_i w_i(p) v_i(p) / sum_i w_i(p) over the tiles i that show pixel p,   w = sin^2 across times sin^2 down
mask:   clean(blended confidence of the pixels > 1/2), as each tile's own mask is where its confidence is above 1/2
"""

from collections.abc import Iterable

import numpy as np

from coinseg.config.schema import MaskSettings

from .postprocess import masks_of, scaled

Piece = tuple[slice, slice, np.ndarray]
"""Rows and columns of a slice, and values there, (rows, columns): what `data.slices.crop.Box.part` gives of a tile."""


def window(length: int) -> np.ndarray:
    """How much each pixel along a tile counts, (length,) above 0: sin^2, as most is seen around its middle."""
    return np.asarray(np.sin(np.pi * (np.arange(length) + 0.5) / length) ** 2, np.float32)


def blended(pieces: Iterable[Piece], shape: tuple[int, int]) -> np.ndarray:
    """The mean over all tiles that show a pixel, by `window`, (H, W) float32; 0 where no tile is."""
    total, weight = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    for rows, columns, values in pieces:
        counts = window(values.shape[0])[:, None] * window(values.shape[1])
        total[rows, columns] += counts * values
        weight[rows, columns] += counts
    return np.divide(total, weight, out=total, where=weight > 0)


def joined_mask(sure: np.ndarray, settings: MaskSettings, factor: float) -> np.ndarray:
    """The mask (H, W) bool of blended confidences of pixels, (H, W) in [0, 1].

    Args:
        sure: see `confidence.of_pixels`: levels differ from tile to tile, the confidence is 1/2 at all of them.
        settings: opening, closing, keep and min_px are read, in prepared pixels; they are those of the whole slice.
        factor: native pixels along a prepared pixel.
    """
    return masks_of(sure[None], np.full(1, 0.5), scaled(settings, factor))[0]
