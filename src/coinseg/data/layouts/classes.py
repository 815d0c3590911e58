"""Several classes: what a case has of each, which columns of a table are classes, and which sets of classes cannot be used."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from coinseg.config.schema import DataSettings
from coinseg.errors import UserError
from coinseg.types import Case, ClassLabels, Cohort, MaskSource

from .instances import INSTANCES
from .shared import few, nearest, safe_id
from .tables import (
    CASE,
    LABEL,
    LABELS,
    PATIENT,
    Given,
    first_of,
    labels_by_case,
    read_table,
    row_error,
    titles_of,
    whole_number,
)  # fmt: skip

BACKGROUND = "background"
MOST = 32
"""Classes of a data set: every image is explained once for each of them."""
_NO_CLASS = {
    "normal", "healthy", "good", "negative", "benign", "no finding", "no_finding", "nofinding", "none", "unk", "unknown",
    "fold", "split", "train", "test", "val", "valid", "validation", "is_train", "is_test", "is_valid", "is_validation",
    "sex", "gender", "male", "female", "left", "right", "laterality", "side", "age", "index", "unnamed: 0", "",
    "contrast", "smoker",
}  # fmt: skip
"""Names of columns that hold 0 and 1 and are no finding, in lower case; data.classes can still name them."""
_NO_WORDS = {"normal", "healthy", "negative", "control", "controls", "id", "group"}  # is_normal, healthy_control, label_id
_DENIALS = ("no", "not", "without")  # no_lesion

_UNCERTAIN = re.compile(r"-1([.,]0+)?")
_NAME = re.compile(r"\w[\w .+()&-]{0,63}")


def any_of(labels: Iterable[int | None]) -> int | None:
    """Return the label of "any class": 1 where one is 1, 0 where all are 0, else None."""
    given = set(labels)
    return 1 if 1 in given else 0 if given == {0} else None


def with_classes(case: Case, classes: Sequence[ClassLabels]) -> Case:
    """Give a case what is known of each class; its own label, slice labels and lesion then mean any of them."""
    slices = sorted({index for one in classes for index in one.slice_labels})
    labels = {index: any_of(one.slice_labels.get(index, one.label) for one in classes) for index in slices}
    known = {index: label for index, label in labels.items() if label is not None}
    lesion = _union(source for one in classes for source in one.lesion)
    label = any_of(one.label for one in classes)
    return replace(case, label=label, slice_labels=known, lesion=lesion, classes=tuple(classes))


def _union(sources: Iterable[MaskSource]) -> tuple[MaskSource, ...]:
    """Join the sources of one file."""
    values: dict[Path, tuple[int, ...]] = {}
    for source in sources:
        known = values.get(source.path, source.values)
        values[source.path] = tuple(sorted({*known, *source.values})) if known and source.values else ()
    return tuple(MaskSource(path, inside) for path, inside in values.items())


def asked_names(asked: Sequence[str], known: Iterable[str], where: str) -> list[str]:
    """Return the known names that `data.classes` asks for, in any capitals; `UserError` for an unknown or repeated one."""
    forms = {name.casefold(): name for name in known}
    for number, name in enumerate(asked):
        if name.casefold() not in forms:
            required = f"classes that the data have ({nearest(name, forms.values())})"
            raise UserError(f"data.classes names {name!r}, which {where} does not have", required, "correct data.classes")
        if name.casefold() in {other.casefold() for other in asked[:number]}:
            raise UserError(f"data.classes names {name!r} twice", "every class once", "correct data.classes")
    return [forms[name.casefold()] for name in asked]


def class_columns(table: Path, taken: Collection[str]) -> tuple[dict[str, str], list[str]]:
    """Return the columns of 0, 1 or nothing, as column and name as written, and lines about others that may be meant as classes.

    Those are columns that are never 1, and columns of words or with a few other values.

    Args:
        table: with a header.
        taken: columns, in lower case, that are something else.
    """
    titles, found, never, unlike = titles_of(table), dict[str, str](), list[str](), list[str]()
    for column, cells in _cells_of(table, taken).items():
        if others := [cell for cell in cells.values() if whole_number(cell) not in (0, 1)]:
            words = all(cell.casefold() in LABELS for cell in cells.values())
            unlike += [titles[column]] if words or 2 * len(others) <= len(cells) else []
        elif any(whole_number(cell) == 1 for cell in cells.values()):
            found[column] = titles[column]
        else:
            never.append(titles[column])
    lines = [f"{table.name}: no row has the class {few(never)}: left out"] if never and len(found) > 1 else []
    what = "not read as classes, which have 0, 1 or nothing in every row"
    what += ": an image with one of these alone counts as normal" if len(found) > 1 else ""
    return found, lines + ([f"{table.name}: columns {few(unlike)} are {what}"] if unlike else [])


def _cells_of(table: Path, taken: Collection[str]) -> dict[str, dict[int, str]]:
    """Return the cells that are not empty, by column and row, of columns that may be classes by their names."""
    rows = read_table(table)
    columns = [column for column in rows[0][1] if column not in taken and _may_be_class(column)]
    cells = {column: {number: row[column] for number, row in rows if row[column]} for column in columns}
    return {column: known for column, known in cells.items() if known}


def require_certain(table: Path, taken: Collection[str]) -> None:
    """Raise `UserError` where a class is -1 in some row, as data sets say that it is uncertain: its column would be left out."""
    marks: dict[str, int] = {}
    columns = 0
    for column, cells in _cells_of(table, taken).items():
        uncertain = [number for number, cell in cells.items() if _UNCERTAIN.fullmatch(cell)]
        known = {whole_number(cell) for number, cell in cells.items() if number not in {*uncertain}}
        columns += 1 in known and known <= {0, 1}
        if uncertain and 1 in known and known <= {0, 1}:
            marks[column] = uncertain[0]
    if marks and columns > 1:
        column = min(marks, key=marks.__getitem__)
        do = "write nothing there, or name the columns that are meant in data.classes"
        raise row_error(
            table, marks[column], f"has -1 in the column {titles_of(table)[column]}", "0, 1, or nothing if not known", do
        )


def _may_be_class(column: str) -> bool:
    """Return whether the name of a column, in lower case, may be that of a finding: 1 in is_normal is no lesion."""
    words = re.split(r"[\W_]+", column)
    return column not in (*_NO_CLASS, *LABEL) and _NO_WORDS.isdisjoint(words) and words[0] not in _DENIALS


def zero_or_one(cell: str, table: Path, number: int, column: str) -> int | None:
    """Return the label of a class in a cell, None for an empty one; `UserError` for anything but 0 and 1."""
    if cell and whole_number(cell) not in (0, 1):
        raise row_error(table, number, f"has neither 0 nor 1 in the column {column}", "0, 1 or nothing", "correct data.classes")
    return whole_number(cell)


@dataclass(frozen=True)
class ScanClasses:
    """The classes of scans that a table beside them may label: their names, the labels of each case, and lines about them."""

    names: tuple[str, ...]
    given: Mapping[str, Mapping[str, Given]]  # by class and case; no class without a column
    lines: tuple[str, ...]

    @classmethod
    def of(cls, table: Path, settings: DataSettings, keys: Sequence[str] = CASE) -> ScanClasses:
        """Return `data.classes`, or the two and more columns of 0 and 1 of a table without a column label; else no class."""
        header = titles_of(table) if table.is_file() else {}
        names, lines = settings.classes, list[str]()
        if not names and header and not first_of(LABEL, header):
            taken = {*keys, *PATIENT, *INSTANCES, "slice"}
            require_certain(table, taken)
            columns, lines = class_columns(table, taken)
            names = tuple(columns.values()) if len(columns) > 1 else ()
        given = {name: labels_by_case(table, keys, (name.lower(),)) for name in names if name.lower() in header}
        if settings.classes and not given and (unread := first_of(LABEL, header)):
            lines = [f"data.classes is given: column {unread} of {table.name} is not read"]
        return cls(tuple(names), given, tuple(lines))

    def source(self, table: Path, otherwise: str) -> str:
        """Say where the labels come from, for `Cohort.label_source`."""
        return f"image labels from {table.name}, columns {few(self.given, 40)}" if self.given else otherwise

    def cases(self) -> set[str]:
        """Return the names of cases in the table."""
        return {case for rows in self.given.values() for case in rows}

    def labelled(self, name: str) -> bool:
        """Return whether a case has a label of some class."""
        return any(rows.get(name, Given()) != Given() for rows in self.given.values())

    def on(self, case: Case, name: str, lesions: Sequence[tuple[MaskSource, ...]]) -> Case:
        """Give a case, by its name in the table, its labels and the lesions of each class."""
        rows = [self.given.get(one, {}).get(name, Given()) for one in self.names]
        pairs = zip(rows, lesions, strict=True)
        return with_classes(case, [ClassLabels(row.label, row.slices, lesion) for row, lesion in pairs])


def require_usable(root: Path, cohort: Cohort, settings: DataSettings) -> None:
    """Raise `UserError` where the classes of a cohort cannot be learnt.

    That is more than `MOST`, names that cannot name a file, or a class that no or one image has, or every one; where masks may
    still tell, it is not known yet.
    """
    pick = "leave it out: data.classes names those that are meant"
    if len(cohort.classes) > MOST:
        got = f"{root} has {len(cohort.classes)} classes ({few(cohort.classes, 3)})"
        required = f"at most {MOST}: f has an output for each, and every image is explained once for each"
        raise UserError(got, required, "name fewer with data.classes")
    for number, name in enumerate(cohort.classes):
        if name.casefold() == BACKGROUND:
            got, required = f"{root} has a class named {name!r}", f"another name: in label maps {BACKGROUND} is 0, no class"
            raise UserError(got, required, f"rename it, or {pick}")
        if not _NAME.fullmatch(name) or len({safe_id(other).casefold() for other in cohort.classes}) < len(cohort.classes):
            required = "letters, digits, spaces and ._+-()&, at most 64, and no two alike: outputs are named by them"
            raise UserError(f"{root} has the classes {few(map(repr, cohort.classes), 3)}"[:200], required, "rename them")
        cases = [case.of_class(number) for case in cohort.cases]
        if any(case.label is None and not case.slice_labels and case.lesion for case in cases):
            continue
        having = [case for case in cases if 1 in (case.label, *case.slice_labels.values())]
        without = any(0 in (case.label, *case.slice_labels.values()) for case in cases)
        labels = [label for case in having for label in (case.label, *case.slice_labels.values())]
        units = labels.count(1) if settings.split_by == "slice" else len({case.patient for case in having})
        if units < 2:
            many = "no image" if not having else "one image only" if labels.count(1) == 1 else "images of one patient only"
            got, required = f"class {name} of {root} is in {many}", "two or more, one to train and one to hold out"
            raise UserError(got, required, f"add images, or {pick}")
        if not without:
            got = f"class {name} of {root} is in every image that has a label of it"
            raise UserError(got, "images without it, to tell it from", f"add some, or {pick}")


def as_one_class(cohort: Cohort, one_class: bool) -> Cohort:
    """Return a cohort of one class as it is without `Cohort.classes`; with `one_class` (injected anomalies) any cohort."""
    if len(cohort.classes) == 1:
        return replace(cohort, cases=tuple(case.of_class(0) for case in cohort.cases), classes=())
    if one_class and cohort.classes:
        return replace(cohort, cases=tuple(replace(case, classes=()) for case in cohort.cases), classes=())
    return cohort


def counts(cohort: Cohort) -> Mapping[str, Mapping[str, int]]:
    """Return for each class the numbers of cases with, without and with unknown label, of those masks decide, and of masks."""
    found = {}
    for number, name in enumerate(cohort.classes):
        cases = [case.of_class(number) for case in cohort.cases]
        having = sum(1 in (case.label, *case.slice_labels.values()) for case in cases)
        without = sum({case.label, *case.slice_labels.values()} - {None} == {0} for case in cases)
        open_ = sum(case.label is None and not case.slice_labels and bool(case.lesion) for case in cases)
        found[name] = {
            "with": having, "without": without, "from_lesion_masks": open_, "unknown": len(cases) - having - without - open_,
            "lesion_masks": sum(bool(case.lesion) for case in cases),
        }  # fmt: skip
    return found
