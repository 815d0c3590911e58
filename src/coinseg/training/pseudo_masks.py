"""Which masks of the ensemble the student learns from, and which of their pixels."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import ndimage
from torch import Tensor

from coinseg.config.schema import StudentSettings
from coinseg.data.slices.dataset import TrainingSlices
from coinseg.data.slices.student_data import PseudoMasks
from coinseg.masks.postprocess import IN_PLANE
from coinseg.runtime.devices import CHUNK

LEAST = 20
"""Trusted masks, or drawn lesions, below which there is nothing to learn from."""
IGNORED = 2
"""Of a target: a pixel that is not taught."""
Masks = Callable[[Tensor], tuple[np.ndarray, np.ndarray]]
"""Images (B, 1, S, S) in [-1, 1] -> masks (B, S, S) bool and how far to trust them, (B,); NaN where there is none."""


def ignored_band(masks: np.ndarray, band: int) -> np.ndarray:
    """Masks (n, S, S) bool as targets, with the pixels within `band` outside of a border left out; what is inside stays.

    Outside only: a small lesion has no inside to spare.
    """
    target = masks.astype(np.uint8)
    if band:
        near = ndimage.binary_dilation(masks, IN_PLANE, band)
        target[near & ~masks] = IGNORED
    return target


def collect_pseudo_masks(slices: TrainingSlices, masks: Masks, settings: StudentSettings) -> PseudoMasks:
    """The masks of training images that can be trusted; images f calls normal have none."""
    labels = slices.labels()
    members, targets = [], []
    abnormal = np.flatnonzero(labels == 1)
    for start in range(0, len(abnormal), CHUNK):
        chunk = abnormal[start : start + CHUNK]
        made, sure = masks(slices.batch(chunk).image)
        # An empty mask is no lesson, however little trust is asked for.
        trusted = made.any((1, 2)) & (np.nan_to_num(sure) >= settings.trust)
        members.append(chunk[trusted])
        targets.append(ignored_band(made[trusted], settings.band))
    side = slices.store.size
    empty = np.zeros((0, side, side), np.uint8)
    return PseudoMasks(
        np.concatenate([np.zeros(0, np.int64), *members]), np.concatenate([empty, *targets]), np.flatnonzero(labels == 0)
    )
