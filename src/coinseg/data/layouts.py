"""How data lie on disk: which layout it is, and whether what it lists can be used.

    totalsegmentator   one folder per scan, one mask file per class     layout_totalsegmentator
    csv                a table that names files and labels              layout_csv
    folders            normal images here, abnormal images there        layout_folders

A reader only lists: it looks at names and tables, never inside an image, so thousands of scans take a moment. What it
leaves out is said in `Cohort.problems`; what makes the data unusable as a whole is a `UserError`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ..config import DataSettings
from ..errors import UserError
from ..types import Cohort
from .layout_csv import list_table, table_of
from .layout_folders import fits_folders, list_folders
from .layout_shared import few, folders_in, visible
from .layout_totalsegmentator import fits_scans, list_scans

LAYOUTS: dict[str, Callable[[Path, DataSettings], Cohort]] = {
    "totalsegmentator": list_scans,
    "csv": list_table,
    "folders": list_folders,
}
_KNOWN = "totalsegmentator (s0001/ct.nii.gz), csv (a table with a column file) or folders (one of normal, one of abnormal images)"


def read_layout(root: Path, settings: DataSettings, one_class: bool = False) -> Cohort:
    """List the cases under `root`, sorted by id; nothing but tables is opened.

    Args:
        root: a folder, or a .csv file.
        settings: layout, organ, organ_from, lesion, study_type, normal, abnormal, masks and split_by are read.
        one_class: accept labels of one class only (for labels that will come from injected anomalies).

    Raises:
        UserError: nothing recognised, tables with errors, ids that are not unique, one class, or too few patients.
    """
    if not root.exists():
        raise UserError(f"{root} does not exist", "a folder or a .csv file", "correct the path")
    if root.is_dir() and not visible(root):
        raise UserError(f"{root} is an empty folder", _KNOWN, "correct the path")
    name = settings.layout if settings.layout != "auto" else _recognise(root, settings)
    if name != "csv" and not root.is_dir():
        raise UserError(f"{root} is no folder", f"a folder for layout {name}", "correct the path or data.layout")
    cohort = LAYOUTS[name](root, settings)
    cohort = replace(cohort, cases=tuple(sorted(cohort.cases, key=lambda case: case.id)))
    _check(root, cohort, settings, one_class)
    return cohort


def _recognise(root: Path, settings: DataSettings) -> str:
    """The name of the layout that fits what lies under `root`."""
    if settings.normal or settings.abnormal:
        return "folders"
    if fits_scans(root):
        return "totalsegmentator"
    if table_of(root) is not None:
        return "csv"
    if fits_folders(root):
        return "folders"
    suffixes = Counter(path.suffix.lower() or "no suffix" for path in visible(root) if path.is_file())
    files = ", ".join(f"{count} x {suffix}" for suffix, count in sorted(suffixes.items()))
    found = f"folders: {few(folder.name for folder in folders_in(root))}; files: {files or 'none'}" if root.is_dir() else "a file"
    raise UserError(
        f"no layout is recognised in {root} ({found})",
        _KNOWN,
        "rearrange the data or set data.normal and data.abnormal",
    )


def _check(root: Path, cohort: Cohort, settings: DataSettings, one_class: bool) -> None:
    """Raise `UserError` when the cohort as a whole cannot be used."""
    cases = cohort.cases
    if not cases:
        why = f" (first of {len(cohort.problems)} problems: {cohort.problems[0]})" if cohort.problems else ""
        raise UserError(f"no usable case in {root}{why}", "at least one scan or image", "mend the data or the settings")
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
    if settings.split_by == "patient" and len({case.patient for case in cases}) < 2:
        raise UserError(
            f"{root} has one patient only ({cases[0].patient})",
            "two patients or more, to hold some out",
            "add patients, or set data.split_by slice (scores are then optimistic)",
        )
