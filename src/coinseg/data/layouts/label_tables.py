"""Tables beside scans: image labels and patients by case.

    labels.csv      image_id,slice,label    of single slices, counted from inferior (0) to superior
    labels.csv      image_id,label          of every slice of a case
    patients.csv    case,patient

The column of cases may be called image_id, case or case_id in both; DICOM data know more names of it, see `layout_dicom`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from coinseg.errors import UserError

from .shared import LABEL, few, is_value, label_in, read_table

CASE = ("image_id", "case", "case_id")
"""What the column of cases may be called, in any case."""
PATIENT = ("patient", "patient_id", "subject")
"""What the column of patients may be called."""


@dataclass(frozen=True)
class Given:
    """The image labels a table gives to one case: one for every slice, or of single slices."""

    label: int | None = None
    slices: dict[int, int] = field(default_factory=dict)


def labels_by_case(path: Path, keys: Sequence[str] = CASE) -> dict[str, Given]:
    """Image labels by case, whose column has one of the names; empty without the table. An empty cell says nothing."""
    found: dict[str, dict[int | None, int]] = defaultdict(dict)
    for number, row in read_table(path) if path.is_file() else []:
        case, label = row[_column(path, row, keys)], label_in(row[_column(path, row, LABEL)], path, number)
        if not case:
            raise UserError(f"row {number} of {path} names no case", "a case in every row", "correct the row")
        if "slice" in row and not is_value(row["slice"]):
            raise UserError(f"row {number} of {path} has slice {row['slice']!r}", "a slice index from 0", "correct the row")
        index = int(row["slice"]) if "slice" in row else None
        if label is not None and found[case].setdefault(index, label) != label:
            raise UserError(f"row {number} of {path} contradicts an earlier row", "one label per slice", "correct the row")
    return {case: Given(of.get(None), {z: label for z, label in of.items() if z is not None}) for case, of in found.items()}


def patients_by_case(path: Path, keys: Sequence[str] = CASE) -> dict[str, str]:
    """The patient of every case, whose column has one of the names; empty without the table."""
    found: dict[str, str] = {}
    for number, row in read_table(path) if path.is_file() else []:
        key = _column(path, row, keys)
        case, patient = row[key], row[_column(path, [name for name in row if name != key], PATIENT)]
        if not patient:
            raise UserError(f"row {number} of {path} has no patient", "a patient in every row", "correct the row")
        if found.setdefault(case, patient) != patient:
            raise UserError(f"row {number} of {path} contradicts an earlier row", "one patient per case", "correct the row")
    return found


def _column(path: Path, row: Iterable[str], names: Sequence[str]) -> str:
    """The first of the names that is a column of a table; `UserError` when none is."""
    columns = list(row)
    found = next((name for name in names if name in columns), None)
    if found is None:
        raise UserError(f"{path} has the columns {few(columns)}", f"a column {' or '.join(names)}", "rename one")
    return found
