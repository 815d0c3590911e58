"""Maps on a scan's own grid: its counterfactual and the difference in Hounsfield units, and how far to trust each voxel of its mask."""

from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np

from coinseg.config.schema import Axis
from coinseg.data.readers.axes import turned
from coinseg.data.readers.volume import Sliced
from coinseg.data.slices.crop import Box, Cut
from coinseg.data.slices.intensity import Window
from coinseg.masks.confidence import percent
from coinseg.types import Scan

UNTOUCHED_HU = 0.5
"""Voxels that change by less keep the value of the source exactly; whole Hounsfield units could not show it."""


@dataclass(frozen=True)
class ConfidenceMap:
    """How far to trust that a voxel is inside, in percent (`confidence.of_pixels`); kept as prepared slices, painted when it is written.

    Args:
        shape: of the scan, canonical (slices, H, W).
        axis: along which it was cut.
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
        """See `confidence.percent`; where regions overlap the surer one counts. `np.asarray` makes the canonical volume of it."""
        return Sliced(self.shape, np.dtype(np.uint8), self.axis, self._slice)

    def _slice(self, index: int) -> np.ndarray:
        height, width = turned(np.broadcast_to(np.uint8(0), self.shape), self.axis).shape[1:]
        found = np.zeros((height, width), np.float32)
        for box, sure in self._painted.get(index, ()):
            np.maximum(found, box.paste(sure, (height, width)), out=found)
        return percent(found)


@dataclass(frozen=True)
class NativeMaps:
    """What was painted over and how much it matters.

    Prepared slices are kept, and both maps are painted from them one native slice at a time: a scan with both would be
    several times as large as the scan.

    Args:
        scan: the source, canonical (slices, H, W).
        axis: along which it was cut.
        window: of the run, in HU.
    """

    scan: Scan
    axis: Axis
    window: Window
    _painted: dict[int, list[tuple[Box, np.ndarray, np.ndarray]]] = field(default_factory=lambda: defaultdict(list), init=False)

    def add(self, cut: Cut, change: np.ndarray, refined: np.ndarray) -> None:
        """Take one prepared slice.

        Args:
            cut: where the slice lies.
            change: X_cf - X on [0, 1] images, (S, S), in [-1, 1].
            refined: refined difference in [0, 1], (S, S).
        """
        if change.any() or refined.any():
            self._painted[cut.index].append((cut.box, change, refined.astype(np.float32)))

    @property
    def counterfactual(self) -> Sliced:
        """HU in the type of the scan, exactly the scan where nothing was painted; `np.asarray` makes the canonical volume of it.

        The change is added to the source, so values outside the window, which the generator saw at its edge, keep what they
        have beyond it (bone stays bone, air stays air, unless the change is large).
        """
        return Sliced(self.scan.shape, self.scan.dtype, self.axis, self._counterfactual)

    @property
    def difference(self) -> Sliced:
        """The refined difference between scan and counterfactual, float32 HU, 0 and more; `np.asarray` as above.

        Without a student masks are read from it; a student draws them itself.
        """
        return Sliced(self.scan.shape, np.dtype(np.float32), self.axis, self._difference)

    def _counterfactual(self, index: int) -> np.ndarray:
        native = turned(self.scan, self.axis)[index]
        found = native.copy()
        for box, change, _ in self._painted.get(index, ()):
            pasted = box.paste(change * self._width, native.shape)
            touched = np.abs(pasted) >= UNTOUCHED_HU
            painted = native.astype(np.float32) + pasted
            if native.dtype.kind in "iu":
                limits = np.iinfo(native.dtype)
                painted = np.clip(np.rint(painted), limits.min, limits.max)
            found[touched] = painted[touched].astype(native.dtype)
        return found

    def _difference(self, index: int) -> np.ndarray:
        native = turned(self.scan, self.axis)[index]
        found = np.zeros(native.shape, np.float32)
        for box, _, refined in self._painted.get(index, ()):
            np.maximum(found, box.paste(refined * self._width, native.shape), out=found)
        return found

    @property
    def _width(self) -> float:
        return self.window.high - self.window.low
