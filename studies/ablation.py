"""The table "What each part is worth" of docs/research/results.md: the final masks with one part of the recipe left out at a time.

    python studies/ablation.py DATA WORK FIFTH SET SEED...

For runs that `recipe.py final` left; only parts that no training depends on. FIFTH is validation or test.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from recipe import workspace
from torch import nn

from coinseg.config.schema import MaskSettings
from coinseg.data.slices.dataset import ScoredSlices
from coinseg.data.slices.split import VALIDATION
from coinseg.inference.image_score import ImageScore
from coinseg.inference.scans import Run
from coinseg.masks.postprocess import masks_of
from coinseg.metrics.overlap import mean_dice, pooled_iou
from coinseg.networks.unet import Mean, Student, sides


def members(student: Mean, some: slice) -> Mean:
    """A student of some of the members of another."""
    kept = list(student.student.members)[some]
    fewer = Student(0)
    fewer.members = nn.ModuleList(kept)
    return Mean(fewer, student.seen).eval()


def variants(run: Run) -> dict[str, tuple[Run, MaskSettings]]:
    """Every variant by its name, and how its masks are cleaned."""
    student, posterior, clean = run.student, run.posterior, run.cleaning
    if not isinstance(student, Mean) or not isinstance(posterior, ImageScore):
        raise SystemExit("the run has no student")
    classifiers = list(posterior.classifiers)
    level = replace(run.settings, masks=replace(run.settings.masks, peak=0.0))
    gate = replace(run.settings, student=replace(run.settings.student, gate=run.settings.classifier.threshold))
    changed = {
        "all of it": run,
        "one image size (study 28)": replace(run, student=Mean(student.student, lambda side: sides(side)[:1]).eval()),
        "each slice alone (study 27)": replace(run, steps=None),
        "no ImageNet classifier (study 26)": replace(run, posterior=ImageScore(classifiers, posterior.shift).eval()),
        "no PatchCore (study 24)": replace(run, novelty=None),
        "not the share of abnormal images (study 23)": replace(
            run, posterior=ImageScore(classifiers, 0.0, posterior.opinion).eval()
        ),
        "f alone says which images (study 23)": replace(run, posterior=ImageScore(classifiers[:1], 0.0).eval(), steps=None),
        "a gate of 0.5 (study 23)": replace(run, settings=gate),
        "without the network of synthetic lesions (study 22)": replace(run, student=members(student, slice(0, 1))),
        "that network alone (study 22)": replace(run, student=members(student, slice(1, 2))),
    }
    made = {name: (one, one.cleaning) for name, one in changed.items()}
    made["a half, not 40 % of the student's own peak (study 18)"] = (replace(run, settings=level), replace(clean, peak=0.0))
    made["cleaned as a difference is (study 25)"] = (run, run.settings.masks)
    made["COIN, refined: no student (study 15)"] = (replace(run, student=None), run.settings.masks)
    return made


def main() -> None:
    """See the top of this file."""
    source, work, fifth, name = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4]
    for seed in map(int, sys.argv[5:]):
        space = workspace(source, work, name, seed, "test")
        at = space if fifth == "test" else replace(workspace(source, work, name, seed, fifth), root=space.root / fifth)
        slices = ScoredSlices(at.store, at.settings.anomaly, seed, VALIDATION)
        batches = [slices.scored(np.arange(i, min(i + 64, len(slices)))) for i in range(0, len(slices), 64)]
        truth, label = (np.concatenate([getattr(b, part) for b in batches]) for part in ("truth", "label"))
        ill = (label == 1) | truth.any((1, 2))
        normal = (label == 0) & ~ill
        for what, (run, clean) in variants(space.run).items():
            known = run.posterior_of(slices)
            masks = []
            for batch in batches:
                explained, refined = run.evidence(batch.image, posterior=known(batch.rows))
                masks.append(masks_of(refined, run.levels(explained), clean))
            found = np.concatenate(masks)
            print(
                f"| {name}, seed {seed}, {fifth} | {what} | {pooled_iou(found[ill], truth[ill]):.3f} | {mean_dice(found[ill], truth[ill]):.3f} "
                f"| {100 * found[normal].mean():.3f} % |",
                flush=True,
            )


if __name__ == "__main__":
    main()
