"""Whose a file is: coinseg's own where its content is what was noted before it was moved into place, else somebody's.

A command keeps a `Ledger` of its outputs (docs/decisions/0006-nothing-lost.md); `files` asks it before every move and removal.
"""

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from coinseg.errors import UserError

RECORD = "outputs.sha256"
"""The ledger of a run folder, lines as of `sha256sum`; with a number before its end that of another process while it works."""
_LINE = re.compile(r"([0-9a-f]{64})  (.+)")
Noted = tuple[str, str]
_kept: list["Ledger"] = []


def digest_of(path: Path) -> str | None:
    """SHA-256 of a file, or of the names and hashes of all files of a folder; None for a link, a pipe and what is missing."""
    if path.is_symlink() or not (path.is_file() or path.is_dir()):
        return None
    if path.is_dir():
        lines = [f"{digest_of(entry)}  {entry.name}" for entry in sorted(path.iterdir())]
        return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Ledger:
    """What this command and earlier ones wrote at or below some `places`.

    Args:
        root: names are relative to it.
        places: files and folders; what lies elsewhere is not asked about.
        overwrite: whether what is somebody's may be replaced.
        known: names and digests that were noted before.
        note: called with a name and a digest before a file is moved into place; it must keep them.
        but: places that are no outputs: the files the ledger is kept in.
    """

    def __init__(
        self, root: Path, places: Iterable[Path], overwrite: bool, known: Iterable[Noted] = (),
        note: Callable[[str, str], object] = lambda name, digest: None, but: Iterable[Path] = (),
    ) -> None:  # fmt: skip
        self._root, self._note, self.overwrite = os.path.abspath(root), note, overwrite
        self._places, self._but = ([Path(os.path.abspath(path)) for path in paths] for paths in (places, but))
        self._known: dict[str, dict[str, None]] = {}
        self.add(known)

    def add(self, known: Iterable[Noted]) -> None:
        """Take over what others noted; the last of a name is the last that was written."""
        for name, digest in known:
            self._known.setdefault(name, {}).pop(digest, None)
            self._known[name][digest] = None

    def _name(self, path: Path) -> str:
        return Path(os.path.relpath(path, self._root)).as_posix()

    def covers(self, path: Path) -> bool:
        """Whether a path is an output."""
        place = Path(os.path.abspath(path))
        return place not in self._but and any(place.is_relative_to(each) for each in self._places)

    def noted(self, path: Path) -> bool:
        """Whether a file of this name was written."""
        return self._name(path) in self._known

    def is_own(self, path: Path) -> bool:
        """Whether a file or folder is as it was written; a folder also where everything in it is."""
        noted = self._known.get(self._name(path))
        if noted and digest_of(path) in noted:
            return True
        return path.is_dir() and not path.is_symlink() and all(map(self.is_own, path.iterdir()))

    def may_replace(self, path: Path) -> bool:
        """Whether there is nothing, nothing of somebody else, or `overwrite`."""
        return self.overwrite or not os.path.lexists(path) or self.is_own(path)

    def require_own(self, path: Path) -> None:
        """Raise `UserError` where something of somebody else would be replaced."""
        if not self.may_replace(path):
            first = next((f for f in sorted(path.rglob("*")) if not f.is_dir() and not self.is_own(f)), path)
            do = "move it elsewhere, choose another -o, or give --overwrite"
            raise UserError(f"{first} exists and is not what coinseg wrote there", "a file of its own, as it was written", do)

    def admit(self, part: Path, path: Path) -> None:
        """Note that `part` is about to be moved to `path`; `UserError` where that would replace something of somebody else."""
        self.require_own(path)
        if digest := digest_of(part):
            self.add([(self._name(path), digest)])
            self._note(self._name(path), digest)

    def settled(self) -> dict[str, str]:
        """The digest of every output that is there, as it was written last, by name."""
        found = {}
        for name, digests in sorted(self._known.items()):
            if os.path.lexists(place := Path(self._root, name)):
                last = next(reversed(digests))
                found[name] = last if len(digests) == 1 or (own := digest_of(place)) not in digests else str(own)
        return found


@contextmanager
def kept(ledger: Ledger) -> Iterator[Ledger]:
    """Ask a ledger about every file that is written or discarded while the block lasts."""
    _kept.append(ledger)
    try:
        yield ledger
    finally:
        _kept.remove(ledger)


def require_own(path: Path) -> None:
    """Raise `UserError` where a ledger that is kept says that a path is somebody's."""
    for ledger in _kept:
        if ledger.covers(path):
            ledger.require_own(path)


def admit(part: Path, path: Path) -> None:
    """Tell the ledgers that are kept that `part` is about to be moved to `path`."""
    for ledger in _kept:
        if ledger.covers(path):
            ledger.admit(part, path)


def lines_of(file: Path) -> list[Noted]:
    """What was noted in a file; a last line cut short by a kill is left out."""
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines() if file.is_file() else []
    found = [match for line in lines if (match := _LINE.fullmatch(line))]
    return [(match[2].encode("ascii", "replace").decode("unicode_escape", "replace"), match[1]) for match in found]


def line(name: str, digest: str) -> str:
    """A line as `lines_of` reads it: of ASCII alone."""
    return f"{digest}  {name.encode('unicode_escape').decode()}\n"


def appended(file: Path) -> Callable[[str, str], None]:
    """A `note` that adds a line to a file and waits until it is on the disk."""

    def note(name: str, digest: str) -> None:
        with file.open("a", encoding="utf-8") as lines:
            lines.write(line(name, digest))
            lines.flush()
            os.fsync(lines.fileno())

    return note


def records_in(folder: Path) -> list[Path]:
    """The files in which processes noted what they wrote in a folder."""
    return sorted(path for path in folder.iterdir() if re.fullmatch(r"outputs(-\d+)?\.sha256", path.name))
