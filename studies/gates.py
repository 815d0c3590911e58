"""The table of study 23 (docs/research/image-score.md): who says which images are marked, and from where on.

    python studies/gates.py DATA WORK SET SEED...

For runs that `recipe.py` trained, on the validation fifth. f as it is or the image score of all classifiers, a gate and
a level from which maps are rescaled to their peak; IoU, Dice per image, what is marked of normal pixels. Nothing is
trained; cysts are counted by `recipe.py cysts`. PatchCore's regions (study 24) are left out, and each slice is asked
about alone; masks are as drawn (study 25), which those of that table were not yet.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from runs import batches_of, figures, held_out, networks, rebuilt, workspace

from coinseg.inference.predictor import Predictor
from coinseg.pipeline.run import train

GATES = ((0.1, 0.5), (0.3, 0.5), (0.4, 0.5), (0.3, 0.3), (0.4, 0.4), (0.5, 0.5))


def deciders(run: Predictor) -> dict[str, Predictor]:
    """The predictors by who says which images are marked."""
    networks(run)
    return {
        "f": rebuilt(run, ["imagenet_classifier", "slice_hmm", "patchcore"], others=[], shift=0.0),
        "all, not moved": rebuilt(run, ["slice_hmm", "patchcore"], shift=0.0),
        "all, moved": rebuilt(run, ["slice_hmm", "patchcore"]),
    }


def gated(run: Predictor, gate: float, level: float) -> Predictor:
    """The predictor with another gate, and another level from which maps are rescaled."""
    student, classifier = run.settings.student, run.settings.classifier
    changed = replace(run.settings, student=replace(student, gate=gate), classifier=replace(classifier, threshold=level))
    return run.with_settings(changed)


def main() -> None:
    """See the top of this file."""
    source, work, name = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    for seed in map(int, sys.argv[4:]):
        run = train(workspace(source, work, name, seed, "test")).predictor
        batches, truth, label = batches_of(held_out(source, work, name, seed, "validation"))
        for who, one in deciders(run).items():
            for gate, level in GATES:
                masks = np.concatenate([gated(one, gate, level).masks(b.image) for b in batches])
                iou, dice, marked = figures(masks, truth, label == 1, (label == 0) & ~truth.any((1, 2)))
                print(f"| {name} {seed} | {who} | {gate}; {level} | {iou} / {dice}, {marked} |", flush=True)


if __name__ == "__main__":
    main()
