"""Confidence of masks and of their pixels, computed without any lesion mask (docs/research/confidence.md).

mask:  confidence = f(X) * Dice(mask of X, mask of mirrored X, mirrored back)
pixel: confidence = min(1, map / (2 level)), 1/2 at the border of the mask (docs/decisions/0003-masks-without-masks.md)
"""

import numpy as np

from coinseg.metrics.overlap import dice

DOUBT = 0.5  # Masks of less confidence are reported as doubtful; of what is unlike the training it is this times as high


def agreement(masks: np.ndarray, mirrored: np.ndarray) -> np.ndarray:
    """Dice of pairs of masks, (n, H, W) bool each -> (n,) in [0, 1]; 0 where both are empty."""
    return np.array([dice(*pair) or 0.0 for pair in zip(masks, mirrored, strict=True)])


def confidence(probability: np.ndarray, agreed: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Confidence of masks (n, H, W), f(X) * `agreement`: (n,) in [0, 1]; NaN where a mask is empty."""
    return np.where(masks.any((1, 2)), probability * agreed, np.nan)


def of_pixels(maps: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Confidence of pixels (n, H, W): min(1, map / (2 level)), float32 in [0, 1]; 0 where the level of a map, (n,), is NaN."""
    return np.nan_to_num(np.minimum(maps / np.maximum(2 * levels[:, None, None], 1e-9), 1)).astype(np.float32)


def percent(sure: np.ndarray) -> np.ndarray:
    """Confidences of pixels in [0, 1] as they are stored: uint8, 0 to 100."""
    return np.rint(100 * sure).astype(np.uint8)


def doubtful(confidence: float | None) -> bool | None:
    """Whether a confidence is below `DOUBT`; None where it is None or NaN."""
    return None if confidence is None or not np.isfinite(confidence) else bool(confidence < DOUBT)


def of_scan(confidences: np.ndarray, pixels: np.ndarray) -> float | None:
    """Confidence of a scan's mask: the mean over slices, weighted by marked pixels; None where nothing is marked."""
    known = np.isfinite(confidences) & (pixels > 0)
    return round(float(np.average(confidences[known], weights=pixels[known])), 4) if known.any() else None
