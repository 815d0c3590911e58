"""One case in memory: its scan or image with its masks on one grid, and how slices of it are cut and stored.

Training data and new scans are read in this one way.
"""

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
from coinseg.types import Case, Cohort

from . import intensity
from .crop import Box, Cut, cuts

FAT_HU = -100
"""Fat and air are below; there is some around every organ."""


@dataclass(frozen=True)
class LoadedCase:
    """One case in memory, on one canonical grid.

    Args:
        scan: native values, (slices, H, W); a plain image has one slice.
        organs: masks of the organ regions, (slices, H, W) bool each.
        lesion: mask, alike; None without one.
        geometry: of a volume; None for a plain image.
        case: what the layout knows of it; None without a layout.
    """

    scan: np.ndarray
    organs: tuple[np.ndarray, ...]
    lesion: np.ndarray | None
    geometry: Geometry | None = None
    case: Case | None = None

    def given(self, index: int, level: str, used: int) -> int | None:
        """The label 0 or 1 that a slice was given; None without one, or with that of the whole scan only. No lesion mask is used.

        Args:
            index: of the slice.
            level: `data.label_level`.
            used: how many slices of the case are used.
        """
        if self.case is None or (index not in self.case.slice_labels and labelled_per_scan(self.case, level, used)):
            return None
        label = self.case.slice_labels.get(index, self.case.label)
        return label if label in (0, 1) else None

    def cuts(self, settings: DataSettings) -> Iterator[Cut]:
        """The slices that are used, along `data.axis`; see `crop.cuts`."""
        slices, height, width = self.scan.shape
        pixel = None if self.geometry is None else reordered(self.geometry.spacing, settings.axis)[1:]
        organs = [turned(organ, settings.axis) for organ in self.organs]
        return cuts(reordered((slices, height, width), settings.axis), organs, settings, pixel)

    def require_fits(self, settings: DataSettings) -> None:
        """Raise `UserError` where `cuts` does: a fixed number of millimetres cannot hold the organ."""
        if settings.spacing:
            for _ in self.cuts(settings):
                pass


def labelled_per_scan(case: Case, level: str, used: int = 2) -> bool:
    """Whether the label 1 of a case says only that some slice of it is abnormal.

    Args:
        case: as the layout describes it.
        level: `data.label_level`.
        used: how many slices of the case are used.
    """
    if not case.volume or case.label != 1 or level == "slice":
        return False
    return level == "scan" or (used > 1 and not case.slice_labels)


def load_case(case: Case, with_lesion: bool = True) -> LoadedCase:
    """Read a case, with or without its lesion masks; raises `UserError` for anything wrong with its files."""
    lesions = case.lesion if with_lesion else ()
    if case.volume:
        volume = read_volume(case.image)
        organs = tuple(read_mask(source, volume.geometry) for source in case.organ)
        masks = [read_mask(source, volume.geometry) for source in lesions]
        scan, geometry = volume.scan, volume.geometry
    else:
        scan, geometry = read_image(case.image)[None], None
        organs = tuple(read_image_mask(source.path, scan.shape[1:], source.values)[None] for source in case.organ)
        masks = [read_image_mask(source.path, scan.shape[1:], source.values)[None] for source in lesions]
    return LoadedCase(scan, organs, np.logical_or.reduce(masks) if masks else None, geometry, case)


def kind_of_intensity(cohort: Cohort, settings: DataSettings) -> str:
    """ "hu" or "percentile"; "auto" takes HU where the cases are volumes and the first that is readable is `like_ct`."""
    volumes = all(case.volume for case in cohort.cases)
    if settings.intensity == "hu" and not volumes:
        raise UserError(
            "data.intensity is hu and the data are plain images", "CT volumes for hu", "set data.intensity to percentile"
        )
    if settings.intensity != "auto":
        return settings.intensity
    return "hu" if volumes and like_ct(case.image for case in cohort.cases) else "percentile"


def said_of_intensity(kind: str, cohort: Cohort, settings: DataSettings) -> list[str]:
    """A line for a person where "auto" has not taken volumes for CT; `kind` is what `kind_of_intensity` returned."""
    if kind == "hu" or settings.intensity != "auto" or not all(case.volume for case in cohort.cases):
        return []
    return [
        f"taken for MR or the like, each scan scaled by its own percentiles: no value is below {FAT_HU}, as in CT "
        "(--data.intensity hu: CT all the same)"
    ]


def like_ct(scans: Iterable[Path]) -> bool:
    """Whether the first readable scan has values below `FAT_HU`, as CT has (not MR, PET, ultrasound); or none is readable."""
    for path in scans:
        try:
            return bool(read_volume(path).scan.min() < FAT_HU)
        except UserError:
            continue  # reported when it is prepared
    return True


def encoder(scan: np.ndarray, kind: str) -> Callable[[np.ndarray], np.ndarray]:
    """A function from native values of a slice to what is resized and stored: HU, or codes by the percentiles of the scan."""
    limits = None if kind == "hu" else intensity.percentiles(scan)
    return lambda native: native if limits is None else intensity.encode_percentiles(native, limits)


def stored_type(kind: str) -> type:
    """The integer type on disk."""
    return np.int16 if kind == "hu" else np.uint16


def cut_pixels(native: np.ndarray, box: Box, size: int, kind: str) -> np.ndarray:
    """Crop and resize a slice, in the type of the store.

    Args:
        native: what `encoder` gives, (H, W).
        box: which part; beyond the slice there is air, or black.
        size: side of the result, S.
        kind: "hu" or "percentile".

    Returns:
        (S, S) int16 or uint16.
    """
    limits, fill = np.iinfo(stored_type(kind)), intensity.HU_MIN if kind == "hu" else 0
    return np.rint(np.clip(box.resize(native, size, fill), limits.min, limits.max)).astype(stored_type(kind))
