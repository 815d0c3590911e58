"""The figures of docs/research/labels-per-scan.md.

    python studies/labels_per_scan.py cut PHANTOM OUT          every kidney of a phantom cohort as a scan of its own
    python studies/labels_per_scan.py score TRAIN TEST OUT SEED...         f after the rule, inherited and true labels
    python studies/labels_per_scan.py masks TRAIN TEST OUT SEED...         COIN after them, 300 steps

OUT/scans of `cut` has one label for each scan, OUT/slices the true one of each slice; both are nnU-Net raw data with masks.
"""

from __future__ import annotations

import csv
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from coinseg import Settings, Workspace
from coinseg.data.layouts.registry import read_layout
from coinseg.data.slices.dataset import ScoredBatch, ScoredSlices, TrainingSlices
from coinseg.data.slices.split import TRAINING, VALIDATION
from coinseg.data.slices.store import SliceStore, prepare
from coinseg.evaluation.evaluate import evaluate
from coinseg.inference.image_score import ImageScores
from coinseg.metrics.overlap import classification_scores, scan_scores
from coinseg.pipeline import run as stages
from coinseg.pipeline.recipe import train_pair
from coinseg.runtime.devices import make_fabric
from coinseg.training.classifier import predict
from coinseg.types import Explanation, Maps

BASE = Settings()
BASE = replace(
    BASE,
    data=replace(BASE.data, lesion=("tumour",), size=64),
    classifier=replace(BASE.classifier, name="small", steps=400),
    coin=replace(BASE.coin, steps=300),
    student=replace(BASE.student, steps=0),
    engine=replace(BASE.engine, threads=1, logger="none"),
)
WAYS: dict[str, tuple[str, Any]] = {"witnesses": ("scans", "auto"), "inherited": ("scans", "slice"), "true": ("slices", "auto")}


def cut(phantom: Path, out: Path) -> None:
    """A square around every kidney, 1.5 times as wide, over the slices that have it; abnormal where tumour is inside."""
    rows: dict[str, list[list[Any]]] = {"scans": [["image_id", "label"]], "slices": [["image_id", "slice", "label"]]}
    patients = [["case", "patient"]]
    for folder in sorted(p for p in phantom.iterdir() if p.is_dir()):
        ct: Any = nib.load(folder / "ct.nii.gz")
        masks = {
            p.name.removesuffix(".nii.gz"): np.asarray(nib.load(p).dataobj) > 0  # type: ignore[attr-defined]
            for p in (folder / "segmentations").iterdir()
        }
        for kidney in ("kidney_left", "kidney_right"):
            where = np.argwhere(masks[kidney])
            (x0, y0, z0), (x1, y1, z1) = where.min(0), where.max(0) + 1
            x, y, r = (x0 + x1) // 2, (y0 + y1) // 2, int(0.75 * max(x1 - x0, y1 - y0))
            box = (slice(max(x - r, 0), x + r), slice(max(y - r, 0), y + r), slice(z0, z1))
            name, tumour = f"{folder.name}_{kidney.removeprefix('kidney_')}", masks["kidney_tumor"][box].astype(np.uint8)
            labels = (tumour.sum((0, 1)) > 0).astype(int)
            for kind in rows:
                for part, data in ((f"imagesTr/{name}_0000", np.asarray(ct.dataobj)[box]), (f"labelsTr/{name}", tumour)):
                    (out / kind / part).parent.mkdir(parents=True, exist_ok=True)
                    nib.save(nib.Nifti1Image(data, ct.affine), out / kind / f"{part}.nii.gz")  # type: ignore[attr-defined]
            patients.append([name, folder.name])
            rows["scans"].append([name, labels.max()])
            rows["slices"] += [[name, z, label] for z, label in enumerate(labels)]
    for kind, lines in rows.items():
        for table, content in (("labels", lines), ("patients", patients)):
            with (out / kind / f"{table}.csv").open("w", newline="") as file:
                csv.writer(file).writerows(content)
        (out / kind / "dataset.json").write_text('{"labels": {"background": 0, "tumour": 1}, "file_ending": ".nii.gz"}')


def unseen(data: Path, out: Path, store: SliceStore, side: int) -> SliceStore:
    """Every slice of another cohort, on one side, in the window of a run."""
    test = prepare(read_layout(data / "slices", BASE.data), BASE, out / "test")
    test = test.with_sides(np.full(len(test), side))
    test.window = store.window
    return test


def witnesses(store: SliceStore) -> str:
    """The selected slices against the masks."""
    training = (store.index["weak"] == 1) & (store.index["split"] != VALIDATION)
    kept, truth = training & (store.index["split"] == TRAINING), store.index["lesion_px"] > 0
    recall = (kept & truth).sum() / (training & truth).sum()
    shares = f"weak {training.sum()}, abnormal {truth[training].mean():.3f}; kept {kept.sum()}, {truth[kept].mean():.3f}"
    return f"{shares}, recall {recall:.3f}"


def score(work: Workspace, data: Path, out: Path, way: str) -> str:
    """AUROC of f over slices and scans nobody has seen."""
    job = stages.job_of(work)
    f, _ = train_pair(job, "classifier")
    test = TrainingSlices(unseen(data, out, job.store, TRAINING), BASE.anomaly, 0)
    p, _ = predict(f, test, np.arange(len(test)), make_fabric(BASE.engine))
    truth = (test.store.index["lesion_px"] > 0).astype(int)
    scans = scan_scores(p, truth, test.store.index["case"])["auroc_scans"]
    shown = f"AUROC of slices {classification_scores(p, truth)['auroc']:.3f}, of scans {scans:.3f}"
    return f"{shown}; {witnesses(job.store)}" if way == "witnesses" else shown


def masks(work: Workspace, data: Path, out: Path, way: str) -> str:
    """Scores of the masks of slices nobody has seen; the masks come from a threshold that saw no mask."""
    run = stages.train(work)
    predictor = run.predictor
    test = ScoredSlices(unseen(data, out, run.store, VALIDATION), BASE.anomaly, 0, VALIDATION)

    def evidence(batch: ScoredBatch) -> tuple[Explanation, Maps]:
        return predictor.evidence(batch.image, ImageScores.of_f(predictor.probability(batch.image)))

    scores = evaluate(test, evidence, predictor.threshold, work.settings, work.root / "unseen")
    names = ("iou_mask_free", "iou_oracle", "dice_per_image", "auprc", "lesions_touched", "normals_marked", "flip_rate")
    return ", ".join(f"{name} {scores[name]:.3f}" for name in names)


def main() -> None:
    """See the top of this file."""
    task, *places = sys.argv[1:]
    if task == "cut":
        return cut(Path(places[0]), Path(places[1]))
    train, data, out = map(Path, places[:3])
    for seed in map(int, places[3:]):
        for way, (labels, level) in WAYS.items():
            settings = replace(BASE, seed=seed, data=replace(BASE.data, label_level=level))
            work = Workspace(train / labels, out / f"{way}{seed}", settings)
            print(f"seed {seed} {way:<10}", {"score": score, "masks": masks}[task](work, data, out, way), flush=True)


if __name__ == "__main__":
    main()
