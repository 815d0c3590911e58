"""Read plain images (PNG, JPEG, TIFF, BMP, DICOM) as one grey channel in the units of the file, and write masks as PNG.

The orientation tag of a camera is not applied, so an image and its mask stay on one grid.
"""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from coinseg.errors import UserError
from coinseg.runtime.files import new_file
from coinseg.types import Slice, SliceMask

from .limits import MAX_PIXELS
from .paths import kind_of
from .voxels import require_finite

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601 weights of red, green and blue
_TIFF = (".tif", ".tiff")
_DECODERS = ("PNG", "JPEG", "TIFF", "BMP")  # Pillow goes by content, not by name, and some other decoders start programs
logging.getLogger("tifffile").addHandler(logging.NullHandler())  # the `UserError` tells what is wrong


def is_image(path: Path) -> bool:
    """Return whether a path is that of an image coinseg reads: by its name, or a DICOM file of an X-ray or the like."""
    return path.suffix.lower() in IMAGE_SUFFIXES or kind_of(path) == "image"


def read_image(path: Path) -> Slice:
    """Read an image as float32 (H, W) in source units (0-255 for 8 bits, 0-65535 for 16); colour becomes ITU-R 601 luminance.

    `UserError` when the file is missing or unreadable, has several pages, or has NaN or infinite pixels.
    """
    with _reading(path):
        grey = _grey(_read(path))
    require_finite(path, grey)
    return grey


def read_image_mask(path: Path, shape: tuple[int, int], values: Sequence[int] = ()) -> SliceMask:
    """Read a mask as bool (H, W).

    Args:
        path: an image.
        shape: (H, W) of the image the mask belongs to; another shape is a `UserError`.
        values: grey levels that count as inside; empty means more than half of the brightest, for 0/1, 0/255 and soft edges.
    """
    grey = read_image(path)
    require_size(path, (grey.shape[0], grey.shape[1]), shape)
    return np.isin(grey, values) if values else grey > max(float(grey.max()), 0.0) / 2


def require_size(mask: Path, size: tuple[int, int], shape: tuple[int, int]) -> None:
    """Raise `UserError` unless the size of a mask is the shape (H, W) of its image."""
    if size != tuple(shape):
        got = f"mask {mask} has {size[0]} x {size[1]} pixels (H x W) and its image {shape[0]} x {shape[1]}"
        raise UserError(got, "the same size", "draw the mask on the image itself")


def write_image_mask(path: Path, mask: SliceMask, overwrite: bool = False) -> None:
    """Write a bool mask (H, W) as an 8-bit PNG, 0 outside and 255 inside; errors as in `write_image_map`."""
    write_image_map(path, np.asarray(mask, dtype=bool).astype(np.uint8) * 255, overwrite)


def write_image_map(path: Path, values: np.ndarray, overwrite: bool = False) -> None:
    """Write values (H, W) uint8 as an 8-bit PNG; `UserError` when `path` is taken, is no .png, or cannot be written."""
    if path.suffix.lower() != ".png":
        raise UserError(f"{path} is no name of a mask", "a name ending in .png", "choose such a name")
    with new_file(path, overwrite) as part:
        Image.fromarray(values).save(part, format="PNG")


def image_size(path: Path) -> tuple[int, int]:
    """Return (H, W) from the header alone; `UserError` when that cannot be read."""
    with _reading(path):
        if kind_of(path) == "image":
            from .dicom_frames import picture_size

            return picture_size(path)
        if path.suffix.lower() in _TIFF:
            with tifffile.TiffFile(path) as file:
                page = _only_page(path, file)
                return page.imagelength, page.imagewidth
        with Image.open(path, formats=_DECODERS) as image:
            return image.height, image.width


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn whatever a decoder raises on a bad file into a `UserError`."""
    if not path.is_file():
        raise UserError(f"{path} is missing or no file", "an image file", "correct the path")
    if not is_image(path):
        raise UserError(f"{path} is no image coinseg reads", f"one of {', '.join(IMAGE_SUFFIXES)}", "convert it")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except UserError:
        raise
    except Exception as error:  # The decoders of five formats raise almost anything on bad bytes.
        got = f"{path} cannot be read ({str(error) or type(error).__name__})"
        raise UserError(got, "an intact grey or colour image", "save it again or leave it out") from error


def _read(path: Path) -> np.ndarray:
    """Read pixels (H, W) or (H, W, samples) of any format."""
    if kind_of(path) == "image":
        from .dicom_frames import read_picture

        return read_picture(path)
    return _read_tiff(path) if path.suffix.lower() in _TIFF else _read_pillow(path)


def _read_pillow(path: Path) -> np.ndarray:
    """Read pixels (H, W) or (H, W, 3) with Pillow."""
    with Image.open(path, formats=_DECODERS) as image:
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(f"its header claims {image.width} x {image.height} pixels")
        depths = [str(tile.args) for tile in image.tile if ";16" in str(tile.args)]
        if depths and not image.mode.startswith("I"):
            return _read_deep_colour(path, depths[0])
        if image.mode in ("L", "I", "F") or image.mode.startswith("I;16"):
            return np.asarray(image)
        if image.mode in ("1", "LA", "La"):
            return np.asarray(image.convert("LA" if image.mode != "1" else "L")).reshape(*image.size[::-1], -1)[..., 0]
        return np.asarray(image.convert("RGBA"))[..., :3]  # through RGBA transparent pixels keep their colour


def _read_deep_colour(path: Path, rawmode: str) -> np.ndarray:
    """Read a 16-bit colour PNG as uint16 (H, W, 3); Pillow keeps 8 bits of a sample, so the two bytes are read in turn."""
    if rawmode not in ("RGB;16B", "RGBA;16B"):
        raise ValueError("16-bit grey with alpha; save it without alpha")
    halves = []
    for order in ("16B", "16L"):  # Read as little-endian, the low byte of a sample is the one that is kept.
        with Image.open(path, formats=_DECODERS) as image:
            image.tile = [tile._replace(args=rawmode.replace("16B", order)) for tile in image.tile]
            halves.append(np.asarray(image)[..., :3].astype(np.uint16))
    return halves[0] * np.uint16(256) + halves[1]


def _only_page(path: Path, file: tifffile.TiffFile) -> tifffile.TiffPage:
    """Return the only page of a TIFF; ImageJ hides further pages behind the first."""
    if len(file.pages) != 1 or any(len(series) != 1 for series in file.series):
        raise UserError(f"{path} has several pages", "one image per file", "save each page as its own file")
    page = file.pages.first
    if page.imagelength * page.imagewidth > MAX_PIXELS or page.imagedepth != 1:
        raise ValueError(f"its header claims {page.imagedepth} x {page.imagelength} x {page.imagewidth} pixels")
    if not 1 <= page.samplesperpixel <= 4 or page.tilelength * page.tilewidth > MAX_PIXELS:
        size = f"tiles of {page.tilelength} x {page.tilewidth} pixels" if page.is_tiled else "its pixels"
        raise ValueError(f"its header claims {page.samplesperpixel} samples a pixel, {size}")
    return page


def _read_tiff(path: Path) -> np.ndarray:
    """Read pixels (H, W) or (H, W, samples) of a one-page TIFF of any depth, also float."""
    with tifffile.TiffFile(path) as file:
        page = _only_page(path, file)
        if page.photometric in (tifffile.PHOTOMETRIC.MINISBLACK, tifffile.PHOTOMETRIC.RGB) and page.bitspersample > 1:
            try:
                pixels = page.asarray()
                return np.moveaxis(pixels, 0, -1) if page.axes.startswith("S") else pixels
            except ValueError as error:
                if "imagecodecs" not in str(error):  # without it tifffile decodes few compressions; Pillow decodes the others
                    raise
        if page.bitspersample > 8 and (page.samplesperpixel > 1 or page.photometric == tifffile.PHOTOMETRIC.MINISWHITE):
            kind = tifffile.PHOTOMETRIC(page.photometric).name
            raise ValueError(f"{page.bitspersample}-bit {kind} with this compression; save it uncompressed")
    return _read_pillow(path)


def _grey(pixels: np.ndarray) -> np.ndarray:
    """Turn pixels (H, W) or (H, W, samples) to float32 (H, W): luminance of three or four samples, the first of one or two."""
    if pixels.dtype.kind not in "biuf":
        raise ValueError(f"pixels of type {pixels.dtype}")
    if pixels.ndim != 2 and (pixels.ndim != 3 or pixels.shape[2] not in (1, 2, 3, 4)):
        raise ValueError(f"pixels of shape {pixels.shape}")
    if pixels.ndim == 2 or pixels.shape[2] < 3:
        return (pixels if pixels.ndim == 2 else pixels[..., 0]).astype(np.float32)
    return (pixels[..., :3].astype(np.float64) @ np.array(LUMINANCE)).astype(np.float32)
