"""One case in memory: its scan or image with its masks on one grid, what of it is cut, and as which numbers it is kept.

The store of slices and the segmentation of a new scan read cases in this one way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from ..config import DataSettings
from ..errors import UserError
from ..types import Case, Cohort
from . import intensity
from .axes import reordered, turned
from .cutting import Box, Cut, cuts
from .grid import Geometry
from .image import read_image, read_image_mask
from .volume import read_mask, read_volume


@dataclass(frozen=True)
class LoadedCase:
    """One case in memory: native slices, organ regions and lesion mask on one canonical grid (slices, H, W).

    `geometry` is that of a volume; None for a plain image. `series` and `place` are those of `types.Case`.
    """

    scan: np.ndarray
    organs: tuple[np.ndarray, ...]
    lesion: np.ndarray | None
    geometry: Geometry | None = None
    series: str | None = None
    place: int = 0

    def cuts(self, settings: DataSettings) -> Iterator[Cut]:
        """The slices that are used, those of the arrays `turned` to `data.axis`; see `cutting.cuts`."""
        slices, height, width = self.scan.shape
        pixel = None if self.geometry is None else reordered(self.geometry.spacing, settings.axis)[1:]
        organs = [turned(organ, settings.axis) for organ in self.organs]
        return cuts(reordered((slices, height, width), settings.axis), organs, settings, pixel)


def load_case(case: Case, with_lesion: bool = True) -> LoadedCase:
    """Read a case; raises `UserError` for anything wrong with its files."""
    lesions = case.lesion if with_lesion else ()
    if case.volume:
        volume = read_volume(case.image)
        organs = tuple(read_mask(source, volume.geometry) for source in case.organ)
        found = [read_mask(source, volume.geometry) for source in lesions]
        scan, geometry = volume.scan, volume.geometry
    else:
        scan, geometry = read_image(case.image)[None], None
        organs = tuple(read_image_mask(source.path, scan.shape[1:], source.values)[None] for source in case.organ)
        found = [read_image_mask(source.path, scan.shape[1:], source.values)[None] for source in lesions]
    return LoadedCase(scan, organs, np.logical_or.reduce(found) if found else None, geometry, case.series, case.place)


def kind_of_intensity(cohort: Cohort, settings: DataSettings) -> str:
    """ "hu" or "percentile"; "auto" takes HU for volumes."""
    volumes = all(case.volume for case in cohort.cases)
    if settings.intensity == "hu" and not volumes:
        raise UserError(
            "data.intensity is hu and the data are plain images", "CT volumes for hu", "set data.intensity to percentile"
        )
    return settings.intensity if settings.intensity != "auto" else ("hu" if volumes else "percentile")


def encoder(scan: np.ndarray, kind: str) -> Callable[[np.ndarray], np.ndarray]:
    """Native values of a scan, slice by slice -> what is resized and stored: HU as they are, else percentile codes of the scan."""
    limits = None if kind == "hu" else intensity.percentiles(scan)
    return lambda native: native if limits is None else intensity.encode_percentiles(native, limits)


def stored_type(kind: str) -> type:
    """The integer type on disk."""
    return np.int16 if kind == "hu" else np.uint16


def cut_pixels(native: np.ndarray, box: Box, size: int, kind: str) -> np.ndarray:
    """One prepared slice (size, size) in the type of the store; beyond the slice there is air, or black."""
    limits, fill = np.iinfo(stored_type(kind)), intensity.HU_MIN if kind == "hu" else 0
    return np.rint(np.clip(box.resize(native, size, fill), limits.min, limits.max)).astype(stored_type(kind))
