"""Who may write where: one command at a time at an output, and none into an input (docs/decisions/0006-nothing-lost.md)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from coinseg.errors import UserError

from .files import LOCK, read_json, remove_leftovers, remove_parts_of, write_json


@contextmanager
def _held(file: Path, place: Path) -> Iterator[None]:
    """Hold a lock file for this process; the folders made for it go again when nothing came into them."""
    from filelock import FileLock, Timeout

    missing = [folder for folder in file.parents if not folder.exists()]
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(file, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise UserError(
            f"another coinseg is writing to {place}", "one at a time", "wait until it has ended, or choose another -o"
        ) from error
    try:
        yield
    finally:
        lock.release()
        for folder in missing:
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold `folder` (made where it is missing) for this process; the system lets go of it however the process ends.

    What killed processes left half-written in it is removed.

    Raises:
        UserError: another process holds it.
    """
    file = folder / LOCK
    with _held(file, folder):
        try:
            remove_leftovers(folder)
            yield
        finally:
            file.unlink(missing_ok=True)  # still held: whoever comes now makes a new one


@contextmanager
def owned(folder: Path, name: str, of: dict[str, Any], overwrite: bool) -> Iterator[None]:
    """Hold a folder as `locked` does, and say in its file `name` what it is `of`, so that whatever is in it is of that.

    Raises:
        UserError: it is a file, there is something else in it, or it is of something else and `overwrite` is not set.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file", "a folder for those of a folder", "choose another --confidence")
    with locked(folder):
        made = read_json(folder / name) if (folder / name).exists() else None
        full = any(path.name not in (name, LOCK) for path in folder.iterdir())
        if full and made is None:
            raise UserError(f"{folder} has something else in it", "an empty folder, or none", "choose another --confidence")
        if full and made != of and not overwrite:
            raise UserError(
                f"{folder} is of other masks", "a folder of its own", "choose another --confidence, or give --overwrite"
            )
        write_json(folder / name, of)
        yield


class Claim:
    """Places that one command holds.

    Args:
        file: the lock; once the command moves its outputs into place their names stand in it, so that after a kill in between the
            same command may replace its own.
        places: of the outputs.
        overwrite: whether what lies there may be replaced.
    """

    def __init__(self, file: Path, places: Sequence[Path], overwrite: bool) -> None:
        self.file, self.places = file, [place.absolute() for place in places]
        self.names = [str(place) for place in self.places]
        left = file.read_text(encoding="utf-8").splitlines()
        unfinished, self._left = left == self.names, bool(left)
        self.may_replace = overwrite or unfinished
        """Whether what lies at the places may be replaced: it was asked for, or is what this very command left when it was killed."""
        self._before = self._there()

    def begin(self) -> None:
        """From here on outputs are moved into place."""
        self.file.write_text("\n".join(self.names), encoding="utf-8")
        self.may_replace = True

    def _there(self) -> list[int | None]:
        return [place.stat().st_ino if place.exists() else None for place in self.places]

    def end(self, well: bool) -> None:
        """Take the names back: of what was made, or where nothing was moved and no killed command had left any."""
        if well or (not self._left and self._there() == self._before):
            self.file.unlink(missing_ok=True)


@contextmanager
def claimed(*places: Path, overwrite: bool = False) -> Iterator[Claim]:
    """Hold the outputs, files or a folder, that one command makes whole and moves into place; see `Claim`.

    Raises:
        UserError: another process holds the first of them.
    """
    file = places[0].with_name(f"{LOCK}-{places[0].name}")
    with _held(file, places[0]):
        claim = Claim(file, places, overwrite)
        well = False
        try:
            for place in places:
                if place.parent.is_dir():
                    remove_parts_of(place)
            yield claim
            well = True
        finally:
            claim.end(well)


def require_apart(outputs: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Raise `UserError` where an output would replace an input or lie inside one."""
    theirs = {path.resolve(): path for path in inputs}
    for out in outputs:
        place = out.resolve()
        if met := next((path for path in (place, *place.parents) if path in theirs), None):
            raise UserError(
                f"{out} {'is' if met == place else 'lies inside'} the input {theirs[met]}",
                "an output elsewhere",
                "choose another -o",
            )
