"""Tools that change a mask as a whole or a slice of it: pure functions of masks, (slices, H, W) bool in the plane that is seen.

`where` is the index of the slice, or None for all of them.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from coinseg.errors import UserError
from coinseg.types import ScanMask

ALL_AROUND = np.ones((3, 3, 3), bool)
CROSS = np.array([[[0, 1, 0], [1, 1, 1], [0, 1, 0]]], bool)


def threshold(mask: ScanMask, confidence: np.ndarray, percent: float, where: int | None) -> ScanMask:
    """The mask of all voxels whose confidence is `percent` or more; 50 is the border of the draft."""
    part = _part(where)
    after = mask.copy()
    after[part] = confidence[part] >= percent
    return after


def grow(mask: ScanMask, pixels: int, where: int | None) -> ScanMask:
    """Grow by so many pixels within each slice; a negative number shrinks."""
    after = mask.copy()
    part = _part(where)
    if pixels > 0:
        after[part] = ndimage.binary_dilation(mask[part], CROSS, iterations=pixels)
    elif pixels < 0:
        after[part] = ndimage.binary_erosion(mask[part], CROSS, iterations=-pixels, border_value=True)
    return after


def fill_holes(mask: ScanMask, where: int | None) -> ScanMask:
    """Fill what is enclosed within each slice."""
    after = mask.copy()
    for index in range(len(mask)) if where is None else (where,):
        if mask[index].any():
            after[index] = ndimage.binary_fill_holes(mask[index])
    return after


def fill_at(mask: ScanMask, where: int, row: int, column: int) -> ScanMask:
    """Fill the enclosed ground around a pixel of a slice; `UserError` where it is open to the border."""
    labels, _ = ndimage.label(~mask[where])
    number = labels[row, column]
    if number == 0:
        return mask.copy()
    edges = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    if number in edges:
        raise UserError("that place is not enclosed", "a closed outline around it", "close the outline with the brush")
    after = mask.copy()
    after[where] |= labels == number
    return after


def without_component(mask: ScanMask, where: int, row: int, column: int, whole: bool) -> ScanMask:
    """Remove the component that a pixel of a slice belongs to: in all slices, or only there."""
    after = mask.copy()
    if not mask[where, row, column]:
        raise UserError("there is no mask at that place", "a pixel of the component", "click on the component")
    if not whole:
        labels, _ = ndimage.label(mask[where], ALL_AROUND[0])
        after[where] &= labels != labels[row, column]
        return after
    (box,) = ndimage.find_objects(mask.view(np.uint8))
    labels, _ = ndimage.label(mask[box], ALL_AROUND)
    inside = tuple(at - side.start for at, side in zip((where, row, column), box, strict=True))
    after[box] &= labels != labels[inside]
    return after


def cleared(mask: ScanMask, where: int | None) -> ScanMask:
    """Nothing in a slice, or nowhere."""
    after = mask.copy()
    after[_part(where)] = False
    return after


def interpolated(mask: ScanMask, first: int, last: int) -> ScanMask:
    """Draw the slices between two, shape by shape: zero level of the weighted signed distances to both outlines.

    `UserError` where the two are neighbours, or one of them is empty.
    """
    first, last = sorted((first, last))
    if last - first < 2:
        raise UserError(f"slices {first + 1} and {last + 1} are neighbours", "slices between them", "correct two that lie apart")
    if not (mask[first].any() and mask[last].any()):
        raise UserError("one of the two slices has no mask", "a mask in both", "draw it first")
    # A margin of background, for the distance to what is outside.
    near, far = (_signed_distance(mask[index]) for index in (first, last))
    after = mask.copy()
    for index in range(first + 1, last):
        share = (index - first) / (last - first)
        after[index] = (1 - share) * near + share * far > 0
    return after


def _signed_distance(mask: np.ndarray) -> np.ndarray:
    """Distance in pixels to the outline, half a pixel off the border pixels: positive inside, negative outside."""
    inside = np.asarray(ndimage.distance_transform_edt(np.pad(mask, 1)))[1:-1, 1:-1]
    outside = np.asarray(ndimage.distance_transform_edt(~mask))
    return np.where(mask, inside - 0.5, 0.5 - outside)


def _part(where: int | None) -> slice:
    return slice(None) if where is None else slice(where, where + 1)
