"""Read masks of plain images as labels, not by brightness: numbers, bits, indices of a palette, colours, or alpha.

What is inside is what differs from the ground: 0, black or transparent where that reaches the border of the image, else what
surrounds everything (as the white of red on white). Half way counts only where pixels are no labels: soft edges, JPEG.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tifffile
from scipy import ndimage

from coinseg.errors import UserError
from coinseg.types import SliceMask

from .image import deep_colour, opened, orientation, reading, require_size
from .paths import kind_of
from .tiff import TIFF, read_tiff, shown

INVERTED = "inverted"
"""A note on a mask of grey values whose border is not 0: it is dark on light."""
PICTURE = "picture"
"""A note on a mask of many grey values or colours that is hardly anywhere its ground: a photograph by the name of a mask."""
_CLASSES = 31  # whole numbers up to here are classes, however they lie beside each other
_LEVELS, _BARE = 64, 0.5  # a picture has more levels, and less of it is ground
_GROUND = 0.75  # share of the border that a ground other than 0 fills
_NOISE = 1 / 8  # of the farthest level: what JPEG adds to flat parts is less
_PLATEAU = 0.05  # share of what is no ground from which a flat level is one of the mask, not of its edges
_BITS = {"L;2": 85, "L;4": 17}  # what Pillow multiplies samples of 2 and 4 bits with


@dataclass(frozen=True)
class _Stored:
    """Pixels as stored: (H, W), or (H, W, samples) where they are colours, with alpha where it varies."""

    pixels: np.ndarray
    palette: np.ndarray | None = None  # (indices, 4), 0 to 255: the colours for which the numbers stand
    lossy: bool = False
    white_is_zero: bool = False


def read_image_region(path: Path, shape: tuple[int, int], values: Sequence[int] = ()) -> tuple[SliceMask, set[str]]:
    """Read a mask as bool (H, W), with notes: which of the values it has, or `INVERTED` and `PICTURE`.

    Args:
        path: an image.
        shape: (H, W) of the image the mask belongs to, as it is shown; another shape is a `UserError`.
        values: labels that count as inside, as stored (grey values, bits, indices); empty means all but the ground.
    """
    stored = _read(path)
    require_size(path, (stored.pixels.shape[0], stored.pixels.shape[1]), shape)
    if not values:
        colours = _colours(stored)
        ground = _ground(colours, stored.white_is_zero)
        distance = np.abs(colours - ground).max(-1)
        inside = _inside(distance, stored.lossy)
        bare = float((distance <= _NOISE * distance.max()).mean())
        notes = {PICTURE} if bare < _BARE and len(np.unique(distance)) > _LEVELS else set[str]()
        grey = not stored.white_is_zero and bool((colours == colours[..., :1]).all())
        return inside, notes | ({INVERTED} if grey and ground.any() and inside.any() else set())
    labels = _labels(path, stored)
    near = _NOISE * float(labels.max()) if stored.lossy else 0.0
    parts = {str(value): np.abs(labels - value) <= near for value in values}
    return np.logical_or.reduce(list(parts.values())), {value for value, part in parts.items() if part.any()}


def read_marked(path: Path, shape: tuple[int, int]) -> SliceMask:
    """Read a mask of coinseg as bool (H, W): what is not 0 is inside, also where that is all of the border.

    Args:
        path, shape: as of `read_image_region`.
    """
    inside, notes = read_image_region(path, shape)
    return inside ^ (INVERTED in notes)


def labels_of_image(path: Path) -> list[float]:
    """Return the labels that a mask has, ascending; `UserError` where it is in colours or cannot be read."""
    return [float(label) for label in np.unique(_labels(path, _read(path)))]


def _read(path: Path) -> _Stored:
    with reading(path):
        pixels, page = read_tiff(path, stored=True) if path.suffix.lower() in TIFF else (None, None)
        if kind_of(path) == "image":
            from .dicom_frames import read_picture

            stored = _Stored(read_picture(path))
        elif pixels is None or page is None:
            stored = _read_pillow(path)
        else:
            white = page.photometric == tifffile.PHOTOMETRIC.MINISWHITE
            stored = _Stored(pixels, None, "JPEG" in str(page.compression), white)
        if stored.pixels.dtype.kind not in "biuf" or not np.isfinite(stored.pixels).all():
            raise ValueError(f"pixels of type {stored.pixels.dtype}, or not finite")
        if stored.pixels.ndim not in (2, 3) or not stored.pixels.size:
            raise ValueError(f"pixels of shape {stored.pixels.shape}")
        return replace(stored, pixels=_opaque(stored.pixels.astype(np.float32)))


def _read_pillow(path: Path) -> _Stored:
    with opened(path) as image:
        code, args = orientation(image), next((tile.args for tile in image.tile), None)
        raw = args if isinstance(args, str) else str((args or ("",))[0])
        lossy = image.format in ("JPEG", "MPO") or "jpeg" in str(image.info.get("compression"))
        if (deep := deep_colour(path, image)) is not None:
            return _Stored(shown(deep, code))
        if image.mode == "P":
            image.apply_transparency()
            indices, colours = np.asarray(image), np.array(image.getpalette("RGBA"), np.float32).reshape(-1, 4)
            return _Stored(shown(indices, code), colours)
        if image.mode in ("1", "L", "I", "F") or image.mode.startswith("I;16"):
            numbers = shown(np.asarray(image), code).astype(np.float64)
            if white := raw.endswith("I") and ";" in raw:  # Pillow has turned black and white
                numbers = (1 if image.mode == "1" else 255) - numbers
            return _Stored(numbers / _BITS.get(raw.rstrip("I"), 1), None, lossy, white)
        return _Stored(shown(np.asarray(image.convert("RGBA")), code), None, lossy)


def _opaque(pixels: np.ndarray) -> np.ndarray:
    """Drop alpha (the last of 2 or 4 samples) that is the same everywhere; else weight the colours with it."""
    if pixels.ndim == 3 and pixels.shape[2] in (2, 4):
        colours, alpha = pixels[..., :-1], pixels[..., -1:]
        pixels = colours if np.ptp(alpha) == 0 else np.concatenate([colours * (alpha / alpha.max()), alpha], -1)
    return pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels


def _labels(path: Path, stored: _Stored) -> np.ndarray:
    """Return the numbers (H, W) of a mask: of colours the samples that vary, where these are equal as in grey."""
    if stored.pixels.ndim == 2:
        return stored.pixels
    samples = [sample for sample in np.moveaxis(stored.pixels, -1, 0) if np.ptp(sample) > 0] or [stored.pixels[..., 0]]
    if max(float(np.abs(sample - samples[0]).max()) for sample in samples) > (8 if stored.lossy else 0):
        required = "numbers, as data.lesion or data.organ names some"
        raise UserError(f"mask {path} is in colours", required, "name none: every colour but the ground counts then")
    return samples[0]


def _colours(stored: _Stored) -> np.ndarray:
    """Return pixels (H, W, samples); of a palette its colours where these tell all its indices apart."""
    if stored.pixels.ndim == 3:
        return stored.pixels
    if stored.palette is not None:
        indices = stored.pixels.astype(np.int64)
        used = np.unique(indices)
        if used[-1] < len(stored.palette) and len(np.unique(stored.palette[used], axis=0)) == len(used):
            return _opaque(stored.palette[indices])
    return np.maximum(stored.pixels, 0)[..., None]  # below 0 nothing is marked, as in masks of volumes


def _ground(colours: np.ndarray, white_is_zero: bool) -> np.ndarray:
    """Return the colour (samples,) of what is not marked, from the border of an image (H, W, samples)."""
    border = np.concatenate([colours[0], colours[-1], colours[:, 0], colours[:, -1]])
    found, counts = _distinct(border)
    most, zero = found[counts.argmax()], np.zeros_like(found[0])
    if (not white_is_zero and not border.any(-1).all()) or (colours == most).all():
        return zero  # it reaches the border, or everything is marked
    return most if white_is_zero or counts.max() >= _GROUND * len(border) or colours.any(-1).all() else zero


def _distinct(colours: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the colours (n, samples) of pixels (m, samples), ascending, and how often each is there: `np.unique`, but fast."""
    if colours.shape[1] == 1:
        levels, counts = np.unique(colours, return_counts=True)
        return levels[:, None], counts
    of = np.zeros(len(colours), np.int64)
    for sample in colours.T:
        levels, level = np.unique(sample, return_inverse=True)
        of = np.unique(of * len(levels) + level, return_inverse=True)[1]
    _, first, counts = np.unique(of, return_index=True, return_counts=True)
    return colours[first], counts


def _inside(distance: np.ndarray, lossy: bool) -> SliceMask:
    """Return what is marked, from the distance of every pixel from the ground, (H, W)."""
    levels = np.unique(distance)
    top, plain = float(levels[-1]), len(levels) < 3 or (levels[-1] <= _CLASSES and (levels == np.rint(levels)).all())
    if plain and not lossy:
        return distance > 0
    low, high = ndimage.minimum_filter(distance, 3, mode="constant"), ndimage.maximum_filter(distance, 3, mode="constant")
    marked, steps = distance > _NOISE * top, high - low
    sloping = marked & (steps > 0)
    slow = bool(sloping.any()) and float(np.median(steps[sloping])) < _NOISE * top  # as in maps of probabilities
    if not (lossy or slow or _is_soft(distance, levels, (low < distance) & (distance < high), steps == 0)):
        return distance > 0
    flat, counts = np.unique(distance[marked & (steps == 0)], return_counts=True)
    plateaus = flat[counts >= _PLATEAU * marked.sum()]
    return distance > (plateaus[0] if len(plateaus) else top) / 2


def _is_soft(distance: np.ndarray, levels: np.ndarray, between: np.ndarray, flat: np.ndarray) -> bool:
    """Return whether most levels but the outer two are those of soft edges and noise, not labels.

    Args:
        distance: from the ground, (H, W).
        levels: those it has, ascending.
        between: pixels with a lower and a higher neighbour, (H, W) bool; soft edges are such.
        flat: pixels whose neighbours are like them, (H, W) bool; noise near the outer levels has none.
    """
    of = np.searchsorted(levels, distance)
    pixels, edges, even = (np.bincount(of[part].ravel(), minlength=len(levels))[1:-1] for part in (..., between, flat))
    outer = np.minimum(levels, levels[-1] - levels)[1:-1] < _NOISE * levels[-1]
    return bool(((edges > pixels / 2) | (outer & (even == 0))).mean() > 0.5)
