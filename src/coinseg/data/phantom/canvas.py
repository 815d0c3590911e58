"""The canvas of the phantom: implicit 3-D shapes, roughened by smooth noise, painted over each other.

A shape is a signed distance in mm (positive inside). The origin of the coordinates is between the kidneys: x grows to the
patient's left (right in the picture), y to the back (down), z to the head.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

FOV_MM = 380.0
RECORD, LAST = "phantom.json", "meta.csv"  # the first and the last file of a cohort
TUMOUR_PIXELS = 12  # least number of tumour pixels in an abnormal slice
ORGANS = ("kidney_left", "kidney_right", "liver", "spleen", "aorta")
LESIONS = ("kidney_tumor", "kidney_cyst")
BIT = {name: np.uint8(1 << i) for i, name in enumerate(ORGANS + LESIONS)}
KIDNEYS = int(BIT["kidney_left"] | BIT["kidney_right"])
AIR, FAT, MUSCLE, GAS = -1000.0, -100.0, 55.0, -900.0

Box = tuple[slice, slice, slice]
Point = Sequence[Any]  # (x, y, z) in mm: numbers, or arrays that broadcast


@dataclass(frozen=True)
class PhantomSettings:  # the command line shows this docstring
    """The settings of a phantom cohort.

    Args:
        patients: number of patients.
        slices: slices of each scan, which always spans the kidneys and a little more.
        size: side of a slice in pixels; the field of view stays 380 mm.
        lesions: "masses" gives about half of the patients kidney tumours, which their labels are of, and, independently, half of
            them cysts; "classes" gives the same scans with labels of both, as two classes.
        seed: seed of all random choices.
    """

    patients: int = 24
    slices: int = 40
    size: int = 256
    lesions: Literal["none", "masses", "classes"] = "none"
    seed: int = 0


class Canvas:
    """One scan and its masks while they are painted.

    Args:
        rng: the random generator of the patient.
        settings: size and slices are read.
        span: height of the scan in mm.
        shift: (x, y, z) of the centre of the scan in mm.
    """

    def __init__(self, rng: np.random.Generator, settings: PhantomSettings, span: float, shift: Point) -> None:
        self.rng = rng
        self.shape = (settings.slices, settings.size, settings.size)
        pixel = FOV_MM / settings.size
        self.spacing = (span / settings.slices, pixel, pixel)
        grids = zip(self.shape, self.spacing, shift[::-1], strict=True)
        self.axes = [(((np.arange(n) - (n - 1) / 2) * step) + middle).astype(np.float32) for n, step, middle in grids]
        self.hu = np.full(self.shape, AIR, np.float32)
        self.bits = np.zeros(self.shape, np.uint8)
        self.inside = np.full(self.shape, -99, np.float32)  # distance into the abdominal cavity, set by `paint_body`

    def box(self, low: Point, high: Point) -> Box:
        """Return the smallest box of pixels around two corners (x, y, z) in mm."""
        pairs = zip(self.axes, low[::-1], high[::-1], strict=True)
        ends = [(np.searchsorted(axis, a), np.searchsorted(axis, b)) for axis, a, b in pairs]
        return tuple(slice(int(a), int(b)) for a, b in ends)  # type: ignore[return-value]

    def coordinates(self, box: Box, centre: Point = (0.0, 0.0, 0.0)) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return x, y, z in mm relative to a centre, which broadcast over the box."""
        z, y, x = (axis[s] - np.float32(c) for axis, s, c in zip(self.axes, box, centre[::-1], strict=True))
        return x[None, None, :], y[None, :, None], z[:, None, None]

    def field(self, box: Box, cell: float, tall: float = 1.0) -> np.ndarray:
        """Draw smooth noise of mean 0 and deviation about 1: a cubic B-spline on a grid of `cell` mm (times `tall` in z)."""
        axes = [axis[s] / (cell * stretch) for axis, s, stretch in zip(self.axes, box, (tall, 1, 1), strict=True)]
        if any(len(axis) == 0 for axis in axes):
            return np.zeros([len(axis) for axis in axes], np.float32)
        shape = [int(axis[-1] - axis[0]) + 5 for axis in axes]
        out = self.rng.standard_normal(shape, np.float32) * np.float32(3.0)
        for dim in (2, 1):  # four taps an axis rather than BLAS: the same bits whatever the number of threads
            first, taps = _taps(axes[dim])
            wide = (1, -1, 1) if dim == 1 else (1, 1, -1)
            out = sum(out.take(first + k, dim) * taps[k].reshape(wide) for k in range(4))
        first, taps = _taps(axes[0])
        whole = np.empty((len(first), *out.shape[1:]), np.float32)
        for i, plane in enumerate(whole):  # slice by slice stays in the cache
            np.multiply(out[first[i]], taps[0, i], out=plane)
            for k in (1, 2, 3):
                plane += out[first[i] + k] * taps[k, i]
        return whole

    def strands(self, box: Box, cell: float, width: float) -> np.ndarray:
        """Draw branching tubes in [0, 1]: the curves on which two smooth fields are both 0."""
        return np.clip(1.5 - np.hypot(self.field(box, cell, 1.5), self.field(box, cell, 1.5)) / width, 0, 1)

    def blob(
        self, centre: Point, radii: Point, turn: float = 0.0, lump: float = 0.0, cell: float = 25.0, pad: float = 4.0
    ) -> tuple[Box, np.ndarray]:
        """Return the box and the signed distance in mm of an ellipsoid.

        Args:
            centre: (x, y, z) in mm.
            radii: of the three axes in mm.
            turn: angle about z in radians.
            lump: amplitude of the roughness in mm.
            cell: scale of the roughness in mm.
            pad: margin of the box in mm.
        """
        wide = float(np.hypot(*radii[:2]) if turn else 0.0)
        reach = [max(r, wide * (i < 2)) + pad + 2 * lump for i, r in enumerate(radii)]
        box = self.box(*(tuple(c + s * r for c, r in zip(centre, reach, strict=True)) for s in (-1, 1)))
        x, y, z = self.coordinates(box, centre)
        u, v = x * math.cos(turn) + y * math.sin(turn), y * math.cos(turn) - x * math.sin(turn)
        distance = ellipsoid(u, v, z, radii)
        if lump:
            distance += np.float32(lump) * self.field(box, cell)
        return box, distance

    def tube(self, points: np.ndarray, radius: float, pad: float = 4.0) -> tuple[Box, np.ndarray]:
        """Return the box and the signed distance in mm of a tube along a polyline (n, 3), with `pad` mm of margin."""
        reach = radius + pad
        box = self.box(tuple(points.min(0) - reach), tuple(points.max(0) + reach))
        x, y, z = self.coordinates(box)
        best = np.float32(1e9)
        for start, end in zip(points[:-1].astype(np.float32), points[1:].astype(np.float32), strict=True):
            way = end - start
            px, py, pz = x - start[0], y - start[1], z - start[2]
            t = np.clip((px * way[0] + py * way[1] + pz * way[2]) / max(float(way @ way), 1e-3), 0, 1)
            best = np.minimum(best, (px - t * way[0]) ** 2 + (py - t * way[1]) ** 2 + (pz - t * way[2]) ** 2)
        return box, radius - np.sqrt(best)

    def paint(
        self, box: Box, distance: np.ndarray, hu: float | np.ndarray, name: str = "", keep: int = 0, limit: float | None = None
    ) -> None:
        """Paint the inside of a shape, and remove its pixels from all other masks.

        Args:
            box: the part of the scan.
            distance: signed distance of the shape in mm, on the box.
            hu: Hounsfield units.
            name: the mask that gets the pixels.
            keep: bits of the masks that keep them.
            limit: smallest distance to the wall of the abdominal cavity in mm.
        """
        if limit is not None:
            distance = np.minimum(distance, self.inside[box] - np.float32(limit))
        alpha = np.clip(distance / np.float32(1.2 * self.spacing[1]) + np.float32(0.5), 0, 1)
        self.hu[box] += alpha * (hu - self.hu[box])
        bits = self.bits[box]
        if name or bits.any():
            np.copyto(bits, (bits & np.uint8(keep)) | BIT.get(name, np.uint8(0)), where=alpha > 0.5)


def _taps(places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the first node (n,) and the four cubic B-spline weights (4, n) of ascending positions, relative to the first."""
    places = places - places[0]
    first = places.astype(int)
    t = (places - first).astype(np.float32)
    return first, np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3]) / np.float32(6)


def ellipsoid(x: np.ndarray, y: np.ndarray, z: np.ndarray, radii: Point) -> np.ndarray:
    """Return the approximate distance into an ellipsoid in mm, exact to first order at its surface."""
    a, b, c = (np.asarray(r, np.float32) for r in radii)
    near = np.sqrt((x / a) ** 2 + (y / b) ** 2 + (z / c) ** 2) + np.float32(1e-4)
    slope = np.sqrt((x / a**2) ** 2 + (y / b**2) ** 2 + (z / c**2) ** 2) + np.float32(1e-4)
    return near * (1 - near) / slope
