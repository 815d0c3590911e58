"""What is learnt from few images: the training side cut to so many, half of them abnormal; read on the whole validation fifth.

    python studies/cohort_size.py DATA WORK SET SEED STEPS COUNT...     rows in WORK/cohort_size.json

SET is one of `studies/runs.py`; STEPS are those of f, COUNT 0 is all images. No mask is read before scoring.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from board import scored
from runs import SETS, workspace

from coinseg.data.slices.dataset import ScoredSlices, TrainingSlices
from coinseg.data.slices.split import VALIDATION
from coinseg.data.slices.store import SliceStore
from coinseg.inference.predictor import Predictor
from coinseg.pipeline.job import Job
from coinseg.pipeline.recipe import build
from coinseg.pipeline.run import job_of
from coinseg.runtime.files import read_json, write_json

NO_SIDE = 9


def cut(store: SliceStore, slices: TrainingSlices, count: int, seed: int) -> None:
    """Keep `count` training images, half of them abnormal, drawn with a seed; the others are on no side of the split then."""
    rng, labels = np.random.default_rng(seed), slices.labels()
    for label in (0, 1):
        others = rng.permutation(np.flatnonzero(labels == label))[count // 2 :]
        store.index["split"][slices.rows[others]] = NO_SIDE


def measure(source: Path, work: Path, name: str, seed: int, steps: int, count: int) -> dict[str, object]:
    """The row of one size of the cohort."""
    space = workspace(source, work, name, seed)
    space = replace(space, root=work / "cohort_size" / f"{name}-{seed}-{count}-{steps}")
    settings = replace(space.settings, classifier=replace(space.settings.classifier, steps=steps))
    space.start()
    store = job_of(space).store
    slices = TrainingSlices(store, settings.anomaly, seed)
    if count:
        cut(store, slices, count, seed)
    begun = time.process_time()
    run = build(Job(store, settings, space.root / "networks"))
    seconds = time.process_time() - begun
    assert isinstance(run, Predictor)
    row: dict[str, object] = {"set": name, "seed": seed, "size": SETS[name]["data"]["size"], "images": count, "steps": steps}
    row |= {"cpu_s": round(seconds), "student": run.student is not None}
    row |= scored(run, ScoredSlices(store, settings.anomaly, seed, VALIDATION), space.root / "scores")
    print(json.dumps(row), flush=True)
    return row


if __name__ == "__main__":
    source, work, name, seed, steps, *counts = sys.argv[1:]
    file = Path(work) / "cohort_size.json"
    for count in map(int, counts):
        row = measure(Path(source), Path(work), name, int(seed), int(steps), count)
        write_json(file, [*(read_json(file) if file.exists() else []), row])
