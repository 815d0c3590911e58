"""Which voxels of a mask a stroke flips, and masks as the bytes that are kept of them."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

from coinseg.errors import UserError
from coinseg.types import ScanMask

Box = tuple[int, int, int, int, int, int]
"""First and behind the last index of slices, rows and columns."""


@dataclass(frozen=True)
class Change:
    """The voxels inside `box` that flip, `flips` (slices, rows, columns) bool; applied twice it undoes itself."""

    box: Box
    flips: np.ndarray

    @classmethod
    def between(cls, before: ScanMask, after: ScanMask) -> Change | None:
        """What turns one mask into another of the same shape; None where they are equal."""
        return cls.of_flips((0, 0, 0), before ^ after)

    @classmethod
    def of_flips(cls, corner: tuple[int, int, int], flips: np.ndarray) -> Change | None:
        """The change of `flips`, which begin at the voxel `corner`, cut to what flips; None where nothing does."""
        box: list[int] = []
        for axis in range(3):
            found = np.flatnonzero(flips.any(tuple(other for other in range(3) if other != axis)))
            if not len(found):
                return None
            box += [int(found[0]), int(found[-1]) + 1]
        z0, z1, y0, y1, x0, x1 = box
        z, y, x = corner
        return cls((z0 + z, z1 + z, y0 + y, y1 + y, x0 + x, x1 + x), flips[z0:z1, y0:y1, x0:x1])

    def apply(self, mask: ScanMask) -> int:
        """Flip the voxels of a mask in place; how many more are inside then."""
        z0, z1, y0, y1, x0, x1 = self.box
        part = mask[z0:z1, y0:y1, x0:x1]
        part ^= self.flips
        return int(2 * np.count_nonzero(part & self.flips) - np.count_nonzero(self.flips))

    def fits(self, shape: tuple[int, int, int]) -> bool:
        """Whether the box lies inside a mask of this shape and is as large as the flips."""
        starts, ends = self.box[::2], self.box[1::2]
        return all(0 <= a < b <= n for a, b, n in zip(starts, ends, shape, strict=True)) and self.flips.shape == tuple(
            b - a for a, b in zip(starts, ends, strict=True)
        )


def packed(mask: np.ndarray) -> bytes:
    """A bool array as compressed bits."""
    return zlib.compress(np.packbits(mask).tobytes(), 1)


def unpacked(data: bytes, shape: tuple[int, ...]) -> np.ndarray:
    """The bool array of `packed`; `UserError` where the bytes are not those of an array of this shape."""
    count = int(np.prod(shape, dtype=np.int64))
    expected = -(-count // 8)
    try:
        inflater = zlib.decompressobj()
        raw = inflater.decompress(data, expected + 1)  # no bomb unfolds
    except zlib.error as error:
        raise _damaged(str(error)) from error
    if len(raw) != expected or not inflater.eof:
        raise _damaged(f"{len(raw)} bytes for {shape}")
    return np.unpackbits(np.frombuffer(raw, np.uint8), count=count).view(bool).reshape(shape)


def _damaged(why: str) -> UserError:
    return UserError(
        f"a mask kept by the desk is damaged ({why})", "the bytes that were kept", "put back a copy of review.sqlite"
    )
