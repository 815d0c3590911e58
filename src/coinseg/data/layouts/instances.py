"""Slices of DICOM scans named in a table by InstanceNumber or SOPInstanceUID, which viewers show, in the place of `slice`.

case,instance_number,label      case,SOPInstanceUID,label      (columns in any case; beside `slice` they must agree)
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from coinseg.data.readers.paths import is_dicom
from coinseg.errors import UserError

INSTANCE = {
    "InstanceNumber": ("instance_number", "instancenumber", "instance"),
    "SOPInstanceUID": ("sopinstanceuid", "sop_instance_uid"),
}
"""Names of the columns by DICOM's name of what stands in them, in lower case."""
INSTANCES = {name for names in INSTANCE.values() for name in names}
"""All of them."""


@dataclass(frozen=True)
class Instance:
    """One row of a table that names a slice in this way.

    Args:
        row: its number, for messages.
        named: what it says, by DICOM's names; never empty.
        index: what it says in a column slice; None without.
        label: 0 or 1; `index_of` does not read it.
    """

    row: int
    named: tuple[tuple[str, str], ...]
    index: int | None
    label: int = 0


def named_in(cells: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Return what a row says in these columns, without empty cells."""
    columns = [(tag, name) for tag, names in INSTANCE.items() for name in names if cells.get(name)]
    return tuple((tag, cells[name]) for tag, name in columns)


def index_of(scan: Path, table: Path, instance: Instance) -> int | None:
    """Return the number of the slice that a row names, from 0, inferior first; None where the scan cannot be read.

    Raises:
        UserError: it names no slice of the scan, several, or two different ones; UIDs are not shown.
    """

    def wrong(what: str, required: str, do: str = "correct the row") -> UserError:
        return UserError(f"row {instance.row} of {table} {what}", required, do)

    if not is_dicom(scan):
        raise wrong(f"names a slice by {instance.named[0][0]} and its scan is no DICOM", "a column slice", "use that column")
    if (slices := _slices(scan)) is None:
        return None
    places = set() if instance.index is None else {instance.index}
    for tag, value in instance.named:
        found = [i for i, one in enumerate(slices) if one[tag] == _plain(value)]
        if len(found) != 1:
            has = "no slice" if not found else f"{len(found)} slices"
            raise wrong(f"names an {tag} that {has} of its series has", "one of a slice of the series", "use another column")
        places.add(found[0])
    if len(places) > 1:
        numbers = " and ".join(map(str, sorted(places)))
        raise wrong(f"names two slices, {numbers}", "one slice; they count from 0 at the feet", "correct one of them")
    return places.pop()


def _plain(cell: str) -> str:
    """A number as DICOM has it: spreadsheets write 7.0 or 007."""
    number, _, rest = cell.partition(".")
    return str(int(number)) if number.isdecimal() and len(number) < 10 and not rest.strip("0") else cell


@lru_cache(maxsize=64)
def _slices(scan: Path) -> list[dict[str, str]] | None:
    from coinseg.data.readers.dicom import instances_of

    try:
        return instances_of(scan)
    except UserError:
        return None  # reading the scan raises the error
