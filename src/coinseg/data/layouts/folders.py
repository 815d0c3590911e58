"""Plain folders of normal and of abnormal images or volumes; recognised by the name of such a folder.

    normal/a.png          or good, healthy, ...; any folders with data.normal and data.abnormal
    abnormal/b.png        or bad, defect, ...
    abnormal/b_mask.png   a mask beside its image (also b_mask_1.png, abnormal/masks/b.png), or masks/b.png, masks/abnormal/b.png
                          (data.masks); several of one image are joined
    organ_masks/a.png     optional, likewise (data.organ_from)

Both folders may also lie in `images/`. Every file is its own patient; for DICOM the patient is a hash of PatientID.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePath

from coinseg.config.schema import DataSettings
from coinseg.data.readers.image import IMAGE_SUFFIXES
from coinseg.data.readers.volume import VOLUME_SUFFIXES, is_volume
from coinseg.errors import UserError
from coinseg.types import Case, Cohort

from .masks_by_name import MASK_FOLDERS, MasksByName, without_tail
from .shared import (
    existing,
    few,
    files_in,
    folders_in,
    own_patients,
    patient_of,
    place_of,
    safe_id,
    with_label,
    without_suffix,
)  # fmt: skip
from .unread import folders_left

_NORMAL = ("normal", "good", "free", "healthy", "ok", "negative", "0")
_ABNORMAL = ("abnormal", "bad", "defect", "defective", "positive", "tumor", "tumour", "lesion", "1")


def fits_folders(root: Path) -> bool:
    """Return whether `root` has a folder with a known name."""
    return bool(_by_name(root, _NORMAL + _ABNORMAL))


def list_folders(root: Path, settings: DataSettings) -> Cohort:
    """List one case for each file in the folders of both classes."""
    classes = [[existing(root, name) for name in names] for names in (settings.normal, settings.abnormal)]
    if not (settings.normal or settings.abnormal):
        classes = [_by_name(root, names) for names in (_NORMAL, _ABNORMAL)]
    masks = MasksByName.under(root, settings, settings.masks)
    found = [_cases_in(root, folder, label, masks) for label, folders in enumerate(classes) for folder in folders]
    cases, alone = [case for some, _ in found for case in some], [name for _, names in found for name in names]
    _require_masks(settings, cases)
    cases, problems, left_out = masks.matched(cases)
    problems = folders_left(root, {*classes[0], *classes[1], *masks.folders}) + problems
    problems += [f"masks without their image are left out: {few(alone)}"] if alone else []
    normal, abnormal = (few(place_of(folder, root).as_posix() for folder in folders) for folders in classes)
    source = f"image labels from folders: normal {normal}, abnormal {abnormal}"
    problems.append(f"folders name no patients: {own_patients(cases)}")
    return Cohort("folders", tuple(cases), source, tuple(problems), tuple(left_out))


def _cases_in(root: Path, folder: Path, label: int, masks: MasksByName) -> tuple[list[Case], list[str]]:
    """Return the cases of one folder, and the names of masks beside them whose image is not there; no mask is a case."""
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder", "folders relative to the data", "correct data.normal or data.abnormal")
    files = [path for path in files_in(folder) if not masks.contains(path)]
    images, beside = apart(folder, files)
    if not images:
        raise UserError(f"{folder} holds no image", f"{', '.join(IMAGE_SUFFIXES + VOLUME_SUFFIXES)} files", "correct the folder")
    cases = []
    for path, name in images.items():
        place, inside = place_of(path, root), path.relative_to(folder)
        # A normal image takes no mask by its bare name: normal/001.png and abnormal/001.png would share masks/001.png.
        places = (place, folder.name / inside) if label == 0 else (place, folder.name / inside, inside)
        lesions = masks.lesion(path, *places) or beside.get(name, [])
        case = with_label(Case(safe_id(place), patient_of(path, safe_id(place)), path, is_volume(path)), label)
        organ, lesion = masks.organ_sources(masks.organ(path, place)), masks.lesion_sources(lesions)
        cases.append(replace(case, organ=organ, lesion=lesion))
    return cases, [path.name for name in beside.keys() - set(images.values()) for path in beside[name]]


def apart(folder: Path, files: Sequence[Path]) -> tuple[dict[Path, str], dict[str, list[Path]]]:
    """Return the names of images, and masks by the name of their image; names are without suffix, `images/` and `masks/`.

    A mask is a file in a folder of masks, and `x_mask` beside `x`; where there are such, also an `x_mask` beside nothing.
    """
    places = {path: path.relative_to(folder).parent.parts for path in files}
    masks = {path for path, parts in places.items() if any(part.lower() in MASK_FOLDERS for part in parts)}
    masks = set() if len(masks) == len(files) else masks  # a class may have such a name
    names = {}
    for path, parts in places.items():
        kept = [part for part in parts if part.lower() not in (*MASK_FOLDERS, "images")]
        names[path] = without_suffix(PurePath(*kept, path.name))
    own = {names[path] for path in files if path not in masks}
    tailed = {path for path in files if path not in masks and without_tail(names[path]) != names[path]}
    masks |= tailed if any(without_tail(names[path]) in own for path in tailed) else set()
    beside: dict[str, list[Path]] = {}
    for path in files:
        if path in masks:
            beside.setdefault(without_tail(names[path]), []).append(path)
    return {path: names[path] for path in files if path not in masks}, beside


def _require_masks(settings: DataSettings, cases: Sequence[Case]) -> None:
    """Raise `UserError` when no mask of `data.masks` fits an image, or a mask fits two."""
    if settings.masks and not any(case.lesion for case in cases):
        raise UserError(f"no mask in {settings.masks} has the name of an image", "masks/x.png for x.png", "correct data.masks")
    owners: dict[Path, Case] = {}
    for case in cases:
        for source in case.lesion:
            if (other := owners.setdefault(source.path, case)) is not case:
                got = f"mask {source.path} fits {other.image} and {case.image}"
                raise UserError(got, "one mask per image", "use subfolders as for the images")


def _by_name(root: Path, names: Sequence[str]) -> list[Path]:
    """Return the folders in `root` or `root/images` with one of the names."""
    return [folder for base in (root, root / "images") for folder in folders_in(base) if folder.name.lower() in names]
