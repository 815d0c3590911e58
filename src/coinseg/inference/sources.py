"""What a run can be asked about: a file, a nibabel image or an array, read as the run needs it and held against its training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
from torch import Tensor

from coinseg.config.schema import DataSettings
from coinseg.data.readers.axes import reordered, require_volumes
from coinseg.data.readers.image import colour_of, grey_of, is_image
from coinseg.data.readers.volume import Volume, in_memory
from coinseg.data.readers.voxels import narrow
from coinseg.data.slices.arrays import as_array, unit_images
from coinseg.data.slices.case import LoadedCase, load_case, require_bytes
from coinseg.data.slices.channels import are_colour, sequences_of
from coinseg.data.slices.plausible import notes_on, require_values
from coinseg.data.slices.trained_on import TrainedOn, facts_of
from coinseg.errors import UserError
from coinseg.types import Case, MaskSource

if TYPE_CHECKING:
    from .predictor import Predictor

Source = Any
"""A path (str or Path); a `Case` of several images; a nibabel image; a MetaTensor of MONAI, see `of_monai`; or an array (NumPy or
tensor) in the units of the files: (H, W), or (H, W, 3) in colour for a run on plain images, (slices, H, W) in canonical
orientation for one on volumes."""
Organs = str | Path | MaskSource | Sequence[str | Path | MaskSource]
COLOURS = (3, 4)  # samples of a pixel in colour
UNCHECKED = "the run kept no record of what it was trained on: whether an input is of that kind cannot be checked"


def record_of(predictor: Predictor) -> TrainedOn | None:
    """What the run was trained on. Of a run without a record it is known only that its scans had values as CT has."""
    known, data = predictor.preparation, predictor.settings.data
    assumed = TrainedOn(["volume"], [], True) if known.kind == "hu" and data.intensity == "auto" else None
    return known.trained_on or assumed


def of_monai(predictor: Predictor, source: Source) -> Source:
    """A MetaTensor of MONAI, which knows its grid: (1, X, Y, Z) or (X, Y, Z) as a nibabel image; everything else as it is.

    Raises:
        UserError: one plain image, whose axes depend on the reader of MONAI.
    """
    record, prepared = record_of(predictor), getattr(source, "ndim", 0) == 4 and source.shape[1] == predictor.explainer.channels
    if not (isinstance(source, Tensor) and hasattr(source, "meta") and hasattr(source, "affine")) or prepared:
        return source
    if record is not None and record.kinds == ["array"]:
        return source
    shape = tuple(source.shape)
    if on_images(predictor):
        raise UserError(
            f"a MetaTensor of shape {shape}", "the image as its file holds it", "give the file, or rows and columns as array"
        )
    if source.ndim != 3 and not (source.ndim == 4 and shape[0] == 1):
        raise UserError(f"a MetaTensor of shape {shape}", "one volume, (1, X, Y, Z) or (X, Y, Z)", "give one volume at a time")
    voxels, affine = numbers(source), np.asarray(source.affine, float)
    mirrored = np.diag([-1.0, -1.0, 1.0, 1.0]) if str(source.meta.get("space", "")) == "LPS" else np.eye(4)
    return nib.Nifti1Image(voxels.reshape(shape[-3:]), mirrored @ affine, dtype=voxels.dtype)


def on_images(predictor: Predictor) -> bool:
    """Whether the run reads plain images, and an array of three axes is a stack of them."""
    record = record_of(predictor)
    return predictor.preparation.kind != "hu" and (record is None or "volume" not in record.kinds)


def load(predictor: Predictor, source: Source, organ: Organs = ()) -> LoadedCase:
    """Read one volume or image as the run needs it.

    Raises:
        UserError: it cannot be read, is of another kind than what the run was trained on, or has no organ mask and needs one.
    """
    if unit_array(predictor, source) is not None:
        raise UserError("one array for a run on arrays in [0, 1]", "run.masks, which has no grid", "give it to run.masks")
    _require_rows(predictor, source)
    data, organs = predictor.settings.data, _organs(organ, predictor.settings.data)
    path = source.image if isinstance(source, Case) else source
    name = str(path) if isinstance(path, str | Path) else f"the {'image' if hasattr(source, 'dataobj') else 'array'} given"
    images = 1 + len(source.others) if isinstance(source, Case) else 1
    if (sequences := sequences_of(predictor.preparation.channels)) and images != len(sequences):
        has = "is one image" if images == 1 else f"has {images} images"
        got = f"{name} {has} and the run was trained on {len(sequences)} of a case, {', '.join(sequences)}"
        raise UserError(got, "all images of a case", "give -i the folder they are in, named like those of the training")
    if data.roi != "none" and not organs:
        got = f"no organ mask for {name} and the run was trained on the region around the organ (data.roi {data.roi})"
        raise UserError(got, "the organ mask of the scan", "give it with --organ")
    if isinstance(source, str | Path):
        loaded = _of_path(predictor, Path(source), organs)
    elif isinstance(source, Case):
        loaded = _of_path(predictor, source.image, organs, others=source.others)
    elif hasattr(source, "dataobj"):
        loaded = _of_path(predictor, Path("nibabel image"), organs, in_memory(source))
    else:
        loaded = _of_array(predictor, source, organs)
    require_kind(predictor, loaded, name)
    require_bytes(loaded.scan, predictor.preparation.kind)
    return loaded


def is_prepared(predictor: Predictor, source: Source) -> bool:
    """Whether images are (B, C, S, S) in [-1, 1] as the run prepares them, not a stack (N, H, W, 3) of images in colour."""
    if getattr(source, "ndim", 0) != 4 or hasattr(source, "dataobj"):
        return False
    return not (on_images(predictor) and source.shape[3] in COLOURS and source.shape[1] != predictor.explainer.channels)


def load_all(predictor: Predictor, source: Source, organ: Organs = ()) -> tuple[list[LoadedCase], bool]:
    """Read what `masks` was given, a stack of images as a case each, and say whether its mask has no axis of slices."""
    array = isinstance(source, np.ndarray | Tensor)
    _require_rows(predictor, source)
    if array and on_images(predictor) and (source.ndim == 4 or (source.ndim == 3 and not is_colour(source))):
        return [load(predictor, image, organ) for image in source], False
    return [load(predictor, source, organ)], array and (source.ndim == 2 or on_images(predictor))


def _require_rows(predictor: Predictor, source: Source) -> None:
    """Raise `UserError` for an array (H, W, 1) or (H, W, 2), which would be H images, or slices, of 1 or 2 columns."""
    if isinstance(source, np.ndarray | Tensor) and source.ndim == 3 and source.shape[2] < min(COLOURS):
        wanted = "(H, W), (N, H, W), or (H, W, 3) in colour" if on_images(predictor) else "(slices, H, W), or (H, W)"
        got = f"an array of shape {tuple(source.shape)}, whose last axis is no row of pixels"
        raise UserError(got, wanted, "give array[..., 0], or move the axis of slices to the front")


def unit_array(predictor: Predictor, source: Source) -> np.ndarray | None:
    """Images (N, C, S, S) float32 of (S, S) or (N, S, S) in [0, 1], or a `UserError`, of a run on arrays; None of others."""
    record = record_of(predictor)
    if record is None or record.kinds != ["array"]:
        return None
    if not isinstance(source, np.ndarray | Tensor):
        got = f"{source if isinstance(source, str | Path) else type(source).__name__} for a run on arrays in [0, 1]"
        raise UserError(got, "an array (S, S) or (N, S, S) in [0, 1]", "read and scale it as the training images were")
    array = numbers(source)
    return unit_images(array[None] if array.ndim == 2 else array)


def require_kind(predictor: Predictor, loaded: LoadedCase, name: str) -> None:
    """Raise `UserError` where a case is of another kind than what the run was trained on."""
    if (record := record_of(predictor)) is None:
        return
    if why := record.refusal(facts_of(loaded, predictor.settings.data), predictor.preparation.kind == "hu"):
        raise UserError(f"{name} {why}", "what the run was trained on", "convert it, or train a run on data of its kind")


def doubts_of(predictor: Predictor, loaded: LoadedCase) -> tuple[str, ...]:
    """In what a case lies outside of what the run was trained on, where that is known, and what is odd about it in itself."""
    record, data = predictor.preparation.trained_on, predictor.settings.data
    doubts = record.doubts(facts_of(loaded, data), predictor.preparation.kind == "hu") if record else ()
    if loaded.geometry and (sizes := loaded.geometry.two_sizes):
        doubts += (sizes,)
    lowest = loaded.scan.min()
    return (*doubts, f"all of its values are {lowest:g}") if lowest == loaded.scan.max() else doubts


def _organs(organ: Organs, data: DataSettings) -> tuple[MaskSource, ...]:
    """Masks of the organ; a run on the labels of an organ map ("1", "2") reads the same labels from a path given here."""
    given = [organ] if isinstance(organ, str | Path | MaskSource) else list(() if organ is None else organ)
    labels: list[tuple[int, ...]] = [(int(name),) for name in data.organ if name.isdecimal() and len(name) < 10] or [()]
    sources: list[MaskSource] = []
    for one in given:
        if not isinstance(one, str | Path | MaskSource):
            raise UserError(f"organ holds {type(one).__name__}", "paths of mask files", 'give organ=["mask.nii.gz"]')
        sources += [one] if isinstance(one, MaskSource) else [MaskSource(Path(one), values) for values in labels]
    return tuple(sources)


def _of_path(
    predictor: Predictor, path: Path, organs: tuple[MaskSource, ...], given: Volume | None = None, others: tuple[Path, ...] = ()
) -> LoadedCase:
    volume = given is not None or not is_image(path)
    if predictor.preparation.kind == "hu" and not volume:
        raise UserError(f"{path} is a plain image and the run was trained on Hounsfield units", "a CT volume", "give the scan")
    if not volume:
        require_volumes(f"{path} is a plain image", predictor.settings.data)
    case = Case(path.name, path.name, path, volume=volume, organ=organs, others=others)
    loaded = load_case(case, with_lesion=False, volume=given, channels=predictor.preparation.channels)
    require_values([case], {note: [case.id] for note in notes_on(case, loaded.masks)})
    return loaded


def _of_array(predictor: Predictor, source: Source, organs: tuple[MaskSource, ...]) -> LoadedCase:
    """A case of an array, which has no grid."""
    array, flat, settings = numbers(source), on_images(predictor), predictor.settings
    read = colour_of if are_colour(predictor.preparation.channels) else grey_of
    scan = read(array)[None] if flat and (array.ndim == 2 or is_colour(array)) else array[None] if array.ndim == 2 else array
    wanted = "(H, W), or (H, W, 3) in colour" if flat else "(slices, H, W), or (H, W)"
    if scan.ndim != (4 if read is colour_of else 3) or (flat and len(scan) != 1) or 0 in scan.shape:
        raise UserError(f"an array of shape {array.shape}", f"{wanted}, in the units of the files", "reshape it")
    if not flat and 1 in reordered(scan.shape, settings.data.axis)[1:]:
        got = f"an array of shape {array.shape}, which has {settings.data.axis} slices of one row or column"
        raise UserError(
            got, f"(slices, H, W) with whole {settings.data.axis} slices, as the run was trained on", "give all of it"
        )
    if organs or settings.data.spacing or (not flat and settings.masks.min_ml):
        got = "an array, and the run needs organ masks or millimetres (data.roi, data.spacing or masks.min_ml)"
        raise UserError(got, "an input with a grid", "give the file or a nibabel image")
    return LoadedCase(scan if flat else narrow(Path("array"), scan), (), None)


def numbers(source: Source) -> np.ndarray:
    """A NumPy array of finite numbers, in an order of bytes and axes that torch takes too."""
    array = as_array(source) if isinstance(source, np.ndarray | Tensor) else source
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "iuf":
        kind = f"an array of {array.dtype}" if isinstance(array, np.ndarray) else f"{type(source).__name__}"
        raise UserError(kind, "a path, a nibabel image or an array of numbers", "give one of these")
    if not np.isfinite(array).all():
        raise UserError("an array with NaN or infinite values", "finite values", "replace them")
    native = np.asarray(array, array.dtype.newbyteorder("="))
    return native.copy() if min(native.strides, default=0) < 0 else native


def is_colour(array: np.ndarray | Tensor) -> bool:
    """Whether an array is one image in colour."""
    return array.ndim == 3 and array.shape[2] in COLOURS
