"""Which folders of a data set hold which images: by the settings, or by their names.

normal/, abnormal/                        or good, healthy, bad, benign, ...; they may lie in images/
train/NORMAL, test/PNEUMONIA              parts of the data (train, val, test, ...) are read together
train/good, test/crack, ground_truth/crack   MVTec AD and LOCO: what lies in test/ and is not good is abnormal
normal/, benign/, malignant/              one class, abnormal, unless data.classes names them
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from coinseg.config.schema import DataSettings
from coinseg.data.readers.paths import is_dicom
from coinseg.errors import UserError
from coinseg.types import Case

from .classes import asked_names
from .masks_by_look import mask_folders
from .masks_by_name import MASK_FOLDERS, ORGAN_FOLDERS
from .shared import existing, few, files_in, folders_in, place_of

NORMAL = ("normal", "good", "free", "healthy", "ok", "negative", "0")
ABNORMAL = (
    "abnormal", "bad", "defect", "defective", "positive", "tumor", "tumour", "lesion", "1", "benign", "malignant",
)  # fmt: skip
_SURELY = ("anomaly", "anomalies", "anomalous", "faulty", "ng", "nok", "ko", "diseased", "infected", "damaged", "broken")
"""Names that the only folder beside a normal one is known by; beside a third one all but the normal one are abnormal."""
PARTS = ("train", "training", "val", "valid", "validation", "test", "testing")
_OTHERS = (
    *PARTS, *MASK_FOLDERS, *ORGAN_FOLDERS, "images", "unlabelled", "unlabeled", "unknown", "unsorted", "raw", "other", "extra",
    "results", "output", "outputs", "predictions", "annotations", "labels", "thumbnails",
)  # fmt: skip
"""Names of folders that are no class unless the settings say so."""
_BESIDE = 16  # folders beside a table that are looked at: those of patients are more
_GRADE = re.compile(r"(?:grade|stage|class|level|kl)?[ _-]?(\d)", re.IGNORECASE)


@dataclass(frozen=True)
class ClassFolders:
    """The folders of a data set.

    Args:
        normal: of normal images; may be empty where there are several classes.
        abnormal: by name of the class; one class may have several folders, and a data set of one class several names.
        lines: how they were found, where the settings do not say it.
        masks: folders that would be classes by their place and hold masks by their look.
    """

    normal: Sequence[Path]
    abnormal: Mapping[str, Sequence[Path]]
    lines: Sequence[str] = ()
    masks: Sequence[Path] = ()

    @property
    def all(self) -> list[Path]:
        """Every folder, those of normal images first."""
        return [*self.normal, *(folder for folders in self.abnormal.values() for folder in folders)]


def by_name(root: Path, names: Sequence[str]) -> list[Path]:
    """Return the folders in `root` or `root/images` with one of the names."""
    return [folder for base in _bases(root) for folder in folders_in(base) if folder.name.lower() in names]


def _bases(root: Path) -> tuple[Path, Path]:
    return root, existing(root, "images")


def parts_in(root: Path) -> list[Path]:
    """Return the folders train, val, test, ... in `root` or `root/images` that hold folders of classes, one of them normal."""
    parts = [part for part in by_name(root, PARTS) if folders_in(part)]
    known = any(folder.name.lower() in NORMAL for part in parts for folder in folders_in(part))
    return parts if known else []


def found_folders(root: Path, settings: DataSettings) -> ClassFolders:
    """Return the folders that data.normal and data.abnormal name, or those with known names.

    Raises:
        UserError: the folders are grades, of which only a person knows which are normal.
    """
    if settings.normal or settings.abnormal:
        normal, abnormal = ([existing(root, name) for name in names] for names in (settings.normal, settings.abnormal))
        return ClassFolders(normal, {place_of(folder, root).as_posix(): [folder] for folder in abnormal})
    _require_no_grades(root)
    normal, abnormal = by_name(root, NORMAL), by_name(root, ABNORMAL)
    if normal or abnormal:
        others = [] if abnormal else [folder for folder in _others(_bases(root)) if files_in(folder)]
        masks = mask_folders(others, normal)
        others = [folder for folder in others if folder not in masks]
        if len(others) < 2 and not (others and others[0].name.lower() in _SURELY):
            return ClassFolders(normal, {place_of(folder, root).as_posix(): [folder] for folder in abnormal}, (), masks)
        return ClassFolders(normal, _named(others), [_one_class(others)] if len(others) > 1 else [], masks)
    parts = parts_in(root)
    inside = [folder for part in parts for folder in folders_in(part)]
    normal = [folder for folder in inside if folder.name.lower() in NORMAL]
    truth = {folder.name for folder in folders_in(root / "ground_truth")}
    abnormal = [folder for folder in inside if folder.name.lower() in ABNORMAL]
    others = [folder for folder in _others(parts) if folder not in abnormal and (not abnormal or folder.name in truth)]
    masks = mask_folders(others, [*normal, *abnormal])
    abnormal += [folder for folder in others if folder not in masks]
    lines = [f"the parts {few(part.name for part in parts)} are read together: who is held out is drawn anew (data.split_by)"]
    lines += [_one_class(abnormal)] if len(_named(abnormal)) > 1 else []
    return ClassFolders(normal, _named(abnormal), lines if parts else [], masks)


def folders_of_classes(root: Path, settings: DataSettings) -> ClassFolders | None:
    """Return the folders that `data.classes` names, wherever their parts are; None where none of the names is a folder.

    Raises:
        UserError: some of the names are folders and others are not, or data.abnormal is given as well.
    """
    there = _there(root)
    for name in settings.classes:
        if name not in there and (folder := existing(root, name)).is_dir():  # a path such as images/Crack
            there[name] = [folder]
    forms = {name.casefold() for name in there}
    if not any(name.casefold() in forms for name in settings.classes):
        return None
    if settings.abnormal:
        required, do = "folders by class, or all in one class", "leave out one of them"
        raise UserError("data.classes and data.abnormal are both given", required, do)
    names = asked_names(settings.classes, there, f"{root} (folders)")
    ends = [PurePath(name).name.casefold() for name in names]
    if twice := next((name for name, end in zip(names, ends, strict=True) if ends.count(end) > 1), None):
        got = f"data.classes names two folders {PurePath(twice).name}"
        raise UserError(got, "folders with names of their own, which are those of the classes", "rename one, or name one")
    normal = [existing(root, name) for name in settings.normal]
    normal = normal or [folder for name in there if name.lower() in NORMAL and name not in names for folder in there[name]]
    parts = [part.name for part in by_name(root, PARTS) if any(part in f.parents for name in names for f in there[name])]
    line = f"the parts {few(parts)} are read together: who is held out is drawn anew (data.split_by)"
    return ClassFolders(normal, {PurePath(name).name: there[name] for name in names}, [line] if parts else [])


def unread_masks(root: Path, folders: ClassFolders) -> list[Path]:
    """Return the folders beside those of classes that hold masks by their look, none of them by its name."""
    taken, parts = {*folders.all}, by_name(root, PARTS)
    above = {parent for folder in taken for parent in folder.parents}
    left = [f for f in _maybe_masks((*_bases(root), *parts)) if f not in above and not taken & {f, *f.parents}]
    return mask_folders(left, folders.all)


def masks_beside(root: Path, cases: Sequence[Case]) -> list[str]:
    """Return the line about a folder of masks, by their look, in the folder of a table that says nothing of masks."""
    folders = folders_in(root)
    images = {folder for folder in folders if any(folder in case.image.parents for case in cases)}
    left = [folder for folder in _maybe_masks([root]) if folder not in images]
    if not left or len(folders) > _BESIDE or any(is_dicom(case.image) for case in cases[:1]):
        return []
    found = [folder.name for folder in mask_folders(left, sorted(images))]
    what = "holds masks, as its files have few values and names of images: not read (--data.masks reads it)"
    return [f"the folder {few(found)} {what}"] if found else []


def _maybe_masks(bases: Sequence[Path]) -> list[Path]:
    known = (*(name for name in _OTHERS if name not in ("labels", "annotations")), *NORMAL)
    return [folder for base in dict.fromkeys(bases) for folder in folders_in(base) if folder.name.lower() not in known]


def class_names(root: Path) -> list[str]:
    """Return the names of the folders that may be classes."""
    return list(_there(root))


def class_paths(root: Path) -> list[str]:
    """Return the paths below `root` of the folders that may be classes and hold images."""
    return [folder.relative_to(root).as_posix() for some in _there(root).values() for folder in some if files_in(folder)]


def _there(root: Path) -> dict[str, list[Path]]:
    bases = [*_bases(root), *by_name(root, PARTS)]
    return _named([folder for base in bases for folder in folders_in(base) if folder.name.lower() not in _OTHERS])


def _others(bases: Sequence[Path]) -> list[Path]:
    """Return the folders of images that are neither known as normal nor as anything but a class."""
    folders = [folder for base in bases for folder in folders_in(base)]
    return [
        f for f in folders if (name := f.name.lower()) not in (*NORMAL, *_OTHERS) and not name.startswith(("masks_", "mask_"))
    ]


def _named(folders: Sequence[Path]) -> dict[str, list[Path]]:
    """Group folders by name in any capitals."""
    found: dict[str, list[Path]] = {}
    forms: dict[str, str] = {}
    for folder in folders:
        found.setdefault(forms.setdefault(folder.name.casefold(), folder.name), []).append(folder)
    return found


def _one_class(folders: Sequence[Path]) -> str:
    names = list(_named(folders))
    return f"the folders {few(names)} are read as one class, abnormal (--data.classes {' '.join(names[:8])}: a class each)"


def _require_no_grades(root: Path) -> None:
    """Raise `UserError` where three or more folders are named by consecutive grades."""
    for base in (*_bases(root), *by_name(root, PARTS)):
        grades = {int(match[1]): folder.name for folder in folders_in(base) if (match := _GRADE.fullmatch(folder.name))}
        if len(grades) > 2 and sorted(grades) == list(range(min(grades), max(grades) + 1)):
            first, *rest = (place_of(base / grades[grade], root).as_posix() for grade in sorted(grades))
            got = f"{root} has graded folders ({few(grades[grade] for grade in sorted(grades))})"
            do = f"set them, such as --data.normal {first} --data.abnormal {' '.join(rest)}"
            raise UserError(got, "to know which grades are normal", do)
