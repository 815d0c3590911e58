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
from functools import cached_property
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.arrayproxy import ArrayProxy
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform
from nibabel.spatialimages import HeaderDataError, ImageDataError
from nibabel.wrapstruct import WrapStructError

from ..errors import UserError
from ..storage import written_aside
from ..types import MaskSource, Scan, ScanMask

VOLUME_SUFFIXES = (".nii.gz", ".nii")
MAX_BYTES = 8 * 2**30
"""Headers that claim more voxels than this are taken for corrupt ones."""
_DEFLATE_LIMIT = 1100
"""Deflate cannot shrink data by more than 1032 : 1; a smaller file cannot hold what its header claims."""
MAX_SHIFT = 0.1
"""Voxels a mask may lie off its scan; float32 affines of one grid differ by less than a thousandth."""
_MAX_TURN = 0.5
"""The same at the far corners when an affine is kept as a quaternion: close to half a turn its rounding shows there."""
_DRAIN = 2**20
_MM = {1: 1000.0, 3: 0.001}
"""Millimetres in a metre and a micron, by NIfTI code; anything else is taken for millimetres."""
_BROKEN = (
    OSError, EOFError, ValueError, zlib.error,
    nib.filebasedimages.ImageFileError, HeaderDataError, ImageDataError, WrapStructError,
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Geometry:
    """The grid of a NIfTI file and all that is needed to write onto it again.

    Args:
        affine: (4, 4), voxel indices in the file's order to RAS+ coordinates in the file's unit (millimetres as a rule).
        shape: shape of the array as stored, trailing singletons included.
        header: the binary NIfTI header of the source; its sform, qform and their codes are reused as they are.
    """

    affine: np.ndarray
    shape: tuple[int, ...]
    header: bytes

    @cached_property
    def _turn(self) -> np.ndarray:
        """nibabel orientation (3, 2) that takes the stored axes to left, posterior, superior."""
        return np.asarray(ornt_transform(io_orientation(self.affine), axcodes2ornt(("L", "P", "S"))))

    @property
    def canonical_shape(self) -> tuple[int, int, int]:
        """(slices, rows, columns)."""
        across = self._turn[:, 0].astype(int)
        columns, rows, slices = (self.shape[int(np.flatnonzero(across == axis)[0])] for axis in range(3))
        return slices, rows, columns

    @property
    def canonical_affine(self) -> np.ndarray:
        """(4, 4): canonical (column, row, slice) indices to RAS+ coordinates."""
        return np.asarray(self.affine @ inv_ornt_aff(self._turn, self.shape[:3]))

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size (dz, dy, dx) in mm of the canonical grid."""
        unit = _MM.get(int(_header_of(self.header)["xyzt_units"]) % 8, 1.0)
        dx, dy, dz = np.sqrt((self.canonical_affine[:3, :3] ** 2).sum(0)) * unit
        return float(dz), float(dy), float(dx)

    def to_canonical(self, stored: np.ndarray) -> np.ndarray:
        """Array of `shape` as stored -> contiguous (slices, rows, columns)."""
        return np.ascontiguousarray(apply_orientation(stored.reshape(self.shape[:3], order="A"), self._turn).T)

    def to_source(self, canonical: np.ndarray) -> np.ndarray:
        """(slices, rows, columns) -> array of `shape` in the order of the file; `ValueError` on another shape."""
        if canonical.shape != self.canonical_shape:
            raise ValueError(f"array of shape {canonical.shape} on a grid of {self.canonical_shape}")
        back = ornt_transform(axcodes2ornt(("L", "P", "S")), io_orientation(self.affine))
        return np.asarray(apply_orientation(canonical.T, back)).reshape(self.shape, order="A")


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
    if own.shape[:3] == like.shape[:3] and _same_place(_corners_apart(own.affine, like.affine, own.shape[:3]), own, like):
        own = like  # At exactly 45 degrees rounding alone would decide which axes are closest.
    if own.canonical_shape != like.canonical_shape:
        raise UserError(
            f"mask {path} has {own.canonical_shape} (slices, rows, columns) and its scan {like.canonical_shape}",
            "the same grid",
            "resample the mask onto the scan",
        )
    slices, rows, columns = like.canonical_shape
    apart = _corners_apart(own.canonical_affine, like.canonical_affine, (columns, rows, slices))
    if not _same_place(apart, own, like):
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
    header = _header_of(geometry.header)
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


def _header_of(block: bytes) -> nib.Nifti1Header:
    """The header as nibabel knows it; NIfTI-2 headers are the longer ones."""
    kind = nib.Nifti2Header if len(block) == nib.Nifti2Header.template_dtype.itemsize else nib.Nifti1Header
    return kind(block, check=False)


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


def _corners_apart(one: np.ndarray, other: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """How far each of the 8 corners of two grids is apart, along any axis, in voxels of the second."""
    sides = [(0, side - 1) for side in shape[:3]]
    corners = np.array([(x, y, z, 1) for x in sides[0] for y in sides[1] for z in sides[2]], dtype=np.float64).T
    return np.asarray(np.abs((np.linalg.inv(other) @ one @ corners - corners)[:3]).max(0))


def _same_place(apart: np.ndarray, one: Geometry, other: Geometry) -> bool:
    """Whether two grids whose corners are so far apart are one grid, rounding aside."""
    headers = (_header_of(one.header), _header_of(other.header))
    quaternion = any(int(h["sform_code"]) == 0 and int(h["qform_code"]) > 0 for h in headers)
    return bool(apart.min() <= MAX_SHIFT and apart.max() <= (_MAX_TURN if quaternion else MAX_SHIFT))
