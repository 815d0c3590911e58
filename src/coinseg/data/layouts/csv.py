"""A table with one row for each image, volume or slice of a volume; recognised by a column of files (see `COLUMNS`).

    labels.csv                      file,label,patient,slice,mask,organ     (only file is required)
    images/a.png                    named a.png, images/a.png or a; a volume, a DICOM folder or .zip (FOLDER#KEY for one series),
                                    one DICOM slice or X-ray; images may have another name where it is the only folder
    masks/a.png, organ_masks/a.png  used when the table has no column mask or organ

An image with patient and slice belongs to a scan; a row of a volume with slice labels that slice alone, from 0, inferior first
(`instances` has other columns for it).
Paths are relative to the table or to `images`, and stay below the folder of the table: it may come from somebody else.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import gcd
from pathlib import Path

from coinseg.config.schema import DataSettings
from coinseg.data.readers.image import IMAGE_SUFFIXES, is_image
from coinseg.data.readers.paths import ARCHIVE, SLICE_SUFFIXES, VOLUME_SUFFIXES, is_dicom, kind_of, split_key
from coinseg.data.readers.volume import is_volume
from coinseg.errors import UserError
from coinseg.types import Case, Cohort

from .dicom_studies import fits_dicom
from .instances import Instance, index_of, named_in
from .masks_by_name import MASK_FOLDERS, ORGAN_FOLDERS, MasksByName
from .shared import existing, folders_in, lies_inside, own_patients, patient_of, place_of, safe_id, with_label
from .tables import (
    LABEL,
    columns_in,
    first_of,
    header_of,
    label_in,
    label_source,
    read_table,
    row_error,
    shown,
    tables_in,
    whole_number,
)  # fmt: skip
from .unread import not_named

COLUMNS = {
    "file": ("file", "image", "path", "filename", "image_path", "id"),
    "label": LABEL,
    "patient": ("patient", "patient_id", "subject", "case", "case_id"),
    "slice": ("slice", "slice_number", "slice_index"),
    "mask": ("mask", "mask_path", "lesion", "lesion_mask"),
    "organ": ("organ", "organ_mask"),
}
"""Names of the columns, in any case; the first that a table has is read."""
_SUFFIXES = ("", *IMAGE_SUFFIXES, *VOLUME_SUFFIXES, ARCHIVE, *SLICE_SUFFIXES)  # may be left out in a cell
_FIRST = 20  # rows that say what a table is about


def fits_table(root: Path) -> bool:
    """Return whether `root` is or holds a table of files; beside DICOM files a column id counts where it names single ones."""
    table = table_of(root)
    if table is None or {*COLUMNS["file"]} - {"id"} & {*header_of(table)} or not fits_dicom(root):
        return table is not None
    cells = [row["id"] for _, row in read_table(table)[:_FIRST] if _inside(table, row["id"])]
    return any(kind_of(place) for cell in cells for place in _places(table, cell, _SUFFIXES))


def table_of(root: Path) -> Path | None:
    """Return the table to read: `root` itself, labels.csv, slices.csv, or the only one with a column of files."""
    if root.is_file():
        return root if root.suffix.lower() == ".csv" else None
    fitting = {path.name.lower(): path for path in tables_in(root) if set(COLUMNS["file"]) & set(header_of(path))}
    return fitting.get("labels.csv") or fitting.get("slices.csv") or (fitting.popitem()[1] if len(fitting) == 1 else None)


def list_table(root: Path, settings: DataSettings) -> Cohort:
    """List one case for each row; masks are named in the row, or found by name in folders beside the table."""
    table = table_of(root)
    if table is None:
        got = f"{root} is or holds no table to read{columns_in(root)}"
        raise UserError(got, f"one .csv with a column {' or '.join(COLUMNS['file'])}", "name it labels.csv, or give its path")
    header, rows = header_of(table), read_table(table)
    column = {role: name for role, names in COLUMNS.items() if (name := first_of(names, header))}
    if "file" not in column:
        required = f"a column {' or '.join(COLUMNS['file'])}, separated by comma, semicolon or tab"
        do = "rename one; where the table is about DICOM studies give the folder they are in"
        raise UserError(f"{table} has the columns {shown(header)}", required, do)
    masks = MasksByName.under(table.parent, settings, "" if "mask" in column else None)
    listed = [_case(table, n, {role: row[name] for role, name in column.items()}, masks, named_in(row)) for n, row in rows]
    left = not_named(listed, table, masks.folders)
    cases, problems, left_out = masks.matched(_whole_scans(table, listed))
    problems += left
    if cases and "patient" not in column:
        problems.insert(0, f"{table.name} has no column patient: {own_patients(cases)}")
    if {"slice", "patient"} <= column.keys():
        cases, alone = _along_scans(cases)
        what = f"their {column['slice']} is no whole number, or twice in one patient"
        problems += [f"{alone} images of {table.name} are taken by themselves: {what}"] if alone else []
    if "slice" in column and (alone := sum(kind_of(case.image) == "slice" for case in cases)):
        problems.append(f"{alone} DICOM slices of {table.name} are taken by themselves, not as neighbours in their scans")
    if "label" not in column:
        what = f"{table.name} has no column label ({shown(header)}): labels can only come from lesion masks or anomalies"
        return Cohort("csv", tuple(cases), f"no image labels in {table.name}", (what, *problems), tuple(left_out))
    return Cohort("csv", tuple(cases), label_source(table), tuple(problems), tuple(left_out))


def _case(table: Path, number: int, cells: dict[str, str], masks: MasksByName, instances: tuple[tuple[str, str], ...]) -> Case:
    """Return the case of row `number`, given as cells by role; `instances` name its slice of a DICOM scan (`instances`)."""
    image = _named(table, number, cells["file"], _SUFFIXES)
    if image is None or not (is_image(image) or is_volume(image)):
        raise row_error(table, number, f"names {'something else' if cells['file'] else 'no file'}", "an image or a volume")
    if cells.get("patient") == "":
        raise row_error(table, number, "has no patient", "a patient in every row")
    place = place_of(image, table.parent)
    organ = _named(table, number, cells["organ"]) if "organ" in cells else masks.organ(image, place)
    lesions = [_named(table, number, cells["mask"])] if "mask" in cells else masks.lesion(image, place)
    name, volume = safe_id(place), is_volume(image)
    index = whole_number(cells.get("slice", ""))
    if volume and cells.get("slice") and index is None:
        raise row_error(table, number, "labels no slice of its volume", "a whole number, from 0, inferior first")
    label = label_in(cells.get("label", ""), table, number)
    if instances and volume and label is not None and kind_of(image) != "slice" and (index is None or is_dicom(image)):
        index = index_of(image, table, Instance(number, instances, index, label))
        label = None if index is None else label
    case = with_label(Case(name, cells["patient"] if "patient" in cells else patient_of(image, name), image, volume), label)
    case = replace(case, organ=masks.organ_sources(organ), lesion=masks.lesion_sources(lesions))
    if index is None or kind_of(image) == "slice":
        return case
    if volume:
        return replace(case, label=None, slice_labels={} if label is None else {index: label})
    return replace(case, series=cells["patient"], place=index) if "patient" in cells else case


def _whole_scans(table: Path, cases: Sequence[Case]) -> list[Case]:
    """Join the cases of one volume, each of which labels a slice; `UserError` where they contradict each other."""
    joined: dict[str, Case] = {}
    firsts: list[Case] = []
    for case in cases:
        if not (case.volume and case.label is None) or (first := joined.setdefault(case.id, case)) is case:
            firsts.append(case)
            continue
        if replace(first, slice_labels={}) != replace(case, slice_labels={}):
            got = f"rows of {table} name {case.image} with different patients or masks"
            raise UserError(got, "the same in every row", "correct the rows")
        if any(first.slice_labels.get(index, label) != label for index, label in case.slice_labels.items()):
            got = f"rows of {table} contradict each other about {case.image}"
            raise UserError(got, "one label per slice", "correct the rows")
        joined[case.id] = replace(first, slice_labels={**first.slice_labels, **case.slice_labels})
    return [joined.get(case.id, case) for case in firsts]


def _along_scans(cases: list[Case]) -> tuple[list[Case], int]:
    """Number images along their scans, in steps of 1; also return how many belong to none (two images with one number)."""
    times = Counter((case.series, case.place) for case in cases)
    unclear = {series for (series, _), count in times.items() if count > 1}
    cases = [replace(case, series=None, place=0) if case.series in unclear else case for case in cases]
    first = {case.series: case.place for case in sorted(cases, key=lambda case: -case.place)}
    step = gcd(*(case.place - first[case.series] for case in cases)) or 1
    if step > 1:
        cases = [replace(case, place=(case.place - first[case.series]) // step) for case in cases]
    return cases, sum(not case.volume and case.series is None for case in cases)


def _named(table: Path, number: int, cell: str, suffixes: Sequence[str] = ("",)) -> Path | None:
    """Return the file or DICOM folder that a cell names, None for an empty cell."""
    if not cell:
        return None
    if not _inside(table, cell):
        do = "move the table above them, or link their folder beside it"
        what = "names a file outside of the folder of the table"
        raise row_error(table, number, what, "files below that folder", do)
    for path in _places(table, cell, suffixes):
        if path.is_file() or (split_key(path)[0].exists() and is_dicom(path)):
            return path
    raise row_error(table, number, "names a file that is missing", "an existing file")


def _inside(table: Path, cell: str) -> bool:
    return lies_inside(table.parent, cell) and lies_inside(table.parent, cell.replace("\\", "/"))


def _places(table: Path, cell: str, suffixes: Sequence[str]) -> Iterator[Path]:
    """Yield the paths that a cell may name: beside the table, in `images`, in the only folder beside it, or in other capitals."""
    names = [text + suffix for text in dict.fromkeys((cell, cell.replace("\\", "/"))) for suffix in suffixes]
    places = [(base, name) for name in names for base in (table.parent, table.parent / "images")]
    yield from (base / name for base, name in places)
    yield from (existing(base, name) for base, name in places)
    folders = [folder for folder in folders_in(table.parent) if folder.name.lower() not in (*MASK_FOLDERS, *ORGAN_FOLDERS)]
    if len(folders) == 1:  # that of all images, where one is missing so far
        yield from (folders[0] / name for name in names)
        yield from (existing(folders[0], name) for name in names)
