"""The counterfactual and the difference map of a scan in Hounsfield units, on the scan's own grid."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from .config import Axis
from .data.axes import turned
from .data.cutting import Box, Cut
from .data.intensity import Window
from .types import Scan

UNTOUCHED_HU = 0.5
"""Voxels that change by less keep the value of the source exactly; whole Hounsfield units could not show it."""


@dataclass
class NativeMaps:
    """What was painted over and how much it matters. Kept as prepared slices: a map of the whole scan is made when it is asked for.

    Args:
        scan: the source, canonical (slices, H, W).
        axis: along which it was cut.
        window: of the run, in HU.
    """

    scan: Scan
    axis: Axis
    window: Window
    _painted: list[tuple[int, Box, np.ndarray, np.ndarray]] = field(default_factory=list, init=False, repr=False)

    def add(self, cut: Cut, change: np.ndarray, refined: np.ndarray) -> None:
        """Take one prepared slice.

        Args:
            cut: where the slice lies.
            change: X_cf - X on [0, 1] images, (S, S), in [-1, 1].
            refined: refined difference in [0, 1], (S, S).
        """
        if change.any() or refined.any():
            self._painted.append((cut.index, cut.box, change, refined.astype(np.float32)))

    @property
    def counterfactual(self) -> Scan:
        """HU in the type of the scan, canonical (slices, H, W); exactly the scan where nothing was painted. Made anew at every use.

        The change is added to the source, so values outside the window, which the generator saw at its edge, keep what they
        have beyond it (bone stays bone, air stays air, unless the change is large).
        """
        whole = self.scan.copy()
        source, target = turned(self.scan, self.axis), turned(whole, self.axis)
        for index, box, change, _ in self._painted:
            native = source[index]
            pasted = box.paste(change * self._width, native.shape)
            touched = np.abs(pasted) >= UNTOUCHED_HU
            painted = native.astype(np.float32) + pasted
            if native.dtype.kind in "iu":
                limits = np.iinfo(native.dtype)
                painted = np.clip(np.rint(painted), limits.min, limits.max)
            target[index][touched] = painted[touched].astype(native.dtype)
        return whole

    @property
    def difference(self) -> Scan:
        """The refined difference that masks are read from, float32 HU, 0 and more, canonical. Made anew at every use."""
        whole = np.zeros(self.scan.shape, np.float32)
        target = turned(whole, self.axis)
        for index, box, _, refined in self._painted:
            np.maximum(target[index], box.paste(refined * self._width, target.shape[1:]), out=target[index])
        return whole

    @property
    def _width(self) -> float:
        return self.window.high - self.window.low
