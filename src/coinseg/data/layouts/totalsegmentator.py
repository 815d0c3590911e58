"""The layout of the TotalSegmentator dataset, one patient per scan; recognised by a folder with a ct.nii.gz.

    meta.csv      image_id;...;study_type   (optional: which scans are kept)
    labels.csv    image_id,slice,label      (optional: image labels; without slice, of whole scans)
    s0001/        ct.nii.gz, segmentations/kidney_left.nii.gz (named by data.organ, data.lesion or data.classes, no suffix)

`data.organ_from` is another such tree for the organ masks; there `segmentations/` may be left out.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from coinseg.config.schema import DataSettings
from coinseg.data.readers.volume import is_volume
from coinseg.errors import UserError
from coinseg.types import Case, Cohort, MaskSource

from .classes import ScanClasses
from .shared import composed, few, folders_in, nearest, organ_root, safe_id, stem_of, visible
from .tables import Given, label_source, labels_by_case, read_table, strangers


def fits_scans(root: Path) -> bool:
    """Return whether a folder in `root` holds a scan."""
    return any((folder / "ct.nii.gz").is_file() for folder in folders_in(root))


def list_scans(root: Path, settings: DataSettings) -> Cohort:
    """List one case for each kept scan that has every organ of `data.organ`."""
    folders, problems = _kept_scans(root, settings.study_type)
    other = organ_root(root, settings)
    organs = {f.name: [other / f.name / "segmentations", other / f.name] if other else [f / "segmentations"] for f in folders}
    lesions = {f.name: [f / "segmentations", *organs[f.name]] for f in folders}
    _require_classes(settings.organ, organs, "organ")
    _require_classes(settings.lesion, lesions, "lesion")
    classes = ScanClasses.of(root / "labels.csv", settings)
    _require_classes([name for name in settings.classes if name not in classes.given], lesions, "classes")
    labels = {} if classes.names else labels_by_case(root / "labels.csv")
    problems += classes.lines
    if unknown := {*labels, *classes.cases()} - {composed(folder.name) for folder in folders_in(root)}:
        problems.append(strangers(root / "labels.csv", unknown))
    cases, left_out = [], []
    for folder in folders:
        name, scan = folder.name, folder / "ct.nii.gz"
        organ = masks_named(organs[name], settings.organ)
        if not scan.is_file():
            problems.append(f"{name}: skipped, no ct.nii.gz")
        elif len(organ) < len(settings.organ):
            problems.append(f"{name}: skipped, no mask of {', '.join(c for c in settings.organ if c not in organ)}")
            left_out.append(Case(safe_id(name), name, scan, True))
        else:
            lesion = masks_named(lesions[name], settings.lesion or classes.names)
            given = labels.get(composed(name), Given())
            if (asked := settings.lesion or settings.classes) and not lesion and given == Given():
                problems += (
                    [] if classes.labelled(composed(name)) else [f"{name}: no mask of {few(asked)} to make its labels from"]
                )
            masks = tuple(organ.values()), tuple(lesion.values())
            case = Case(safe_id(name), name, scan, True, given.label, given.slices, *masks)
            own = [(lesion[one],) if one in lesion else () for one in classes.names]
            cases.append(classes.on(case, composed(name), own) if classes.names else case)
    table = root / "labels.csv"
    source = label_source(table) if labels else classes.source(table, "no image labels in the data")
    return Cohort("totalsegmentator", tuple(cases), source, tuple(problems), classes=classes.names, left_out=tuple(left_out))


def names_of_masks(root: Path, settings: DataSettings) -> list[str]:
    """Return the names that data.organ can have, those that most scans have a mask of first; lesions and classes are none."""
    other, known = organ_root(root, settings), {"ct", *settings.lesion, *settings.classes}
    base = other or root
    places = [base / f.name / inside for f in folders_in(root) for inside in ("segmentations", *([""] if other else []))]
    found = Counter(stem_of(path) for place in places for path in visible(place) if is_volume(path))
    return [name for name, _ in sorted(found.items(), key=lambda one: (-one[1], one[0])) if name not in known]


def _kept_scans(root: Path, study_type: str) -> tuple[list[Path], list[str]]:
    """Return the folders of scans whose study type fits, and the problems of the others."""
    folders = [f for f in folders_in(root) if (f / "ct.nii.gz").exists() or (f / "segmentations").exists()]
    if not study_type:
        return folders, []
    meta = root / "meta.csv"
    rows = read_table(meta) if meta.is_file() else []
    if not rows or not {"image_id", "study_type"} <= rows[0][1].keys():
        what = "has no columns image_id and study_type" if meta.is_file() else "is missing"
        return folders, [f"meta.csv {what}: scans of every study type are kept"]
    types = {row["image_id"]: row["study_type"] for _, row in rows}
    kept = [f for f in folders if study_type.lower() in types.get(composed(f.name), "").lower()]
    if folders and not kept:
        got = f"no scan in {root} has a study_type with {study_type!r} ({few(sorted(set(types.values())))})"
        raise UserError(got, "a word that occurs in meta.csv", 'set data.study_type; "" keeps every scan')
    problems = [f"{f.name}: skipped, not listed in meta.csv" for f in folders if composed(f.name) not in types]
    if others := len(folders) - len(kept) - len(problems):
        problems.append(f"{others} scans skipped: their study_type in meta.csv lacks {study_type!r}")
    return kept, problems


def masks_named(places: Sequence[Path], names: Sequence[str]) -> dict[str, MaskSource]:
    """Return the masks that exist, each from the first folder that has it."""
    paths = [(name, place / f"{name}.nii.gz") for name in names for place in reversed(places)]
    return {name: MaskSource(path) for name, path in paths if path.is_file()}


def _require_classes(names: Sequence[str], places: dict[str, list[Path]], setting: str) -> None:
    """Raise `UserError` for a class that no scan has, most likely a misspelled one."""
    missing = [name for name in names if not any(masks_named(folders, [name]) for folders in places.values())]
    if missing and places:
        files = [path for folders in places.values() for folder in folders for path in visible(folder)]
        known = {stem_of(path) for path in files if is_volume(path)} - {"ct"}
        got, do = f"data.{setting} names {missing[0]!r}, which no scan has a mask of", "correct the name"
        do += ", or set data.organ_from" if setting == "organ" else ""
        raise UserError(got, f"a known class ({nearest(missing[0], known)})", do)
