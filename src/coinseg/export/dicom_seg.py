"""Masks as a DICOM segmentation object (binary SEG), a segment a class, that refers to the images of its series."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from coinseg.data.readers.geometry import UNEVEN
from coinseg.data.readers.paths import public_name
from coinseg.errors import UserError
from coinseg.runtime.files import written_aside
from coinseg.types import ScanMask

if TYPE_CHECKING:
    from pydicom import Dataset

LABEL = "Lesion"
MAX_SHIFT = 0.1  # largest distance, in voxels, of a pixel of the series from a voxel of the mask, in the plane of the image
ALLOWED_EMPTY = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID", "AccessionNumber",
    "ReferringPhysicianName",
)  # fmt: skip  # type 2 elements that a SEG repeats from its series: required, but they may be empty
_OF_PATIENTS = (0x0010, 0x0012, 0x0032, 0x0038)  # groups of elements about patient, trial, request and visit
# Elements that are repeated as they are: the identifiers of the study, their character set, the marks of de-identification.
_KEPT = (*ALLOWED_EMPTY, "SpecificCharacterSet", "IssuerOfPatientID", "PatientIdentityRemoved", "DeidentificationMethod")
_RAS = np.array([-1.0, -1.0, 1.0])  # signs of the axes: DICOM has LPS, NIfTI RAS coordinates


def frames_of(mask: ScanMask, affine: np.ndarray, datasets: Sequence[Dataset]) -> np.ndarray:
    """Return the part of a mask that lies on each image of a series, (images, Rows, Columns) bool, in their order.

    Args:
        mask: (slices, rows, columns), canonical.
        affine: (4, 4), canonical (column, row, slice) indices to RAS+ millimetres (`Geometry.canonical_to_mm`).
        datasets: single-frame images; `UserError` when one does not lie on voxels of the mask, or part of that lies on none.
    """
    inverse = np.linalg.inv(affine)
    covered = np.zeros(mask.shape, bool)
    frames = []
    for dataset in datasets:
        x, y, z = _indices(dataset, inverse, mask.shape)
        if covered[z, y, x].any():
            raise UserError(f"two images of the series lie on one slice, {_name(dataset)} is one", "each once", "remove doubles")
        covered[z, y, x] = True
        frames.append(mask[z, y, x])
    if left := int((mask & ~covered).sum()):
        got = f"{left} of {int(mask.sum())} voxels inside the mask lie on no image of the series"
        raise UserError(got, "one image for every slice of the mask", "name the complete series")
    return np.stack(frames)


def _indices(dataset: Dataset, inverse: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """(column, row, slice) of the voxel at every pixel of an image, (3, Rows, Columns) int."""
    turn = np.array(dataset.ImageOrientationPatient, float).reshape(2, 3)
    down, across = (float(value) for value in dataset.PixelSpacing)
    # DICOM: the first direction is that of increasing column indices, the first spacing that between rows.
    steps = np.stack([turn[0] * across, turn[1] * down, np.array(dataset.ImagePositionPatient, float)], axis=1) * _RAS[:, None]
    to_index = inverse[:3, :3] @ steps + np.outer(inverse[:3, 3], [0, 0, 1])
    column, row = np.meshgrid(np.arange(int(dataset.Columns)), np.arange(int(dataset.Rows)))
    exact = np.tensordot(to_index, np.stack([column, row, np.ones_like(column)]), 1)
    nearest = np.rint(exact).astype(int)
    outside = (nearest < 0).any() or (nearest >= np.array(shape)[::-1, None, None]).any()
    # Across the image it may be as far off as the series may be uneven, which is read as an even grid.
    most = MAX_SHIFT + UNEVEN * (np.abs(to_index[:, :2]).max(1) < 0.5)
    if outside or (np.abs(exact - nearest) > most[:, None, None]).any():
        got = f"image {_name(dataset)} of the series does not lie on voxels of the mask"
        required = f"a mask on the grid of the series, within {MAX_SHIFT} voxels"
        raise UserError(got, required, "name the series the scan was converted from")
    return nearest


def write_dicom_seg(
    masks: ScanMask | Mapping[str, ScanMask], source_datasets: Sequence[Dataset], out: Path, affine: np.ndarray | None = None,
    overwrite: bool = False, reviewed: bool = False,
) -> int:  # fmt: skip
    """Write a binary SEG with a segment for each mask, a lesion (SNOMED CT) of an automatic algorithm.

    Returns the number of images with a part of any mask.

    Args:
        masks: by the label of their segment, in order; a single one is labelled "Lesion". Each is bool, (images, Rows, Columns)
            with `mask[i]` on `source_datasets[i]`; or canonical, with `affine`. Segments may overlap.
        source_datasets: the single-frame images of one series, in any order; their pixels are not needed.
        out: the .dcm file.
        affine: of canonical masks, see `frames_of`.
        overwrite: replace `out`; else it is a `UserError`, like a mask that does not fit, or a series without its elements.
        reviewed: a person accepted or corrected the masks, so the algorithm counts as semiautomatic.
    """
    if out.suffix.lower() != ".dcm":
        raise UserError(f"the output is {out}", "a name that ends in .dcm", "mend -o")
    if out.exists() and (out.is_dir() or not overwrite):
        raise UserError(f"{out} exists", "a new file", "choose another -o or give --overwrite")
    if any(int(dataset.get("NumberOfFrames") or 1) > 1 for dataset in source_datasets):
        raise UserError("the series is a multi-frame image", "one file for each slice", "convert it to single frames")
    from coinseg.data.readers.dicom_tags import silent

    if not source_datasets[0].get("FrameOfReferenceUID"):
        raise _cannot_carry("it has no FrameOfReferenceUID")
    named = masks if isinstance(masks, Mapping) else {LABEL: masks}
    try:
        frames = {
            label: np.asarray(mask, bool) if affine is None else frames_of(np.asarray(mask, bool), affine, source_datasets)
            for label, mask in named.items()
        }
        series = (len(source_datasets), source_datasets[0].Rows, source_datasets[0].Columns)
        if odd := next((frame.shape for frame in frames.values() if frame.shape != series), None):
            raise UserError(f"the mask has shape {odd} and the series {series}", "one shape", "give its own mask")
        with silent(), written_aside(out) as part:  # of an empty mask, and of values repeated from the source
            found = _repeated(_segmentation(frames, source_datasets, reviewed), source_datasets[0])
            if kept := character_set(source_datasets[0], [*named]):
                found.SpecificCharacterSet = kept
            found.save_as(part)
        return int(np.any([frame.any((1, 2)) for frame in frames.values()], axis=0).sum())
    except (UserError, OSError):
        raise
    except Exception as error:  # highdicom and pydicom raise many kinds, and their messages quote values of the patient
        missing = re.search(r"has no attribute '(\w+)'", str(error))
        raise _cannot_carry(f"it has no {missing[1]}" if missing else type(error).__name__) from None


def character_set(source: Dataset, labels: Sequence[str]) -> Any:
    """SpecificCharacterSet of an object with labels beside what it repeats of its source; None where it needs none.

    It is that of the source; UTF-8 where this cannot hold a label, and what is repeated is ASCII. pydicom would write `?` else.

    Raises:
        UserError: one set cannot hold both.
    """
    from pydicom.charset import convert_encodings

    own = source.get("SpecificCharacterSet")
    if all(_fits(label, "ascii") for label in labels):
        return own
    if own and all(any(_fits(label, name) for name in convert_encodings(own)) for label in labels):
        return own
    if all(_fits(str(source.get(name) or ""), "ascii") for name in _KEPT):
        return "ISO_IR 192"
    odd = next(label for label in labels if not _fits(label, "ascii"))
    got = f"the label {odd!r}, and a series whose names have the character set {own or 'of ASCII'}"
    raise UserError(got, "letters of that character set", "name the class otherwise")


def _fits(text: str, encoding: str) -> bool:
    try:
        text.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def _cannot_carry(why: str) -> UserError:
    required = "single-frame images of one series with patient, study, frame of reference and geometry"
    return UserError(f"the series cannot carry a segmentation ({why})", required, "export the series again from its archive")


def _name(dataset: Dataset) -> str:
    """The file name of an image for a message; its identifiers belong to the patient."""
    return public_name(str(getattr(dataset, "filename", None) or "one")) or "one"


def _bare(dataset: Dataset) -> Dataset:
    """A copy that says nothing of the patient: each of `ALLOWED_EMPTY` is empty, what else there was is gone."""
    from pydicom import Dataset

    whole = Dataset()
    whole.update(dataset)
    whole.file_meta = dataset.file_meta
    for element in dataset:
        if element.tag.group in _OF_PATIENTS or element.keyword in (*_KEPT, "StudyDescription"):
            del whole[element.tag]
    for name in ALLOWED_EMPTY:
        setattr(whole, name, "")
    for name in ("SliceThickness", "SpacingBetweenSlices"):
        if not isinstance(whole.get(name), float):  # absent, or text: a SEG may do without
            setattr(whole, name, None)
    return whole


def _repeated(segmentation: Dataset, source: Dataset) -> Dataset:
    """The object with the elements `_KEPT` of its source, letter for letter: whoever wrote them knows what they mean."""
    for element in (source[name] for name in _KEPT if name in source):
        segmentation[element.tag] = element
    return segmentation


def _segmentation(frames: Mapping[str, np.ndarray], source_datasets: Sequence[Dataset], reviewed: bool) -> Dataset:
    """The SEG of frames (images, Rows, Columns) bool by label; highdicom raises many kinds for a series it cannot use."""
    import highdicom as hd
    from pydicom.sr.codedict import codes
    from pydicom.uid import generate_uid

    code: Any = codes
    algorithm = hd.AlgorithmIdentificationSequence(
        name="coinseg", family=code.DCM.ArtificialIntelligence, version=version("coinseg"),
        parameters={"supervision": "image-level labels", "use": "research software, not a medical device"},
    )  # fmt: skip
    kinds = hd.seg.SegmentAlgorithmTypeValues
    segments = [
        hd.seg.SegmentDescription(
            segment_number=number, segment_label=label, segmented_property_category=code.SCT.MorphologicallyAbnormalStructure,
            segmented_property_type=code.SCT.Lesion, algorithm_type=kinds.SEMIAUTOMATIC if reviewed else kinds.AUTOMATIC,
            algorithm_identification=algorithm,
        ) for number, label in enumerate(frames, 1)
    ]  # fmt: skip
    pixels = np.stack(list(frames.values()), -1)
    return hd.seg.Segmentation(
        source_images=[_bare(dataset) for dataset in source_datasets], pixel_array=pixels.view(np.uint8),
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY, segment_descriptions=segments,
        series_instance_uid=generate_uid(), series_number=9000, sop_instance_uid=generate_uid(), instance_number=1,
        manufacturer="coinseg", manufacturer_model_name="coinseg", software_versions=version("coinseg"),
        device_serial_number="none", series_description="coinseg segmentation", omit_empty_frames=bool(pixels.any()),
    )  # fmt: skip
