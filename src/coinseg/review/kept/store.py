"""What reviewers did, in review.sqlite: every stroke and every decision is one committed transaction, and none is ever replaced.

The mask of a reviewer is the draft with the voxels of his strokes flipped, one stroke after the other; a stroke that is undone
stays in the table. A decision keeps the mask it was about. `reviewed` is what a training reads.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import numpy as np

from coinseg.errors import UserError
from coinseg.runtime.files import damaged, json_value
from coinseg.types import ScanMask

from .aside import exchange, fact_of, set_aside
from .changes import Change, packed, unpacked
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
    CaseRecord,
    Decision,
    Reviewed,
)
from .schema import FILE, Busy, connect, fault

_UNTOUCHED = (
    'NOT EXISTS (SELECT 1 FROM strokes WHERE "case" = cases.id) AND NOT EXISTS (SELECT 1 FROM decisions WHERE "case" = cases.id)'
)


class Store:
    """The database of a folder; one thread at a time works with it. Whoever writes holds the folder (`runtime.locks.locked`)."""

    def __init__(self, folder: Path, write: bool = True) -> None:
        self.file, self._lock = folder / FILE, threading.RLock()
        self._connection = connect(folder, write)
        self._opened = _place_of(self.file)
        if write:
            with self._transaction() as db:
                db.execute("INSERT OR IGNORE INTO facts VALUES ('identity', ?)", [uuid4().hex])

    @property
    def identity(self) -> str:
        """A name that no other database has."""
        return str(self._rows("SELECT value FROM facts WHERE name = 'identity'")[0]["value"])

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._connection.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Everything in the block is committed, or nothing; `UserError` where the disk is full, the file in use or gone."""
        with self._lock:
            if _place_of(self.file) != self._opened:  # SQLite goes on in a file that has no name any more
                do = "put it back: what you drew since waits in the browser"
                raise Busy(f"{self.file} is gone, or another file", "the database that was opened", do)
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                try:
                    yield self._connection
                    self._connection.execute("COMMIT")
                except BaseException:
                    if self._connection.in_transaction:
                        self._connection.execute("ROLLBACK")
                    raise
            except sqlite3.Error as error:
                raise fault(error, self.file) from error

    def _rows(self, sql: str, values: Sequence[Any] = ()) -> list[sqlite3.Row]:
        with self._lock:
            try:
                return self._connection.execute(sql, values).fetchall()
            except (sqlite3.Error, UnicodeDecodeError) as error:
                raise fault(error, self.file) from error

    # --- cases

    def list_cases(self, cases: Sequence[CaseRecord]) -> list[str]:
        """Take over the cases of a source in their order; those that were reviewed and are gone stay in the database.

        Where a case has another scan than before (its SHA-256), what was drawn and decided of the former one is no longer of this
        case: it stays under a name with the beginning of that SHA-256, and is back when that scan is. Such cases are returned.
        """
        with self._transaction() as db:
            db.execute("UPDATE cases SET place = -1")
            others = set_aside(db, cases)
            db.executemany(
                "INSERT INTO cases (id, place, patient, side, image, volume, numbers) VALUES (?, ?, ?, ?, ?, ?, ?) "
                "ON CONFLICT (id) DO UPDATE SET place = excluded.place, patient = excluded.patient, side = excluded.side, "
                "image = excluded.image, numbers = excluded.numbers",
                [(c.id, i, c.patient, c.side, c.image, c.volume, json.dumps(c.numbers)) for i, c in enumerate(cases)],
            )
        return others

    def cases(self, gone: bool = False) -> list[CaseRecord]:
        """The cases of the source in their order; with `gone` also those that are no longer in it, first."""
        rows = self._rows("SELECT * FROM cases WHERE place >= ? ORDER BY place, id", [-1 if gone else 0])
        return [
            CaseRecord(r["id"], r["patient"], r["image"], bool(r["volume"]), r["side"], self._numbers(r), _shape(r)) for r in rows
        ]

    def draft(self, case: str) -> ScanMask | None:
        """The mask that all reviewers begin with; None until the case was first opened."""
        rows = self._rows("SELECT * FROM cases WHERE id = ?", [case])
        if not rows:
            raise UserError("there is no such case", "a case of the queue", "load the page again")
        shape = _shape(rows[0])
        return None if rows[0]["draft"] is None or shape is None else unpacked(rows[0]["draft"], shape)

    def has_draft(self, case: str) -> bool:
        """Whether the case was opened before."""
        return bool(self._rows("SELECT 1 FROM cases WHERE id = ? AND draft IS NOT NULL", [case]))

    def keep_draft(self, case: str, mask: ScanMask, pixels: str | None = None) -> None:
        """Keep the mask that all reviewers begin with; once somebody changed or decided the case it stays as it is.

        Args:
            case: whose mask.
            mask: of coinseg.
            pixels: a hash of those of its image, where nothing else says which one it is, see `twins.pixels_of`.
        """
        with self._transaction() as db:
            kept = db.execute(
                f"UPDATE cases SET slices = ?, rows = ?, columns = ?, draft = ? WHERE id = ? AND {_UNTOUCHED}",
                [*mask.shape, packed(mask), case],
            )
            if kept.rowcount:
                db.execute("DELETE FROM facts WHERE name = ?", [fact_of(case)])
                db.executemany("INSERT INTO facts VALUES (?, ?)", [(fact_of(case), pixels)] if pixels else [])

    def pixels(self, case: str) -> str | None:
        """The hash of the pixels that were looked at, see `keep_draft`; None where it is unknown."""
        rows = self._rows("SELECT value FROM facts WHERE name = ?", [fact_of(case)])
        return str(rows[0]["value"]) if rows else None

    def set_aside_unless(self, case: str, pixels: str | None) -> bool:
        """Set aside what was decided of a case of other pixels, as `list_cases` that of another scan; whether there was such.

        Args:
            case: its name.
            pixels: a hash of those of its image now; None where all are the same.
        """
        before = self.pixels(case)
        if before is None or before == pixels:
            return False
        with self._transaction() as db:
            exchange(db, case, before, pixels or "")
        return True

    def is_touched(self, case: str) -> bool:
        """Whether anybody changed or decided the case."""
        return not self._rows(f"SELECT 1 FROM cases WHERE id = ? AND {_UNTOUCHED}", [case])

    # --- strokes

    def mask(self, case: str, reviewer: str) -> ScanMask:
        """The mask of a reviewer as it is now; the draft must be there."""
        if (mask := self.draft(case)) is None:
            raise UserError("the case was not opened yet", "its draft", "open it first")
        for row in self._rows(
            "SELECT * FROM strokes WHERE \"case\" = ? AND reviewer = ? AND state = 'done' ORDER BY id", [case, reviewer]
        ):
            _change(row, (mask.shape[0], mask.shape[1], mask.shape[2])).apply(mask)
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
        with self._transaction() as db:
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
        with self._transaction() as db:
            rows = db.execute(
                'SELECT s.*, slices, rows, columns FROM strokes s JOIN cases c ON c.id = s."case" '
                'WHERE s."case" = ? AND reviewer = ? AND state = ? AND gesture = (SELECT gesture FROM strokes '
                f'WHERE "case" = ? AND reviewer = ? AND state = ? ORDER BY id {order} LIMIT 1) ORDER BY s.id',
                [case, reviewer, last, case, reviewer, last],
            ).fetchall()
            changes = [_change(row, shape) for row in rows if (shape := _shape(row)) is not None]
            db.executemany("UPDATE strokes SET state = ? WHERE id = ?", [(becomes, row["id"]) for row in rows])
            if rows:
                _count_edit(db, case, reviewer)
        return changes

    def depth(self, case: str, reviewer: str) -> tuple[int, int]:
        """How many gestures can be undone, and redone."""
        counts = {
            row["state"]: row["n"]
            for row in self._rows(
                'SELECT state, count(DISTINCT gesture) AS n FROM strokes WHERE "case" = ? AND reviewer = ? GROUP BY state',
                [case, reviewer],
            )
        }
        return counts.get("done", 0), counts.get("undone", 0)

    def edits(self, case: str, reviewer: str) -> int:
        """How often the mask of a reviewer was changed, undone and redone: two tabs compare it."""
        return next(
            (r["count"] for r in self._rows('SELECT count FROM edits WHERE "case" = ? AND reviewer = ?', [case, reviewer])), 0
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
        with self._transaction() as db:
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
        rows = self._rows(
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
        rows = self._rows('SELECT state, comment FROM decisions WHERE "case" = ? AND reviewer = ? ORDER BY id', [case, reviewer])
        return [(row["state"], row["comment"]) for row in rows]

    def decided_mask(self, decision: int) -> ScanMask | None:
        """The mask a decision was about; None where it has none. That of a rejected case is empty."""
        (row,) = self._rows(
            'SELECT d.mask, d.state, c.* FROM decisions d JOIN cases c ON c.id = d."case" WHERE d.id = ?', [decision]
        )
        shape = _shape(row)
        if row["state"] == REJECTED and shape is not None:
            return np.zeros(shape, bool)
        return None if row["mask"] is None or shape is None else unpacked(row["mask"], shape)

    def _numbers(self, row: sqlite3.Row) -> dict[str, Any]:
        try:
            return cast(dict[str, Any], json_value(row["numbers"]))
        except ValueError as error:
            raise damaged(self.file, str(error), "put back a copy of it") from error

    def _class_of(self, row: sqlite3.Row) -> str:
        """The class of several that a case is listed for; "" where there is one."""
        name = self._numbers(row).get("class")
        return name if isinstance(name, str) and row["id"].startswith(f"{name}/") else ""

    def _text(self, row: sqlite3.Row, name: str) -> str | None:
        """A text among the numbers of a case; None where there is none."""
        text = self._numbers(row).get(name)
        return text if isinstance(text, str) else None

    def reviewed(self) -> list[Reviewed]:
        """See `reviewed`."""
        last = {d.case: d for d in self.decisions() if d.state != SKIPPED}  # who skipped a case said nothing of it
        counts = [d for d in last.values() if d.state in TEACHING and not d.stale]
        found = []
        for decision in sorted(counts, key=lambda d: d.case):
            (row,) = self._rows(
                'SELECT c.*, d.mask FROM decisions d JOIN cases c ON c.id = d."case" WHERE d.id = ?', [decision.id]
            )
            if (shape := _shape(row)) is not None:
                about = (row["patient"], Path(row["image"]), bool(row["volume"]), row["side"])
                who, mask, name = (decision.state, decision.reviewer, decision.time), row["mask"] or b"", self._class_of(row)
                of = self._text(row, "sha256"), self._text(row, MODEL_CLASS) or "", self.pixels(decision.case)
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


def _place_of(file: Path) -> tuple[int, int] | None:
    """What tells a file from another one of its name; None where there is none."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _shape(row: sqlite3.Row) -> tuple[int, int, int] | None:
    return None if row["slices"] is None else (row["slices"], row["rows"], row["columns"])


def _change(row: sqlite3.Row, shape: tuple[int, int, int]) -> Change:
    box = (row["z0"], row["z1"], row["y0"], row["y1"], row["x0"], row["x1"])
    size = tuple(max(0, min(b - a, n)) for a, b, n in zip(box[::2], box[1::2], shape, strict=True))
    change = Change(box, unpacked(row["flips"], size))
    if not change.fits(shape):
        raise UserError("a stroke kept by the desk lies outside of its mask", "the bytes that were kept", "put back a copy")
    return change


def _count_edit(db: sqlite3.Connection, case: str, reviewer: str) -> None:
    known = 'ON CONFLICT ("case", reviewer) DO UPDATE SET count = count + 1'
    db.execute(f'INSERT INTO edits ("case", reviewer, count) VALUES (?, ?, 1) {known}', [case, reviewer])
