"""NIfTI: header, voxels and the way back into a file. Used through `volume`."""

from __future__ import annotations

import gzip
import logging
import math
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.arrayproxy import ArrayProxy
from nibabel.openers import ImageOpener
from nibabel.spatialimages import HeaderDataError, ImageDataError
from nibabel.wrapstruct import WrapStructError

from ..errors import UserError
from .grid import Geometry, header_of
from .voxels import DEFLATE_LIMIT, Opened, broken, invertible, narrow, require_fits, require_three

SUFFIXES = (".nii.gz", ".nii")
_DRAIN = 2**20
_BROKEN = (
    OSError, EOFError, ValueError, zlib.error,
    nib.filebasedimages.ImageFileError, HeaderDataError, ImageDataError, WrapStructError,
)  # fmt: skip


def open_nifti(path: Path) -> Opened:
    """Open a NIfTI file: the header now, voxels when they are asked for; `UserError` like `volume.read_volume`."""
    try:
        with _quiet():
            # No memory map: an output that overwrites its own input must not pull the voxels from under us.
            image = nib.load(path, mmap=False)
    except _BROKEN as error:
        raise _broken(path, error) from error
    if not isinstance(image, nib.Nifti1Image):
        raise _broken(path, f"it holds {type(image).__name__}")
    return Opened(_geometry(path, image), lambda: narrow(path, *_raw(path, image)))


def save_nifti(path: Path, slices: Iterable[np.ndarray], dtype: np.dtype, geometry: Geometry) -> None:
    """Write voxels slice by slice in the order and shape of `geometry`, with its affine and codes; `OSError` when that fails."""
    header = header_of(geometry.header)
    header.set_data_dtype(dtype)
    header.set_slope_inter(1, 0)
    # Extensions of the source and its range of display belong to other voxels.
    header.set_data_offset(0)
    header["cal_min"], header["cal_max"] = 0, 0
    kind = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
    # nibabel sees to the header; no voxel of the volume it is shown is ever in memory.
    image = kind(np.broadcast_to(np.zeros((), dtype), geometry.shape), geometry.affine, header)
    image.update_header()
    image.header.set_data_offset(image.header.single_vox_offset)
    with ImageOpener(str(path), "wb") as file:
        image.header.write_to(file)
        file.write(bytes(image.header.get_data_offset() - file.tell()))
        for plane in slices:
            file.write(plane.astype(image.header.get_data_dtype(), copy=False).tobytes(order="F"))


def _broken(path: Path, why: object) -> UserError:
    return broken(path, why, "NIfTI file")


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
    require_three(path, shape)
    if image.get_data_dtype().kind not in "iuf":
        raise UserError(f"{path} has voxels of type {image.get_data_dtype()}", "plain numbers", "convert it to grey values")
    if min(shape) < 1:
        raise _broken(path, f"its header claims the shape {shape}")
    claimed, size = require_fits(path, shape, image.get_data_dtype().itemsize), path.stat().st_size
    if claimed > size * (DEFLATE_LIMIT if path.name.lower().endswith(".gz") else 1):
        raise _broken(path, f"{size} bytes cannot hold the {claimed} bytes of voxels its header claims")
    affine = np.asarray(image.affine, dtype=np.float64)
    if not invertible(affine):
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
            stream.seek(stored.offset)
            # Piece by piece into its place: gzip would unpack all of it, and copy that.
            whole = np.empty(math.prod(stored.shape) * stored.dtype.itemsize, np.uint8)
            for start in range(0, len(whole), _DRAIN):
                part = whole[start : start + _DRAIN]
                if stream.readinto(part.data) < len(part):
                    raise EOFError("it ends before its last voxel")
            while stream.read(_DRAIN):
                pass
        raw = whole.view(stored.dtype).reshape(stored.shape, order="F")
    except (*_BROKEN, MemoryError) as error:
        raise _broken(path, error or type(error).__name__) from error
    return raw, float(stored.slope), float(stored.inter)
