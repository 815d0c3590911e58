"""What reviewers did, in review.sqlite: every stroke and every decision is one committed transaction, and none is ever replaced.

The mask of a reviewer is the draft with the voxels of his strokes flipped, one stroke after the other; a stroke that is undone
stays in the table. A decision keeps the mask it was about. `reviewed` is what a training reads.
"""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from coinseg.errors import UserError
from coinseg.types import ScanMask

from .cases import Cases
from .changes import Change, packed, unpacked
from .database import change_of, shape_of
from .records import (
    ACCEPTED,
    CORRECTED,
    FOLDER,
    MODEL_CLASS,
    MOST_TEXT,
    REJECTED,
    SKIPPED,
    STATES,
    TEACHING,
    Decision,
    Reviewed,
)
from .schema import FILE


class Store(Cases):
    """What reviewers did in a folder, as its database has it: cases, strokes, decisions."""

    # --- strokes

    def mask(self, case: str, reviewer: str) -> ScanMask:
        """The mask of a reviewer as it is now; the draft must be there."""
        if (mask := self.draft(case)) is None:
            raise UserError("the case was not opened yet", "its draft", "open it first")
        for row in self.rows(
            "SELECT * FROM strokes WHERE \"case\" = ? AND reviewer = ? AND state = 'done' ORDER BY id", [case, reviewer]
        ):
            change_of(row, (mask.shape[0], mask.shape[1], mask.shape[2])).apply(mask)
        return mask

    def stroke(self, case: str, reviewer: str, tool: str, change: Change, key: str, gesture: str = "") -> bool:
        """Commit a stroke; strokes that were undone before it can no longer be redone.

        Args:
            case, reviewer: whose mask is changed.
            tool: what it was made with, for the record.
            change: the voxels that flip.
            key: names this stroke; given again (the answer was lost) nothing happens.
            gesture: names the movement of which the stroke is a part; its parts are undone together. The key without.

        Returns:
            Whether it is new, so that the mask changes.
        """
        with self.transaction() as db:
            if db.execute("SELECT 1 FROM strokes WHERE key = ?", [key]).fetchone():
                return False
            db.execute(
                "UPDATE strokes SET state = 'dropped' WHERE \"case\" = ? AND reviewer = ? AND state = 'undone'", [case, reviewer]
            )
            columns = 'key, gesture, "case", reviewer, tool, time, state, z0, z1, y0, y1, x0, x1, flips'
            values = [key, gesture or key, case, reviewer, tool, _now(), "done", *change.box, packed(change.flips)]
            db.execute(f"INSERT INTO strokes ({columns}) VALUES ({', '.join('?' * len(values))})", values)
            _count_edit(db, case, reviewer)
        return True

    def undo(self, case: str, reviewer: str, redo: bool = False) -> list[Change]:
        """Undo the last gesture, or redo the last undone one; the changes of its strokes, none where there is none."""
        last, becomes, order = ("undone", "done", "ASC") if redo else ("done", "undone", "DESC")
        with self.transaction() as db:
            rows = db.execute(
                'SELECT s.*, slices, rows, columns FROM strokes s JOIN cases c ON c.id = s."case" '
                'WHERE s."case" = ? AND reviewer = ? AND state = ? AND gesture = (SELECT gesture FROM strokes '
                f'WHERE "case" = ? AND reviewer = ? AND state = ? ORDER BY id {order} LIMIT 1) ORDER BY s.id',
                [case, reviewer, last, case, reviewer, last],
            ).fetchall()
            changes = [change_of(row, shape) for row in rows if (shape := shape_of(row)) is not None]
            db.executemany("UPDATE strokes SET state = ? WHERE id = ?", [(becomes, row["id"]) for row in rows])
            if rows:
                _count_edit(db, case, reviewer)
        return changes

    def depth(self, case: str, reviewer: str) -> tuple[int, int]:
        """How many gestures can be undone, and redone."""
        counts = {
            row["state"]: row["n"]
            for row in self.rows(
                'SELECT state, count(DISTINCT gesture) AS n FROM strokes WHERE "case" = ? AND reviewer = ? GROUP BY state',
                [case, reviewer],
            )
        }
        return counts.get("done", 0), counts.get("undone", 0)

    def edits(self, case: str, reviewer: str) -> int:
        """How often the mask of a reviewer was changed, undone and redone: two tabs compare it."""
        return next(
            (r["count"] for r in self.rows('SELECT count FROM edits WHERE "case" = ? AND reviewer = ?', [case, reviewer])), 0
        )

    # --- decisions

    def decide(
        self, case: str, reviewer: str, state: str, mask: ScanMask | None, comment: str = "", seconds: float = 0.0,
        time: str | None = None,
    ) -> str:  # fmt: skip
        """Commit a decision about the mask as it is; "accepted" becomes "corrected" where it is not the draft.

        Skipping decides nothing: what the reviewer decided of the mask before stays.

        Args:
            case, reviewer: who decides of what.
            state: one of `STATES`.
            mask: the reviewer's, for a state of `TEACHING`; None where a decision needs none.
            comment: free text.
            seconds: that the reviewer looked at the case.
            time: when it was decided, UTC, ISO 8601; now without.

        Returns:
            The state that was kept.
        """
        if state not in STATES:
            raise UserError(f"the decision is {state[:20]!r}", f"one of {', '.join(STATES)}", "load the page again")
        if len(comment) > MOST_TEXT:
            raise UserError(f"a comment of {len(comment)} characters", f"{MOST_TEXT} at most", "shorten it")
        comment = comment.encode("utf-8", "replace").decode()  # a half of a character, which a browser may cut off
        if state == SKIPPED and (before := self._standing(case, reviewer)) is not None:
            if comment not in ("", before.comment):
                got = f"a comment, and the case is {before.state} and was only skipped"
                raise UserError(got, "a decision that it belongs to", "decide the case once more")
            return before.state
        if state in (ACCEPTED, CORRECTED) and mask is not None:
            draft = self.draft(case)
            state = ACCEPTED if draft is not None and np.array_equal(mask, draft) else CORRECTED
        blob = packed(mask) if state in (ACCEPTED, CORRECTED) and mask is not None else None
        with self.transaction() as db:
            edits = db.execute('SELECT count FROM edits WHERE "case" = ? AND reviewer = ?', [case, reviewer]).fetchone()
            columns = '"case", reviewer, state, comment, time, seconds, edits, mask'
            values = [case, reviewer, state, comment, time or _now(), seconds, edits["count"] if edits else 0, blob]
            db.execute(f"INSERT INTO decisions ({columns}) VALUES ({', '.join('?' * len(values))})", values)
            if time is not None:  # the last one counts: what others decided since comes behind it once more
                db.execute(
                    f'INSERT INTO decisions ({columns}) SELECT {columns} FROM decisions WHERE "case" = ? AND reviewer != ? '
                    'AND time > ? AND id IN (SELECT max(id) FROM decisions GROUP BY "case", reviewer) ORDER BY id',
                    [case, reviewer, time],
                )
        return state

    def decisions(self) -> list[Decision]:
        """The last decision of every reviewer about every case, in the order in which they were made."""
        rows = self.rows(
            'SELECT d.*, coalesce(e.count, 0) AS now FROM decisions d LEFT JOIN edits e ON e."case" = d."case" '
            'AND e.reviewer = d.reviewer WHERE d.id IN (SELECT max(id) FROM decisions GROUP BY "case", reviewer) ORDER BY d.id'
        )
        names = ("id", "case", "reviewer", "state", "comment", "time", "seconds")
        return [Decision(**{name: r[name] for name in names}, stale=r["edits"] != r["now"]) for r in rows]

    def _standing(self, case: str, reviewer: str) -> Decision | None:
        """What a reviewer last decided of the mask as it is; None where he decided nothing."""
        own = (one for one in self.decisions() if (one.case, one.reviewer) == (case, reviewer))
        return next((one for one in own if one.state != SKIPPED and not one.stale), None)

    def said(self, case: str, reviewer: str) -> list[tuple[str, str]]:
        """State and comment of every decision of a reviewer about a case, also of those that he replaced."""
        rows = self.rows('SELECT state, comment FROM decisions WHERE "case" = ? AND reviewer = ? ORDER BY id', [case, reviewer])
        return [(row["state"], row["comment"]) for row in rows]

    def decided_mask(self, decision: int) -> ScanMask | None:
        """The mask a decision was about; None where it has none. That of a rejected case is empty."""
        (row,) = self.rows(
            'SELECT d.mask, d.state, c.* FROM decisions d JOIN cases c ON c.id = d."case" WHERE d.id = ?', [decision]
        )
        shape = shape_of(row)
        if row["state"] == REJECTED and shape is not None:
            return np.zeros(shape, bool)
        return None if row["mask"] is None or shape is None else unpacked(row["mask"], shape)

    def reviewed(self) -> list[Reviewed]:
        """See `reviewed`."""
        last = {d.case: d for d in self.decisions() if d.state != SKIPPED}  # who skipped a case said nothing of it
        counts = [d for d in last.values() if d.state in TEACHING and not d.stale]
        found = []
        for decision in sorted(counts, key=lambda d: d.case):
            (row,) = self.rows(
                'SELECT c.*, d.mask FROM decisions d JOIN cases c ON c.id = d."case" WHERE d.id = ?', [decision.id]
            )
            if (shape := shape_of(row)) is not None:
                about = (row["patient"], Path(row["image"]), bool(row["volume"]), row["side"])
                who, mask, name = (decision.state, decision.reviewer, decision.time), row["mask"] or b"", self.class_of(row)
                of = self.text(row, "sha256"), self.text(row, MODEL_CLASS) or "", self.pixels(decision.case)
                found.append(Reviewed(decision.case, *about, *who, shape, mask, name, *of))
        return found


def reviewed(folder: Path) -> list[Reviewed]:
    """The cases that reviewers accepted, corrected or rejected, by case; a desk may be open on them meanwhile.

    Of several reviewers the one who decided last counts; who skipped a case did not. Cases that were changed after this decision
    are left out until they are decided again, like those to be redrawn, or unsure, also where somebody accepted them before.

    Args:
        folder: the one `coinseg review` made, or the folder of the run or the masks it lies in.

    Raises:
        UserError: there is none, or it is damaged.
    """
    store = Store(folder if (folder / FILE).exists() else folder / FOLDER, write=False)
    try:
        return store.reviewed()
    finally:
        store.close()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _count_edit(db: sqlite3.Connection, case: str, reviewer: str) -> None:
    known = 'ON CONFLICT ("case", reviewer) DO UPDATE SET count = count + 1'
    db.execute(f'INSERT INTO edits ("case", reviewer, count) VALUES (?, ?, 1) {known}', [case, reviewer])
