"""The counterfactual and the difference map of a scan in Hounsfield units, on the scan's own grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .data.cutting import Cut
from .data.intensity import Window
from .types import Scan

UNTOUCHED_HU = 0.5
"""Voxels that change by less keep the value of the source exactly; whole Hounsfield units could not show it."""


@dataclass(frozen=True)
class NativeMaps:
    """What was painted over and how much it matters, canonical (slices, H, W).

    Args:
        counterfactual: HU in the type of the scan; exactly the scan where nothing was painted.
        difference: the refined difference that masks are read from, float32 HU, 0 and more.
    """

    counterfactual: Scan
    difference: np.ndarray

    @classmethod
    def of(cls, scan: Scan) -> NativeMaps:
        """Of a scan nothing has been painted on."""
        return cls(scan.copy(), np.zeros(scan.shape, np.float32))

    def paint(self, scan: Scan, cut: Cut, change: np.ndarray, refined: np.ndarray, window: Window) -> None:
        """Paste one prepared slice.

        The change is added to the source, so values outside the window, which the generator saw at its edge, keep what they
        have beyond it (bone stays bone, air stays air, unless the change is large).

        Args:
            scan: the source.
            cut: where the slice lies.
            change: X_cf - X on [0, 1] images, (S, S), in [-1, 1].
            refined: refined difference in [0, 1], (S, S).
            window: of the run, in HU.
        """
        width, native = window.high - window.low, scan[cut.index]
        pasted = cut.box.paste(change * width, (native.shape[0], native.shape[1]))
        touched = np.abs(pasted) >= UNTOUCHED_HU
        painted = native.astype(np.float32) + pasted
        if scan.dtype.kind in "iu":
            limits = np.iinfo(scan.dtype)
            painted = np.clip(np.rint(painted), limits.min, limits.max)
        self.counterfactual[cut.index][touched] = painted[touched].astype(scan.dtype)
        difference = self.difference[cut.index]
        np.maximum(difference, cut.box.paste(refined * width, (native.shape[0], native.shape[1])), out=difference)
