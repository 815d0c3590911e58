"""How far to trust a mask and its pixels, without any mask of an expert: is f sure, and does the mask stay where it is in the mirror?

    confidence = f(X) * Dice(mask of X, mask of mirrored X, mirrored back)

What the generator changes for reasons of its own differs between an image and its mirror image; what it changes because of a
lesion does not. Measured against the true overlap in docs/research/confidence.md, with what ranked worse. Of a pixel (docs/decisions/0003-masks-without-masks.md):

    confidence = min(1, map / (2 level))                                    1/2 at the border of the mask
"""

from __future__ import annotations

import numpy as np

from coinseg.metrics.overlap import dice

DOUBT = 0.5
"""Masks with less confidence should be looked at before anything is made of them."""


def agreement(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Dice of two stacks of masks, (n, H, W) bool each -> (n,) in [0, 1]; 0 where both are empty, as there is nothing to trust."""
    return np.array([dice(a, b) or 0.0 for a, b in zip(one, other, strict=True)])


def confidence(probability: np.ndarray, agreed: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """The confidence of masks, (n,) in [0, 1]; NaN where a mask is empty.

    Args:
        probability: f(X), (n,).
        agreed: see `agreement`, (n,).
        masks: (n, H, W) bool.
    """
    return np.where(masks.any((1, 2)), probability * agreed, np.nan)


def of_pixels(maps: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """How far to trust that a pixel is inside, float32 in [0, 1]: 0.5 at the border of the mask, 1 at twice its level.

    Args:
        maps: which the masks are read from, (n, H, W) in [0, 1].
        levels: which a pixel has to exceed there, (n,) (`masks.levels_of`); 0 everywhere where it is NaN.
    """
    return np.nan_to_num(np.minimum(maps / np.maximum(2 * levels[:, None, None], 1e-9), 1)).astype(np.float32)


def percent(sure: np.ndarray) -> np.ndarray:
    """Confidences of pixels in [0, 1] as they are written: uint8, 0 to 100."""
    return np.rint(100 * sure).astype(np.uint8)


def doubtful(confidence: float | None) -> bool | None:
    """Whether a mask is not to be trusted before somebody has looked at it; None where there is none, or nobody knows."""
    return None if confidence is None or not np.isfinite(confidence) else bool(confidence < DOUBT)


def of_scan(confidences: np.ndarray, pixels: np.ndarray) -> float | None:
    """The confidence of a scan's mask: the mean over its slices, each by its marked pixels; None where nothing is marked.

    Args:
        confidences: of the slices, (slices,); NaN where a slice has no mask.
        pixels: marked in each, (slices,).
    """
    known = np.isfinite(confidences) & (pixels > 0)
    return round(float(np.average(confidences[known], weights=pixels[known])), 4) if known.any() else None
