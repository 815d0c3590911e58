"""The table of docs/research/thresholds.md: every rule for a threshold that needs no mask, and how far it is from the best one.

    python studies/thresholds.py DATA WORK FIFTH SET SEED...

For runs whose classifier and COIN `recipe.py train` left; nothing is trained and no student is asked. FIFTH is
validation or test. Each rule is chosen on training images and their labels; the oracle is tuned on the masks it is
scored with.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from runs import batches_of, coin_alone, figures, held_out, workspace

from coinseg.data.slices.dataset import TrainingSlices
from coinseg.evaluation.protocols import sweep
from coinseg.pipeline.run import train

RULES: dict[str, dict[str, Any]] = {
    "normals": {"threshold": "normals", "peak": 0.0},
    "normals, 40 % of the peak (default)": {"threshold": "normals"},
    "otsu": {"threshold": "otsu", "peak": 0.0},
    "otsu, 40 % of the peak": {"threshold": "otsu"},
    "decision_flip": {"threshold": "decision_flip", "peak": 0.0},
    "decision_flip, 40 % of the peak": {"threshold": "decision_flip"},
}


def main() -> None:
    """See the top of this file."""
    source, work, fifth, name = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4]
    for seed in map(int, sys.argv[5:]):
        space = workspace(source, work, name, seed, "test")
        run = train(replace(space, settings=replace(space.settings, student=replace(space.settings.student, steps=0))))
        training = TrainingSlices(run.store, space.settings.anomaly, seed)
        batches, truth, label = batches_of(held_out(source, work, name, seed, fifth))
        abnormal = (label == 1) | truth.any((1, 2))
        for rule, changes in RULES.items():
            one = coin_alone(run.predictor, training, **changes)
            found = [one.segment_images(batch.image) for batch in batches]
            masks = np.concatenate([segmented.masks for segmented in found])
            shown = figures(masks, truth, abnormal, (label == 0) & ~abnormal)
            print(f"| {name}, seed {seed}, {fifth} | {rule} | {' | '.join(shown)} |", flush=True)
        maps = np.concatenate([segmented.maps.values for segmented in found])
        best = sweep(maps, truth, one.threshold, one.settings, np.flatnonzero(abnormal))
        print(f"| {name}, seed {seed}, {fifth} | oracle | {best:.3f} | | |", flush=True)


if __name__ == "__main__":
    main()
