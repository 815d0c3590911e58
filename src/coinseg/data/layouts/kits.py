"""The Kidney Tumor Segmentation challenges (KiTS19, KiTS21, KiTS23); recognised by folders case_00000 with a scan or label map.

    case_00000/imaging.nii.gz       stored as (slice, row, column): the affine says so
    case_00000/segmentation.nii.gz  1 kidney, 2 tumor, 3 cyst; aggregated_MAJ_seg.nii.gz (the raters' majority) in KiTS21

The cases may also lie in data/ (KiTS19), kits21/data/ or dataset/ (KiTS23); labels.csv and patients.csv do not (`label_maps`).
`data.organ_from` is another such tree for the organs.
"""

import re
from dataclasses import replace
from pathlib import Path

from coinseg.config.schema import DataSettings
from coinseg.errors import UserError
from coinseg.types import Cohort

from .classes import ScanClasses
from .label_maps import MapScan, Names, Regions, cohort_of
from .shared import few, folders_in, organ_root

NAMES: Names = {"kidney": (1,), "tumor": (2,), "tumour": (2,), "cyst": (3,)}
_PLACES = ("data", "dataset", "kits21/data")
_CASE = re.compile(r"case_\d+")
_MAPS = ("segmentation.nii.gz", "aggregated_MAJ_seg.nii.gz")
_FILES = ("imaging.nii.gz", *_MAPS)


def fits_kits(root: Path) -> bool:
    """Return whether `root` holds cases of KiTS."""
    return bool(_cases(root))


def list_kits(root: Path, settings: DataSettings) -> Cohort:
    """List one case for each folder; without `data.lesion` the tumour is the lesion."""
    folders, problems, unlabelled = _cases(root), [], "no image labels in the data"
    if not folders:
        got = f"{root} holds no case_00000 ({few(folder.name for folder in folders_in(root))})"
        required = "folders case_00000 with imaging.nii.gz and segmentation.nii.gz"
        raise UserError(got, required, "correct the path or data.layout")
    classes = ScanClasses.of(root / "labels.csv", settings)
    if not settings.lesion and not classes.names:
        settings = replace(settings, lesion=("tumor",))
        problems.append("data.lesion is empty: tumor (label 2) is taken; cysts are no lesion")
        unlabelled += ", the lesion is tumor (label 2)"
    other = organ_root(root, settings)
    organs = {folder.name: folder for folder in (_cases(other) if other else folders)}
    maps = [_map_in(organs.get(folder.name, (other or root) / folder.name)) for folder in folders]
    scans = [MapScan(f.name, f / "imaging.nii.gz", _map_in(f), organ) for f, organ in zip(folders, maps, strict=True)]
    regions = Regions.asked_for(settings, NAMES, NAMES, "KiTS", classes)
    return cohort_of("kits", root, scans, regions, unlabelled, problems, classes)


def _cases(root: Path) -> list[Path]:
    """Return the folders of cases in `root`, or in the first of the places where the repositories of the challenges have them."""
    for base in (root, *(root / place for place in _PLACES)):
        if cases := [f for f in folders_in(base) if _CASE.fullmatch(f.name) and any((f / name).is_file() for name in _FILES)]:
            return cases
    return []


def _map_in(folder: Path) -> Path:
    """Return the label map of a case, or where it should be when there is none."""
    return next((folder / name for name in _MAPS if (folder / name).is_file()), folder / _MAPS[0])
