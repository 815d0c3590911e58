"""Labels per scan: which slices of an abnormal scan are abnormal? Multiple-instance learning calls these its witnesses.

Every training scan is looked at by a classifier that was trained, with the labels of scans on all their slices, on other
patients: one that had seen the scan would know it again, and call all of its slices abnormal. What it finds more abnormal
than nearly every slice of normal scans is trained on as abnormal; the other slices of abnormal scans are left out, as nobody
has said that they are normal. Lesion masks are not looked at. Why so: docs/decisions/0010-labels-per-scan.md.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from coinseg.config.renamed import hashed
from coinseg.config.schema import Settings
from coinseg.data.slices.dataset import TrainingSlices
from coinseg.data.slices.split import LEFT_OUT, TRAINING, VALIDATION, groups, split
from coinseg.data.slices.store import SliceStore
from coinseg.runtime.devices import make_fabric
from coinseg.runtime.files import key_of, read_json, write_json
from coinseg.runtime.process_group import current
from coinseg.runtime.stage import Report, silent

from .classifier import predict, train_classifier

FILE = "witnesses.json"
QUANTILE = 0.95
"""Of f over slices of normal scans: a witness exceeds it."""
FOLD_STEPS = 0.5
"""Share of `classifier.steps` a fold's classifier is trained for: it has half of the patients to learn."""
ROUNDS = 2
"""The second round trains on the witnesses of the first."""
INHERITED = (
    "labels are per scan, and there are too few training patients of both classes to look for the abnormal slices: every slice of "
    "an abnormal scan was trained on as abnormal; add scans"
)
"""The warning where nothing could be searched."""


def find_instances(probability: np.ndarray, scan: np.ndarray, label: np.ndarray, quantile: float = QUANTILE) -> np.ndarray:
    """The slices that are called abnormal because their scan is: above nearly all normal slices, and the highest of each scan.

    Args:
        probability: f(X) by a classifier that has not seen the slices, (n,).
        scan: which scan a slice is of, (n,).
        label: 0 for slices of normal scans, 1 for slices of scans labelled abnormal, (n,).
        quantile: of f over the normal slices, which a witness exceeds.

    Returns:
        (n,) bool; never a normal slice.
    """
    abnormal = label == 1
    found = abnormal & (probability > np.quantile(probability[label == 0], quantile))
    where = np.flatnonzero(abnormal)
    for of_scan in groups(scan[where]):
        members = where[of_scan]
        found[members[np.argmax(probability[members])]] = True
    return found


def two_folds(patients: np.ndarray, label: np.ndarray, seed: int) -> np.ndarray | None:
    """0 or 1 for every slice, by patient and stratified; None where a fold would lack one of the classes."""
    if len(set(patients.tolist())) < 2:
        return None
    side = split(patients.tolist(), label, 0.5, seed)
    fold = np.array([side[name] for name in patients.tolist()])
    both = all(len(set(label[fold == i].tolist())) == 2 for i in (0, 1))
    return fold if both else None


def select_instances(store: SliceStore, settings: Settings, folder: Path, report: Report = silent) -> SliceStore:
    """The store to train on: of the weak slices only the witnesses are left; as it is where there are no weak slices.

    With too few training patients for two folds with both classes every slice inherits the label of its scan (`INHERITED`).
    `meta["witnesses"]` of what is returned has the contents of witnesses.json.

    Args:
        store: the prepared slices; images, image labels and which of them are weak are read.
        settings: seed, anomaly, classifier and engine are read.
        folder: receives witnesses.json and the two classifiers; an interrupted search goes on from the last checkpoint.
        report: progress.
    """
    training = np.flatnonzero(store.index["split"] == TRAINING)
    weak = training[store.index["weak"][training] == 1]
    if not len(weak):
        return store
    key = key_of([store.meta["contents"], hashed(settings.classifier), settings.seed, QUANTILE, FOLD_STEPS, ROUNDS])
    file = folder / FILE
    made = read_json(file) if file.exists() else None
    made = current().broadcast(made)
    if made is None or made["key"] != key:
        made = current().broadcast({"key": key, **_search(store, settings, folder, report, training, weak)})
        if current().here.is_main:
            write_json(file, made)
    sides = store.index["split"].copy()
    if made["slices"] is not None:
        found = {(case, z) for case, slices in made["slices"].items() for z in slices}
        places = zip(store.index["case"][weak].tolist(), store.index["slice"][weak].tolist(), strict=True)
        sides[weak[[place not in found for place in places]]] = LEFT_OUT
    return store.with_sides(sides, witnesses=made)


def _search(
    store: SliceStore, settings: Settings, folder: Path, report: Report, training: np.ndarray, weak: np.ndarray
) -> dict[str, Any]:
    """The contents of witnesses.json, for rows of the training side."""
    began = time.perf_counter()
    index = {name: values[training] for name, values in store.index.items()}
    fold = two_folds(index["patient"], index["label"], settings.seed)
    facts = {"quantile": QUANTILE, "scans": len(np.unique(store.index["case"][weak])), "weak": len(weak)}
    if fold is None:
        return {**facts, "kept": len(weak), "slices": None, "seconds": 0.0}
    # A slice with a label 1 of its own needs no witness, and says nothing about normal ones.
    asked = (index["label"] == 0) | (index["weak"] == 1)
    steps = max(1, round(FOLD_STEPS * settings.classifier.steps))
    shorter = replace(settings, classifier=replace(settings.classifier, steps=steps))
    found = index["weak"] == 1  # before the first round every one counts
    for number in range(2 * ROUNDS):
        if number % 2 == 0:
            learnt, found = (index["weak"] == 0) | found, np.zeros(len(training), bool)
        held = fold == number % 2
        sides = np.full(len(store), LEFT_OUT)
        sides[training[~held & learnt]], sides[training[held]] = TRAINING, VALIDATION
        view = store.with_sides(sides)

        def told(stage: str, done: int, total: int, values: Mapping[str, float], before: int = number * steps) -> None:
            report("witnesses", before + done, 2 * ROUNDS * steps, values)

        f = train_classifier(view, shorter, folder / f"round{number // 2}_fold{number % 2}", told)
        slices = TrainingSlices(view, settings.anomaly, settings.seed, VALIDATION)
        probability = predict(f, slices, np.arange(len(slices)), make_fabric(settings.engine))[0]
        members = np.flatnonzero(held & asked)
        found[members] = find_instances(probability[asked[held]], index["case"][members], index["label"][members])
    kept = np.flatnonzero(found)
    return {
        **facts, "kept": int(found.sum()),
        "slices": {
            str(index["case"][kept[of_scan[0]]]): index["slice"][kept[of_scan]].tolist() for of_scan in groups(index["case"][kept])
        },
        "seconds": round(time.perf_counter() - began, 2),
    }  # fmt: skip
