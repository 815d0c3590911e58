"""Which parts of a difference are the mask: the largest one, those that reach a share of the highest value, or all (study 32).

    python studies/mask_parts.py RUN...        folders of `coinseg run`; the student is not asked

Masks of the first pair of f and generator on the held-out and the training side, opened by a square of 3 pixels or not; true
masks are read for scoring alone.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from runs import batches_of, figures
from scipy import ndimage

import coinseg
from coinseg.data.slices.dataset import ScoredSlices
from coinseg.data.slices.split import TRAINING, VALIDATION
from coinseg.data.slices.store import SliceStore
from coinseg.inference.classes import predictors_of
from coinseg.inference.image_score import ImageScores
from coinseg.inference.predictor import Predictor
from coinseg.inference.segmenter import DifferenceSegmenter
from coinseg.masks import postprocess

SHARES = (0.5, 0.6, 0.7, 0.8, 0.9)


def measure(name: str, run: Predictor, store: SliceStore) -> None:
    """Print the rows of a class of a run."""
    settings, pair = run.settings, DifferenceSegmenter(run.explainer, run.threshold)
    for side, of_side in ((VALIDATION, "held out"), (TRAINING, "training")):
        batches, truth, labels = batches_of(ScoredSlices(store, settings.anomaly, settings.seed, side))
        several = [ndimage.label(mask)[1] > 1 for mask in truth[labels == 1]]
        print(f"{name}, {of_side}: {len(several)} abnormal images, {np.mean(several):.0%} with several lesions")
        scores = [ImageScores.of_f(run.explainer.probability(batch.image)) for batch in batches]
        maps = np.concatenate([pair.maps(batch.image, one).values for batch, one in zip(batches, scores, strict=True)])
        for opening in (3, 0):
            for keep in ("largest", "all", *SHARES):
                if isinstance(keep, float):
                    postprocess.SEED = keep
                cleaning = replace(settings.masks, opening=opening, keep="seeds" if isinstance(keep, float) else keep)
                masks = postprocess.masks_of(maps, run.threshold, cleaning)
                print(f"  opened {opening}, {keep}:", *figures(masks, truth, labels == 1, labels == 0), flush=True)


if __name__ == "__main__":
    for folder in map(Path, sys.argv[1:]):
        views = SliceStore(folder / "slices").views
        for (of_class, run), store in zip(predictors_of(coinseg.load(folder)).items(), views, strict=True):
            measure(f"{folder.name} {of_class}".strip(), run, store)
