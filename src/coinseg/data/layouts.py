"""How data lie on disk: TotalSegmentator folders, a CSV, or plain folders of normal and abnormal images.

A reader only lists: it looks at names and tables, never inside an image, so thousands of scans take a moment. What it
leaves out is said in `Cohort.problems`; what makes the data unusable as a whole is a `UserError`.
"""

from __future__ import annotations

import csv
import difflib
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

from ..config import DataSettings
from ..errors import UserError
from ..types import Case, Cohort, MaskSource
from .image import IMAGE_SUFFIXES, is_image
from .volume import VOLUME_SUFFIXES, is_volume

_COLUMNS = {
    "file": ("file", "image", "path", "filename", "image_path", "id"),
    "label": ("label", "abnormal", "y", "target"),
    "patient": ("patient", "patient_id", "subject", "case", "case_id"),
    "mask": ("mask", "mask_path", "lesion", "lesion_mask"),
    "organ": ("organ", "organ_mask"),
}
_LABELS = {"0": 0, "0.0": 0, "normal": 0, "false": 0, "1": 1, "1.0": 1, "abnormal": 1, "true": 1, "": None}
_NORMAL = ("normal", "good", "free", "healthy", "ok", "negative", "0")
_ABNORMAL = ("abnormal", "bad", "defect", "defective", "positive", "tumor", "tumour", "lesion", "1")
_MASK_FOLDERS, _ORGAN_FOLDERS = ("masks", "mask", "ground_truth"), ("organ_masks", "organs")
_KNOWN = "totalsegmentator (s0001/ct.nii.gz), csv (a table with a column file) or folders (one of normal, one of abnormal images)"
Rows = list[tuple[int, dict[str, str]]]
"""Rows of a table by row number (the header is row 1), each by lower-case column name."""


def read_layout(root: Path, settings: DataSettings, one_class: bool = False) -> Cohort:
    """List the cases under `root`, sorted by id; nothing but tables is opened.

    Args:
        root: a folder, or a .csv file.
        settings: layout, organ, organ_from, lesion, study_type, normal, abnormal, masks and split_by are read.
        one_class: accept labels of one class only (for labels that will come from injected anomalies).

    Raises:
        UserError: nothing recognised, tables with errors, ids that are not unique, one class, or too few patients.
    """
    if not root.exists():
        raise UserError(f"{root} does not exist", "a folder or a .csv file", "correct the path")
    if root.is_dir() and not _visible(root):
        raise UserError(f"{root} is an empty folder", _KNOWN, "correct the path")
    name = settings.layout if settings.layout != "auto" else _recognise(root, settings)
    if name != "csv" and not root.is_dir():
        raise UserError(f"{root} is no folder", f"a folder for layout {name}", "correct the path or data.layout")
    cohort = LAYOUTS[name](root, settings)
    cohort = replace(cohort, cases=tuple(sorted(cohort.cases, key=lambda case: case.id)))
    _check(root, cohort, settings, one_class)
    return cohort


def _recognise(root: Path, settings: DataSettings) -> str:
    """The name of the layout that fits what lies under `root`."""
    if settings.normal or settings.abnormal:
        return "folders"
    if root.is_dir() and any((folder / "ct.nii.gz").is_file() for folder in _folders(root)):
        return "totalsegmentator"
    if _table_of(root) is not None:
        return "csv"
    if root.is_dir() and any(_by_name(root, names) for names in (_NORMAL, _ABNORMAL)):
        return "folders"
    suffixes = Counter(path.suffix.lower() or "no suffix" for path in _visible(root) if path.is_file())
    files = ", ".join(f"{count} x {suffix}" for suffix, count in sorted(suffixes.items()))
    found = f"folders: {_few(folder.name for folder in _folders(root))}; files: {files or 'none'}" if root.is_dir() else "a file"
    raise UserError(
        f"no layout is recognised in {root} ({found})",
        _KNOWN,
        "rearrange the data or set data.normal and data.abnormal",
    )


def _check(root: Path, cohort: Cohort, settings: DataSettings, one_class: bool) -> None:
    """Raise `UserError` when the cohort as a whole cannot be used."""
    cases = cohort.cases
    if not cases:
        why = f" (first of {len(cohort.problems)} problems: {cohort.problems[0]})" if cohort.problems else ""
        raise UserError(f"no usable case in {root}{why}", "at least one scan or image", "mend the data or the settings")
    for one, other in zip(cases, cases[1:], strict=False):
        if one.id == other.id:
            raise UserError(f"{one.image} and {other.image} both have the id {one.id}", "unique ids", "rename or drop one")
    counts = Counter(case.label for case in cases if case.label is not None)
    if len(counts) == 1 and not one_class and not any(case.slice_labels for case in cases):
        raise UserError(
            f"{counts[0]} normal and {counts[1]} abnormal images are labelled in {root}",
            "images of both classes",
            "add images of the other class",
        )
    if settings.split_by == "patient" and len({case.patient for case in cases}) < 2:
        raise UserError(
            f"{root} has one patient only ({cases[0].patient})",
            "two patients or more, to hold some out",
            "add patients, or set data.split_by slice (scores are then optimistic)",
        )


# --- TotalSegmentator --------------------------------------------------------------------------------------------


def _totalsegmentator(root: Path, settings: DataSettings) -> Cohort:
    """`s0001/ct.nii.gz` with `s0001/segmentations/<class>.nii.gz` and meta.csv; one patient per scan."""
    folders, problems = _kept_scans(root, settings.study_type)
    organs = _organ_root(root, settings)
    places = {
        f.name: ([organs / f.name / "segmentations", organs / f.name] if organs else [f / "segmentations"]) for f in folders
    }
    truths = {f.name: [f / "segmentations", *places[f.name]] for f in folders}
    _require_classes(settings.organ, places, "organ")
    _require_classes(settings.lesion, truths, "lesion")
    labels = _slice_labels(root / "labels.csv")
    cases = []
    for folder in folders:
        organ = [(name, _class_file(places[folder.name], name)) for name in settings.organ]
        lesion = [_class_file(truths[folder.name], name) for name in settings.lesion]
        lacking = [name for name, path in organ if path is None]
        if not (folder / "ct.nii.gz").is_file():
            problems.append(f"{folder.name}: skipped, no ct.nii.gz")
        elif lacking:
            problems.append(f"{folder.name}: skipped, no mask of {', '.join(lacking)}")
        else:
            cases.append(
                Case(
                    id=_safe(folder.name), patient=folder.name, image=folder / "ct.nii.gz", volume=True,
                    slice_labels=labels.get(folder.name, {}),
                    organ=tuple(MaskSource(path) for _, path in organ if path),
                    lesion=tuple(MaskSource(path) for path in lesion if path),
                )
            )  # fmt: skip
    source = "slice labels from labels.csv, column label" if labels else "no image labels in the data"
    return Cohort("totalsegmentator", tuple(cases), source, tuple(problems))


def _kept_scans(root: Path, study_type: str) -> tuple[list[Path], list[str]]:
    """Folders of scans whose study type fits, and what is worth saying about the others."""
    folders = [f for f in _folders(root) if (f / "ct.nii.gz").exists() or (f / "segmentations").exists()]
    if not study_type:
        return folders, []
    meta = root / "meta.csv"
    rows = _read_table(meta) if meta.is_file() else []
    if not rows or not {"image_id", "study_type"} <= rows[0][1].keys():
        what = "has no columns image_id and study_type" if meta.is_file() else "is missing"
        return folders, [f"meta.csv {what}: scans of every study type are kept"]
    types = {row["image_id"]: row["study_type"] for _, row in rows}
    kept = [f for f in folders if study_type.lower() in types.get(f.name, "").lower()]
    if folders and not kept:
        raise UserError(
            f"no scan in {root} has a study_type with {study_type!r} ({_few(sorted(set(types.values())))})",
            "a word that occurs in meta.csv",
            'set data.study_type; "" keeps every scan',
        )
    problems = [f"{f.name}: skipped, not listed in meta.csv" for f in folders if f.name not in types]
    others = len(folders) - len(kept) - len(problems)
    if others:
        problems.append(f"{others} scans skipped: their study_type in meta.csv lacks {study_type!r}")
    return kept, problems


def _class_file(places: Sequence[Path], name: str) -> Path | None:
    """The mask of one class in the first folder that has it."""
    return next((place / f"{name}.nii.gz" for place in places if (place / f"{name}.nii.gz").is_file()), None)


def _require_classes(names: Sequence[str], places: dict[str, list[Path]], setting: str) -> None:
    """Raise `UserError` for a class that no scan has: most likely a slip of spelling."""
    for name in names:
        if not places or any(_class_file(folders, name) for folders in places.values()):
            continue
        known = {_stem(path) for folders in places.values() for place in folders for path in _visible(place)} - {"ct"}
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
        raise UserError(
            f"data.{setting} names {name!r}, which no scan has a mask of",
            f"a known class ({'the nearest: ' + ', '.join(near) if near else 'there are: ' + _few(sorted(known))})",
            "correct the name, or set data.organ_from" if setting == "organ" else "correct the name",
        )


def _slice_labels(path: Path) -> dict[str, dict[int, int]]:
    """Labels of single slices by scan, from a table image_id, slice, label; empty without one."""
    labels: dict[str, dict[int, int]] = defaultdict(dict)
    for number, row in _read_table(path) if path.is_file() else []:
        if not {"image_id", "slice", "label"} <= row.keys():
            raise UserError(f"{path} has the columns {_few(row)}", "image_id, slice and label", "rename them")
        label = _label(row["label"], path, number)
        if not row["slice"].isdecimal():
            raise UserError(f"row {number} of {path} has slice {row['slice']!r}", "a slice index from 0", "correct the row")
        if label is not None and labels[row["image_id"]].setdefault(int(row["slice"]), label) != label:
            raise UserError(f"row {number} of {path} contradicts an earlier row", "one label per slice", "correct the row")
    return labels


# --- CSV -----------------------------------------------------------------------------------------------------------


def _csv(root: Path, settings: DataSettings) -> Cohort:
    """One row per image or volume; masks named in the row, or found by name in folders beside the table."""
    table = _table_of(root)
    if table is None:
        raise UserError(
            f"{root} is or holds no table to read",
            f"one .csv with a column {' or '.join(_COLUMNS['file'])}",
            "name it labels.csv, or give its path",
        )
    rows, base = _read_table(table), table.parent
    header = rows[0][1] if rows else {}
    column = {role: next((name for name in names if name in header), "") for role, names in _COLUMNS.items()}
    finder = _Finder.under(base, settings, "" if column["mask"] else None)
    cases = [_csv_case(table, number, row, column, finder) for number, row in rows]
    problems = [] if column["patient"] or not rows else [f"{table.name} has no column patient: every file is its own patient"]
    cases, skipped = finder.with_organs(cases)
    word = f"image labels from {table.name}, column {column['label']}" if column["label"] else f"no image labels in {table.name}"
    return Cohort("csv", tuple(cases), word, tuple(problems + skipped))


def _csv_case(table: Path, number: int, row: dict[str, str], column: dict[str, str], finder: _Finder) -> Case:
    """The case of one row; `UserError` with the row number on anything wrong with it."""

    def cell(role: str) -> str:
        return row[column[role]] if column[role] else ""

    def resolved(role: str, suffixes: Sequence[str] = ("",)) -> Path | None:
        bases = (table.parent, table.parent / "images")
        paths = (base / (cell(role) + suffix) for suffix in suffixes for base in bases)
        found = next((path for path in paths if path.is_file()), None)
        if cell(role) and found is None:
            raise UserError(
                f"row {number} of {table} names {cell(role)}, which is missing", "an existing file", "correct the row"
            )
        return found

    image = resolved("file", ("", *IMAGE_SUFFIXES, *VOLUME_SUFFIXES))
    if image is None or not (is_image(image) or is_volume(image)):
        raise UserError(f"row {number} of {table} names {cell('file') or 'no file'}", "an image or a volume", "correct the row")
    if column["patient"] and not cell("patient"):
        raise UserError(f"row {number} of {table} has no {column['patient']}", "a patient in every row", "correct the row")
    relative = _relative(image, table.parent)
    organ = resolved("organ") if column["organ"] else finder.organ(image, relative)
    mask = resolved("mask") if column["mask"] else finder.mask(image, relative)
    name = _safe(relative)
    return Case(
        id=name, patient=cell("patient") or name, image=image, volume=is_volume(image),
        label=_label(cell("label"), table, number),
        organ=finder.organ_sources(image, organ), lesion=finder.lesion_sources(image, mask),
    )  # fmt: skip


def _table_of(root: Path) -> Path | None:
    """The table to read: `root` itself, labels.csv, slices.csv, or the only one with a column of files."""
    if root.is_file():
        return root if root.suffix.lower() == ".csv" else None
    tables = {path.name.lower(): path for path in _visible(root) if path.suffix.lower() == ".csv" and path.is_file()}
    fit = {name: path for name, path in tables.items() if set(_COLUMNS["file"]) & set(_read_table(path, 1)[0][1])}
    preferred = [fit[name] for name in ("labels.csv", "slices.csv") if name in fit]
    return preferred[0] if preferred else next(iter(fit.values())) if len(fit) == 1 else None


def _read_table(path: Path, limit: int | None = None) -> Rows:
    """Rows of a table separated by comma, semicolon or tab; with `limit` 1 one row for the header, values empty."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as a table ({error})", "UTF-8 text", "save it as UTF-8 CSV") from error
    delimiter = max(",;\t", key=(lines[0] if lines else "").count)
    try:
        table = list(csv.reader(lines if limit is None else lines[:limit], delimiter=delimiter))
    except csv.Error as error:
        raise UserError(f"{path} cannot be read as a table ({error})", "a CSV table", "save it again as CSV") from error
    header = [name.strip().lower() for name in table[0]] if table else []
    if limit is not None:
        return [(1, dict.fromkeys(header, ""))]
    rows = []
    for number, cells in enumerate(table[1:], start=2):
        if any(cell.strip() for cell in cells):
            padded = [cell.strip() for cell in cells] + [""] * len(header)
            rows.append((number, dict(zip(header, padded, strict=False))))
    return rows


def _label(text: str, path: Path, number: int) -> int | None:
    """0, 1 or None of a cell; `UserError` with row and value otherwise."""
    if text.lower() not in _LABELS:
        raise UserError(f"row {number} of {path} has the label {text!r}", "0, 1, normal, abnormal or nothing", "correct the row")
    return _LABELS[text.lower()]


# --- Folders ---------------------------------------------------------------------------------------------------------


def _folders_layout(root: Path, settings: DataSettings) -> Cohort:
    """Folders of normal and of abnormal images or volumes, each file its own patient."""
    named = bool(settings.normal or settings.abnormal)
    classes = [
        (label, root / name if named else Path(name))
        for label, explicit, known in ((0, settings.normal, _NORMAL), (1, settings.abnormal, _ABNORMAL))
        for name in (explicit if named else _by_name(root, known))
    ]
    finder = _Finder.under(root, settings, settings.masks)
    cases: list[Case] = []
    for label, folder in classes:
        if not folder.is_dir():
            raise UserError(f"{folder} is no folder", "folders relative to the data", "correct data.normal or data.abnormal")
        cases += _folder_cases(root, folder, label, finder)
    _require_masks(settings, cases)
    cases, problems = finder.with_organs(cases)
    names = [_few(_relative(folder, root).as_posix() for label, folder in classes if label == k) for k in (0, 1)]
    source = f"image labels from folders: normal {names[0]}, abnormal {names[1]}"
    return Cohort("folders", tuple(cases), source, (*problems, "folders name no patients: every file is its own patient"))


def _folder_cases(root: Path, folder: Path, label: int, finder: _Finder) -> list[Case]:
    """The cases of one folder; masks lying among the images (`x_mask.png` beside `x.png`) are no cases."""
    files = {path: _stem(path) for path in _files(folder) if not finder.owns(path)}
    if not files:
        raise UserError(f"{folder} holds no image", f"{', '.join(IMAGE_SUFFIXES + VOLUME_SUFFIXES)} files", "correct the folder")
    beside = {path.with_name(stem): path for path, stem in files.items()}
    cases = []
    for path, stem in files.items():
        if stem.endswith("_mask") and path.with_name(stem.removesuffix("_mask")) in beside:
            continue
        inside = path.relative_to(folder)
        # A normal image takes no mask by its bare name: normal/001.png and abnormal/001.png would share masks/001.png.
        flat = () if label == 0 else (inside,)
        mask = finder.mask(path, _relative(path, root), folder.name / inside, *flat) or beside.get(path.with_name(f"{stem}_mask"))
        name = _safe(_relative(path, root))
        organ = finder.organ_sources(path, finder.organ(path, _relative(path, root)))
        lesion = finder.lesion_sources(path, mask)
        cases.append(Case(name, name, path, is_volume(path), label, organ=organ, lesion=lesion))
    return cases


def _require_masks(settings: DataSettings, cases: Sequence[Case]) -> None:
    """Masks that were asked for must fit some abnormal image, and no mask may fit two."""
    if settings.masks and not any(case.lesion for case in cases):
        raise UserError(f"no mask in {settings.masks} has the name of an image", "masks/x.png for x.png", "correct data.masks")
    owners: dict[Path, Case] = {}
    for case in cases:
        for source in case.lesion:
            other = owners.setdefault(source.path, case)
            if other is not case:
                raise UserError(
                    f"mask {source.path} fits {other.image} and {case.image}",
                    "one mask per image",
                    "use subfolders as for the images",
                )


def _by_name(root: Path, names: Sequence[str]) -> list[str]:
    """Folders in `root` or `root/images` with one of the names, as path text."""
    return [str(f) for base in (root, root / "images") for f in _folders(base) if f.name.lower() in names]


# --- Masks by name -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Finder:
    """Masks found by the names of their images, and the label values asked for."""

    masks: dict[tuple[str, bool], Path]
    organs: dict[tuple[str, bool], Path]
    folders: tuple[Path, ...]
    settings: DataSettings

    @classmethod
    def under(cls, root: Path, settings: DataSettings, masks: str | None) -> _Finder:
        """Index the mask folder (`masks`; recognised when None; none when "") and the organ folder of `root`."""
        if masks and not (root / masks).is_dir():
            raise UserError(f"data.masks {root / masks} is no folder", "a folder relative to the data", "correct data.masks")
        names = (masks,) if masks else _MASK_FOLDERS if masks is None else ()
        lesion = next((root / name for name in names if (root / name).is_dir()), None)
        organ = _organ_root(root, settings)
        if organ is None:
            organ = next((root / name for name in _ORGAN_FOLDERS if (root / name).is_dir()), None)
        folders = tuple(folder for folder in (lesion, organ) if folder)
        return cls(_index(lesion), _index(organ), folders, settings)

    def owns(self, path: Path) -> bool:
        """Whether the file lies in a folder of masks."""
        return any(folder in path.parents for folder in self.folders)

    def mask(self, image: Path, *relative: PurePath) -> Path | None:
        """The lesion mask with one of the relative names (any suffix, `_mask` appended or not)."""
        keys = [(_key(name) + tail, is_volume(image)) for name in relative for tail in ("", "_mask")]
        return next((self.masks[key] for key in keys if key in self.masks), None)

    def organ(self, image: Path, relative: PurePath) -> Path | None:
        """The organ mask with the relative name."""
        return self.organs.get((_key(relative), is_volume(image)))

    def _values(self, name: str) -> tuple[int, ...]:
        texts = self.settings.organ if name == "organ" else self.settings.lesion
        if not all(text.strip().isdecimal() for text in texts):
            raise UserError(f"data.{name} is {_few(texts)}", "label values such as 1 in this layout", f"correct data.{name}")
        return tuple(int(text) for text in texts)

    def organ_sources(self, image: Path, path: Path | None) -> tuple[MaskSource, ...]:
        """One source for each organ value of a volume; one for everything above 0 without values."""
        values = self._values("organ") if is_volume(image) else ()
        return () if path is None else tuple(MaskSource(path, (v,)) for v in values) or (MaskSource(path),)

    def lesion_sources(self, image: Path, path: Path | None) -> tuple[MaskSource, ...]:
        """One source for all lesion values together."""
        values = self._values("lesion") if is_volume(image) else ()
        return () if path is None else (MaskSource(path, values),)

    def with_organs(self, cases: list[Case]) -> tuple[list[Case], list[str]]:
        """Drop cases without an organ mask when others have one: whole and cropped slices must not be mixed."""
        if cases and self.settings.organ and not any(case.organ for case in cases):
            raise UserError("data.organ is set and no image has an organ mask", "organ masks", "add them or clear data.organ")
        if not any(case.organ for case in cases):
            return cases, []
        return [c for c in cases if c.organ], [f"{c.id}: skipped, no organ mask" for c in cases if not c.organ]


def _organ_root(root: Path, settings: DataSettings) -> Path | None:
    """The folder of `settings.organ_from`: as given, or relative to the data."""
    if settings.organ_from is None:
        return None
    for folder in (Path(settings.organ_from).expanduser(), root / settings.organ_from):
        if folder.is_dir():
            return folder
    raise UserError(f"data.organ_from {settings.organ_from} is no folder", "a folder of organ masks", "correct data.organ_from")


def _index(folder: Path | None) -> dict[tuple[str, bool], Path]:
    """Masks under a folder by relative name without suffix and whether they are volumes."""
    return {(_key(path.relative_to(folder)), is_volume(path)): path for path in _files(folder)} if folder else {}


# --- Names -------------------------------------------------------------------------------------------------------------


def _visible(folder: Path) -> list[Path]:
    """Entries of a folder, sorted, without hidden ones (macOS leaves `._x.nii.gz` beside `x.nii.gz`)."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith(".")) if folder.is_dir() else []


def _folders(folder: Path) -> list[Path]:
    return [path for path in _visible(folder) if path.is_dir()]


def _files(folder: Path) -> list[Path]:
    """Images and volumes at any depth, sorted, hidden files and folders left out."""
    found: list[Path] = []
    for place, below, names in os.walk(folder, followlinks=True):
        below[:] = [name for name in below if not name.startswith(".")]
        paths = (Path(place, name) for name in names if not name.startswith("."))
        found += [path for path in paths if is_image(path) or is_volume(path)]
    return sorted(found)


def _stem(path: PurePath) -> str:
    """The name without its image or volume suffix."""
    low = path.name.lower()
    return path.name[: -len(next((s for s in (*VOLUME_SUFFIXES, *IMAGE_SUFFIXES) if low.endswith(s)), "")) or None]


def _key(path: PurePath) -> str:
    return path.with_name(_stem(path)).as_posix()


def _relative(path: Path, root: Path) -> PurePath:
    """The path below `root/images` or `root`; below the drive when it lies elsewhere."""
    for base in (root / "images", root):
        if path.is_relative_to(base) and path != base:
            return path.relative_to(base)
    return path.relative_to(path.anchor)


def _safe(relative: PurePath | str) -> str:
    """An id that is safe as a file name: no suffix, folders joined by `__`, unusual characters replaced."""
    name = "__".join(part for part in PurePath(_key(PurePath(relative))).parts if part != "..")
    return re.sub(r"[^\w.\-]", "_", name).lstrip(".") or "case"


def _few(names: Iterable[str], most: int = 8) -> str:
    """Some names for a message."""
    listed = list(names)
    return ", ".join(listed[:most]) + (f" and {len(listed) - most} more" if len(listed) > most else "") if listed else "none"


LAYOUTS: dict[str, Callable[[Path, DataSettings], Cohort]] = {
    "totalsegmentator": _totalsegmentator,
    "csv": _csv,
    "folders": _folders_layout,
}
