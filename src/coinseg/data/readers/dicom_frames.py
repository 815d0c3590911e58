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
from .dicom_values import number, picture_of, require_scale
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
    place: Path, member: str, files: Members, use: Callable[[Dataset, list[np.ndarray]], T], raw: bool = True
) -> T:  # fmt: skip
    """Decode all frames of one file; `UserError` when that fails.

    Args:
        place: the scan.
        member: the file in it.
        files: its files.
        use: gets the object and its frames, as stored, and what it returns is returned.
        raw: else colours are turned to red, green and blue.
    """
    if member not in files:
        raise broken_member(place, member, "it is gone")
    try:
        with files[member]() as file, silent():
            dataset = read_object(file)
            require_honest(dataset)
            plugin = _PLUGINS.get(dataset.file_meta.TransferSyntaxUID, "")
            frames = [np.asarray(pixels) for pixels in iter_pixels(dataset, raw=raw, decoding_plugin=plugin)]
            return use(dataset, frames)
    except UserError:
        raise
    except Exception as error:  # Every plugin raises its own exceptions.
        raise broken_member(place, member, f"{type(error).__name__} while its pixels were decoded") from None


def picture_size(path: Path) -> tuple[int, int]:
    """Return (H, W) of a plain image; `UserError` for several frames or an absurd size."""
    with members(path) as files:
        header = header_of(path, path.name, files)
    try:
        frames, size = int(header.get("NumberOfFrames") or 1), (int(header.Rows), int(header.Columns))
    except Exception as error:  # Tags become numbers here and may be anything.
        raise broken_member(path, path.name, f"{type(error).__name__} in its size") from None
    if frames != 1:
        raise UserError(f"{path} has {frames} frames", "one image per file", "save each frame as its own file")
    if size[0] * size[1] > MAX_PIXELS:
        raise broken_member(path, path.name, f"its header claims {size[0]} x {size[1]} pixels")
    return size


def read_picture(path: Path) -> np.ndarray:
    """Read a plain image, see `dicom_values.picture_of`; `UserError` like `decoded` and `picture_size`."""

    def scale(dataset: Dataset) -> None:
        slope, inter = number(dataset.get("RescaleSlope"), 1.0), number(dataset.get("RescaleIntercept"), 0.0)
        require_scale(path, public_name(path.name), slope, inter, ct=False)

    def use(dataset: Dataset, frames: list[np.ndarray]) -> np.ndarray:
        if [frame.shape[:2] for frame in frames] != [size]:
            raise broken_member(path, path.name, "its pixels do not have the size its tags say")
        return picture_of(dataset, frames[0], scale)

    size = picture_size(path)
    with members(path) as files:
        return decoded(path, path.name, files, use, raw=False)


def require_honest(dataset: Dataset) -> None:
    """Raise `ValueError` when a compressed frame claims another size than the tags; decoders allocate what it claims."""
    if not dataset.file_meta.TransferSyntaxUID.is_compressed:
        return
    expected = int(dataset.Rows), int(dataset.Columns)
    for frame in generate_frames(dataset.PixelData, number_of_frames=int(dataset.get("NumberOfFrames") or 1)):
        if size_of_frame(frame) not in (None, expected):
            raise ValueError("a frame of another size")


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
