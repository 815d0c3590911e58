"""How data lie on disk: which layout it is, and whether what it lists can be used.

    totalsegmentator   one folder per scan, one mask file per class     layout_totalsegmentator
    nnunet             imagesTr, labelsTr and a dataset.json            layout_nnunet
    decathlon          imagesTr, labelsTr, listed in a dataset.json     layout_decathlon
    kits               one folder per case, one label map in it         layout_kits
    csv                a table that names files and labels              layout_csv
    folders            normal images here, abnormal images there        layout_folders
    dicom              one folder or .zip of DICOM files per case       layout_dicom

A reader only lists: it looks at names and tables, never inside an image, so thousands of scans take a moment. What it
leaves out is said in `Cohort.problems`; what makes the data unusable as a whole is a `UserError`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from coinseg.config.schema import DataSettings
from coinseg.data.phantom.canvas import LAST, RECORD
from coinseg.errors import UserError
from coinseg.types import Cohort

from .csv import COLUMNS, list_table, table_of
from .decathlon import fits_decathlon, list_decathlon
from .dicom_studies import fits_dicom, list_dicom
from .folders import fits_folders, list_folders
from .kits import fits_kits, list_kits
from .nnunet import fits_nnunet, list_nnunet
from .shared import few, folders_in, header_of, said_of_tables, visible
from .totalsegmentator import fits_scans, list_scans

LAYOUTS: dict[str, Callable[[Path, DataSettings], Cohort]] = {
    "totalsegmentator": list_scans,
    "nnunet": list_nnunet,
    "decathlon": list_decathlon,
    "kits": list_kits,
    "csv": list_table,
    "folders": list_folders,
    "dicom": list_dicom,
}
_BY_SHAPE: dict[str, Callable[[Path], bool]] = {
    "totalsegmentator": fits_scans,
    "nnunet": fits_nnunet,
    "decathlon": fits_decathlon,
    "kits": fits_kits,
}
"""Layouts known by their folders, asked in this order, before tables and plain folders."""
_KNOWN = (
    "totalsegmentator (s0001/ct.nii.gz), nnunet (dataset.json, imagesTr/x_0000.nii.gz), decathlon (dataset.json that lists "
    "imagesTr/x.nii.gz), kits (case_00000/imaging.nii.gz), csv (a table with a column file), "
    "folders (one of normal, one of abnormal images) or dicom (a folder of slices per case)"
)


def read_layout(root: Path, settings: DataSettings, one_class: bool = False) -> Cohort:
    """List the cases under `root`, sorted by id; nothing but tables is opened.

    Args:
        root: a folder, or a .csv file.
        settings: layout, organ, organ_from, lesion, study_type, normal, abnormal, masks and split_by are read, min_lesion_px
            and small_lesions for the words on where labels come from.
        one_class: accept labels of one class only (for labels that will come from injected anomalies).

    Raises:
        UserError: nothing recognised, a phantom cohort that is not finished, tables with errors, ids that are not unique, one class, or too few patients.
    """
    if not root.exists():
        raise UserError(f"{root} does not exist", "a folder or a .csv file", "correct the path")
    if root.is_dir() and not visible(root):
        raise UserError(f"{root} is an empty folder", _KNOWN, "correct the path")
    if (root / RECORD).is_file() and not (root / LAST).is_file():
        raise UserError(
            f"{root} is a phantom cohort that is not finished ({LAST} is missing)",
            "all of its patients",
            "wait for `coinseg phantom`, or give its command again",
        )
    name = settings.layout if settings.layout != "auto" else _recognise(root, settings)
    if name != "csv" and not root.is_dir():
        raise UserError(f"{root} is no folder", f"a folder for layout {name}", "correct the path or data.layout")
    cohort = LAYOUTS[name](root, settings)
    cases = tuple(sorted(cohort.cases, key=lambda case: case.id))
    cohort = replace(cohort, cases=cases, label_source=_label_source(cohort, settings))
    _check(root, cohort, settings, one_class)
    return cohort


def _recognise(root: Path, settings: DataSettings) -> str:
    """The name of the layout that fits what lies under `root`."""
    if settings.normal or settings.abnormal:
        return "folders"
    for name, fits in _BY_SHAPE.items():
        if fits(root):
            return name
    table, dicom = table_of(root), fits_dicom(root)
    # A column id names files, or what DICOM calls a study.
    if table is not None and not (dicom and set(header_of(table)).isdisjoint(set(COLUMNS["file"]) - {"id"})):
        return "csv"
    if fits_folders(root):
        return "folders"
    if dicom:
        return "dicom"
    suffixes = Counter(path.suffix.lower() or "no suffix" for path in visible(root) if path.is_file())
    files = ", ".join(f"{count} x {suffix}" for suffix, count in sorted(suffixes.items()))
    found = (
        f"folders: {few(folder.name for folder in folders_in(root))}; files: {files or 'none'}{said_of_tables(root)}"
        if root.is_dir()
        else "a file"
    )
    raise UserError(
        f"no layout is recognised in {root} ({found})",
        _KNOWN,
        "rearrange the data or set data.normal and data.abnormal",
    )


def _label_source(cohort: Cohort, settings: DataSettings) -> str:
    """Where image labels come from; that some are made from lesion masks must be known to whoever reads the scores."""
    if not any(case.label is None and case.lesion for case in cohort.cases):
        return cohort.label_source
    small = "normal" if settings.small_lesions == "normal" else "left out of training"
    rule = f"above {settings.min_lesion_px} native lesion pixels, with fewer {small}" if settings.min_lesion_px else "with any"
    what = f" ({few(settings.lesion)})" if settings.lesion else ""
    return f"{cohort.label_source}; where none is given, made from the lesion masks{what}: a slice is abnormal {rule}"


def _check(root: Path, cohort: Cohort, settings: DataSettings, one_class: bool) -> None:
    """Raise `UserError` when the cohort as a whole cannot be used."""
    cases = cohort.cases
    if not cases:
        why = f" (first of {len(cohort.problems)} problems: {cohort.problems[0]})" if cohort.problems else ""
        raise UserError(f"no usable case in {root}{why}", "at least one scan or image", "mend the data or the settings")
    if cohort.layout in ("nnunet", "decathlon") and not one_class and not cohort.labelled:
        raise UserError(
            f"data.lesion is empty and {root} has no labels.csv with labels: {cohort.label_source}",
            "the label that makes a slice abnormal",
            "set data.lesion, or inject anomalies with --anomaly.kind blob",
        )
    for one, other in zip(cases, cases[1:], strict=False):
        if one.id == other.id:
            raise UserError(f"{one.image} and {other.image} both have the id {one.id}", "unique ids", "rename or drop one")
    counts = Counter(label for case in cases for label in (case.label, *case.slice_labels.values()) if label is not None)
    # Where no label was given a lesion mask may still give the other class when it is read.
    open_labels = any(case.label is None and case.lesion for case in cases)
    if len(counts) == 1 and not one_class and not open_labels:
        raise UserError(
            f"{counts[0]} normal and {counts[1]} abnormal labels are given in {root}",
            "labels of both classes",
            "add the other class, or inject anomalies with --anomaly.kind blob",
        )
    if settings.split_by != "slice" and len({case.patient for case in cases}) < 2:
        raise UserError(
            f"{root} has one patient only ({cases[0].patient})",
            "two patients or more, to hold some out",
            "add patients, or set data.split_by slice (scores are then optimistic)",
        )
