"""The prepared slice store: every used slice of a cohort, resized once, memory-mapped afterwards.

On disk: `images.bin` (int16 HU or uint16 codes), `organs.bin`, `truth.bin` (0/1 bytes), `index.csv` (one line for each
slice) and `store.json`, written last. The folder is filled beside its place and moved into it, and it is trusted only
when its key is the key of the same files and settings. What is trained on it depends on its contents alone: data that were
copied elsewhere are prepared again, and nothing else is done again.

Lesion masks are kept in `truth.bin`, which only `sampling.ScoredSlices` opens. The index has their size (`lesion_px`, native
pixels of the whole slice, -1 where there is no mask), so that scores can tell apart what the labels do not: where
`data.small_lesions` is "normal" a slice with a small lesion has label 0 on both sides; where it is "drop" it has label 1, is
scored on the held-out side whatever the lesion's size, and on the training side it is `LEFT_OUT`.

`series` is the scan a slice is of, its case where that is a volume, and `slice` its number along it.

A slice is `weak` where its label 1 is only that of its scan (`data.label_level`): somewhere in the scan is a lesion, perhaps not here.
"""

from __future__ import annotations

import copy
import csv
import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Mapping
from functools import cached_property, partial, reduce
from itertools import islice
from pathlib import Path

import numpy as np

from coinseg.config.reading import refuse
from coinseg.config.renamed import hashed
from coinseg.config.rules import of_region
from coinseg.config.schema import Settings
from coinseg.data.layouts.shared import few
from coinseg.data.readers.axes import reordered, require_views
from coinseg.data.readers.paths import parts_of
from coinseg.data.readers.volume import peek_shape
from coinseg.errors import UserError
from coinseg.runtime.files import FORMULA, directory_written_aside, key_of, read_json, write_json
from coinseg.types import Case, Cohort

from . import intensity
from .case import kind_of_intensity, said_of_intensity, stored_type
from .prepare import Prepared, in_order, prepared, readers
from .split import LEFT_OUT, TRAINING, require_both_classes, require_masks, require_two_sides, require_usable, split_rows

FORMAT = 5
COLUMNS = (
    "case", "patient", "series", "slice", "region", "label", "weak", "lesion_px", "truth", "split", "top", "left", "height", "width",
)  # fmt: skip
BLOCK = 10_000
"""Lines of an index read together."""
_TEXT, _EDGES = ("case", "patient", "series"), ("top", "left", "height", "width")
Progress = Callable[[int, int], None]


def _quoted(row: Mapping[str, object]) -> dict[str, str]:
    """Names as a spreadsheet cannot take for formulas, and so that reading takes exactly this quote off again."""
    return {c: f"'{row[c]}" if str(row[c]).startswith((*FORMULA, "'")) else str(row[c]) for c in _TEXT}


def store_key(cohort: Cohort, settings: Settings) -> str:
    """What a store depends on: the files (path, size, time of change), the data settings and the seed of the split."""
    files = {case.image for case in cohort.cases}
    files |= {mask.path for case in cohort.cases for mask in (*case.organ, *case.lesion)}
    stamps = [(str(f), p.stat().st_size, p.stat().st_mtime_ns) for f in sorted(files) for p in parts_of(f)]
    labels = [(c.id, c.patient, c.series, c.place, c.label, sorted(c.slice_labels.items())) for c in cohort.cases]
    masks = [mask.values for case in cohort.cases for mask in (*case.organ, *case.lesion)]
    injected = settings.anomaly.kind != "none"
    return key_of([FORMAT, stamps, labels, masks, hashed(settings.data), settings.seed, injected])


def same_files(cohort: Cohort, settings: Settings, root: Path) -> bool:
    """Whether the store at `root`, where there is one, is that of these files and settings."""
    made = root / "store.json"
    return not made.exists() or read_json(made).get("key") == store_key(cohort, settings)


def _require_same_contents(before: Mapping[str, object], after: Mapping[str, object], root: Path) -> None:
    """Raise `UserError` where a store made again is not what was there (its store.json): what was trained on that would be lost."""
    if before.get("contents") != after["contents"]:
        raise UserError(
            f"the data are not those that {root.parent} was made of (pixels, masks, labels or patients differ)",
            "the same data to go on with it",
            "choose another -o, or give --overwrite to redo everything",
        )


def require_there(case: Case, error: UserError) -> None:
    """Raise `UserError` where a case cannot be read because a file of it is gone: a layout names only files that were there.

    A disk that is lost on the way must not pass for a hundred broken scans.
    """
    files = [case.image, *(mask.path for mask in (*case.organ, *case.lesion))]
    if gone := [file for file in files if not parts_of(file)]:
        raise UserError(
            f"{gone[0]} is gone since the command began",
            "data that stay where they are",
            "put them back, then give the same command again",
        ) from error


class SliceStore:
    """A prepared store, opened.

    Args:
        root: its folder.

    Attributes:
        meta: the contents of store.json.
        index: column name -> array over the slices (see `COLUMNS`).
        window: how stored values become [0, 1].
        drawn: image labels that were drawn with injected anomalies, kept by whoever draws them (`sampling`).
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.meta = read_json(
            root / "store.json", "key", "contents", "window", "size", "dtype", "kind", "has_organs", "problems", "layout"
        )
        self.window = intensity.Window(*self.meta["window"])
        self.size: int = self.meta["size"]
        self.index = _read_index(root / "index.csv")
        self.drawn: dict[object, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.index["case"])

    def with_sides(self, sides: np.ndarray, **facts: object) -> SliceStore:
        """The same slices on other sides of the split, (slices,), with more in `meta`; what is made of them has another key."""
        view = copy.copy(self)
        view.index, view.drawn = self.index | {"split": sides}, {}
        view.meta = self.meta | {"contents": key_of([self.meta["contents"], sides.tolist()])} | facts
        return view

    def _map(self, name: str, dtype: str) -> np.ndarray:
        return np.memmap(self.root / name, dtype=dtype, mode="r", shape=(len(self), self.size, self.size))

    @cached_property
    def images(self) -> np.ndarray:
        """(slices, size, size) as stored."""
        return self._map("images.bin", self.meta["dtype"])

    @cached_property
    def organs(self) -> np.ndarray:
        """(slices, size, size) 0/1; 1 everywhere where the data have no organ masks."""
        return self._map("organs.bin", "uint8")

    def truth(self) -> np.ndarray:
        """(slices, size, size) 0/1 lesion masks, for scoring only; meaningful where `index["truth"]` is 1."""
        return self._map("truth.bin", "uint8")

    def chains(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of slices (n,): a number for the region of the scan each is of, and its place along it, (n,) integers."""
        of = np.unique(self.index["series"][rows], return_inverse=True)[1]
        regions = np.stack([of, self.index["region"][rows]], axis=1)
        return np.unique(regions, axis=0, return_inverse=True)[1].reshape(-1), self.index["slice"][rows]

    def unit(self, rows: np.ndarray) -> np.ndarray:
        """Slices as float32 in [0, 1], (n, size, size)."""
        return self.window.unit(self.images[rows])


def _read_index(path: Path) -> dict[str, np.ndarray]:
    """The columns of an index.csv, read in blocks: a line as Python's objects takes ten times its room in arrays."""
    kinds = dict.fromkeys(_TEXT, str) | dict.fromkeys(_EDGES, float)
    blocks: dict[str, list[np.ndarray]] = {name: [np.zeros(0, kinds.get(name, np.int64))] for name in COLUMNS}
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        lines = csv.reader(file)
        header = next(lines)
        while block := list(islice(lines, BLOCK)):
            for name, cells in zip(header, zip(*block, strict=True), strict=True):
                plain = [cell.removeprefix("'") for cell in cells] if name in _TEXT else cells
                blocks[name].append(np.array(plain, dtype=kinds.get(name, np.int64)))
    return {name: np.concatenate(found) for name, found in blocks.items()}


class _Writer:
    """Appends prepared cases to the files of a store that is being made in `folder`."""

    def __init__(self, folder: Path, settings: Settings, kind: str) -> None:
        self.folder, self.settings, self.kind = folder, settings, kind
        self.injected = settings.anomaly.kind != "none"
        self.rows: list[dict[str, object]] = []
        self.left_out: list[bool] = []
        self.beyond: Counter[str] = Counter()
        self.histograms: dict[str, np.ndarray] = {}
        self.digest = hashlib.sha256()
        self.contents = hashlib.sha256(json.dumps([FORMAT, hashed(settings.data)]).encode())

    def add(self, made: Prepared) -> None:
        """Append the slices of a case."""
        patient = made.case.patient
        if made.histogram is not None:
            self.histograms[patient] = self.histograms.get(patient, np.zeros_like(made.histogram)) + made.histogram
        self.beyond += made.beyond
        self.rows += made.rows
        self.left_out += made.left_out
        for pixels, organ, truth in made.slices:
            self.digest.update(pixels)
            self.contents.update(pixels + organ + truth)
        for name, contents in zip(("images", "organs", "truth"), zip(*made.slices, strict=True), strict=False):
            with (self.folder / f"{name}.bin").open("ab") as file:
                file.writelines(contents)

    def unseen(self) -> list[str]:
        """What lies beyond the millimetres a slice shows, in a line for each kind."""
        side, scans, lesions = self.settings.data.size * self.settings.data.spacing, self.beyond["scans"], self.beyond["lesions"]
        found = [f"{scans} scans are larger than the {side:g} mm a slice shows: what lies beyond is not seen"] if scans else []
        return found + ([f"in {lesions} slices the lesion reaches beyond the {side:g} mm a slice shows"] if lesions else [])

    def finish(self, **facts: object) -> None:
        """Split, scale and describe what was added."""
        sides = split_rows(self.rows, self.settings)
        small = (sides == TRAINING) & np.array(self.left_out)
        sides[small] = LEFT_OUT
        require_two_sides(sides, self.settings.data)
        if not self.injected:
            require_both_classes(np.array([row["label"] for row in self.rows]), sides, int(small.sum()))
        window = intensity.CODE_WINDOW
        if self.kind == "hu":
            training = {str(r["patient"]) for r, side in zip(self.rows, sides, strict=True) if side == TRAINING}
            window = intensity.fingerprint(reduce(np.add, (self.histograms[p] for p in sorted(training))))
        with (self.folder / "index.csv").open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows({**row, **_quoted(row), "split": int(side)} for row, side in zip(self.rows, sides, strict=True))
        self.contents.update((self.folder / "index.csv").read_bytes() + repr(window).encode())
        write_json(self.folder / "store.json", {
            "format": FORMAT, "fingerprint": self.digest.hexdigest()[:16], "contents": self.contents.hexdigest()[:16], "size": self.settings.data.size,
            "kind": self.kind, "dtype": np.dtype(stored_type(self.kind)).name, "window": [window.low, window.high],
            "injected": self.injected, **facts,
        })  # fmt: skip


def prepare(
    cohort: Cohort, settings: Settings, root: Path, progress: Progress | None = None, overwrite: bool = True
) -> SliceStore:
    """Make the store of a cohort at `root`, or open it when it is already there for the same files and settings.

    Args:
        cohort: the cases; one that cannot be read is reported in `meta["problems"]` and left out.
        settings: data, anomaly and seed are read.
        root: the folder of the store.
        progress: how many cases of how many were read.
        overwrite: whether a store of other contents may be replaced.

    Raises:
        UserError: nothing is usable; or, without `overwrite`, the files have changed and so has what is prepared of them.
    """
    began = time.perf_counter()
    key, made_before = store_key(cohort, settings), root / "store.json"
    before = read_json(made_before) if made_before.exists() else None
    if before and before.get("key") == key:
        return SliceStore(root)
    kind, injected = kind_of_intensity(cohort, settings.data), settings.anomaly.kind != "none"
    refuse(of_region(settings.data, injected))
    require_masks(cohort, settings.data)
    require_views(cohort, settings.data)
    problems = [*cohort.problems, *said_of_intensity(kind, cohort, settings.data)]
    with directory_written_aside(root) as part:
        writer, unused = _Writer(part, settings, kind), []
        coming = in_order(partial(prepared, settings=settings, kind=kind), cohort.cases, readers())
        for done, (case, read) in enumerate(zip(cohort.cases, coming, strict=True)):
            if progress:
                progress(done, len(cohort.cases))
            try:
                made = read.result()
            except UserError as error:
                require_there(case, error)
                problems.append(f"{case.id}: {error}")
                continue
            writer.add(made)
            problems += made.problems
            unused += [] if made.rows else [case.id]
        if unused:
            problems.append(f"no slice of {few(unused, 3)} is used: without a label, or with too few organ pixels")
        problems += writer.unseen()
        require_usable(writer.rows, problems, settings)
        writer.finish(
            key=key, layout=cohort.layout, label_source="drawn with the injected anomalies" if injected else cohort.label_source, problems=problems,
            has_organs=any(case.organ for case in cohort.cases), seconds=round(time.perf_counter() - began, 2),
        )  # fmt: skip
        if before and not overwrite:
            _require_same_contents(before, read_json(part / "store.json"), root)
    return SliceStore(root)


def bytes_needed(cohort: Cohort, settings: Settings) -> int:
    """An upper bound for the size of the store: two bytes of image and one of each mask for every pixel."""
    slices = 0
    for case in cohort.cases:
        try:
            slices += reordered(peek_shape(case.image), settings.data.axis)[0] if case.volume else 1
        except UserError:
            continue  # reported when it is read
    return 4 * slices * settings.data.size**2
