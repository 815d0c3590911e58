"""Look again where something was found: X_cf is pasted over the found part, and f and E are asked about what is left.

    python studies/look_again.py DATA WORK VARIANT SET SEED...

WORK/VARIANT/SET-SEED is a trained run of `studies/faster.py`. Nothing is trained. The pseudo-masks of the ensemble on the
training side and on the validation fifth, looked at again until the classifiers call the image normal; masks are read for
the figures alone.
"Large" are the largest third of the lesions: the share of them of which more than two thirds are marked.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from faster import varied
from runs import batches_of, figures, held_out, workspace
from scipy import ndimage
from torch import Tensor

from coinseg.data.slices.dataset import ScoredSlices, TrainingSlices
from coinseg.inference.ensemble import Ensemble
from coinseg.inference.segmenter import DifferenceSegmenter
from coinseg.pipeline.recipe import other_pairs
from coinseg.pipeline.run import job_of, train

RULES = ((0, 0.5, 0), (1, 0.5, 2), (2, 0.5, 2), (3, 0.5, 0), (2, 0.2, 2), (3, 0.05, 2))
"""How often at most, from which mean f(X) of what is left, and by how many pixels the found part is widened."""


def without(images: Tensor, counterfactual: Tensor, masks: np.ndarray, wider: int) -> Tensor:
    """The images with X_cf in the place of what was found, the border blurred; (B, C, S, S) in [-1, 1]."""
    wide = np.stack([ndimage.binary_dilation(mask, iterations=wider) if wider else mask for mask in masks])
    soft = np.stack([np.maximum(ndimage.gaussian_filter(mask.astype(np.float32), 1.0), mask) for mask in wide])
    share = torch.from_numpy(soft)[:, None]
    return images * (1 - share) + counterfactual * share


def looked_again(ensemble: Ensemble, images: Tensor, times: int, level: float, wider: int) -> np.ndarray:
    """Masks (B, S, S) bool: the union of what each look found."""
    masks, _ = ensemble.pseudo_masks(images)
    found, left = masks, images
    for _ in range(times):
        counterfactual = torch.stack([pair.explainer.counterfactual(left) for pair in ensemble.pairs]).mean(0)
        left = without(left, counterfactual, masks, wider)
        again = asked_from(ensemble, level)
        some = np.flatnonzero(found.any((1, 2)))
        masks = np.zeros_like(found)
        if len(some):
            masks[some] = again.pseudo_masks(left[torch.from_numpy(some)])[0]
        if not masks.any():
            break
        found = found | masks
    return found


def asked_from(ensemble: Ensemble, level: float) -> Ensemble:
    """The ensemble that calls an image abnormal from another mean f(X)."""
    settings = ensemble.first.explainer.settings
    settings = replace(settings, classifier=replace(settings.classifier, threshold=level))
    first = replace(ensemble.first, explainer=replace(ensemble.first.explainer, settings=settings))
    return Ensemble(first, [replace(other, settings=settings) for other in ensemble.others], ensemble.slices)


def covered(masks: np.ndarray, truth: np.ndarray) -> float:
    """Of the images with the largest third of the lesions, the share of which more than two thirds are marked."""
    area = truth.sum((1, 2))
    large = np.flatnonzero(area >= np.quantile(area[area > 0], 2 / 3))
    shares = [(masks[i] & truth[i]).sum() / area[i] for i in large]
    return float(np.mean(np.array(shares) > 2 / 3))


def measure(source: Path, work: Path, variant: str, name: str, seed: int) -> None:
    """Print a row for each side and rule."""
    space = varied(workspace(source, work, name, seed, "test"), work, variant)
    space.start()
    run, job = train(space), job_of(space)
    slices = TrainingSlices(run.store, space.settings.anomaly, seed)
    one = run.predictor.explainer
    others = [replace(one, f=f, generator=generator) for f, generator in other_pairs(job)]
    ensemble = Ensemble(DifferenceSegmenter(one, run.predictor.threshold), others, slices)
    sides = {
        "training": ScoredSlices(run.store, space.settings.anomaly, seed),
        "validation": held_out(source, work, name, seed, "validation"),
    }
    for side, scored in sides.items():
        batches, truth, label = batches_of(scored)
        for times, level, wider in RULES:
            masks = np.concatenate([looked_again(ensemble, batch.image, times, level, wider) for batch in batches])
            row = figures(masks, truth, label == 1, label == 0)
            large = covered(masks[label == 1], truth[label == 1])
            print(name, seed, side, f"{times} more looks from {level}, {wider} px wider", *row, f"large {large:.3f}", flush=True)


if __name__ == "__main__":
    source, work, variant, name, *seeds = sys.argv[1:]
    for seed in map(int, seeds):
        measure(Path(source), Path(work), variant, name, seed)
