"""The table "What each part is worth" of docs/research/results.md: the final masks with one part left out at a time.

    python studies/ablation.py DATA WORK FIFTH SET SEED...

For runs that `recipe.py final` left; only parts that no training depends on. FIFTH is validation or test.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from runs import at_one_size, batches_of, figures, held_out, masks_with, networks, rebuilt, without_student, workspace
from torch import nn

from coinseg.config.schema import MaskSettings
from coinseg.inference.predictor import Predictor
from coinseg.networks.unet import Mean, Student
from coinseg.pipeline.run import train


def some_of(student: Mean, some: slice) -> Mean:
    """A student of some of the networks of another."""
    fewer = Student(0)
    fewer.members = nn.ModuleList(list(student.student.members)[some])
    return Mean(fewer, student.seen).eval()


def variants(run: Predictor) -> dict[str, tuple[Predictor, MaskSettings]]:
    """Every variant by its name, and how its masks are cleaned."""
    student, settings = networks(run), run.settings
    half = replace(settings, masks=replace(settings.masks, peak=0.0))
    gate = replace(settings, student=replace(settings.student, gate=settings.classifier.threshold))
    changed = {
        "all of it": run,
        "one image size (study 28)": at_one_size(run),
        "each slice alone (study 27)": rebuilt(run, ["slice_hmm"]),
        "no ImageNet classifier (study 26)": rebuilt(run, ["imagenet_classifier"]),
        "no PatchCore (study 24)": rebuilt(run, ["patchcore"]),
        "not the share of abnormal images (study 23)": rebuilt(run, shift=0.0),
        "f alone says which images (study 23)": rebuilt(run, ["imagenet_classifier", "slice_hmm"], others=[], shift=0.0),
        "a gate of 0.5 (study 23)": run.with_settings(gate),
        "without the network of synthetic lesions (study 22)": rebuilt(run, student=some_of(student, slice(0, 1))),
        "that network alone (study 22)": rebuilt(run, student=some_of(student, slice(1, 2))),
        "a half, not 40 % of the student's own peak (study 18)": run.with_settings(half),
    }
    cleaned = {name: (one, one.segmenter.cleaning) for name, one in changed.items()}
    cleaned["cleaned as a difference is (study 25)"] = (run, settings.masks)
    cleaned["COIN, refined: no student (study 15)"] = (without_student(run), settings.masks)
    return cleaned


def main() -> None:
    """See the top of this file."""
    source, work, fifth, name = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4]
    for seed in map(int, sys.argv[5:]):
        run = train(workspace(source, work, name, seed, "test")).predictor
        slices = held_out(source, work, name, seed, fifth)
        batches, truth, label = batches_of(slices)
        abnormal = (label == 1) | truth.any((1, 2))
        for variant, (one, cleaning) in variants(run).items():
            scores_of = one.scores_of(slices)
            masks = np.concatenate([masks_with(one, b.image, scores_of(b.rows), cleaning) for b in batches])
            shown = figures(masks, truth, abnormal, (label == 0) & ~abnormal)
            print(f"| {name}, seed {seed}, {fifth} | {variant} | {' | '.join(shown)} |", flush=True)


if __name__ == "__main__":
    main()
