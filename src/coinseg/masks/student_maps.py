"""Postprocessing of the student's maps: rescaling to the peak, anomalous regions, cleaning."""

from dataclasses import replace

import numpy as np

from coinseg.config.schema import MaskSettings

from .postprocess import peaks

LEVEL = 0.5  # A pixel of a student's map above this is inside
FAINTEST = 0.04  # A map with a peak of at most this is not rescaled


def rescale_to_peak(maps: np.ndarray, called: np.ndarray, share: float) -> np.ndarray:
    """Maps of a student, scaled up in images called abnormal, so that `LEVEL` is a share of each map's peak.

    The student gives unusual lesions low values, and half of them to a lesion it sees in one of image and mirror image only
    (docs/research/student.md, study 20). Maps with a peak of at most `FAINTEST` and images called normal are unchanged.

    Args:
        maps: (B, S, S) in [0, 1].
        called: (B,) bool, whether the image score calls the image abnormal.
        share: of the peak, in [0, 1]; 0 changes nothing.
    """
    highest = peaks(maps)
    lowered = np.where(called & (highest > FAINTEST) & (share > 0), np.clip(highest, None, 1) * share / LEVEL, 1)
    return np.minimum(maps / lowered[:, None, None], 1).astype(maps.dtype)


def student_cleaning(settings: MaskSettings) -> MaskSettings:
    """The settings with which a student's maps become masks: no opening or closing, all components of at least `min_px`.

    Opening would remove thin parts and small lesions; a student hardly marks normal tissue (docs/research/student.md, study 25).
    """
    return replace(settings, opening=0, closing=0, keep="all")
