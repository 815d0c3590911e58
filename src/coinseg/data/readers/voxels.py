"""The result of every reader of volumes, and the checks that all formats share."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from nibabel.orientations import io_orientation

from coinseg.errors import UserError

from .geometry import Geometry
from .limits import MAX_BYTES
from .paths import parts_of

LARGEST = 1e30  # differences and products of larger values leave the range of float32


@dataclass(frozen=True, eq=False)
class Opened:
    """A volume whose header was read and checked."""

    geometry: Geometry
    voxels: Callable[[], np.ndarray]  # reads the voxels as stored, in the shape of the geometry: int16 or float32, see `narrow`
    modality: str = ""  # what DICOM says it is ("CT", "MR"); "" where nothing says it


def broken(path: Path | str, why: object, what: str) -> UserError:
    """Return the error for a file with wrong content.

    Args:
        path: the file.
        why: what is wrong.
        what: the kind of file, such as "NIfTI file".
    """
    return UserError(f"{path} cannot be read ({why})", f"an intact {what}", "copy or download it again, or leave it out")


def require_three(path: Path, shape: tuple[int, ...]) -> None:
    """Raise `UserError` unless the shape has three axes; further axes may have length 1."""
    if len(shape) < 3 or any(side != 1 for side in shape[3:]):
        got, required = f"{path} has {len(shape)} dimensions {shape}", "one three-dimensional volume"
        raise UserError(got, required, "split the series or leave it out")


def require_fits(path: Path, shape: tuple[int, ...], itemsize: int) -> int:
    """Return the bytes of voxels that a header claims; `UserError` when they are more than `MAX_BYTES`."""
    claimed = math.prod(shape) * itemsize
    if claimed > MAX_BYTES:
        got = f"{path} claims {claimed / 2**30:.1f} GiB of voxels, shape {shape}"
        raise UserError(got, f"at most {MAX_BYTES // 2**30} GiB", "check its header; crop the volume or leave it out")
    return claimed


def require_plausible(path: Path, shape: tuple[int, ...], itemsize: int, most: int, what: str) -> None:
    """Raise `UserError` when a header claims an empty volume, or more voxels than its file can hold.

    Args:
        path: the file.
        shape: the shape that the header claims.
        itemsize: bytes of a voxel.
        most: bytes that a byte of the file may unpack to.
        what: the kind of file, as in `broken`.
    """
    if min(shape) < 1:
        raise broken(path, f"its header claims the shape {shape}", what)
    claimed, size = require_fits(path, shape, itemsize), sum(file.stat().st_size for file in parts_of(path))
    if claimed > size * most:
        raise broken(path, f"{size} bytes cannot hold the {claimed} bytes of voxels its header claims", what)


def invertible(affine: np.ndarray) -> bool:
    """Return whether an affine (4, 4) can be turned to its closest axes and back."""
    unit = np.abs(affine[:3, :3]).max()  # of the axes, which may be in metres
    flat = not np.isfinite(affine).all() or unit < 1e-9 or abs(np.linalg.det(affine[:3, :3] / unit)) < 1e-12
    return not flat and bool(np.isfinite(io_orientation(affine)).all())


def require_finite(path: Path, values: np.ndarray) -> None:
    """Raise `UserError` unless floating values, scaled as they will be used, are numbers that float32 can go on with."""
    if not np.abs(values).max(initial=0) <= LARGEST:  # also false for NaN
        got = f"{path} holds NaN or infinite values, or some beyond {LARGEST:g}"
        raise UserError(got, "finite values", "replace them or leave the file out")


def fits_int16(values: np.ndarray) -> bool:
    """Return whether finite values are whole numbers in the range of int16."""
    limits = np.iinfo(np.int16)
    return bool((values == np.rint(values)).all() and values.min() >= limits.min and values.max() <= limits.max)


def narrow(path: Path, raw: np.ndarray, slope: float = 1.0, inter: float = 0.0) -> np.ndarray:
    """Return voxels (X, Y, Z, ...) times slope plus intercept: int16 when they are integers that fit, else float32.

    Args:
        path: the file, for error lines.
        raw: the voxels as stored; returned itself where nothing changes.
        slope, inter: the scale; `UserError` when scaled voxels are NaN or infinite.
    """
    if raw.dtype.kind in "iu" and (slope, inter) == (1.0, 0.0):
        fits = raw.min() >= np.iinfo(np.int16).min and raw.max() <= np.iinfo(np.int16).max
        return raw.astype(np.int16 if fits else np.float32, copy=False)

    def exact(z: int) -> np.ndarray:
        # Slice by slice: double precision for the whole volume would cost four times its size.
        with np.errstate(all="ignore"):  # `require_finite` says it
            return raw[:, :, z].astype(np.float64) * slope + inter

    fits = True
    for plane in map(exact, range(raw.shape[2])):
        require_finite(path, plane)
        fits = fits and fits_int16(plane)
    if not fits and raw.dtype == np.float32 and (slope, inter) == (1.0, 0.0):
        return raw
    scaled = np.empty(raw.shape, dtype=np.int16 if fits else np.float32, order="F")
    for z in range(raw.shape[2]):
        scaled[:, :, z] = exact(z)
    return scaled
