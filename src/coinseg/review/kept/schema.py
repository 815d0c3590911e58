"""The tables of review.sqlite, their migrations, and opening a file that may be a stranger's."""

from __future__ import annotations

import sqlite3
from contextlib import suppress
from pathlib import Path

from coinseg.data.readers.limits import MAX_BYTES, MAX_PIXELS
from coinseg.errors import UserError
from coinseg.runtime.files import damaged

FILE = "review.sqlite"
APPLICATION = 0x636F696E  # "coin", which tells the file from other databases
MIGRATIONS = (
    """
    CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
    CREATE TABLE cases (
        id TEXT PRIMARY KEY, place INTEGER NOT NULL, patient TEXT NOT NULL, side TEXT NOT NULL, image TEXT NOT NULL,
        volume INTEGER NOT NULL, slices INTEGER, rows INTEGER, columns INTEGER, numbers TEXT NOT NULL, draft BLOB
    );
    CREATE TABLE strokes (
        id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL UNIQUE, gesture TEXT NOT NULL,
        "case" TEXT NOT NULL REFERENCES cases(id),
        reviewer TEXT NOT NULL, tool TEXT NOT NULL, time TEXT NOT NULL, state TEXT NOT NULL,
        z0 INTEGER NOT NULL, z1 INTEGER NOT NULL, y0 INTEGER NOT NULL, y1 INTEGER NOT NULL,
        x0 INTEGER NOT NULL, x1 INTEGER NOT NULL, flips BLOB NOT NULL
    );
    CREATE INDEX strokes_of ON strokes ("case", reviewer, state, id);
    CREATE TABLE decisions (
        id INTEGER PRIMARY KEY AUTOINCREMENT, "case" TEXT NOT NULL REFERENCES cases(id), reviewer TEXT NOT NULL,
        state TEXT NOT NULL, comment TEXT NOT NULL, time TEXT NOT NULL, seconds REAL NOT NULL, edits INTEGER NOT NULL, mask BLOB
    );
    CREATE INDEX decisions_of ON decisions ("case", reviewer, id);
    CREATE TABLE edits (
        "case" TEXT NOT NULL REFERENCES cases(id), reviewer TEXT NOT NULL, count INTEGER NOT NULL, PRIMARY KEY ("case", reviewer)
    );
    """,
)
"""SQL that takes a database from the version of its index to the next; a change of the tables is a row behind these."""

_IMPOSSIBLE = (
    f"cases WHERE min(slices, rows, columns) < 1 OR max(slices, rows, columns) > {MAX_PIXELS} "
    f"OR 1.0 * slices * rows * columns > {MAX_BYTES}",
    'strokes WHERE "case" NOT IN (SELECT id FROM cases)',
    'decisions WHERE "case" NOT IN (SELECT id FROM cases)',
    "cases WHERE NOT json_valid(numbers) OR json_type(numbers) != 'object'",
)
"""Conditions under which a database is damaged, each behind the name of its table."""


class Busy(UserError):
    """It cannot be written now; the same again may succeed later."""


def connect(folder: Path, write: bool) -> sqlite3.Connection:
    """Open review.sqlite of a folder; for writing it is made where it is missing, and brought to the present version.

    Raises:
        UserError: it is missing, damaged, no database of the desk, or of a later coinseg.
    """
    file = folder / FILE
    if not write and not file.is_file():
        raise UserError(
            f"{folder} has no {FILE}", "a folder in which masks were reviewed", "name the folder `coinseg review` made"
        )
    if file.is_symlink() or (file.exists() and not file.is_file()):
        raise UserError(f"{file} is a link or no file", "a database of its own", "remove it, or choose another --reviews")
    try:
        connection = _open(file, write)
        try:
            _require_ours(connection, file)
            if write:
                _migrate(connection, file)
            elif (version := _version(connection)) != len(MIGRATIONS):
                raise _other_version(file, version)
            _require_kinds(connection, file)
        except BaseException:
            connection.close()
            raise
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        raise fault(error, file) from error
    return connection


def _require_kinds(connection: sqlite3.Connection, file: Path) -> None:
    """Raise `UserError` for a value of another kind than its column has, which SQLite allows; sizes and cases that cannot be."""
    declared = sqlite3.connect(":memory:")
    declared.executescript("".join(MIGRATIONS))
    wrong = [*_IMPOSSIBLE]
    for table in ("facts", "cases", "strokes", "decisions", "edits"):
        columns = declared.execute('SELECT name, type, "notnull" OR pk FROM pragma_table_info(?)', [table]).fetchall()
        kinds = ((name, f"'{kind.lower()}'", "" if needed else ", 'null'") for name, kind, needed in columns)
        wrong.append(
            f"{table} WHERE "
            # Behind its table, or SQLite takes the name of a column there is none of for a text.
            + " OR ".join(f'typeof({table}."{name}") NOT IN ({kind}{or_none})' for name, kind, or_none in kinds)
        )
    declared.close()
    if found := next((one for one in wrong if connection.execute(f"SELECT 1 FROM {one} LIMIT 1").fetchone()), None):
        raise damaged(file, f"{found.split()[0]} has what is none of its values", "put back a copy of it")


def fault(error: sqlite3.Error | UnicodeDecodeError, file: Path) -> UserError:
    """What a user is told of an error of SQLite; where its words are no UTF-8, as names in them, sqlite3 raises another one."""
    words = "names that are no UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
    if "full" in words or "disk I/O" in words:
        return Busy(f"{file} cannot be written ({words})", "room on the disk", "free some space; nothing decided is lost")
    if "locked" in words or "busy" in words:
        return Busy(f"{file} is in use by another program", "one at a time", "close the other one and try again")
    if "readonly" in words or "unable to open" in words:
        return Busy(f"{file} cannot be written ({words})", "a folder that may be written", "mend that, or give --reviews FOLDER")
    return damaged(file, words, "put back a copy of it, or choose another --reviews")


def _open(file: Path, write: bool) -> sqlite3.Connection:
    if write:
        file.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(file, timeout=5, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")  # a stroke that was acknowledged outlives a power cut
    else:
        # On a disk that cannot be written a database that was closed well needs no files beside it.
        still = not file.with_name(f"{file.name}-wal").exists()
        connection = sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True, timeout=5, isolation_level=None)
        try:
            connection.execute("SELECT 1 FROM sqlite_master").fetchall()
        except sqlite3.OperationalError:
            connection.close()
            if not still:
                raise
            connection = sqlite3.connect(f"{file.resolve().as_uri()}?immutable=1", uri=True, isolation_level=None)
    connection.row_factory = sqlite3.Row
    for pragma in ("trusted_schema=OFF", "foreign_keys=ON", "cell_size_check=ON", "mmap_size=0"):
        connection.execute(f"PRAGMA {pragma}")
    return connection


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _require_ours(connection: sqlite3.Connection, file: Path) -> None:
    """Raise `UserError` for another database, and for triggers or views, which would run with what is done here."""
    things = connection.execute("SELECT type, name FROM sqlite_master").fetchall()
    application = int(connection.execute("PRAGMA application_id").fetchone()[0])
    if things and application != APPLICATION:
        raise UserError(f"{file} is no database of the desk", "one that coinseg made", "choose another --reviews")
    if odd := [row["name"] for row in things if row["type"] not in ("table", "index")]:
        raise damaged(file, f"it has {odd[0]}, a trigger or a view", "put back a copy of it")
    if (checked := connection.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
        raise damaged(file, str(checked), "put back a copy of it, or choose another --reviews")


def _other_version(file: Path, version: int) -> UserError:
    got = f"{file} has version {version} of its tables"
    do = "use the later coinseg" if version > len(MIGRATIONS) else "open it once with `coinseg review`"
    return UserError(got, f"version {len(MIGRATIONS)}", do)


def _migrate(connection: sqlite3.Connection, file: Path) -> None:
    version = _version(connection)
    if version > len(MIGRATIONS):
        raise _other_version(file, version)
    for number in range(version, len(MIGRATIONS)):
        with suppress(sqlite3.OperationalError):  # executescript ends a transaction that is open
            connection.execute("COMMIT")
        step = f"PRAGMA application_id={APPLICATION}; PRAGMA user_version={number + 1};"
        connection.executescript(f"BEGIN IMMEDIATE; {MIGRATIONS[number]} {step} COMMIT;")
