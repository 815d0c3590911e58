"""Pseudo-masks with the parts that f has evidence for, against the largest part of the opened difference (study 31).

    python studies/pseudo_mask_parts.py RUN...        folders of `coinseg run` with --student.steps 0

Of the first pair of f and generator of each run, without the fitted borders; masks are read for scoring alone. The rows: what
`student.parts` masks and evidence mark in the training side, which learns from them, and in the held-out side.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from runs import batches_of, figures
from scipy import ndimage

import coinseg
from coinseg.data.slices.dataset import ScoredSlices, TrainingSlices
from coinseg.data.slices.split import TRAINING, VALIDATION
from coinseg.data.slices.store import SliceStore
from coinseg.inference.ensemble import Ensemble
from coinseg.inference.segmenter import DifferenceSegmenter


def measure(root: Path) -> None:
    """Print the rows of a run."""
    run, store = coinseg.load(root), SliceStore(root / "slices")
    assert isinstance(run, coinseg.Predictor)
    settings = run.settings
    for side, name in ((TRAINING, "training"), (VALIDATION, "held out")):
        slices = ScoredSlices(store.views[0], settings.anomaly, settings.seed, side)
        batches, truth, labels = batches_of(slices)
        lesions = [ndimage.label(mask)[1] for mask in truth[labels == 1]]
        print(f"{root.name}, {name}: {len(lesions)} abnormal images, {np.mean(np.array(lesions) > 1):.0%} with several lesions")
        for parts in ("masks", "evidence"):
            largest = replace(settings.masks, keep="largest", opening=3)
            changed = replace(settings, masks=largest, student=replace(settings.student, parts=parts, border_weight=0.0))
            pair = DifferenceSegmenter(replace(run.explainer, settings=changed), run.threshold)
            ensemble = Ensemble(pair, [], TrainingSlices(store.views[0], settings.anomaly, settings.seed))
            masks = np.concatenate([ensemble.pseudo_masks(batch.image)[0] for batch in batches])
            opened = "" if ensemble.cleaning is None else f", opened {ensemble.cleaning.opening}"
            print(f"  {parts}{opened}:", *figures(masks, truth, labels == 1, labels == 0), flush=True)


if __name__ == "__main__":
    for folder in sys.argv[1:]:
        measure(Path(folder))
