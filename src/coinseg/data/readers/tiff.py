"""Read the one page of a TIFF, and turn pixels as its orientation tag, which photographs have too, says."""

import logging
import math
from pathlib import Path

import numpy as np
import tifffile

from coinseg.errors import UserError

from .limits import DENSE_LIMIT, DENSE_PIXELS, MAX_PIXELS

TIFF = (".tif", ".tiff")
ORIENTATION = 274  # the tag in EXIF and in TIFF; its values 1 to 8 are those of TIFF 6.0, section 8
logging.getLogger("tifffile").addHandler(logging.NullHandler())  # the `UserError` tells what is wrong


def shown(pixels: np.ndarray, code: object) -> np.ndarray:
    """Turn pixels (H, W, ...) as stored to how they are shown; codes 5 to 8 swap H and W, others than 1 to 8 do nothing."""
    pixels = pixels.swapaxes(0, 1) if code in (5, 6, 7, 8) else pixels
    pixels = pixels[::-1] if code in (3, 4, 7, 8) else pixels
    return pixels[:, ::-1] if code in (2, 3, 6, 7) else pixels


def require_dense(height: int, width: int, stored: int) -> None:
    """Raise `ValueError` for more pixels than an image has, or far more than its `stored` bytes are likely to be unpacked to."""
    if height * width > MAX_PIXELS:
        raise ValueError(f"its header claims {width} x {height} pixels")
    if height * width > max(DENSE_PIXELS, stored * DENSE_LIMIT):
        raise ValueError(f"its header claims {width} x {height} pixels and it has {stored} bytes of them")


def only_page(path: Path, file: tifffile.TiffFile) -> tifffile.TiffPage:
    """Return the only page of a TIFF; ImageJ hides further pages behind the first."""
    if len(file.pages) != 1 or any(len(series) != 1 for series in file.series):
        raise UserError(f"{path} has several pages", "one image per file", "save each page as its own file")
    page = file.pages.first
    if page.imagedepth != 1:
        raise ValueError(f"its header claims {page.imagedepth} x {page.imagelength} x {page.imagewidth} pixels")
    require_dense(page.imagelength, page.imagewidth, min(sum(page.databytecounts), path.stat().st_size))
    if not 1 <= page.samplesperpixel <= 4 or page.tilelength * page.tilewidth > MAX_PIXELS:
        tiles = f" and tiles of {page.tilelength} x {page.tilewidth} pixels" if page.is_tiled else ""
        raise ValueError(f"its header claims {page.samplesperpixel} samples a pixel{tiles}; grey and colour have 1 to 4")
    parts, places = math.prod(page.chunked), zip(page.dataoffsets, page.databytecounts, strict=False)
    there = sum(offset > 0 < count for offset, count in places)
    if there < parts:  # tifffile takes what is not there for 0
        raise ValueError(f"{parts - there} of the {parts} parts of its pixels are not there")
    return page


def read_tiff(path: Path, stored: bool = False) -> tuple[np.ndarray | None, tifffile.TiffPage]:
    """Read pixels (H, W) or (H, W, samples) of a one-page TIFF of any depth, None where only Pillow decodes it, and the page.

    Bits, and values of which 0 is white, are left to Pillow unless they are wanted as `stored`.
    """
    with tifffile.TiffFile(path) as file:
        page = only_page(path, file)
        grey, white, colour = (page.photometric == tifffile.PHOTOMETRIC[kind] for kind in ("MINISBLACK", "MINISWHITE", "RGB"))
        if ((grey or colour) and page.bitspersample > 1) or (stored and (grey or white)):
            try:
                pixels = np.moveaxis(page.asarray(), 0, -1) if page.axes.startswith("S") else page.asarray()
                return shown(pixels, page.tags.valueof(ORIENTATION)), page
            except ValueError as error:
                if "imagecodecs" not in str(error):  # without it tifffile decodes few compressions; Pillow decodes the others
                    raise
        if page.bitspersample > 8 and (page.samplesperpixel > 1 or white):
            kind = tifffile.PHOTOMETRIC(page.photometric).name
            how, do = (" (CMYK)", "as RGB") if kind == "SEPARATED" else (" with this compression", "uncompressed")
            raise ValueError(f"{page.bitspersample}-bit {kind}{how}; save it {do}")
    return None, page


def last_sample(path: Path) -> tuple[np.ndarray, bool] | None:
    """Return the second or fourth sample (H, W) of a TIFF, which `grey_of` and `colour_of` leave out, and whether it is alpha."""
    with tifffile.TiffFile(path) as file:
        if only_page(path, file).samplesperpixel not in (2, 4) or not file.pages.first.extrasamples:
            return None
    pixels, page = read_tiff(path)
    if pixels is None or pixels.ndim != 3:
        return None
    return pixels[..., -1], page.extrasamples[-1] in (tifffile.EXTRASAMPLE.ASSOCALPHA, tifffile.EXTRASAMPLE.UNASSALPHA)
