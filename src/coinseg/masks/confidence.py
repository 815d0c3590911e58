"""Confidence of masks and of their pixels, computed without any lesion mask.

    mask:  confidence = f(X) * Dice(mask of X, mask of mirrored X, mirrored back)
    pixel: confidence = min(1, map / (2 level)), 1/2 at the border of the mask (docs/decisions/0003-masks-without-masks.md)

A change that the generator makes because of a lesion is the same in the mirror image, other changes are not. How well the
confidence ranks masks by their overlap with the truth: docs/research/confidence.md.
"""

import numpy as np

from coinseg.metrics.overlap import dice

DOUBT = 0.5  # Masks of less confidence are reported as doubtful


def agreement(masks: np.ndarray, mirrored: np.ndarray) -> np.ndarray:
    """Dice of pairs of masks, (n, H, W) bool each -> (n,) in [0, 1]; 0 where both are empty."""
    return np.array([dice(*pair) or 0.0 for pair in zip(masks, mirrored, strict=True)])


def confidence(probability: np.ndarray, agreed: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Confidence of masks, f(X) * agreement: (n,) in [0, 1]; NaN where a mask is empty.

    Args:
        probability: f(X), (n,).
        agreed: see `agreement`, (n,).
        masks: (n, H, W) bool.
    """
    return np.where(masks.any((1, 2)), probability * agreed, np.nan)


def of_pixels(maps: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Confidence of pixels, min(1, map / (2 level)): float32 in [0, 1].

    Args:
        maps: that the masks are thresholded from, (n, H, W) in [0, 1].
        levels: their thresholds, (n,), see `levels_of`; where one is NaN, the confidence is 0.
    """
    return np.nan_to_num(np.minimum(maps / np.maximum(2 * levels[:, None, None], 1e-9), 1)).astype(np.float32)


def percent(sure: np.ndarray) -> np.ndarray:
    """Confidences of pixels in [0, 1] as they are stored: uint8, 0 to 100."""
    return np.rint(100 * sure).astype(np.uint8)


def doubtful(confidence: float | None) -> bool | None:
    """Whether a confidence is below `DOUBT`; None where it is None or NaN."""
    return None if confidence is None or not np.isfinite(confidence) else bool(confidence < DOUBT)


def of_scan(confidences: np.ndarray, pixels: np.ndarray) -> float | None:
    """Confidence of a scan's mask: the mean over slices, weighted by marked pixels; None where nothing is marked.

    Args:
        confidences: of the slices, (slices,); NaN where a slice has no mask.
        pixels: marked in each, (slices,).
    """
    known = np.isfinite(confidences) & (pixels > 0)
    return round(float(np.average(confidences[known], weights=pixels[known])), 4) if known.any() else None
