"""The table of study 23 (docs/research/image-score.md): who says which images are marked, and from where on, on the validation fifth.

    python studies/gates.py DATA WORK SET SEED...

For runs that `recipe.py` trained. f as it is or the posterior of all classifiers, a gate and a level to be brought up from; IoU, Dice per
image, what is marked of normal pixels. Nothing is trained; cysts are counted by `recipe.py cysts`. PatchCore's regions (study 24) are left out;
masks are as drawn (study 25), which those of that table were not yet.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from recipe import workspace

from coinseg.data.slices.dataset import ScoredSlices
from coinseg.data.slices.split import VALIDATION
from coinseg.inference.image_score import ImageScore
from coinseg.metrics.overlap import mean_dice, pooled_iou

GATES = ((0.1, 0.5), (0.3, 0.5), (0.4, 0.5), (0.3, 0.3), (0.4, 0.4), (0.5, 0.5))


def main() -> None:
    """See the top of this file."""
    source, work, name = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    for seed in map(int, sys.argv[4:]):
        trained = workspace(source, work, name, seed, "test")
        run = trained.run
        if not isinstance(run.posterior, ImageScore):
            raise SystemExit("the run has no student")
        scored = replace(workspace(source, work, name, seed, "validation"), root=trained.root / "validation")
        slices = ScoredSlices(scored.store, scored.settings.anomaly, seed, VALIDATION)
        batches = [slices.scored(np.arange(i, min(i + 64, len(slices)))) for i in range(0, len(slices), 64)]
        truth, label = (np.concatenate([getattr(b, part) for b in batches]) for part in ("truth", "label"))
        ill, well = label == 1, (label == 0) & ~truth.any((1, 2))
        moved, still = run.posterior, ImageScore(list(run.posterior.classifiers), 0.0, run.posterior.opinion)
        for who, says in (("f", None), ("all, not moved", still), ("all, moved", moved)):
            for gate, up in GATES:
                s = run.settings
                changed = replace(
                    s, student=replace(s.student, gate=gate), classifier=replace(s.classifier, threshold=up)
                )  # fmt: skip
                asked = replace(run, settings=changed, posterior=says, novelty=None)
                masks = np.concatenate([asked.masks(b.image) for b in batches])
                print(
                    f"| {name} {seed} | {who} | {gate}; {up} | {pooled_iou(masks[ill], truth[ill]):.3f} / {mean_dice(masks[ill], truth[ill]):.3f}, "
                    f"{100 * masks[well].mean():.3f} % |", flush=True,
                )  # fmt: skip


if __name__ == "__main__":
    main()
