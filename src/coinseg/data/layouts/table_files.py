"""Files that the cells of a table name."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from coinseg.data.readers.paths import is_dicom, split_key

from .masks_by_name import MASK_FOLDERS, ORGAN_FOLDERS
from .shared import existing, folders_in, is_possible, lies_inside
from .table_classes import PREFIXES
from .tables import row_error

_ABOVE = 4  # a table in a data set that was unpacked often names files from a folder above it


def named_file(table: Path, number: int, cell: str, suffixes: Sequence[str] = ("",), role: str = "file") -> Path | None:
    """Return the file or DICOM folder that a cell names, None for an empty cell; `role` is what it is, for messages."""
    if not cell:
        return None
    if not is_possible(table.parent, cell):
        raise row_error(table, number, f"names a file by {len(cell)} characters", "a name that a disk can hold", "shorten it")
    if not is_inside(table, cell):
        do = "move the table above them, or link their folder beside it"
        what = "names a file outside of the folder of the table"
        raise row_error(table, number, what, "files below that folder", do)
    for path in places_of(table, cell, suffixes):
        if path.is_file() or (split_key(path)[0].exists() and is_dicom(path)):
            return path
    above = next((up for up in table.absolute().parents[1:_ABOVE] if (up / cell.replace("\\", "/")).is_file()), None)
    do = f"move the table to {above}, from where it names files" if above else "correct the row"
    what = "names a file that is missing" + (f", for its {role}" if role != "file" else "")
    raise row_error(table, number, what, "an existing file", do)


def is_inside(table: Path, cell: str) -> bool:
    """Return whether what a cell names lies below the folder of the table."""
    return lies_inside(table.parent, cell) and lies_inside(table.parent, cell.replace("\\", "/"))


def places_of(table: Path, cell: str, suffixes: Sequence[str]) -> Iterator[Path]:
    """Yield the paths that a cell may name: beside the table, in `images`, in the only folder beside it, or in other capitals."""
    names = [text + suffix for text in dict.fromkeys((cell, cell.replace("\\", "/"))) for suffix in suffixes]
    places = [(base, name) for name in names for base in (table.parent, existing(table.parent, "images"))]
    yield from (base / name for base, name in places)
    yield from (existing(base, name) for base, name in places)
    masks = (*MASK_FOLDERS, *ORGAN_FOLDERS)
    folders = [f for f in folders_in(table.parent) if (name := f.name.lower()) not in masks and not name.startswith(PREFIXES)]
    if len(folders) == 1:  # that of all images, where one is missing so far
        yield from (folders[0] / name for name in names)
        yield from (existing(folders[0], name) for name in names)
