"""How often is one class called another? Of a finished run of several classes, on its held-out images.

    coinseg phantom cohort --patients 120 --slices 16 --size 160 --lesions classes
    coinseg run cohort -o RUN --data.size 64 --data.roi organ --data.organ kidney_left kidney_right \\
        --data.classes kidney_tumor kidney_cyst --data.split_by hash ...
    python studies/called_as.py RUN

For classes a and b: of the held-out images that have b and not a, the share in which the mask of a touches the true b, and the
share of b's true pixels that lie in the mask of a; beside them the same of a mask of b. Masks are used for counting alone.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from coinseg.config.parsing import stored_settings
from coinseg.data.slices.dataset import ScoredSlices
from coinseg.data.slices.split import VALIDATION
from coinseg.data.slices.store import SliceStore
from coinseg.inference.checkpoint import load, read_model
from coinseg.inference.classes import ClassPredictors
from coinseg.runtime.devices import CHUNK


def masks_of_run(run: Path) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Of each class: the rows of its held-out images (n,), its true masks and its masks, (n, S, S) bool each."""
    store, trained = SliceStore(run / "slices"), load(run, accelerator="cpu")
    settings = stored_settings(read_model(run / "model.json")["settings"])
    assert isinstance(trained, ClassPredictors)
    found = {}
    for view, (name, one) in zip(store.views, trained.of.items(), strict=True):
        slices = ScoredSlices(view, settings.anomaly, settings.seed, VALIDATION)
        scores, parts = one.scores_of(slices), []
        for start in range(0, len(slices), CHUNK):
            batch = slices.scored(np.arange(start, min(start + CHUNK, len(slices))))
            parts.append((batch.rows, batch.truth, one.segment_images(batch.image, scores(batch.rows)).masks))
        rows, truth, masks = (np.concatenate(each) for each in zip(*parts, strict=True))
        found[name] = (rows, np.asarray(truth), masks)
    return found


def called(run: Path) -> None:
    """Print a row for each pair of classes."""
    found = masks_of_run(run)
    print(f"{'images with':<14} {'mask of':<14} {'images':>6} {'touched':>7} {'of its pixels':>13} {'IoU':>6}")
    for true_name, (true_rows, truth, _) in found.items():
        for name, (rows, other_truth, masks) in found.items():
            _, here, there = np.intersect1d(true_rows, rows, return_indices=True)
            has = truth[here].any((1, 2))
            if name != true_name:
                has &= ~other_truth[there].any((1, 2))
            real, marked = truth[here][has], masks[there][has]
            both = real & marked
            iou = both.sum() / max((real | marked).sum(), 1)
            values = f"{both.any((1, 2)).mean():7.3f} {both.sum() / max(real.sum(), 1):13.3f} {iou:6.3f}"
            print(f"{true_name:<14} {name:<14} {int(has.sum()):6d} {values}")


if __name__ == "__main__":
    called(Path(sys.argv[1]))
