"""Painting: a slice as grey, heat, a mask against its truth; and pictures laid out on a white sheet, to the pixel.

Arrays go in, uint8 RGB comes out. Nothing here knows of methods, runs or files.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from PIL import Image
from scipy import ndimage

COLOURS = TRUE_POSITIVE, FALSE_POSITIVE, FALSE_NEGATIVE = (0, 200, 83), (229, 28, 35), (255, 214, 0)
"""The colours of the thesis' figures: green, red, yellow."""
WHITE = (255, 255, 255)
OPACITY = 0.5
DPI = 100
"""Pixels of a sheet for each inch, so that a point of type is DPI / 72 pixels."""
SMALL, LARGE = 9, 11
"""Points."""
Colour = tuple[int, int, int]
Legend = tuple[tuple[Colour, str], ...]


def _shades(image: np.ndarray) -> np.ndarray:
    shades = np.clip(np.nan_to_num(image.astype(np.float64)), 0, 1) * 255
    return np.repeat(shades[..., None], 3, axis=-1)


def _bytes(rgb: np.ndarray) -> np.ndarray:
    return np.rint(rgb).astype(np.uint8)


def grey(image: np.ndarray) -> np.ndarray:
    """An image (H, W) in [0, 1] as (H, W, 3) uint8."""
    return _bytes(_shades(image))


def _cases(mask: np.ndarray, truth: np.ndarray) -> Iterator[tuple[np.ndarray, Colour]]:
    """Where a mask is right, wrong and missing, each with its colour."""
    return zip((mask & truth, mask & ~truth, truth & ~mask), COLOURS, strict=True)


def overlay(image: np.ndarray, mask: np.ndarray, truth: np.ndarray | None) -> np.ndarray:
    """A mask against its truth, in the colours of the thesis, semi-transparent over the grey image.

    Args:
        image: (H, W) in [0, 1].
        mask: (H, W) bool, predicted.
        truth: (H, W) bool, or None when nobody knows it: the outline of the mask alone is drawn then.

    Returns:
        (H, W, 3) uint8.
    """
    rgb = _shades(image)
    if truth is None:
        # Filled green would claim a true positive: an outline only says where.
        rgb[mask & ~ndimage.binary_erosion(mask)] = TRUE_POSITIVE
        return _bytes(rgb)
    for where, colour in _cases(mask, truth):
        rgb[where] = (1 - OPACITY) * rgb[where] + OPACITY * np.array(colour)
    return _bytes(rgb)


def confusion(mask: np.ndarray | None, truth: np.ndarray) -> np.ndarray:
    """A mask (H, W) against its truth in full colours on black (figure 9); the truth itself, white, when `mask` is None."""
    rgb = np.zeros((*truth.shape, 3), np.uint8)
    for where, colour in [(truth, WHITE)] if mask is None else _cases(mask, truth):
        rgb[where] = colour
    return rgb


def contour(image: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """A thin red outline around the truth (figure 10), just outside, so that nothing of a lesion is hidden."""
    rgb, thick = grey(image), max(1, max(truth.shape) // 128)
    rgb[ndimage.binary_dilation(truth, iterations=thick) & ~truth] = FALSE_POSITIVE
    return rgb


def heat(image: np.ndarray, difference: np.ndarray, top: float) -> np.ndarray:
    """The difference as a heat map over the grey image; `top` is the difference of the brightest colour."""
    share = np.clip(np.nan_to_num(difference.astype(np.float64)) / top, 0, 1)
    # The cold end is see-through, so that the anatomy stays where nothing was changed.
    opacity = 0.9 * share[..., None] ** 0.7
    colour = 255 * colormaps["inferno"](0.2 + 0.8 * share)[..., :3]
    return _bytes((1 - opacity) * _shades(image) + opacity * colour)


@dataclass(frozen=True)
class Row:
    """One row of a sheet.

    Args:
        label: written upwards at the left.
        pictures: RGB uint8, one for each column, all of one shape.
        captions: a line under each picture, or empty.
    """

    label: str
    pictures: tuple[np.ndarray, ...]
    captions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sheet:
    """Pictures in rows and columns.

    Args:
        title: above everything.
        groups: columns that belong together: (heading over them or "", heading of each).
        rows: from top to bottom.
        legend: colours and what they mean.
        ramp: the colours of the one scale of the sheet, (h, w, 3) uint8, and what its ends are; or None.
        side: pixels of the longer side of a picture; None: a whole multiple of its own where that is of a readable size.
        together: so many rows stand close, a gap follows.
    """

    title: str
    groups: tuple[tuple[str, tuple[str, ...]], ...]
    rows: tuple[Row, ...]
    legend: Legend = ()
    ramp: tuple[np.ndarray, str] | None = None
    side: int | None = None
    together: int = 1


class _Page:
    """What stands where, in pixels from the top left; as large as what is on it."""

    def __init__(self) -> None:
        self.images: list[tuple[int, int, np.ndarray]] = []
        self.texts: list[tuple[float, float, str, dict[str, Any]]] = []

    def image(self, x: int, y: int, picture: np.ndarray) -> None:
        self.images.append((x, y, picture))

    def text(self, x: float, y: float, words: str, size: float = SMALL, **how: Any) -> None:
        self.texts.append((x, y, words, {"va": "top", "color": "black", "fontsize": size, "linespacing": 1.15} | how))

    def figure(self, width: int, height: int) -> Figure:
        figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")
        for left, top, picture in self.images:
            figure.figimage(picture, left, height - top - picture.shape[0], origin="upper")
        for x, y, words, how in self.texts:
            # Names of patients are no mathematics, whatever dollars are in them, and may hold what is not UTF-8.
            clean = words.encode("utf-8", "replace").decode("utf-8")
            figure.text(x / width, 1 - y / height, clean, parse_math=False, **how)
        return figure


def _wrapped(words: str, width: float, size: float = SMALL) -> list[str]:
    """Lines that fit into so many pixels, by the mean width of a letter."""
    letters = max(8, int(width / (0.60 * size * DPI / 72)))
    return [line for part in words.split("\n") for line in textwrap.wrap(part, letters)]


def _short(words: str, width: float) -> str:
    """One line that fits, without its middle where need be."""
    words, letters = " ".join(words.split()), max(8, int(width / (0.60 * SMALL * DPI / 72)))
    return words if len(words) <= letters else f"{words[: letters - letters // 2 - 1]}…{words[-(letters // 2) :]}"


def _fitted(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """Enlarged without smoothing, made smaller by means."""
    how = Image.Resampling.NEAREST if height >= picture.shape[0] else Image.Resampling.BOX
    return np.asarray(Image.fromarray(picture).resize((width, height), how))


def _panel(sheet: Sheet) -> tuple[int, int]:
    """Height and width of the pictures on a sheet."""
    height, width = sheet.rows[0].pictures[0].shape[:2]
    longer = max(height, width)
    # Many columns get smaller pictures, so that the sheet still fits a screen.
    wanted = min(200, max(128, 1800 // sum(len(titles) for _, titles in sheet.groups)))
    side = sheet.side or (longer * max(1, wanted // longer) if longer <= 1.6 * wanted else wanted)
    return round(height * side / longer), round(width * side / longer)


def _headings(page: _Page, sheet: Sheet, columns: list[list[int]], width: int, y: int) -> int:
    """Write the headings of groups and columns; returns where the pictures start."""
    line = round(1.15 * SMALL * DPI / 72) + 1
    for level, heading in enumerate(("group", "column")):
        texts: list[tuple[float, list[str]]] = []
        for (label, titles), xs in zip(sheet.groups, columns, strict=True):
            if heading == "group":
                texts.append(((xs[0] + xs[-1] + width) / 2, _wrapped(label, xs[-1] + width - xs[0])))
            else:
                texts += [(x + width / 2, _wrapped(title, width)) for x, title in zip(xs, titles, strict=True)]
        y += line * max(len(lines) for _, lines in texts)
        for x, lines in texts:
            # Headings stand on the pictures, line by line on common baselines: short ones start lower.
            for above, words in enumerate(reversed(lines)):
                page.text(x, y - 2 - line * above, words, ha="center", va="baseline", weight="normal" if level else "bold")
        y += 3 if any(lines for _, lines in texts) else 0
    return y + 2


def _swatch(colour: Colour) -> np.ndarray:
    """A square of a colour with a grey rim, or white could not be seen."""
    return np.pad(np.full((10, 10, 3), colour, np.uint8), ((1, 1), (1, 1), (0, 0)), constant_values=96)


def _footer(page: _Page, sheet: Sheet, left: int, right: int, y: int) -> int:
    """Write the legend and the scale, in as many lines as they need; returns where they end."""
    x = left
    pieces = [(_swatch(colour), words) for colour, words in sheet.legend]
    pieces += [(_fitted(sheet.ramp[0], 12, 120), sheet.ramp[1])] if sheet.ramp else []
    for picture, words in pieces:
        wide = picture.shape[1] + 6 + round(0.56 * len(words) * SMALL * DPI / 72) + 18
        if x > left and x + wide > right:
            x, y = left, y + 20
        page.image(x, y, picture)
        page.text(x + picture.shape[1] + 6, y + 6, words, va="center_baseline")
        x += wide
    return y + 20 if pieces else y


def draw(sheet: Sheet) -> Figure:
    """Lay a sheet out; every picture is enlarged by whole pixels and stands on one."""
    height, width = _panel(sheet)
    page, margin = _Page(), 10
    left = margin + (20 if any(row.label for row in sheet.rows) else 0)
    columns, x = [], left
    for _, titles in sheet.groups:
        columns.append([x + i * (width + 4) for i in range(len(titles))])
        x = columns[-1][-1] + width + 14
    right = max(x - 14, 480)
    lines = _wrapped(sheet.title, right - margin, LARGE)
    page.text(margin, margin, "\n".join(lines), LARGE, weight="bold")
    y = _headings(page, sheet, columns, width, margin + round(1.25 * len(lines) * LARGE * DPI / 72) + 6)
    for i, row in enumerate(sheet.rows):
        y += 0 if i == 0 else 4 if i % sheet.together else 12
        page.text(margin, y + height / 2, _short(row.label, height), rotation=90, va="center")
        places = [place for xs in columns for place in xs]
        for place, picture in zip(places, row.pictures, strict=True):
            page.image(place, y, _fitted(picture, height, width))
        for place, caption in zip(places, row.captions, strict=False):
            page.text(place + width / 2, y + height + 2, caption, ha="center")
        y += height + (18 if row.captions else 0)
    bottom = _footer(page, sheet, left, right, y + 12)
    return page.figure(right + margin, bottom + margin)
