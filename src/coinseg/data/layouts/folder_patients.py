"""Who images in folders of classes are of: a table beside the folders that has patients and no labels.

meta.csv    file,patient    (other names: see `csv.COLUMNS`); files are named as in tables of labels
"""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from coinseg.data.readers.paths import is_dicom
from coinseg.types import Case, Cohort

from .classes import class_columns
from .csv import COLUMNS, SUFFIXES, file_column, names_files, table_of
from .table_columns import without_groups
from .table_files import is_inside, places_of
from .tables import first_of, header_of, label_column, read_table, row_error


def patients_table(root: Path) -> Path | None:
    """Return the table of files beside the folders of `root` that has patients and no labels; None where there is none."""
    table = table_of(root) if root.is_dir() else None
    header = {*header_of(table)} if table else set()
    if table is None or not header & {*COLUMNS["patient"]} or label_column(header) or not names_files(table):
        return None
    return table if len(class_columns(table, {*COLUMNS["file"]})[0]) < 2 and _column(table)[0] else None


def _column(table: Path) -> tuple[str, list[str]]:
    """Return the column of patients, empty without one, and the line about a column that may be one."""
    found = {"patient": first_of(COLUMNS["patient"], header_of(table)) or ""}
    lines = without_groups(table, found, read_table(table))
    return found.get("patient", ""), lines


def with_patients(cohort: Cohort, table: Path) -> Cohort:
    """Give the cases of folders the patients that rows of a table name; the other images are patients of their own.

    Raises:
        UserError: two rows give one file two patients.
    """
    column, lines = _column(table)
    files, patients = file_column(table) or "", dict[str, str]()
    for number, row in read_table(table) if column and files else []:
        cell, who = row[files], row[column]
        there = (place for place in places_of(table, cell, SUFFIXES) if place.exists()) if cell and is_inside(table, cell) else ()
        if who and (place := next(iter(there), None)) and patients.setdefault(os.path.normpath(place), who) != who:
            raise row_error(table, number, "contradicts an earlier row", "one patient per file")
    cases = [replace(case, patient=_patient(case, patients, column)) for case in cohort.cases]
    named = sum(os.path.normpath(case.image) in patients for case in cases)
    lines.append(f"patients of {named} of {len(cases)} images are from {table.name}, column {column}")
    kept = [line for line in cohort.problems if named < len(cases) or not line.startswith("folders name no patients")]
    return replace(cohort, cases=tuple(cases), problems=(*lines, *kept))


def _patient(case: Case, patients: Mapping[str, str], column: str) -> str:
    hidden = column == "patientid" and is_dicom(case.image)  # as in `csv`
    return case.patient if hidden else patients.get(os.path.normpath(case.image), case.patient)
