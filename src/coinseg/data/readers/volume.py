"""Volumes in any format: read into one canonical orientation, masks written back onto the grid they came from.

Inside coinseg a volume is (slices, rows, columns): slices run from inferior to superior, row 0 is anterior and
column 0 is the patient's right, so every slice looks as a radiologist sees it. Nothing is resampled: an oblique volume
is turned to its closest axes only, and a mask finds its way back voxel by voxel.

    .nii, .nii.gz          nifti     read and written
    .nrrd, .mha, .mhd      itk       read; .nrrd and .mha written
    DICOM                  dicom     read: a folder, a .zip of one, FOLDER#KEY for one series of several, one .dcm file
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from coinseg.config.schema import Axis
from coinseg.errors import UserError
from coinseg.runtime.files import written_aside
from coinseg.types import MaskSource, Scan, ScanMask

from . import nifti
from .axes import turned, turned_back
from .geometry import MAX_SHIFT, Geometry, corners_apart, same_place
from .paths import VOLUME_SUFFIXES, is_dicom
from .voxels import Opened

_ROUNDING = 0.1
"""How far a label stored as a float may be from a whole number; farther ones were interpolated or are probabilities."""
WRITTEN = (*nifti.SUFFIXES, ".nrrd", ".mha")
"""Endings of volumes that can be written; a .mhd would be two files."""


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


@dataclass(frozen=True)
class Sliced:
    """A scan that is made one slice at a time, as it is written; `np.asarray` makes all of it.

    Args:
        shape: canonical (slices, rows, columns).
        dtype: int16, float32 or uint8.
        axis: across which its slices lie.
        slice: makes one of them, by its index in the `turned` array.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    axis: Axis
    slice: Callable[[int], np.ndarray]

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        whole = np.empty(self.shape, self.dtype)
        for index, plane in enumerate(turned(whole, self.axis)):
            plane[:] = self.slice(index)
        return whole.astype(dtype or self.dtype, copy=False)


def is_volume(path: Path) -> bool:
    """Whether a path is that of a volume: a file by its name, an archive, or a folder with DICOM files."""
    return path.name.lower().endswith(VOLUME_SUFFIXES) or is_dicom(path)


def read_volume(path: Path) -> Volume:
    """Read a volume: int16 (HU in CT) when the scaled values are integers that fit, else float32.

    Raises:
        UserError: the file is missing, corrupt, not three-dimensional, too large, or holds NaN or infinity; for DICOM see
            `dicom.open_series`.
    """
    opened = _open(path)
    return Volume(opened.geometry.to_canonical(opened.voxels()), opened.geometry.spacing, opened.geometry)


def read_geometry(path: Path) -> Geometry:
    """The grid alone, no voxel read; `UserError` like `read_volume`."""
    return _open(path).geometry


def peek_shape(path: Path) -> tuple[int, int, int]:
    """Canonical (slices, rows, columns) from the header alone; `UserError` like `read_volume`."""
    return _open(path).geometry.canonical_shape


def read_mask(source: MaskSource, like: Geometry) -> ScanMask:
    """Read a mask onto the canonical grid of `like`, bool (slices, rows, columns); it may be stored in another order.

    Labels stored as floats are rounded. Raises `UserError` like `read_volume`, when the mask has another grid, and when its
    values are no labels.
    """
    opened = _open(source.path)
    own = on_one_grid(source.path, opened.geometry, like)
    stored = own.to_canonical(opened.voxels().reshape(own.shape, order="A"))
    inside = np.empty(stored.shape, dtype=bool)
    for plane, found in zip(stored, inside, strict=True):  # One by one: rounding copies, and a scan may be large.
        labels = np.rint(plane)
        if stored.dtype != np.int16 and (between := np.abs(plane - labels)).max() > _ROUNDING:
            raise UserError(
                f"mask {source.path} has values such as {plane.flat[between.argmax()]:.3g}",
                "whole numbers as labels",
                "resample its labels without interpolation, or cut a map of probabilities at 0.5",
            )
        found[:] = np.isin(labels, source.values) if source.values else labels > 0
    return inside


def on_one_grid(path: Path, own: Geometry, like: Geometry) -> Geometry:
    """The grid of the mask at `path`, turned as that of its scan; `UserError` when they are not one grid."""
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
    return own


def write_mask(path: Path, mask: ScanMask, geometry: Geometry, overwrite: bool = False) -> None:
    """Write a canonical bool mask as uint8 0/1 on the grid of its source (array order, affine, shape, codes of NIfTI).

    The name decides the format, whatever the format of the source: .nii.gz, .nii, .nrrd or .mha.

    Raises:
        UserError: `path` exists and `overwrite` is not set, has no ending of `WRITTEN`, or cannot be written.
        ValueError: the mask does not have the shape of the geometry.
    """
    _write(path, np.asarray(mask, dtype=bool).view(np.uint8), geometry, overwrite)


def write_scan(path: Path, scan: Scan | Sliced, geometry: Geometry, overwrite: bool = False) -> None:
    """Write a canonical int16, float32 or uint8 scan on the grid of its source; errors as in `write_mask`.

    Of a `Sliced` scan one slice at a time is made, where the slices of a NIfTI file lie across the same axis.
    """
    if scan.dtype not in (np.dtype(np.int16), np.dtype(np.float32), np.dtype(np.uint8)):
        raise ValueError(f"a scan is written as int16, float32 or uint8, not {scan.dtype}")
    _write(path, scan, geometry, overwrite)


def _write(path: Path, canonical: np.ndarray | Sliced, geometry: Geometry, overwrite: bool) -> None:
    """The common part of `write_mask` and `write_scan`."""
    if not path.name.lower().endswith(WRITTEN):
        raise UserError(f"{path} is no name of a volume", f"a name ending in {_either(WRITTEN)}", "choose such a name")
    if path.exists() and (path.is_dir() or not overwrite):
        raise UserError(f"{path} already exists", "a new output", "remove it, choose another name or allow overwriting")
    if tuple(canonical.shape) != geometry.canonical_shape:
        raise ValueError(f"array of shape {canonical.shape} on a grid of {geometry.canonical_shape}")
    try:
        with written_aside(path) as part:
            if path.name.lower().endswith(nifti.SUFFIXES):
                nifti.save_nifti(part, _stored_slices(canonical, geometry), canonical.dtype, geometry)
            else:
                from .itk import save_itk

                save_itk(part, geometry.to_source(np.asarray(canonical)), geometry)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error})", "a writable place", "choose another output") from error


def _stored_slices(canonical: np.ndarray | Sliced, geometry: Geometry) -> Iterator[np.ndarray]:
    """The slices of the file, each in its order of axes."""
    axis, order = geometry.slices_of_file
    if isinstance(canonical, Sliced) and canonical.axis != axis:
        canonical = np.asarray(canonical)
    for index in order:
        plane = canonical.slice(index) if isinstance(canonical, Sliced) else turned(canonical, axis)[index]
        yield geometry.in_stored_order(turned_back(plane[None], axis))


def _open(path: Path) -> Opened:
    """Open a volume with the reader of its format, header only; the heavy readers are imported when one is met."""
    low = path.name.lower()
    if is_dicom(path):
        from .dicom import open_series

        return open_series(path)
    if low.endswith(".nhdr"):
        raise UserError(f"{path} is a header without its voxels", "one .nrrd file", "save it again as .nrrd")
    if path.is_dir():
        raise UserError(f"{path} holds no DICOM file", "a DICOM series or a volume", "correct the path")
    if not path.is_file():
        raise UserError(f"{path} is missing or no file", f"a {_either(VOLUME_SUFFIXES)} file or DICOM", "correct the path")
    if not low.endswith(VOLUME_SUFFIXES):
        raise UserError(f"{path} is no volume", f"DICOM or a name ending in {_either(VOLUME_SUFFIXES)}", "convert it to NIfTI")
    if low.endswith(nifti.SUFFIXES):
        return nifti.open_nifti(path)
    from .itk import open_itk

    return open_itk(path)


def _either(suffixes: tuple[str, ...]) -> str:
    return f"{', '.join(suffixes[:-1])} or {suffixes[-1]}"
