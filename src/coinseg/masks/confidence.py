"""Confidence of masks and of their pixels, computed without any lesion mask (docs/research/confidence.md).

pixel: confidence = min(1, map / (2 level)), 1/2 at the border of the mask (docs/decisions/0003-masks-without-masks.md)
mask:  confidence = f(X) * mean of Dice(mask of X, mask of mirrored X, mirrored back), Dice(mask, confidence of its pixels) and
       Dice(mask, mask of the difference |X - X_cf|); the last is 1 without a student
"""

import numpy as np

from coinseg.metrics.overlap import dice

DOUBT = 0.5  # Masks of less confidence are reported as doubtful; of what is unlike the training it is this times as high


def agreement(masks: np.ndarray, mirrored: np.ndarray) -> np.ndarray:
    """Dice of pairs of masks, (n, H, W) bool each -> (n,) in [0, 1]; 0 where both are empty."""
    return np.array([dice(*pair) or 0.0 for pair in zip(masks, mirrored, strict=True)])


def expected_dice(sure: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Dice of masks (n, H, W) and the confidences of their pixels as soft masks, 2 sum(c m) / (sum c + sum m): (n,) in [0, 1].

    Were c the probability that a pixel is inside, it would be about the Dice to expect. 0 where both are empty.
    """
    inside = np.where(masks, sure, 0).sum((1, 2), dtype=np.float64)
    whole = sure.sum((1, 2), dtype=np.float64) + masks.sum((1, 2))
    return np.asarray(2 * inside / np.maximum(whole, 1e-9))


def mean_agreement(
    masks: np.ndarray, sure: np.ndarray, mirrored: np.ndarray, difference: np.ndarray | float = 1.0
) -> np.ndarray:  # fmt: skip
    """The mean of how far three opinions agree with masks, (n,) in [0, 1].

    Args:
        masks: (n, H, W) bool.
        sure: the confidences of their pixels, (n, H, W) in [0, 1].
        mirrored: Dice of the masks of an image and of its mirror image, (n,).
        difference: Dice of the masks and those of the difference |X - X_cf|, (n,); 1 where they are those.
    """
    return np.asarray((mirrored + expected_dice(sure, masks) + difference) / 3)


def confidence(probability: np.ndarray, agreed: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Confidence of masks (n, H, W): f(X) times how far all that is known agrees with them, (n,); NaN where a mask is empty."""
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
