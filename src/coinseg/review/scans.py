"""Scans as the page draws them: one slice of one plane at a time, the last few kept in memory, the next one read ahead."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np

from coinseg.config.schema import Axis
from coinseg.data.readers.axes import reordered, turned
from coinseg.data.readers.geometry import Geometry
from coinseg.data.readers.image import image_size, read_image, read_shown
from coinseg.data.readers.image_mask import read_image_region, read_marked
from coinseg.data.readers.paths import parts_of, sha256_of
from coinseg.data.readers.volume import read_mask, read_volume
from coinseg.errors import UserError
from coinseg.types import MaskSource, Scan, ScanMask

from .sources import Draft

PLANES: tuple[Axis, ...] = ("axial", "coronal", "sagittal")
MOST_SOLID = 160
MOST_BYTES = 400 * 2**20
"""Of scans and maps that are kept; the one that is looked at is kept whatever its size."""


@dataclass(frozen=True)
class OpenedScan:
    """A case in memory: `scan` canonical (slices, H, W), or (1, H, W, 3) uint8 in colour; `geometry` None for a plain image."""

    scan: np.ndarray
    geometry: Geometry | None
    modality: str

    @property
    def shape(self) -> tuple[int, int, int]:
        """(slices, H, W)."""
        return self.scan.shape[0], self.scan.shape[1], self.scan.shape[2]

    @property
    def spacing(self) -> tuple[float, float, float]:
        """(dz, dy, dx) in mm; ones for a plain image."""
        return self.geometry.spacing if self.geometry else (1.0, 1.0, 1.0)


def open_scan(draft: Draft) -> OpenedScan:
    """Read the image of a case; `UserError` where it is gone, cannot be read or is another than its mask was made of."""
    image, do = draft.image, "put it back, or name its folder with --data or --scans"
    if not parts_of(image):
        raise UserError(f"{image} is gone", "the scan of the mask", do)
    if draft.digest is not None and sha256_of(image) != draft.digest:
        raise UserError(f"{image} is not the scan its mask was made of", "the same file", "segment it again")
    if not draft.record.volume:
        return OpenedScan(read_shown(image)[None], None, "")
    volume = read_volume(image)
    return OpenedScan(volume.scan, volume.geometry, volume.modality)


def read_region_of(path: Path, geometry: Geometry | None, shape: tuple[int, int, int]) -> ScanMask:
    """Read a mask of a case, (slices, H, W) bool; `UserError` where it does not lie on the grid of the scan."""
    if geometry is not None:
        return read_mask(MaskSource(path), geometry)
    return cast(ScanMask, read_marked(path, shape[1:])[None])


def read_truth(draft: Draft, opened: OpenedScan) -> ScanMask:
    """The union of the true masks of a case."""
    whole = np.zeros(opened.shape, bool)
    for source in draft.lesion:
        if opened.geometry is not None:
            whole |= read_mask(source, opened.geometry)
        else:
            whole |= read_image_region(source.path, opened.shape[1:], source.values)[0][None]
    return whole


def read_confidence(draft: Draft, opened: OpenedScan) -> Scan:
    """The confidence of every voxel, uint8 percent, (slices, H, W); `UserError` where it has another shape."""
    path = cast(Path, draft.confidence)
    if opened.geometry is None:
        values = read_image(path)[None] if image_size(path) == opened.shape[1:] else np.zeros((0, 0, 0))
    else:
        values = read_volume(path).scan
    if values.shape != opened.shape:
        raise UserError(f"{path} has shape {values.shape}", f"that of its scan, {opened.shape}", "segment the scan again")
    return np.clip(values, 0, 100).astype(np.uint8)


def plane_of(volume: np.ndarray, plane: Axis, index: int) -> np.ndarray:
    """One slice (rows, columns) of a canonical array; `UserError` where it has no such slice."""
    view = volume if volume.ndim == 4 else turned(volume, plane)
    if plane not in PLANES or not 0 <= index < len(view):
        raise UserError(f"slice {index} of {len(view)}", "one that is there", "load the page again")
    return np.asarray(view[index])


def count_in(shape: tuple[int, int, int], plane: Axis) -> tuple[int, int, int]:
    """Slices, rows and columns of a plane."""
    return reordered(shape, plane)


def window_of(scan: np.ndarray, hounsfield: bool) -> tuple[float, float]:
    """The first window: the soft tissue of CT, else from the 0.5 to the 99.5 percentile of some slices."""
    if scan.ndim == 4:
        return 0.0, 255.0
    if hounsfield:
        return -160.0, 240.0
    some = scan[:: max(1, len(scan) // 8), ::2, ::2]
    low, high = (float(value) for value in np.percentile(some, [0.5, 99.5]))
    return (low, high) if high > low else (float(some.min()), float(some.min()) + 1.0)


def solid_of(scan: Scan, mask: ScanMask, spacing: tuple[float, float, float], window: tuple[float, float]) -> np.ndarray:
    """Scan and mask with even voxels, at most `MOST_SOLID` a side: (2, depth, height, width) uint8, from the top down.

    Args:
        scan, mask: canonical (slices, H, W).
        spacing: (dz, dy, dx) in mm.
        window: values of 0 and 255.
    """
    step = max(n * s for n, s in zip(scan.shape, spacing, strict=True)) / MOST_SOLID
    sides = [max(1, round(n * s / step)) for n, s in zip(scan.shape, spacing, strict=True)]
    at = [np.minimum((np.arange(side) + 0.5) * n / side, n - 1).astype(int) for side, n in zip(sides, scan.shape, strict=True)]
    grey = np.clip((scan[np.ix_(*at)] - window[0]) / (window[1] - window[0]), 0, 1)
    inside = np.zeros(sides, np.uint8)
    z, y, x = (np.minimum(axis * side // n, side - 1) for axis, side, n in zip(np.nonzero(mask), sides, mask.shape, strict=True))
    inside[z, y, x] = 255  # a lesion of one voxel is seen, too
    return np.stack([np.rint(255 * grey).astype(np.uint8), inside])[:, ::-1]


class Kept:
    """Values by name, the last used ones; each is made once, also where two threads ask for it, or ahead of time."""

    def __init__(self, most: int = MOST_BYTES) -> None:
        self._most, self._lock = most, threading.RLock()
        self._made: OrderedDict[tuple[str, str], Future[np.ndarray | OpenedScan]] = OrderedDict()
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="read")

    def get(self, what: str, key: str, make: Callable[[], np.ndarray | OpenedScan]) -> np.ndarray | OpenedScan:
        """The value; what `make` raises is raised, and it is tried again the next time."""
        future = self.ahead(what, key, make)
        try:
            return future.result()
        except BaseException:
            with self._lock:
                if self._made.get((what, key)) is future:
                    del self._made[what, key]
            raise
        finally:
            self._trim(key)

    def ahead(self, what: str, key: str, make: Callable[[], np.ndarray | OpenedScan]) -> Future[np.ndarray | OpenedScan]:
        """Begin to make a value, where it is not there yet; room is made for it first."""
        with self._lock:
            if (what, key) not in self._made:
                used = next(reversed(self._made), ("", ""))[1]
                self._trim(used, max(map(_bytes, self._made.values()), default=0))
                self._made[what, key] = self._pool.submit(make)
            self._made.move_to_end((what, key))
            return self._made[what, key]

    def _trim(self, case: str, room: int = 0) -> None:
        """Let go of what was used longest ago, until there is `room`, but not of what belongs to the case that is looked at."""
        with self._lock:
            sizes = {name: _bytes(future) for name, future in self._made.items()}
            total = sum(sizes.values())
            for name, size in sizes.items():
                if total <= self._most - room:
                    break
                if name[1] != case and size:
                    del self._made[name]
                    total -= size

    def close(self) -> None:
        """Stop reading ahead."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _bytes(future: Future[np.ndarray | OpenedScan]) -> int:
    if not future.done() or future.cancelled() or future.exception() is not None:
        return 0
    value = future.result()
    return value.scan.nbytes if isinstance(value, OpenedScan) else value.nbytes
