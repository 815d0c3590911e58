"""Labels per scan: which slices of an abnormal scan are abnormal? (Multiple-instance learning: scans are bags, slices instances.)

An image that is cut into tiles is a scan of them: its label is that of a scan, and what is said of slices here is true of tiles.

Every training scan is scored by a classifier that was trained, with the labels of scans on all their slices, on other patients.
Slices that score above nearly every slice of normal scans are trained on as abnormal, the others of abnormal scans left out.
docs/decisions/0004-hospital-data.md has the reasons; selected slices are called witnesses there and in files.
"""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from coinseg.config.schema import Settings
from coinseg.data.slices.dataset import TrainingSlices
from coinseg.data.slices.split import LEFT_OUT, TRAINING, VALIDATION, groups, split
from coinseg.data.slices.store import SliceStore
from coinseg.runtime.devices import make_fabric
from coinseg.runtime.files import MAX_JSON
from coinseg.runtime.process_group import current
from coinseg.runtime.records import read_record, write_record
from coinseg.runtime.stage import Report, silent

from .classifier import predict, train_classifier
from .keys import stage_key

FILE = "witnesses.json"
KINDS = {
    "key": str, "quantile": float, "scans": int, "weak": int, "kept": int, "seconds": float,
    "slices": dict[str, list[int]] | None,
}  # fmt: skip
"""What it holds, and of which kind. Of tiles it also has "tiles", their numbers beside those of the slices."""
QUANTILE = 0.95  # Quantile of f(X) over slices of normal scans that a selected slice exceeds
FOLD_STEPS = 0.5  # Share of `classifier.steps` that a fold's classifier is trained for: it has half of the patients
ROUNDS = 2  # The second round trains on the slices that the first has selected
INHERITED = (
    "labels are per scan, and there are too few training patients of both classes to look for the abnormal slices: every slice "
    "of an abnormal scan was trained on as abnormal; add scans"
)  # The warning where nothing could be selected


def find_instances(probability: np.ndarray, scan: np.ndarray, label: np.ndarray, quantile: float = QUANTILE) -> np.ndarray:
    """Select slices of abnormal scans, (n,) bool: those above nearly all normal slices, and the highest of each scan.

    Args:
        probability: f(X) by a classifier that has not seen the slices, (n,).
        scan: the scan of every slice, (n,).
        label: that of the scan, 0 or 1, (n,).
        quantile: of f(X) over the normal slices, which a selected slice exceeds.
    """
    abnormal = label == 1
    selected = abnormal & (probability > np.quantile(probability[label == 0], quantile))
    candidates = np.flatnonzero(abnormal)
    for bag in groups(scan[candidates]):
        indices = candidates[bag]
        selected[indices[np.argmax(probability[indices])]] = True
    return selected


def two_folds(patients: np.ndarray, label: np.ndarray, seed: int) -> np.ndarray | None:
    """Two folds by patient, stratified by label: 0 or 1 for every slice, (n,); None where a fold would lack a class.

    Args:
        patients: of every slice, (n,).
        label: of every slice, 0 or 1, (n,).
        seed: decides the folds.
    """
    if len(set(patients.tolist())) < 2:
        return None
    side = split(patients.tolist(), label, 0.5, seed)
    fold = np.array([side[name] for name in patients.tolist()])
    both = all(len(set(label[fold == i].tolist())) == 2 for i in (0, 1))
    return fold if both else None


def select_instances(store: SliceStore, settings: Settings, folder: Path, report: Report = silent) -> SliceStore:
    """The store to train on, without the weak slices that are not selected; witnesses.json as its `meta["witnesses"]`.

    With too few training patients for two folds every weak slice stays (`INHERITED`); without weak slices it is `store` itself.

    Args:
        store: the prepared slices; images, image labels and which of them are weak are read.
        settings: seed, anomaly, classifier and engine are read.
        folder: receives witnesses.json and the classifiers; an interrupted selection goes on from the last checkpoint.
        report: progress.
    """
    training = np.flatnonzero(store.index["split"] == TRAINING)
    weak = training[store.index["weak"][training] == 1]
    if not len(weak):
        return store
    constants = {"quantile": QUANTILE, "fold_steps": FOLD_STEPS, "rounds": ROUNDS}
    key, file = stage_key("instances", settings, contents=store.meta["contents"], **constants), folder / FILE
    selection = current().broadcast(read_record(file, KINDS, MAX_JSON) if file.exists() else None)
    if selection is None or selection["key"] != key:
        selection = current().broadcast({"key": key, **_select(store, settings, folder, report, training, weak)})
        if current().here.is_main:
            write_record(file, selection)
    sides = store.index["split"].copy()
    if selection["slices"] is not None:
        tiles = selection.get("tiles") or {case: [-1] * len(slices) for case, slices in selection["slices"].items()}
        kept = {(case, *place) for case, slices in selection["slices"].items() for place in zip(slices, tiles[case], strict=True)}
        names = zip(*(store.index[name][weak].tolist() for name in ("case", "slice", "region")), strict=True)
        sides[weak[[name not in kept for name in names]]] = LEFT_OUT
    return store.with_sides(sides, witnesses=selection)


def _select(
    store: SliceStore, settings: Settings, folder: Path, report: Report, training: np.ndarray, weak: np.ndarray
) -> dict[str, Any]:
    """The contents of witnesses.json, for the rows `training`, of which `weak` have the label of their scan only."""
    began = time.perf_counter()
    index = {name: values[training] for name, values in store.index.items()}
    fold = two_folds(index["patient"], index["label"], settings.seed)
    facts = {"quantile": QUANTILE, "scans": len(np.unique(store.index["case"][weak])), "weak": len(weak)}
    if fold is None:
        return {**facts, "kept": len(weak), "slices": None, "seconds": 0.0}
    # A slice with a label 1 of its own needs no selection, and tells nothing about normal ones.
    candidates = (index["label"] == 0) | (index["weak"] == 1)
    selected = index["weak"] == 1  # before the first round: all
    for number in range(2 * ROUNDS):
        if number % 2 == 0:
            trained_on, selected = (index["weak"] == 0) | selected, np.zeros(len(training), bool)
        held_out = fold == number % 2
        sides = np.full(len(store), LEFT_OUT)
        sides[training[~held_out & trained_on]], sides[training[held_out]] = TRAINING, VALIDATION
        probability = _probability(store.with_sides(sides), settings, folder, report, number)
        indices = np.flatnonzero(held_out & candidates)
        selected[indices] = find_instances(probability[candidates[held_out]], index["case"][indices], index["label"][indices])
    kept = np.flatnonzero(selected)
    bags = {str(index["case"][kept[bag[0]]]): kept[bag] for bag in groups(index["case"][kept])}
    places = {"slices": {case: index["slice"][bag].tolist() for case, bag in bags.items()}}
    if settings.data.tile:
        places["tiles"] = {case: index["region"][bag].tolist() for case, bag in bags.items()}
    return {**facts, "kept": len(kept), **places, "seconds": round(time.perf_counter() - began, 2)}


def _probability(view: SliceStore, settings: Settings, folder: Path, report: Report, number: int) -> np.ndarray:
    """f(X) of the held-out slices of a view of the store, (n,), by classifier `number` of 2 * `ROUNDS`, trained on the others."""
    steps = max(1, round(FOLD_STEPS * settings.classifier.steps))
    shorter = replace(settings, classifier=replace(settings.classifier, steps=steps))
    before, whole, place = number * steps, 2 * ROUNDS * steps, folder / f"round{number // 2}_fold{number % 2}"
    f = train_classifier(view, shorter, place, lambda _, done, total, values: report("witnesses", before + done, whole, values))
    slices = TrainingSlices(view, settings.anomaly, settings.seed, VALIDATION)
    return predict(f, slices, np.arange(len(slices)), make_fabric(settings.engine))[0]
