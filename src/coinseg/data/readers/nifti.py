"""NIfTI: header, voxels and the way back into a file. Used through `volume`."""

from __future__ import annotations

import gzip
import logging
import math
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import BufferedIOBase
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.openers import ImageOpener
from nibabel.spatialimages import HeaderDataError, ImageDataError
from nibabel.wrapstruct import WrapStructError

from coinseg.errors import UserError

from .geometry import Geometry, header_of
from .limits import DEFLATE_LIMIT, MAX_BEHIND
from .voxels import Opened, broken, invertible, narrow, require_fits, require_three

SUFFIXES = (".nii.gz", ".nii")
_DRAIN = 2**20
_NIFTI2 = 540
"""Bytes of the longer header."""
_BROKEN = (
    OSError, EOFError, ValueError, OverflowError, zlib.error,
    nib.filebasedimages.ImageFileError, HeaderDataError, ImageDataError, WrapStructError,
)  # fmt: skip


def open_nifti(path: Path) -> Opened:
    """Open a NIfTI file: the header now, voxels when they are asked for; `UserError` like `volume.read_volume`."""
    try:
        with _quiet(), _stream(path) as stream:
            header = _header(stream.read(_NIFTI2))
            geometry = _geometry(path, header)
            slope, inter = header.get_slope_inter()
    except _BROKEN as error:
        raise _broken(path, error or type(error).__name__) from error
    scale = 1.0 if slope is None else float(slope), 0.0 if inter is None else float(inter)
    return Opened(geometry, lambda: narrow(path, _raw(path, header, geometry.shape), *scale))


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


def _stream(path: Path) -> BufferedIOBase:
    return gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb")


def _header(start: bytes) -> nib.Nifti1Header:
    """The header of a single file by its first bytes; its extensions are not read: they claim sizes of their own."""
    for kind in (nib.Nifti1Header, nib.Nifti2Header):
        if kind.may_contain_header(start):
            return kind(start[: kind.template_dtype.itemsize])
    raise ValueError("it is no NIfTI-1 or NIfTI-2 file")


def _geometry(path: Path, header: nib.Nifti1Header) -> Geometry:
    """The checked geometry of an open file, before any voxel is read."""
    shape = tuple(int(side) for side in header.get_data_shape())
    require_three(path, shape)
    if header.get_data_dtype().kind not in "iuf":
        raise UserError(f"{path} has voxels of type {header.get_data_dtype()}", "plain numbers", "convert it to grey values")
    if min(shape) < 1:
        raise _broken(path, f"its header claims the shape {shape}")
    claimed, size = require_fits(path, shape, header.get_data_dtype().itemsize), path.stat().st_size
    if claimed > size * (DEFLATE_LIMIT if path.name.lower().endswith(".gz") else 1):
        raise _broken(path, f"{size} bytes cannot hold the {claimed} bytes of voxels its header claims")
    if not 0 < header.get_data_offset() <= MAX_BEHIND:
        raise _broken(path, f"its header claims that voxels begin at byte {header.get_data_offset()}")
    affine = np.asarray(header.get_best_affine(), dtype=np.float64)
    if not invertible(affine):
        raise _broken(path, "its affine has no inverse")
    return Geometry(affine, shape, header.binaryblock)


def _raw(path: Path, header: nib.Nifti1Header, shape: tuple[int, ...]) -> np.ndarray:
    """Voxels before scaling; the gzip stream is read to its end, where its checksum is."""
    try:
        with _stream(path) as stream:
            stream.seek(header.get_data_offset())
            # Piece by piece into its place: gzip would unpack all of it, and copy that.
            whole = np.empty(math.prod(shape) * header.get_data_dtype().itemsize, np.uint8)
            for start in range(0, len(whole), _DRAIN):
                part = whole[start : start + _DRAIN]
                if stream.readinto(part.data) < len(part):
                    raise EOFError("it ends before its last voxel")
            behind = 0
            while more := len(stream.read(_DRAIN)):
                behind += more
                if behind > MAX_BEHIND:
                    raise ValueError(f"it has more than {MAX_BEHIND} bytes behind its last voxel")
        return whole.view(header.get_data_dtype()).reshape(shape, order="F")
    except (*_BROKEN, MemoryError) as error:
        raise _broken(path, error or type(error).__name__) from error
