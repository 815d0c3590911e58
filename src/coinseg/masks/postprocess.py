"""From a refined difference |X - X_cf| to a clean mask: level, morphology, connected components (thesis 3.7.3, 4.2)."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from coinseg.config.schema import MaskSettings

IN_PLANE = ndimage.generate_binary_structure(3, 1) & (np.arange(3) == 1)[:, None, None]
"""Connectivity of a stack of images: the 4 neighbours of a pixel in its own image."""
SLAB = 16  # Number of slices whose 3-D components are labelled together
SEED = 0.7  # of the highest value of an image, which a component must reach somewhere (docs/research/student.md, study 32)


def clean(masks: np.ndarray, settings: MaskSettings) -> np.ndarray:
    """Binary opening, closing, and removal of small components (or all but the largest) of masks ((n,) H, W) bool, by image."""
    stack = masks.reshape(-1, *masks.shape[-2:]).astype(bool)
    if settings.opening:
        stack = _by_square(ndimage.binary_dilation, _by_square(ndimage.binary_erosion, stack, settings.opening), settings.opening)
    if settings.closing:
        # Padded, because the erosion of a closing would remove pixels at the image border.
        pad = settings.closing
        padded = np.pad(stack, ((0, 0), (pad, pad), (pad, pad)))
        closed = _by_square(ndimage.binary_erosion, _by_square(ndimage.binary_dilation, padded, pad), pad)
        stack = closed[:, pad:-pad, pad:-pad]
    # Measured on 1000 images of 96 x 96: MONAI's get_largest_connected_component_mask takes 3 times as long, one image at a
    # time, and of components of equal size it keeps another one.
    components, count = ndimage.label(stack, IN_PLANE)
    if not count:
        return np.zeros_like(masks, dtype=bool)
    sizes = np.bincount(components.ravel())
    sizes[0] = 0
    kept = sizes >= settings.min_px
    if settings.keep == "largest":  # of equal sizes the first label
        image_of = _images_of(components, len(sizes))
        order = np.lexsort((-sizes, image_of))
        largest = order[np.unique(image_of[order], return_index=True)[1]]
        kept &= np.isin(np.arange(len(sizes)), largest)
    kept[0] = False
    return kept[components].reshape(masks.shape)


def _images_of(components: np.ndarray, count: int) -> np.ndarray:
    """The image of each label (count,) of components (n, H, W), which rise from image to image; label 0 is outside."""
    last_label = np.maximum.accumulate(components.reshape(len(components), -1).max(1))
    return np.searchsorted(last_label, np.arange(count))


def with_seeds(masks: np.ndarray, refined: np.ndarray) -> np.ndarray:
    """The components of masks that reach `SEED` of the highest value of their image's components, by faces of pixels.

    It is hysteresis thresholding (Canny 1986, VIII): how far a part extends is decided at the level of the mask, whether it is
    one at a higher level. The thesis keeps the largest part (3.7.3), which loses all others where an image has several lesions.

    Args:
        masks: (n, H, W) bool; not modified.
        refined: the maps they were read from, (n, H, W).
    """
    components, count = ndimage.label(masks, IN_PLANE)
    if not count:
        return masks.copy()
    highest = np.concatenate([[0.0], ndimage.maximum(refined, components, np.arange(1, count + 1))])
    image_of, best = _images_of(components, count + 1), np.zeros(len(masks))
    np.maximum.at(best, image_of[1:], highest[1:])
    kept = highest >= SEED * best[image_of]
    kept[0] = False
    return np.asarray(kept[components])


def _by_square(operation: Callable[..., np.ndarray], stack: np.ndarray, side: int) -> np.ndarray:
    """Dilation or erosion of images (n, H, W) by a square: along columns, then along rows, which is the same.

    SciPy needs memory for the pixels of a structure times itself, which for a large square is gigabytes.
    """
    for shape in ((1, side, 1), (1, 1, side)):
        stack = operation(stack, np.ones(shape))
    return stack


def scaled(settings: MaskSettings, factor: float) -> MaskSettings:
    """The same cleaning of masks whose pixels are `factor` times as many along each axis; what is on stays on."""
    opening, closing = (max(1, round(side * factor)) if side else 0 for side in (settings.opening, settings.closing))
    return replace(settings, opening=opening, closing=closing, min_px=round(settings.min_px * factor**2))


def clean_volume(mask: np.ndarray, voxel_ml: float, settings: MaskSettings) -> np.ndarray:
    """Remove small 3-D components of a scan's mask, or all but the largest, of equal ones the first; 26 neighbours are connected.

    Args:
        mask: (slices, H, W) bool; returned itself where the settings keep everything.
        voxel_ml: volume of a voxel in millilitres.
        settings: min_ml and keep_3d are read.
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
    """First slice and component labels (0: background) of every slab: `SLAB` slices and the first slice of the next slab."""
    highest = 0
    for start in range(0, len(mask), SLAB):
        labels, count = ndimage.label(mask[start : start + SLAB + 1], np.ones((3, 3, 3)))
        labels[labels > 0] += highest
        highest += count
        yield start, labels


def _components(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Voxels and 3-D component of every label of `_pieces`; slabs are joined in the slice they share."""
    sizes, pairs, shared = np.zeros(1, np.int64), [np.zeros((2, 0), np.int64)], None
    for _, labels in _pieces(mask):
        counts = np.bincount(labels[:SLAB].ravel(), minlength=len(sizes))
        counts[: len(sizes)] += sizes
        sizes = counts
        if shared is not None:
            codes = np.unique(shared[shared > 0].astype(np.int64) * len(sizes) + labels[0][shared > 0])
            pairs.append(np.stack(np.divmod(codes, len(sizes))))
        shared = labels[-1]
    sizes[0] = 0
    lower, upper = np.concatenate(pairs, axis=1)
    graph = coo_array((np.ones(len(lower), bool), (lower, upper)), shape=(len(sizes), len(sizes)))
    return sizes, connected_components(graph, directed=False)[1]


def peaks(refined: np.ndarray) -> np.ndarray:
    """The peak of each map: its 99.9th percentile, (n, H, W) -> (n,)."""
    return np.quantile(refined.reshape(len(refined), -1), 0.999, axis=1) if len(refined) else np.zeros(0)


def masks_of(refined: np.ndarray, threshold: float | np.ndarray, settings: MaskSettings, peak: float | None = None) -> np.ndarray:
    """Clean masks (n, H, W) bool of refined differences: `clean`(refined > level), the level from `levels_of`.

    Args:
        refined: (n, H, W) in [0, 1].
        threshold: see `choose_threshold`; or the level of each image, (n,); where it is NaN, the mask is empty.
        settings: opening, closing, keep, min_px and peak are read.
        peak: share of the peak, instead of that of the settings.
    """
    levels = levels_of(refined, threshold, settings.peak if peak is None else peak)
    masks = clean(refined > levels[:, None, None], settings)
    return with_seeds(masks, refined) if settings.keep == "seeds" else masks


def levels_of(refined: np.ndarray, threshold: float | np.ndarray, share: float) -> np.ndarray:
    """The level of each map, (n,): max(threshold, share * peak of the map), as strong changes are also wide (thesis 4.2).

    Args:
        refined: (n, H, W) in [0, 1].
        threshold: on the difference; or levels (n,), which are returned as they are.
        share: of the peak, in [0, 1].
    """
    return threshold if isinstance(threshold, np.ndarray) else np.maximum(threshold, share * peaks(refined))
