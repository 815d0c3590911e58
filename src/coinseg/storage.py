"""Files that are whole or absent: written beside their place and moved into it; keys that say what made them."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import UserError


def _plain(value: Any) -> Any:
    """NumPy's numbers as Python's, anything else JSON does not know as a word."""
    import numpy as np

    return value.item() if isinstance(value, np.generic) else str(value)


def key_of(value: Any) -> str:
    """A short hash of anything JSON can hold; equal values have equal keys on every machine."""
    text = json.dumps(value, sort_keys=True, default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Yield a sibling path to write to; it is moved to `path` when the block ends well and removed when it does not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffixes are kept because writers choose their format (and compression) by them.
    part = path.with_name(f".part-{os.getpid()}-{path.name}")
    try:
        yield part
        os.replace(part, path)
    finally:
        if part.is_dir():
            shutil.rmtree(part)
        else:
            part.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with written_aside(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write JSON whole or not at all; NaN and infinity are refused because JSON has none."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False, default=_plain) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON; a file that is not JSON is a `UserError`."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not readable as JSON ({error})", "a file coinseg wrote", "remove it and run again") from error


def _running(pid: int) -> bool:
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def remove_leftovers(folder: Path) -> None:
    """Remove the half-written files that killed processes left below a folder."""
    for part in list(folder.rglob(".part-*")):
        found = re.match(r"\.part-(\d+)-", part.name)
        if found and part.is_file() and not _running(int(found[1])):
            part.unlink()


@contextmanager
def directory_written_aside(path: Path) -> Iterator[Path]:
    """Yield an empty sibling directory; at a good end it takes the place of `path`, whatever was there before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for other in path.parent.iterdir():
        found = re.fullmatch(rf"\.part-(\d+)-{re.escape(path.name)}", other.name)
        if found and other.is_dir() and not _running(int(found[1])):
            shutil.rmtree(other)  # left by a process that was killed
    part = path.with_name(f".part-{os.getpid()}-{path.name}")
    part.mkdir()
    try:
        yield part
        if path.exists():
            shutil.rmtree(path)
        os.replace(part, path)
    finally:
        if part.exists():
            shutil.rmtree(part)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold `folder` (made where it is missing) for this process; the system lets go of it however the process ends.

    Raises:
        UserError: another process holds it.
    """
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    file = folder / ".lock"
    lock = FileLock(file, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise UserError(
            f"another coinseg is writing to {folder}", "one at a time", "wait until it has ended, or choose another -o"
        ) from error
    try:
        yield
    finally:
        file.unlink(missing_ok=True)  # still held: whoever comes now makes a new one
        lock.release()
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()  # refused before anything was written


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
