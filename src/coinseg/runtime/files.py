"""Write files whole or not at all (beside their place, then moved into it), read JSON and YAML, and hash settings to keys."""

import csv
import hashlib
import io
import json
import math
import os
import re
import shutil
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from coinseg.errors import UserError

from . import ledger

MAX_YAML, MAX_JSON, MAX_BRACKETS = 2**16, 2**30, 1000
"""Largest sizes in bytes (a file of settings has 5 KB, the index of a million masks half a gigabyte), and brackets in YAML, whose
reader needs time for the square of their number."""
REDONE = "remove it, the stage is done again by the command that made it"
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
"""First characters of a cell that a spreadsheet may run as a formula (OWASP, CSV injection)."""
NUMBER = r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?"


def _plain(value: Any) -> Any:
    """Turn a NumPy number to a Python number, and anything else that JSON lacks to text."""
    import numpy as np

    return value.item() if isinstance(value, np.generic) else str(value)


def key_of(value: Any) -> str:
    """Return a short hash of a value that JSON can hold; equal values have equal keys on every machine."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=_plain).encode()).hexdigest()[:16]


PART, LOCK = ".part-", ".lock"
_HALF = re.compile(rf"{re.escape(PART)}\d+-")


def _aside(path: Path) -> Path:
    return path.with_name(f"{PART}{os.getpid()}-{path.name}")  # the suffix stays: writers choose the format by it


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def clear(*paths: Path) -> None:
    """Remove files and folders, where they are there; `UserError`, and nothing is removed, for a link to a folder."""
    if link := next((path for path in paths if path.is_symlink() and path.is_dir()), None):
        raise UserError(f"{link} is a link", "a folder of its own", "remove the link")
    for path in paths:
        _remove(path)


def discard(*paths: Path) -> None:
    """Remove outputs as `clear` does; `UserError`, and nothing is removed, where something of somebody else is among them."""
    for path in paths:
        ledger.require_own(path)
    clear(*paths)


def _sync(path: Path) -> None:
    """Wait until a file, or a folder with all its files, is on the disk; a power cut then leaves no name without content."""
    for entry in (*path.rglob("*"), path) if path.is_dir() else (path,):
        _sync_entry(entry)


def _sync_entry(entry: Path) -> None:
    number = os.open(entry, os.O_RDONLY)
    try:
        os.fsync(number)
    except OSError:
        if not entry.is_dir():  # some network disks have no fsync of a folder
            raise
    finally:
        os.close(number)


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Yield a sibling path to write to; it is moved to `path` when the block succeeds and removed when it fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = _aside(path)
    try:
        yield part
        _sync(part)
        ledger.admit(part, path)
        os.replace(part, path)
        with suppress(OSError):
            _sync_entry(path.parent)
    finally:
        _remove(part)


@contextmanager
def new_file(path: Path, overwrite: bool) -> Iterator[Path]:
    """Yield a path to write an output to, as `written_aside` does; `UserError` where it exists or cannot be written."""
    if os.path.lexists(path) and (path.is_dir() or not overwrite):
        raise UserError(f"{path} already exists", "a new output", "remove it, choose another name or allow overwriting")
    try:
        with written_aside(path) as part:
            yield part
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error})", "a writable place", "choose another output") from error


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with written_aside(path) as part:  # file names that are not UTF-8 have lone surrogates, which cannot be encoded
        part.write_text(text, encoding="utf-8", errors="replace", newline="")


def write_json(path: Path, value: Any) -> None:
    """Write JSON whole or not at all; `ValueError` for NaN and infinity, which JSON lacks."""
    write_text(path, json_text(value))


def json_text(value: Any) -> str:
    """JSON as coinseg writes it; `ValueError` for NaN and infinity, which JSON lacks."""
    return json.dumps(value, indent=2, allow_nan=False, default=_plain) + "\n"


def read_json(path: Path, most: int = MAX_JSON) -> Any:
    """Read JSON that coinseg wrote, of at most so many bytes; `UserError` for anything else."""
    try:
        return json_value(_text(path, most))
    except ValueError as error:
        raise damaged(path, f"it is not readable as JSON: {error}") from error


def json_or_none(path: Path) -> Any:
    """What a file at the place of an output of ours says, None where it is no JSON: it may be somebody's own."""
    with suppress(UserError):
        return read_json(path)
    return None


def json_value(text: str | bytes) -> Any:
    """The value of JSON text; `ValueError` for what is no JSON, for NaN and infinity, and for what is nested too deeply."""
    try:
        return json.loads(text, parse_constant=_no_number, parse_float=_number, parse_int=_whole)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _whole(text: str) -> int:
    """A whole number that a float can hold, as every number that is written has to be."""
    _number(text)
    return int(text)


def damaged(path: Path, why: str, do: str = REDONE) -> UserError:
    """The error for a file of our own that is not as it was written."""
    return UserError(f"{path} is damaged ({why})", "a file coinseg wrote", do)


def require_file(path: Path) -> None:
    """Raise `UserError` for a pipe, a device or a folder, of which a reader might wait for ever or never see the end."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise UserError(f"{path} is a pipe, a device or a folder", "a file", "remove it, or put the file in its place")


def read_yaml(path: Path, *keys: str) -> dict[str, Any]:
    """Read a mapping of plain values from YAML.

    Raises:
        UserError: it is no mapping, lacks one of the keys, has tags (which make objects) or aliases (which can fill the memory).
    """
    import yaml

    try:
        value = plain_yaml(_text(path, MAX_YAML))
        if not isinstance(value, dict) or not set(keys) <= value.keys():
            raise ValueError(f"it is no mapping with {' and '.join(keys)}" if keys else "it is no mapping")
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        why = "nested too deeply" if isinstance(error, RecursionError) else str(getattr(error, "problem", None) or error)
        raise UserError(f"{path} cannot be read as settings ({why})", "YAML of plain values", "mend the file") from error
    return value


def plain_yaml(text: str) -> Any:
    """The plain values of a YAML text; `ValueError` for aliases, `YAMLError` for other faults and tags that make objects."""
    import yaml

    if text.count("[") + text.count("{") > MAX_BRACKETS:
        raise RecursionError
    if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text, Loader=yaml.SafeLoader)):
        raise ValueError("it has aliases")
    return yaml.safe_load(text)


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def _number(text: str) -> float:
    value = float(text)  # 1e999 is infinite
    return value if math.isfinite(value) else float(_no_number(text[:40]))


def _text(path: Path, most: int) -> str:
    """Read a text file; `ValueError` for more than `most` bytes and for bytes that are no UTF-8."""
    require_file(path)
    if path.stat().st_size > most:
        raise ValueError(f"{path.stat().st_size} bytes, more than the {most} expected")
    return path.read_text(encoding="utf-8")


def safe_cell(value: Any) -> Any:
    """Put a quote before text that a spreadsheet would run as a formula; numbers stay as they are, also as text."""
    formula = isinstance(value, str) and value.startswith(FORMULA) and not re.fullmatch(NUMBER, value)
    return f"'{value}" if formula else value


def csv_text(rows: Iterable[Sequence[Any]]) -> str:
    """Return rows as CSV text, every cell a `safe_cell`."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([safe_cell(cell) for cell in row] for row in rows)
    return text.getvalue()


def remove_leftovers(folder: Path) -> None:
    """Remove the partial files of killed processes, of whatever process id, below a folder that the caller has `locked`."""
    for part in [path for path in folder.rglob(f"{PART}*") if _HALF.match(path.name)]:
        _remove(part)


def holds_nothing(folder: Path) -> bool:
    """Return whether a folder holds nothing but lock and partial files of a killed command."""
    return not any(not _HALF.match(path.name) and path.name != LOCK for path in folder.iterdir())


@contextmanager
def directory_written_aside(path: Path) -> Iterator[Path]:
    """Yield an empty sibling directory that replaces `path` when the block succeeds; partial files of killed processes go.

    `path` is always the old directory, the new one, or (for an instant) missing. The caller must hold it (`locked`, `claimed`).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = _aside(path)
    old = part.with_name(f"{part.name}.old")
    remove_parts_of(path)
    part.mkdir()
    try:
        yield part
        _sync(part)
        ledger.admit(part, path)
        if path.exists():
            os.replace(path, old)
        os.replace(part, path)
        with suppress(OSError):
            _sync_entry(path.parent)
    finally:
        if old.exists() and not path.exists():
            os.replace(old, path)
        _remove(part)
        _remove(old)


def remove_parts_of(path: Path) -> None:
    """Remove the partial files that killed processes left of one file or folder."""
    for other in path.parent.iterdir():
        if re.fullmatch(rf"{re.escape(PART)}\d+-{re.escape(path.name)}(\.old)?", other.name):
            _remove(other)


def require_room(folder: Path, needed: int, what: str) -> None:
    """Raise `UserError` when the disk of `folder` has less than `needed` bytes free for `what`."""
    free = shutil.disk_usage(next(place for place in (folder, *folder.parents) if place.exists())).free
    if free < needed:
        got = f"{needed / 1e9:.2f} GB are needed for {what} in {folder} and {free / 1e9:.2f} GB are free"
        raise UserError(got, "room on the disk", "free some space or choose another output folder")
