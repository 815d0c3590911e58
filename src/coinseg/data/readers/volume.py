"""Read volumes of any format in one canonical orientation, and write masks and scans back on the grid of their source.

Inside coinseg a volume is (slices, rows, columns): slices run from inferior to superior, row 0 is anterior and column 0 is the
patient's right. Nothing is resampled: an oblique volume is turned to its closest axes. Formats: `nifti`, `itk` and `dicom`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from coinseg.config.schema import Axis
from coinseg.errors import UserError
from coinseg.runtime.files import new_file
from coinseg.types import MaskSource, Scan, ScanMask

from . import nifti
from .axes import turned, turned_back
from .geometry import MAX_SHIFT, Geometry, corners_apart, same_place
from .paths import VOLUME_SUFFIXES, is_dicom, kind_of
from .voxels import Opened

_ROUNDING = 0.1  # largest distance of a label stored as float from a whole number; interpolated labels lie farther off
WRITTEN = (*nifti.SUFFIXES, ".nrrd", ".mha")  # suffixes of volumes that can be written; a .mhd would be two files


@dataclass(frozen=True, eq=False)
class Volume:
    """A scan in canonical orientation."""

    scan: Scan  # (slices, rows, columns), int16 or float32, slope and intercept of the file applied
    spacing: tuple[float, float, float]  # (dz, dy, dx) in mm
    geometry: Geometry  # the grid of the file
    modality: str = ""  # what DICOM says it is ("CT", "MR"); "" where nothing says it


@dataclass(frozen=True)
class Sliced:
    """A scan that is computed one slice at a time while it is written; `np.asarray` computes all of it."""

    shape: tuple[int, ...]  # canonical (slices, rows, columns)
    dtype: np.dtype  # int16, float32 or uint8
    axis: Axis  # the axis across which its slices lie
    slice: Callable[[int], np.ndarray]  # computes the slice of an index in the `turned` array

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        whole = np.empty(self.shape, self.dtype)
        for index, plane in enumerate(turned(whole, self.axis)):
            plane[:] = self.slice(index)
        return whole.astype(dtype or self.dtype, copy=False)


def is_volume(path: Path) -> bool:
    """Return whether a path is that of a volume: a file by its name, an archive, a folder with DICOM files, or a DICOM slice."""
    return path.name.lower().endswith(VOLUME_SUFFIXES) or (is_dicom(path) and kind_of(path) != "image")


def read_volume(path: Path) -> Volume:
    """Read a volume as int16 (HU in CT) when the scaled values are integers that fit, else as float32.

    `UserError` when it is missing, corrupt, not three-dimensional, too large, or holds NaN; see also `dicom.open_series`.
    """
    return volume_of(_open(path))


def in_memory(image: nifti.Image) -> Volume:
    """Turn an image of nibabel to a volume; `UserError` like `read_volume`."""
    return volume_of(nifti.open_image(image))


def volume_of(opened: Opened) -> Volume:
    """Read the voxels of what was opened, and turn them to the canonical orientation."""
    grid = opened.geometry
    return Volume(grid.to_canonical(opened.voxels()), grid.spacing, grid, opened.modality)


def read_geometry(path: Path) -> Geometry:
    """Read the grid without voxels; `UserError` like `read_volume`."""
    return _open(path).geometry


def peek_shape(path: Path) -> tuple[int, int, int]:
    """Read canonical (slices, rows, columns) from the header; `UserError` like `read_volume`."""
    return _open(path).geometry.canonical_shape


def read_on_grid(path: Path, like: Geometry, what: str) -> np.ndarray:
    """Read a volume as it is stored, (slices, rows, columns) on the canonical grid of `like`; errors as in `on_one_grid`."""
    opened = _open(path)
    grid = on_one_grid(path, opened.geometry, like, what)
    return grid.to_canonical(opened.voxels().reshape(grid.shape, order="A"))


def read_mask(source: MaskSource, like: Geometry) -> ScanMask:
    """Read a mask as bool (slices, rows, columns) on the canonical grid of `like`; see `read_region`."""
    return read_region(source, like)[0]


def read_region(source: MaskSource, like: Geometry) -> tuple[ScanMask, set[str]]:
    """Read a mask as `read_mask`, and which of the values of its source it has; labels stored as floats are rounded.

    `UserError` as in `read_volume`, and when the mask has another grid or its values are no labels.
    """
    stored = read_on_grid(source.path, like, "mask")
    inside, absent = np.empty(stored.shape, dtype=bool), {*source.values}
    for plane, inside_plane in zip(stored, inside, strict=True):  # One by one: rounding copies, and a scan may be large.
        labels = np.rint(plane)
        if stored.dtype != np.int16 and (between := np.abs(plane - labels)).max() > _ROUNDING:
            got = f"mask {source.path} has values such as {plane.flat[between.argmax()]:.3g}"
            do = "resample its labels without interpolation, or cut a map of probabilities at 0.5"
            raise UserError(got, "whole numbers as labels", do)
        inside_plane[:] = np.isin(labels, source.values) if source.values else labels > 0
        absent = {value for value in absent if not (labels == value).any()}
    return inside, {str(value) for value in {*source.values} - absent}


def labels_of_volume(path: Path) -> list[float]:
    """Return the labels that a mask has, ascending, rounded; `UserError` as in `read_volume`."""
    return [float(label) for label in np.unique(np.rint(_open(path).voxels()))]


def on_one_grid(path: Path, grid: Geometry, like: Geometry, what: str) -> Geometry:
    """Return the grid of the volume at `path`, turned like that of its scan; `UserError` when they differ.

    Args:
        path: the volume.
        grid: its grid.
        like: the grid of the scan.
        what: it is, in words, such as "mask".
    """
    if (unit := grid.millimetres / like.millimetres) != 1:  # Or the unit of one is wrong: the affines say which it is.
        scaled = replace(grid, affine=np.diag((unit, unit, unit, 1.0)) @ grid.affine)
        grid = min(grid, scaled, key=lambda one: np.linalg.norm(one.affine[:3, :3] - like.affine[:3, :3]))
    if grid.shape[:3] == like.shape[:3] and same_place(corners_apart(grid.affine, like.affine, grid.shape[:3]), grid, like):
        grid = like  # At exactly 45 degrees rounding would decide which axes are closest.
    if grid.canonical_shape != like.canonical_shape:
        got = f"{what} {path} has {grid.canonical_shape} (slices, rows, columns) and its scan {like.canonical_shape}"
        raise UserError(got, "the same grid", f"resample the {what} onto the scan")
    slices, rows, columns = like.canonical_shape
    apart = corners_apart(grid.canonical_affine, like.canonical_affine, (columns, rows, slices))
    if not same_place(apart, grid, like):
        got = f"{what} {path} lies up to {apart.max():.2f} voxels away from its scan (their affines differ)"
        do = f"resample the {what} onto the scan, or save it with the scan's affine"
        raise UserError(got, f"the same grid, within {MAX_SHIFT} voxels", do)
    return grid


def write_mask(path: Path, mask: ScanMask, geometry: Geometry, overwrite: bool = False) -> None:
    """Write a canonical bool mask as uint8 0/1 on the grid of its source (array order, affine, shape, codes of NIfTI).

    Args:
        path: the new file, with a suffix of `WRITTEN`; `UserError` when it cannot be written.
        mask: (slices, rows, columns); `ValueError` when that is not the shape of the geometry.
        geometry: the grid of the source.
        overwrite: whether an existing file is replaced; else it is a `UserError`.
    """
    _write(path, np.asarray(mask, dtype=bool).view(np.uint8), geometry, overwrite)


def write_scan(path: Path, scan: Scan | Sliced, geometry: Geometry, overwrite: bool = False) -> None:
    """Write a canonical int16, float32 or uint8 scan on the grid of its source; arguments and errors as in `write_mask`."""
    if scan.dtype not in (np.dtype(np.int16), np.dtype(np.float32), np.dtype(np.uint8)):
        raise ValueError(f"a scan is written as int16, float32 or uint8, not {scan.dtype}")
    _write(path, scan, geometry, overwrite)


def _write(path: Path, canonical: np.ndarray | Sliced, geometry: Geometry, overwrite: bool) -> None:
    if not path.name.lower().endswith(WRITTEN):
        raise UserError(f"{path} is no name of a volume", f"a name ending in {_either(WRITTEN)}", "choose such a name")
    if tuple(canonical.shape) != geometry.canonical_shape:
        raise ValueError(f"array of shape {canonical.shape} on a grid of {geometry.canonical_shape}")
    with new_file(path, overwrite) as part:
        if path.name.lower().endswith(nifti.SUFFIXES):
            nifti.save_nifti(part, _stored_slices(canonical, geometry), canonical.dtype, geometry)
        else:
            from .itk import save_itk

            save_itk(part, geometry.to_source(np.asarray(canonical)), geometry)


def _stored_slices(canonical: np.ndarray | Sliced, geometry: Geometry) -> Iterator[np.ndarray]:
    """Yield the slices of the file in its order of axes; only a `Sliced` scan across the same axis is computed one by one."""
    axis, order = geometry.slices_of_file
    if isinstance(canonical, Sliced) and canonical.axis != axis:
        canonical = np.asarray(canonical)
    for index in order:
        plane = canonical.slice(index) if isinstance(canonical, Sliced) else turned(canonical, axis)[index]
        yield geometry.in_stored_order(turned_back(plane[None], axis))


def _open(path: Path) -> Opened:
    """Read the header with the reader of the format; SimpleITK and pydicom are imported only when they are needed."""
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
