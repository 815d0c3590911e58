"""Scores on the held-out side: the only place where lesion masks meet predictions.

The threshold comes in from outside (chosen without masks). The oracle, which tunes a threshold on the very masks it is
scored with, exists only to say how far the mask-free one is from the best possible, and is named oracle everywhere.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from . import metrics
from .config import Settings
from .data.sampling import ScoredSlices
from .engine import CHUNK
from .masks import masks_of
from .storage import write_json, written_aside

ORACLE_THRESHOLDS = np.linspace(0.0125, 0.5, 40)
ORACLE_PEAKS = np.linspace(0.025, 1, 40)
"""The oracle sweeps one threshold for all images, and one share of each image's peak, and takes the best."""
EXAMPLES = 4
"""Pictures of each kind: best, median, worst, normal."""
Explain = Callable[[Tensor], tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]
"""Images (B, 1, H, W) -> f(X) (B,), f(X_cf) (B,), X_cf (B, H, W) in [-1, 1], refined difference (B, H, W)."""


@dataclass(frozen=True)
class Explained:
    """All held-out slices, explained: arrays over n slices."""

    rows: np.ndarray
    label: np.ndarray
    before: np.ndarray
    after: np.ndarray
    image: np.ndarray
    counterfactual: np.ndarray
    refined: np.ndarray
    truth: np.ndarray
    known: np.ndarray


def explain_all(slices: ScoredSlices, explain: Explain, report: Callable[[int, int], None]) -> Explained:
    """Explain every slice of this side, in batches; images and X_cf come back in [0, 1]."""
    parts = []
    for start in range(0, len(slices), CHUNK):
        report(start, len(slices))
        batch = slices.scored(np.arange(start, min(start + CHUNK, len(slices))))
        before, after, counterfactual, refined = explain(batch.image)
        image = batch.image[:, 0].numpy() / 2 + 0.5
        parts.append((batch.rows, batch.label, before, after, image, counterfactual / 2 + 0.5, refined, batch.truth, batch.known))
    return Explained(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def sweep(refined: np.ndarray, truth: np.ndarray, threshold: float, settings: Settings) -> float | None:
    """The best pooled IoU any threshold reaches on these very masks (thesis 4.2): an upper bound, never a result."""
    reached = [metrics.pooled_iou(masks_of(refined, t, settings.masks, peak=0.0), truth) for t in ORACLE_THRESHOLDS]
    reached += [metrics.pooled_iou(masks_of(refined, threshold, settings.masks, peak=share), truth) for share in ORACLE_PEAKS]
    return max((value for value in reached if value is not None), default=None)


def score(found: Explained, predicted: np.ndarray, threshold: float, settings: Settings) -> dict[str, Any]:
    """Every score, each a number in [0, 1] or None, with the reason for every None."""
    scored = (found.label == 1) & found.known
    normal = found.label == 0
    masks, truth = predicted[scored], found.truth[scored]
    oracle = sweep(found.refined[scored], truth, threshold, settings) if scored.any() else None
    level = settings.classifier.threshold
    scores: dict[str, Any] = {
        "iou_mask_free": metrics.pooled_iou(masks, truth),
        "iou_oracle": oracle,
        "dice_per_image": metrics.mean_dice(masks, truth),
        "false_positive_area": metrics.false_positive_area(predicted[normal]),
        "normals_marked": float(predicted[normal].any((1, 2)).mean()) if normal.any() else None,
        "lesions_touched": float((masks & truth).any((1, 2)).mean()) if scored.any() else None,
        "cv": metrics.counterfactual_validity(found.before, found.after),
        "flip_rate": metrics.flip_rate(found.before, found.after, level),
        **metrics.classification_scores(found.before, found.label, level),
        "slices_abnormal": int((found.label == 1).sum()),
        "slices_scored": int(scored.sum()),
        "slices_normal": int(normal.sum()),
    }
    scores["null_because"] = {name: _reason(name, scored, normal) for name, value in scores.items() if value is None}
    return scores


def _reason(name: str, scored: np.ndarray, normal: np.ndarray) -> str:
    if name in ("cv", "flip_rate"):
        return "the classifier calls no held-out image abnormal" + (f" with f > {metrics.TAU}" if name == "cv" else "")
    if name in ("false_positive_area", "normals_marked"):
        return "no held-out image is normal" if not normal.any() else "nothing to count"
    if name == "auroc":
        return "only one class is held out"
    return "no held-out abnormal image has a lesion mask" if not scored.any() else "nothing to count"


def choose_examples(found: Explained, predicted: np.ndarray) -> list[tuple[str, int]]:
    """Positions of the pictures: best, median and worst by Dice among scored abnormal slices, then normals.

    Without masks there is no ranking: abnormal slices at even distances instead.
    """
    scored = np.flatnonzero((found.label == 1) & found.known & found.truth.any((1, 2)))
    abnormal = np.flatnonzero(found.label == 1)
    chosen: list[tuple[str, int]] = []
    if len(scored):
        values = [metrics.dice(predicted[i], found.truth[i]) or 0.0 for i in scored]
        order = scored[np.argsort(values, kind="stable")]
        middle = max(0, len(order) // 2 - EXAMPLES // 2)
        chosen += [("best", int(i)) for i in order[::-1][:EXAMPLES]]
        chosen += [("median", int(i)) for i in order[middle : middle + EXAMPLES]]
        chosen += [("worst", int(i)) for i in order[:EXAMPLES]]
    elif len(abnormal):
        chosen += [("abnormal", int(i)) for i in abnormal[np.linspace(0, len(abnormal) - 1, 2 * EXAMPLES).astype(int)]]
    normal = np.flatnonzero(found.label == 0)
    if len(normal):
        chosen += [("normal", int(i)) for i in normal[np.linspace(0, len(normal) - 1, EXAMPLES).astype(int)]]
    return chosen


def _name(index: dict[str, np.ndarray], row: int) -> str:
    """What a person calls a slice: plain images have no slice number, and only crops have a region."""
    number = f", slice {index['slice'][row]}" if index["slice"].any() else ""
    region = f", region {index['region'][row]}" if index["region"][row] >= 0 else ""
    return f"{index['case'][row]}{number}{region}"


def evaluate(
    slices: ScoredSlices,
    explain: Explain,
    threshold: float,
    settings: Settings,
    folder: Path,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Score one side of the split and leave scores.json, slices.csv and examples.npz in `folder`."""
    found = explain_all(slices, explain, report)
    predicted = masks_of(found.refined, threshold, settings.masks)
    scores = score(found, predicted, threshold, settings)
    index = slices.store.index
    folder.mkdir(parents=True, exist_ok=True)
    with written_aside(folder / "slices.csv") as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["case", "patient", "slice", "region", "label", "f", "f_counterfactual", "mask_px", "truth_px", "dice"])
        for i, row in enumerate(found.rows):
            known = bool(found.known[i])
            writer.writerow([
                index["case"][row], index["patient"][row], index["slice"][row], index["region"][row], found.label[i],
                f"{found.before[i]:.4f}", f"{found.after[i]:.4f}", int(predicted[i].sum()),
                int(found.truth[i].sum()) if known else "", metrics.dice(predicted[i], found.truth[i]) if known else "",
            ])  # fmt: skip
    chosen = choose_examples(found, predicted)
    positions = [i for _, i in chosen]
    with written_aside(folder / "examples.npz") as part:
        np.savez_compressed(
            part,
            group=np.array([group for group, _ in chosen], dtype=str),
            name=np.array([_name(index, row) for row in found.rows[positions]], dtype=str),
            image=found.image[positions].astype(np.float16),
            counterfactual=found.counterfactual[positions].astype(np.float16),
            difference=found.refined[positions].astype(np.float16),
            mask=predicted[positions],
            truth=found.truth[positions],
            known=found.known[positions],
            before=found.before[positions],
            after=found.after[positions],
        )
    write_json(folder / "scores.json", scores)
    return scores
