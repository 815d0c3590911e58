"""Which slices are trained on and which are held out; `LEFT_OUT` is on neither side."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from coinseg.config.schema import DataSettings, Settings
from coinseg.errors import UserError
from coinseg.runtime.streams import Stream, random_stream
from coinseg.types import Cohort

from .twins import joined

TRAINING, VALIDATION, LEFT_OUT = 0, 1, 2
Row = Mapping[str, Any]  # a row of the index, see `store.py`


def split(
    patients: list[str], labels: np.ndarray, share: float, seed: int, lesion_px: np.ndarray | None = None
) -> dict[str, int]:
    """Return the side of every patient, stratified by the share of abnormal slices or the lesion pixels (thesis 3.6.2).

    Patients are ordered by that, ties at random; one of every 1 / share patients is held out, so both sides see the same range.

    Args:
        patients: patient of every slice, n of them.
        labels: label of every slice, (n,).
        share: share of the patients to hold out.
        seed: decides the draw.
        lesion_px: lesion pixels of every slice, (n,), instead of labels; masks are then used, but to split only.
    """
    rng = random_stream(Stream.SPLIT, seed)
    unique, patient = np.unique(np.array(patients), return_inverse=True)
    names = unique.tolist()
    total = np.bincount(patient, labels == 1 if lesion_px is None else lesion_px)
    abnormal = (total / np.bincount(patient) if lesion_px is None else total).tolist()
    order = sorted(rng.permutation(len(names)).tolist(), key=abnormal.__getitem__)
    held = max(1, round(share * len(names)))
    runs = np.array_split(np.array(order), held)
    chosen = {names[int(rng.choice(run))] for run in runs}
    return {name: VALIDATION if name in chosen else TRAINING for name in names}


def split_rows(rows: Sequence[Row], settings: Settings, copies: Mapping[str, str] = MappingProxyType({})) -> np.ndarray:
    """Return the side of every row, (rows,), as `data.split_by` says: by patient, or the last slices of every scan.

    `copies` are cases with the pixels of another, and that one (`Twins.copies`): both are on one side.
    """
    patients, first = [str(row["patient"]) for row in rows], [copies.get(row["case"], row["case"]) for row in rows]
    patients = joined(patients, first) if copies else patients
    if settings.data.split_by == "patient":
        area = lesion_area(rows) if settings.data.stratify == "lesion_area" else None
        side = split(patients, np.array([row["label"] for row in rows]), settings.data.validation, settings.seed, area)
        return np.array([side[patient] for patient in patients])
    if settings.data.split_by == "hash":
        return np.array([hashed_side(patient, settings.data.held_out) for patient in patients])
    places = [row["slice"] if row["series"] == row["case"] else 0 for row in rows]  # an image of a scan is one slice
    leaders: dict[tuple[str, int], int] = {}
    owner = [leaders.setdefault(place, i) for i, place in enumerate(zip(first, places, strict=True))]
    if settings.data.tile and len(leaders) < len(rows):  # all tiles of a slice, and of its copies, are on one side
        one = split_rows([{**rows[i], "region": -1} for i in leaders.values()], settings)
        return one[np.searchsorted(list(leaders.values()), owner)]
    sides = np.zeros(len(rows), dtype=np.int64)
    for indices in groups(_scans(rows)):
        # A block at the end, not single slices: neighbours are nearly copies of each other.
        ordered = sorted(indices.tolist(), key=lambda i: rows[i]["slice"])
        sides[ordered[len(ordered) - max(1, round(settings.data.validation * len(ordered))) :]] = VALIDATION
    if not copies:
        return sides
    keys = list(zip(first, [row["region"] for row in rows], places, strict=True))
    leading = dict(zip(reversed(keys), reversed(sides.tolist()), strict=True))
    return np.array([leading[key] for key in keys])


def _scans(rows: Sequence[Row]) -> np.ndarray:
    """Name the scan and region of every row; a slice alone in it gets its patient, and alone there too, its label."""
    names = [f"{row['series']}/{row['region']}" for row in rows]
    for wider in ("patient", "label"):
        times = Counter(names)
        names = [name if times[name] > 1 else f"{wider} {row[wider]}" for name, row in zip(names, rows, strict=True)]
    return np.array(names)


def groups(names: np.ndarray) -> list[np.ndarray]:
    """Return the indices of every distinct name, ascending, in the order of the names; names (n,), in n log n steps."""
    order = np.argsort(names, kind="stable")
    ordered = names[order]
    return np.split(order, np.flatnonzero(ordered[1:] != ordered[:-1]) + 1) if len(names) else []


def hashed_side(patient: str, held_out: str) -> int:
    """Return the side of a patient by the hash of its id: one fifth, "validation" or "test", is held out, the other left out."""
    share = int(hashlib.sha256(patient.encode()).hexdigest()[:8], 16) / 2**32
    if share < 0.6:
        return TRAINING
    return VALIDATION if (share < 0.8) == (held_out == "validation") else LEFT_OUT


def lesion_area(rows: Sequence[Row]) -> np.ndarray:
    """Return the lesion pixels of every row; 0 where there is no mask and the label says normal."""
    for row in rows:
        if row["lesion_px"] == -1 and row["label"] != 0:
            raise _no_masks(f"slice {row['slice']} of {row['case']} has no lesion mask")
    return np.array([max(row["lesion_px"], 0) for row in rows])


def require_masks(cohort: Cohort, settings: DataSettings) -> None:
    """Raise `UserError` when patients are to be ordered by their lesions and nobody has a lesion mask."""
    if settings.stratify == "lesion_area" and settings.split_by == "patient" and not any(case.lesion for case in cohort.cases):
        raise _no_masks("no case has a lesion mask")


def require_labels(cohort: Cohort, injected: bool) -> None:
    """Raise `UserError` when there is nothing to learn from: no label, no lesion mask, and no anomaly to be injected."""
    if not injected and not cohort.labelled:
        got = f"no case has an image label or a lesion mask: {cohort.label_source}"
        do = "add a table of labels, name lesion masks with data.lesion, or inject anomalies with --anomaly.kind blob"
        raise UserError(got, "image labels of both classes", do)


def _no_masks(got: str) -> UserError:
    do = "set data.lesion, or data.stratify to labels"
    return UserError(f"data.stratify is lesion_area and {got}", "lesion masks to split by", do)


def require_usable(rows: Sequence[Row], problems: list[str], settings: Settings) -> None:
    """Raise `UserError` when there is nothing to split: no slice, one class, or one patient."""
    first, inject = "; ".join(problems[:3]), "inject anomalies with --anomaly.kind blob"
    if not rows:
        required = "slices with a label (and with enough organ pixels where organs are given)"
        do = f"check the paths, data.organ and data.min_organ_px, or {inject}"
        raise UserError(f"no usable slice ({first or 'no case has one'})", required, do)
    labels = {row["label"] for row in rows}
    if settings.anomaly.kind == "none" and len(labels) < 2 and "label/0" not in rows[0]:
        small = sum(row["label"] == 0 and row["lesion_px"] > 0 for row in rows)
        got = f"all {len(rows)} usable slices are {'abnormal' if 1 in labels else 'normal'}"
        got += f", {small} of them with a lesion of at most {settings.data.min_lesion_px} pixels" if small else ""
        do = f"{'lower data.min_lesion_px, ' if small else ''}add the other class, or {inject}"
        raise UserError(got + (f" ({first})" if problems else ""), "both normal and abnormal slices", do)
    if settings.data.split_by != "slice" and len({row["patient"] for row in rows}) < 2:
        got = f"only 1 patient has usable slices ({first or 'no other was given'})"
        do = "add patients, or set --data.split_by slice (scores are then optimistic)"
        raise UserError(got, "at least 2, so that one can be held out", do)


def require_two_sides(sides: np.ndarray, settings: DataSettings) -> None:
    """Raise `UserError` where nothing is trained on, or nothing held out."""
    for side, what in ((TRAINING, "to train on"), (VALIDATION, "to hold out")):
        if not (sides == side).any():
            got = f"the split (data.split_by {settings.split_by}) leaves none of the {len(sides)} slices {what}"
            do = "add patients, or set --data.split_by patient" if settings.split_by == "hash" else "add slices or patients"
            raise UserError(got, "slices on both sides", do)


def require_both_classes(labels: np.ndarray, sides: np.ndarray, left: int, name: str = "") -> None:
    """Raise `UserError` when training would see one class only.

    Args:
        labels: labels of all slices, (n,).
        sides: sides of all slices, (n,).
        left: number of slices with small lesions that are left out of training.
        name: of the class, where there are several: normal is without it.
    """
    seen = labels[sides == TRAINING]
    normal, abnormal = int((seen == 0).sum()), int((seen == 1).sum())
    if not (normal and abnormal):
        without, having = (f"without {name}", f"with {name}") if name else ("normal", "abnormal")
        got = f"the training side of the split has {normal} {without} and {abnormal} {having} slices"
        got += f", and {left} with small lesions are left out of it" if left else ""
        do = "add patients, change --seed or --data.validation" + (", or lower data.min_lesion_px" if left else "")
        raise UserError(
            got, f"slices {without} and {having} to train on" if name else "both normal and abnormal slices to train on", do
        )
