"""What studies 24 and 25 change (docs/research/patchcore.md, docs/research/student.md), on the validation fifth.

    python studies/student_cleaning.py DATA WORK SET SEED...

For runs that `recipe.py` trained. The student alone, its masks opened and their largest part taken as before study 25;
as drawn; and with PatchCore's regions, where the run keeps it: IoU, Dice per image, what is marked of normal pixels.
Each slice is asked about alone. Nothing is trained.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from runs import batches_of, figures, held_out, masks_with, rebuilt, workspace

from coinseg.config.schema import MaskSettings
from coinseg.inference.predictor import Predictor
from coinseg.pipeline.run import train


def variants(run: Predictor) -> dict[str, tuple[Predictor, MaskSettings]]:
    """Every row by its name, and how its masks are cleaned."""
    alone, cleaning = rebuilt(run, ["patchcore"]), run.segmenter.cleaning
    rows = {"opened, the largest part": (alone, run.settings.masks), "as drawn": (alone, cleaning)}
    return rows | ({"as drawn, and PatchCore's regions": (run, cleaning)} if len(run.parts) > len(alone.parts) else {})


def main() -> None:
    """See the top of this file."""
    source, work, name = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    for seed in map(int, sys.argv[4:]):
        run = train(workspace(source, work, name, seed, "test")).predictor
        batches, truth, label = batches_of(held_out(source, work, name, seed, "validation"))
        scores = [run.scores(run.logits(b.image)) for b in batches]
        for row, (one, cleaning) in variants(run).items():
            masks = np.concatenate([masks_with(one, b.image, s, cleaning) for b, s in zip(batches, scores, strict=True)])
            iou, dice, marked = figures(masks, truth, label == 1, (label == 0) & ~truth.any((1, 2)))
            print(f"| {name} {seed} | {row} | {iou} / {dice}, {marked} |", flush=True)


if __name__ == "__main__":
    main()
