"""Postprocessing of the student's maps: rescaling to the peak, anomalous regions, cleaning."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy import ndimage

from coinseg.config.schema import MaskSettings

from .postprocess import peaks

LEVEL = 0.5
"""A pixel of a student's map above this is inside."""
FAINTEST = 0.04
"""A map with a peak of at most this is not rescaled."""
HALO = 1 / 8
"""Distance from a lesion up to which the anomaly score is high because of it, as a share of the side."""
WIDE = 1 / 16
"""Radius of the disc that must fit into a region beyond that distance, as a share of the side."""
SQUARE = np.ones((3, 3), bool)


def rescale_to_peak(maps: np.ndarray, called: np.ndarray, share: float) -> np.ndarray:
    """Maps of a student, scaled up in images called abnormal, so that `LEVEL` is a share of each map's peak.

    The student gives lesions that are unlike its training masks low values, often below 1/2. Where the image is called abnormal,
    only their position is in question. The share is below 1/2, because a map is the mean over an image and its mirror image, and
    a lesion that the student sees in one of the two has about 1/2 (docs/decisions/0020-one-view.md).

    Args:
        maps: (B, S, S) in [0, 1].
        called: (B,) bool, whether the image score calls the image abnormal.
        share: of the peak, in [0, 1]; 0 changes nothing.

    Returns:
        (B, S, S) in [0, 1]; unchanged in images called normal and where the peak is at most `FAINTEST`.
    """
    highest = peaks(maps)
    lowered = np.where(called & (highest > FAINTEST) & (share > 0), np.clip(highest, None, 1) * share / LEVEL, 1)
    return np.minimum(maps / lowered[:, None, None], 1).astype(maps.dtype)


def student_cleaning(settings: MaskSettings) -> MaskSettings:
    """The settings with which a student's maps become masks: no opening or closing, all components of at least `min_px`.

    A difference is opened and reduced to its largest component, because a generator also changes normal tissue. A student hardly
    marks that, and opening would remove thin parts and small lesions (docs/decisions/0025-as-drawn.md).
    """
    return replace(settings, opening=0, closing=0, keep="all")


def beyond(novel: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """The components of anomalous pixels into which a disc of radius `WIDE` fits, farther than `HALO` from the student's mask.

    Args:
        novel: anomalous pixels, (B, S, S) bool. The disc must lie inside the image, or the halo of a small lesion near a corner
            would count.
        drawn: the student's masks, (B, S, S) bool.

    Returns:
        (B, S, S) bool.
    """
    kept, (halo, radius) = np.zeros_like(novel), (round(share * novel.shape[-1]) for share in (HALO, WIDE))
    for i in np.flatnonzero(novel.any((1, 2))):
        rest = novel[i] & (ndimage.distance_transform_edt(~drawn[i]) > halo if drawn[i].any() else True)
        seeds = ndimage.distance_transform_edt(np.pad(rest, 1))[1:-1, 1:-1] > radius
        labels = ndimage.label(novel[i], SQUARE)[0]
        kept[i] = novel[i] & np.isin(labels, np.unique(labels[seeds]))
    return kept


def add_anomalous_regions(maps: np.ndarray, novelty: np.ndarray, level: float) -> np.ndarray:
    """Maps of a student with the anomalous regions of `beyond` added.

    Args:
        maps: (B, S, S) in [0, 1].
        novelty: anomaly scores of the same images, (B, S, S), at least 0; above 1 is anomalous.
        level: a pixel of a map above it is inside.

    Returns:
        (B, S, S) in [0, 1], nowhere below `maps`.
    """
    regions = beyond(novelty > 1, maps > level)
    return np.maximum(maps, np.where(regions, np.clip(level * novelty, 0, 1), 0)).astype(maps.dtype)
