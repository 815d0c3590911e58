"""The table of docs/research/thresholds.md: every rule for a threshold that needs no mask, and how far it is from the best one, on every set.

    python studies/thresholds.py DATA WORK FIFTH SET SEED...

For runs whose classifier and COIN `recipe.py train` left; nothing is trained and no student is asked. FIFTH is validation or test. Each rule is
chosen on training images and their labels; the oracle is tuned on the masks it is scored with.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from recipe import workspace

from coinseg.data.slices.dataset import ScoredSlices, TrainingSlices
from coinseg.data.slices.split import VALIDATION
from coinseg.evaluation.protocols import sweep
from coinseg.masks.postprocess import masks_of
from coinseg.metrics.overlap import mean_dice, pooled_iou

RULES = {
    "normals": {"threshold": "normals", "peak": 0.0},
    "normals, 40 % of the peak (default)": {"threshold": "normals"},
    "otsu": {"threshold": "otsu", "peak": 0.0},
    "otsu, 40 % of the peak": {"threshold": "otsu"},
    "flip": {"threshold": "flip", "peak": 0.0},
    "flip, 40 % of the peak": {"threshold": "flip"},
}


def main() -> None:
    """See the top of this file."""
    source, work, fifth, name = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4]
    for seed in map(int, sys.argv[5:]):
        space = workspace(source, work, name, seed, "test")
        space = replace(space, settings=replace(space.settings, student=replace(space.settings.student, steps=0)))
        at = space if fifth == "test" else replace(workspace(source, work, name, seed, fifth), root=space.root / fifth)
        slices, training = (
            ScoredSlices(at.store, at.settings.anomaly, seed, VALIDATION),
            TrainingSlices(space.store, space.settings.anomaly, seed),
        )
        batches = [slices.scored(np.arange(i, min(i + 64, len(slices)))) for i in range(0, len(slices), 64)]
        truth, label = (np.concatenate([getattr(b, part) for b in batches]) for part in ("truth", "label"))
        ill = (label == 1) | truth.any((1, 2))
        normal = (label == 0) & ~ill
        for rule, changes in RULES.items():
            run = space.run
            run = replace(run, settings=replace(run.settings, masks=replace(run.settings.masks, **changes)))
            run.threshold = run.choose_threshold(training).value
            found = [run.differences(batch.image) for batch in batches]
            masks = np.concatenate([masks_of(refined, run.levels(e), run.cleaning) for e, refined in found])
            print(
                f"| {name}, seed {seed}, {fifth} | {rule} | {pooled_iou(masks[ill], truth[ill]):.3f} | {mean_dice(masks[ill], truth[ill]):.3f} "
                f"| {100 * masks[normal].mean():.3f} % |",
                flush=True,
            )
        maps = np.concatenate([refined for _, refined in found])
        best = sweep(maps, truth, run.threshold, run.settings, np.flatnonzero(ill))
        print(f"| {name}, seed {seed}, {fifth} | oracle | {best:.3f} | | |", flush=True)


if __name__ == "__main__":
    main()
