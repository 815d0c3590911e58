"""What the layouts share: tables, masks found by the names of their images, and names.

    masks/x.png, masks/x_mask.tif              lesion masks of x.png (also mask/, ground_truth/, data.masks)
    organ_masks/x.png                          organ mask of x.png (also organs/, data.organ_from)

Hidden files are never seen (macOS leaves `._x.nii.gz` beside `x.nii.gz`).
"""

from __future__ import annotations

import csv
import difflib
import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePath

from coinseg.config.schema import DataSettings
from coinseg.data.readers.image import IMAGE_SUFFIXES, is_image
from coinseg.data.readers.limits import MAX_TABLE
from coinseg.data.readers.paths import ARCHIVE, SLICE_SUFFIXES, VOLUME_SUFFIXES, holds_slices, is_dicom, may_hold_slices
from coinseg.data.readers.volume import is_volume
from coinseg.errors import UserError
from coinseg.types import Case, MaskSource

Rows = list[tuple[int, dict[str, str]]]
"""Rows of a table by row number (the header is row 1), each by lower-case column name."""
_LABELS = {"0": 0, "0.0": 0, "normal": 0, "false": 0, "1": 1, "1.0": 1, "abnormal": 1, "true": 1, "": None}
LABEL = ("label", "class_label", "abnormal", "y", "target")
"""What the column of labels may be called, in any case."""
_LONGEST = 140
"""Bytes of an id: with the endings of outputs it must be the name of a file (255)."""
_MASK_FOLDERS, _ORGAN_FOLDERS = ("masks", "mask", "ground_truth"), ("organ_masks", "organs")


# --- Tables ------------------------------------------------------------------------------------------------------------


def header_of(path: Path) -> list[str]:
    """The column names of a table, in lower case; empty for an empty file."""
    return [name.strip().lower() for cells in _cells(path, 1) for name in cells]


def read_table(path: Path) -> Rows:
    """The rows of a table, missing cells empty; `UserError` for none, or when cells have no column or two."""
    header, rows = header_of(path), []
    twice = [name for name, count in Counter(header).items() if name and count > 1]
    if twice:
        raise UserError(f"{path} has the column {twice[0]} twice", "columns with different names", "rename or drop one")
    for number, cells in enumerate(_cells(path)[1:], start=2):
        if len(cells) > len(header):
            raise UserError(
                f"row {number} of {path} has {len(cells)} cells and the header {len(header)}",
                "no more cells than columns",
                "correct the row; put text with a separator in quotes",
            )
        texts = [cell.strip() for cell in cells] + [""] * (len(header) - len(cells))
        if any(texts):
            rows.append((number, dict(zip(header, texts, strict=True))))
    if not rows:
        raise UserError(f"{path} has no rows", "a line of column names and a row for each case", "fill or remove it")
    return rows


def _cells(path: Path, limit: int | None = None) -> list[list[str]]:
    """The first `limit` rows (all by default) of a table separated by comma, semicolon or tab."""
    try:
        if path.stat().st_size > MAX_TABLE:
            raise OSError(f"it has {path.stat().st_size} bytes, more than {MAX_TABLE}")
        with path.open(encoding="utf-8-sig", newline="") as file:
            delimiter = max(",;\t", key=file.readline().count)
            file.seek(0)
            return list(islice(csv.reader(file, delimiter=delimiter), limit))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read as a table ({error})", "UTF-8 CSV", "save it as UTF-8 CSV") from error


def tables_in(folder: Path) -> list[Path]:
    """The .csv files of a folder, sorted."""
    return [path for path in visible(folder) if path.suffix.lower() == ".csv" and path.is_file()]


def said_of_tables(folder: Path) -> str:
    """What columns the tables of a folder have, for a message about none that fits; empty without tables."""
    return "".join(f"; {path.name} has the columns {few(header_of(path))}" for path in tables_in(folder))


def label_in(cell: str, path: Path, number: int) -> int | None:
    """0, 1 or None of a cell; `UserError` with row and value otherwise."""
    if cell.lower() not in _LABELS:
        raise UserError(f"row {number} of {path} has the label {cell!r}", "0, 1, normal, abnormal or nothing", "correct the row")
    return _LABELS[cell.lower()]


# --- Masks by name -----------------------------------------------------------------------------------------------------

_Index = dict[tuple[str, bool], Path]
"""Masks under a folder by relative name without suffix and whether they are volumes."""


@dataclass(frozen=True)
class MasksByName:
    """Masks found by the names of their images, and the label values asked for."""

    lesions: _Index
    organs: _Index
    folders: tuple[Path, ...]
    settings: DataSettings

    @classmethod
    def under(cls, root: Path, settings: DataSettings, masks: str | None) -> MasksByName:
        """Index the mask folder (`masks`; recognised when None; none when "") and the organ folder of `root`."""
        if masks and not (root / masks).is_dir():
            raise UserError(f"data.masks {root / masks} is no folder", "a folder relative to the data", "correct data.masks")
        lesion = root / masks if masks else _first_folder(root, _MASK_FOLDERS) if masks is None else None
        organ = organ_root(root, settings) or _first_folder(root, _ORGAN_FOLDERS)
        return cls(_index(lesion), _index(organ), tuple(folder for folder in (lesion, organ) if folder), settings)

    def own(self, path: Path) -> bool:
        """Whether the file lies in a folder of masks."""
        return any(folder in path.parents for folder in self.folders)

    def lesion(self, image: Path, *places: PurePath) -> Path | None:
        """The lesion mask with one of the relative names (any suffix, `_mask` appended or not)."""
        keys = [(_key(place) + tail, is_volume(image)) for place in places for tail in ("", "_mask")]
        return next((self.lesions[key] for key in keys if key in self.lesions), None)

    def organ(self, image: Path, place: PurePath) -> Path | None:
        """The organ mask with the relative name."""
        return self.organs.get((_key(place), is_volume(image)))

    def organ_sources(self, path: Path | None) -> tuple[MaskSource, ...]:
        """One source for each organ value; one for the whole mask without values."""
        values = _values("organ", self.settings.organ)
        return () if path is None else tuple(MaskSource(path, (v,)) for v in values) or (MaskSource(path),)

    def lesion_sources(self, path: Path | None) -> tuple[MaskSource, ...]:
        """One source for all lesion values together."""
        values = _values("lesion", self.settings.lesion)
        return () if path is None else (MaskSource(path, values),)

    def with_organs(self, cases: list[Case]) -> tuple[list[Case], list[str]]:
        """Drop cases without an organ mask when others have one: whole and cropped slices must not be mixed."""
        if cases and self.settings.organ and not any(case.organ for case in cases):
            raise UserError("data.organ is set and no image has an organ mask", "organ masks", "add them or clear data.organ")
        if not any(case.organ for case in cases):
            return cases, []
        return [c for c in cases if c.organ], [f"{c.id}: skipped, no organ mask" for c in cases if not c.organ]

    def unmatched(self, cases: Iterable[Case]) -> list[str]:
        """Lesion masks that no image has, and abnormal cases that have none while others do."""
        if not self.lesions:
            return []
        cases = list(cases)
        used = {source.path for case in cases for source in case.lesion}
        unused = [path.name for path in self.lesions.values() if path not in used]
        bare = [case.id for case in cases if not case.lesion and (case.label == 1 or 1 in case.slice_labels.values())]
        said = [f"lesion masks not used, no abnormal image has their name: {few(unused)}"] if unused else []
        return said + ([f"abnormal and without a lesion mask, so not scored: {few(bare)}"] if bare else [])


def organ_root(root: Path, settings: DataSettings) -> Path | None:
    """The folder of `settings.organ_from`: as given, or relative to the data."""
    if settings.organ_from is None:
        return None
    for folder in (Path(settings.organ_from).expanduser(), root / settings.organ_from):
        if folder.is_dir():
            return folder
    raise UserError(f"data.organ_from {settings.organ_from} is no folder", "a folder of organ masks", "correct data.organ_from")


def _first_folder(root: Path, names: Iterable[str]) -> Path | None:
    return next((root / name for name in names if (root / name).is_dir()), None)


def _index(folder: Path | None) -> _Index:
    return {(_key(path.relative_to(folder)), is_volume(path)): path for path in files_in(folder)} if folder else {}


def _values(name: str, texts: Iterable[str]) -> tuple[int, ...]:
    """Label values given as text."""
    if not all(is_value(text.strip()) for text in texts):
        raise UserError(f"data.{name} is {few(texts)}", "label values such as 1 in this layout", f"correct data.{name}")
    return tuple(int(text) for text in texts)


def is_value(text: str) -> bool:
    """Whether a text is a label value; of more digits there is none, and Python's own limit for numbers is not met."""
    return text.isdecimal() and len(text) < 10


# --- Names -------------------------------------------------------------------------------------------------------------


def visible(folder: Path) -> list[Path]:
    """Entries of a folder, sorted, without hidden ones; empty for anything else."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith(".")) if folder.is_dir() else []


def folders_in(folder: Path) -> list[Path]:
    """Visible folders in a folder."""
    return [path for path in visible(folder) if path.is_dir()]


def files_in(folder: Path) -> list[Path]:
    """Images and volumes at any depth, sorted, hidden files and folders left out.

    A folder below `folder` with DICOM files in it is one volume, and so is a .zip of one; their files are not listed. Links are
    followed, but not to where one led before: they may lead in circles.
    """
    found: list[Path] = []
    been = {folder.resolve()}
    for place, below, names in os.walk(folder, followlinks=True):
        below[:] = [name for name in below if not name.startswith(".") and not _again(Path(place, name), been)]
        paths = [Path(place, name) for name in names if not name.startswith(".")]
        found += [path for path in paths if is_image(path) or path.name.lower().endswith(VOLUME_SUFFIXES)]
        found += [path for path in paths if path.suffix.lower() == ARCHIVE and may_hold_slices(path)]
        series = [name for name in below if holds_slices(Path(place, name))]
        found += [Path(place, name) for name in series]
        below[:] = [name for name in below if name not in series]
    return sorted(found)


def _again(folder: Path, been: set[Path]) -> bool:
    """Whether a folder is a link to where the walk has been; remembers that it is now."""
    real = folder.resolve()
    known = real in been
    been.add(real)
    return known and folder.is_symlink()


def patient_of(image: Path, default: str) -> str:
    """The patient a DICOM scan names (hashed, see `dicom.patient_of`); `default` for anything else."""
    if not is_dicom(image):
        return default
    from coinseg.data.readers.dicom import patient_of as hashed

    return hashed(image, default)


def own_patients(cases: Iterable[Case]) -> str:
    """What is known of patients where no table names them, for a problem line."""
    hashed = any(case.patient != case.id for case in cases)
    return "every file is its own patient" + (", but DICOM names them (kept as a hash of PatientID)" if hashed else "")


def stem_of(path: PurePath) -> str:
    """The name without its image or volume suffix."""
    low = path.name.lower()
    suffixes = (*VOLUME_SUFFIXES, ARCHIVE, *SLICE_SUFFIXES, *IMAGE_SUFFIXES)
    return path.name[: -len(next((s for s in suffixes if low.endswith(s)), "")) or None]


def _key(path: PurePath) -> str:
    return path.with_name(stem_of(path)).as_posix() if stem_of(path) else path.as_posix()


def place_of(path: Path, root: Path) -> PurePath:
    """The path below `root/images` or `root`; below the drive when it lies elsewhere."""
    for base in (root / "images", root):
        if path.is_relative_to(base) and path != base:
            return path.relative_to(base)
    return path.relative_to(path.anchor)


def safe_id(place: PurePath | str) -> str:
    """An id that is safe as a file name: no suffix, folders joined by `__`, unusual characters replaced."""
    whole = "__".join(part for part in PurePath(_key(PurePath(place))).parts if part != "..")
    name = re.sub(r"[^\w.\-]", "_", whole).lstrip(".") or "case"
    if len(name.encode()) <= _LONGEST:
        return name
    return f"{name.encode()[:_LONGEST].decode(errors='ignore')}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def lies_inside(folder: Path, name: str) -> bool:
    """Whether a name in a table stays below a folder: no `..` that leads out, no place elsewhere, nothing no disk can hold.

    By the letters of the path: a link that somebody made in the folder is followed.
    """
    path = os.path.normpath(folder.absolute() / name)
    held = "\0" not in name and all(len(part.encode(errors="replace")) < 256 for part in PurePath(name).parts)
    return held and len(path) < 4096 and Path(path).is_relative_to(os.path.normpath(folder.absolute()))


def few(names: Iterable[str], most: int = 8) -> str:
    """Some names for a message."""
    listed = list(names)
    return ", ".join(listed[:most]) + (f" and {len(listed) - most} more" if len(listed) > most else "") if listed else "none"


def nearest(name: str, known: Iterable[str]) -> str:
    """The known names that are most like a wrong one, for a message."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.4)
    return f"the nearest: {', '.join(near)}" if near else f"there are: {few(names)}"
