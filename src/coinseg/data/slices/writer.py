"""Writes the files of a store of prepared slices, see `store.py`."""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from functools import reduce
from pathlib import Path

import numpy as np

from coinseg.config.renamed import hashed
from coinseg.config.schema import Settings
from coinseg.data.layouts.unread import parts_lines
from coinseg.runtime.records import seal, write_record
from coinseg.types import Case

from . import intensity
from .case import stored_type
from .index import write_index
from .prepare import Prepared
from .shortcuts import shortcuts
from .split import LEFT_OUT, TRAINING, require_both_classes, require_two_sides, split_rows
from .trained_on import Facts, TrainedOn
from .twins import Twins

FILES = ("images.bin", "organs.bin", "truth.bin", "index.csv")  # of a store, beside store.json
_PLACE = ("region", "top", "left", "height", "width")
FORMAT = 7  # of a store, raised with every change of how data are read: they are then read again
CONTENTS = 5  # of its slices, raised with every change of what they are of the same data: everything is then trained again


class StoreWriter:
    """Appends prepared cases to the files of a store.

    Args:
        folder: empty folder of the store.
        settings: data, anomaly and seed are read.
        kind: "hu", "percentile" or "8bit".
        classes: names of the classes where there are several.
    """

    def __init__(self, folder: Path, settings: Settings, kind: str, classes: Sequence[str] = ()) -> None:
        self.folder, self.settings, self.kind, self.classes = folder, settings, kind, list(classes)
        self.injected = settings.anomaly.kind != "none"
        self.rows: list[dict[str, object]] = []
        self.left_out: list[bool] = []
        self.beyond: Counter[str] = Counter()
        self.twins, self.unread = Twins(), dict[str, list[str]]()
        self.sizes: dict[Path, tuple[int, int]] = {}  # of plain images
        self.cases: list[Case] = []
        self.notes: dict[str, list[str]] = {}  # ids of cases by what their masks are like
        self.facts: dict[object, Facts] = {}  # of the cases, by id
        self.histograms: dict[str, np.ndarray] = {}
        self.digest = hashlib.sha256()
        self.contents = hashlib.sha256(json.dumps([CONTENTS, hashed(settings.data)]).encode())

    def add(self, case: Prepared) -> None:
        """Append the slices of a case; `UserError` where it contradicts one with the same pixels."""
        one = case.case
        self.cases.append(one)
        self.sizes |= {one.image: case.size} if case.size else {}
        if case.rows or one.label is not None:
            known = [row for row in case.rows if not row["weak"]]
            labels = {(r["slice"] if one.volume else 0, *(r[name] for name in _PLACE)): r["label"] for r in known}
            self.twins.add(one, case.pixels, case.look, labels)
        for what in case.unread:
            self.unread.setdefault(what, []).append(one.image.name)
        if case.histogram is not None:
            self.histograms[case.case.patient] = self.histograms.get(case.case.patient, 0) + case.histogram
        self.beyond += case.beyond
        for note in case.notes:
            self.notes.setdefault(note, []).append(case.case.id)
        self.facts[one.id] = case.facts
        self.rows += case.rows
        self.left_out += case.left_out
        for pixels, organ, truth in case.slices:
            self.digest.update(pixels)
            self.contents.update(pixels + organ + truth)
        for name, contents in zip(("images", "organs", "truth"), zip(*case.slices, strict=True), strict=False):
            with (self.folder / f"{name}.bin").open("ab") as file:
                file.writelines(contents)

    def said(self) -> list[str]:
        """Return problem lines about what no slice shows, scans and lesions beyond its millimetres too, and about twins."""
        side, scans, lesions = self.settings.data.side * self.settings.data.spacing, self.beyond["scans"], self.beyond["lesions"]
        lines = [f"{scans} scans are larger than the {side:g} mm a slice shows: what lies beyond is not seen"] if scans else []
        lines += [f"in {lesions} slices the lesion reaches beyond the {side:g} mm a slice shows"] if lesions else []
        shown = [] if self.injected else shortcuts(self.sizes, self.cases)
        return lines + parts_lines(self.unread) + shown + self.twins.said()

    def finish(self, **facts: object) -> None:
        """Split and scale what was added; write index.csv and store.json, which also gets `facts`."""
        sides = split_rows(self.rows, self.settings, self.twins.copies)
        small = (sides == TRAINING) & np.array(self.left_out)
        sides[small] = LEFT_OUT
        require_two_sides(sides, self.settings.data)
        for number in range(len(self.classes) or 1) if not self.injected else ():
            column, name = ("label", "") if not self.classes else (f"label/{number}", self.classes[number])
            require_both_classes(np.array([row[column] for row in self.rows]), sides, int(small.sum()), name)
        cases = dict.fromkeys(row["case"] for row, side in zip(self.rows, sides, strict=True) if side == TRAINING)
        window = intensity.CODE_WINDOW
        if self.kind == "hu":
            training = {str(r["patient"]) for r, side in zip(self.rows, sides, strict=True) if side == TRAINING}
            window = intensity.fingerprint(reduce(np.add, (self.histograms[p] for p in sorted(training))))
        write_index(
            self.folder / "index.csv",
            ({**row, "split": int(side)} for row, side in zip(self.rows, sides, strict=True)),
            len(self.classes),
        )
        self.contents.update((self.folder / "index.csv").read_bytes() + repr(window).encode())
        seal(*(self.folder / name for name in FILES))
        write_record(self.folder / "store.json", {
            "format": FORMAT, "fingerprint": self.digest.hexdigest()[:16], "contents": self.contents.hexdigest()[:16],
            "size": self.settings.data.side, "kind": self.kind, "dtype": np.dtype(stored_type(self.kind)).name,
            "window": [window.low, window.high], "injected": self.injected, "classes": self.classes,
            "trained_on": TrainedOn.summary([self.facts[case] for case in cases]).as_dict(), **facts,
        })  # fmt: skip
