"""Sizes in the headers of compressed frames, checked before a decoder allocates memory for them; used by `dicom`."""

import struct

from pydicom import Dataset
from pydicom.encaps import generate_frames

_SIZES = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}  # markers of JPEG and JPEG-LS that come before the size of a frame


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
