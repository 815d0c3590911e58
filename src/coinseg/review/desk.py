"""The desk itself: the queue of every reviewer, and everything about a case that the page shows."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from coinseg.config.schema import Axis
from coinseg.data.layouts.shared import safe_id
from coinseg.data.readers.axes import turned
from coinseg.data.readers.paths import is_dicom
from coinseg.errors import UserError
from coinseg.runtime.locks import locked

from .agreement import agreement
from .editor import Editor
from .exchange import KINDS
from .kept.records import FOLDER, OPEN, SKIPPED
from .kept.store import Store
from .queue import minutes_left, queue_of, worth_looking_at
from .scans import PLANES, count_in, plane_of, solid_of, window_of
from .sources import Source, key_of_case
from .views import Views


@dataclass(frozen=True)
class Rules:
    """How the desk is set up: `second` the share of second opinions, `budget` cases at most (0: all)."""

    second: float = 0.0
    budget: int = 0
    classifier: str | None = None


class Desk:
    """The cases of a source, what reviewers did to them, and the rules."""

    def __init__(self, source: Source, store: Store, rules: Rules) -> None:
        self.source, self.store, self.rules = source, store, rules
        self.views = Views(source, rules.classifier)
        self.editor = Editor(self.views, store)
        self.exchanged = store.list_cases([draft.record for draft in source.drafts])  # cases with another scan than before
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="ahead")

    def ahead(self, key: str) -> None:
        """Begin to read a case that comes next."""
        self.views.draft(key)
        self._reader.submit(self.editor.prepare, key)

    def begin(self) -> None:
        """Begin to read the case that comes first, before anybody asks."""
        decided = {one.case for one in self.store.decisions()}
        first = next((case for case in worth_looking_at(self.store.cases()) if case.id not in decided), None)
        if first is not None:
            self.ahead(key_of_case(first.id))

    def close(self) -> None:
        """Stop what runs beside the server, and close the store."""
        self._reader.shutdown(wait=False, cancel_futures=True)
        self.views.close()
        self.store.close()

    def queue(self, reviewer: str) -> dict[str, Any]:
        """The cases of a reviewer in their order, how many are done, how long the rest may take."""
        decisions = self.store.decisions()
        entries = queue_of(self.store.cases(), decisions, reviewer, self.rules.second, self.rules.budget)
        places = {draft.record.id: draft for draft in self.source.drafts}
        rows = [
            {
                "key": places[e.case.id].key, "id": e.case.id, "patient": e.case.patient, "side": e.case.side,
                "volume": e.case.volume, "state": e.state, "comment": e.comment, "second": e.second, "numbers": e.case.numbers,
                "truth": bool(places[e.case.id].lesion),
            }
            for e in entries if e.case.id in places
        ]  # fmt: skip
        done = sum(e.state not in (OPEN, SKIPPED) for e in entries)
        return {"cases": rows, "done": done, "total": len(entries), "minutes": minutes_left(entries, decisions, reviewer)}

    def summary(self) -> dict[str, Any]:
        """What was decided by whom, and how far reviewers agree."""
        states: dict[str, dict[str, int]] = {}
        for one in self.store.decisions():
            row = states.setdefault(one.reviewer, {})
            row[one.state] = row.get(one.state, 0) + 1
            row["stale"] = row.get("stale", 0) + one.stale
        return {"reviewers": states, "agreement": agreement(self.store)}

    def case(self, key: str, reviewer: str) -> dict[str, Any]:
        """Everything about a case that the page shows beside its pictures."""
        draft, mask = self.views.draft(key), self.editor.mask(key, reviewer)
        opened = self.views.opened(key)
        was = "another image than before, and so open again; what was decided of the former one is kept with it"
        areas, colour = turned(mask, "axial").sum((1, 2)), opened.scan.ndim == 4
        return {
            "key": key, "id": draft.record.id, "volume": draft.record.volume, "spacing": opened.spacing, "colour": colour,
            "planes": {plane: count_in(opened.shape, plane) for plane in (PLANES if draft.record.volume else PLANES[:1])},
            "type": str(opened.scan.dtype), "window": window_of(opened.scan, self.source.hounsfield),
            "ct": self.source.hounsfield, "first": int(areas.argmax()) if areas.any() else len(areas) // 2,
            "layers": self.views.layers(key), "note": was if key in self.editor.exchanged else "",
            **self.editor.state(key, reviewer),
        }  # fmt: skip

    def solid(self, key: str, reviewer: str) -> np.ndarray:
        """Scan and mask as small cubes of even voxels, (2, depth, height, width) uint8, from the top, for the view in 3-D."""
        opened, mask = self.views.opened(key), self.editor.mask(key, reviewer)
        if not self.views.draft(key).record.volume:
            raise UserError("a plain image has no third axis", "a volume", "look at it in its plane")
        return solid_of(opened.scan, mask, opened.spacing, window_of(opened.scan, self.source.hounsfield))

    def kinds(self) -> list[str]:
        """The exports that some case can be written as."""
        volumes = any(draft.record.volume for draft in self.source.drafts)
        dicom = volumes and any(is_dicom(draft.image) for draft in self.source.drafts)
        hidden = {"dicom-seg": not dicom, "rtstruct": not dicom}
        return [kind for kind in KINDS if not hidden.get(kind)]

    def new_export(self, kind: str) -> Path:
        """A folder beside the store that is not there yet; of nnU-Net with a name that it takes."""
        base = self.store.file.parent / "exports"
        names = (f"Dataset{100 + n}_reviewed" if kind == "nnunet" else f"{safe_id(kind)}-{n}" for n in count(1))
        return next(base / name for name in names if not (base / name).exists())

    def layer(self, key: str, reviewer: str, layer: str, plane: Axis, index: int) -> np.ndarray:
        """One slice of a layer: bool of a mask, uint8 percent of the confidence, float32 of what the model says."""
        if layer in ("counterfactual", "difference"):
            return np.asarray(getattr(self.views.said(key, plane, index), layer), np.float32)
        if layer == "mask":
            return plane_of(self.editor.mask(key, reviewer), plane, index)
        whole = self.editor.kept_draft(key) if layer == "draft" else self.views.whole(key, layer)
        return plane_of(whole, plane, index)


@contextmanager
def desk_on(source: Source, folder: Path | None, rules: Rules) -> Iterator[Desk]:
    """The desk of a source in the folder of its reviews, which nobody else may have open; closed at the end."""
    place = folder or source.folder / FOLDER
    with _alone(place):
        desk = Desk(source, Store(place), rules)
        try:
            yield desk
        finally:
            desk.close()


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    try:
        with locked(folder):
            yield
    except UserError as error:
        if error.got.startswith("another coinseg"):
            raise UserError(f"a desk is open on {folder}", "one at a time", "use its page, or stop it first") from error
        raise
