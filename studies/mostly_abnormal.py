"""Which images are called abnormal where most training images are: rules of the image score, on held-out labels.

    python studies/mostly_abnormal.py DATA WORK SET SEED...     SET: lgg or soy; rows in WORK/mostly_abnormal.json

Of the training side so many normal images are left out that 83 % are abnormal (breast ultrasound is like that). The classifiers
of the default recipe learn from the rest, with fewer steps. No mask is read. On all images of the validation fifth: the share of
normal images that is called abnormal and of abnormal ones that is called normal, by the rule that moves the score.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from runs import workspace
from scipy.special import expit

from coinseg import Workspace
from coinseg.config.parsing import opinion_settings, settings_from
from coinseg.data.slices.dataset import TrainingSlices
from coinseg.data.slices.split import TRAINING, VALIDATION
from coinseg.data.slices.store import SliceStore
from coinseg.inference.image_score import prior_shift
from coinseg.metrics.overlap import classification_scores
from coinseg.parts.imagenet_classifier import WEIGHT
from coinseg.pipeline.recipe import SEEDS_APART
from coinseg.pipeline.run import job_of
from coinseg.runtime.batching import map_batched
from coinseg.runtime.files import read_json, write_json
from coinseg.training.classifier import train_classifier

ABNORMAL = 0.83
STEPS, IMAGENET_STEPS = 1000, 200
NO_SIDE = 9


def leave_out(store: SliceStore, slices: TrainingSlices) -> None:
    """Leave out so many normal training images that `ABNORMAL` of them are abnormal; they are on no side of the split then."""
    labels = slices.labels()
    abnormal, normal = np.flatnonzero(labels == 1), np.flatnonzero(labels == 0)
    kept = round(len(abnormal) * (1 / ABNORMAL - 1))
    store.index["split"][slices.rows[np.random.default_rng(0).permutation(normal)[kept:]]] = NO_SIDE


def soy(source: Path, work: Path, seed: int) -> Workspace:
    """Soybean rust in colour at 64 px; a fifth of the leaves is held out."""
    data = {"size": 64, "channels": "rgb", "split_by": "hash", "held_out": "validation"}
    settings = settings_from({"data": data, "seed": seed})
    settings = replace(settings, engine=replace(settings.engine, threads=1, logger="none"))
    return Workspace(source / "soy-rust", work / f"soy-{seed}", settings)


def measure(source: Path, work: Path, name: str, seed: int) -> dict[str, object]:
    """The shares of one set and seed, by rule."""
    space = soy(source, work, seed) if name == "soy" else workspace(source, work, name, seed)
    space = replace(space, root=work / "mostly_abnormal" / f"{name}-{seed}")
    space.start()
    store, settings = job_of(space).store, space.settings
    leave_out(store, TrainingSlices(store, settings.anomaly, seed))
    settings = replace(settings, classifier=replace(settings.classifier, steps=STEPS))
    settings = replace(settings, student=replace(settings.student, imagenet_steps=IMAGENET_STEPS))
    training, held_out = (TrainingSlices(store, settings.anomaly, seed, side) for side in (TRAINING, VALIDATION))
    each = []
    for name_, one in (
        ("first", settings), ("second", replace(settings, seed=seed + SEEDS_APART)), ("imagenet", opinion_settings(settings)),
    ):  # fmt: skip
        f = train_classifier(store, one, space.root / name_)
        images = held_out.batch(np.arange(len(held_out))).image
        with torch.no_grad():
            each.append(np.concatenate(map_batched(lambda x, f=f: f(x).numpy(), images)))
    logits = (1 - WEIGHT) * np.mean(each[:2], axis=0) + WEIGHT * each[2]
    labels, shift = held_out.labels(), prior_shift(training, settings)
    rules = {"moved by the share": shift, "never towards abnormal": min(shift, 0.0)}
    row: dict[str, object] = {"set": name, "seed": seed, "abnormal": float((training.labels() == 1).mean())}
    row |= {"normal": int((labels == 0).sum()), "auroc": classification_scores(expit(logits), labels, 0.5)["auroc"]}
    for rule, by in rules.items():
        for gate in (0.4, 0.5):
            called = expit(logits + by) >= gate
            row[f"{rule}, gate {gate}"] = {
                "normals called abnormal": float(called[labels == 0].mean()),
                "abnormal called normal": float(1 - called[labels == 1].mean()),
            }
    print(json.dumps(row, indent=1), flush=True)
    patients = store.index["patient"][held_out.rows]
    np.savez(space.root / "logits.npz", each=np.stack(each), labels=labels, patients=patients)
    return row


if __name__ == "__main__":
    source, work, name, *seeds = sys.argv[1:]
    file = Path(work) / "mostly_abnormal.json"
    rows = read_json(file) if file.exists() else []
    for seed in map(int, seeds):
        rows.append(measure(Path(source), Path(work), name, seed))
        write_json(file, rows)
