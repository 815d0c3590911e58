"""Read and write NRRD and MetaImage files with SimpleITK, which has LPS+ millimetres; used through `volume`."""

import math
import re
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from coinseg.errors import UserError

from .geometry import TO_RAS, Geometry, geometry_in_mm
from .itk_header import WHAT, check_header, check_voxels, millimetres
from .limits import DEFLATE_LIMIT
from .voxels import Opened, broken, invertible, narrow, require_plausible, require_three

_IO = {".nrrd": "NrrdImageIO", ".mha": "MetaImageIO", ".mhd": "MetaImageIO"}
_BYTES = {"8-bit": 1, "16-bit": 2, "32-bit": 4, "64-bit": 8}
sitk.ProcessObject.SetGlobalWarningDisplay(False)  # What is wrong with a file is said once, by the `UserError`.


def open_itk(path: Path) -> Opened:
    """Read the header of a NRRD or MetaImage file; voxels are read on demand. Raises `UserError` like `volume.read_volume`."""
    try:
        check_header(path)
    except OSError as error:
        raise _broken(path, error) from error
    reader = sitk.ImageFileReader()
    reader.SetImageIO(_IO[path.suffix.lower()])
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise _broken(path, error) from error
    return Opened(_geometry(path, reader), lambda: _voxels(path, reader))


def save_itk(path: Path, stored: np.ndarray, geometry: Geometry) -> None:
    """Write voxels `stored` in the order of `geometry` as .nrrd or .mha; `OSError` when that fails."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(stored.reshape(stored.shape[:3], order="A").T))
    unit, affine = geometry.millimetres, TO_RAS @ geometry.affine
    spacing = np.sqrt((affine[:3, :3] ** 2).sum(0))
    image.SetSpacing((spacing * unit).tolist())
    image.SetOrigin((affine[:3, 3] * unit).tolist())
    image.SetDirection((affine[:3, :3] / spacing).ravel().tolist())
    try:
        sitk.WriteImage(image, str(path), useCompression=True)
    except RuntimeError as error:
        raise OSError(_reason(error)) from error


def _geometry(path: Path, reader: sitk.ImageFileReader) -> Geometry:
    shape, kind = tuple(int(side) for side in reader.GetSize()), sitk.GetPixelIDValueAsString(reader.GetPixelID())
    require_three(path, shape)
    if reader.GetNumberOfComponents() != 1 or "complex" in kind or "vector" in kind:
        raise UserError(f"{path} has voxels of type {kind}", "plain numbers", "convert it to grey values")
    require_plausible(path, shape, _itemsize(reader), DEFLATE_LIMIT, WHAT)
    affine = np.eye(4)
    direction = np.array(reader.GetDirection()).reshape(len(shape), len(shape))[:3, :3]
    affine[:3, :3] = direction * np.array(reader.GetSpacing()[:3])
    affine[:3, 3] = reader.GetOrigin()[:3]
    if not invertible(affine):
        raise _broken(path, "its axes have no inverse")
    affine[:3] *= millimetres(path)
    return geometry_in_mm(TO_RAS @ affine, shape)


def _itemsize(reader: sitk.ImageFileReader) -> int:
    kind = sitk.GetPixelIDValueAsString(reader.GetPixelID())
    return next((size for word, size in _BYTES.items() if word in kind), 8)


def _voxels(path: Path, reader: sitk.ImageFileReader) -> np.ndarray:
    check_voxels(path, math.prod(reader.GetSize()) * _itemsize(reader))
    try:
        image = reader.Execute()
    except (RuntimeError, MemoryError) as error:
        raise _broken(path, error) from error
    return narrow(path, sitk.GetArrayFromImage(image).T)


def _broken(path: Path, error: object) -> UserError:
    return broken(path, _reason(error), WHAT)


def _reason(error: object) -> str:
    """Return the last line of an ITK message, without what it quotes of the file; the lines before are about its source code."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    words = lines[-1].split("): ")[-1].removeprefix("Error: ") if lines else type(error).__name__
    return re.sub(r"([\"']).*\1", r"\1...\1", words)
