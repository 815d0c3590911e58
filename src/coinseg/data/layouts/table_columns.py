"""What is said of columns of a table that are not read as somebody may expect: groups, parts, and names of what is normal."""

import re
from collections.abc import Sequence
from pathlib import Path

from .shared import few
from .table_classes import TableClass
from .tables import LABELS, first_of, header_of, read_table, whole_number

_PEOPLE = {"patient", "patients", "pat", "pid", "mrn", "subject", "person", "participant", "proband", "animal", "donor"}
"""Words in the names of columns by which several images may belong together."""
_ABOUT_PEOPLE = {"age", "sex", "gender", "weight", "height", "size", "position", "orientation", "birth", "comments"}
_GROUPS = 10  # least number of values with which a column group is one of patients
_SPLIT = ("split", "subset", "fold", "partition", "is_train", "is_test", "is_val", "is_valid")
_NORMAL = ("normal", "healthy", "good", "negative", "no finding", "no_finding", "nofinding")


def without_groups(table: Path, column: dict[str, str], rows: Sequence[tuple[int, dict[str, str]]]) -> list[str]:
    """Drop a column group with few values, or one of 0 and 1, which is none of patients; return the line about what it is."""
    name = column.get("patient")
    if name in ("case", "subject", "group") and _are_labels(name, rows):
        del column["patient"]
        return [f"{table.name}: column {name} has labels and is not taken for patients"]
    if name != "group":
        return []
    if len({row["group"] for _, row in rows}) < _GROUPS:
        del column["patient"]
        return [f"{table.name}: column group has fewer than {_GROUPS} values and is not taken for patients"]
    return [f"{table.name}: column group is taken for the patients, which are held out whole"]


def without_flags(table: Path, column: dict[str, str], rows: Sequence[tuple[int, dict[str, str]]]) -> list[str]:
    """Drop columns of masks that only say whether there is one; return the lines about them."""
    flags = {role: column[role] for role in ("mask", "organ") if role in column and _are_labels(column[role], rows)}
    for role in flags:
        del column[role]
    return [f"{table.name}: column {name} has labels and names no masks" for name in flags.values()]


def _are_labels(name: str, rows: Sequence[tuple[int, dict[str, str]]]) -> bool:
    """Return whether a column has labels, such as 0 and 1 or yes and no, in some cell and nothing else."""
    cells = {row[name].casefold() for _, row in rows if row[name]}
    return bool(cells) and all(whole_number(cell) in (0, 1) or cell in LABELS for cell in cells)


def like_patients(header: Sequence[str]) -> str:
    """Name columns that may be meant as patients, for a problem line."""
    words = {name: {*re.split(r"[\W_\d]+", name)} for name in header}
    like = [
        name for name, own in words.items()
        if (own & _PEOPLE or own >= {"lesion", "id"} or own >= {"study", "id"}) and not own & _ABOUT_PEOPLE
    ]  # fmt: skip
    return f" ({few(like, 3)} is not read as one: name it patient)" if like else ""


def without_split(table: Path) -> list[str]:
    """Return the line about a column that says who is held out, which coinseg draws."""
    name = first_of(_SPLIT, header_of(table))
    what = "is not read: who is held out is drawn anew (data.split_by)"
    return [f"column {name} of {table.name} {what}"] if name else []


def of_no_class(table: Path, classes: Sequence[TableClass]) -> list[str]:
    """Return the lines about rows in which a column such as normal says other than the classes do.

    Args:
        table: with a header.
        classes: those that are read, where there are several; a row with 0 in each of them counts as normal.
    """
    columns = [one.column for one in classes]
    name = first_of(_NORMAL, header_of(table)) if columns and all(columns) else None
    if name is None or name in columns:
        return []
    rows = [(whole_number(row[name]), {whole_number(row[column]) for column in columns}) for _, row in read_table(table)]
    neither = sum(normal == 0 and found == {0} for normal, found in rows)
    both = sum(normal == 1 and 1 in found for normal, found in rows)
    lines = [f"{neither} rows of {table.name} have 0 in {name} and in every class: they count as normal"] if neither else []
    return lines + ([f"{both} rows of {table.name} have 1 in {name} and in a class: they count as abnormal"] if both else [])
