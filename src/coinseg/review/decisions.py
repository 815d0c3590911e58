"""review.csv: cases in the order in which they are worth a person's minute, and what was decided of them without a server.

coinseg writes it with empty decisions; the case pages give it back filled in, and so may a spreadsheet. A decision names the mask
it was about by its SHA-256, and is left out where that is no longer the mask of the case.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from coinseg.data.layouts.shared import composed
from coinseg.data.layouts.tables import read_table, row_error
from coinseg.data.readers.paths import sha256_of
from coinseg.errors import UserError
from coinseg.runtime.files import FORMULA, csv_text

from .desk import Desk
from .kept.records import ACCEPTED, REDRAW, REJECTED, SKIPPED, UNSURE, CaseRecord, Decision
from .kept.schema import Busy
from .scans import read_region_of
from .sources import Draft, Source

NAME = "review.csv"
COLUMNS = (
    "rank", "case", "confidence", "doubtful", "volume_ml", "pixels", "draft", "decision", "comment", "reviewer",
    "time", "seconds",
)  # fmt: skip
WORDS = {
    "accept": ACCEPTED, "accepted": ACCEPTED, "reject": REJECTED, "rejected": REJECTED, "unsure": UNSURE, "not sure": UNSURE,
    "redraw": REDRAW, "skipped": SKIPPED, "": "",
}  # fmt: skip
"""Decisions as people write them -> states of the desk; an empty one is none yet."""
MOST_NAME = 60


def digest_of_draft(draft: Draft) -> str:
    """A name for the mask of a case as it lies there now; "" where it is gone."""
    return (sha256_of(draft.mask) or "")[:16]


def decision_table(source: Source, order: list[CaseRecord]) -> str:
    """The text of review.csv: cases in their order, nothing decided."""
    drafts = {draft.record.id: draft for draft in source.drafts}
    rows: list[list[Any]] = [list(COLUMNS)]
    for rank, case in enumerate(order, 1):
        numbers = [case.numbers.get(name) for name in COLUMNS[2:6]]
        cells = [int(value) if isinstance(value, bool) else value for value in numbers]
        rows.append([rank, case.id, *cells, digest_of_draft(drafts[case.id]), "", "", "", "", ""])
    return csv_text(rows)


@dataclass(frozen=True)
class Row:
    """A line of review.csv with a decision, or with a comment alone, whose state is ""; `time` is "" where none is known."""

    case: str
    draft: str
    state: str
    comment: str
    reviewer: str
    time: str
    seconds: float


def read_decisions(file: Path, reviewer: str | None) -> Iterator[Row]:
    """The lines of a table that have a decision or a comment, in order.

    Args:
        file: review.csv, or a copy that a spreadsheet saved.
        reviewer: of the lines that name none.

    Raises:
        UserError: it lacks columns, or a line has an unknown decision, no time where one stands, or nobody who decided.
    """
    lines = read_table(file)
    for number, row in lines:
        got = {name: row.get(name, "").strip() for name in COLUMNS}
        if missing := [name for name in ("case", "draft", "decision") if name not in row]:
            raise UserError(f"{file} has no column {missing[0]}", f"the columns of {NAME}", "take the file that coinseg wrote")
        if (state := WORDS.get(got["decision"].lower())) is None:
            raise row_error(
                file, number, f"has the decision {got['decision'][:40]!r}", "accepted, rejected, unsure, redraw or nothing"
            )
        who = _unquoted(got["reviewer"]) or (reviewer or "").strip()
        if state and not (1 <= len(who) <= MOST_NAME and who.isprintable()):
            raise row_error(file, number, "does not say who decided", "a name of 1 to 60 letters", "give --reviewer NAME")
        if (time := _time(got["time"])) is None:
            required = "one such as 2024-05-06T07:08:09+00:00, or nothing, where it was decided now"
            raise row_error(file, number, f"has the time {got['time'][:40]!r}", required)
        if state or got["comment"]:
            comment, seconds = _unquoted(got["comment"]), _seconds(got["seconds"])
            yield Row(_unquoted(got["case"]), got["draft"], state, comment, who, time, seconds)


def _unquoted(cell: str) -> str:
    """A cell without the quote that keeps a spreadsheet from running it."""
    return cell[1:] if cell.startswith("'") and cell[1:].startswith(FORMULA) else cell


def _time(cell: str) -> str | None:
    """A time in UTC as the store keeps it; "" where the cell has none or one that is still to come, None where it is no time."""
    if not cell:
        return ""
    try:
        found = datetime.fromisoformat(cell)
        found = (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return "" if found > datetime.now(UTC) else found.isoformat(timespec="seconds")


def _seconds(cell: str) -> float:
    with suppress(ValueError):
        if 0 <= (value := float(cell)) < 1e6:
            return value
    return 0.0


@dataclass(frozen=True)
class Imported:
    """How many decisions were taken, how many were there already, and a line for each that was left out."""

    taken: int
    known: int
    left_out: list[str]


def import_decisions(desk: Desk, file: Path, reviewer: str | None = None) -> Imported:
    """Take the decisions of a table to the desk, where a training, an export and other reviewers find them.

    A decision is left out where its case is unknown, where the mask is no longer the one it was about, where the reviewer changed
    the mask on the desk, and where he decided the case there later; so is a comment without a decision. Where another reviewer
    decided the case since, that one stays the last. A line without a time is of now when it is first seen, and counts once.
    """
    drafts = {composed(draft.record.id): draft for draft in desk.source.drafts}
    last = {(one.case, one.reviewer): one for one in desk.store.decisions()}
    # Of two about a case the later one is the last; what has no time is of now.
    rows = sorted(read_decisions(file, reviewer), key=lambda row: (not row.time, row.time))
    taken, known, left_out = 0, 0, list[str]()
    for row in rows:
        if not row.state:
            left_out.append(f"{row.case}: it has a comment and no decision")
            continue
        draft = drafts.get(row.case)
        before = last.get((draft.record.id, row.reviewer)) if draft else None
        if row.time and _is_known(row, before):
            known += 1
            continue
        try:
            if why := "no such case" if draft is None else _objection(desk, draft, row, before):
                left_out.append(f"{row.case}: {why}")
                continue
            if _is_known(row, before):
                known += 1
                continue
            assert draft is not None
            edits = desk.store.edits(draft.record.id, row.reviewer)
            desk.editor.decide(draft.key, row.reviewer, row.state, row.comment, row.seconds, edits, row.time or None)
            taken += 1
        except Busy:
            raise
        except UserError as error:
            left_out.append(f"{row.case}: {error}")
    return Imported(taken, known, left_out)


def _is_known(row: Row, before: Decision | None) -> bool:
    """Whether a line is what its reviewer decided last; of one without a time only what was decided says so."""
    said = (row.time, row.state, row.comment)
    return before is not None and not before.stale and said == (row.time and before.time, before.state, before.comment)


def _objection(desk: Desk, draft: Draft, row: Row, before: Decision | None) -> str:
    """Why a decision is not taken; "" where it is."""
    if digest_of_draft(draft) != row.draft:
        return "its mask is another than the one that was decided; look at it again"
    if before is not None and row.time and row.time <= before.time:
        return f"{row.reviewer} decided it on the desk since"
    opened = desk.views.opened(draft.key)
    mask = read_region_of(draft.mask, opened.geometry, opened.shape)
    if not np.array_equal(desk.editor.mask(draft.key, row.reviewer), mask):
        return f"{row.reviewer} changed its mask on the desk, or began with an earlier one; decide it there"
    overtaken = before is not None and not before.stale and not _is_known(row, before)
    if not row.time and overtaken and (row.state, row.comment) in desk.store.said(draft.record.id, row.reviewer):
        return f"{row.reviewer} decided it otherwise since; give the line a time, or decide it on the desk"
    return ""
