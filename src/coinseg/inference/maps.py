"""Maps on the grid of a scan or image: its counterfactual and the difference in its own units, the confidence of each voxel."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np

from coinseg.config.schema import Axis
from coinseg.data.readers.axes import turned
from coinseg.data.readers.volume import Sliced
from coinseg.data.slices.crop import Cut
from coinseg.masks.confidence import percent
from coinseg.masks.tiles import blended

UNTOUCHED, STEPS = 0.5, 512  # what changes by less than half a unit, or this part of the span, keeps the value of the source


def native_slice(pieces: Iterable[tuple[Cut, np.ndarray]], shape: tuple[int, int]) -> np.ndarray:
    """One native slice `shape`, float32: the highest value that any of its regions has, tiles blended; 0 outside of them."""
    pieces = list(pieces)
    if pieces and pieces[0][0].is_tile:
        return blended((cut.box.part(values, shape) for cut, values in pieces), shape)
    native = np.zeros(shape, np.float32)
    for cut, values in pieces:
        np.maximum(native, cut.box.paste(values, shape), out=native)
    return native


def summed(pieces: Iterable[tuple[Cut, np.ndarray]], shape: tuple[int, int]) -> np.ndarray:
    """The same of changes, which may be below 0: those of regions are added."""
    pieces = list(pieces)
    if pieces and pieces[0][0].is_tile:
        return native_slice(pieces, shape)
    return np.sum([np.zeros(shape, np.float32), *(cut.box.paste(values, shape) for cut, values in pieces)], axis=0)


@dataclass(frozen=True)
class ConfidenceMap:
    """The confidence that a voxel is inside, in percent, of a scan of `shape` (slices, H, W) that was cut along `axis`.

    Prepared slices are kept, and a native slice is painted from them when it is written.
    """

    shape: tuple[int, ...]
    axis: Axis
    _painted: dict[int, list[tuple[Cut, np.ndarray]]] = field(default_factory=lambda: defaultdict(list), init=False)

    def add(self, cut: Cut, sure: np.ndarray) -> None:
        """Take one prepared slice, (S, S) in [0, 1]."""
        if cut.is_tile or sure.any():  # a tile that is called normal has its say
            self._painted[cut.index].append((replace(cut, organ=None), sure.astype(np.float16)))

    @property
    def percent(self) -> Sliced:
        """uint8; where regions overlap the surer one counts. `np.asarray` makes the canonical volume of it."""
        return Sliced(self.shape, np.dtype(np.uint8), self.axis, lambda index: percent(self.sure(index)))

    def sure(self, index: int) -> np.ndarray:
        """One native slice, (H, W) float32 in [0, 1]; above 1/2 is inside."""
        height, width = turned(np.broadcast_to(np.uint8(0), self.shape), self.axis).shape[1:]
        return native_slice(self._painted.get(index, ()), (height, width))


@dataclass(frozen=True)
class NativeMaps:
    """The counterfactual and the difference of a scan or image in its own units, one native slice at a time to save memory.

    Args:
        scan: (slices, H, W), or (slices, H, W, 3) in colour.
        axis: along which it was cut.
        span: native units between 0 and 1 of prepared images: the window in HU, or the range of the percentiles.
    """

    scan: np.ndarray
    axis: Axis
    span: float
    _painted: dict[int, list[tuple[Cut, np.ndarray, np.ndarray]]] = field(default_factory=lambda: defaultdict(list), init=False)

    def add(self, cut: Cut, change: np.ndarray, refined: np.ndarray) -> None:
        """Take one prepared slice: X_cf - X, (C, S, S) in [-1, 1], and the refined difference (S, S), of images in [0, 1]."""
        if cut.is_tile or change.any() or refined.any():  # where nothing changes in a tile, that of its neighbours fades out
            self._painted[cut.index].append((replace(cut, organ=None), change, refined.astype(np.float32)))

    @property
    def counterfactual(self) -> Sliced:
        """Native units in the type of the scan, exactly the scan where nothing was painted; `np.asarray` makes the volume of it.

        The change is added to the source, so bone and air outside the window stay what they are, unless the change is large.
        """
        return Sliced(self.scan.shape, self.scan.dtype, self.axis, self._counterfactual)

    @property
    def difference(self) -> Sliced:
        """The refined difference between scan and counterfactual, float32 native units, 0 and more; `np.asarray` as above."""
        return Sliced(self.scan.shape[:3], np.dtype(np.float32), self.axis, self._difference)

    def _counterfactual(self, index: int) -> np.ndarray:
        native, untouched = turned(self.scan, self.axis)[index], min(UNTOUCHED, self.span / STEPS)
        result, pieces = native.copy(), self._painted.get(index, [])
        planes = [result] if result.ndim == 2 else list(np.moveaxis(result, 2, 0))
        together = [pieces] if pieces and pieces[0][0].is_tile else [[piece] for piece in pieces]
        for part in together:
            for channel, plane in enumerate(planes):
                changes = ((cut, change[channel] * self.span) for cut, change, _ in part)
                pasted = summed(changes, (plane.shape[0], plane.shape[1]))
                touched = np.abs(pasted) >= untouched
                painted = plane.astype(np.float32) + pasted
                if plane.dtype.kind in "iu":
                    limits = np.iinfo(plane.dtype)
                    painted = np.clip(np.rint(painted), limits.min, limits.max)
                plane[touched] = painted[touched].astype(plane.dtype)
        return result

    def _difference(self, index: int) -> np.ndarray:
        height, width = turned(self.scan, self.axis).shape[1:3]
        pieces = ((cut, refined * self.span) for cut, _, refined in self._painted.get(index, ()))
        return native_slice(pieces, (height, width))
