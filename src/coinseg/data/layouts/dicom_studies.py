"""A cohort of DICOM series: one folder or .zip for each case; recognised by such a folder or .zip.

    p1/, p2.zip      DICOM files of any name, at any depth: one series; they may also lie in the only folder of the data
    p3/              X-rays and other plain images, at any depth: a case each, p3/NAME, with the label of the folder
    labels.csv       case,label or case,slice,label; optional patient      (any name; in the data or beside them; for slice see
                     also `instances`)
    patients.csv     case,patient                                          (optional, instead of the column patient)
    masks/p1.nii.gz, organ_masks/p1.nii.gz                                 (optional; any format of volumes)

A table names a case by its folder, by a folder in it (`p1/venous`), by one series of several (`p1#3`, see `readers.paths`), or by
a DICOM identifier, see `KEYS`, which is never shown. Without a column patient the patient is a hash of PatientID.
"""

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePath, PurePosixPath
from typing import TypeVar

from coinseg.config.schema import DataSettings
from coinseg.data.readers.image import is_image
from coinseg.data.readers.paths import ARCHIVE, holds_slices, is_dicom, kind_of, may_hold_slices, parts_of, split_key
from coinseg.errors import UserError
from coinseg.types import Case, Cohort

from .masks_by_name import MasksByName
from .shared import (
    composed,
    few,
    folders_in,
    lies_inside,
    own_patients,
    patient_of,
    safe_id,
    stem_of,
    visible,
    without_suffix,
)  # fmt: skip
from .tables import (
    CASE,
    LABEL,
    PATIENT,
    Given,
    columns_in,
    header_of,
    labels_by_case,
    patients_by_case,
    read_table,
    strangers,
    tables_in,
    understood,
    with_places,
)  # fmt: skip
from .unread import beside_series, paths_of

_TABLE = "labels.csv"
_UIDS = ("studyinstanceuid", "study_instance_uid", "seriesinstanceuid", "series_instance_uid")
_TAGS = (*_UIDS, "accessionnumber", "accession_number", "patientid")
KEYS = (*CASE, "id", "study", "study_id", "scan", "series", *_TAGS, *PATIENT)
"""Names of the column of cases, in any case; the first that a table has is read."""
_T = TypeVar("_T")


@dataclass(frozen=True)
class _Scans:
    """The scans of a cohort by name, and by their DICOM identifiers."""

    by_name: Mapping[str, Path]

    @cached_property
    def by_identifier(self) -> dict[str, list[str]]:
        """Names of scans by identifier; reads the headers, so only where a table names something that is no folder."""
        from coinseg.data.readers.dicom import identifiers_of

        names: dict[str, list[str]] = {}
        for name, scan in self.by_name.items():
            for identifier in identifiers_of(scan):
                names.setdefault(identifier, []).append(name)
        return names

    @cached_property
    def by_folder(self) -> dict[str, list[str]]:
        """Names of images by the folders they lie in."""
        names: dict[str, list[str]] = {}
        for name in self.by_name:
            for folder in PurePosixPath(name).parents:
                names.setdefault(folder.as_posix(), []).append(name)
        return names

    def named(self, key: str) -> list[str]:
        """The scans that a table calls so: one, the images of a folder, or those with the identifier."""
        own = next((name for name in (key, without_suffix(PurePath(key))) if name in self.by_name), None)
        return [own] if own else self.by_folder.get(key) or self.by_identifier.get(key, [])

    def matched(self, rows: Mapping[str, _T], table: Path) -> dict[str, _T]:
        """Return the rows by name of the scan; `UserError` when two rows of one scan differ."""
        matched: dict[str, _T] = {}
        for key, row in rows.items():
            for name in self.named(key):
                if matched.setdefault(name, row) != row:
                    raise UserError(f"{table} says two things of {name}", "one label and patient per case", "correct the table")
        return matched


def fits_dicom(root: Path) -> bool:
    """Return whether `root` has a folder or .zip with DICOM files."""
    return any(_is_series(path) for path in visible(root))


def list_dicom(root: Path, settings: DataSettings) -> Cohort:
    """List one case for each folder or .zip with DICOM files, or for each folder or series in one that the table names."""
    masks = MasksByName.under(root, settings, settings.masks)
    table = root / _TABLE if (root / _TABLE).is_file() else _one_of(_fitting(root))
    given = labels_by_case(table, KEYS, dicom=True) if table else {}
    scans = _scans_in(root, masks, given)
    if not scans.by_name:
        got = f"{root} holds no DICOM series (folders: {few(f.name for f in folders_in(root))})"
        raise UserError(got, "a folder or .zip of DICOM files for each case", "correct the path or data.layout")
    beside = "" if table else " beside the data"
    if table is None and (table := _one_of([t for t in _fitting(root.resolve().parent) if _is_about(t, scans)])):
        given = labels_by_case(table, KEYS, dicom=True)
        scans = _scans_in(root, masks, given)
    labels, patients = scans.matched(given, table or root / _TABLE), _patients(root, table, scans)
    labels = {name: with_places(row, scans.by_name[name], table or root / _TABLE) for name, row in labels.items()}
    cases = [_case(name, scan, labels.get(name, Given()), patients, masks) for name, scan in scans.by_name.items()]
    cases, problems, left_out = masks.matched(cases)
    if table and (missing := [key for key in given if not scans.named(key)]):
        problems.append(strangers(table, missing, KEYS))
    if table and (left := [name for name in scans.by_name if name not in labels]):
        problems.append(f"{table.name} does not name {few(left)}: they have no labels")
    if not patients:
        problems.append(f"no table names patients: {own_patients(cases)}")
    problems += [*_of_folders(cases), *beside_series(root, paths_of([*cases, *left_out]), masks.contains)]
    columns = "a column of cases (case, study, StudyInstanceUID, PatientID, ...) and a column label"
    source = (
        f"image labels from {table.name}{beside}, by {_key_column(table)}{understood(table)}"
        if table
        else f"no table with {columns}"
    )
    source += "" if table else columns_in(root)
    return Cohort("dicom", tuple(cases), source, tuple(problems), left_out=tuple(left_out))


def _scans_in(root: Path, masks: MasksByName, named: Mapping[str, object]) -> _Scans:
    """Return the scans of `root`, or of its only folder; a folder or series that is named replaces the scan it is in."""
    scans = _entries(root, masks)
    only = next(iter(scans.values())) if len(scans) == 1 else None
    if only and only.is_dir() and not holds_slices(only) and not any(re.split("[#/]", name)[0] in scans for name in named):
        inside = _entries(only, masks)
        scans = inside if len(inside) > 1 else scans
    replaced = set()
    for name in (name for name in named if lies_inside(root, name)):
        place, key = split_key(root / name)
        parent = composed(stem_of(place)) if key is not None else Path(name).parts[0]
        if key is not None and (scan := scans.get(parent)):
            scans[name] = scan.with_name(f"{scan.name}#{key}")
            replaced.add(parent)
        elif name not in scans and (scan := scans.get(parent)) and _is_inside(scan, Path(name).parts) and is_dicom(root / name):
            scans[name] = root / name
            replaced.add(parent)
    scans = {name: scan for name, scan in scans.items() if name not in replaced}
    return _Scans({name: place for scan in scans.items() for name, place in _with_images(*scan).items()})


def _with_images(name: str, scan: Path) -> dict[str, Path]:
    """Return a scan by its name; of a folder that has X-rays and other plain images, and no slices, each of these by its own."""
    images: dict[str, Path] = {}
    for file in parts_of(scan) if scan.is_dir() else ():
        if (kind := kind_of(file)) in ("slice", "volume"):
            return {name: scan}
        if kind == "image" and (other := images.setdefault(f"{name}/{without_suffix(file.relative_to(scan))}", file)) is not file:
            raise UserError(f"{other} and {file} are one case", "images of different names", "rename or remove one")
    return images or {name: scan}


def _of_folders(cases: Sequence[Case]) -> list[str]:
    """Return the line about X-rays and other plain images, which have the label of their folder."""
    count = sum(not case.volume for case in cases)
    what = "X-rays or other plain images, a case each; the label of a folder or study counts for each image of it"
    return [f"{count} {what}"] if count else []


def _is_inside(scan: Path, parts: tuple[str, ...]) -> bool:
    return len(parts) > 1 and ".." not in parts and scan.joinpath(*parts[1:]).is_dir()


def _entries(folder: Path, masks: MasksByName) -> dict[str, Path]:
    scans: dict[str, Path] = {}
    for path in visible(folder):
        if path in masks.folders or not _is_series(path):
            continue
        if other := scans.get(composed(stem_of(path))):
            raise UserError(f"{other} and {path} are one case", "a folder or a .zip", "rename or remove one")
        scans[composed(stem_of(path))] = path
    return scans


def _is_series(path: Path) -> bool:
    return is_dicom(path) if path.is_dir() else path.suffix.lower() == ARCHIVE and may_hold_slices(path)


def _fitting(folder: Path) -> list[Path]:
    """Return the tables with a column of cases and one of labels, without those that cannot be read."""
    fitting = []
    for path in tables_in(folder):
        with suppress(UserError):
            columns = set(header_of(path))
            fitting += [path] if columns & set(LABEL) and columns & set(KEYS) else []
    return fitting


def _one_of(tables: list[Path]) -> Path | None:
    if len(tables) > 1:
        got = f"{few(path.name for path in tables)} in {tables[0].parent} may all be the table of labels"
        raise UserError(got, "one such table", f"name it {_TABLE} in the data")
    return tables[0] if tables else None


def _is_about(table: Path, scans: _Scans) -> bool:
    with suppress(UserError):
        return any(scans.named(row[_key_column(table)]) for _, row in read_table(table))
    return False


def _key_column(table: Path) -> str:
    header = header_of(table)
    return next((key for key in KEYS if key in header), "case")


def _patients(root: Path, table: Path | None, scans: _Scans) -> dict[str, str]:
    """Return the patients by scan, from the table of labels when it has such a column, else from patients.csv."""
    columns = set(header_of(table)) - {_key_column(table)} if table else set()
    source = table if table and columns & set(PATIENT) else root / "patients.csv"
    return scans.matched(patients_by_case(source, KEYS), source)


def _case(name: str, scan: Path, given: Given, patients: Mapping[str, str], masks: MasksByName) -> Case:
    case, place, volume = safe_id(name), Path(name), not is_image(scan)
    patient = patients.get(name) or patient_of(scan, case if volume else safe_id(place.parts[0]))
    organ, lesion = masks.organ_sources(masks.organ(scan, place)), masks.lesion_sources(masks.lesion(scan, place))
    if given.slices and not volume:
        got, do = f"the table labels slices of {scan}, which is a plain image", "leave the column slice out"
        raise UserError(got, "one label for the image, or for all of its folder", do)
    return Case(case, patient, scan, volume, given.label, given.slices, organ, lesion)
