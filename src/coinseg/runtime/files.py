"""Files that are whole or absent: written beside their place and moved into it; keys that say what made them."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from coinseg.errors import UserError

MAX_YAML, MAX_JSON = 2**18, 2**30
"""Bytes: a file of settings has 5 KB, the index of a million masks half a gigabyte."""
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
"""How a cell begins that a spreadsheet may run (OWASP, CSV injection)."""
NUMBER = r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?"


def _plain(value: Any) -> Any:
    """NumPy's numbers as Python's, anything else JSON does not know as a word."""
    import numpy as np

    return value.item() if isinstance(value, np.generic) else str(value)


def key_of(value: Any) -> str:
    """A short hash of anything JSON can hold; equal values have equal keys on every machine."""
    text = json.dumps(value, sort_keys=True, default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


PART, LOCK = ".part-", ".lock"
_HALF = re.compile(rf"{re.escape(PART)}\d+-")


def _aside(path: Path) -> Path:
    # The suffixes are kept because writers choose their format (and compression) by them.
    return path.with_name(f"{PART}{os.getpid()}-{path.name}")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _onto_the_disk(path: Path) -> None:
    """Wait until a file, or a folder and all in it, is on the disk: a name must not outlive a power cut that its contents do not."""
    for each in (*path.rglob("*"), path) if path.is_dir() else (path,):
        with _opened(each) as number:
            try:
                os.fsync(number)
            except OSError:
                if not each.is_dir():  # some network disks know no fsync of a folder
                    raise


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    number = os.open(path, os.O_RDONLY)
    try:
        yield number
    finally:
        os.close(number)


def _sync_folder(folder: Path) -> None:
    with suppress(OSError), _opened(folder) as number:
        os.fsync(number)


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Yield a sibling path to write to; it is moved to `path` when the block ends well and removed when it does not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = _aside(path)
    try:
        yield part
        _onto_the_disk(part)
        os.replace(part, path)
        _sync_folder(path.parent)
    finally:
        _remove(part)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with written_aside(path) as part:
        # A file name that is not UTF-8 reaches Python as lone surrogates, which no file can be written with.
        part.write_text(text, encoding="utf-8", errors="replace", newline="")


def write_json(path: Path, value: Any) -> None:
    """Write JSON whole or not at all; NaN and infinity are refused because JSON has none."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False, default=_plain) + "\n")


def read_json(path: Path, *keys: str) -> Any:
    """Read JSON that coinseg wrote; `UserError` for anything else, and for an object without one of the keys."""
    try:
        value = json.loads(_text(path, MAX_JSON), parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        why = "nested too deeply" if isinstance(error, RecursionError) else error
        raise UserError(f"{path} is not readable as JSON ({why})", "a file coinseg wrote", "remove it and run again") from error
    if keys and not (isinstance(value, dict) and set(keys) <= value.keys()):
        missing = [key for key in keys if not isinstance(value, dict) or key not in value]
        raise UserError(f"{path} has no {missing[0]}", "a file coinseg wrote, whole", "take the folder as coinseg left it")
    return value


def read_yaml(path: Path, *keys: str) -> dict[str, Any]:
    """Read a mapping of plain values from YAML.

    Tags that make objects, and aliases, by which a small file can stand for any amount of memory, are refused with everything
    else that is no settings file; so is a mapping without one of the keys.
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
    """The plain values of a YAML text.

    Raises:
        ValueError: it has aliases.
        yaml.YAMLError: it is no YAML, or has tags that make objects.
    """
    import yaml

    if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text, Loader=yaml.SafeLoader)):
        raise ValueError("it has aliases")
    return yaml.safe_load(text)


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def _text(path: Path, most: int) -> str:
    """A text file of at most `most` bytes; `ValueError` for a longer one and for bytes that are no UTF-8."""
    if path.stat().st_size > most:
        raise ValueError(f"{path.stat().st_size} bytes, more than the {most} expected")
    return path.read_text(encoding="utf-8")


def safe_cell(value: Any) -> Any:
    """Text that a spreadsheet would run as a formula, made text again by a quote before it; numbers stay numbers, also as text."""
    formula = isinstance(value, str) and value.startswith(FORMULA) and not re.fullmatch(NUMBER, value)
    return f"'{value}" if formula else value


def csv_text(rows: Iterable[Sequence[Any]]) -> str:
    """A table for people and their spreadsheets, every cell a `safe_cell`."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([safe_cell(cell) for cell in row] for row in rows)
    return text.getvalue()


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left half-written below a folder, which the caller holds (`locked`): nobody else is at it.

    Whether the process of a name still runs is not asked: another one may have its number by now, or it was of another machine.
    """
    for part in list(folder.rglob(f"{PART}*")):
        if _HALF.match(part.name):
            _remove(part)


def holds_nothing(folder: Path) -> bool:
    """Whether there is nothing in a folder but what a command leaves that was killed before it wrote anything."""
    return not any(not _HALF.match(path.name) and path.name != LOCK for path in folder.iterdir())


@contextmanager
def directory_written_aside(path: Path) -> Iterator[Path]:
    """Yield an empty sibling directory; at a good end it takes the place of `path`, whatever was there before.

    What was there before is moved away whole and removed afterwards: `path` is the old folder, for an instant none, or the new one,
    never a part of one. The caller holds the place (`locked`, `claimed`); what killed ones left of it is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = _aside(path)
    old = part.with_name(f"{part.name}.old")
    remove_parts_of(path)
    part.mkdir()
    try:
        yield part
        _onto_the_disk(part)
        if path.exists():
            os.replace(path, old)
        os.replace(part, path)
        _sync_folder(path.parent)
    finally:
        if old.exists() and not path.exists():
            os.replace(old, path)
        _remove(part)
        _remove(old)


def remove_parts_of(path: Path) -> None:
    """Remove what killed processes left of one file or folder."""
    for other in path.parent.iterdir():
        if re.fullmatch(rf"{re.escape(PART)}\d+-{re.escape(path.name)}(\.old)?", other.name):
            _remove(other)


def require_room(folder: Path, needed: int, what: str) -> None:
    """Raise `UserError` when the disk that will hold `folder` has less than `needed` bytes free."""
    existing = folder
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise UserError(
            f"{needed / 1e9:.2f} GB are needed for {what} in {folder} and {free / 1e9:.2f} GB are free",
            "room on the disk",
            "free some space or choose another output folder",
        )
