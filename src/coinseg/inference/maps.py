"""Maps on a scan's own grid: its counterfactual and the difference in Hounsfield units, and the confidence of each voxel."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from coinseg.config.schema import Axis
from coinseg.data.readers.axes import turned
from coinseg.data.readers.volume import Sliced
from coinseg.data.slices.crop import Box, Cut
from coinseg.data.slices.intensity import Window
from coinseg.masks.confidence import percent
from coinseg.types import Scan

UNTOUCHED_HU = 0.5  # voxels that change by less keep the value of the source; whole Hounsfield units could not show it


def _highest(regions: Iterable[tuple[Box, np.ndarray]], height: int, width: int) -> np.ndarray:
    """One native slice, (height, width) float32: the highest value that any of its regions has; 0 outside of them."""
    native = np.zeros((height, width), np.float32)
    for box, values in regions:
        np.maximum(native, box.paste(values, (height, width)), out=native)
    return native


@dataclass(frozen=True)
class ConfidenceMap:
    """The confidence that a voxel is inside, in percent, of a scan of `shape` (slices, H, W) that was cut along `axis`.

    Prepared slices are kept, and a native slice is painted from them when it is written.
    """

    shape: tuple[int, ...]
    axis: Axis
    _painted: dict[int, list[tuple[Box, np.ndarray]]] = field(default_factory=lambda: defaultdict(list), init=False)

    def add(self, cut: Cut, sure: np.ndarray) -> None:
        """Take one prepared slice, (S, S) in [0, 1]."""
        if sure.any():
            self._painted[cut.index].append((cut.box, sure.astype(np.float16)))

    @property
    def percent(self) -> Sliced:
        """uint8; where regions overlap the surer one counts. `np.asarray` makes the canonical volume of it."""
        return Sliced(self.shape, np.dtype(np.uint8), self.axis, self._slice)

    def _slice(self, index: int) -> np.ndarray:
        height, width = turned(np.broadcast_to(np.uint8(0), self.shape), self.axis).shape[1:]
        return percent(_highest(self._painted.get(index, ()), height, width))


@dataclass(frozen=True)
class NativeMaps:
    """The counterfactual and the difference of a scan (slices, H, W), painted one native slice at a time to save memory.

    `axis` is the one along which it was cut, `window` that of the run, in HU.
    """

    scan: Scan
    axis: Axis
    window: Window
    _painted: dict[int, list[tuple[Box, np.ndarray, np.ndarray]]] = field(default_factory=lambda: defaultdict(list), init=False)

    def add(self, cut: Cut, change: np.ndarray, refined: np.ndarray) -> None:
        """Take one prepared slice (S, S): X_cf - X of [0, 1] images, in [-1, 1], and the refined difference in [0, 1]."""
        if change.any() or refined.any():
            self._painted[cut.index].append((cut.box, change, refined.astype(np.float32)))

    @property
    def counterfactual(self) -> Sliced:
        """HU in the type of the scan, exactly the scan where nothing was painted; `np.asarray` makes the volume of it.

        The change is added to the source, so bone and air outside the window stay what they are, unless the change is large.
        """
        return Sliced(self.scan.shape, self.scan.dtype, self.axis, self._counterfactual)

    @property
    def difference(self) -> Sliced:
        """The refined difference between scan and counterfactual, float32 HU, 0 and more; `np.asarray` as above."""
        return Sliced(self.scan.shape, np.dtype(np.float32), self.axis, self._difference)

    def _counterfactual(self, index: int) -> np.ndarray:
        native, range_hu = turned(self.scan, self.axis)[index], self.window.high - self.window.low
        result = native.copy()
        for box, change, _ in self._painted.get(index, ()):
            pasted = box.paste(change * range_hu, native.shape)
            touched = np.abs(pasted) >= UNTOUCHED_HU
            painted = native.astype(np.float32) + pasted
            if native.dtype.kind in "iu":
                limits = np.iinfo(native.dtype)
                painted = np.clip(np.rint(painted), limits.min, limits.max)
            result[touched] = painted[touched].astype(native.dtype)
        return result

    def _difference(self, index: int) -> np.ndarray:
        (height, width), range_hu = turned(self.scan, self.axis).shape[1:], self.window.high - self.window.low
        return _highest(((box, refined * range_hu) for box, _, refined in self._painted.get(index, ())), height, width)
