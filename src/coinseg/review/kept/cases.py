"""The cases of a desk: in which order they are listed, the drafts that all reviewers begin with, and which image each is of."""

import json
from collections.abc import Sequence

from coinseg.errors import UserError
from coinseg.types import ScanMask

from .aside import exchange, fact_of, set_aside
from .changes import packed, unpacked
from .database import Database, shape_of
from .records import CaseRecord

_UNTOUCHED = (
    'NOT EXISTS (SELECT 1 FROM strokes WHERE "case" = cases.id) AND NOT EXISTS (SELECT 1 FROM decisions WHERE "case" = cases.id)'
)


class Cases(Database):
    """The cases of a folder, as its database has them."""

    def list_cases(self, cases: Sequence[CaseRecord]) -> list[str]:
        """Take over the cases of a source in their order; those that were reviewed and are gone stay in the database.

        Where a case has another scan than before (its SHA-256), what was drawn and decided of the former one is no longer of this
        case: it stays under a name with the beginning of that SHA-256, and is back when that scan is. Such cases are returned.
        """
        with self.transaction() as db:
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
        rows = self.rows("SELECT * FROM cases WHERE place >= ? ORDER BY place, id", [-1 if gone else 0])
        return [
            CaseRecord(r["id"], r["patient"], r["image"], bool(r["volume"]), r["side"], self.numbers(r), shape_of(r))
            for r in rows
        ]

    def draft(self, case: str) -> ScanMask | None:
        """The mask that all reviewers begin with; None until the case was first opened."""
        rows = self.rows("SELECT * FROM cases WHERE id = ?", [case])
        if not rows:
            raise UserError("there is no such case", "a case of the queue", "load the page again")
        shape = shape_of(rows[0])
        return None if rows[0]["draft"] is None or shape is None else unpacked(rows[0]["draft"], shape)

    def has_draft(self, case: str) -> bool:
        """Whether the case was opened before."""
        return bool(self.rows("SELECT 1 FROM cases WHERE id = ? AND draft IS NOT NULL", [case]))

    def keep_draft(self, case: str, mask: ScanMask, pixels: str | None = None) -> None:
        """Keep the mask that all reviewers begin with; once somebody changed or decided the case it stays as it is.

        Args:
            case: whose mask.
            mask: of coinseg.
            pixels: a hash of those of its image, where nothing else says which one it is, see `twins.pixels_of`.
        """
        with self.transaction() as db:
            kept = db.execute(
                f"UPDATE cases SET slices = ?, rows = ?, columns = ?, draft = ? WHERE id = ? AND {_UNTOUCHED}",
                [*mask.shape, packed(mask), case],
            )
            if kept.rowcount:
                db.execute("DELETE FROM facts WHERE name = ?", [fact_of(case)])
                db.executemany("INSERT INTO facts VALUES (?, ?)", [(fact_of(case), pixels)] if pixels else [])

    def pixels(self, case: str) -> str | None:
        """The hash of the pixels that were looked at, see `keep_draft`; None where it is unknown."""
        rows = self.rows("SELECT value FROM facts WHERE name = ?", [fact_of(case)])
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
        with self.transaction() as db:
            exchange(db, case, before, pixels or "")
        return True

    def is_touched(self, case: str) -> bool:
        """Whether anybody changed or decided the case."""
        return not self.rows(f"SELECT 1 FROM cases WHERE id = ? AND {_UNTOUCHED}", [case])
