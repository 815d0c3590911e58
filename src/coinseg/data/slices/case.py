"""One case in memory: its scan or image with its masks on one grid, and how slices of it are cut and stored."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from coinseg.config.schema import DataSettings
from coinseg.data.readers.axes import reordered, turned
from coinseg.data.readers.geometry import Geometry
from coinseg.data.readers.image import is_turned, read_image
from coinseg.data.readers.image_mask import read_image_region
from coinseg.data.readers.paths import parts_of
from coinseg.data.readers.volume import Volume, read_on_grid, read_region, read_volume
from coinseg.errors import UserError
from coinseg.types import Case, MaskSource

from . import intensity
from .channels import GREY, are_colour
from .crop import Box, Cut, cuts

BLACKS = 8  # grey values of pixels whose red, green and blue are 0 or 1 of 255 each


@dataclass(frozen=True)
class CaseMasks:
    """The masks of one case, (slices, H, W) bool each."""

    organs: tuple[np.ndarray, ...]  # of the organ regions
    lesion: np.ndarray | None  # the union
    problem: str = ""  # why there is no lesion mask, though the layout has one
    notes: frozenset[str] = frozenset()  # "lesion 2", "organ 1": a value asked for that a mask has; "lesion inverted"


@dataclass(frozen=True)
class LoadedCase:
    """One case in memory, on one canonical grid."""

    scan: np.ndarray  # (slices, H, W) native values, (slices, H, W, C) of several channels; a plain image has one slice
    organs: tuple[np.ndarray, ...]  # masks of the organ regions, (slices, H, W) bool each
    lesion: np.ndarray | None  # mask, likewise
    geometry: Geometry | None = None  # None for a plain image
    case: Case | None = None  # None without a layout
    masks: CaseMasks | None = None  # as they were read
    modality: str = ""  # what DICOM says it is; "" where nothing says it

    def given(self, cut: Cut, level: str, used: int) -> int | None:
        """Return the label 0 or 1 that a square was given, not by a mask; None without one, or with that of its scan or slice.

        Args:
            cut: the square.
            level: `data.label_level`.
            used: how many slices of the case are used.
        """
        if self.case is None:
            return None
        label = self.case.slice_labels.get(cut.index, self.case.label)
        return label if label in (0, 1) and not is_weak(self.case, cut, label, level, used) else None

    def cuts(self, settings: DataSettings) -> Iterator[Cut]:
        """Yield the slices that are used, along `data.axis`; see `crop.cuts`."""
        slices, height, width = self.scan.shape[:3]
        if self.case and self.case.volume and 1 in reordered((slices, height, width), settings.axis)[1:]:
            do = "set data.axis to the plane of the scan: axial, coronal or sagittal"
            raise UserError(f"{self.case.image} has {settings.axis} slices of one row or column", "slices in their plane", do)
        pixel = None if self.geometry is None else reordered(self.geometry.spacing, settings.axis)[1:]
        organs = [turned(organ, settings.axis) for organ in self.organs]
        return cuts(reordered((slices, height, width), settings.axis), organs, settings, pixel)

    def require_fits(self, settings: DataSettings) -> None:
        """Raise `UserError` where a slice of fixed millimetres cannot hold the organ, or has too many tiles."""
        if settings.spacing or settings.tile:
            list(self.cuts(settings))


def labelled_per_scan(case: Case, level: str, used: int = 2) -> bool:
    """Return whether the label 1 of a case says only that some of its `used` slices are abnormal; level is `data.label_level`."""
    weak = level == "scan" or (used > 1 and not case.slice_labels)
    return weak and case.volume and case.label == 1 and level != "slice"


def is_weak(case: Case, cut: Cut, label: int, level: str, used: int) -> bool:
    """Return whether a label of a square says only that it, or another of its scan or image, is abnormal.

    Args:
        case: whose label it is.
        cut: the square; of several tiles of a slice any may be the abnormal one.
        label: 0, 1, or -1 where it is not known.
        level: `data.label_level`; with "slice" nothing is weak.
        used: how many slices of the case are used.
    """
    if cut.is_tile and label == 1 and level != "slice":
        return True
    return cut.index not in case.slice_labels and labelled_per_scan(case, level, used)


def load_case(case: Case, with_lesion: bool = True, volume: Volume | None = None, channels: Sequence[str] = GREY) -> LoadedCase:
    """Read a case, with or without its lesion masks, or take its `volume`, as images of some channels.

    Raises:
        UserError: image or organ masks are wrong, or channels of a case lie on different grids.
    """
    volume = volume or (read_volume(case.image) if case.volume else None)
    scan = volume.scan if volume else read_image(case.image, are_colour(channels))[None]
    if case.others and len(channels) > 1:
        scan = np.stack([scan, *(_channel(case, path, scan, volume) for path in case.others)], axis=-1)
    masks = read_masks(case if with_lesion else replace(case, lesion=()), volume.geometry if volume else scan.shape[1:3])
    grid, modality = (volume.geometry, volume.modality) if volume else (None, "")
    return LoadedCase(scan, masks.organs, masks.lesion, grid, case, masks, modality)


def _channel(case: Case, path: Path, first: np.ndarray, volume: Volume | None) -> np.ndarray:
    """Read a further channel of a case; `UserError` unless it is on the grid of the first one."""
    if volume:
        return read_on_grid(path, volume.geometry, "channel")
    image = read_image(path)[None]
    if image.shape != first.shape:
        (height, width), (tall, wide) = image.shape[1:], first.shape[1:]
        got = f"channel {path} has {height} x {width} pixels (H x W) and {case.image} {tall} x {wide}"
        raise UserError(got, "all channels of a case on one grid", "resample them to that of the first one")
    return image


def read_masks(case: Case, grid: Geometry | tuple[int, ...]) -> CaseMasks:
    """Read the masks of a case; lesion masks that cannot be used cost it nothing but its scores where it has labels.

    Args:
        case: as the layout describes it.
        grid: that of its scan; (H, W) of a plain image.

    Raises:
        UserError: an organ mask, or a lesion mask that the labels would be made of, cannot be used; or a file is gone.
    """

    def read(role: str, sources: Iterable[MaskSource]) -> tuple[np.ndarray, ...]:
        masks = []
        for source in sources:
            if isinstance(grid, Geometry):
                mask, found = read_region(source, grid)
            else:
                inside, found = read_image_region(source.path, (grid[0], grid[1]), source.values)
                mask = inside[None]
            masks.append(mask)
            notes.update(f"{role} {note}" for note in found)
        return tuple(masks)

    notes: set[str] = {"turned"} if not case.volume and is_turned(case.image) else set()
    organs, problem = read("organ", case.organ), ""
    try:
        lesions = read("lesion", case.lesion)
    except UserError as error:
        require_there(case, error)
        if case.label is None and not case.slice_labels:
            raise
        lesions, problem = (), f"{case.id}: {error}; its label is used, its mask is not: it is not scored"
    return CaseMasks(organs, np.logical_or.reduce(lesions) if lesions else None, problem, frozenset(notes))


def require_there(case: Case, error: UserError) -> None:
    """Raise `UserError` from `error` where a file of a case is gone: a lost disk must not pass for a hundred broken scans."""
    files = [case.image, *case.others, *(mask.path for mask in (*case.organ, *case.lesion))]
    # A pipe is there, and has no parts either: it is broken.
    if gone := [file for file in files if not parts_of(file) and (file.is_dir() or not file.exists())]:
        if gone[0].is_symlink():
            do = "get the file (git annex get, dvc pull), or remove the link"
            raise UserError(f"{gone[0]} is a link to a file that is not there", "links to files", do) from error
        do = "put them back, then give the same command again"
        raise UserError(f"{gone[0]} is gone since the command began", "data that stay where they are", do) from error


def encoder(scan: np.ndarray, kind: str, channels: Sequence[str] = GREY) -> Callable[[np.ndarray], np.ndarray]:
    """Return the function from native values to what is resized and stored: HU, or codes by the percentiles of the scan.

    Red, green and blue have the same percentiles, so that a colour keeps its hue; sequences have their own. With `kind` "8bit"
    codes are of 0 to 255, the same for every image; see `require_bytes`.
    """
    if kind == "hu":
        return lambda native: native
    limits = limits_of(scan, kind, channels)
    if len(limits) == 1:
        return lambda native: intensity.encode_percentiles(native, limits[0])
    return lambda native: np.stack([intensity.encode_percentiles(native[..., c], one) for c, one in enumerate(limits)], axis=-1)


def limits_of(scan: np.ndarray, kind: str, channels: Sequence[str] = GREY) -> list[tuple[float, float]]:
    """Return the native values that become 0 and 1: one pair for all channels of a scan, or one for each sequence."""
    require_bytes(scan, kind)
    if kind == "8bit":
        return [intensity.BYTE]
    if scan.ndim < 4 or are_colour(channels):
        return [intensity.percentiles(scan)]
    return [intensity.percentiles(scan[..., channel]) for channel in range(scan.shape[3])]


def require_bytes(scan: np.ndarray, kind: str) -> None:
    """Raise `UserError` where `kind` is "8bit" and a scan has values that no 8-bit image has."""
    if kind != "8bit":
        return
    low, high = scan.min(), scan.max()
    # In [0, 1] it would be black; of bytes 0 and 1 in colour there are no more luminances than `BLACKS`.
    if not (low >= 0 and high <= 255) or (high <= 1 and scan.dtype.kind == "f" and len(np.unique(scan.round(4))) > BLACKS):
        got = f"an image with values from {low:g} to {high:g}, and data.intensity is 8bit"
        raise UserError(got, "values from 0 to 255", "set data.intensity to percentile, or save all images with 8 bits")


def stored_type(kind: str) -> type:
    """Return the integer type on disk."""
    return np.int16 if kind == "hu" else np.uint16


def cut_pixels(native: np.ndarray, box: Box, size: int, kind: str) -> np.ndarray:
    """Crop and resize a slice to (C, S, S) in the type of the store.

    Args:
        native: what `encoder` gives, (H, W) or (H, W, C).
        box: which part; beyond the slice there is air, or black.
        size: side of the result, S.
        kind: "hu", "percentile" or "8bit".
    """
    limits, fill = np.iinfo(stored_type(kind)), intensity.HU_MIN if kind == "hu" else 0
    planes = [native] if native.ndim == 2 else np.moveaxis(native, 2, 0)
    resized = np.stack([box.resize(plane, size, fill) for plane in planes])
    return np.rint(np.clip(resized, limits.min, limits.max)).astype(stored_type(kind))
