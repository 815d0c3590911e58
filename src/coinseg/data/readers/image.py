"""Read plain images (PNG, JPEG, TIFF, BMP, DICOM), grey or in colour, in the units of the file, and write masks as PNG.

Images are read as every viewer shows them: the orientation tag of a camera (EXIF and TIFF 274) is applied, to masks likewise.
Masks are read by `image_mask`.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image, ImageFile

from coinseg.errors import UserError
from coinseg.runtime.files import new_file
from coinseg.types import LUMINANCE, SliceMask

from .paths import kind_of
from .tiff import ORIENTATION, TIFF, last_sample, only_page, read_tiff, require_dense, shown
from .voxels import require_finite

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
COLOUR_APART, COLOUR_SHARE = 0.06, 0.01  # difference of the channels, as a share of their range, and the share of such pixels
_DECODERS = ("PNG", "JPEG", "TIFF", "BMP")  # Pillow goes by content, not by name, and some other decoders start programs


def is_image(path: Path) -> bool:
    """Return whether a path is that of an image coinseg reads: by its name, or a DICOM file of an X-ray or the like."""
    return path.suffix.lower() in IMAGE_SUFFIXES or kind_of(path) == "image"


UNREAD = (
    "only the first of several frames is read",
    "transparent pixels are read as the colour that is stored below",
    "a further channel is not read (of two the second, of four the fourth)",
)
"""What of an image is not read, in words."""


def read_image(path: Path, colour: bool = False) -> np.ndarray:
    """Read an image as float32 (H, W) in source units (0-255 for 8 bits, 0-65535 for 16); colour becomes ITU-R 601 luminance.

    With `colour` it is (H, W, 3), red, green and blue, which are equal in a grey image. `UserError` when the file is missing or
    unreadable, has several pages, or has NaN or infinite pixels.
    """
    with reading(path):
        pixels = (colour_of if colour else grey_of)(_read(path))
    require_finite(path, pixels)
    return pixels


def is_coloured(path: Path) -> bool:
    """Return whether red, green and blue of an image differ, by more than the noise of JPEG; errors as in `read_image`."""
    pixels = read_image(path, colour=True)
    apart, reach = np.ptp(pixels, axis=2), float(pixels.max() - min(pixels.min(), 0))
    return bool((apart > COLOUR_APART * reach).mean() > COLOUR_SHARE) if reach > 0 else False


def read_colour(path: Path) -> np.ndarray | None:
    """Read a colour image as it is shown, uint8 (H, W, 3); None for a grey one. `UserError` as in `read_image`."""
    with reading(path):
        pixels = _read(path)
        if pixels.ndim != 3 or pixels.shape[2] < 3 or pixels.dtype not in (np.uint8, np.uint16):
            return None
        colour = pixels[..., :3] if pixels.dtype == np.uint8 else (pixels[..., :3] >> 8).astype(np.uint8)
        return None if (colour == colour[..., :1]).all() else np.ascontiguousarray(colour)


def read_shown(path: Path) -> np.ndarray:
    """Read an image as a person looks at it: uint8 (H, W, 3) in colour, else (H, W) as `read_image`, with its errors."""
    colour = read_colour(path)
    return read_image(path) if colour is None else colour


def require_size(path: Path, size: tuple[int, int], shape: tuple[int, int], what: str = "mask") -> None:
    """Raise `UserError` unless the size of a mask, or of `what` else there is of an image, is the shape (H, W) of that."""
    if size != tuple(shape):
        got = f"{what} {path} has {size[0]} x {size[1]} pixels (H x W) and its image {shape[0]} x {shape[1]}"
        raise UserError(got, "the same size", "draw the mask on the image itself" if what == "mask" else "resample it")


def write_image_mask(path: Path, mask: SliceMask, overwrite: bool = False) -> None:
    """Write a bool mask (H, W) as an 8-bit PNG, 0 outside and 255 inside; errors as in `write_image_map`."""
    write_image_map(path, np.asarray(mask, dtype=bool).astype(np.uint8) * 255, overwrite)


def write_image_map(path: Path, values: np.ndarray, overwrite: bool = False) -> None:
    """Write values (H, W) uint8 or uint16, or (H, W, 3) uint8, as a PNG of as many bits.

    `UserError` when `path` is taken, is no .png, or cannot be written.
    """
    if path.suffix.lower() != ".png":
        raise UserError(f"{path} is no name of a mask", "a name ending in .png", "choose such a name")
    with new_file(path, overwrite) as part:
        Image.fromarray(values).save(part, format="PNG")


def require_png(pixels: np.ndarray, what: str) -> None:
    """Raise `UserError` where a PNG would not hold the values of an image: below 0, above 65535, or fractions from 0 to 1."""
    low, high = float(pixels.min()), float(pixels.max())
    # Of bytes 0 and 1 in colour there are 8 luminances at most.
    fractions = high <= 1 and bool((pixels != np.rint(pixels)).any()) and len(np.unique(pixels.round(4))) > 8
    if low < 0 or high > np.iinfo(np.uint16).max or fractions:
        required, do = "whole numbers from 0 to 65535, which a PNG holds", "save the images with such values"
        raise UserError(f"{what} has values from {low:.4g} to {high:.4g}", required, do)


def image_size(path: Path) -> tuple[int, int]:
    """Return (H, W), as the image is shown, from the header alone; `UserError` when that cannot be read."""
    rows, columns, code = _header(path)
    return (columns, rows) if code in (5, 6, 7, 8) else (rows, columns)


def is_turned(path: Path) -> bool:
    """Return whether an orientation tag turns or mirrors the image; `UserError` as in `image_size`."""
    return _header(path)[2] in range(2, 9)


def _header(path: Path) -> tuple[int, int, object]:
    with reading(path):
        if kind_of(path) == "image":
            from .dicom_frames import picture_size

            return *picture_size(path), None
        if path.suffix.lower() in TIFF:
            with tifffile.TiffFile(path) as file:
                page = only_page(path, file)
                return page.imagelength, page.imagewidth, page.tags.valueof(ORIENTATION)
        with Image.open(path, formats=_DECODERS) as image:
            return image.height, image.width, orientation(image)


def orientation(image: Image.Image) -> object:
    """Return the orientation that has yet to be applied to an opened image; None without a tag that can be read."""
    # Pillow applies that of a TIFF itself; what a PNG has behind its pixels would decode them.
    if image.format == "TIFF" or (image.format == "PNG" and not {"exif", "Raw profile type exif"} & image.info.keys()):
        return None
    with suppress(Exception):  # what is wrong with its notes does not make a photograph unreadable
        return image.getexif().get(ORIENTATION)
    return None


def unread_in(path: Path) -> list[str]:
    """Return what of an image is not read, of `UNREAD`; nothing of one that cannot be read, which is said when it is.

    A TIFF of several pages is refused, so it has no later frames.
    """
    with suppress(UserError), reading(path):
        if path.suffix.lower() in TIFF and (last := last_sample(path)) is not None:
            pixels, is_alpha = last
            most = np.iinfo(pixels.dtype).max if pixels.dtype.kind in "iu" else 1
            there = (False, is_alpha and bool(pixels.min() < most), not is_alpha and bool(np.ptp(pixels)))
            return [what for what, is_there in zip(UNREAD, there, strict=True) if is_there]
        with Image.open(path, formats=_DECODERS) as image:
            later = path.suffix.lower() not in TIFF and getattr(image, "n_frames", 1) > 1
            through = image.has_transparency_data and int(np.asarray(image.convert("RGBA"))[..., 3].min()) < 255
            return [what for what, there in zip(UNREAD, (later, through, False), strict=True) if there]
    return []


@contextmanager
def reading(path: Path) -> Iterator[None]:
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


@contextmanager
def opened(path: Path) -> Iterator[ImageFile.ImageFile]:
    """Open an image with Pillow; `ValueError` where it claims too many pixels."""
    with Image.open(path, formats=_DECODERS) as image:
        require_dense(image.height, image.width, path.stat().st_size)
        yield image


def _read(path: Path) -> np.ndarray:
    """Read pixels (H, W) or (H, W, samples) of any format."""
    if kind_of(path) == "image":
        from .dicom_frames import read_picture

        return read_picture(path)
    pixels = read_tiff(path)[0] if path.suffix.lower() in TIFF else None
    return _read_pillow(path) if pixels is None else pixels


def _read_pillow(path: Path) -> np.ndarray:
    """Read pixels (H, W) or (H, W, 3) with Pillow."""
    with opened(path) as image:
        code = orientation(image)
        if (deep := deep_colour(path, image)) is not None:
            return shown(deep[..., :3], code)
        if image.mode in ("L", "I", "F") or image.mode.startswith("I;16"):
            return shown(np.asarray(image), code)
        if image.mode in ("1", "LA", "La"):
            grey = np.asarray(image.convert("LA" if image.mode != "1" else "L"))
            return shown(grey.reshape(*grey.shape[:2], -1)[..., 0], code)
        return shown(np.asarray(image.convert("RGBA"))[..., :3], code)  # through RGBA transparent pixels keep their colour


def deep_colour(path: Path, opened_image: ImageFile.ImageFile) -> np.ndarray | None:
    """Read a 16-bit colour PNG as uint16 (H, W, 3 or 4), not turned, None for any other image.

    Pillow keeps 8 bits of a sample, so the two bytes are read in turn.
    """
    depths = [str(tile.args) for tile in opened_image.tile if ";16" in str(tile.args)]
    if not depths or opened_image.mode.startswith("I"):
        return None
    if depths[0] not in ("RGB;16B", "RGBA;16B"):
        raise ValueError("16-bit grey with alpha; save it without alpha")
    halves = []
    for order in ("16B", "16L"):  # Read as little-endian, the low byte of a sample is the one that is kept.
        with Image.open(path, formats=_DECODERS) as image:
            image.tile = [tile._replace(args=depths[0].replace("16B", order)) for tile in image.tile]
            halves.append(np.asarray(image).astype(np.uint16))
    return halves[0] * np.uint16(256) + halves[1]


def colour_of(pixels: np.ndarray) -> np.ndarray:
    """Turn pixels (H, W) or (H, W, samples) to float32 (H, W, 3); the channels of a grey image are equal."""
    if pixels.ndim == 3 and pixels.shape[2] in (3, 4) and pixels.dtype.kind in "biuf":
        return pixels[..., :3].astype(np.float32)
    return np.repeat(grey_of(pixels)[..., None], 3, axis=2)


def grey_of(pixels: np.ndarray) -> np.ndarray:
    """Turn pixels (H, W) or (H, W, samples) to float32 (H, W): luminance of three or four samples, the first of one or two."""
    if pixels.dtype.kind not in "biuf":
        raise ValueError(f"pixels of type {pixels.dtype}")
    if pixels.ndim != 2 and (pixels.ndim != 3 or pixels.shape[2] not in (1, 2, 3, 4)):
        raise ValueError(f"pixels of shape {pixels.shape}")
    if pixels.ndim == 2 or pixels.shape[2] < 3:
        return (pixels if pixels.ndim == 2 else pixels[..., 0]).astype(np.float32)
    return (pixels[..., :3].astype(np.float64) @ np.array(LUMINANCE)).astype(np.float32)
