"""A table with one row per image or volume.

    data/
      labels.csv            file,label,patient,slice,mask,organ     (only file is required; see `COLUMNS` for other names)
      images/a.png          named a.png, images/a.png or just a; a volume, a DICOM folder or .zip (FOLDER#KEY for one of its series)
      masks/a.png           used when the table has no column mask
      organ_masks/a.png     used when the table has no column organ

With patient and slice an image is one of a scan, and its number along it: its neighbours are asked as well (`neighbours.py`). A row of a
volume with a slice labels that slice alone, counted from 0, inferior first.

The separator is a comma, a semicolon or a tab. Paths are relative to the table or to `images` beside it, and may not
lead out of the folder of the table: whoever made the table does not choose what else is read here.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from math import gcd
from pathlib import Path

from coinseg.config.schema import DataSettings
from coinseg.data.readers.image import IMAGE_SUFFIXES, is_image
from coinseg.data.readers.paths import ARCHIVE, VOLUME_SUFFIXES, is_dicom, split_key
from coinseg.data.readers.volume import is_volume
from coinseg.errors import UserError
from coinseg.types import Case, Cohort

from .shared import (
    LABEL,
    MasksByName,
    few,
    header_of,
    label_in,
    lies_inside,
    own_patients,
    patient_of,
    place_of,
    read_table,
    safe_id,
    said_of_tables,
    tables_in,
)

COLUMNS = {
    "file": ("file", "image", "path", "filename", "image_path", "id"),
    "label": LABEL,
    "patient": ("patient", "patient_id", "subject", "case", "case_id"),
    "slice": ("slice", "slice_number", "slice_index"),
    "mask": ("mask", "mask_path", "lesion", "lesion_mask"),
    "organ": ("organ", "organ_mask"),
}
"""Names of the columns, in any case; the first that a table has is read."""


def table_of(root: Path) -> Path | None:
    """The table to read: `root` itself, labels.csv, slices.csv, or the only one with a column of files."""
    if root.is_file():
        return root if root.suffix.lower() == ".csv" else None
    fit = {path.name.lower(): path for path in tables_in(root) if set(COLUMNS["file"]) & set(header_of(path))}
    only = next(iter(fit.values())) if len(fit) == 1 else None
    return fit.get("labels.csv") or fit.get("slices.csv") or only


def list_table(root: Path, settings: DataSettings) -> Cohort:
    """One case for each row; masks are named in the row, or found by name in folders beside the table."""
    table = table_of(root)
    if table is None:
        raise UserError(
            f"{root} is or holds no table to read{said_of_tables(root)}",
            f"one .csv with a column {' or '.join(COLUMNS['file'])}",
            "name it labels.csv, or give its path",
        )
    header, rows = header_of(table), read_table(table)
    column = {role: name for role, names in COLUMNS.items() if (name := next((n for n in names if n in header), None))}
    if "file" not in column:
        raise UserError(
            f"{table} has the columns {few(header)}",
            f"a column {' or '.join(COLUMNS['file'])}, separated by comma, semicolon or tab",
            "rename one; where the table is about DICOM studies give the folder they are in",
        )
    masks = MasksByName.under(table.parent, settings, "" if "mask" in column else None)
    cases = [_case(table, number, {role: row[name] for role, name in column.items()}, masks) for number, row in rows]
    cases, problems = masks.with_organs(_whole_scans(table, cases))
    problems += masks.unmatched(cases)
    if cases and "patient" not in column:
        problems.insert(0, f"{table.name} has no column patient: {own_patients(cases)}")
    cases, alone = _along_scans(cases) if {"slice", "patient"} <= column.keys() else (cases, 0)
    if alone:
        problems.append(
            f"{alone} images of {table.name} are taken by themselves: their {column['slice']} is no whole number, or twice in one patient"
        )
    label = column.get("label")
    source = f"image labels from {table.name}, column {label}" if label else f"no image labels in {table.name}"
    if label is None:
        problems.insert(
            0, f"{table.name} has no column label ({few(header)}): labels can only come from lesion masks or anomalies"
        )
    return Cohort("csv", tuple(cases), source, tuple(problems))


def _case(table: Path, number: int, cells: dict[str, str], masks: MasksByName) -> Case:
    """The case of one row, given as cells by role; `UserError` with the row number on anything wrong with it."""
    image = _named(table, number, cells["file"], ("", *IMAGE_SUFFIXES, *VOLUME_SUFFIXES, ARCHIVE))
    if image is None or not (is_image(image) or is_volume(image)):
        got = cells["file"] or "no file"
        raise UserError(f"row {number} of {table} names {got}", "an image or a volume", "correct the row")
    if cells.get("patient") == "":
        raise UserError(f"row {number} of {table} has no patient", "a patient in every row", "correct the row")
    place = place_of(image, table.parent)
    organ = _named(table, number, cells["organ"]) if "organ" in cells else masks.organ(image, place)
    mask = _named(table, number, cells["mask"]) if "mask" in cells else masks.lesion(image, place)
    name, volume = safe_id(place), is_volume(image)
    found = re.fullmatch(r"(\d{1,6})(\.0+)?", cells.get("slice", ""))
    index = int(found[1]) if found else None
    if volume and cells.get("slice") and index is None:
        raise UserError(
            f"row {number} of {table} labels slice {cells['slice']} of a volume",
            "a whole number, from 0, inferior first",
            "correct the row",
        )
    label = label_in(cells.get("label", ""), table, number)
    of_slice, of_scan = volume and index is not None, not volume and index is not None and "patient" in cells
    return Case(
        id=name, patient=cells["patient"] if "patient" in cells else patient_of(image, name), image=image, volume=volume,
        label=None if of_slice else label, slice_labels={index: label} if of_slice and index is not None and label is not None else {},
        organ=masks.organ_sources(organ), lesion=masks.lesion_sources(mask),
        series=cells["patient"] if of_scan else None, place=index or 0 if of_scan else 0,
    )  # fmt: skip


def _whole_scans(table: Path, cases: Sequence[Case]) -> list[Case]:
    """The cases, volumes of which several rows label a slice each as one; `UserError` where two rows of one say different things."""
    of: dict[str, Case] = {}
    alone: list[Case] = []
    for case in cases:
        if not (case.volume and case.label is None) or (first := of.setdefault(case.id, case)) is case:
            alone.append(case)
            continue
        if replace(first, slice_labels={}) != replace(case, slice_labels={}):
            raise UserError(
                f"rows of {table} name {case.image} with different patients or masks", "the same in every row", "correct the rows"
            )
        if any(first.slice_labels.get(index, label) != label for index, label in case.slice_labels.items()):
            raise UserError(
                f"rows of {table} contradict each other about {case.image}", "one label per slice", "correct the rows"
            )
        of[case.id] = replace(first, slice_labels={**first.slice_labels, **case.slice_labels})
    return [of.get(case.id, case) for case in alone]


def _along_scans(cases: list[Case]) -> tuple[list[Case], int]:
    """The cases, without what was said of a scan where an image of it has the number of another; and how many plain images are of none.

    Where slices are numbered in steps, 5, 10, 15, the step they all have is one.
    """
    times = Counter((case.series, case.place) for case in cases)
    twice = {series for (series, _), n in times.items() if n > 1}
    made = [replace(case, series=None, place=0) if case.series in twice else case for case in cases]
    first: dict[str | None, int] = {}
    for case in made:
        first[case.series] = min(case.place, first.get(case.series, case.place))
    step = gcd(*(case.place - first[case.series] for case in made)) or 1
    made = [case if step == 1 else replace(case, place=(case.place - first[case.series]) // step) for case in made]
    return made, sum(not case.volume and case.series is None for case in made)


def _named(table: Path, number: int, cell: str, suffixes: Sequence[str] = ("",)) -> Path | None:
    """The file or DICOM folder a cell names, None for an empty one; `UserError` when it is missing."""
    if not cell:
        return None
    if not lies_inside(table.parent, cell):
        raise UserError(
            f"row {number} of {table} names {cell}, which lies outside of the folder of the table",
            "files below that folder",
            "move the table above them, or link their folder beside it",
        )
    for suffix in suffixes:
        for base in (table.parent, table.parent / "images"):
            path = base / (cell + suffix)
            if path.is_file() or (split_key(path)[0].exists() and is_dicom(path)):
                return path
    raise UserError(f"row {number} of {table} names {cell}, which is missing", "an existing file", "correct the row")
