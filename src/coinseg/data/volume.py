"""NIfTI volumes: read into one canonical orientation, masks written back onto the grid they came from.

Inside coinseg a volume is (slices, rows, columns): slices run from inferior to superior, row 0 is anterior and
column 0 is the patient's right, so every slice looks as a radiologist sees it. Nothing is resampled: an oblique volume
is turned to its closest axes only, and a mask finds its way back voxel by voxel.
"""

from __future__ import annotations

import gzip
import logging
import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.arrayproxy import ArrayProxy
from nibabel.orientations import io_orientation
from nibabel.spatialimages import HeaderDataError, ImageDataError
from nibabel.wrapstruct import WrapStructError

from ..errors import UserError
from ..storage import written_aside
from ..types import MaskSource, Scan, ScanMask
from .grid import MAX_SHIFT, Geometry, corners_apart, header_of, same_place

VOLUME_SUFFIXES = (".nii.gz", ".nii")
MAX_BYTES = 8 * 2**30
"""Headers that claim more voxels than this are taken for corrupt ones."""
_DEFLATE_LIMIT = 1100
"""Deflate cannot shrink data by more than 1032 : 1; a smaller file cannot hold what its header claims."""
_DRAIN = 2**20
_BROKEN = (
    OSError, EOFError, ValueError, zlib.error,
    nib.filebasedimages.ImageFileError, HeaderDataError, ImageDataError, WrapStructError,
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Volume:
    """A scan in canonical orientation.

    Args:
        scan: (slices, rows, columns), int16 or float32, slope and intercept of the file applied.
        spacing: (dz, dy, dx) in mm.
        geometry: the way back to the file.
    """

    scan: Scan
    spacing: tuple[float, float, float]
    geometry: Geometry


def is_volume(path: Path) -> bool:
    """Whether the name is that of a NIfTI volume."""
    return path.name.lower().endswith(VOLUME_SUFFIXES)


def read_volume(path: Path) -> Volume:
    """Read a NIfTI volume: int16 when the scaled values are integers that fit, else float32.

    Raises:
        UserError: the file is missing, corrupt, not three-dimensional, too large, or holds NaN or infinity.
    """
    image = _open(path)
    geometry = _geometry(path, image)
    return Volume(geometry.to_canonical(_voxels(path, image)), geometry.spacing, geometry)


def peek_shape(path: Path) -> tuple[int, int, int]:
    """Canonical (slices, rows, columns) from the header alone; `UserError` like `read_volume`."""
    return _geometry(path, _open(path)).canonical_shape


def read_mask(source: MaskSource, like: Geometry) -> ScanMask:
    """Read a mask onto the canonical grid of `like`, bool (slices, rows, columns); it may be stored in another order.

    Labels stored as floats are rounded. Raises `UserError` like `read_volume`, and when the mask has another grid.
    """
    path = source.path
    image = _open(path)
    own = _geometry(path, image)
    if own.shape[:3] == like.shape[:3] and same_place(corners_apart(own.affine, like.affine, own.shape[:3]), own, like):
        own = like  # At exactly 45 degrees rounding alone would decide which axes are closest.
    if own.canonical_shape != like.canonical_shape:
        raise UserError(
            f"mask {path} has {own.canonical_shape} (slices, rows, columns) and its scan {like.canonical_shape}",
            "the same grid",
            "resample the mask onto the scan",
        )
    slices, rows, columns = like.canonical_shape
    apart = corners_apart(own.canonical_affine, like.canonical_affine, (columns, rows, slices))
    if not same_place(apart, own, like):
        raise UserError(
            f"mask {path} lies up to {apart.max():.2f} voxels away from its scan (their affines differ)",
            f"the same grid, within {MAX_SHIFT} voxels",
            "resample the mask onto the scan, or save it with the scan's affine",
        )
    labels = np.rint(own.to_canonical(_voxels(path, image).reshape(own.shape, order="A")))
    return np.isin(labels, source.values) if source.values else labels > 0


def write_mask(path: Path, mask: ScanMask, geometry: Geometry, overwrite: bool = False) -> None:
    """Write a canonical bool mask as uint8 0/1 on the grid of its source (array order, affine, shape, codes).

    Raises:
        UserError: `path` exists and `overwrite` is not set, is no NIfTI name, or cannot be written.
        ValueError: the mask does not have the shape of the geometry.
    """
    _write(path, np.asarray(mask, dtype=bool).astype(np.uint8), geometry, overwrite)


def write_scan(path: Path, scan: Scan, geometry: Geometry, overwrite: bool = False) -> None:
    """Write a canonical int16 or float32 scan on the grid of its source; errors as in `write_mask`."""
    if scan.dtype not in (np.dtype(np.int16), np.dtype(np.float32)):
        raise ValueError(f"a scan is written as int16 or float32, not {scan.dtype}")
    _write(path, scan, geometry, overwrite)


def _write(path: Path, canonical: np.ndarray, geometry: Geometry, overwrite: bool) -> None:
    """The common part of `write_mask` and `write_scan`."""
    if not is_volume(path):
        raise UserError(f"{path} is no name of a volume", "a name ending in .nii.gz or .nii", "choose such a name")
    if path.exists() and (path.is_dir() or not overwrite):
        raise UserError(f"{path} already exists", "a new output", "remove it, choose another name or allow overwriting")
    header = header_of(geometry.header)
    header.set_data_dtype(canonical.dtype)
    header.set_slope_inter(1, 0)
    # Extensions of the source and its range of display belong to other voxels.
    header.set_data_offset(0)
    header["cal_min"], header["cal_max"] = 0, 0
    kind = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
    image = kind(geometry.to_source(canonical), geometry.affine, header)
    try:
        with written_aside(path) as part:
            nib.save(image, part)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error})", "a writable place", "choose another output") from error


def _broken(path: Path, why: object) -> UserError:
    """The one wording for files whose content cannot be trusted."""
    return UserError(f"{path} cannot be read ({why})", "an intact NIfTI file", "copy or download it again, or leave it out")


def _open(path: Path) -> nib.Nifti1Image:
    """Open a NIfTI file, header only."""
    if not path.is_file():
        raise UserError(f"{path} is missing or no file", "a .nii or .nii.gz file", "correct the path")
    if not is_volume(path):
        raise UserError(f"{path} is no NIfTI file", "a name ending in .nii or .nii.gz", "convert it to NIfTI")
    try:
        with _quiet():
            # No memory map: an output that overwrites its own input must not pull the voxels from under us.
            image = nib.load(path, mmap=False)
    except _BROKEN as error:
        raise _broken(path, error) from error
    if not isinstance(image, nib.Nifti1Image):
        raise _broken(path, f"it holds {type(image).__name__}")
    return image


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep nibabel from writing to standard error what it mends in a header."""
    logger = nib.imageglobals.logger
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _geometry(path: Path, image: nib.Nifti1Image) -> Geometry:
    """The checked geometry of an open file, before any voxel is read."""
    shape = tuple(int(side) for side in image.shape)
    if len(shape) < 3 or any(side != 1 for side in shape[3:]):
        raise UserError(
            f"{path} has {len(shape)} dimensions {shape}",
            "one three-dimensional volume",
            "split the series or leave it out",
        )
    if image.get_data_dtype().kind not in "iuf":
        raise UserError(f"{path} has voxels of type {image.get_data_dtype()}", "plain numbers", "convert it to grey values")
    if min(shape) < 1:
        raise _broken(path, f"its header claims the shape {shape}")
    claimed, size = math.prod(shape) * image.get_data_dtype().itemsize, path.stat().st_size
    if claimed > MAX_BYTES:
        raise UserError(
            f"{path} claims {claimed / 2**30:.1f} GiB of voxels, shape {shape}",
            f"at most {MAX_BYTES // 2**30} GiB",
            "check its header; crop the volume or leave it out",
        )
    if claimed > size * (_DEFLATE_LIMIT if path.name.lower().endswith(".gz") else 1):
        raise _broken(path, f"{size} bytes cannot hold the {claimed} bytes of voxels its header claims")
    affine = np.asarray(image.affine, dtype=np.float64)
    flat = not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12
    if flat or not np.isfinite(io_orientation(affine)).all():
        raise _broken(path, "its affine has no inverse")
    return Geometry(affine, shape, image.header.binaryblock)


def _raw(path: Path, image: nib.Nifti1Image) -> tuple[np.ndarray, float, float]:
    """Voxels before scaling, slope and intercept; the gzip stream is read to its end, where its checksum is."""
    stored = image.dataobj
    if not isinstance(stored, ArrayProxy):
        raise TypeError(f"an image that was not read from a file: {type(stored).__name__}")
    try:
        if not path.name.lower().endswith(".gz"):
            return np.asarray(stored.get_unscaled()), float(stored.slope), float(stored.inter)
        with gzip.open(path) as stream:
            spec = (stored.shape, stored.dtype, stored.offset, 1.0, 0.0)
            raw = np.asarray(ArrayProxy(stream, spec, mmap=False).get_unscaled())
            while stream.read(_DRAIN):
                pass
    except (*_BROKEN, MemoryError) as error:
        raise _broken(path, error or type(error).__name__) from error
    return raw, float(stored.slope), float(stored.inter)


def _voxels(path: Path, image: nib.Nifti1Image) -> np.ndarray:
    """Scaled voxels as stored, int16 when they are integers that fit, else float32."""
    raw, slope, inter = _raw(path, image)
    limits = np.iinfo(np.int16)
    if raw.dtype.kind in "iu" and (slope, inter) == (1.0, 0.0):
        fits = raw.min() >= limits.min and raw.max() <= limits.max
        return raw.astype(np.int16 if fits else np.float32)
    scaled, whole = np.empty(raw.shape, dtype=np.float32, order="F"), True
    for z in range(raw.shape[2]):  # Slice by slice: double precision for the whole volume would cost four times its size.
        exact = raw[:, :, z].astype(np.float64) * slope + inter
        if not np.isfinite(exact).all():
            raise UserError(f"{path} holds NaN or infinite voxels", "finite values", "replace them or leave the file out")
        whole = whole and bool((exact == np.rint(exact)).all())
        scaled[:, :, z] = exact
    fits = whole and scaled.min() >= limits.min and scaled.max() <= limits.max
    return scaled.astype(np.int16) if fits else scaled
