"""Tables beside scans, with commas, semicolons, tabs or bars (or as a first line sep=; says), and column names in any case.

UTF-8, or UTF-16 with its mark, as Excel saves "Unicode". Lines above the names of the columns that begin with # are comments.

labels.csv      image_id,slice,label    labels of slices from inferior (0) to superior; without slice, of every slice
patients.csv    case,patient

What stands in a cell may be the name of a patient: no message has it, only the number of the row.
"""

import codecs
import csv
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import TextIO

from coinseg.data.readers.limits import MAX_TABLE
from coinseg.errors import UserError

from .instances import Instance, index_of, named_in
from .shared import composed, few, visible

CASE = ("image_id", "case", "case_id")  # names of the column of cases; DICOM data have more, see `dicom_studies.KEYS`
PATIENT = ("patient", "patient_id", "subject")  # names of the column of patients
PATIENT_IDS = tuple(f"{who}{gap}id" for who in ("patient", "subject", "participant") for gap in (" ", "-", "", "_"))
"""Other names of it in tables of files; elsewhere PatientID is an identifier of a scan."""
LABEL = ("label", "class_label", "abnormal", "target", "y")  # names of the column of image labels; y may also be a place
FILE = ("file", "image", "path", "filename", "image_path", "id")  # names of the column of files
_NORMAL = ("false", "no", "n", "negative", "neg", "absent", "falsch", "nein", "faux", "non")
_ABNORMAL = ("true", "yes", "y", "positive", "pos", "present", "wahr", "ja", "vrai", "oui")
_WORDS = dict.fromkeys(_NORMAL, 0) | dict.fromkeys(_ABNORMAL, 1)  # labels in words; how they were understood is said
LABELS = _WORDS | {"0": 0, "normal": 0, "1": 1, "abnormal": 1, "": None}
_SEPARATOR = re.compile(r"""\s*"?sep=([,;\t|])"?[,;\t|]*\s*""", re.IGNORECASE)  # the line with which Excel says it


@dataclass(frozen=True)
class Given:
    """The image labels that a table gives to one case: `label` for every slice, or `slices` by slice number."""

    label: int | None = None
    slices: dict[int, int] = field(default_factory=dict)
    instances: tuple[Instance, ...] = ()  # slices of DICOM scans whose numbers are not known yet


def header_of(path: Path) -> list[str]:
    """Read the column names of a table, in lower case; empty for an empty file."""
    return [name.strip().lower() for cells in _cells(path, 1)[1] for name in cells]


def titles_of(path: Path) -> dict[str, str]:
    """Read the column names of a table as they are written, by those in lower case."""
    return {name.strip().lower(): name.strip() for cells in _cells(path, 1)[1] for name in cells}


def read_table(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Read a table as (row number from 2, cells by column name), missing cells empty; `UserError` for no row or a wrong one."""
    header, (comments, lines), rows = header_of(path), _cells(path), []
    if repeated := [name for name, count in Counter(header).items() if name and count > 1]:
        raise UserError(f"{path} has the column {shown(repeated)} twice", "columns with different names", "rename or drop one")
    for number, cells in enumerate(lines[1:], start=2 + comments):
        if len(cells) > len(header) and any(cell.strip() for cell in cells[len(header) :]):
            what = f"has {len(cells)} cells and the header {len(header)}"
            do = "correct the row; put text with a separator in quotes"
            raise row_error(path, number, what, "no more cells than columns", do)
        texts = [cell.strip() for cell in cells[: len(header)]] + [""] * (len(header) - len(cells))
        if any(texts):
            rows.append((number, dict(zip(header, texts, strict=True))))
    if not rows:
        raise UserError(f"{path} has no rows", "a line of column names and a row for each case", "fill or remove it")
    return rows


def row_error(path: Path, number: int, what: str, required: str, do: str = "correct the row") -> UserError:
    """Return the error for one row of a table.

    Args:
        path: the table.
        number: the row; the header is row 1.
        what: what is wrong, as it follows "row 2 of labels.csv".
        required: what the row must have instead.
        do: the next step for the user.
    """
    return UserError(f"row {number} of {path} {what}", required, do)


def _cells(path: Path, limit: int | None = None) -> tuple[int, list[list[str]]]:
    """Return how many lines of comments a table begins with, and its first `limit` rows behind them, all by default."""
    try:
        if path.stat().st_size > MAX_TABLE:
            raise OSError(f"it has {path.stat().st_size} bytes, more than {MAX_TABLE}")
        with path.open("rb") as start:
            encoding = "utf-16" if start.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"
        with path.open(encoding=encoding, newline="") as file:
            first = file.readline()
            said = _SEPARATOR.fullmatch(first)
            comments, lines = _behind_comments(file.readline() if said else first, file)
            rows = csv.reader(_text(chain(lines, file)), delimiter=said[1] if said else max(",;\t|", key=lines[0].count))
            return comments, [[composed(cell) for cell in row] for row in islice(rows, limit)]
    except (OSError, UnicodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read as a table ({error})", "UTF-8 CSV", "save it as UTF-8 CSV") from error


def _behind_comments(first: str, file: TextIO) -> tuple[int, list[str]]:
    """Return how many lines from `first` on are comments or empty, and those read behind them.

    The last comment may be the names of columns.
    """
    lines = [first]
    while lines[-1].lstrip(' "').startswith("#") or (lines[-1] and not lines[-1].strip(' ",;|\t\r\n')):
        lines.append(file.readline())
    if len(lines) > 1 and _has_names(names := lines[-2].replace("#", "", 1)) and not _has_names(lines[-1]):
        return len(lines) - 2, [names, lines[-1]]
    return len(lines) - 1, lines[-1:]


def _has_names(line: str) -> bool:
    return not {*CASE, *PATIENT, *LABEL, *FILE}.isdisjoint(cell.strip(' "\r\n') for cell in re.split(r"[,;\t|]", line.lower()))


def _text(lines: Iterable[str]) -> Iterator[str]:
    """Yield lines; `csv.Error` where one has a character that text has not."""
    for line in lines:
        if "\0" in line:
            raise csv.Error("it has NUL characters")
        yield line


def tables_in(folder: Path) -> list[Path]:
    """Return the .csv files of a folder, sorted."""
    return [path for path in visible(folder) if path.suffix.lower() == ".csv" and path.is_file()]


def shown(columns: Iterable[str]) -> str:
    """The names of columns for a message; of a first row that has a label or a number among them, which is data, none."""
    names = list(columns)
    known = not {*CASE, *PATIENT, *FILE}.isdisjoint(names)
    data = any((name in LABELS and len(name) > 2) or re.fullmatch(r"[\d.,/: -]+", name) for name in names if name) and not known
    return f"of a table without a line of names ({len(names)} columns)" if data else few(names)


def strangers(path: Path, names: Collection[str], keys: Sequence[str] = CASE) -> str:
    """The problem line about names in the column of cases that nothing in the data has; only counted, see above."""
    key = _column(path, header_of(path), keys)
    rows = [str(number) for number, row in read_table(path) if row[key] in names]
    few_rows = f"row{'s' if len(rows) > 1 else ''} {few(rows, 3)}"
    return f"{path.name} names {len(names)} {'cases' if len(names) > 1 else 'case'} ({few_rows}) that the data do not have"


def columns_in(folder: Path) -> str:
    """Describe the columns of the tables in a folder for an error line; empty without tables."""
    return "".join(f"; {path.name} has the columns {shown(header_of(path))}" for path in tables_in(folder))


def label_in(cell: str, path: Path, number: int) -> int | None:
    """Return the image label in a cell: 0, 1, or None for an empty one; `UserError` for anything else."""
    text = cell.casefold() if (whole := whole_number(cell)) is None else str(whole)
    if text not in LABELS:
        required = "0, 1, normal, abnormal, yes, no, true, false, positive, negative or nothing"
        raise row_error(path, number, "has a label that is not known", required)
    return LABELS[text]


def understood(table: Path) -> str:
    """Say which words of the column of labels count as abnormal and which as normal; empty where none needs saying."""
    column = label_column(header_of(table))
    used = {row[column].casefold() for _, row in read_table(table)} if column else set()
    told = [
        f"{few(words)} {'count' if len(words) > 1 else 'counts'} as {what}"
        for names, what in ((_ABNORMAL, "abnormal"), (_NORMAL, "normal"))
        if (words := [name for name in names if name in used])
    ]
    return f" ({', '.join(told)})" if told else ""


def whole_number(cell: str) -> int | None:
    """Return the whole number in a cell, also as 2.0 or with the comma of a German Excel; None for anything else."""
    match = re.fullmatch(r"(\d{1,6})([.,]0+)?", cell, re.ASCII)
    return int(match[1]) if match else None


def label_source(table: Path) -> str:
    """Say which column labels are read from, and name others that might have been meant, for `Cohort.label_source`."""
    header = header_of(table)
    first = label_column(header)
    others = [name for name in LABEL if name in header and name != first]
    return f"image labels from {table.name}, column {first}" + (f" (not {few(others)})" if others else "") + understood(table)


def label_column(header: Collection[str]) -> str | None:
    """Return the column of image labels, None without one; `y` beside `x` is a place, as of a box."""
    return first_of([name for name in LABEL if name != "y" or "x" not in header], header)


def first_of(names: Iterable[str], columns: Iterable[str]) -> str | None:
    """Return the first of the names that is a column, None when none is."""
    return next((name for name in names if name in columns), None)


def labels_by_case(
    path: Path, keys: Sequence[str] = CASE, columns: Sequence[str] = LABEL, dicom: bool = False
) -> dict[str, Given]:
    """Read the image labels of every case, from the first of the `columns`, by the first of `keys`; empty without the table.

    The slices of `dicom` scans may be named as in `instances`; `with_places` finds their numbers.
    """
    labels: dict[str, dict[int | None, int]] = defaultdict(dict)
    instances: dict[str, list[Instance]] = defaultdict(list)
    for number, row in read_table(path) if path.is_file() else []:
        case, label = row[_column(path, list(row), keys)], label_in(row[_column(path, list(row), columns)], path, number)
        if not case:
            raise row_error(path, number, "names no case", "a case in every row")
        index = whole_number(row["slice"]) if "slice" in row else None
        if (named := named_in(row)) and dicom:
            instances[case] += [Instance(number, named, index, label)] if label is not None else []
            labels[case] = labels[case]
            continue
        if ("slice" in row or named) and index is None:
            raise row_error(path, number, "has no slice index", "a slice index from 0, which is that at the feet")
        if label is not None and labels[case].setdefault(index, label) != label:
            raise row_error(path, number, "contradicts an earlier row", "one label per slice")
    return {
        case: Given(given.get(None), {z: y for z, y in given.items() if z is not None}, tuple(instances[case]))
        for case, given in labels.items()
    }


def with_places(given: Given, scan: Path, table: Path) -> Given:
    """Return the labels by number of the slice, also where the table has other names of slices; see `instances.index_of`."""
    slices = dict(given.slices)
    for instance in given.instances:
        index = index_of(scan, table, instance)
        if index is not None and slices.setdefault(index, instance.label) != instance.label:
            raise row_error(table, instance.row, "contradicts an earlier row", "one label per slice")
    return Given(given.label, slices)


def patients_by_case(path: Path, keys: Sequence[str] = CASE) -> dict[str, str]:
    """Read the patient of every case, as `labels_by_case` does."""
    patients: dict[str, str] = {}
    for number, row in read_table(path) if path.is_file() else []:
        key = _column(path, list(row), keys)
        case, patient = row[key], row[_column(path, [name for name in row if name != key], PATIENT)]
        if not patient:
            raise row_error(path, number, "has no patient", "a patient in every row")
        if patients.setdefault(case, patient) != patient:
            raise row_error(path, number, "contradicts an earlier row", "one patient per case")
    return patients


def _column(path: Path, columns: Sequence[str], names: Sequence[str]) -> str:
    if (name := first_of(names, columns)) is None:
        raise UserError(f"{path} has the columns {shown(columns)}", f"a column {' or '.join(names)}", "rename one")
    return name
