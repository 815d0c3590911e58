"""The student's maps: rescaled to their peak, joined with anomalous regions, cleaned."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from coinseg.config.schema import MaskSettings

from .postprocess import peaks

LEVEL = 0.5
"""A pixel is inside when the student gives it more than this."""
FAINTEST = 0.04
"""A student that gives no pixel more than this sees nothing, whatever the classifiers say."""


def rescale_to_peak(maps: np.ndarray, called: np.ndarray, share: float) -> np.ndarray:
    """Maps of a student with those of images that are called abnormal brought up, so that `LEVEL` is a share of their own peak.

    A student that learnt from the masks that can be trusted is careful: it sees lesions unlike those and gives them less than a half. Where the
    classifiers say that there is one, the question is where, not whether. The share is less than a half because a map is the mean over an image and
    its mirror image: what one of the two is sure of has about a half, and on which side of it was chance (docs/research/student.md, study 20).

    Args:
        maps: (B, S, S) in [0, 1].
        called: (B,) bool, the image is called abnormal (`posterior.py`).
        share: of the peak, in [0, 1]; 0 leaves the maps as they are, as `masks.peak` does.

    Returns:
        (B, S, S) in [0, 1]; as they are where an image is called normal, and where no pixel has more than `FAINTEST`.
    """
    highest = peaks(maps)
    lowered = np.where(called & (highest > FAINTEST) & (share > 0), np.clip(highest, None, 1) * share / LEVEL, 1)
    return np.minimum(maps / lowered[:, None, None], 1).astype(maps.dtype)


def student_cleaning(settings: MaskSettings) -> MaskSettings:
    """How the maps of a student become masks: all of what it draws, but for specks below `min_px`.

    A difference has to be opened, and its largest part taken, because a generator also changes what is no lesion. A student has learnt to leave
    that alone: what opening takes from it are thin parts and small lesions (docs/research/student.md, study 25).
    """
    return replace(settings, opening=0, closing=0, keep="all")
