"""Plain folders of normal and of abnormal images or volumes; recognised by the names of folders, see `class_folders`.

    normal/a.png          or good, healthy, ...; any folders with data.normal and data.abnormal
    abnormal/b.png        or bad, defect, ...; with data.classes a folder a class, an image with several lies in several
    abnormal/b_mask.png   a mask beside its image (also b_mask_1.png, abnormal/masks/b.png), or masks/b.png, masks/abnormal/b.png
                          (data.masks); several of one image are joined; another word in its name and few values make one, too
    masks/b.png           with data.classes 1 2, or names of classes.json, a label map of classes; no folders are needed then
    organ_masks/a.png     optional, likewise (data.organ_from)

Where every scan has them, x_flair.nii.gz and x_t2.nii.gz are channels. Every file is its own patient; for DICOM the patient is a
hash of PatientID.
"""

import filecmp
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

from coinseg.config.schema import DataSettings
from coinseg.data.readers.image import IMAGE_SUFFIXES
from coinseg.data.readers.volume import VOLUME_SUFFIXES, is_volume
from coinseg.errors import UserError
from coinseg.types import Case, ClassLabels, Cohort, MaskSource

from .class_folders import (
    ABNORMAL,
    NORMAL,
    PARTS,
    ClassFolders,
    by_name,
    class_names,
    folders_of_classes,
    found_folders,
    parts_in,
    unread_masks,
)  # fmt: skip
from .classes import asked_names, with_classes
from .dataset_json import values_by_class
from .masks_by_look import apart, in_masks, marks_normal
from .masks_by_name import MasksByName, without_tail
from .sequence_names import common_sequences, split_name
from .shared import existing, few, files_in, own_patients, patient_of, place_of, safe_id, with_label, without_suffix
from .unread import folders_left


def fits_folders(root: Path) -> bool:
    """Return whether `root` has a folder with a known name, or parts such as train and test with one."""
    return bool(by_name(root, NORMAL + ABNORMAL) or parts_in(root))


def list_folders(root: Path, settings: DataSettings) -> Cohort:
    """List one case for each file in the folders of both classes, or of several; files of one scan are one case."""
    folders = folders_of_classes(root, settings) if settings.classes else found_folders(root, settings)
    if folders is None:
        return _label_maps(root, settings, MasksByName.under(root, settings, settings.masks))
    masks, lines_of_masks = _masks_of(root, settings, folders)
    labels = [(folder, 0) for folder in folders.normal]
    labels += [(folder, 1) for name in folders.abnormal for folder in folders.abnormal[name]]
    listed = [_listed(folder, label, masks) for folder, label in labels]
    masks = with_names(masks, listed)
    sequences, lines = _sequences(root, listed)
    own = {folder: _own_masks(root, settings, name) for name, some in folders.abnormal.items() for folder in some}
    found = [_cases_in(root, one, masks, sequences, own.get(one.folder)) for one in listed]
    cases, unclear = _by_class(folders, listed, found) if settings.classes else ([case for some in found for case in some], [])
    _require_masks(settings, cases)
    cases, problems, left_out = masks.matched(cases)
    covered = [folder for one in own.values() if one for folder in one.folders]
    alone = [path.name for one in listed for path in one.alone]
    lines += [*guessed_masks(listed), *lines_of_masks]
    problems = folders_left(root, {*folders.all, *masks.folders, *covered}) + [*folders.lines, *lines, *unclear, *problems]
    problems += [f"masks without their image are left out: {few(alone)}"] if alone else []
    normal = few(place_of(folder, root).as_posix() for folder in folders.normal)
    source = f"image labels from folders: normal {normal}, "
    source += f"classes {few(folders.abnormal)}" if settings.classes else f"abnormal {_said(root, folders)}"
    said = (*problems, _no_patients(listed, cases))
    names = tuple(folders.abnormal) if settings.classes else ()
    return Cohort("folders", tuple(cases), source, said, sequences, names, tuple(left_out))


def _masks_of(root: Path, settings: DataSettings, folders: ClassFolders) -> tuple[MasksByName, list[str]]:
    """Return the masks of a data set, and the line about the folder they are in where only its files tell that."""
    masks = MasksByName.under(root, settings, settings.masks)
    if masks.lesions or settings.masks or not (found := unread_masks(root, folders)):
        return masks, []
    names = [folder.relative_to(root).as_posix() for folder in found]
    what = "hold masks, as their files have few values and names of images"
    if len(names) > 1:
        return masks, [f"the folders {few(names)} {what}: none is read (--data.masks names one)"]
    if marks_normal(found[0], folders.normal, [folder for some in folders.abnormal.values() for folder in some]):
        what = "holds masks of normal images too, which are not empty"
        return masks, [f"the folder {names[0]} {what}: not read, as of an organ (--data.masks: as of lesions)"]
    line = f"the masks are taken from {names[0]}: its files have few values and names of images"
    return MasksByName.under(root, settings, names[0]), [line]


def _said(root: Path, folders: ClassFolders) -> str:
    return few(place_of(folder, root).as_posix() for some in folders.abnormal.values() for folder in some)


@dataclass(frozen=True)
class _Listed:
    """The files of one folder: images and masks beside them by name, and their label."""

    folder: Path
    label: int | None
    images: dict[Path, str]
    beside: dict[str, list[Path]]

    @property
    def alone(self) -> list[Path]:
        """Masks whose image is not there."""
        known = {name for image in self.images.values() for name in (image, split_name(image)[0])}
        return [path for name, paths in self.beside.items() if name not in known for path in paths]

    @property
    def guessed(self) -> list[Path]:
        """Masks beside their image that only their pixels tell."""
        own = [path for paths in self.beside.values() for path in paths if not in_masks(path, self.folder)]
        return [path for path in own if without_tail(name := without_suffix(PurePath(path.name))) == name]


def _listed(folder: Path, label: int | None, masks: MasksByName) -> _Listed:
    """List the images of one folder; no mask is one."""
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder", "folders relative to the data", "correct data.normal or data.abnormal")
    images, beside = apart(folder, [path for path in files_in(folder) if not masks.contains(path)])
    if not images:
        raise UserError(f"{folder} holds no image", f"{', '.join(IMAGE_SUFFIXES + VOLUME_SUFFIXES)} files", "correct the folder")
    return _Listed(folder, label, images, beside)


def with_names(masks: MasksByName, listed: Sequence[_Listed]) -> MasksByName:
    """Return the masks, which know the names of all images then."""
    return replace(masks, images=frozenset(PurePath(name).name for one in listed for name in one.images.values()))


def guessed_masks(listed: Sequence[_Listed]) -> list[str]:
    """Return the line about masks that are none by a word in their name."""
    known = [path.name for one in listed for path in one.guessed]
    return (
        [f"{len(known)} files beside images are taken for their masks, as they have few values: {few(known, 3)}"] if known else []
    )


def _no_patients(listed: Sequence[_Listed], cases: Sequence[Case]) -> str:
    """Return the line about patients, with folders in those of classes that may be some: several images lie in each."""
    places = [place for one in listed for name in one.images.values() if (place := name.rpartition("/")[0])]
    places = [place for place in places if place.lower() not in PARTS]
    inside, number = len(set(places)), sum(len(one.images) for one in listed)
    what = "are patients, a table with file and patient in the data says so"
    several = 2 * len(places) > number and inside < len(places)
    hint = f" (where the {inside} folders in those of classes {what})" if several else ""
    return f"folders name no patients: {own_patients(cases)}{hint}"


def _sequences(root: Path, listed: Sequence[_Listed]) -> tuple[tuple[str, ...], list[str]]:
    """Return the sequences that every scan has, and the line where only some have them; plain images have none."""
    names = {path: without_suffix(path.relative_to(root)) for one in listed for path in one.images if is_volume(path)}
    return common_sequences(names) if len(names) == sum(len(one.images) for one in listed) else ((), [])


def _own_masks(root: Path, settings: DataSettings, name: str) -> MasksByName | None:
    """Return the masks in masks_CLASS, where there is such a folder for one of several classes."""
    folder = existing(root, f"masks_{name}")
    return MasksByName.under(root, settings, folder.name) if settings.classes and folder.is_dir() else None


def _cases_in(
    root: Path, listed: _Listed, masks: MasksByName, sequences: Sequence[str], own: MasksByName | None = None
) -> list[Case]:
    """Return the cases of one folder; with `sequences` the files of a scan are one, named as the scan; `own` masks go first."""
    cases, folder = [], listed.folder
    scans: dict[str, list[Path]] = {}
    for path, name in listed.images.items():
        scans.setdefault(f"{path.parent}/{split_name(name)[0]}" if sequences else str(path), []).append(path)
    for paths in scans.values():
        if sequences:
            paths.sort(key=lambda one: sequences.index(split_name(listed.images[one])[1]))
        path, *others = paths
        inside: PurePath = path.relative_to(folder)
        place, name = place_of(path, root), listed.images[path]
        if sequences:
            place, inside = (PurePath(split_name(without_suffix(one))[0]) for one in (place, inside))
            name = split_name(name)[0]
        # A normal image takes no mask by its bare name: normal/001.png and abnormal/001.png would share masks/001.png.
        places = (place, folder.name / inside) if listed.label == 0 else (place, folder.name / inside, inside)
        lesions = (own.lesion(path, inside) if own else ()) or masks.lesion(path, *places) or listed.beside.get(name, [])
        case = Case(safe_id(place), patient_of(path, safe_id(place)), path, is_volume(path), others=tuple(others))
        organ, lesion = masks.organ_sources(masks.organ(path, place)), masks.lesion_sources(lesions)
        cases.append(replace(with_label(case, listed.label), organ=organ, lesion=lesion))
    return cases


def _by_class(folders: ClassFolders, listed: Sequence[_Listed], found: Sequence[list[Case]]) -> tuple[list[Case], list[str]]:
    """Give every case its classes, and say whose masks are of several; equal files of one name in several folders are one."""
    numbers = {folder: number for number, some in enumerate(folders.abnormal.values()) for folder in some}
    normal: list[Case] = []
    known: dict[PurePath, list[tuple[Case, dict[int, tuple[MaskSource, ...]]]]] = {}
    for one, cases in zip(listed, found, strict=True):
        for case in cases:
            if one.folder not in numbers:
                none = ClassLabels(case.label, case.slice_labels, case.lesion)
                normal.append(with_classes(case, [none] * len(folders.abnormal)))
                continue
            same = known.setdefault(case.image.relative_to(one.folder), [])
            twin = next((lesions for other, lesions in same if _are_equal(other.image, case.image)), None)
            if twin is None:
                same.append((case, twin := {}))
            twin[numbers[one.folder]] = case.lesion
    cases, unclear = [], []
    for case, lesions in (pair for pairs in known.values() for pair in pairs):
        shared = len(lesions) > 1 and len({paths for paths in lesions.values() if paths}) < sum(map(bool, lesions.values()))
        unclear += [case.id] if shared else []
        without, labels = with_label(case, 0), list[ClassLabels]()
        for number in range(len(folders.abnormal)):
            which = case if number in lesions else without
            labels.append(ClassLabels(which.label, which.slice_labels, () if shared else lesions.get(number, ())))
        cases.append(with_classes(case, labels))
    what = "are not used: which part of it is which class is not known (masks_CLASS/ would say it)"
    return [*normal, *cases], [f"masks of {len(unclear)} images in several classes {what}"] if unclear else []


def _are_equal(one: Path, other: Path) -> bool:
    return one.is_file() and other.is_file() and filecmp.cmp(one, other, shallow=False)


def _label_maps(root: Path, settings: DataSettings, masks: MasksByName) -> Cohort:
    """List images whose masks have a value for each class; an image in a folder of normal ones has none of them."""
    values = values_by_class(root, settings.classes)
    known = [*values, *class_names(root)]
    names = asked_names(settings.classes, known, f"{root} (folders, classes.json)")
    folders = found_folders(root, settings)
    base = root / "images" if (root / "images").is_dir() else root
    labels = [*((folder, 0) for folder in folders.normal), *((f, None) for some in folders.abnormal.values() for f in some)]
    listed = [_listed(folder, label, masks) for folder, label in labels or [(base, None)]]
    masks = with_names(masks, listed)
    sequences, lines = _sequences(root, listed)
    cases = []
    for one in listed:
        for case in _cases_in(root, one, masks, sequences):
            parts = [[MaskSource(mask.path, values[name]) for mask in case.lesion] for name in names]
            cases.append(with_classes(case, [ClassLabels(case.label, case.slice_labels, tuple(part)) for part in parts]))
    if not any(case.lesion for case in cases):
        required = "masks/x.png for x.png, whose values are the classes, or a folder a class"
        raise UserError(f"no mask in {root} has the name of an image", required, "add them, or correct data.classes")
    _require_masks(settings, cases)
    cases, problems, left_out = masks.matched(cases)
    problems = folders_left(root, {*(folder for folder, _ in labels or [(base, None)]), *masks.folders}) + [*lines, *problems]
    source = "no image labels in the data" + (
        f" but the normal ones of {few(f.name for f in folders.normal)}" * bool(folders.normal)
    )
    said = (*problems, _no_patients(listed, cases))
    return Cohort("folders", tuple(cases), source, said, sequences, tuple(names), tuple(left_out))


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
