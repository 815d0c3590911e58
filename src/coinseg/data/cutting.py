"""From a scan or an image to square slices of one size, and back (thesis 4: resize, bilinear).

The same cuts are made for training and for segmenting a new scan, so a mask always finds its way back.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from ..config import DataSettings


@dataclass(frozen=True)
class Box:
    """A rectangle of a native slice, in pixels, always inside the slice."""

    top: int
    left: int
    height: int
    width: int

    def resize(self, native: np.ndarray, size: int) -> np.ndarray:
        """Native slice (H, W) -> float32 (size, size) of this box: bilinear, averaging where it shrinks."""
        image = Image.fromarray(np.ascontiguousarray(native, dtype=np.float32))
        corners = (self.left, self.top, self.left + self.width, self.top + self.height)
        return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR, box=corners))

    def resize_mask(self, native: np.ndarray, size: int) -> np.ndarray:
        """Native mask (H, W) -> bool (size, size): inside where at least half of a pixel is."""
        return self.resize(native, size) >= 0.5

    def paste(self, values: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
        """Prepared values (size, size) -> float32 native slice `shape`, 0 outside this box."""
        native = np.zeros(shape, dtype=np.float32)
        image = Image.fromarray(np.ascontiguousarray(values, dtype=np.float32))
        resized = image.resize((self.width, self.height), Image.Resampling.BILINEAR)
        native[self.top : self.top + self.height, self.left : self.left + self.width] = np.asarray(resized)
        return native

    def paste_mask(self, mask: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
        """Prepared mask (size, size) -> bool native slice `shape`."""
        return self.paste(mask, shape) >= 0.5


@dataclass(frozen=True)
class Cut:
    """One square slice of a case: where it lies, nothing read yet.

    Args:
        index: slice index in the canonical volume; 0 for a plain image.
        region: which organ region it belongs to; -1 for all together.
        box: the part of the native slice that is resized.
        organ: the organ in the native slice, (H, W), or None.
    """

    index: int
    region: int
    box: Box
    organ: np.ndarray | None


def square_around(mask: np.ndarray, margin: float) -> Box:
    """The square box around a mask (slices, H, W), with room around it, pushed inside the slice."""
    height, width = mask.shape[1:]
    rows = np.flatnonzero(mask.any((0, 2)))
    columns = np.flatnonzero(mask.any((0, 1)))
    tall, wide = rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1
    side = int(np.ceil(max(tall, wide) * (1 + 2 * margin)))
    side_y, side_x = min(side, height), min(side, width)
    top = int(np.clip((rows[0] + rows[-1] + 1 - side_y) // 2, 0, height - side_y))
    left = int(np.clip((columns[0] + columns[-1] + 1 - side_x) // 2, 0, width - side_x))
    return Box(top, left, side_y, side_x)


def cuts(shape: tuple[int, int, int], organs: Sequence[np.ndarray], settings: DataSettings) -> Iterator[Cut]:
    """The slices of a case that are used (thesis 4: at least `min_organ_px` organ pixels at native size).

    Args:
        shape: slices, height and width of the canonical volume; a plain image has one slice.
        organs: one mask of that shape for each organ region; without any, every slice is used whole.
        settings: roi, roi_margin and min_organ_px are read.
    """
    whole = Box(0, 0, shape[1], shape[2])
    if not organs:
        yield from (Cut(z, -1, whole, None) for z in range(shape[0]))
        return
    together = np.logical_or.reduce(list(organs))
    regions = list(enumerate(organs)) if settings.roi == "each" else [(-1, together)]
    for region, mask in regions:
        if not mask.any():
            continue
        box = whole if settings.roi == "none" else square_around(mask, settings.roi_margin)
        pixels = mask.sum((1, 2))
        yield from (Cut(int(z), region, box, mask[z]) for z in np.flatnonzero(pixels >= max(settings.min_organ_px, 1)))
