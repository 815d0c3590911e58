"""A run of several classes: a folder of each with its scores, masks and report, and above them what they have together."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from coinseg.data.slices.dataset import TrainingSlices
from coinseg.data.slices.split import TRAINING, VALIDATION
from coinseg.evaluation.verdict import of_classes
from coinseg.inference.classes import ClassPredictors
from coinseg.inference.table import CLASSES, class_folder, write_table
from coinseg.metrics.overlap import mean_scores
from coinseg.runtime.files import key_of, write_json
from coinseg.runtime.process_group import current

from . import run_manifest
from .label_maps import write_label_maps
from .manifest import MANIFEST, verdict
from .mask_files import begin
from .run import Run, evaluate, write_masks

Runs = Mapping[str, Run]
"""Runs by the name of their class, "" where there is one."""
SHARED = ("prepare", "classifier", "coin", "teachers", "student")
"""Stages that all classes have in one."""
MOVED = 64  # held-out images with a class, at equal steps, on which it is turned off
TOGETHER = {"report": "report.html", "masks": "masks", "mask_index": "masks/index.json", "mask_table": "masks/index.csv",
            "labels": "masks/labels.json", "classes": CLASSES, "model": "model.json", "settings": "settings.yaml"}  # fmt: skip


def evaluate_all(runs: Runs) -> dict[str, dict[str, Any]]:
    """The scores of every class, see `run.evaluate`."""
    return {name: evaluate(run) for name, run in runs.items()}


def write_all_masks(runs: Runs) -> dict[str, dict[str, Any]]:
    """The masks of every class, see `run.write_masks`; of several classes also a label map of each case in masks/.

    All processes call this.
    """
    written = {name: write_masks(run) for name, run in runs.items()}
    if "" not in runs and current().here.is_main:
        root = next(iter(runs.values())).networks
        folders = {name: run.work.root for name, run in runs.items()}
        begin(root / "masks", root / "confidence", key_of([[name, table["key"]] for name, table in written.items()]))
        write_label_maps(folders, root / "masks")
        write_table(root / "masks", rows_of(written))
    return written


def rows_of(written: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row for each case and class; the mask of a row is that of its class, from the folder of the label maps."""
    return [
        row | {"class": name, "mask": f"../{class_folder(name)}/masks/{row['mask']}"}
        for name, table in written.items() for row in table["masks"]
    ]  # fmt: skip


def build_manifests(
    runs: Runs, scores: Mapping[str, dict[str, Any]], masks: Mapping[str, dict[str, Any]], command: str
) -> dict[str, dict[str, Any]]:
    """The manifest of every class, see `run_manifest.build`."""
    return {name: run_manifest.build(run, scores[name], masks[name], command) for name, run in runs.items()}


def moved(runs: Runs) -> dict[str, dict[str, float] | None]:
    """How far the logits move where one class is turned off, by that class, on some held-out images that have it.

    None where there are no such images; empty for one class, and for an attribution, which turns nothing off.
    """
    if "" in runs or not all(run.predictor.is_counterfactual for run in runs.values()):
        return {}
    predictors = ClassPredictors({name: run.predictor for name, run in runs.items()})
    found: dict[str, dict[str, float] | None] = {}
    for name, run in runs.items():
        slices = TrainingSlices(run.store, run.work.settings.anomaly, run.work.settings.seed, VALIDATION)
        having = np.flatnonzero(slices.labels() == 1)
        some = having[np.unique(np.linspace(0, len(having) - 1, MOVED).astype(int))] if len(having) else having
        found[name] = predictors.moved(slices.batch(some).image, name) if len(some) else None
    return found


def deviations(runs: Runs) -> dict[str, float]:
    """The standard deviation of the logit of each class over some held-out images: what a move of it is to be held against."""
    found: dict[str, float] = {}
    for name, run in runs.items() if "" not in runs else ():
        slices = TrainingSlices(run.store, run.work.settings.anomaly, run.work.settings.seed, VALIDATION)
        if len(slices) > 1:
            some = np.unique(np.linspace(0, len(slices) - 1, MOVED).astype(int))
            found[name] = float(run.predictor.logits(slices.batch(some).image)[:, 0].std())
    return found


def counts_of_all(runs: Runs) -> dict[str, Any]:
    """What `run.counts` says of one class alone, of all of them: slices that have any, and who is held out of any.

    Empty for one class. How abnormal slices were looked for stands in the manifest of each class.
    """
    if "" in runs:
        return {}
    indices = [run.store.index for run in runs.values()]
    held_out = [index["split"] == VALIDATION for index in indices]
    having = [
        (index["label"] == 1) & ((index["split"] == TRAINING) | (held & (index["weak"] == 0)))
        for index, held in zip(indices, held_out, strict=True)
    ]
    patients = indices[0]["patient"][np.logical_or.reduce(held_out)]
    abnormal = int(np.logical_or.reduce(having).sum())
    return {"abnormal": abnormal, "patients_held_out": len(set(patients)), "labels_per_scan": None}


def together(
    root: Path, manifests: Mapping[str, dict[str, Any]], moved: Mapping[str, dict[str, float] | None],
    deviations: Mapping[str, float] = MappingProxyType({}), counts: Mapping[str, Any] = MappingProxyType({}),
) -> dict[str, Any]:  # fmt: skip
    """The manifest of a run: that of the only class, or of all with the means of their scores and the worst verdict.

    Of several classes each one's own manifest lies in its folder; `moved`, `deviations` and `counts` are what the functions
    returned.
    """
    if "" in manifests:
        return manifests[""]
    first = next(iter(manifests.values()))
    classes = {
        name: {
            "verdict": one["verdict"], "folder": class_folder(name), "scores": one["scores"],
            "logits_moved": _rounded(moved.get(name)),
            "logit_deviation": round(deviations[name], 4) if name in deviations else None,
            **({"reviewed": one["data"]["reviewed"]} if "reviewed" in one["data"] else {}),
        }
        for name, one in manifests.items()
    }  # fmt: skip
    count = sum(one["outputs"]["mask_count"] for one in manifests.values())
    means = mean_scores([one["scores"] for one in classes.values()])
    none = [name for name, value in means.items() if value is None]
    data = {key: value for key, value in first["data"].items() if key != "reviewed"} | dict(counts)  # each class has its own
    return first | {
        "inputs": _inputs(manifests.values()), "timings_s": _timings(manifests.values()),
        "data": data, "verdict": of_classes({name: str(one["verdict"]) for name, one in classes.items()}), "classes": classes,
        "scores": means | {"lesions_by_size": [], "null_because": dict.fromkeys(none, "a class has none")},
        "audit": None, "threshold": None, "outputs": TOGETHER | {"mask_count": count},
        "warnings": _warnings({name: one["warnings"] for name, one in manifests.items()}),
    }  # fmt: skip


def _inputs(manifests: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The files that were read for any class, each once for a case and a role."""
    found = {(one["case"], one["role"], one["path"]): one for manifest in manifests for one in manifest["inputs"]}
    return list(found.values())


def _timings(manifests: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Seconds of every stage: of those that classes share once, of the others together."""
    found: dict[str, float] = {}
    for manifest in manifests:
        for name, seconds in manifest["timings_s"].items():
            found[name] = seconds if name in SHARED else round(found.get(name, 0.0) + seconds, 2)
    return found


def _warnings(of_classes: Mapping[str, list[str]]) -> list[str]:
    """What is said of all classes once, then what is said of some, with their names."""
    common = [line for line in next(iter(of_classes.values())) if all(line in lines for lines in of_classes.values())]
    rest = [f"{name}: {line}" for name, lines in of_classes.items() for line in lines if line not in common]
    return list(dict.fromkeys([*common, *rest]))


def _rounded(values: dict[str, float] | None) -> dict[str, float] | None:
    return values and {name: round(value, 4) for name, value in values.items()}


def write_own(root: Path, manifests: Mapping[str, dict[str, Any]]) -> None:
    """Write the manifest of each class into its folder; nothing of the only one."""
    for name, contents in manifests.items():
        if name:
            write_json(root / class_folder(name) / MANIFEST, contents)


def verdict_of_all(runs: Runs) -> str | None:
    """The verdict on the only class, or the worst of all."""
    found = {name: verdict(run.work.root) for name, run in runs.items()}
    return found[""] if "" in found else of_classes({name: str(said) for name, said in found.items()})
