"""The table of a folder of masks that `segment` adds to, and whose the files in it are.

Each process notes what it did, line by line, in a file of its own; the first gathers these into the table. Notes that a killed
process left are taken over.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from coinseg.errors import UserError
from coinseg.inference.table import CSV, JSON, as_csv, write_table
from coinseg.runtime.files import json_or_none, write_json
from coinseg.runtime.ledger import Ledger, kept
from coinseg.runtime.records import fits, read_lines

from .manifest import MANIFEST

NOTES = ".done-{}.jsonl"  # a line for each input a process is through with, and before that one for each file it wrote
OF = "confidence.json"  # in a folder of `--confidence`: of which masks, by which model
NOTE: dict[str, Any] = {"path": str, "state": str, "mask": str | None, "error": str | None, "row": dict[str, Any] | None}
INDEX: dict[str, Any] = {"schema": int, "masks": list[dict[str, Any]]}
ROW: dict[str, Any] = {"case": str, "mask": str}
MANIFESTED: dict[str, Any] = {"kind": Literal["segment"]}
MADE: dict[str, Any] = {"model": dict[str, Any] | None, "outputs": dict[str, Any]}
"""What a note, a row of the table and a manifest have, and of which kind."""
Row = dict[str, Any]


@dataclass(frozen=True)
class MaskTable:
    """index.json and index.csv in the folder `out` of masks; `confidences` is a folder for their confidences."""

    out: Path
    confidences: Path | None
    overwrite: bool

    def manifest(self) -> dict[str, Any]:
        """The manifest of the command before; `UserError` where there is one of something else, or another table."""
        file = self.out / MANIFEST
        manifest: Any = json_or_none(file) if file.exists() else {"kind": "segment"}
        if not fits(manifest, MANIFESTED) or not fits(manifest, {name: of for name, of in MADE.items() if name in manifest}):
            got = f"{self.out} holds the manifest of something else: coinseg did not write {MANIFEST} there"
            raise UserError(got, "an output folder of its own", "choose another -o")
        self._index()
        return manifest

    def _index(self) -> dict[str, Any]:
        file = self.out / JSON
        index: Any = json_or_none(file) if file.exists() else {"schema": 0, "masks": []}
        known = fits(index, INDEX) and fits(index.get("sha256", {}), dict[str, str])
        if not known or "key" in index or not all(fits(row, ROW) for row in index["masks"]):
            got = f"{file} is no table of masks: coinseg did not write it there"
            raise UserError(got, "an output folder of its own", "choose another -o")
        return index

    def rows(self) -> dict[str, Row]:
        """The rows by mask."""
        return {row["mask"]: row for row in self._index()["masks"]}

    def ledger(self, rank: int = 0) -> Ledger:
        """Whose the masks, confidences and index.csv are: index.json says, and what was noted since; this process notes on."""
        csv = sha256(as_csv(self._index()["masks"]).encode()).hexdigest()
        known = [*self._index().get("sha256", {}).items(), (CSV, csv)]
        known += [(CSV, digest) for digest in [self.manifest().get("outputs", {}).get("mask_table_sha256")] if digest]
        known += [(self._named(name), digest) for name, digest in self._confidences().get("sha256", {}).items()]
        known += [wrote for note in self.notes() for wrote in note.get("wrote", {}).items()]
        places = [place for place in (self.out, self.confidences) if place]
        told_by_content = [place / name for place in places for name in (MANIFEST, JSON, OF)]
        note = lambda name, digest: self.note(rank, {"wrote": {name: digest}})
        return Ledger(self.out, places, self.overwrite, known, note, told_by_content)

    def _confidences(self) -> dict[str, Any]:
        file = self.confidences and self.confidences / OF
        found = json_or_none(file) if file and file.exists() else {}
        if not isinstance(found, dict) or not fits(found.get("sha256", {}), dict[str, str]):
            raise UserError(f"coinseg did not write {file}", "a folder of its own", "choose another --confidence")
        return found

    def _named(self, confidence: str) -> str:
        """A file of the confidences as the ledger names it, from the masks."""
        return Path(os.path.relpath(self.confidences or "", self.out), confidence).as_posix()

    def _in_confidences(self, name: str) -> str | None:
        """The other way round; None for a mask."""
        start = self._named("")
        return name.removeprefix(f"{start}/") if name.startswith(f"{start}/") else None

    def note(self, rank: int, *notes: dict[str, Any]) -> None:
        """Add to the notes of a process."""
        with (self.out / NOTES.format(rank)).open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(note) + "\n" for note in notes)

    def notes(self) -> list[dict[str, Any]]:
        """What processes noted; a last line cut short by a kill is left out."""
        notes = [note for file in sorted(self.out.glob(NOTES.format("*"))) for note in read_lines(file, {})]
        return [note for note in notes if fits(note, NOTE) or fits(note, {"wrote": dict[str, str]})]

    def write(self, rows: Sequence[Row]) -> None:
        """Write the table with these rows and, after them, those of other masks that are there; then the notes may go."""
        new = {row["mask"] for row in rows}
        others = [row for mask, row in self.rows().items() if mask not in new and (self.out / mask).exists()]
        ledger = self.ledger()
        digests = {name: digest for name, digest in ledger.settled().items() if name != CSV}
        if self.confidences and (self.confidences / OF).exists():
            sure = {each: digests.pop(name) for name in list(digests) if (each := self._in_confidences(name))}
            write_json(self.confidences / OF, self._confidences() | {"sha256": sure})
        if every := [*rows, *others]:
            with kept(ledger):
                write_table(self.out, every, sha256=digests)

    def _is_written(self, note: dict[str, Any], ledger: Ledger) -> bool:
        """Whether the mask of a note is there as it was written; notes of earlier versions (without warning) have no hash."""
        mask = self.out / note["mask"]
        return ledger.is_own(mask) or ("warning" not in note and mask.exists())

    def forget_notes(self) -> None:
        """Remove the notes, which are in the table."""
        for file in self.out.glob(NOTES.format("*")):
            file.unlink()

    def take_over(self, model: dict[str, Any] | None) -> None:
        """Add the notes of killed processes to the table; masks of another model than that with the hashes `model` are refused.

        Raises:
            UserError: see `manifest`; index.csv is somebody's own.
        """
        theirs = (self.manifest().get("model") or {}).get("sha256")
        if model is not None and theirs is not None and theirs != model:
            fix = "choose another -o, or give --overwrite"
            raise UserError(f"{self.out} holds masks of another model", "masks of one model", fix)
        ledger = self.ledger()
        ledger.require_own(self.out / CSV)
        if not (self.out / JSON).exists():  # the manifest, which knew the CSV, goes below
            (self.out / CSV).unlink(missing_ok=True)
        self.out.mkdir(parents=True, exist_ok=True)
        if notes := self.notes():
            self.write([note["row"] for note in notes if note.get("row") and self._is_written(note, ledger)])
        (self.out / MANIFEST).unlink(missing_ok=True)
        self.forget_notes()
