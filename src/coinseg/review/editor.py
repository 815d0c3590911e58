"""The masks of the reviewers, and what changes them: strokes, tools, undo, decisions.

A mask changes only after the store has committed the change; so what the page was told is on the disk.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from coinseg.config.schema import Axis
from coinseg.data.readers.axes import turned, turned_back
from coinseg.data.readers.paths import parts_of
from coinseg.data.readers.volume import read_geometry
from coinseg.data.slices.twins import pixels_of
from coinseg.errors import UserError
from coinseg.types import ScanMask

from . import tools
from .kept.changes import Change
from .kept.records import ACCEPTED, CORRECTED, REJECTED
from .kept.store import Store
from .scans import plane_of, read_region_of
from .views import Views

MOST_MASKS = 2  # kept unpacked


@dataclass
class _Drawn:
    """The mask of a reviewer, and how many voxels are inside: to count those of a large scan takes longer than a stroke may."""

    mask: ScanMask
    pixels: int

    def apply(self, change: Change) -> None:
        self.pixels += change.apply(self.mask)


class Editor:
    """Changes the masks of the cases of `views`; a case is named by `Draft.key`, a slice by plane and index."""

    def __init__(self, views: Views, store: Store) -> None:
        self.views, self.store, self._lock = views, store, threading.RLock()
        self._drawn: dict[tuple[str, str], _Drawn] = {}
        self._prepared = set[str]()
        self.exchanged = set[str]()  # cases whose image has other pixels than it had when it was reviewed

    def mask(self, key: str, reviewer: str) -> ScanMask:
        """The mask of a reviewer as it is now; the caller must not change it."""
        return self._now(key, reviewer).mask

    def _now(self, key: str, reviewer: str) -> _Drawn:
        if (key, reviewer) not in self._drawn:
            self.prepare(key)  # without the lock: it may take seconds, and strokes of another case go on
        with self._lock:
            if (key, reviewer) not in self._drawn:
                found, shape = self.store.mask(self.views.draft(key).record.id, reviewer), self.views.opened(key).shape
                if found.shape != shape:
                    got = f"the mask has shape {found.shape} and its scan {shape}"
                    raise UserError(got, "the scan that was reviewed", "put it back")
                while len(self._drawn) >= MOST_MASKS:
                    del self._drawn[next(iter(self._drawn))]
                self._drawn[key, reviewer] = _Drawn(found, int(np.count_nonzero(found)))
            return self._drawn[key, reviewer]

    def prepare(self, key: str) -> None:
        """Read a case, and keep its draft; scan and draft are read side by side.

        What a case had as its draft before is kept where somebody changed or decided it; else its mask may have been made again.
        Where its image is another one meanwhile, what was drawn and decided of the former one is set aside.
        """
        draft = self.views.draft(key)
        self.views.ahead(key)
        if key in self._prepared:
            return
        case, touched = draft.record.id, self.store.is_touched(draft.record.id)

        def pixels() -> str | None:  # of a mask of `segment` its SHA-256 says which scan it is
            return None if draft.digest else pixels_of(self.views.opened(key).scan)

        if touched and not draft.digest and self.store.set_aside_unless(case, pixels()):
            self.exchanged.add(key)
            touched = self.store.is_touched(case)
        if not self.store.has_draft(case) or (not touched and draft.mask.is_file()):
            geometry = read_geometry(draft.image) if draft.record.volume and parts_of(draft.image) else None
            shape = geometry.canonical_shape if geometry else self.views.opened(key).shape
            mask = read_region_of(draft.mask, geometry, shape)
            self.views.opened(key)  # which checks that it is the scan of the mask
            before, now = self.store.draft(case), pixels()
            if before is None or not np.array_equal(before, mask) or self.store.pixels(case) != now:
                self.store.keep_draft(case, mask, now)
        self._prepared.add(key)

    def state(self, key: str, reviewer: str) -> dict[str, Any]:
        """How the mask of a reviewer is now: edits so far, strokes to undo and redo, pixels, millilitres."""
        case, geometry = self.views.draft(key).record.id, self.views.opened(key).geometry
        undo, redo = self.store.depth(case, reviewer)
        pixels = self._now(key, reviewer).pixels
        ml = round(pixels * geometry.voxel_ml, 3) if geometry and not geometry.flat else None
        return {"edits": self.store.edits(case, reviewer), "undo": undo, "redo": redo, "pixels": pixels, "ml": ml}

    def kept_draft(self, key: str) -> ScanMask:
        """The mask that all reviewers begin with."""
        self.prepare(key)
        draft = self.store.draft(self.views.draft(key).record.id)
        assert draft is not None
        return draft

    def stroke(
        self, key: str, reviewer: str, plane: Axis, index: int, corner: tuple[int, int], drawn: np.ndarray, value: bool,
        tool: str, name: str, gesture: str = "",
    ) -> dict[str, Any]:  # fmt: skip
        """Set the drawn pixels of a slice.

        Args:
            key, reviewer: whose mask.
            plane, index: the slice.
            corner: row and column at which `drawn` begins.
            drawn: (rows, columns) bool.
            value: inside or outside.
            tool: for the record.
            name: of the stroke; the same one twice counts once.
            gesture: of which it is a part; its parts are undone together.
        """
        with self._lock:
            mask = self.mask(key, reviewer)
            rows, columns = plane_of(mask, plane, index).shape
            (top, left), (tall, wide) = corner, drawn.shape
            if top < 0 or left < 0 or top + tall > rows or left + wide > columns:
                raise UserError("a stroke beyond the image", f"pixels of {rows} x {columns}", "load the page again")
            flips = drawn & (plane_of(mask, plane, index)[top : top + tall, left : left + wide] != value)
            starts = {
                "axial": (index, top, left), "coronal": (len(mask) - top - tall, index, left),
                "sagittal": (len(mask) - top - tall, left, index),
            }  # fmt: skip
            return self._commit(
                key, reviewer, tool, Change.of_flips(starts[plane], turned_back(flips[None], plane)), name, gesture
            )

    def tool(self, key: str, reviewer: str, words: dict[str, Any]) -> dict[str, Any]:
        """Change a mask as a whole: `words` are the tool, its plane and slice, and its numbers (`_tools`)."""
        with self._lock:
            mask, plane = self.mask(key, reviewer), words["plane"]
            seen = turned(mask, plane)
            plane_of(mask, plane, words["index"])
            after = np.ascontiguousarray(turned_back(self._used(key, seen, words), plane))
            return self._commit(key, reviewer, words["tool"], Change.between(mask, after), words["name"])

    def _used(self, key: str, seen: ScanMask, words: dict[str, Any]) -> ScanMask:
        where, index = None if words["whole"] else words["index"], words["index"]
        at, plane = (int(words["row"]), int(words["column"])), words["plane"]
        if not (0 <= at[0] < seen.shape[1] and 0 <= at[1] < seen.shape[2]):
            raise UserError("a click beyond the image", "a pixel of it", "click on the image")
        if words["tool"] == "threshold":
            return tools.threshold(seen, turned(self.views.whole(key, "confidence"), plane), float(words["amount"]), where)
        if words["tool"] == "draft":
            whole = seen.copy()
            part = slice(None) if where is None else slice(where, where + 1)
            whole[part] = turned(self.kept_draft(key), plane)[part]
            return whole
        made: dict[str, Callable[[], ScanMask]] = {
            "grow": lambda: tools.grow(seen, max(-50, min(50, int(words["amount"]))), where),
            "holes": lambda: tools.fill_holes(seen, where),
            "fill": lambda: tools.fill_at(seen, index, *at),
            "component": lambda: tools.without_component(seen, index, *at, words["whole"]),
            "clear": lambda: tools.cleared(seen, where),
            "interpolate": lambda: tools.interpolated(seen, *self._ends(seen, words)),
        }  # fmt: skip
        if words["tool"] not in made:
            raise UserError(
                f"the tool {words['tool'][:20]!r}", f"one of {', '.join(('threshold', 'draft', *made))}", "load the page again"
            )
        return made[words["tool"]]()

    def _ends(self, seen: ScanMask, words: dict[str, Any]) -> tuple[int, int]:
        first, last = int(words["first"]), int(words["last"])
        if not (0 <= first < len(seen) and 0 <= last < len(seen)):
            raise UserError(f"slices {first + 1} and {last + 1} of {len(seen)}", "two that are there", "correct two slices first")
        return first, last

    def replace(self, key: str, reviewer: str, mask: ScanMask, tool: str, name: str) -> dict[str, Any]:
        """Take a whole mask, of the shape of the case, as one stroke."""
        with self._lock:
            return self._commit(key, reviewer, tool, Change.between(self.mask(key, reviewer), mask), name)

    def _commit(self, key: str, reviewer: str, tool: str, change: Change | None, name: str, gesture: str = "") -> dict[str, Any]:
        if change is not None and self.store.stroke(self.views.draft(key).record.id, reviewer, tool, change, name, gesture):
            self._drawn[key, reviewer].apply(change)
        return self.state(key, reviewer)

    def undo(self, key: str, reviewer: str, redo: bool) -> dict[str, Any]:
        """Undo the last gesture, or redo the one that was undone."""
        with self._lock:
            drawn = self._now(key, reviewer)
            for change in self.store.undo(self.views.draft(key).record.id, reviewer, redo):
                drawn.apply(change)
            return self.state(key, reviewer)

    def decide(
        self, key: str, reviewer: str, state: str, comment: str, seconds: float, edits: int, time: str | None = None
    ) -> dict[str, Any]:
        """Decide a case, now or at a `time` before; refused where its mask was changed since the page showed it (`edits`)."""
        with self._lock:
            case, mask = self.views.draft(key).record.id, self.mask(key, reviewer)
            if edits != self.store.edits(case, reviewer):
                raise UserError(
                    "the mask was changed in another tab", "a decision about what you see", "look at it again, then decide"
                )
            needs = state in (ACCEPTED, CORRECTED, REJECTED)
            return {"state": self.store.decide(case, reviewer, state, mask if needs else None, comment, seconds, time)}
