"""From the headers of one DICOM series to its grid: sort its frames and check that they are one straight, even stack.

DICOM's coordinates are LPS+ millimetres; inside coinseg affines are RAS+. No message has data of the patient.
"""

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom import Dataset

from coinseg.errors import UserError

from .dicom_tags import is_ct
from .dicom_values import number, numbers, scale_of
from .geometry import FLAT, TO_RAS, UNEVEN, Geometry, geometry_in_mm
from .limits import MAX_PIXELS
from .paths import public_name
from .voxels import broken, invertible, require_fits

_TURN = 1e-3  # tolerance of direction cosines, within a series and from a right angle
_TILT = 1.0  # degrees between the stack and the normal of its slices that are allowed if the whole shift is below half a pixel
ASSUMED_MM = 1.0  # thickness of one slice that does not say it: its mask has an area, and no volume
Header = tuple[str, Dataset]  # a file by its name below the scan's folder, and its tags without pixels


@dataclass(frozen=True, eq=False)
class Frame:
    """One slice."""

    member: str  # name of its file
    index: int  # its frame in the file
    size: tuple[int, int]  # (rows, columns)
    orientation: np.ndarray  # (2, 3): direction along a row (growing column) and along a column (growing row)
    position: np.ndarray  # (3,), centre of the first pixel in LPS+ mm
    spacing: np.ndarray  # (2,), distance of rows and of columns in mm
    depth: float | None  # distance of slices in mm from the header, if it has one
    slope: float  # from stored values to Hounsfield units
    inter: float  # intercept of the same


def stack_of(path: Path, series: Sequence[Header]) -> tuple[list[Frame], Geometry]:
    """Return the sorted slices and the grid (column, row, slice) of a series; `UserError` unless even, straight, grey, alike."""
    for member, header in series:
        if header.get("SamplesPerPixel", 1) != 1 or not str(header.get("PhotometricInterpretation", "MONO")).startswith("MONO"):
            raise UserError(f"{path}: {public_name(member)} is a colour image", "grey slices", "leave colour images out")
    _require_one_kind(path, [header for _, header in series])
    frames = [frame for member, header in series for frame in _frames_of(path, member, header)]
    _require_alike(path, frames)
    across, down = frames[0].orientation
    normal = np.cross(across, down)
    frames.sort(key=lambda frame: float(frame.position @ normal))
    _require_even(path, np.array([frame.position @ normal for frame in frames]))
    step, spacing = _step(path, frames, normal), frames[0].spacing
    affine = np.eye(4)
    affine[:3] = np.stack([across * spacing[1], down * spacing[0], step, frames[0].position], axis=1)
    if not invertible(affine):
        raise _no_geometry(path, "axes without an inverse")
    shape = (*frames[0].size[::-1], len(frames))
    require_fits(path, shape, 4)  # what is kept at most, float32
    flat = len(frames) == 1 and frames[0].depth is None
    return frames, geometry_in_mm(TO_RAS @ affine, shape, FLAT if flat else b"")


def _no_geometry(path: Path, what: str) -> UserError:
    required = "slices with ImageOrientationPatient, ImagePositionPatient and PixelSpacing"
    return UserError(f"{path} has {what}", required, "export the original CT series")


def _frames_of(path: Path, member: str, header: Dataset) -> list[Frame]:
    """Return the frames of a file: one, or those of an enhanced (multi-frame) object."""
    try:
        if "PerFrameFunctionalGroupsSequence" in header:
            shared = header.get("SharedFunctionalGroupsSequence") or [Dataset()]
            groups = [(frame, shared[0]) for frame in header.PerFrameFunctionalGroupsSequence]
            return [_frame(path, member, header, i, _flat(*group)) for i, group in enumerate(groups)]
        if int(header.get("NumberOfFrames") or 1) != 1:
            raise _no_geometry(path, f"{public_name(member)}, a multi-frame object that does not say where its frames lie")
        return [_frame(path, member, header, 0, header)]
    except UserError:
        raise
    except Exception as error:  # Tags become numbers here and may be anything.
        raise broken(f"{path}: {public_name(member)}", f"{type(error).__name__} in its geometry", "DICOM file") from None


def _flat(frame: Dataset, shared: Dataset) -> Dataset:
    """Return the tags of one frame of an enhanced object as a plain slice has them; those of the frame win over shared ones."""
    flat = Dataset()
    macros = ("PlaneOrientation", "PlanePosition", "PixelMeasures", "PixelValueTransformation")
    for item in (item for groups in (shared, frame) for macro in macros for item in groups.get(f"{macro}Sequence") or []):
        flat.update(item)
    return flat


def _frame(path: Path, member: str, header: Dataset, index: int, tags: Dataset) -> Frame:
    """Return one frame; `header` has the size, `tags` the position and the scale."""
    names = ("ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing")
    if missing := [name for name in names if not tags.get(name)]:
        raise _no_geometry(path, f"no {missing[0]} in {public_name(member)}")
    orientation, position, spacing = (numbers(f"{path}: {public_name(member)}", tags, name) for name in names)
    across, down = orientation.reshape(2, 3) / np.linalg.norm(orientation.reshape(2, 3), axis=1, keepdims=True)
    finite = np.isfinite([*across, *down, *position, *spacing]).all() and spacing.shape == (2,) and position.shape == (3,)
    if not finite or not (spacing > 0).all() or abs(across @ down) > _TURN:
        raise _no_geometry(path, f"impossible geometry in {public_name(member)}")
    if "ModalityLUTSequence" in header or (is_ct(header) and tags.get("RescaleIntercept") is None):
        required = "slices that say how stored values become Hounsfield units"
        raise UserError(f"{path} has no RescaleIntercept in {public_name(member)}", required, "export the original CT series")
    if int(header.Rows) * int(header.Columns) > MAX_PIXELS:
        raise broken(f"{path}: {public_name(member)}", f"its header claims {header.Rows} x {header.Columns} pixels", "DICOM file")
    scale = scale_of(f"{path}: {public_name(member)}", tags, is_ct(header))
    size, turn = (int(header.Rows), int(header.Columns)), np.stack([across, down])
    return Frame(member, index, size, turn, position, spacing, _depth(tags), *scale)


def _depth(tags: Dataset) -> float | None:
    for name in ("SpacingBetweenSlices", "SliceThickness"):
        with suppress(TypeError, ValueError):  # few need it, so a wrong one is as good as none
            if 0 < (depth := abs(number(tags, name, 0.0))) < math.inf:
                return depth
    return None


def _require_one_kind(path: Path, headers: Sequence[Dataset]) -> None:
    """Raise `UserError` where slices are of several modalities, or white is high in some and low in others, not in HU."""
    tags = {"Modality": "modalities", "PhotometricInterpretation": "meanings of white (PhotometricInterpretation)"}
    for tag, what in tags.items():
        kinds = {str(header.get(tag)) for header in headers if header.get(tag)}
        if len(kinds) > 1 and not (tag != "Modality" and is_ct(headers[0])):
            raise UserError(f"{path} has slices of {len(kinds)} {what}", "one", "export each series into its own folder")


def _require_alike(path: Path, frames: Sequence[Frame]) -> None:
    """Raise `UserError` unless all frames have one size, one orientation and one pixel spacing."""
    first, do = frames[0], "export each series into its own folder"
    (rows, columns), sizes = first.size, sorted({frame.size for frame in frames} - {first.size})
    if sizes:
        got = f"{path} has slices of {rows} x {columns} and of {sizes[0][0]} x {sizes[0][1]} pixels (rows x columns)"
        raise UserError(got, "slices of one size", do)
    if turned := sum(bool(np.abs(frame.orientation - first.orientation).max() > _TURN) for frame in frames):
        got = f"{path} has slices of several orientations ({turned} of {len(frames)} differ from the first)"
        raise UserError(got, "one stack of parallel slices", "leave localizers and reformatted slices out")
    if any(np.abs(frame.spacing / first.spacing - 1).max() > _TURN for frame in frames):
        raise UserError(f"{path} has slices of several pixel spacings", "one spacing", do)


def _require_even(path: Path, depth: np.ndarray) -> None:
    """Raise `UserError` unless sorted positions along the normal (mm) are even."""
    if len(depth) < 2:
        return
    gaps = np.diff(depth)
    usual = float(np.median(gaps))
    if repeated := int((gaps < max(1e-3, 0.02 * usual)).sum()):
        do = "remove copies, or export each phase or time point into its own folder"
        raise UserError(f"{path} has {repeated} slices at the position of another one", "one slice at each position", do)
    widest = int(gaps.argmax())
    if gaps[widest] > 1.5 * usual:
        lost = max(round(float(gaps[widest]) / usual) - 1, 1)
        more = int((gaps > 1.5 * usual).sum()) - 1
        got = f"{path} lacks about {lost} slices between {depth[widest]:.1f} and {depth[widest + 1]:.1f} mm along its stack"
        got += f"{f' and has {more} more gaps' if more else ''} (the usual distance is {usual:.2f} mm)"
        raise UserError(got, "every slice of the series", "export it again")
    if np.abs(depth - np.linspace(depth[0], depth[-1], len(depth))).max() > UNEVEN * usual:
        got = f"{path} has slices {gaps.min():.2f} to {gaps.max():.2f} mm apart"
        raise UserError(got, "evenly spaced slices", "export a series with one slice distance, or resample it")


def _step(path: Path, frames: Sequence[Frame], normal: np.ndarray) -> np.ndarray:
    """Return the step (3,) in LPS+ mm between slices; `UserError` for a tilted gantry."""
    if len(frames) == 1:
        return np.asarray(normal * (frames[0].depth or ASSUMED_MM))
    whole = frames[-1].position - frames[0].position
    drift = np.linalg.norm(whole - normal * (whole @ normal))
    angle = np.degrees(np.arctan2(drift, whole @ normal))
    steps = np.linspace(0, 1, len(frames))[:, None] * whole + frames[0].position
    astray = max(float(np.linalg.norm(np.cross(normal, frame.position - at))) for frame, at in zip(frames, steps, strict=True))
    if angle > _TILT or drift > 0.5 * frames[0].spacing.min() or astray > 0.5 * frames[0].spacing.min():
        got = f"{path} is a tilted stack: its slices lean by {angle:.1f} degrees and shift by {max(drift, astray):.1f} mm"
        do = "correct the tilt, for example with dcm2niix, and give the .nii.gz"
        raise UserError(got, "slices at a right angle to their stack (no gantry tilt)", do)
    return np.asarray(whole / (len(frames) - 1))
