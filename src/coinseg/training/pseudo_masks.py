"""Pseudo-masks: which masks of the ensemble the student learns from, and which of their pixels."""

from collections.abc import Callable

import numpy as np
from scipy import ndimage
from torch import Tensor

from coinseg.config.schema import StudentSettings
from coinseg.data.slices.dataset import TrainingSlices
from coinseg.data.slices.student_data import IGNORED, PseudoMasks, ReviewedMasks
from coinseg.masks.postprocess import IN_PLANE
from coinseg.runtime.devices import CHUNK

LEAST = 20  # Pseudo-masks, or synthetic lesions, that are needed at least to learn from them
REVIEWED = 16  # times that a mask a person reviewed counts as much as a pseudo-mask (docs/research/reviewed.md)
Masks = Callable[[Tensor], tuple[np.ndarray, np.ndarray]]
"""Images (B, C, S, S) in [-1, 1] -> masks (B, S, S) bool and confidence (B,) in [0, 1], NaN where f calls the image normal."""


def ignored_band(masks: np.ndarray, band: int) -> np.ndarray:
    """Targets (n, S, S) uint8 of masks (n, S, S) bool; pixels up to `band` pixels outside a mask are `IGNORED`."""
    target = masks.astype(np.uint8)
    if band:
        target[ndimage.binary_dilation(masks, IN_PLANE, band) & ~masks] = IGNORED
    return target


def collect_pseudo_masks(
    slices: TrainingSlices, masks: Masks, settings: StudentSettings, reviewed: ReviewedMasks | None = None
) -> PseudoMasks:
    """Ask for the masks of the training images labelled abnormal, but those that a person reviewed; keep those that are trusted.

    Args:
        slices: the training side; images and image labels.
        masks: see `Masks`.
        settings: trust and band are read.
        reviewed: of these slices, see `with_reviewed`.
    """
    labels, side = labels_alone(slices, reviewed), slices.store.size
    abnormal = np.flatnonzero(labels == 1)
    indices, targets = [np.zeros(0, np.int64)], [np.zeros((0, side, side), np.uint8)]
    for start in range(0, len(abnormal), CHUNK):
        chunk = abnormal[start : start + CHUNK]
        mask, confidence = masks(slices.batch(chunk).image)
        # An empty mask is no lesion, however little confidence is required.
        trusted = mask.any((1, 2)) & (np.nan_to_num(confidence) >= settings.trust)
        indices.append(chunk[trusted])
        targets.append(ignored_band(mask[trusted], settings.band))
    return PseudoMasks(np.concatenate(indices), np.concatenate(targets), np.flatnonzero(labels == 0))


def labels_alone(slices: TrainingSlices, reviewed: ReviewedMasks | None) -> np.ndarray:
    """The labels of slices (n,), -1 where a reviewed mask says more than the label."""
    labels = slices.labels()
    return labels if reviewed is None else np.where(np.isin(slices.rows, reviewed.rows), -1, labels)


def most_masks(slices: TrainingSlices, reviewed: ReviewedMasks | None) -> int:
    """How many masks a student can learn from at most, each reviewed one `REVIEWED` times."""
    marked = 0 if reviewed is None else int(reviewed.targets.any((1, 2)).sum())
    return int((labels_alone(slices, reviewed) == 1).sum()) + REVIEWED * marked


def with_reviewed(pseudo_masks: PseudoMasks, slices: TrainingSlices, reviewed: ReviewedMasks | None) -> PseudoMasks:
    """Pseudo-masks of slices that nobody reviewed, and the reviewed masks, each of which counts `REVIEWED` times.

    A reviewed slice with nothing in it is a normal one, whatever its label.

    Args:
        pseudo_masks: see `collect_pseudo_masks`.
        slices: of both, see `TrainingSlices.with_rows`.
        reviewed: None where there are none.
    """
    if reviewed is None:
        return pseudo_masks
    indices, marked = np.searchsorted(slices.rows, reviewed.rows), reviewed.targets.any((1, 2))
    drawn, empty = (np.tile(indices[which], REVIEWED) for which in (marked, ~marked))
    return PseudoMasks(
        np.concatenate([pseudo_masks.indices, drawn]),
        np.concatenate([pseudo_masks.targets, np.tile(reviewed.targets[marked], (REVIEWED, 1, 1))]),
        np.concatenate([pseudo_masks.normals, empty]),
    )
