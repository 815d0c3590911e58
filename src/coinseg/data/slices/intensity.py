"""Intensities: the foreground fingerprint (Hounsfield units) or percentiles, onto [0, 1] and [-1, 1].

Slices are stored as 16-bit integers with one window for the whole store: CT in Hounsfield units, other images scaled by their
own percentiles.
"""

from dataclasses import dataclass

import numpy as np

LOW_PERCENTILE, HIGH_PERCENTILE = 0.5, 99.5
HU_MIN, HU_MAX = -1024, 3071
BODY_HU = -500  # voxels above this are the body; without an organ mask they are the foreground
BLACK = -0.9  # of images in [-1, 1] that are not CT: the ground around the body is up to this
CODES = 65535
BYTE = (0.0, 255.0)  # range of an 8-bit image


@dataclass(frozen=True)
class Window:
    """Stored values (HU, or codes of `encode_percentiles`) `low` and below become 0, `high` and above become 1."""

    low: float
    high: float

    def unit(self, stored: np.ndarray) -> np.ndarray:
        """Stored values of any shape -> float32 in [0, 1]."""
        values = stored.astype(np.float32)
        values -= np.float32(self.low)  # in place: a batch is gone through in the cache, not copied again and again
        values /= np.float32(self.high - self.low)
        return np.clip(values, 0, 1, out=values)

    def source(self, unit: np.ndarray) -> np.ndarray:
        """The inverse of `unit` inside the window."""
        return unit * (self.high - self.low) + self.low


def signed(unit: np.ndarray) -> np.ndarray:
    """[0, 1] -> [-1, 1], the range of the networks."""
    return unit * 2 - 1


def foreground_histogram(scan: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """Count the HU inside the mask, or above `BODY_HU` where there is none: (HU_MAX - HU_MIN + 1,)."""
    counts = np.zeros(HU_MAX - HU_MIN + 1, np.int64)
    for plane, inside in zip(scan, scan > BODY_HU if mask is None else mask, strict=True):  # Codes are 8 bytes a voxel.
        codes = np.clip(np.rint(plane[inside]), HU_MIN, HU_MAX).astype(np.int64) - HU_MIN
        counts += np.bincount(codes, minlength=len(counts))
    return counts


def fingerprint(histogram: np.ndarray) -> Window:
    """Return the 0.5 and 99.5 percentiles of the foreground, as nnU-Net clips CT (thesis 3.6; Isensee et al. 2021)."""
    share = np.cumsum(histogram) / max(histogram.sum(), 1)
    low, high = (int(np.searchsorted(share, percentile / 100)) + HU_MIN for percentile in (LOW_PERCENTILE, HIGH_PERCENTILE))
    return Window(float(low), float(max(high, low + 1)))


def percentiles(image: np.ndarray) -> tuple[float, float]:
    """Return the 0.5 and 99.5 percentiles of an image in any unit; its extremes where these are one."""
    low, high = np.percentile(image, [LOW_PERCENTILE, HIGH_PERCENTILE])
    return (low, high) if high > low else (float(image.min()), float(image.max()))


def encode_percentiles(image: np.ndarray, limits: tuple[float, float] | None = None) -> np.ndarray:
    """Image in any unit -> codes 0..65535 between `limits`, its `percentiles` by default; 0 where it has no range."""
    low, high = limits or percentiles(image)
    scaled = np.zeros_like(image, dtype=np.float64) if high <= low else (image - low) / (high - low)
    return np.rint(np.clip(scaled, 0, 1) * CODES)


CODE_WINDOW = Window(0.0, float(CODES))
