"""From the headers of one DICOM series to its grid: which frames lie where, and whether they are one straight stack.

DICOM's coordinates are LPS+ millimetres; inside coinseg affines are RAS+. Frames are sorted by their position along the
normal of their plane; names and instance numbers are not looked at. No message here holds anything of the patient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset

from coinseg.errors import UserError

from .geometry import Geometry, geometry_in_mm
from .limits import MAX_PIXELS
from .paths import public_name
from .voxels import broken, invertible, require_fits

_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_TURN = 1e-3
"""How much the direction cosines of one series may differ, and be off a right angle."""
_TILT = 1.0
"""Degrees the stack may lean against the normal of its slices, as long as it drifts by less than half a pixel in all."""
_UNEVEN = 0.25
"""Slice distances a slice may be off its even place; positions are often rounded to a tenth of a millimetre."""
Header = tuple[str, Dataset]
"""A file by its name below the scan's folder, and its tags without pixels."""


@dataclass(frozen=True, eq=False)
class Frame:
    """One slice: which frame of which file, (rows, columns), its place in LPS+ mm, and how stored values become units.

    Args:
        orientation: (2, 3): direction along a row (growing column) and along a column (growing row).
        position: (3,), centre of the first pixel.
        spacing: distance of rows and of columns in mm.
        depth: distance of slices in mm as the header says; None when it does not.
    """

    member: str
    index: int
    size: tuple[int, int]
    orientation: np.ndarray
    position: np.ndarray
    spacing: np.ndarray
    depth: float | None
    slope: float
    inter: float


@dataclass(frozen=True, eq=False)
class Stack:
    """Frames from the first to the last slice, and their grid: stored axes are column, row, slice."""

    frames: tuple[Frame, ...]
    geometry: Geometry


def stack_of(path: Path, series: Sequence[Header]) -> Stack:
    """The stack of one series; `UserError` when it is no evenly spaced, straight stack of grey slices of one size."""
    for member, header in series:
        if header.get("SamplesPerPixel", 1) != 1 or not str(header.get("PhotometricInterpretation", "MONO")).startswith("MONO"):
            raise UserError(f"{path}: {public_name(member)} is a colour image", "grey slices", "leave colour images out")
    frames = [frame for member, header in series for frame in _frames_of(path, member, header)]
    _require_alike(path, frames)
    across, down = frames[0].orientation
    normal = np.cross(across, down)
    depth = np.array([frame.position @ normal for frame in frames])
    order = np.argsort(depth, kind="stable")
    frames, depth = [frames[i] for i in order], depth[order]
    _require_even(path, depth)
    step = _step(path, frames, normal)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1], affine[:3, 2] = across * frames[0].spacing[1], down * frames[0].spacing[0], step
    affine[:3, 3] = frames[0].position
    if not invertible(affine):
        raise _no_geometry(path, "axes without an inverse")
    rows, columns = frames[0].size
    shape = (columns, rows, len(frames))
    require_fits(path, shape, 4)  # what is kept at most, float32
    return Stack(tuple(frames), geometry_in_mm(_TO_RAS @ affine, shape))


def _no_geometry(path: Path, what: str) -> UserError:
    return UserError(
        f"{path} has {what}",
        "slices with ImageOrientationPatient, ImagePositionPatient and PixelSpacing",
        "export the original CT series",
    )


def _frames_of(path: Path, member: str, header: Dataset) -> list[Frame]:
    """The frames of a file: one, or those an enhanced (multi-frame) object describes."""
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
    except Exception as error:  # Values of tags are turned into numbers only now, and may be anything.
        raise broken(f"{path}: {public_name(member)}", f"{type(error).__name__} in its geometry", "DICOM file") from None


def _flat(frame: Dataset, shared: Dataset) -> Dataset:
    """The tags of one frame of an enhanced object as a plain slice has them; its own win over shared ones."""
    flat = Dataset()
    for groups in (shared, frame):
        for macro in ("PlaneOrientation", "PlanePosition", "PixelMeasures", "PixelValueTransformation"):
            for item in groups.get(f"{macro}Sequence") or []:
                flat.update(item)
    return flat


def _frame(path: Path, member: str, header: Dataset, index: int, tags: Dataset) -> Frame:
    """One frame; `header` has the size, `tags` the place and the scale."""
    names = ("ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing")
    if missing := [name for name in names if not tags.get(name)]:
        raise _no_geometry(path, f"no {missing[0]} in {public_name(member)}")
    orientation, position, spacing = (np.array([float(value) for value in tags[name].value]) for name in names)
    across, down = orientation.reshape(2, 3) / np.linalg.norm(orientation.reshape(2, 3), axis=1, keepdims=True)
    finite = np.isfinite([*across, *down, *position, *spacing]).all() and spacing.shape == (2,) and position.shape == (3,)
    if not finite or not (spacing > 0).all() or abs(across @ down) > _TURN:
        raise _no_geometry(path, f"impossible geometry in {public_name(member)}")
    if "ModalityLUTSequence" in header or (header.get("Modality") == "CT" and tags.get("RescaleIntercept") is None):
        raise UserError(
            f"{path} has no RescaleIntercept in {public_name(member)}",
            "slices that say how stored values become Hounsfield units",
            "export the original CT series",
        )
    if int(header.Rows) * int(header.Columns) > MAX_PIXELS:
        raise broken(f"{path}: {public_name(member)}", f"its header claims {header.Rows} x {header.Columns} pixels", "DICOM file")
    return Frame(
        member, index, (int(header.Rows), int(header.Columns)), np.stack([across, down]), position, spacing, _depth(tags),
        _number(tags.get("RescaleSlope"), 1.0), _number(tags.get("RescaleIntercept"), 0.0),
    )  # fmt: skip


def _number(value: Any, default: float) -> float:
    return default if value is None or value == "" else float(value)


def _depth(tags: Dataset) -> float | None:
    found = [abs(_number(tags.get(name), 0.0)) for name in ("SpacingBetweenSlices", "SliceThickness")]
    return next((value for value in found if value > 0), None)


def _require_alike(path: Path, frames: Sequence[Frame]) -> None:
    """Raise `UserError` unless all frames have one size, one orientation and one pixel spacing."""
    first = frames[0]
    if sizes := sorted({frame.size for frame in frames} - {first.size}):
        raise UserError(
            f"{path} has slices of {first.size[0]} x {first.size[1]} and of {sizes[0][0]} x {sizes[0][1]} pixels (rows x columns)",
            "slices of one size",
            "export each series into its own folder",
        )
    turned = [frame for frame in frames if np.abs(frame.orientation - first.orientation).max() > _TURN]
    if turned:
        raise UserError(
            f"{path} has slices of several orientations ({len(turned)} of {len(frames)} differ from the first)",
            "one stack of parallel slices",
            "leave localizers and reformatted slices out",
        )
    if any(np.abs(frame.spacing / first.spacing - 1).max() > _TURN for frame in frames):
        raise UserError(f"{path} has slices of several pixel spacings", "one spacing", "export each series into its own folder")


def _require_even(path: Path, depth: np.ndarray) -> None:
    """Raise `UserError` unless sorted positions along the normal (mm) are even."""
    if len(depth) < 2:
        return
    gaps = np.diff(depth)
    usual = float(np.median(gaps))
    twice = int((gaps < max(1e-3, 0.02 * usual)).sum())
    if twice:
        raise UserError(
            f"{path} has {twice} slices at the position of another one",
            "one slice at each position",
            "remove copies, or export each phase or time point into its own folder",
        )
    widest = int(gaps.argmax())
    if gaps[widest] > 1.5 * usual:
        lost = max(round(float(gaps[widest]) / usual) - 1, 1)
        more = int((gaps > 1.5 * usual).sum()) - 1
        raise UserError(
            f"{path} lacks about {lost} slices between {depth[widest]:.1f} and {depth[widest + 1]:.1f} mm along its stack"
            f"{f' and has {more} more gaps' if more else ''} (the usual distance is {usual:.2f} mm)",
            "every slice of the series",
            "export it again",
        )
    even = np.linspace(depth[0], depth[-1], len(depth))
    if np.abs(depth - even).max() > _UNEVEN * usual:
        raise UserError(
            f"{path} has slices {gaps.min():.2f} to {gaps.max():.2f} mm apart",
            "evenly spaced slices",
            "export a series with one slice distance, or resample it",
        )


def _step(path: Path, frames: Sequence[Frame], normal: np.ndarray) -> np.ndarray:
    """(3,) LPS+ mm from one slice to the next; `UserError` for a tilted gantry, or one slice of unknown thickness."""
    if len(frames) == 1:
        if frames[0].depth is None:
            raise _no_geometry(path, "one slice only, without a SliceThickness")
        return np.asarray(normal * frames[0].depth)
    whole = frames[-1].position - frames[0].position
    drift = np.linalg.norm(whole - normal * (whole @ normal))
    angle = np.degrees(np.arctan2(drift, whole @ normal))
    steps = np.linspace(0, 1, len(frames))[:, None] * whole + frames[0].position
    astray = max(float(np.linalg.norm(np.cross(normal, frame.position - at))) for frame, at in zip(frames, steps, strict=True))
    if angle > _TILT or drift > 0.5 * frames[0].spacing.min() or astray > 0.5 * frames[0].spacing.min():
        raise UserError(
            f"{path} is a tilted stack: its slices lean by {angle:.1f} degrees and shift by {max(drift, astray):.1f} mm",
            "slices at a right angle to their stack (no gantry tilt)",
            "correct the tilt, for example with dcm2niix, and give the .nii.gz",
        )
    return np.asarray(whole / (len(frames) - 1))
