"""Locks on outputs: one command at a time writes to one, and none into an input (docs/decisions/0006-nothing-lost.md)."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from coinseg.errors import UserError

from .files import LOCK, json_or_none, remove_leftovers, remove_parts_of, write_json, write_text
from .ledger import RECORD, Ledger, appended, kept, line, lines_of, records_in


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
    require_free(folder, name)
    with locked(folder):
        require_free(folder, name)
        record = json_or_none(folder / name) if (folder / name).exists() else {}
        if not isinstance(record, dict):
            raise UserError(f"coinseg did not write {folder / name}", "a folder of its own", "choose another --confidence")
        if record and not overwrite and {key: record.get(key) for key in of} != of:
            do = "choose another --confidence, or give --overwrite"
            raise UserError(f"{folder} is of other masks", "a folder of its own", do)
        write_json(folder / name, record | of)
        yield


def require_free(folder: Path, name: str) -> None:
    """Raise `UserError` for a file, and for a folder that has something else in it than what its file `name` records."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file", "a folder for those of a folder", "choose another --confidence")
    if folder.exists() and not (folder / name).exists() and any(path.name != LOCK for path in folder.iterdir()):
        raise UserError(f"{folder} has something else in it", "an empty folder, or none", "choose another --confidence")


@contextmanager
def claimed(*places: Path, overwrite: bool = False) -> Iterator[Ledger]:
    """Lock outputs that are moved into place whole; `UserError` where another process holds the first of them.

    The lock file is their ledger, and stays after a kill: the same command may then replace what it had written, and only that.
    """
    file = places[0].with_name(f"{LOCK}-{places[0].name}")
    with _held(file, places[0]):
        claim = Ledger(file.parent, places, overwrite, lines_of(file), appended(file))
        well = False
        try:
            for place in places:
                if place.parent.is_dir():
                    remove_parts_of(place)
            with kept(claim):
                yield claim
            well = True
        finally:
            if well or not any(claim.noted(place) and claim.is_own(place) for place in places):
                file.unlink(missing_ok=True)


@contextmanager
def recorded(folder: Path, names: Sequence[str], overwrite: bool, rank: int = 0) -> Iterator[None]:
    """Keep the ledger of the outputs `names` of a folder that the first process has `locked`; that one settles it at the end."""

    def ledger() -> Ledger:
        known = [noted for record in records_in(folder) for noted in lines_of(record)]
        file = folder / (f"outputs-{rank}.sha256" if rank else RECORD)
        return Ledger(folder, [folder / name for name in names], overwrite, known, appended(file))

    with kept(ledger()):
        yield
    if not rank and (records := records_in(folder)):
        write_text(folder / RECORD, "".join(line(*noted) for noted in ledger().settled().items()))
        for record in records:
            if record.name != RECORD:
                record.unlink()


def require_apart(outputs: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Raise `UserError` where an output would replace an input or lie inside one."""
    resolved = {path.resolve(): path for path in inputs}
    for out in outputs:
        place = out.resolve()
        if hit := next((path for path in (place, *place.parents) if path in resolved), None):
            got = f"{out} {'is' if hit == place else 'lies inside'} the input {resolved[hit]}"
            raise UserError(got, "an output elsewhere", "choose another -o")
