"""Questions to a trained classifier before its masks are believed: what flips it, what else it might go by, where it is wrong.

Masks show what f reacts to (the first limitation the thesis names, 6.1). Where f goes by something that merely accompanies
the lesion, they are wrong and look no less certain. No lesion mask is needed here: the answers are f's own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import ndimage

from coinseg.masks.decision_flip import Ask, pasted
from coinseg.metrics import overlap as metrics

from .protocols import Explained

RIM = 1 / 16
"""Of the side of an image, by which an organ is widened."""


def with_rim(organ: np.ndarray) -> np.ndarray:
    """Organ masks (n, S, S) bool, wider by `RIM` of the side: many end where the tumour of the organ begins, or leave out what bulges from it."""
    rim = round(RIM * organ.shape[-1])
    around = np.hypot(*np.mgrid[-rim : rim + 1, -rim : rim + 1]) <= rim
    return ndimage.binary_dilation(organ, around[None])


def flips(found: Explained, masks: np.ndarray, organs: np.ndarray | None, ask: Ask, level: float) -> dict[str, float | None]:
    """Which part of the counterfactual turns f, of the images f calls abnormal and the whole counterfactual turns normal.

    Args:
        found: held-out slices, explained by a counterfactual method.
        masks: the masks made of them, (n, S, S) bool.
        organs: organ masks of the whole store, (slices, S, S), where there are any.
        ask: f.
        level: an image is abnormal when f is at least this.

    Of an organ its rim counts as well (`with_rim`).

    Returns:
        Shares of those images that already flip when only a part of the counterfactual is pasted into the image:
        `mask_alone`, `outside_mask_alone`, `organ_alone`, `outside_organ_alone` (None without organs), and
        `flipped_images`, how many there are; None where there is none.
    """
    names = ("mask_alone", "outside_mask_alone", "organ_alone", "outside_organ_alone")
    if found.counterfactual is None or found.after is None:
        return dict.fromkeys((*names, "flipped_images"))
    flipped = np.flatnonzero((found.before >= level) & (found.after < level))
    turned = np.zeros((len(names), len(flipped)), bool)
    for block in metrics.blocks_of(np.arange(len(flipped))):
        members = flipped[block]
        image, counterfactual, mask = found.image[members], found.counterfactual[members], masks[members]
        regions = [mask, ~mask]
        if organs is not None:
            organ = with_rim(organs[found.rows[members]].astype(bool))
            regions += [organ, ~organ]
        for row, region in zip(turned, regions, strict=False):
            row[block] = ask(pasted(image, counterfactual, region)) < level
    known = len(names) if organs is not None else 2
    shares = {
        name: float(row.mean()) if i < known and len(flipped) else None
        for i, (name, row) in enumerate(zip(names, turned, strict=True))
    }
    return shares | {"flipped_images": float(len(flipped))}


def cues(found: Explained, position: np.ndarray | None, organs: np.ndarray | None) -> dict[str, np.ndarray]:
    """What f could go by without ever seeing a lesion, a number for each slice: name -> (n,).

    Args:
        found: the slices.
        position: distance from the middle of its scan, (n,) in [0, 1]; None of plain images.
        organs: organ masks of the whole store, where there are any.
    """
    made = {"brightness": np.array([image.mean() for image in found.image])}
    made["contrast"] = np.array([image.std() for image in found.image])
    # What the Laplacian leaves of most places of an image is noise; the median passes over edges.
    made["noise"] = np.array([np.median(np.abs(ndimage.laplace(image.astype(np.float64)))) for image in found.image])
    if position is not None:
        made["position in the scan"] = position
    if organs is not None:
        made["size of the organ"] = np.array([organs[row].mean() for row in found.rows])
    return made


def shortcuts(found: Explained, made: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """For every cue how well it tells the labels apart on its own, and how far f follows it among *normal* images.

    Among normal images there is no lesion to see, so what f correlates with there is something else.

    Returns:
        Rows of `cue`, `auroc` (of the cue for the labels, in [0.5, 1]: either direction counts) and `follows` (rank correlation
        of f with the cue among images labelled normal, in [-1, 1]); None where it cannot be computed.
    """
    rows = []
    for cue, values in made.items():
        known = found.label >= 0
        alone = metrics.classification_scores(values[known], found.label[known], 0.5)["auroc"]
        normal = found.normal
        rows.append({
            "cue": cue, "auroc": None if alone is None else max(alone, 1 - alone),
            "follows": metrics.rank_correlation(found.before[normal], values[normal]),
        })  # fmt: skip
    return rows


def mistakes(found: Explained, level: float, most: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the gravest errors of f by the image labels: abnormal ones with the lowest f, normal ones with the highest."""
    order = np.argsort(found.before, kind="stable")
    missed = order[(found.label[order] == 1) & (found.before[order] < level)][:most]
    alarms = order[found.normal[order] & (found.before[order] >= level)][::-1][:most]
    return missed, alarms


def audit(
    found: Explained, masks: np.ndarray, position: np.ndarray | None, organs: np.ndarray | None, ask: Ask, level: float
) -> dict[str, Any]:
    """The contents of evaluation/audit.json: `flips` and `shortcuts` of held-out slices; arguments as there."""
    return {"flips": flips(found, masks, organs, ask, level), "shortcuts": shortcuts(found, cues(found, position, organs))}
