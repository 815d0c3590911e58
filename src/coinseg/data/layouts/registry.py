"""The table of layouts: which one a folder is in, and whether the cases it lists can be used.

To add a layout, write `fits_x(root)` and `list_x(root, settings)`, which opens no image, in a file beside this one, and add a row
to `LAYOUTS`, before every layout that would also fit, and its name to `DataSettings.layout`. A skipped case is a line in
`Cohort.problems`; `UserError` is for data that cannot be used at all.
"""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from coinseg.config.schema import DataSettings
from coinseg.data.phantom.canvas import LAST, RECORD
from coinseg.data.readers.image import is_image
from coinseg.data.readers.paths import holds_slices
from coinseg.errors import UserError, names_that_fit
from coinseg.types import Case, Cohort

from .class_folders import folders_of_classes, found_folders
from .classes import as_one_class, class_columns, require_usable
from .csv import COLUMNS, fits_table, list_table, names_files, table_of
from .decathlon import fits_decathlon, list_decathlon
from .dicom_studies import fits_dicom, list_dicom
from .folder_patients import patients_table, with_patients
from .folders import fits_folders, list_folders
from .kits import fits_kits, list_kits
from .nnunet import fits_nnunet, list_nnunet
from .sequences import fits_sequences, list_sequences
from .shared import few, is_readable, others_in, place_of, require_there, told_apart, visible, without_suffix
from .tables import FILE, header_of, label_column, tables_in
from .totalsegmentator import fits_scans, list_scans
from .unread import beside, other_endings, paths_of
from .unrecognised import proposal, what_is_there


class Layout(NamedTuple):
    """One way in which data lie on disk."""

    fits: Callable[[Path], bool]
    list: Callable[[Path, DataSettings], Cohort]
    example: str  # what it is recognised by, for error lines
    names_lesions: bool = False  # whether `data.lesion` is needed where no table has labels


LAYOUTS = {
    "totalsegmentator": Layout(fits_scans, list_scans, "s0001/ct.nii.gz"),
    "nnunet": Layout(fits_nnunet, list_nnunet, "dataset.json, imagesTr/x_0000.nii.gz", True),
    "decathlon": Layout(fits_decathlon, list_decathlon, "dataset.json that lists imagesTr/x.nii.gz", True),
    "kits": Layout(fits_kits, list_kits, "case_00000/imaging.nii.gz"),
    "csv": Layout(fits_table, list_table, "a table with a column file"),
    "folders": Layout(fits_folders, list_folders, "one of normal, one of abnormal images"),
    "dicom": Layout(fits_dicom, list_dicom, "a folder of slices per case"),
    "sequences": Layout(fits_sequences, list_sequences, "x_flair.nii.gz beside x_t2.nii.gz"),
}
"""The layouts by name; the first that fits is taken."""


_TABLES = (".csv", ".tsv", ".xls", ".xlsx", ".ods")  # endings of tables


def _known() -> str:
    *first, last = (f"{name} ({layout.example})" for name, layout in LAYOUTS.items())
    return f"{', '.join(first)} or {last}"


@names_that_fit()
def read_layout(root: Path, settings: DataSettings, one_class: bool = False) -> Cohort:
    """List the cases under `root`, sorted by id; only tables are opened.

    Args:
        root: a folder, or a .csv file.
        settings: min_lesion_px and small_lesions are read only to describe where labels come from.
        one_class: accept labels of one class only, where anomalies will be injected.

    Raises:
        UserError: no layout fits, a table has errors, ids are not unique, or there are too few classes or patients.
    """
    require_there(root)
    if (root.is_file() and is_readable(root)) or (root.is_dir() and holds_slices(root) and not tables_in(root)):
        got = f"{root} is one {'image' if is_image(root) else 'scan'}"
        do = "for a mask of it: coinseg segment -i SCAN -o MASK --model RUN"
        raise UserError(got, "a folder or a table of labelled ones, to learn from", do)
    if root.is_dir() and not visible(root):
        raise UserError(f"{root} is an empty folder", _known(), "correct the path")
    if (root / RECORD).is_file() and not (root / LAST).is_file():
        got = f"{root} is a phantom cohort that is not finished ({LAST} is missing)"
        raise UserError(got, "all of its patients", "wait for `coinseg phantom`, or give its command again")
    if settings.classes and settings.lesion:
        got = "data.classes and data.lesion are both given"
        raise UserError(got, "classes by their names, or one lesion", "leave out one of them: data.classes names lesions too")
    name, passed = (settings.layout, []) if settings.layout != "auto" else _recognise(root, settings)
    if name != "csv" and not root.is_dir():
        raise UserError(f"{root} is no folder", f"a folder for layout {name}", "correct the path or data.layout")
    cohort = LAYOUTS[name].list(root, settings)
    known = patients_table(root) if name == "folders" else None
    cohort = with_patients(cohort, known) if known else cohort
    if settings.classes and not cohort.classes:
        required = "a layout that has several (see data.classes in the settings)"
        raise UserError(
            f"data.classes is given and layout {name} has one class", required, "leave it out, or use a table of files"
        )
    cohort = as_one_class(cohort, one_class)
    cohort = told_apart(replace(cohort, cases=tuple(sorted(_unique(cohort.cases, root), key=lambda case: case.id))))
    problems = (
        *_not_read(name, settings),
        *passed,
        *tables_left(root, name, bool(passed or known)),
        *cohort.problems,
        *_endings(root, cohort),
        *_alike(cohort.cases),
    )
    cohort = replace(cohort, label_source=_label_source(cohort, settings), problems=problems)
    _check(root, cohort, settings, one_class)
    return cohort


def _recognise(root: Path, settings: DataSettings) -> tuple[str, list[str]]:
    """Return the name of the layout that fits what lies under `root`, and the line about a table that is passed over."""
    if settings.normal or settings.abnormal:
        return "folders", []
    if name := next((name for name, layout in LAYOUTS.items() if layout.fits(root)), None):
        stray = _passed_over(root, settings) if name == "csv" else ""
        if name == "csv" and (stray or _has_folders(root, settings)) and patients_table(root):
            return "folders", []
        return ("folders", [stray]) if stray else (name, [])
    if settings.classes and root.is_dir():
        return "folders", []  # named by data.classes, or label maps
    do = proposal(root, lambda folder: any(layout.fits(folder) for layout in LAYOUTS.values()))
    raise UserError(f"no layout is recognised in {root} ({what_is_there(root)})", _known(), do)


def _passed_over(root: Path, settings: DataSettings) -> str:
    """Return the line about a table that says less than the folders beside it; empty where the table is to be read."""
    table = table_of(root)
    if table is None or root.is_file():
        return ""
    header = {*header_of(table)}
    if settings.classes:
        asked = any({name.lower(), f"mask_{name.lower()}"} & header for name in settings.classes)
        by_class = not asked and folders_of_classes(root, settings) is not None
        why = "it has no column of data.classes, which are folders here" if by_class else ""
    else:
        why = _says_nothing(table, header) if _has_folders(root, settings) else ""
    return f"{table.name} is passed over, {why}: the folders are read" if why else ""


def _has_folders(root: Path, settings: DataSettings) -> bool:
    """Return whether there are folders of normal and of abnormal images."""
    with suppress(UserError):
        folders = found_folders(root, settings)
        return bool(folders.normal and folders.abnormal)
    return False


def _says_nothing(table: Path, header: set[str]) -> str:
    """Say why a table has no label or patient of any image; empty where it has."""
    if not names_files(table):
        return "no file that its first rows name is there"
    labels = label_column(header) or {*COLUMNS["patient"]} & header or len(class_columns(table, {*COLUMNS["file"]})[0]) > 1
    return "" if labels else "it has no column label"


def _not_read(name: str, settings: DataSettings) -> list[str]:
    """Return the line about settings that name folders and are not read in layout `name`."""
    given = {
        "normal": settings.normal and name != "folders",
        "abnormal": settings.abnormal and name != "folders",
        "masks": settings.masks and name not in ("csv", "folders", "dicom"),
    }
    listed = [f"data.{key}" for key, is_given in given.items() if is_given]
    return [f"{few(listed)} is given and not read in layout {name}"] if listed else []


def tables_left(root: Path, name: str, passed: bool) -> list[str]:
    """Return the line about tables beside the data that are not read, in layout `name`; one that is `passed` over was said."""
    if name not in ("csv", "folders", "sequences") or not root.is_dir():
        return []  # the others have tables of their own
    known = [root / "labels.csv", root / "patients.csv"] if name == "sequences" else []
    known += [table] if (name == "csv" or passed) and (table := table_of(root)) else []
    left = [path.name for path in visible(root) if path.suffix.lower() in _TABLES and path.is_file() and path not in known]
    what = f"a table of files is one .csv with a column {' or '.join(FILE)}, separated by comma, semicolon or tab"
    return [f"tables not read: {few(left, 3)}; {what}"] if left else []


def _unique(cases: Sequence[Case], root: Path) -> list[Case]:
    """Return the cases, with a hash of the path in ids that are the same only because odd characters were replaced."""
    base = root if root.is_dir() else root.parent
    places = [(case.id, without_suffix(place_of(case.image, base))) for case in cases]
    times = Counter(name for name, _ in set(places))
    names = [name + (f"_{sha256(os.fsencode(place)).hexdigest()[:8]}" if times[name] > 1 else "") for name, place in places]
    own = [name if case.patient == case.id else case.patient for case, name in zip(cases, names, strict=True)]
    return [replace(case, id=name, patient=who) for case, name, who in zip(cases, names, own, strict=True)]


def _endings(root: Path, cohort: Cohort) -> list[str]:
    """Return the line about files of other endings: anywhere in a folder, or beside what a table names."""
    read, table = paths_of(cohort.cases), cohort.layout == "csv"
    others = beside((case.image for case in cohort.cases), read) if table else others_in(root, read)
    said = table or cohort.layout == "folders"  # these name what can be read and is not in a line of their own
    return other_endings((file for file in others if not (said and is_readable(file))), read)


def _alike(cases: Sequence[Case]) -> list[str]:
    """Return the line about patients that may be one: a spreadsheet turns 07 to 7 or 7.0, a person Anna to ANNA."""
    forms: dict[str, set[str]] = defaultdict(set)
    for name in {case.patient for case in cases if case.patient != case.id}:
        number = re.fullmatch(r"0*(\d+)([.,]0*)?", name)
        forms[number[1] if number else "".join(name.casefold().split())].add(name)
    count = sum(len(names) for names in forms.values() if len(names) > 1)
    what = "differ from another only in capitals, spaces, leading zeros or a trailing .0: they are taken for different people"
    return [f"{count} patients {what}"] if count else []


def _label_source(cohort: Cohort, settings: DataSettings) -> str:
    """Describe where image labels come from: whoever reads the scores must know when they are made from lesion masks."""
    if not any(one.label is None and one.lesion for case in cohort.cases for one in (case.classes or (case,))):
        return cohort.label_source
    small = "normal" if settings.small_lesions == "normal" else "left out of training"
    rule = f"above {settings.min_lesion_px} native lesion pixels, with fewer {small}" if settings.min_lesion_px else "with any"
    what = f" ({few(settings.lesion)})" if settings.lesion else ""
    return f"{cohort.label_source}; where none is given, made from the lesion masks{what}: a slice is abnormal {rule}"


def _check(root: Path, cohort: Cohort, settings: DataSettings, one_class: bool) -> None:
    """Raise `UserError` when the cohort as a whole cannot be used."""
    cases = cohort.cases
    if not cases:
        why = f" (first of {len(cohort.problems)} problems: {cohort.problems[0]})" if cohort.problems else ""
        raise UserError(f"no usable case in {root}{why}", "at least one scan or image", "mend the data or the settings")
    inject = "inject anomalies with --anomaly.kind blob"
    if LAYOUTS[cohort.layout].names_lesions and not one_class and not cohort.labelled:
        got = f"data.lesion is empty and {root} has no labels.csv with labels: {cohort.label_source}"
        raise UserError(got, "the label that makes a slice abnormal", f"set data.lesion, or {inject}")
    for one, other in zip(cases, cases[1:], strict=False):
        if one.id == other.id and one.image == other.image:
            do = "keep one row or entry of it; of two folders that lie in each other leave one out"
            raise UserError(f"{one.image} is listed twice", "each image once", do)
        if one.id == other.id:
            raise UserError(f"{one.image} and {other.image} both have the id {one.id}", "unique ids", "rename or drop one")
    if cohort.classes:
        require_usable(root, cohort, settings)
    counts = Counter(label for case in cases for label in (case.label, *case.slice_labels.values()) if label is not None)
    # Where no label was given a lesion mask may still give the other class when it is read.
    open_labels = any(case.label is None and case.lesion for case in cases)
    if len(counts) == 1 and not one_class and not open_labels and not cohort.classes:
        got = f"{counts[0]} normal and {counts[1]} abnormal labels are given in {root}"
        got += "".join(f" ({line.split(';')[0]})" for line in cohort.problems if line.startswith("folders not read"))
        do = "add the other class, set data.normal and data.abnormal" if cohort.layout == "folders" else "add the other class"
        raise UserError(got, "labels of both classes", f"{do}, or {inject}")
    if settings.split_by != "slice" and len({case.patient for case in cases}) < 2:
        do = "add patients, or set data.split_by slice (scores are then optimistic)"
        raise UserError(f"{root} has one patient only", "two patients or more, to hold some out", do)
