"""Which distance between the colours of X and X_cf makes the better masks? Of a finished run without a student.

    python studies/colour_difference.py RUN

For each distance the threshold is chosen anew without masks, and the held-out images are scored as `coinseg evaluate` does.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from torch import Tensor

from coinseg.config.parsing import stored_settings
from coinseg.data.slices.dataset import ScoredSlices, TrainingSlices
from coinseg.data.slices.split import VALIDATION
from coinseg.data.slices.store import SliceStore
from coinseg.evaluation.explained import explain_all
from coinseg.evaluation.protocols import mask_free
from coinseg.explain.counterfactual import coin
from coinseg.inference.checkpoint import load, read_model
from coinseg.inference.predictor import Predictor
from coinseg.masks.postprocess import masks_of

DISTANCES: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda apart: apart.abs().mean(1) / 2,
    "root mean square": lambda apart: apart.square().mean(1).sqrt() / 2,
    "largest": lambda apart: apart.abs().amax(1) / 2,
}
"""|X - X_cf|, (B, C, S, S), to one number for each pixel in [0, 1]."""


def scores_of(run: Path) -> None:
    """Print a row for each distance."""
    store, settings = SliceStore(run / "slices"), stored_settings(read_model(run / "model.json")["settings"])
    training = TrainingSlices(store, settings.anomaly, settings.seed)
    held_out = ScoredSlices(store, settings.anomaly, settings.seed, VALIDATION)
    print(f"{'distance':<18} {'threshold':>9} {'IoU':>6} {'oracle':>6} {'Dice':>6} {'normals marked':>14}")
    for name, distance in DISTANCES.items():
        coin.difference = lambda x, other, of=distance: of(x - other)  # type: ignore[misc]
        predictor = load(run, accelerator="cpu")
        assert isinstance(predictor, Predictor)
        threshold = predictor.explainer.choose_threshold(training).value
        explainer = predictor.explainer
        predictor = replace(Predictor.of(explainer, predictor.preparation, threshold), distribution=None)
        ask = predictor.scores_of(held_out)
        found = explain_all(held_out, lambda b, p=predictor, a=ask: p.evidence(b.image, a(b.rows)), lambda d, t: None)  # type: ignore[misc]
        masks = masks_of(found.refined, found.levels(threshold, np.arange(len(held_out)).tolist()), settings.masks)
        s = mask_free(found, masks, threshold, settings)
        row = [s[key] for key in ("iou_mask_free", "iou_oracle", "dice_per_image", "normals_marked")]
        print(f"{name:<18} {threshold:9.4f} {row[0]:6.3f} {row[1]:6.3f} {row[2]:6.3f} {row[3]:14.3f}")


if __name__ == "__main__":
    scores_of(Path(sys.argv[1]))
