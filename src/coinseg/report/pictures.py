"""Pictures of slices as RGB uint8 arrays (grey, heat map, mask against truth), and figures of rows and columns of them."""

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from PIL import Image
from scipy import ndimage

from coinseg.types import LUMINANCE

COLOURS = TRUE_POSITIVE, FALSE_POSITIVE, FALSE_NEGATIVE = (0, 200, 83), (229, 28, 35), (255, 214, 0)
"""The colours of the thesis' figures: green, red, yellow."""
WHITE = (255, 255, 255)
OPACITY = 0.5
DPI = 100  # Pixels of a sheet per inch, so a point of a font is DPI / 72 pixels
SMALL, LARGE = 9, 11  # Font sizes in points
MARGIN = 10  # Pixels around a sheet
Colour = tuple[int, int, int]
Legend = tuple[tuple[Colour, str], ...]


def _shades(image: np.ndarray) -> np.ndarray:
    """An image (H, W), or (C, H, W) of which three channels are a colour and of others the first is seen, as (H, W, 3)."""
    channels = image if image.ndim == 3 else image[None]
    shades = np.clip(np.nan_to_num(channels.astype(np.float64)), 0, 1) * 255
    return np.moveaxis(shades, 0, 2) if len(shades) == 3 else np.repeat(shades[0][..., None], 3, axis=-1)


def _ground(image: np.ndarray) -> np.ndarray:
    """What marks in colour are drawn on, (H, W, 3): the image, or the luminance of one in colour."""
    shades = _shades(image)
    return shades if image.ndim == 2 or len(image) != 3 else np.repeat((shades @ np.array(LUMINANCE))[..., None], 3, axis=-1)


def _bytes(rgb: np.ndarray) -> np.ndarray:
    return np.rint(rgb).astype(np.uint8)


def grey(image: np.ndarray) -> np.ndarray:
    """An image (H, W) or (C, H, W) in [0, 1] as (H, W, 3) uint8."""
    return _bytes(_shades(image))


def _cases(mask: np.ndarray, truth: np.ndarray) -> Iterator[tuple[np.ndarray, Colour]]:
    """True positive, false positive and false negative pixels, each with their colour."""
    return zip((mask & truth, mask & ~truth, truth & ~mask), COLOURS, strict=True)


def overlay(image: np.ndarray, mask: np.ndarray, truth: np.ndarray | None) -> np.ndarray:
    """A mask against its truth, in the colours of the thesis, semi-transparent over the grey image: (H, W, 3) uint8.

    Args:
        image: (H, W) or (C, H, W) in [0, 1].
        mask: (H, W) bool, predicted.
        truth: (H, W) bool; None when it is unknown, then only the outline of the mask is drawn.
    """
    rgb = _ground(image)
    if truth is None:
        # Green areas would mean true positives.
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
    """The image (H, W) with a thin red outline just outside the truth (figure 10)."""
    rgb, thick = grey(image), max(1, max(truth.shape) // 128)
    rgb[ndimage.binary_dilation(truth, iterations=thick) & ~truth] = FALSE_POSITIVE
    return rgb


def heat(image: np.ndarray, difference: np.ndarray, top: float) -> np.ndarray:
    """A heat map over the grey image, (H, W, 3) uint8.

    Args:
        image: (H, W) or (C, H, W) in [0, 1].
        difference: (H, W), at least 0.
        top: the difference that has the brightest colour, above 0.
    """
    share = np.clip(np.nan_to_num(difference.astype(np.float64)) / top, 0, 1)
    # Low values are transparent, so that the anatomy can be seen where nothing was changed.
    opacity = 0.9 * share[..., None] ** 0.7
    colour = 255 * colormaps["inferno"](0.2 + 0.8 * share)[..., :3]
    return _bytes((1 - opacity) * _ground(image) + opacity * colour)


@dataclass(frozen=True)
class Row:
    """One row of a sheet."""

    label: str  # written vertically at the left
    pictures: tuple[np.ndarray, ...]  # (H, W, 3) uint8, one for each column, all of one shape
    captions: tuple[str, ...] = ()  # a line under each picture, or none


@dataclass(frozen=True)
class Sheet:
    """Pictures in rows and columns."""

    title: str  # above everything
    groups: tuple[tuple[str, tuple[str, ...]], ...]  # columns that belong together: (heading over them or "", heading of each)
    rows: tuple[Row, ...]  # from top to bottom
    legend: Legend = ()  # colours and their meaning
    ramp: tuple[np.ndarray, str] | None = None  # the colour scale, (h, w, 3) uint8, and the meaning of its ends; or None
    side: int | None = None  # pixels of the longer side of a picture; None chooses a readable multiple of the side of the array
    together: int = 1  # number of rows without a gap between them


def _letters(width: float, size: float = SMALL) -> int:
    """Letters of average width that fit into so many pixels."""
    return max(8, int(width / (0.60 * size * DPI / 72)))


def _wrapped(words: str, width: float, size: float = SMALL) -> list[str]:
    return [line for part in words.split("\n") for line in textwrap.wrap(part, _letters(width, size))]


def _short(words: str, width: float) -> str:
    """One line that fits; of a longer one the middle is left out."""
    words, letters = " ".join(words.split()), _letters(width)
    return words if len(words) <= letters else f"{words[: letters - letters // 2 - 1]}…{words[-(letters // 2) :]}"


def _fitted(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """A picture enlarged without smoothing, or reduced by averaging."""
    how = Image.Resampling.NEAREST if height >= picture.shape[0] else Image.Resampling.BOX
    return np.asarray(Image.fromarray(picture).resize((width, height), how))


def _panel(sheet: Sheet) -> tuple[int, int]:
    """Height and width of the pictures on a sheet."""
    height, width = sheet.rows[0].pictures[0].shape[:2]
    longer = max(height, width)
    # With many columns pictures are smaller, so that the sheet still fits a screen.
    wanted = min(200, max(128, 1800 // sum(len(titles) for _, titles in sheet.groups)))
    side = sheet.side or (longer * max(1, wanted // longer) if longer <= 1.6 * wanted else wanted)
    return round(height * side / longer), round(width * side / longer)


def _swatch(colour: Colour) -> np.ndarray:
    """A square of a colour with a grey border, so that white can be seen."""
    return np.pad(np.full((10, 10, 3), colour, np.uint8), ((1, 1), (1, 1), (0, 0)), constant_values=96)


def _footer(sheet: Sheet, left: int, right: int, y: int) -> tuple[list[tuple[int, int, np.ndarray, str]], int]:
    """(x, y, picture, words) of the legend and the colour scale, in lines that fit, and the y where they end."""
    entries = [(_swatch(colour), words) for colour, words in sheet.legend]
    entries += [(_fitted(sheet.ramp[0], 12, 120), sheet.ramp[1])] if sheet.ramp else []
    placed, x = [], left
    for picture, words in entries:
        width = picture.shape[1] + 6 + round(0.56 * len(words) * SMALL * DPI / 72) + 18
        if x > left and x + width > right:
            x, y = left, y + 20
        placed.append((x, y, picture, words))
        x += width
    return placed, y + 20 if entries else 0


def draw(sheet: Sheet) -> Figure:
    """The figure of a sheet; a pixel of a picture becomes a whole number of pixels where the picture is enlarged."""
    height, width = _panel(sheet)
    left = MARGIN + (20 if any(row.label for row in sheet.rows) else 0)
    groups, x = [], left
    for _, titles in sheet.groups:
        groups.append([x + i * (width + 4) for i in range(len(titles))])
        x = groups[-1][-1] + width + 14
    right, columns = max(x - 14, 480), [x for xs in groups for x in xs]
    title = _wrapped(sheet.title, right - MARGIN, LARGE)
    above = [_wrapped(label, xs[-1] + width - xs[0]) for (label, _), xs in zip(sheet.groups, groups, strict=True)]
    headings = [_wrapped(heading, width) for _, titles in sheet.groups for heading in titles]
    line = round(1.15 * SMALL * DPI / 72) + 1
    middle = MARGIN + round(1.25 * len(title) * LARGE * DPI / 72) + 6 + line * max(map(len, above)) + 3 * any(above)
    y = middle + line * max(map(len, headings)) + 3 * any(headings) + 2
    tops = []
    for i, row in enumerate(sheet.rows):
        tops.append(y + (0 if i == 0 else 4 if i % sheet.together else 12))
        y = tops[-1] + height + (18 if row.captions else 0)
    footer, bottom = _footer(sheet, left, right, y + 12)
    total_width, total_height = right + MARGIN, bottom + MARGIN
    figure = Figure(figsize=(total_width / DPI, total_height / DPI), dpi=DPI, facecolor="white")

    def write(x: float, y: float, words: str, size: float = SMALL, **style: Any) -> None:
        # Names of patients may hold dollars, which are no mathematics here, and what is not UTF-8.
        words = words.encode("utf-8", "replace").decode("utf-8")
        style = dict[str, Any](va="top", fontsize=size, linespacing=1.15) | style
        figure.text(x / total_width, 1 - y / total_height, words, parse_math=False, **style)

    write(MARGIN, MARGIN, "\n".join(title), LARGE, weight="bold")
    for lines, xs in zip(above, groups, strict=True):
        write((xs[0] + xs[-1] + width) / 2, middle, "\n".join(lines), ha="center", va="bottom", weight="bold")
    for lines, x in zip(headings, columns, strict=True):
        write(x + width / 2, tops[0] - 2, "\n".join(lines), ha="center", va="bottom")
    for y, row in zip(tops, sheet.rows, strict=True):
        write(MARGIN, y + height / 2, _short(row.label, height), rotation=90, va="center")
        for x, picture in zip(columns, row.pictures, strict=True):
            figure.figimage(_fitted(picture, height, width), x, total_height - y - height, origin="upper")
        for x, caption in zip(columns, row.captions, strict=False):
            write(x + width / 2, y + height + 2, caption, ha="center")
    for x, y, picture, words in footer:
        figure.figimage(picture, x, total_height - y - picture.shape[0], origin="upper")
        write(x + picture.shape[1] + 6, y + 6, words, va="center_baseline")
    return figure
