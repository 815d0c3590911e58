"""What was drawn and decided of a scan, where its case has another scan now."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from .records import CaseRecord


def set_aside(db: sqlite3.Connection, cases: Sequence[CaseRecord]) -> list[str]:
    """Rename the cases whose scan is another one now, and back those whose scan is there again; see `Store.list_cases`.

    Args:
        db: in a transaction.
        cases: as they are now; where the SHA-256 of a scan is unknown, it is taken for the same one.

    Returns:
        The cases whose scan is another one.
    """
    others = list[str]()
    known = dict(db.execute("SELECT id, json_extract(numbers, '$.sha256') FROM cases").fetchall())
    db.execute("PRAGMA defer_foreign_keys=ON")  # until the transaction ends
    for case in cases:
        before, now = known.get(case.id), case.numbers.get("sha256")
        if isinstance(before, str) and isinstance(now, str) and before != now:
            others.append(case.id)
            _rename(db, case.id, name_aside(case.id, before))
            if (former := name_aside(case.id, now)) in known:
                _rename(db, former, case.id)
    return others


def exchange(db: sqlite3.Connection, case: str, before: str, now: str) -> None:
    """Set aside what was decided of a case whose image had other pixels, and bring back what was decided of those it has now.

    Args:
        db: in a transaction.
        case: its name.
        before, now: hashes of the pixels.
    """
    db.execute("PRAGMA defer_foreign_keys=ON")
    facts = "place, patient, side, image, volume, numbers"
    listed = tuple(db.execute(f"SELECT {facts} FROM cases WHERE id = ?", [case]).fetchone())
    _rename(db, case, name_aside(case, before))
    db.execute("UPDATE cases SET place = -1 WHERE id = ?", [name_aside(case, before)])
    _rename(db, name_aside(case, now), case)
    db.execute(
        f"INSERT INTO cases (id, {facts}) VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET place = excluded.place, "
        "patient = excluded.patient, side = excluded.side, image = excluded.image, numbers = excluded.numbers",
        [case, *listed],
    )


def fact_of(case: str) -> str:
    """What the hash of the pixels of a case is called among the facts."""
    return f"pixels {case}"


def name_aside(case: str, digest: str) -> str:
    """What a case is called whose name another scan has now."""
    return f"{case} ({digest[:8]})"


def _rename(db: sqlite3.Connection, case: str, name: str) -> None:
    db.execute("UPDATE cases SET id = ? WHERE id = ?", [name, case])
    db.execute("UPDATE facts SET name = ? WHERE name = ?", [fact_of(name), fact_of(case)])
    for table in ("strokes", "decisions", "edits"):
        db.execute(f'UPDATE {table} SET "case" = ? WHERE "case" = ?', [name, case])
