"""A mask as DICOM RT structure set: closed planar contours on the images of its series, in millimetres of the patient.

Contours run half way between pixel centres inside and outside (marching squares), so that filling them by pixel centres gives the
mask back. A hole is joined to the outline around it by a cut of no width (the keyhole of DICOM PS3.3, C.8.8.6.3).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from skimage.measure import find_contours

from coinseg.data.readers.dicom_tags import silent
from coinseg.errors import UserError
from coinseg.export.dicom_seg import character_set, frames_of
from coinseg.runtime.files import written_aside
from coinseg.types import ScanMask

if TYPE_CHECKING:
    from pydicom import Dataset

RT_STRUCTURE_SET = "1.2.840.10008.5.1.4.1.1.481.3"
COLOUR = (230, 159, 0)  # orange
REPEATED = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyDate", "StudyTime", "StudyID",
    "AccessionNumber", "ReferringPhysicianName",
)  # fmt: skip


def outlines(mask: np.ndarray) -> list[np.ndarray]:
    """Closed polygons of a slice (H, W), each (points, 2) in (row, column) from the centre of the first pixel, holes keyed in.

    Pixels that touch by a corner alone belong to outlines of their own.
    """
    rings = [ring[:-1] - 1 for ring in find_contours(np.pad(mask, 1).astype(float), 0.5, fully_connected="low")]
    outer = [ring for ring in rings if _area(ring) > 0]
    holes = [ring for ring in rings if _area(ring) < 0]
    around: list[list[np.ndarray]] = [[] for _ in outer]
    for hole in holes:
        inside = [i for i, ring in enumerate(outer) if _holds(ring, hole[0])]
        around[min(inside, key=lambda i: _area(outer[i]))].append(hole)
    return [_keyed(ring, found) for ring, found in zip(outer, around, strict=True)]


def _area(ring: np.ndarray) -> float:
    """Twice the signed area: positive for outlines as `find_contours` turns them around what is higher."""
    ahead = np.roll(ring, -1, axis=0)
    return float((ring[:, 1] * ahead[:, 0] - ahead[:, 1] * ring[:, 0]).sum())


def _holds(ring: np.ndarray, point: np.ndarray) -> bool:
    """Whether a polygon has a point inside (even-odd)."""
    ahead = np.roll(ring, -1, axis=0)
    crosses = (ring[:, 0] > point[0]) != (ahead[:, 0] > point[0])
    with np.errstate(divide="ignore", invalid="ignore"):
        at = ring[:, 1] + (point[0] - ring[:, 0]) / (ahead[:, 0] - ring[:, 0]) * (ahead[:, 1] - ring[:, 1])
    return bool((crosses & (point[1] < at)).sum() % 2)


def _keyed(ring: np.ndarray, holes: Sequence[np.ndarray]) -> np.ndarray:
    """One polygon of an outline and its holes, joined at their nearest points."""
    for hole in sorted(holes, key=lambda one: float(one[:, 1].min())):
        apart = ((ring[:, None] - hole[None]) ** 2).sum(-1)
        a, b = np.unravel_index(int(apart.argmin()), apart.shape)
        ring = np.concatenate([ring[: a + 1], hole[b:], hole[: b + 1], ring[a:]])
    return ring


def write_rtstruct(
    mask: ScanMask, source_datasets: Sequence[Dataset], out: Path, affine: np.ndarray, label: str = "Lesion",
    overwrite: bool = False,
) -> int:  # fmt: skip
    """Write a structure set with one region of interest; returns the number of its contours.

    Args:
        mask: canonical (slices, H, W) bool.
        source_datasets: the single-frame images of its series, in any order.
        out: the .dcm file.
        affine: canonical indices to RAS+ millimetres (`Geometry.canonical_to_mm`).
        label: of the region.
        overwrite: replace `out`; else it is a `UserError`, like a mask that does not fit, or a series without its elements.
    """
    if out.exists() and (out.is_dir() or not overwrite):
        raise UserError(f"{out} exists", "a new file", "choose another -o or give --overwrite")
    missing = [
        name for name in ("FrameOfReferenceUID", "StudyInstanceUID", "SeriesInstanceUID") if not source_datasets[0].get(name)
    ]
    if missing:
        required = "images of one series with study, series and frame of reference"
        raise UserError(f"the series cannot carry contours (it has no {missing[0]})", required, "export the series again")
    frames = frames_of(np.asarray(mask, bool), affine, source_datasets)
    contours = [(ds, ring) for ds, frame in zip(source_datasets, frames, strict=True) for ring in outlines(frame)]
    with silent(), written_aside(out) as part:
        _structure_set(source_datasets, contours, label).save_as(part, enforce_file_format=True)
    return len(contours)


def _millimetres(dataset: Dataset, ring: np.ndarray) -> list[str]:
    """Points (row, column) of an image as the decimal strings of their patient coordinates."""
    turn = np.array(dataset.ImageOrientationPatient, float).reshape(2, 3)
    down, across = (float(value) for value in dataset.PixelSpacing)
    origin = np.array(dataset.ImagePositionPatient, float)
    places = origin + ring[:, 1:] * across * turn[0] + ring[:, :1] * down * turn[1]
    return [f"{value:.4f}" for value in places.ravel()]


def _structure_set(images: Sequence[Dataset], contours: Sequence[tuple[Dataset, np.ndarray]], label: str) -> Dataset:
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import UID, ImplicitVRLittleEndian, generate_uid

    def one(**elements: object) -> Dataset:
        made = Dataset()
        for name, value in elements.items():
            setattr(made, name, value)
        return made

    def reference(image: Dataset) -> Dataset:
        return one(ReferencedSOPClassUID=image.SOPClassUID, ReferencedSOPInstanceUID=image.SOPInstanceUID)

    first, now = images[0], datetime.now(UTC)
    series = one(SeriesInstanceUID=first.SeriesInstanceUID, ContourImageSequence=[reference(image) for image in images])
    study = one(ReferencedSOPClassUID="1.2.840.10008.3.1.2.3.1", ReferencedSOPInstanceUID=first.StudyInstanceUID)
    study.RTReferencedSeriesSequence = [series]
    frame = one(FrameOfReferenceUID=first.FrameOfReferenceUID, RTReferencedStudySequence=[study])
    found = one(
        SOPClassUID=RT_STRUCTURE_SET, SOPInstanceUID=generate_uid(), Modality="RTSTRUCT", SeriesInstanceUID=generate_uid(),
        SeriesNumber=9001, InstanceNumber=1, Manufacturer="coinseg", ManufacturerModelName="coinseg",
        SoftwareVersions=version("coinseg"), StructureSetLabel=label[:16], StructureSetDate=now.strftime("%Y%m%d"),
        StructureSetTime=now.strftime("%H%M%S"), FrameOfReferenceUID=first.FrameOfReferenceUID, PositionReferenceIndicator="",
        ReferencedFrameOfReferenceSequence=[frame],
        StructureSetROISequence=[one(
            ROINumber=1, ReferencedFrameOfReferenceUID=first.FrameOfReferenceUID, ROIName=label[:64],
            ROIGenerationAlgorithm="SEMIAUTOMATIC",
        )],
        ROIContourSequence=[one(ReferencedROINumber=1, ROIDisplayColor=list(COLOUR), ContourSequence=[
            one(
                ContourImageSequence=[reference(image)], ContourGeometricType="CLOSED_PLANAR",
                NumberOfContourPoints=len(ring), ContourData=_millimetres(image, ring),
            ) for image, ring in contours
        ])],
        RTROIObservationsSequence=[one(
            ObservationNumber=1, ReferencedROINumber=1, RTROIInterpretedType="", ROIInterpreter="",
        )],
    )  # fmt: skip
    for name in REPEATED:
        setattr(found, name, first.get(name, ""))
    if kept := character_set(first, [label]):
        found.SpecificCharacterSet = kept
    found.file_meta = FileMetaDataset()
    found.file_meta.MediaStorageSOPClassUID = UID(RT_STRUCTURE_SET)
    found.file_meta.MediaStorageSOPInstanceUID = found.SOPInstanceUID
    # Where a file has the types of its values, decimal strings of more than 64 KB, a long outline, have none.
    found.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    return found
