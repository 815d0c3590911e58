"""Turn the axes of a volume to the plane in which it is cut (`data.axis`), and back. Both ways return views.

axial       slices inferior to superior, rows anterior to posterior, columns right to left of the patient
coronal     slices anterior to posterior, rows superior to inferior, columns right to left
sagittal    slices right to left, rows superior to inferior, columns anterior to posterior
"""

import math
from typing import TypeVar

import numpy as np

from coinseg.config.schema import Axis, DataSettings
from coinseg.errors import UserError
from coinseg.types import Cohort

T = TypeVar("T", int, float)
# The canonical axes (0 slices, 1 rows, 2 columns) that become slices, rows and columns.
_ORDER: dict[Axis, tuple[int, int, int]] = {"axial": (0, 1, 2), "coronal": (1, 0, 2), "sagittal": (2, 0, 1)}


def turned(canonical: np.ndarray, axis: Axis) -> np.ndarray:
    """Return a view of a canonical array (slices, rows, columns), or one with channels last, whose slices lie across `axis`."""
    return (canonical if axis == "axial" else canonical[::-1]).transpose(*_ORDER[axis], *range(3, canonical.ndim))


def turned_back(view: np.ndarray, axis: Axis) -> np.ndarray:
    """Undo `turned`; returns a view."""
    upright = view.transpose(np.argsort(_ORDER[axis]))
    return upright if axis == "axial" else upright[::-1]


def reordered(canonical: tuple[T, T, T], axis: Axis) -> tuple[T, T, T]:
    """Return a canonical shape or spacing in the order of the turned axes."""
    slices, rows, columns = _ORDER[axis]
    return canonical[slices], canonical[rows], canonical[columns]


def require_views(cohort: Cohort, settings: DataSettings) -> None:
    """Raise `UserError` when data.axis or data.spacing do not fit the data."""
    if not all(case.volume for case in cohort.cases):
        require_volumes("the data are plain images", settings)
    if not (math.isfinite(settings.spacing) and settings.spacing >= 0):
        raise UserError(f"data.spacing is {settings.spacing}", "mm per pixel, or 0", "set it to 0 for a plain resize")
    if settings.axis != "axial" and (numbered := [case.id for case in cohort.cases if case.slice_labels]):
        got = f"data.axis is {settings.axis} and {numbered[0]} has labels by slice number, which are those of axial slices"
        required = "labels of whole scans, or lesion masks to make them from"
        raise UserError(got, required, "set data.axis to axial, or leave the slice numbers out of the table")


def require_volumes(got: str, settings: DataSettings) -> None:
    """Raise `UserError` when data.axis or data.spacing ask plain images for a third axis or millimetres."""
    if settings.axis != "axial":
        raise UserError(f"data.axis is {settings.axis} and {got}", "volumes for another axis", "set data.axis to axial")
    if settings.spacing > 0:
        raise UserError(f"data.spacing is {settings.spacing:g} mm and {got}", "volumes, which have mm", "set data.spacing to 0")
