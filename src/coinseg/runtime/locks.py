"""Locks on outputs: one command at a time writes to one, and none into an input (docs/decisions/0006-nothing-lost.md)."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from coinseg.errors import UserError

from .files import LOCK, read_json, remove_leftovers, remove_parts_of, write_json


@contextmanager
def _held(file: Path, place: Path) -> Iterator[None]:
    """Hold a lock file for this process; folders that were made for it are removed again when they stay empty."""
    from filelock import FileLock, Timeout

    missing = [folder for folder in file.parents if not folder.exists()]
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(file, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        do = "wait until it has ended, or choose another -o"
        raise UserError(f"another coinseg is writing to {place}", "one at a time", do) from error
    try:
        yield
    finally:
        lock.release()
        for folder in missing:
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock `folder` (made when missing; `UserError` if another process holds it) and remove partial files of killed processes."""
    file = folder / LOCK
    with _held(file, folder):
        try:
            remove_leftovers(folder)
            yield
        finally:
            file.unlink(missing_ok=True)  # still held, so the next process makes a new file


@contextmanager
def owned(folder: Path, name: str, of: dict[str, Any], overwrite: bool) -> Iterator[None]:
    """Lock a folder as `locked` does, and record in its file `name` what its files are `of`, with `overwrite` also anew.

    Raises:
        UserError: the folder is a file, has other files, or belongs to something else and `overwrite` is not set.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file", "a folder for those of a folder", "choose another --confidence")
    with locked(folder):
        record = read_json(folder / name) if (folder / name).exists() else None
        if any(path.name not in (name, LOCK) for path in folder.iterdir()):
            if record is None:
                raise UserError(f"{folder} has something else in it", "an empty folder, or none", "choose another --confidence")
            if record != of and not overwrite:
                do = "choose another --confidence, or give --overwrite"
                raise UserError(f"{folder} is of other masks", "a folder of its own", do)
        write_json(folder / name, of)
        yield


class Claim:
    """The outputs (`places`) that one command has locked by a lock file.

    The file lists them from `begin` on, so that after a kill the same command may replace them, as with `overwrite`.
    """

    def __init__(self, file: Path, places: Sequence[Path], overwrite: bool) -> None:
        self.file, self.places = file, [place.absolute() for place in places]
        listed = file.read_text(encoding="utf-8").splitlines()
        self._was_killed, self._before = bool(listed), self._inodes()
        self.may_replace = overwrite or listed == list(map(str, self.places))

    def begin(self) -> None:
        """Record that outputs are moved into place from now on."""
        self.file.write_text("\n".join(map(str, self.places)), encoding="utf-8")
        self.may_replace = True

    def _inodes(self) -> list[int | None]:
        return [place.stat().st_ino if place.exists() else None for place in self.places]

    def end(self, well: bool) -> None:
        """Remove the record after success (`well`), or when nothing was moved and no killed command had left one."""
        if well or (not self._was_killed and self._inodes() == self._before):
            self.file.unlink(missing_ok=True)


@contextmanager
def claimed(*places: Path, overwrite: bool = False) -> Iterator[Claim]:
    """Lock outputs (`Claim`) that are moved into place whole; `UserError` where another process holds the first of them."""
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
    resolved = {path.resolve(): path for path in inputs}
    for out in outputs:
        place = out.resolve()
        if hit := next((path for path in (place, *place.parents) if path in resolved), None):
            got = f"{out} {'is' if hit == place else 'lies inside'} the input {resolved[hit]}"
            raise UserError(got, "an output elsewhere", "choose another -o")
