"""From the difference |X - X_cf| to a mask: refine, threshold without masks, clean (thesis 3.7.3, 4.2)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from coinseg.config.schema import MaskSettings

IN_PLANE = ndimage.generate_binary_structure(3, 1) & (np.arange(3) == 1)[:, None, None]
"""Neighbours of a pixel within its image, not across a stack of images."""
SLAB = 16
"""Slices whose 3-D components are labelled together."""


def clean(masks: np.ndarray, settings: MaskSettings) -> np.ndarray:
    """Opening, closing, then the largest component or all that are large enough, in every image on its own.

    Args:
        masks: (H, W) or (n, H, W) bool; a stack is cleaned in one go, which is much faster than one by one.
        settings: opening, closing, keep and min_px are read.

    Returns:
        bool, the same shape.
    """
    stack = masks.reshape(-1, *masks.shape[-2:]).astype(bool)
    if settings.opening:
        stack = ndimage.binary_opening(stack, np.ones((1, settings.opening, settings.opening)))
    if settings.closing:
        # Padded, because the erosion of a closing would eat what touches the border.
        pad = settings.closing
        padded = np.pad(stack, ((0, 0), (pad, pad), (pad, pad)))
        stack = ndimage.binary_closing(padded, np.ones((1, pad, pad)))[:, pad:-pad, pad:-pad]
    components, count = ndimage.label(stack, IN_PLANE)
    if not count:
        return np.zeros_like(masks, dtype=bool)
    sizes = np.bincount(components.ravel())
    sizes[0] = 0
    kept = sizes >= settings.min_px
    if settings.keep == "largest":
        # Labels rise from image to image, so the largest of each is the first place of its greatest size.
        image_of = np.zeros(len(sizes), dtype=np.int64)
        where = np.flatnonzero(components)
        image_of[components.ravel()[where]] = where // stack[0].size
        order = np.lexsort((np.arange(len(sizes)), -sizes, image_of))
        order = order[order > 0]
        first = np.unique(image_of[order], return_index=True)[1]
        largest = np.zeros(len(sizes), bool)
        largest[order[first]] = True
        kept &= largest
    kept[0] = False
    return kept[components].reshape(masks.shape)


def clean_volume(mask: np.ndarray, voxel_ml: float, settings: MaskSettings) -> np.ndarray:
    """Drop 3-D components of a scan's mask: small ones, or all but the largest.

    Args:
        mask: (slices, H, W) bool; voxels that share a face, an edge or a corner are connected (26 neighbours).
        voxel_ml: volume of a voxel in millilitres.
        settings: min_ml and keep_3d are read.

    Returns:
        bool, the same shape; `mask` itself where nothing is asked. Of components equally large the first is the largest.
    """
    if not settings.min_ml and settings.keep_3d == "all":
        return mask
    sizes, component = _components(mask)
    volumes = np.bincount(component, sizes)
    keep = volumes * voxel_ml >= settings.min_ml
    if settings.keep_3d == "largest":
        keep &= np.arange(len(volumes)) == volumes.argmax()
    keep[0] = False
    kept = np.zeros_like(mask)
    for start, labels in _pieces(mask):
        kept[start : start + SLAB] = keep[component][labels[:SLAB]]
    return kept


def _pieces(mask: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """For every slab its first slice and the components in it, numbered on from slab to slab; 0 is the background.

    A slab is `SLAB` slices and the first of the next one. Labels of a whole large scan would take twice its memory.
    """
    highest = 0
    for start in range(0, len(mask), SLAB):
        labels, count = ndimage.label(mask[start : start + SLAB + 1], np.ones((3, 3, 3)))
        labels[labels > 0] += highest
        highest += count
        yield start, labels


def _components(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The voxels of every piece (see `_pieces`) and the 3-D component it belongs to: pieces are joined in the slice they share."""
    sizes, pairs, shared = np.zeros(1, np.int64), [np.zeros((2, 0), np.int64)], None
    for _, labels in _pieces(mask):
        counts = np.bincount(labels[:SLAB].ravel(), minlength=max(len(sizes), int(labels.max()) + 1))
        counts[: len(sizes)] += sizes
        sizes = counts
        if shared is not None:
            codes = np.unique(shared[shared > 0].astype(np.int64) * len(sizes) + labels[0][shared > 0])
            pairs.append(np.stack(np.divmod(codes, len(sizes))))
        shared = labels[-1]
    sizes[0] = 0
    one, other = np.concatenate(pairs, axis=1)
    graph = coo_array((np.ones(len(one), bool), (one, other)), shape=(len(sizes), len(sizes)))
    return sizes, connected_components(graph, directed=False)[1]


def peaks(refined: np.ndarray) -> np.ndarray:
    """The 99.9th percentile of each map, (n, H, W) -> (n,): its peak, but for a pixel or two."""
    return np.quantile(refined.reshape(len(refined), -1), 0.999, axis=1) if len(refined) else np.zeros(0)


def masks_of(refined: np.ndarray, threshold: float | np.ndarray, settings: MaskSettings, peak: float | None = None) -> np.ndarray:
    """Refined differences (n, H, W) -> clean masks (n, H, W) bool.

    A pixel is inside when it exceeds the threshold (what the generator changes in normal images) and a share of the peak
    of its own image: a strong change has a wide skirt, and one threshold for all images would mark the skirt of the
    strong ones or lose the weak ones. The thesis normalises its maps to [0, 1] before thresholding (4.2); this is that,
    with a floor.

    Args:
        refined: in [0, 1].
        threshold: the floor, see `choose_threshold`; or the level of each image, (n,), which is then not asked for its peak; nothing is inside where it is NaN.
        settings: of the cleaning; its `peak` is the share.
        peak: a share to use instead of the settings'.
    """
    levels = levels_of(refined, threshold, settings.peak if peak is None else peak)
    return clean(refined > levels[:, None, None], settings)


def levels_of(refined: np.ndarray, threshold: float | np.ndarray, share: float) -> np.ndarray:
    """What a pixel of each map (n, H, W) has to exceed, (n,): the threshold, and a share of the peak of its map; see `masks_of`."""
    return threshold if isinstance(threshold, np.ndarray) else np.maximum(threshold, share * peaks(refined))
