"""Plain folders of normal and of abnormal images or volumes; recognised by the name of such a folder.

    normal/a.png          or good, healthy, ...; any folders with data.normal and data.abnormal
    abnormal/b.png        or bad, defect, ...
    abnormal/b_mask.png   a mask beside its image, or masks/b.png, masks/abnormal/b.png (data.masks)
    organ_masks/a.png     optional, likewise (data.organ_from)

Both folders may also lie in `images/`. Every file is its own patient; for DICOM the patient is a hash of PatientID.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from coinseg.config.schema import DataSettings
from coinseg.data.readers.image import IMAGE_SUFFIXES
from coinseg.data.readers.volume import VOLUME_SUFFIXES, is_volume
from coinseg.errors import UserError
from coinseg.types import Case, Cohort

from .masks_by_name import MasksByName
from .shared import few, files_in, folders_in, own_patients, patient_of, place_of, safe_id, stem_of, with_label

_NORMAL = ("normal", "good", "free", "healthy", "ok", "negative", "0")
_ABNORMAL = ("abnormal", "bad", "defect", "defective", "positive", "tumor", "tumour", "lesion", "1")


def fits_folders(root: Path) -> bool:
    """Return whether `root` has a folder with a known name."""
    return bool(_by_name(root, _NORMAL + _ABNORMAL))


def list_folders(root: Path, settings: DataSettings) -> Cohort:
    """List one case for each file in the folders of both classes."""
    classes = [[root / name for name in names] for names in (settings.normal, settings.abnormal)]
    if not (settings.normal or settings.abnormal):
        classes = [_by_name(root, names) for names in (_NORMAL, _ABNORMAL)]
    masks = MasksByName.under(root, settings, settings.masks)
    cases = [c for label, folders in enumerate(classes) for folder in folders for c in _cases_in(root, folder, label, masks)]
    _require_masks(settings, cases)
    cases, problems = masks.matched(cases)
    normal, abnormal = (few(place_of(folder, root).as_posix() for folder in folders) for folders in classes)
    source = f"image labels from folders: normal {normal}, abnormal {abnormal}"
    return Cohort("folders", tuple(cases), source, (*problems, f"folders name no patients: {own_patients(cases)}"))


def _cases_in(root: Path, folder: Path, label: int, masks: MasksByName) -> list[Case]:
    """Return the cases of one folder; a mask beside its image (`x_mask.png` beside `x.png`) is no case."""
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder", "folders relative to the data", "correct data.normal or data.abnormal")
    files = {path: path.with_name(stem_of(path)) for path in files_in(folder) if not masks.contains(path)}
    if not files:
        raise UserError(f"{folder} holds no image", f"{', '.join(IMAGE_SUFFIXES + VOLUME_SUFFIXES)} files", "correct the folder")
    bare = {name: path for path, name in files.items()}
    cases = []
    for path, name in files.items():
        if name.name.endswith("_mask") and name.with_name(name.name.removesuffix("_mask")) in bare:
            continue
        place, inside = place_of(path, root), path.relative_to(folder)
        # A normal image takes no mask by its bare name: normal/001.png and abnormal/001.png would share masks/001.png.
        places = (place, folder.name / inside) if label == 0 else (place, folder.name / inside, inside)
        mask = masks.lesion(path, *places) or bare.get(name.with_name(f"{name.name}_mask"))
        case = with_label(Case(safe_id(place), patient_of(path, safe_id(place)), path, is_volume(path)), label)
        organ, lesion = masks.organ_sources(masks.organ(path, place)), masks.lesion_sources(mask)
        cases.append(replace(case, organ=organ, lesion=lesion))
    return cases


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
