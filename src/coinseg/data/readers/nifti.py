"""Read and write NIfTI files; used through `volume`."""

import gzip
import math
import zlib
from collections.abc import Iterable
from io import BufferedIOBase
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.openers import ImageOpener
from nibabel.spatialimages import HeaderDataError, ImageDataError
from nibabel.wrapstruct import WrapStructError

from coinseg.errors import UserError, muted

from .geometry import FLAT, Geometry, header_of
from .limits import DEFLATE_LIMIT, MAX_BEHIND
from .voxels import Opened, broken, invertible, narrow, require_plausible, require_three

SUFFIXES = (".nii.gz", ".nii")
_WHAT, _DRAIN = "NIfTI file", 2**20
_TEXTS = ("data_type", "descrip", "aux_file", "intent_name", "db_name")  # what a scan says of itself, or of whom it shows
_NIFTI2 = 540  # bytes of the longer header
Image = nib.spatialimages.SpatialImage
_BROKEN = (
    OSError, EOFError, ValueError, OverflowError, zlib.error,
    nib.filebasedimages.ImageFileError, HeaderDataError, ImageDataError, WrapStructError,
)  # fmt: skip


def open_nifti(path: Path) -> Opened:
    """Read the header of a NIfTI file; voxels are read on demand. Raises `UserError` like `volume.read_volume`."""
    try:
        with muted(nib.imageglobals.logger), _stream(path) as stream:
            header = _header(stream.read(_NIFTI2))
            geometry = _geometry(path, header)
            if np.isinf([header["scl_slope"], header["scl_inter"]]).any():  # nibabel would leave out an infinite scale
                raise ValueError("its scl_slope or scl_inter is infinite")
            slope, inter = header.get_slope_inter()
    except _BROKEN as error:
        raise broken(path, error or type(error).__name__, _WHAT) from error
    scale = 1.0 if slope is None else float(slope), 0.0 if inter is None else float(inter)
    return Opened(geometry, lambda: narrow(path, _raw(path, header, geometry.shape), *scale))


def open_image(image: Image) -> Opened:
    """Take a nibabel image in memory as if it was read from a file; errors as in `open_nifti`."""
    name = Path("nibabel image")
    try:
        like = nib.Nifti1Image.from_image(image)
        require_three(name, like.shape)
        if not invertible(affine := np.asarray(like.affine, dtype=np.float64)):
            raise broken(name, "its affine has no inverse", _WHAT)
        voxels = np.asanyarray(like.dataobj)
        if voxels.dtype.kind not in "iuf":
            raise UserError(f"a nibabel image of {voxels.dtype}", "plain numbers", "convert it to grey values")
    except _BROKEN as error:
        raise broken(name, error or type(error).__name__, _WHAT) from error
    return Opened(Geometry(affine, like.shape, like.header.binaryblock), lambda: narrow(name, voxels))


def save_nifti(path: Path, slices: Iterable[np.ndarray], dtype: np.dtype, geometry: Geometry) -> None:
    """Write voxels slice by slice, so that the volume is never in memory as a whole; `OSError` when that fails.

    Args:
        path: the new file.
        slices: its slices in the order and the axes of the file.
        dtype: type of the stored voxels.
        geometry: the grid; its affine and codes are written, no text of the header it comes from.
    """
    header = header_of(geometry.header)
    for name in set(_TEXTS) & set(header.keys()):
        if bytes(header[name]).rstrip(b"\0") != FLAT:
            header[name] = b""
    header.set_data_dtype(dtype)
    header.set_slope_inter(1, 0)
    header.set_data_offset(0)
    header["cal_min"], header["cal_max"] = 0, 0  # the range of display belongs to other voxels
    kind = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
    # nibabel writes the header; the array it gets is a view of one zero.
    image = kind(np.broadcast_to(np.zeros((), dtype), geometry.shape), geometry.affine, header)
    image.update_header()
    image.header.set_data_offset(image.header.single_vox_offset)
    with ImageOpener(str(path), "wb") as file:
        image.header.write_to(file)
        file.write(bytes(image.header.get_data_offset() - file.tell()))
        for plane in slices:
            file.write(plane.astype(image.header.get_data_dtype(), copy=False).tobytes(order="F"))


def _stream(path: Path) -> BufferedIOBase:
    return gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb")


def _header(start: bytes) -> nib.Nifti1Header:
    """Parse the first bytes of a file; extensions are not read, because they claim sizes of their own."""
    for kind in (nib.Nifti1Header, nib.Nifti2Header):
        if kind.may_contain_header(start):
            return kind(start[: kind.template_dtype.itemsize])
    raise ValueError("it is no NIfTI-1 or NIfTI-2 file")


def _geometry(path: Path, header: nib.Nifti1Header) -> Geometry:
    shape = tuple(int(side) for side in header.get_data_shape())
    require_three(path, shape)
    if header.get_data_dtype().kind not in "iuf":
        raise UserError(f"{path} has voxels of type {header.get_data_dtype()}", "plain numbers", "convert it to grey values")
    most = DEFLATE_LIMIT if path.name.lower().endswith(".gz") else 1
    require_plausible(path, shape, header.get_data_dtype().itemsize, most, _WHAT)
    if not 0 < header.get_data_offset() <= MAX_BEHIND:
        raise broken(path, f"its header claims that voxels begin at byte {header.get_data_offset()}", _WHAT)
    affine = np.asarray(header.get_best_affine(), dtype=np.float64)
    if not invertible(affine):
        raise broken(path, "its affine has no inverse", _WHAT)
    return Geometry(affine, shape, header.binaryblock)


def _drain(stream: BufferedIOBase) -> None:
    """Read to the end of the stream, where its checksum is; what lies behind a gzip stream is left alone, as by other tools."""
    behind = 0
    try:
        while more := len(stream.read(_DRAIN)):
            if (behind := behind + more) > MAX_BEHIND:
                raise ValueError(f"it has more than {MAX_BEHIND} bytes behind its last voxel")
    except gzip.BadGzipFile as error:
        if not str(error).startswith("Not a gzipped file"):  # the start of what would be another stream
            raise


def _raw(path: Path, header: nib.Nifti1Header, shape: tuple[int, ...]) -> np.ndarray:
    """Read the voxels before scaling, and the gzip stream to its end, where its checksum is."""
    try:
        with _stream(path) as stream:
            stream.seek(header.get_data_offset())
            # In pieces, because gzip would unpack all of it and copy that.
            whole = np.empty(math.prod(shape) * header.get_data_dtype().itemsize, np.uint8)
            for start in range(0, len(whole), _DRAIN):
                part = whole[start : start + _DRAIN]
                if stream.readinto(part.data) < len(part):
                    raise EOFError("it ends before its last voxel")
            _drain(stream)
        return whole.view(header.get_data_dtype()).reshape(shape, order="F")
    except (*_BROKEN, MemoryError) as error:
        raise broken(path, error or type(error).__name__, _WHAT) from error
