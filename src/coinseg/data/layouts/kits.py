"""The Kidney Tumor Segmentation challenges (KiTS19, KiTS21, KiTS23); one patient per case.

    data/                        or in it data/ (KiTS19), kits21/data/ (KiTS21), dataset/ (KiTS23), as their repositories have it
      case_00000/
        imaging.nii.gz           stored as (slice, row, column): the affine says so
        segmentation.nii.gz      1 kidney, 2 tumor, 3 cyst; aggregated_MAJ_seg.nii.gz (the raters' majority) in KiTS21
      labels.csv                 image_id,slice,label or image_id,label      (optional: image labels; they win over masks)
      patients.csv               case,patient                                (optional: cases of one patient)

The tables are in the folder that is given. `data.organ_from` is another such tree for the organs.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from coinseg.config.schema import DataSettings
from coinseg.errors import UserError
from coinseg.types import Cohort

from .label_maps import MapScan, Names, Regions, cohort_of
from .shared import few, folders_in, organ_root

NAMES: Names = {"kidney": (1,), "tumor": (2,), "tumour": (2,), "cyst": (3,)}
_PLACES = ("data", "dataset", "kits21/data")
_CASE = re.compile(r"case_\d+")
_MAPS = ("segmentation.nii.gz", "aggregated_MAJ_seg.nii.gz")


def fits_kits(root: Path) -> bool:
    """Whether `root` holds cases of KiTS."""
    return bool(_cases(root))


def list_kits(root: Path, settings: DataSettings) -> Cohort:
    """One case for each folder; without `data.lesion` the tumour is the lesion."""
    folders, problems, unlabelled = _cases(root), [], "no image labels in the data"
    if not folders:
        raise UserError(
            f"{root} holds no case_00000 ({few(folder.name for folder in folders_in(root))})",
            "folders case_00000 with imaging.nii.gz and segmentation.nii.gz",
            "correct the path or data.layout",
        )
    if not settings.lesion:
        settings = replace(settings, lesion=("tumor",))
        problems.append("data.lesion is empty: tumor (label 2) is taken; cysts are no lesion")
        unlabelled += ", the lesion is tumor (label 2)"
    own = organ_root(root, settings)
    organs = {folder.name: folder for folder in (_cases(own) if own else folders)}
    scans = [
        MapScan(f.name, f / "imaging.nii.gz", _map_in(f), _map_in(organs.get(f.name, (own or root) / f.name))) for f in folders
    ]
    regions = Regions.asked_for(settings, NAMES, NAMES, "KiTS")
    return cohort_of("kits", root, scans, regions, unlabelled, problems)


def _cases(root: Path) -> list[Path]:
    """Folders of cases in `root` or where a challenge's repository has them, whichever has some first."""
    for base in (root, *(root / place for place in _PLACES)):
        found = [folder for folder in folders_in(base) if _CASE.fullmatch(folder.name) and _holds_a_scan(folder)]
        if found:
            return found
    return []


def _holds_a_scan(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("imaging.nii.gz", *_MAPS))


def _map_in(folder: Path) -> Path:
    """The label map of a case; where one should be when there is none."""
    return next((folder / name for name in _MAPS if (folder / name).is_file()), folder / _MAPS[0])
