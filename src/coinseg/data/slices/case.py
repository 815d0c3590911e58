"""One case in memory: its scan or image with its masks on one grid, and how slices of it are cut and stored."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from coinseg.config.schema import DataSettings
from coinseg.data.readers.axes import reordered, turned
from coinseg.data.readers.geometry import Geometry
from coinseg.data.readers.image import read_image, read_image_mask
from coinseg.data.readers.volume import read_mask, read_volume
from coinseg.errors import UserError
from coinseg.types import Case, Cohort, MaskSource

from . import intensity
from .crop import Box, Cut, cuts

FAT_HU = -100  # fat and air are below; there is some around every organ


@dataclass(frozen=True)
class LoadedCase:
    """One case in memory, on one canonical grid."""

    scan: np.ndarray  # (slices, H, W) native values; a plain image has one slice
    organs: tuple[np.ndarray, ...]  # masks of the organ regions, (slices, H, W) bool each
    lesion: np.ndarray | None  # mask, likewise
    geometry: Geometry | None = None  # None for a plain image
    case: Case | None = None  # None without a layout

    def given(self, index: int, level: str, used: int) -> int | None:
        """Return the label 0 or 1 that a slice was given, not by a mask; None without one, or with that of the whole scan only.

        Args:
            index: number of the slice.
            level: `data.label_level`.
            used: how many slices of the case are used.
        """
        if self.case is None or (index not in self.case.slice_labels and labelled_per_scan(self.case, level, used)):
            return None
        label = self.case.slice_labels.get(index, self.case.label)
        return label if label in (0, 1) else None

    def cuts(self, settings: DataSettings) -> Iterator[Cut]:
        """Yield the slices that are used, along `data.axis`; see `crop.cuts`."""
        slices, height, width = self.scan.shape
        if self.case and self.case.volume and 1 in reordered((slices, height, width), settings.axis)[1:]:
            do = "set data.axis to the plane of the scan: axial, coronal or sagittal"
            raise UserError(f"{self.case.image} has {settings.axis} slices of one row or column", "slices in their plane", do)
        pixel = None if self.geometry is None else reordered(self.geometry.spacing, settings.axis)[1:]
        organs = [turned(organ, settings.axis) for organ in self.organs]
        return cuts(reordered((slices, height, width), settings.axis), organs, settings, pixel)

    def require_fits(self, settings: DataSettings) -> None:
        """Raise `UserError` where a slice of fixed millimetres cannot hold the organ."""
        if settings.spacing:
            list(self.cuts(settings))


def labelled_per_scan(case: Case, level: str, used: int = 2) -> bool:
    """Return whether the label 1 of a case says only that some of its `used` slices are abnormal; level is `data.label_level`."""
    weak = level == "scan" or (used > 1 and not case.slice_labels)
    return weak and case.volume and case.label == 1 and level != "slice"


def load_case(case: Case, with_lesion: bool = True) -> LoadedCase:
    """Read a case, with or without its lesion masks; raises `UserError` for anything wrong with its files."""
    volume = read_volume(case.image) if case.volume else None
    scan = volume.scan if volume else read_image(case.image)[None]

    def read(sources: Iterable[MaskSource]) -> tuple[np.ndarray, ...]:
        if volume:
            return tuple(read_mask(source, volume.geometry) for source in sources)
        return tuple(read_image_mask(source.path, scan.shape[1:], source.values)[None] for source in sources)

    organs, lesions = read(case.organ), read(case.lesion if with_lesion else ())
    return LoadedCase(scan, organs, np.logical_or.reduce(lesions) if lesions else None, volume.geometry if volume else None, case)


def kind_of_intensity(cohort: Cohort, settings: DataSettings) -> str:
    """Return "hu" or "percentile"; "auto" is HU where the cases are volumes and the first readable one is `like_ct`."""
    volumes = all(case.volume for case in cohort.cases)
    if settings.intensity == "hu" and not volumes:
        got = "data.intensity is hu and the data are plain images"
        raise UserError(got, "CT volumes for hu", "set data.intensity to percentile")
    if settings.intensity != "auto":
        return settings.intensity
    return "hu" if volumes and like_ct(case.image for case in cohort.cases) else "percentile"


def said_of_intensity(kind: str, cohort: Cohort, settings: DataSettings) -> list[str]:
    """Return a problem line where "auto" has not taken volumes for CT; `kind` is what `kind_of_intensity` returned."""
    line = f"taken for MR or the like, each scan scaled by its own percentiles: no value is below {FAT_HU}, as in CT "
    doubtful = kind != "hu" and settings.intensity == "auto" and all(case.volume for case in cohort.cases)
    return [f"{line}(--data.intensity hu: CT all the same)"] if doubtful else []


def like_ct(scans: Iterable[Path]) -> bool:
    """Return whether the first readable scan has values below `FAT_HU`, as only CT has; True when none is readable."""
    for path in scans:
        try:
            return bool(read_volume(path).scan.min() < FAT_HU)
        except UserError:
            continue  # reported when it is prepared
    return True


def encoder(scan: np.ndarray, kind: str) -> Callable[[np.ndarray], np.ndarray]:
    """Return the function from native values to what is resized and stored: HU, or codes by the percentiles of the scan."""
    limits = None if kind == "hu" else intensity.percentiles(scan)
    return lambda native: native if limits is None else intensity.encode_percentiles(native, limits)


def stored_type(kind: str) -> type:
    """Return the integer type on disk."""
    return np.int16 if kind == "hu" else np.uint16


def cut_pixels(native: np.ndarray, box: Box, size: int, kind: str) -> np.ndarray:
    """Crop and resize a slice to (S, S) in the type of the store.

    Args:
        native: what `encoder` gives, (H, W).
        box: which part; beyond the slice there is air, or black.
        size: side of the result, S.
        kind: "hu" or "percentile".
    """
    limits, fill = np.iinfo(stored_type(kind)), intensity.HU_MIN if kind == "hu" else 0
    return np.rint(np.clip(box.resize(native, size, fill), limits.min, limits.max)).astype(stored_type(kind))
