"""What a path to a scan stands for on disk: one file, a folder of DICOM files, a .zip of one, or one series in either.

    scan.nii.gz   scan.nrrd   scan.mha   scan.mhd       one volume
    FOLDER        FOLDER.zip                            DICOM files of any name, at any depth
    FOLDER#3      FOLDER.zip#3                          the series with the key 3 among several in it

Nothing of DICOM is decoded here, and a .zip is read in memory, member by member: nothing is ever unpacked onto the disk.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO

from coinseg.errors import UserError

from .limits import ARCHIVE_FREE, ARCHIVE_LIMIT, DEFLATE_LIMIT, MAX_BYTES, MAX_FILES

VOLUME_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd")
"""Endings of files that are one volume."""
ARCHIVE = ".zip"
SLICE_SUFFIXES = (".dcm", ".dicom", ".ima")
"""Endings of files that must be DICOM; of any other name those are that have DICOM's mark."""
Members = Mapping[str, Callable[[], IO[bytes]]]
"""Files of a scan by their name below its folder, each to be opened for reading."""
_PREAMBLE = 132
_OTHERS = (*VOLUME_SUFFIXES, ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".csv", ".json", ".txt", ".xml", ".raw", ".zraw")


def split_key(path: Path) -> tuple[Path, str | None]:
    """The file or folder a path stands for, and the key of the series behind a `#`, if any."""
    if "#" in path.name and not path.exists():
        name, _, key = path.name.rpartition("#")
        return path.with_name(name or "#"), key
    return path, None


def is_dicom(path: Path) -> bool:
    """Whether a path stands for DICOM files: one file, an archive, or a folder that has some at any depth."""
    place, _ = split_key(path)
    if place.name.lower().endswith(_OTHERS):
        return False
    if place.is_dir():
        return any(_is_member(place / name) for name in _names_in(place))
    return place.name.lower().endswith(ARCHIVE) or (place.is_file() and _is_member(place)) or _named_slice(place.name)


def holds_slices(folder: Path) -> bool:
    """Whether a folder has DICOM files itself, not in folders below."""
    return any(_is_member(path) for path in sorted(folder.iterdir()) if path.is_file() and not path.name.startswith("."))


def may_hold_slices(archive: Path) -> bool:
    """Whether a .zip has DICOM files among its first ones; also when it cannot be read, so that this is said."""
    try:
        with zipfile.ZipFile(archive) as file:
            names = [n for n in file.namelist() if _visible(n) and not n.lower().endswith(_OTHERS)]
            return any(_marked(n, partial(file.open, n)) for n in names[:20])
    except Exception:  # zipfile raises almost anything on bad bytes
        return True


def parts_of(path: Path) -> list[Path]:
    """The files on disk a scan is made of, sorted: several for a DICOM folder, two for a .mhd; none when it is missing."""
    place, _ = split_key(path)
    if place.is_dir():
        return [place / name for name in _names_in(place)]
    if place.suffix.lower() == ".mhd" and place.is_file():
        return sorted(file for file in {place, voxel_file(place)} if file.is_file())
    return [place] if place.is_file() else []


def sha256_of(path: Path) -> str | None:
    """SHA-256 of a file, as `sha256sum` prints it; of a scan of several files, of its lines `hash  name`; None if one is missing."""
    place, _ = split_key(path)
    lines = []
    try:
        for part in parts_of(path):
            with part.open("rb") as file:
                lines.append((hashlib.file_digest(file, "sha256").hexdigest(), part.relative_to(place.parent).as_posix()))
    except OSError:
        return None
    if len(lines) == 1 and not place.is_dir():
        return lines[0][0]
    return hashlib.sha256("".join(f"{found}  {name}\n" for found, name in lines).encode()).hexdigest() if lines else None


def voxel_file(header: Path) -> Path:
    """The file beside a .mhd that its header names; the .mhd itself when it names none that may be there."""
    with header.open("rb") as file:
        found = re.search(rb"(?m)^ElementDataFile *= *([^\r\n/\\%\0]+?) *\r?$", file.read(2**16))
    name = found[1].decode("utf-8", "replace") if found else ""
    named = name.upper() not in ("", "LOCAL", "LIST", ".", "..") and len(name.encode()) < 256
    return header.with_name(name) if named else header


def public_name(name: str) -> str:
    """The name of a file found in a folder, fit for a message: no folders, long numbers (dates, ids) cut short."""
    return re.sub(r"\d{6,}", lambda found: f"…{found[0][-3:]}", PurePosixPath(name).name)


@contextmanager
def members(place: Path) -> Iterator[Members]:
    """The DICOM files of a folder, an archive or a single file, in the order of their names.

    Raises:
        UserError: the place is missing, an archive is broken, locked or unsafe, or nothing in it is DICOM.
    """
    if place.is_dir():
        names = _names_in(place)
        _require_few(place, len(names))
        yield {name: _opener(place / name) for name in names if _is_member(place / name)}
    elif not place.is_file():
        raise UserError(f"{place} is missing", "a DICOM folder, a .zip of one or a volume", "correct the path")
    elif place.suffix.lower() == ARCHIVE:
        try:
            archive = zipfile.ZipFile(place)
        except Exception as error:  # as above
            raise UserError(f"{place} cannot be read as an archive", "an intact .zip", "copy or download it again") from error
        with archive:
            _require_safe(place, archive)
            yield _members_of(archive)
    else:
        yield {place.name: _opener(place)}


def _members_of(archive: zipfile.ZipFile) -> Members:
    names = sorted(i.filename for i in archive.infolist() if not i.is_dir() and _visible(i.filename))

    def unpacked(name: str) -> BinaryIO:
        # Never more than the size that was checked is unpacked: zipfile stops there, and its checksum must fit.
        return io.BytesIO(archive.read(name))

    dicom = [name for name in names if not name.lower().endswith(_OTHERS) and _marked(name, partial(archive.open, name))]
    return {name: partial(unpacked, name) for name in dicom}


def _require_safe(place: Path, archive: zipfile.ZipFile) -> None:
    """Raise `UserError` for an archive that points outside itself, is locked, or unpacks to absurd sizes."""
    infos = archive.infolist()
    _require_few(place, len(infos))
    outside = [
        i for i in infos if not i.filename or re.match(r"[/\\]|[A-Za-z]:", i.filename) or ".." in re.split(r"[/\\]", i.filename)
    ]
    if outside:
        raise UserError(f"{place} has {len(outside)} files that point outside of it", "a .zip of one folder", "pack it again")
    if any(info.flag_bits & 1 for info in infos):
        raise UserError(f"{place} is locked with a password", "an open .zip", "unpack it and give the folder")
    size, packed = sum(info.file_size for info in infos), place.stat().st_size
    most = DEFLATE_LIMIT if size <= ARCHIVE_FREE else ARCHIVE_LIMIT
    if size > MAX_BYTES or size > packed * most:
        raise UserError(
            f"{place} would unpack from {packed} to {size} bytes",
            f"at most {MAX_BYTES // 2**30} GiB and {most} times its own size",
            "pack one scan only, or unpack it and give the folder",
        )


def _require_few(place: Path, count: int) -> None:
    if count > MAX_FILES:
        raise UserError(f"{place} has {count} files", f"at most {MAX_FILES} for one scan", "give the folder of one scan")


def _names_in(folder: Path) -> list[str]:
    """Files at any depth by their name below the folder, sorted, hidden ones left out, and pipes, which keep their reader waiting."""
    found: list[Path] = []
    for place, below, names in os.walk(folder):
        below[:] = sorted(name for name in below if not name.startswith("."))
        found += [path for name in names if not name.startswith(".") and (path := Path(place, name)).is_file()]
    return sorted(path.relative_to(folder).as_posix() for path in found)


def _visible(name: str) -> bool:
    return not any(part.startswith(".") or part == "__MACOSX" for part in re.split(r"[/\\]", name))


def _is_member(path: Path) -> bool:
    return not path.name.lower().endswith(_OTHERS) and _marked(path.name, _opener(path))


def _named_slice(name: str) -> bool:
    return name.lower().endswith(SLICE_SUFFIXES)


def _marked(name: str, opener: Callable[[], IO[bytes]]) -> bool:
    """Whether a file is DICOM by its mark (4 letters behind 128 bytes), or must be by its name."""
    if _named_slice(name):
        return True
    try:
        with opener() as file:
            return file.read(_PREAMBLE)[-4:] == b"DICM"
    except Exception:  # of a member that cannot be unpacked, zipfile says almost anything
        return False


def _opener(path: Path) -> Callable[[], BinaryIO]:
    return lambda: path.open("rb")
