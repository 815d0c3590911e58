"""The index of a store: index.csv, one line for each slice, and its columns as arrays.

series, slice    the scan, the case itself where it is a volume, and the number along it
region           the organ region, -1 for all together
label            0 or 1; of a small lesion 0 where `data.small_lesions` is "normal", 1 where it is "drop"
weak             1 where label 1 is only that of the scan (`data.label_level`): the lesion may be in another slice
lesion_px        native lesion pixels of the whole slice, -1 without a mask; truth is 1 where the mask is known
split            `TRAINING`, `VALIDATION` or `LEFT_OUT`
top, left, height, width    the box in the native slice, in pixels
"""

import csv
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path

import numpy as np

from coinseg.runtime.files import FORMULA, damaged
from coinseg.runtime.records import require_intact

_TEXT, _EDGES = ("case", "patient", "series"), ("top", "left", "height", "width")
OF_CLASS = ("label", "weak", "lesion_px", "truth")  # where there are several classes also NAME/NUMBER of each
COLUMNS = (*_TEXT, "slice", "region", "label", "weak", "lesion_px", "truth", "split", *_EDGES)
_VALUES = {"label": (-1, 0, 1), "weak": (0, 1), "truth": (0, 1), "split": (0, 1, 2)}  # that a column may have
BLOCK = 10_000  # lines that are read together: as Python objects a line takes ten times the room it has in arrays


def columns_of(classes: int) -> tuple[str, ...]:
    """Return the columns of the index of a store with one class (0), or several."""
    return (*COLUMNS, *(f"{name}/{number}" for number in range(classes) for name in OF_CLASS))


def write_index(path: Path, rows: Iterable[Mapping[str, object]], classes: int = 0) -> None:
    """Write rows with the columns of so many classes, 0 for one."""
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.DictWriter(file, columns_of(classes))
        writer.writeheader()
        writer.writerows({**row, **_quoted(row)} for row in rows)


def _quoted(row: Mapping[str, object]) -> dict[str, str]:
    """Return names that a spreadsheet cannot take for formulas; reading takes exactly this quote off again."""
    return {c: f"'{row[c]}" if str(row[c]).startswith((*FORMULA, "'")) else str(row[c]) for c in _TEXT}


def read_index(path: Path, classes: int = 0) -> dict[str, np.ndarray]:
    """Read the columns of an index.csv, by name: (slices,) text, float64 or int64; `UserError` where it is damaged."""
    require_intact(path)
    try:
        index = _columns(path, columns_of(classes))
        sound = all(
            np.isin(index[name], _VALUES[name.partition("/")[0]]).all() for name in index if name.partition("/")[0] in _VALUES
        )
        sound = sound and all(np.isfinite(index[name]).all() for name in _EDGES)
    except (ValueError, OverflowError, StopIteration, csv.Error) as error:
        raise damaged(path, "its cells or columns are wrong") from error
    if not sound:
        raise damaged(path, "its values are out of their ranges")
    return index


def _columns(path: Path, columns: tuple[str, ...]) -> dict[str, np.ndarray]:
    kinds = dict.fromkeys(_TEXT, str) | dict.fromkeys(_EDGES, float)
    blocks: dict[str, list[np.ndarray]] = {name: [np.zeros(0, kinds.get(name, np.int64))] for name in columns}
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        lines = csv.reader(file)
        if tuple(header := next(lines)) != columns:
            raise ValueError("other columns")
        while block := list(islice(lines, BLOCK)):
            for name, cells in zip(header, zip(*block, strict=True), strict=True):
                plain = [cell.removeprefix("'") for cell in cells] if name in _TEXT else cells
                blocks[name].append(np.array(plain, dtype=kinds.get(name, np.int64)))
    return {name: np.concatenate(parts) for name, parts in blocks.items()}
