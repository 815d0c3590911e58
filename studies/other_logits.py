"""Which term holds the logits of the other classes where one is turned off? On made leaves in colour with two diseases.

    python studies/other_logits.py WORK SEED [TERM ...]

f is trained once a seed, the generator once a term; the data and the settings are those of `coinseg demo`. Printed for each term
and class: how far its own logit and the other one move (mean |z(X_cf) - z(X)| over held-out images that have the class) in units
of the logit and of its standard deviation over held-out images, the share of images that turn, and the scores of the masks.
"""

from __future__ import annotations

import itertools
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from time import process_time

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from coinseg.cli.demo import LEAVES, shipped
from coinseg.cli.main import main as coinseg
from coinseg.config.parsing import settings_from
from coinseg.data.phantom.leaves import write_leaves
from coinseg.data.slices.dataset import ScoredSlices, TrainingSlices
from coinseg.data.slices.split import VALIDATION
from coinseg.data.slices.store import SliceStore
from coinseg.evaluation.explained import explain_all
from coinseg.evaluation.protocols import mask_free
from coinseg.explain.counterfactual import losses
from coinseg.inference.classes import ClassPredictors
from coinseg.masks.postprocess import masks_of
from coinseg.pipeline.job import Job
from coinseg.pipeline.recipe import build
from coinseg.training.classifier import train_classifier

Term = Callable[[Tensor, Tensor, Tensor, float, Tensor], Tensor]
"""(logits of X_cf, of X, standard deviations of the logits), (N,) each, how much of the training is over, and the probability of
the class that is turned off, (N,), to a number."""
TERMS: dict[str, Term] = {
    "huber-1": lambda after, before, deviation, over, left: F.huber_loss(after, before),
    "huber-1-times-5": lambda after, before, deviation, over, left: 5 * F.huber_loss(after, before),
    "smooth-0.1": lambda after, before, deviation, over, left: F.smooth_l1_loss(after, before, beta=0.1),
    "smooth-1-to-0.1": lambda after, before, deviation, over, left: F.smooth_l1_loss(after, before, beta=0.1**over),
    "huber-1-times-1-to-5": lambda after, before, deviation, over, left: 5**over * F.huber_loss(after, before),
    "huber-1-times-5-once-off": lambda after, before, deviation, over, left: (
        (5 - 4 * left) * F.huber_loss(after, before, reduction="none")
    ).mean(),
    "smooth-0.1-times-3-once-off": lambda after, before, deviation, over, left: (
        (3 - 2 * left) * F.smooth_l1_loss(after, before, beta=0.1, reduction="none")
    ).mean(),
    "smooth-0.1-of-deviation": lambda after, before, deviation, over, left: F.smooth_l1_loss(
        after / deviation, before / deviation, beta=0.1
    ),
}


def consistency(term: Term, deviations: Tensor, steps: int) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """`losses.class_consistency` with another term for the classes that are not asked for."""
    calls = itertools.count()

    def loss(counterfactual_logits: Tensor, logits: Tensor, asked: Tensor) -> Tensor:
        turned_off = losses.classifier_consistency(counterfactual_logits.gather(1, asked[:, None]))
        others = torch.ones_like(logits, dtype=torch.bool).scatter(1, asked[:, None], False)
        over = next(calls) / steps
        left = torch.sigmoid(counterfactual_logits.gather(1, asked[:, None])).detach().expand_as(logits)[others]
        kept = term(counterfactual_logits[others], logits[others], deviations.expand_as(logits)[others], over, left)
        return turned_off + (logits.shape[1] - 1) * kept

    return loss


def scores_of(work: Path, seed: int, names: list[str]) -> None:
    """Print a row for each term and class."""
    settings = replace(settings_from(shipped(LEAVES)), seed=seed)
    data, run = write_leaves(work / f"leaves-{seed}", seed), work / f"run-{seed}"
    assert coinseg(["prepare", str(data), "-o", str(run), "--data.size", str(settings.data.side), "--seed", str(seed)]) == 0
    store = SliceStore(run / "slices")
    f = train_classifier(store, settings, run / "classifier")
    held_out = TrainingSlices(store.views[0], settings.anomaly, seed, VALIDATION)
    with torch.no_grad():
        deviations = f(held_out.batch(np.arange(len(held_out))).image).std(0)
    print(f"seed {seed}, standard deviations of the logits {[round(value, 2) for value in deviations.tolist()]}")
    print(f"{'term':<28} {'class':<8} {'own':>6} {'other':>6} {'of sd':>6} {'turned':>6} {'IoU':>6} {'oracle':>6} {'Dice':>6}  s")
    for name in names:
        losses.class_consistency = consistency(TERMS[name], deviations, settings.coin.steps)
        begun = process_time()
        shutil.copytree(run / "classifier", run / name / "classifier", dirs_exist_ok=True)
        trained = build(Job(store, settings, run / name))
        seconds = process_time() - begun
        assert isinstance(trained, ClassPredictors)
        for number, (label, one) in enumerate(trained.of.items()):
            view = store.views[number]
            slices = ScoredSlices(view, settings.anomaly, seed, VALIDATION)
            having = np.flatnonzero(TrainingSlices(view, settings.anomaly, seed, VALIDATION).labels() == 1)
            moved = list(trained.moved(slices.batch(having).image, label).values())
            found = explain_all(slices, lambda b, p=one: p.evidence(b.image, p.scores(p.logits(b.image))), lambda d, t: None)  # type: ignore[misc]
            masks = masks_of(found.refined, found.levels(one.threshold, np.arange(len(slices)).tolist()), settings.masks)
            s = mask_free(found, masks, one.threshold, settings)
            other = moved[1 - number]
            values = [
                moved[number],
                other,
                other / float(deviations[1 - number]),
                s["flip_rate"],
                s["iou_mask_free"],
                s["iou_oracle"],
            ]
            print(
                f"{name:<28} {label:<8} {' '.join(f'{value:6.3f}' for value in [*values, s['dice_per_image']])} {seconds:4.0f}",
                flush=True,
            )


if __name__ == "__main__":
    scores_of(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:] or list(TERMS))
