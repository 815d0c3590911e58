"""Decode the frames of one DICOM file; sizes in compressed frames are checked before a decoder makes room for them.

pydicom decodes with its plugins GDCM (JPEG), pylibjpeg-openjpeg (JPEG 2000) and pyjpegls (JPEG-LS).
"""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
from pydicom import Dataset
from pydicom.encaps import generate_frames
from pydicom.pixels import iter_pixels
from pydicom.uid import JPEG2000, JPEG2000Lossless, JPEGLSLossless, JPEGLSNearLossless, RLELossless

from coinseg.errors import UserError

from .dicom_tags import broken_member, header_of, read_object, silent
from .dicom_values import picture_of, scale_of
from .limits import MAX_PIXELS
from .paths import Members, members, public_name

T = TypeVar("T")
_SIZES = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}  # markers of JPEG and JPEG-LS that come before the size of a frame
# On bad bytes other plugins for RLE panic and for JPEG-LS end the process; those for JPEG 2000 fail on signed streams.
_PLUGINS = {
    RLELossless: "pydicom", JPEG2000: "pylibjpeg", JPEG2000Lossless: "pylibjpeg",
    JPEGLSLossless: "pyjpegls", JPEGLSNearLossless: "pyjpegls",
}  # fmt: skip


def decoded(
    place: Path, member: str, files: Members, size: tuple[int, int], use: Callable[[Dataset, np.ndarray], T],
    count: int = 1, raw: bool = True,
) -> list[T]:  # fmt: skip
    """Decode the frames of one file, which must be `count` of `size`, and return what `use` makes of the object and each.

    They are as stored where `raw`, else colours are red, green and blue. `UserError` for anything wrong.
    """
    if member not in files:
        raise broken_member(place, member, "it is gone")
    compression = ""
    try:
        with files[member]() as file, silent():
            dataset = read_object(file)
            require_honest(dataset)
            syntax = dataset.file_meta.TransferSyntaxUID
            compression = str(syntax.name) if syntax.is_compressed else ""
            if left_aligned(dataset):
                why = f"its HighBit is {int(dataset.HighBit)} for {int(dataset.BitsStored)} bits stored, which shifts its values"
                raise broken_member(place, member, why)
            plugin = _PLUGINS.get(syntax, "")
            frames = [np.asarray(pixels) for pixels in iter_pixels(dataset, raw=raw, decoding_plugin=plugin)]
            shapes = [pixels.shape if raw else pixels.shape[:2] for pixels in frames]
            if shapes == [size] * count:
                return [use(dataset, pixels) for pixels in frames]
    except UserError:
        raise
    except Exception as error:  # Every plugin raises its own exceptions.
        if compression and isinstance(error, RuntimeError):  # of pydicom: no plugin can; NotImplementedError is one too
            where = place if place.name == member else f"{place}: {public_name(member)}"
            got = f"{where} cannot be read (no decoder takes its pixels, {compression})"
            do = "save it without compression (gdcmconv --raw), or copy it again"
            raise UserError(got, "intact pixels that a decoder takes", do) from None
        raise broken_member(place, member, f"{type(error).__name__} while its pixels were decoded") from None
    raise broken_member(place, member, "its pixels do not have the size its tags say")


def picture_size(path: Path) -> tuple[int, int]:
    """Return (H, W) of a plain image; `UserError` for several frames or an absurd size."""
    with members(path) as files:
        header = header_of(path, path.name, files)
    frames, size = str(header.get("NumberOfFrames") or 1), (int(header.Rows), int(header.Columns))
    if frames != "1":
        raise UserError(f"{path} has several frames", "one image per file", "save each frame as its own file")
    if size[0] * size[1] > MAX_PIXELS:
        raise broken_member(path, path.name, f"its header claims {size[0]} x {size[1]} pixels")
    return size


def read_picture(path: Path) -> np.ndarray:
    """Read a plain image, see `dicom_values.picture_of`; `UserError` like `decoded`, `picture_size` and `scale_of`."""

    def use(dataset: Dataset, pixels: np.ndarray) -> np.ndarray:
        scale_of(path, dataset, ct=False)
        return picture_of(dataset, pixels)

    with members(path) as files:
        return decoded(path, path.name, files, picture_size(path), use, raw=False)[0]


def require_honest(dataset: Dataset) -> None:
    """Raise `ValueError` when a compressed frame claims another size than the tags; decoders allocate what it claims."""
    if not dataset.file_meta.TransferSyntaxUID.is_compressed:
        return
    expected = int(dataset.Rows), int(dataset.Columns)
    for frame in generate_frames(dataset.PixelData, number_of_frames=int(dataset.get("NumberOfFrames") or 1)):
        if size_of_frame(frame) not in (None, expected):
            raise ValueError("a frame of another size")


def left_aligned(dataset: Dataset) -> bool:
    """Return whether the words of uncompressed pixels end in bits that are not stored; pydicom takes no notice of HighBit."""
    shift, syntax = (
        int(dataset.get("HighBit") or 0) + 1 - int(dataset.get("BitsStored") or 0),
        dataset.file_meta.TransferSyntaxUID,
    )
    if syntax.is_compressed or "PixelData" not in dataset or dataset.get("BitsAllocated") != 16 or not 0 < shift < 16:
        return False
    words = np.frombuffer(dataset.PixelData[: len(dataset.PixelData) // 2 * 2], "<u2" if syntax.is_little_endian else ">u2")
    return bool(words.any() and not (words & ((1 << shift) - 1)).any())


def size_of_frame(frame: bytes) -> tuple[int, int] | None:
    """Return (rows, columns) from the header of a JPEG, JPEG-LS or JPEG 2000 frame; None where it has none."""
    if (start := frame[:4096].find(b"\xff\x4f\xff\x51")) >= 0:
        right, bottom, left, top = struct.unpack_from(">4I", frame, start + 8)
        return bottom - top, right - left
    if not frame.startswith(b"\xff\xd8"):
        return None
    at = 2
    while at + 9 < len(frame) and frame[at] == 0xFF:
        if frame[at + 1] in _SIZES:
            return struct.unpack_from(">2H", frame, at + 5)
        at += 1 if frame[at + 1] == 0xFF else 2 + struct.unpack_from(">H", frame, at + 2)[0]
    return None
