"""A cohort of DICOM series: one folder or .zip for each case.

    data/
      p1/              DICOM files of any name, at any depth: one series
      p2.zip           the same, packed
      labels.csv       case,label or case,slice,label; optional patient      (optional when anomalies are injected)
      patients.csv     case,patient                                          (optional, instead of the column patient)
      masks/p1.nii.gz, organ_masks/p1.nii.gz                                 (optional; any format of volumes)

A case of labels.csv may be one series of a folder with several: `p1#3`, see `scan_files`. Slices are counted from inferior (0)
to superior. Without a column patient it is a hash of PatientID, so that two scans of one patient stay together.
"""

from __future__ import annotations

from pathlib import Path

from ..config import DataSettings
from ..errors import UserError
from ..types import Case, Cohort
from .layout_labels import Given, labels_by_case, patients_by_case
from .layout_shared import MasksByName, few, folders_in, header_of, own_patients, patient_of, safe_id, stem_of, visible
from .scan_files import ARCHIVE, is_dicom, may_hold_slices, split_key

_TABLE = "labels.csv"


def fits_dicom(root: Path) -> bool:
    """Whether `root` has a folder or .zip with DICOM files."""
    return any(_is_series(path) for path in visible(root))


def list_dicom(root: Path, settings: DataSettings) -> Cohort:
    """One case for each folder or .zip with DICOM files, or for each series that labels.csv names in one."""
    table = root / _TABLE
    given = labels_by_case(table)
    masks = MasksByName.under(root, settings, settings.masks)
    scans: dict[str, Path] = {}
    for path in visible(root):
        if path in masks.folders or not _is_series(path):
            continue
        if other := scans.get(stem_of(path)):
            raise UserError(f"{other} and {path} are one case", "a folder or a .zip", "rename or remove one")
        scans[stem_of(path)] = path
    for name in given:
        place, key = split_key(root / name)
        if key is not None and (scan := scans.get(stem_of(place))):
            scans[name] = scan.with_name(f"{scan.name}#{key}")
    for name in {stem_of(split_key(root / name)[0]) for name in given if name in scans and "#" in scans[name].name}:
        scans.pop(name, None)  # The series it holds are cases of their own.
    if not scans:
        raise UserError(
            f"{root} holds no DICOM series (folders: {few(f.name for f in folders_in(root))})",
            "a folder or .zip of DICOM files for each case",
            "correct the path or data.layout",
        )
    patients = patients_by_case(table if "patient" in (header_of(table) if table.is_file() else []) else root / "patients.csv")
    cases = [_case(name, scan, given.get(name, Given()), patients, masks) for name, scan in scans.items()]
    cases, problems = masks.with_organs(cases)
    problems += [f"{_TABLE} names {name}, which is missing" for name in given if name not in scans]
    if not patients:
        problems.append(f"no table names patients: {own_patients(cases)}")
    source = f"image labels from {_TABLE}" if given else f"no {_TABLE}, no image labels"
    return Cohort("dicom", tuple(cases), source, tuple(problems))


def _is_series(path: Path) -> bool:
    return is_dicom(path) if path.is_dir() else path.suffix.lower() == ARCHIVE and may_hold_slices(path)


def _case(name: str, scan: Path, given: Given, patients: dict[str, str], masks: MasksByName) -> Case:
    case, place = safe_id(name), Path(name)
    return Case(
        id=case, patient=patients.get(name) or patient_of(scan, case), image=scan, volume=True, label=given.label,
        slice_labels=given.slices, organ=masks.organ_sources(masks.organ(scan, place)),
        lesion=masks.lesion_sources(masks.lesion(scan, place)),
    )  # fmt: skip
