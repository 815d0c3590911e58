"""The files behind the path of a scan: one file, a folder of DICOM files, a .zip of one, or one series in either.

scan.nii.gz   scan.nrrd   scan.mha   scan.mhd       one volume
FOLDER        FOLDER.zip                            DICOM files of any name, at any depth
FOLDER#3      FOLDER.zip#3                          the series with the key 3 among several in it
"""

import hashlib
import io
import os
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Literal

from coinseg.errors import UserError

from .limits import ARCHIVE_FREE, ARCHIVE_LIMIT, DEFLATE_LIMIT, MAX_BYTES, MAX_FILES

VOLUME_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd")  # suffixes of files that are one volume
ARCHIVE = ".zip"
SLICE_SUFFIXES = (".dcm", ".dicom", ".ima")  # files that must be DICOM; others are DICOM when they have its mark
_BARE = re.compile(rb"[\x02\x08]\0.\0(?:[A-Z]{2}|[\0-\x40]\0\0\0)", re.DOTALL)  # group, element; type or a short length
_SOP_CLASS = b"\x08\0\x16\0"  # the tag SOPClassUID
_SYSTEM = ("__macosx", "@eadir", "#recycle", "#snapshot", "$recycle.bin", "system volume information", "lost+found")
"""Folders that a Mac, a NAS and Windows leave among data: previews, deleted files and the like, never somebody's images."""
Kind = Literal["", "image", "slice", "volume", "other"]
Members = Mapping[str, Callable[[], IO[bytes]]]  # files by their name below the scan's folder, each with what opens it
_OTHERS = (*VOLUME_SUFFIXES, ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".csv", ".json", ".txt", ".xml", ".raw", ".zraw")


def is_hidden(name: str) -> bool:
    """Return whether a name is that of a hidden file, or of a folder that a system made."""
    return name.startswith(".") or name.lower() in _SYSTEM


def split_key(path: Path) -> tuple[Path, str | None]:
    """Return the file or folder of a path, and the key of the series after a `#`, if any."""
    if "#" in path.name and not path.exists():
        name, _, key = path.name.rpartition("#")
        return path.with_name(name or "#"), key
    return path, None


def is_dicom(path: Path) -> bool:
    """Return whether a path is one DICOM file, an archive, or a folder with DICOM files at any depth."""
    place, _ = split_key(path)
    name = place.name.lower()
    if not name.endswith(_OTHERS) and place.is_dir():
        return any(_is_member(place / name) for name in _names_in(place))
    return name.endswith((ARCHIVE, *SLICE_SUFFIXES)) or is_dicom_file(place)


def is_dicom_file(path: Path) -> bool:
    """Return whether a path is one DICOM file, by its name or its mark."""
    return path.is_file() and _is_member(path)


def kind_of(path: Path) -> Kind:
    """Return what a file is: "" for no DICOM file, "image" for a plain image such as an X-ray, "slice" for one axial slice,
    "volume" for anything else with pixels or an unreadable file, "other" for a report and the like.
    """
    if not is_dicom_file(path):
        return ""
    from .dicom_tags import kind_of_file  # pydicom is imported only when it is needed

    return kind_of_file(path)


def holds_slices(folder: Path) -> bool:
    """Return whether a folder itself, not only a folder below, has DICOM files that are slices; plain images are none.

    A DICOMDIR, a report or the like beside folders with DICOM files is none either: a CD has one above all of its series.
    """
    entries, kinds = sorted(path for path in folder.iterdir() if not is_hidden(path.name)), {""}
    for path in entries:
        if (kind := kind_of(path)) in ("slice", "volume"):
            return True
        kinds.add(kind)
    return "other" in kinds and "image" not in kinds and not any(path.is_dir() and is_dicom(path) for path in entries)


def may_hold_slices(archive: Path) -> bool:
    """Return whether a .zip has DICOM among its first 20 files; also when it is unreadable, so that an error says so."""
    try:
        with zipfile.ZipFile(archive) as file:
            names = [n for n in file.namelist() if _visible(n) and not n.lower().endswith(_OTHERS)]
            return any(_marked(n, partial(file.open, n)) for n in names[:20])
    except Exception:  # zipfile raises almost anything on bad bytes
        return True


def parts_of(path: Path) -> list[Path]:
    """Return the files of a scan, sorted: several for a DICOM folder, two for a .mhd; none when it is missing."""
    place, _ = split_key(path)
    if place.is_dir():
        return [place / name for name in _names_in(place)]
    if place.suffix.lower() == ".mhd" and place.is_file():
        return sorted(file for file in {place, voxel_file(place)} if file.is_file())
    return [place] if place.is_file() else []


def sha256_of(path: Path) -> str | None:
    """Return the SHA-256 of a file, or of the lines that `sha256sum` prints for several files; None if one is missing."""
    place, _ = split_key(path)
    digests = {}
    try:
        for part in parts_of(path):
            with part.open("rb") as file:
                digests[part.relative_to(place.parent).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None
    if len(digests) == 1 and not place.is_dir():
        return next(iter(digests.values()))
    lines = "".join(f"{digest}  {name}\n" for name, digest in digests.items())
    return hashlib.sha256(lines.encode()).hexdigest() if lines else None


def voxel_file(header: Path) -> Path:
    """Return the file beside a .mhd that its header names; the .mhd itself when it names no possible file or is unreadable."""
    try:
        with header.open("rb") as file:
            match = re.search(rb"(?m)^ElementDataFile *= *([^\r\n/\\%\0]+?) *\r?$", file.read(2**16))
    except OSError:  # whoever reads the scan says it
        return header
    name = match[1].decode("utf-8", "replace") if match else ""
    named = name.upper() not in ("", "LOCAL", "LIST", ".", "..") and len(name.encode()) < 256
    return header.with_name(name) if named else header


def public_name(name: str) -> str:
    """Return the name of a file for a message, without folders and with long numbers (dates, ids) cut to three digits."""
    return re.sub(r"\d{6,}", lambda match: f"…{match[0][-3:]}", PurePosixPath(name).name)


@contextmanager
def members(place: Path) -> Iterator[Members]:
    """Open the DICOM files of a folder, an archive or a single file, in the order of their names.

    A .zip is read in memory, never unpacked to the disk; `UserError` when it is broken, locked or unsafe.
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
        except Exception as error:
            raise UserError(f"{place} cannot be read as an archive", "an intact .zip", "copy or download it again") from error
        with archive:
            _require_safe(place, archive)
            yield _members_of(archive)
    else:
        yield {place.name: _opener(place)}


def _members_of(archive: zipfile.ZipFile) -> Members:
    names = sorted(i.filename for i in archive.infolist() if not i.is_dir() and _visible(i.filename))
    dicom = [name for name in names if not name.lower().endswith(_OTHERS) and _marked(name, partial(archive.open, name))]
    # zipfile unpacks at most the size that was checked, and checks the checksum.
    return {name: lambda name=name: io.BytesIO(archive.read(name)) for name in dicom}  # type: ignore[misc]


def _require_safe(place: Path, archive: zipfile.ZipFile) -> None:
    """Raise `UserError` for an archive that points outside itself, is locked, or unpacks to absurd sizes."""
    infos = archive.infolist()
    _require_few(place, len(infos))
    names = [info.filename for info in infos]
    if outside := sum(not n or bool(re.match(r"[/\\]|[A-Za-z]:", n)) or ".." in re.split(r"[/\\]", n) for n in names):
        raise UserError(f"{place} has {outside} files that point outside of it", "a .zip of one folder", "pack it again")
    if any(info.flag_bits & 1 for info in infos):
        raise UserError(f"{place} is locked with a password", "an open .zip", "unpack it and give the folder")
    size, packed = sum(info.file_size for info in infos), place.stat().st_size
    most = DEFLATE_LIMIT if size <= ARCHIVE_FREE else ARCHIVE_LIMIT
    if size > MAX_BYTES or size > packed * most:
        got, required = (
            f"{place} would unpack from {packed} to {size} bytes",
            f"at most {MAX_BYTES // 2**30} GiB and {most} times",
        )
        raise UserError(got, f"{required} its own size", "pack one scan only, or unpack it and give the folder")


def _require_few(place: Path, count: int) -> None:
    if count > MAX_FILES:
        raise UserError(f"{place} has {count} files", f"at most {MAX_FILES} for one scan", "give the folder of one scan")


def _names_in(folder: Path) -> list[str]:
    """Return the names of files at any depth, sorted, without hidden files and pipes (which block a reader)."""
    files: list[Path] = []
    for place, below, names in os.walk(folder):
        below[:] = sorted(name for name in below if not is_hidden(name))
        files += [path for name in names if not is_hidden(name) and (path := Path(place, name)).is_file()]
    return sorted(path.relative_to(folder).as_posix() for path in files)


def _visible(name: str) -> bool:
    return not any(map(is_hidden, re.split(r"[/\\]", name)))


def _is_member(path: Path) -> bool:
    return not path.name.lower().endswith(_OTHERS) and _marked(path.name, _opener(path))


def _marked(name: str, opener: Callable[[], IO[bytes]]) -> bool:
    """Return whether a file is DICOM by its name, its mark (4 letters after 128 bytes), or the first tag of one without."""
    if name.lower().endswith(SLICE_SUFFIXES):
        return True
    try:
        with opener() as file:
            start = file.read(1024)
            return start[128:132] == b"DICM" or bool(_BARE.match(start) and _SOP_CLASS in start)
    except Exception:  # zipfile raises almost anything on a broken member
        return False


def _opener(path: Path) -> Callable[[], IO[bytes]]:
    return lambda: path.open("rb")
