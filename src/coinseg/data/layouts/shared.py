"""What all layouts share: visible files in a folder, ids and patients of cases, and names in error lines."""

import difflib
import hashlib
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path, PurePath

from coinseg.config.schema import DataSettings
from coinseg.data.readers.image import IMAGE_SUFFIXES, is_image
from coinseg.data.readers.paths import (
    ARCHIVE,
    SLICE_SUFFIXES,
    VOLUME_SUFFIXES,
    holds_slices,
    is_dicom,
    is_dicom_file,
    is_hidden,
    kind_of,
    may_hold_slices,
    split_key,
)
from coinseg.errors import UserError
from coinseg.types import Case, Cohort

_DEEPEST = 32  # folders of a path that are looked for in another case
_LONGEST = 140  # bytes of an id: with the endings of outputs it must still be a file name (255)


def require_there(root: Path) -> None:
    """Raise `UserError` for data that are not there."""
    if not root.exists():
        raise UserError(f"{root} does not exist", "a folder or a .csv file", "correct the path")


def visible(folder: Path) -> list[Path]:
    """Return the entries of a folder, sorted, without hidden ones; empty for anything else."""
    return sorted(path for path in folder.iterdir() if not is_hidden(path.name)) if folder.is_dir() else []


def folders_in(folder: Path) -> list[Path]:
    """Return the visible folders in a folder, sorted."""
    return [path for path in visible(folder) if path.is_dir()]


def files_in(folder: Path) -> list[Path]:
    """Return images and volumes at any depth, sorted; a folder below `folder` or a .zip with DICOM slices is one volume.

    DICOM files in `folder` itself, and DICOM images such as X-rays anywhere, are taken one by one.
    """
    return sorted(path for path, is_read in _walked(folder) if is_read)


def others_in(folder: Path, read: Iterable[Path]) -> list[Path]:
    """Return visible files at any depth that are neither `read` nor in such a folder nor, by their name, readable; sorted."""
    known = {split_key(path)[0] for path in read}
    left = [(path, is_read) for path, is_read in _walked(folder, known.__contains__) if path not in known]
    return sorted(path for path, is_read in left if not is_read or is_dicom_file(path))


def is_readable(path: Path) -> bool:
    """Return whether a file is an image or a volume, by its name or as DICOM, or a .zip of DICOM files."""
    by_name = is_image(path) or path.name.lower().endswith(VOLUME_SUFFIXES) or kind_of(path) in ("slice", "volume")
    return by_name or (path.suffix.lower() == ARCHIVE and path.is_file() and may_hold_slices(path))


def _walked(folder: Path, is_series: Callable[[Path], bool] = holds_slices) -> Iterator[tuple[Path, bool]]:
    """Yield visible files and folders that are a series at any depth, and whether they are readable."""
    visited = {folder.resolve()}  # links may lead in circles
    for place, below, names in os.walk(folder, followlinks=True):
        below[:] = [name for name in below if not is_hidden(name) and not _is_repeated(Path(place, name), visited)]
        yield from ((path, is_readable(path)) for name in names if not is_hidden(name) and (path := Path(place, name)))
        series = [name for name in below if is_series(Path(place, name))]
        yield from ((Path(place, name), True) for name in series)
        below[:] = [name for name in below if name not in series]


def _is_repeated(folder: Path, visited: set[Path]) -> bool:
    """Return whether a folder is a link to a visited one; it counts as visited from now on."""
    target = folder.resolve()
    known = target in visited
    visited.add(target)
    return known and folder.is_symlink()


def organ_root(root: Path, settings: DataSettings) -> Path | None:
    """Return the folder of `data.organ_from`: as given, or relative to the data."""
    if settings.organ_from is None:
        return None
    for folder in (Path(settings.organ_from).expanduser(), root / settings.organ_from):
        if folder.is_dir():
            return folder
    raise UserError(f"data.organ_from {settings.organ_from} is no folder", "a folder of organ masks", "correct data.organ_from")


def is_value(text: str) -> bool:
    """Return whether a text is a label value: decimal digits, fewer than 10, which Python reads without a limit of its own."""
    return text.isdecimal() and len(text) < 10


def patient_of(image: Path, default: str, tag: str = "PatientID") -> str:
    """Return the patient that a DICOM scan names (hashed, see `dicom.patient_of`); `default` for anything else."""
    if not is_dicom(image):
        return default
    from coinseg.data.readers.dicom import patient_of as hashed

    return hashed(image, default, tag)


def told_apart(cohort: Cohort) -> Cohort:
    """Take every study for a patient, and say so, where all DICOM files have one PatientID, as anonymisation leaves it."""
    cases = cohort.cases
    if len({case.patient for case in cases}) != 1 or cases[0].patient != patient_of(cases[0].image, ""):
        return cohort
    cases = tuple(replace(case, patient=patient_of(case.image, case.id, "StudyInstanceUID")) for case in cases)
    if len({case.patient for case in cases}) == 1:
        return cohort
    what = "all DICOM files have one PatientID, as anonymisation leaves it: every study counts as a patient (no column patient)"
    return replace(cohort, cases=cases, problems=(*cohort.problems, what))


def with_label(case: Case, label: int | None) -> Case:
    """Give a case the label of its file: of one axial DICOM slice it is the label of that slice, not of a scan."""
    if case.volume and kind_of(case.image) == "slice":
        return replace(case, label=None, slice_labels={} if label is None else {0: label})
    return replace(case, label=label)


def own_patients(cases: Iterable[Case]) -> str:
    """Describe, for a problem line, the patients of cases that no table gives a patient."""
    hashed = any(case.patient != case.id for case in cases)
    return "every file is its own patient" + (", but DICOM names them (kept as a hash of PatientID)" if hashed else "")


def stem_of(path: PurePath) -> str:
    """Return the name without its image or volume suffix."""
    low = path.name.lower()
    suffixes = (*VOLUME_SUFFIXES, ARCHIVE, *SLICE_SUFFIXES, *IMAGE_SUFFIXES)
    return path.name[: -len(next((s for s in suffixes if low.endswith(s)), "")) or None]


def composed(text: str) -> str:
    """Return a text in Unicode's composed form (NFC): a Mac writes the same names decomposed."""
    return unicodedata.normalize("NFC", text)


def without_suffix(path: PurePath) -> str:
    """Return the path without its image or volume suffix, composed, with / between the folders."""
    return composed(path.with_name(stem_of(path)).as_posix() if stem_of(path) else path.as_posix())


def existing(base: Path, name: PurePath | str) -> Path:
    """Return `base / name`; where that is missing, the only path whose names differ from it in case or Unicode form alone."""
    parts = PurePath(name).parts
    if (base / name).exists() or len(parts) > _DEEPEST:
        return base / name
    for part in parts:
        there = (base / part).exists() or not base.is_dir()
        alike = [part] if there else _by_form(base, base.stat().st_mtime_ns).get(_form(part), [])
        base /= alike[0] if len(alike) == 1 else part
    return base


def _form(name: str) -> str:
    return composed(composed(name).casefold())


@lru_cache(maxsize=64)
def _by_form(folder: Path, changed: int) -> dict[str, list[str]]:
    """Return the names in a folder that was last `changed` then, by what they have in common in any case and form."""
    names: dict[str, list[str]] = {}
    for path in folder.iterdir():
        names.setdefault(_form(path.name), []).append(path.name)
    return names


def place_of(path: Path, root: Path) -> PurePath:
    """Return the path below `root/images` or `root`; below the drive when it lies elsewhere."""
    for base in (root / "images", root):
        if path.is_relative_to(base) and path != base:
            return path.relative_to(base)
    return path.relative_to(path.anchor)


def safe_id(place: PurePath | str) -> str:
    """Return an id that is safe as a file name: no suffix, folders joined by `__`, unusual characters replaced."""
    whole = "__".join(part for part in PurePath(without_suffix(PurePath(place))).parts if part != "..")
    name = re.sub(r"[^\w.\-]", "_", whole).lstrip(".") or "case"
    if len(name.encode()) <= _LONGEST:
        return name
    return f"{name.encode()[:_LONGEST].decode(errors='ignore')}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def is_possible(folder: Path, name: str) -> bool:
    """Return whether a disk can hold a path below a folder: parts of at most 255 bytes, 4095 characters in all, no zero byte."""
    fits = all(len(part.encode(errors="replace")) < 256 for part in PurePath(name).parts)
    return fits and "\0" not in name and len(os.path.normpath(folder.absolute() / name)) < 4096


def lies_inside(folder: Path, name: str) -> bool:
    """Return whether the text of a name stays below a folder: no `..` that leads out, no absolute path, no impossible name."""
    path = os.path.normpath(folder.absolute() / name)
    return is_possible(folder, name) and Path(path).is_relative_to(os.path.normpath(folder.absolute()))


def few(names: Iterable[str], most: int = 8) -> str:
    """Join the first `most` names for a message, with the number of the others."""
    listed = list(names)
    return ", ".join(listed[:most]) + (f" and {len(listed) - most} more" if len(listed) > most else "") if listed else "none"


def nearest(name: str, known: Iterable[str]) -> str:
    """List the known names that are most like a wrong one, for a message."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.4)
    return f"the nearest: {', '.join(near)}" if near else f"there are: {few(names)}"
