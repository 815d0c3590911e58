"""From a scan or an image to square slices of one size, and back (thesis 4: resize, bilinear).

Without `data.spacing` a box lies inside the slice and is stretched to the square; with it a box has a fixed size in
millimetres, and what it shows beyond the slice is filled. With `data.tile` several boxes cover a slice, and overlap.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
from PIL import Image

from coinseg.config.schema import DataSettings
from coinseg.errors import UserError

MAX_PIXELS = 2**26  # a box of more native pixels than this comes of a wrong voxel size
OVERLAP = 0.25  # of its side that a tile shares with the next one, at least
MAX_TILES = 1024  # of one slice


@dataclass(frozen=True)
class Box:
    """A rectangle of a native slice, in native pixels from its outer corner; its edges may lie in pixels and beyond the slice."""

    top: float
    left: float
    height: float
    width: float

    def resize(self, native: np.ndarray, size: int, fill: float = 0.0) -> np.ndarray:
        """Native slice (H, W) -> float32 (size, size) of this box, `fill` beyond the slice: bilinear, averaging on shrinking."""
        edges = (self.left, self.top, self.left + self.width, self.top + self.height)
        return _part(native, edges, (size, size), fill)

    def resize_mask(self, native: np.ndarray, size: int) -> np.ndarray:
        """Native mask (H, W) -> bool (size, size): inside where at least half of a pixel is."""
        return self.resize(native, size) >= 0.5

    def paste(self, values: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
        """Prepared values (size, size) -> float32 native slice `shape`, 0 in pixels whose centre is outside this box."""
        native = np.zeros(shape, dtype=np.float32)
        rows, columns, part = self.part(values, shape)
        native[rows, columns] = part
        return native

    def part(self, values: np.ndarray, shape: tuple[int, int]) -> tuple[slice, slice, np.ndarray]:
        """Prepared values (size, size) as the rows and columns of a slice `shape` in this box, and their float32 values there."""
        (top, bottom), (left, right) = self.pixels(shape)
        if top >= bottom or left >= right:
            return slice(0, 0), slice(0, 0), np.zeros((0, 0), np.float32)
        tall, wide = values.shape[0] / self.height, values.shape[1] / self.width
        edges = ((left - self.left) * wide, (top - self.top) * tall, (right - self.left) * wide, (bottom - self.top) * tall)
        return slice(top, bottom), slice(left, right), _part(values, edges, (bottom - top, right - left), None)

    def pixels(self, shape: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
        """Return (first, behind the last) row, then column, of the pixels of a slice `shape` whose centre is in this box."""
        starts, lengths = (self.top, self.left), (self.height, self.width)
        ends = [(np.ceil(a - 0.5), np.ceil(a + n - 0.5)) for a, n in zip(starts, lengths, strict=True)]
        rows, columns = ((int(np.clip(a, 0, n)), int(np.clip(b, 0, n))) for (a, b), n in zip(ends, shape, strict=True))
        return rows, columns

    def holds(self, other: Box) -> bool:
        """Return whether another box lies inside this one."""
        ends = (self.top + self.height, self.left + self.width, other.top + other.height, other.left + other.width)
        return self.top <= other.top and self.left <= other.left and ends[2] <= ends[0] and ends[3] <= ends[1]

    def paste_mask(self, mask: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
        """Prepared mask (size, size) -> bool native slice `shape`."""
        return self.paste(mask, shape) >= 0.5


def _part(image: np.ndarray, edges: tuple[float, float, float, float], shape: tuple[int, int], fill: float | None) -> np.ndarray:
    """Resize the part of an image between edges (left, top, right, bottom); beyond the image: `fill`, None repeats its edge."""
    left, top, right, bottom = edges
    beyond = ((-top, bottom - image.shape[0]), (-left, right - image.shape[1]))
    pad = [(max(0, int(np.ceil(before))), max(0, int(np.ceil(after)))) for before, after in beyond]
    if any(map(any, pad)):
        image = np.pad(image, pad, "edge") if fill is None else np.pad(image, pad, constant_values=fill)
        (rows, _), (columns, _) = pad
        edges = (left + columns, top + rows, right + columns, bottom + rows)
    picture = Image.fromarray(np.ascontiguousarray(image, dtype=np.float32))
    return np.asarray(picture.resize(shape[::-1], Image.Resampling.BILINEAR, box=edges))


@dataclass(frozen=True)
class Cut:
    """One square slice of a case: where it lies, nothing read yet."""

    index: int  # along `data.axis`; 0 for a plain image
    region: int  # the organ region, or the tile, -1 for all together
    box: Box  # the part of the native slice that is resized
    organ: np.ndarray | None  # in the native slice, (H, W)
    is_tile: bool = False  # one of several that cover the slice


def tiles_of(shape: tuple[int, int], side: int) -> list[Box]:
    """Return the tiles of a slice `shape`, row by row: as few as overlap by `OVERLAP` of their side, evenly spread.

    A tile is a square of `side` native pixels, or as long and wide as the slice where that is smaller. `UserError` for more than
    `MAX_TILES`.
    """
    counts = [_tiles_along(length, side) for length in shape]
    if counts[0] * counts[1] > MAX_TILES:
        got = f"an image of {shape[0]} x {shape[1]} pixels (H x W) has {counts[0] * counts[1]} tiles of data.tile {side}"
        fitting = next(larger for larger in range(side, max(shape) + 1) if number_of_tiles(shape, larger) <= MAX_TILES)
        raise UserError(got, f"at most {MAX_TILES}", f"set data.tile to {fitting} or more")
    tops, lefts = (
        [round(i * (length - side) / max(count - 1, 1)) if count > 1 else 0 for i in range(count)]
        for length, count in zip(shape, counts, strict=True)
    )
    height, width = (min(side, length) for length in shape)
    return [Box(top, left, height, width) for top in tops for left in lefts]


def _tiles_along(length: int, side: int) -> int:
    """Return how many tiles lie beside each other along an edge."""
    return 1 if length <= side else 1 + int(np.ceil((length - side) / max(1, side - np.ceil(OVERLAP * side))))


def number_of_tiles(shape: tuple[int, int], side: int) -> int:
    """Return the number of `tiles_of` a slice; 1 where `side` is 0, which is no tiles."""
    return _tiles_along(shape[0], side) * _tiles_along(shape[1], side) if side else 1


def tight_around(mask: np.ndarray) -> Box:
    """Return the smallest box around a mask (slices, H, W), all its slices together."""
    rows, columns = np.flatnonzero(mask.any((0, 2))), np.flatnonzero(mask.any((0, 1)))
    return Box(int(rows[0]), int(columns[0]), int(rows[-1] - rows[0]) + 1, int(columns[-1] - columns[0]) + 1)


def square_around(mask: np.ndarray, margin: float) -> Box:
    """Return the square box around a mask (slices, H, W) with `margin` of its side around it, pushed inside the slice."""
    height, width = mask.shape[1:]
    tight = tight_around(mask)
    side = int(np.ceil(max(tight.height, tight.width) * (1 + 2 * margin)))
    side_y, side_x = min(side, height), min(side, width)
    top = int(np.clip((2 * tight.top + tight.height - side_y) // 2, 0, height - side_y))
    left = int(np.clip((2 * tight.left + tight.width - side_x) // 2, 0, width - side_x))
    return Box(top, left, side_y, side_x)


def window_around(middle: Box, settings: DataSettings, pixel: tuple[float, float]) -> Box:
    """Return the box of `size * spacing` mm around the centre of another; `UserError` for more than `MAX_PIXELS`.

    Args:
        middle: the other box.
        settings: size and spacing are read.
        pixel: (dy, dx) of a native pixel in mm.
    """
    height, width = (round(settings.side * settings.spacing / side, 3) for side in pixel)
    if height * width > MAX_PIXELS:
        got = f"pixels of {pixel[0]:.3g} x {pixel[1]:.3g} mm and data.spacing {settings.spacing:g}"
        do = "check the voxel size in the header, or lower data.spacing (mm per pixel)"
        raise UserError(got, f"at most {MAX_PIXELS} native pixels in a slice of size * spacing mm", do)
    top, left = middle.top + (middle.height - height) / 2, middle.left + (middle.width - width) / 2
    # The box begins at a native pixel, so that nothing is resampled where the spacing is that of the scan.
    return Box(int(np.floor(top + 0.5)), int(np.floor(left + 0.5)), height, width)


def box_of(organ: np.ndarray | None, shape: tuple[int, int], settings: DataSettings, pixel: tuple[float, float] | None) -> Box:
    """Return the part of a native slice that is shown; `UserError` where the organ does not fit into size * spacing mm.

    Args:
        organ: mask (slices, H, W), not empty, or None.
        shape: height and width of the slice.
        settings: size, spacing, roi and roi_margin are read.
        pixel: (dy, dx) of a native pixel in mm; None for a plain image.
    """
    whole = Box(0, 0, *shape)
    if not settings.spacing or pixel is None:
        return whole if organ is None or settings.roi == "none" else square_around(organ, settings.roi_margin)
    if organ is None:
        return window_around(whole, settings, pixel)
    tight = tight_around(organ)
    window = window_around(whole if settings.roi == "none" else tight, settings, pixel)
    if not window.holds(tight):
        tall, wide, side = tight.height * pixel[0], tight.width * pixel[1], settings.side * settings.spacing
        got = f"the organ is {tall:.0f} x {wide:.0f} mm (rows x columns) and would be cut off by slices that show {side:.0f} mm"
        where, do = (" around their centre", ", or set data.roi to organ") if settings.roi == "none" else ("", "")
        raise UserError(got + where, "the whole organ in every slice", "raise data.size or data.spacing" + do)
    return window


def cuts(
    shape: tuple[int, int, int], organs: Sequence[np.ndarray], settings: DataSettings, pixel: tuple[float, float] | None = None
) -> Iterator[Cut]:
    """Yield the slices of a case that are used (thesis 4: at least `min_organ_px` organ pixels at native size).

    Args:
        shape: slices, height and width of the volume as it is cut; a plain image has one slice.
        organs: one mask of that shape for each organ region; without any, every slice is used whole.
        settings: size, tile, spacing, roi, roi_margin and min_organ_px are read.
        pixel: (dy, dx) of a native pixel in mm; None for a plain image, see `box_of`.
    """
    if settings.tile_side and len(boxes := tiles_of(shape[1:], settings.tile_side)) > 1:
        yield from _tiles(shape, boxes, organs, settings)
        return
    if not organs:
        box = box_of(None, shape[1:], settings, pixel)
        yield from (Cut(z, -1, box, None) for z in range(shape[0]))
        return
    regions = list(enumerate(organs)) if settings.roi == "each" else [(-1, reduce(np.logical_or, organs))]
    for region, mask in regions:
        if mask.any():
            box, used = box_of(mask, shape[1:], settings, pixel), mask.sum((1, 2)) >= max(settings.min_organ_px, 1)
            yield from (Cut(int(z), region, box, mask[z]) for z in np.flatnonzero(used))


def _tiles(
    shape: tuple[int, int, int], boxes: Sequence[Box], organs: Sequence[np.ndarray], settings: DataSettings
) -> Iterator[Cut]:  # fmt: skip
    """Yield the tiles of all slices that are used; `Cut.region` is the number of the tile."""
    organ = reduce(np.logical_or, organs) if organs else None
    for z in range(shape[0]):
        for number, box in enumerate(boxes):
            (top, bottom), (left, right) = box.pixels(shape[1:])
            if organ is None or organ[z, top:bottom, left:right].sum() >= max(settings.min_organ_px, 1):
                yield Cut(z, number, box, None if organ is None else organ[z], is_tile=True)


def slices_in(used: Sequence[Cut]) -> int:
    """Return how many slices, or organ regions of slices, cuts are of: the tiles of a slice are one."""
    return len({(cut.index, -1 if cut.is_tile else cut.region) for cut in used})
