"""The difference follows the edges of the image (guided filter)."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from coinseg.config.schema import MaskSettings

GUIDE_RADIUS = 4 / 96
"""Radius of the guided filter as a share of the side."""
GUIDE_EPS = 0.005
"""Variance of the image, on [0, 1], below which the guided filter simply averages."""


def guided_filter(values: np.ndarray, guide: np.ndarray, radius: int, eps: float = GUIDE_EPS) -> np.ndarray:
    """Smooth `values` but not across the edges of `guide` (He, Sun, Tang 2013).

    Args:
        values: (..., H, W).
        guide: the image in [0, 1], same shape.
        radius: of the square window, in pixels.
        eps: regularisation, in squared units of the guide.

    Returns:
        The local linear model of `values` in `guide`, same shape. A constant stays what it is.
    """

    def mean(a: np.ndarray) -> np.ndarray:
        side = 2 * radius + 1
        return ndimage.uniform_filter(a, size=(*[1] * (a.ndim - 2), side, side), mode="reflect")

    guide, values = guide.astype(np.float64), values.astype(np.float64)
    mean_guide, mean_values = mean(guide), mean(values)
    variance = mean(guide * guide) - mean_guide**2
    slope = (mean(guide * values) - mean_guide * mean_values) / (variance + eps)
    return mean(slope) * guide + mean(mean_values - slope * mean_guide)


def refine(saliency: np.ndarray, image: np.ndarray, settings: MaskSettings) -> np.ndarray:
    """The difference made to follow the edges of the image, when the settings ask for it.

    Args:
        saliency: (n, H, W) in [0, 1].
        image: (n, H, W) in [0, 1].
    """
    if settings.refine == "none":
        return saliency
    radius = max(1, round(GUIDE_RADIUS * image.shape[-1]))
    return np.clip(guided_filter(saliency, image, radius), 0, 1)
