"""The SQLite file of a folder: transactions, and rows as what they stand for."""

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

from coinseg.errors import UserError
from coinseg.runtime.files import damaged, json_value

from .changes import Change, unpacked
from .schema import FILE, Busy, connect, fault


class Database:
    """The database of a folder; one thread at a time works with it. Whoever writes holds the folder (`runtime.locks.locked`)."""

    def __init__(self, folder: Path, write: bool = True) -> None:
        self.file, self._lock = folder / FILE, threading.RLock()
        self._connection = connect(folder, write)
        self._opened = _place_of(self.file)
        if write:
            with self.transaction() as db:
                db.execute("INSERT OR IGNORE INTO facts VALUES ('identity', ?)", [uuid4().hex])

    @property
    def identity(self) -> str:
        """A name that no other database has."""
        return str(self.rows("SELECT value FROM facts WHERE name = 'identity'")[0]["value"])

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._connection.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
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

    def rows(self, sql: str, values: Sequence[Any] = ()) -> list[sqlite3.Row]:
        """The rows of a question; `UserError` where the file is damaged or in use."""
        with self._lock:
            try:
                return self._connection.execute(sql, values).fetchall()
            except (sqlite3.Error, UnicodeDecodeError) as error:
                raise fault(error, self.file) from error

    def numbers(self, row: sqlite3.Row) -> dict[str, Any]:
        """What is known of a case, as `CaseRecord.numbers`; `UserError` where it is damaged."""
        try:
            return cast(dict[str, Any], json_value(row["numbers"]))
        except ValueError as error:
            raise damaged(self.file, str(error), "put back a copy of it") from error

    def class_of(self, row: sqlite3.Row) -> str:
        """The class of several that a case is listed for; "" where there is one."""
        name = self.numbers(row).get("class")
        return name if isinstance(name, str) and row["id"].startswith(f"{name}/") else ""

    def text(self, row: sqlite3.Row, name: str) -> str | None:
        """A text among the numbers of a case; None where there is none."""
        text = self.numbers(row).get(name)
        return text if isinstance(text, str) else None


def _place_of(file: Path) -> tuple[int, int] | None:
    """What tells a file from another one of its name; None where there is none."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def shape_of(row: sqlite3.Row) -> tuple[int, int, int] | None:
    """The shape (slices, H, W) of the mask of a case; None until it was first opened."""
    return None if row["slices"] is None else (row["slices"], row["rows"], row["columns"])


def change_of(row: sqlite3.Row, shape: tuple[int, int, int]) -> Change:
    """What a stroke changes in a mask of a shape (slices, H, W); `UserError` where it lies outside of that."""
    box = (row["z0"], row["z1"], row["y0"], row["y1"], row["x0"], row["x1"])
    size = tuple(max(0, min(b - a, n)) for a, b, n in zip(box[::2], box[1::2], shape, strict=True))
    change = Change(box, unpacked(row["flips"], size))
    if not change.fits(shape):
        raise UserError("a stroke kept by the desk lies outside of its mask", "the bytes that were kept", "put back a copy")
    return change
