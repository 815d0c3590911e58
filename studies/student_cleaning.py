"""What studies 24 and 25 change (docs/research/patchcore.md, docs/research/student.md), asked of the code on the validation fifth.

    python studies/student_cleaning.py DATA WORK SET SEED...

For runs that `recipe.py` trained. The student alone, its masks opened and their largest part taken as before study 25; as drawn; and with PatchCore's
regions, where the run keeps it: IoU, Dice per image, what is marked of normal pixels. Nothing is trained.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from recipe import workspace

from coinseg.data.slices.dataset import ScoredSlices
from coinseg.data.slices.split import VALIDATION
from coinseg.masks.postprocess import masks_of
from coinseg.metrics.overlap import mean_dice, pooled_iou


def main() -> None:
    """See the top of this file."""
    source, work, name = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    for seed in map(int, sys.argv[4:]):
        trained = workspace(source, work, name, seed, "test")
        run = trained.run
        scored = replace(workspace(source, work, name, seed, "validation"), root=trained.root / "validation")
        slices = ScoredSlices(scored.store, scored.settings.anomaly, seed, VALIDATION)
        batches = [slices.scored(np.arange(i, min(i + 64, len(slices)))) for i in range(0, len(slices), 64)]
        truth, label = (np.concatenate([getattr(b, part) for b in batches]) for part in ("truth", "label"))
        ill, well = label == 1, (label == 0) & ~truth.any((1, 2))
        alone = replace(run, novelty=None)
        for what, one, cleaning in (
            ("opened, the largest part", alone, run.settings.masks),
            ("as drawn", alone, run.cleaning),
            *([("as drawn, and PatchCore's regions", run, run.cleaning)] if run.novelty is not None else []),
        ):
            masks = np.concatenate([masks_of(one.evidence(b.image)[1], one.level, cleaning) for b in batches])
            print(
                f"| {name} {seed} | {what} | {pooled_iou(masks[ill], truth[ill]):.3f} / {mean_dice(masks[ill], truth[ill]):.3f}, "
                f"{100 * masks[well].mean():.3f} % |", flush=True,
            )  # fmt: skip


if __name__ == "__main__":
    main()
