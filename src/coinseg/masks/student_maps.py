"""The student's maps: rescaled to their peak, joined with anomalous regions, cleaned."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy import ndimage

from coinseg.config.schema import MaskSettings

from .postprocess import peaks

LEVEL = 0.5
"""A pixel is inside when the student gives it more than this."""
FAINTEST = 0.04
"""A student that gives no pixel more than this sees nothing, whatever the classifiers say."""
HALO = 1 / 8
"""How far around a lesion places are novel because of it, as a share of the side."""
WIDE = 1 / 16
"""Radius of the disc that has to fit into a region outside of that, as a share of the side."""
SQUARE = np.ones((3, 3), bool)


def rescale_to_peak(maps: np.ndarray, called: np.ndarray, share: float) -> np.ndarray:
    """Maps of a student with those of images that are called abnormal brought up, so that `LEVEL` is a share of their own peak.

    A student that learnt from the masks that can be trusted is careful: it sees lesions unlike those and gives them less than a half. Where the
    classifiers say that there is one, the question is where, not whether. The share is less than a half because a map is the mean over an image and
    its mirror image: what one of the two is sure of has about a half, and on which side of it was chance (docs/decisions/0020-one-view.md).

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
    that alone: what opening takes from it are thin parts and small lesions (docs/decisions/0025-as-drawn.md).
    """
    return replace(settings, opening=0, closing=0, keep="all")


def beyond(novel: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """The connected novel regions that are more than the halo of what is drawn: a disc of `WIDE` fits in further than `HALO` from it.

    Args:
        novel: (B, S, S) bool. The disc has to fit into the image: between a small lesion and a corner its halo would seem wide.
        drawn: (B, S, S) bool, what the student marks.
    """
    kept, (halo, radius) = np.zeros_like(novel), (round(share * novel.shape[-1]) for share in (HALO, WIDE))
    for own, region, marked in zip(kept, novel, drawn, strict=True):
        if not region.any():
            continue
        rest = region & (ndimage.distance_transform_edt(~marked) > halo if marked.any() else True)
        seeds = ndimage.distance_transform_edt(np.pad(rest, 1))[1:-1, 1:-1] > radius
        labels = ndimage.label(region, SQUARE)[0]
        own |= region & np.isin(labels, np.unique(labels[seeds]))
    return kept


def add_anomalous_regions(maps: np.ndarray, novelty: np.ndarray, level: float) -> np.ndarray:
    """Maps of a student with the novel regions drawn in that go beyond what it marks.

    Args:
        maps: (B, S, S) in [0, 1].
        novelty: of the same images, (B, S, S).
        level: what a pixel inside exceeds.

    Returns:
        (B, S, S) in [0, 1], nowhere below `maps`.
    """
    regions = beyond(novelty > 1, maps > level)
    return np.maximum(maps, np.where(regions, np.clip(level * novelty, 0, 1), 0)).astype(maps.dtype)
