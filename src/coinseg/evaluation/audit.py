"""Audit of the classifier f without lesion masks: what flips it, correlations with simple image features, its worst errors.

Masks show what f reacts to (thesis 6.1). Where f uses a feature that only accompanies the lesion, the masks are wrong.
"""

from typing import Any

import numpy as np
from scipy import ndimage

from coinseg.masks.decision_flip import Ask, pasted
from coinseg.metrics import overlap as metrics

from .explained import Explained

RIM = 1 / 16  # Radius by which an organ is dilated, as a share of the side


def with_rim(organ: np.ndarray) -> np.ndarray:
    """Organ masks (n, S, S) bool, dilated by a disc of radius `RIM`: many leave out tumours at the surface of the organ."""
    rim = round(RIM * organ.shape[-1])
    around = np.hypot(*np.mgrid[-rim : rim + 1, -rim : rim + 1]) <= rim
    return ndimage.binary_dilation(organ, around[None])


def flips(found: Explained, masks: np.ndarray, organs: np.ndarray | None, ask: Ask, level: float) -> dict[str, float | None]:
    """The shares of the images that X_cf flips to normal which flip with X_cf pasted into one part of X only, and their number.

    None where there is no such image, and for organ parts without organs.

    Args:
        found: held-out slices, explained by a counterfactual method.
        masks: their masks, (n, S, S) bool.
        organs: organ masks of the whole store, (slices, S, S), or None; they are dilated, see `with_rim`.
        ask: f.
        level: an image is abnormal when f is at least this.
    """
    names = ("mask_alone", "outside_mask_alone", "organ_alone", "outside_organ_alone")
    if found.counterfactual is None or found.after is None:
        return dict.fromkeys((*names, "flipped_images"))
    flipped = np.flatnonzero((found.before >= level) & (found.after < level))
    turned = np.zeros((2 if organs is None else 4, len(flipped)), bool)
    for block in metrics.blocks_of(np.arange(len(flipped))):
        members = flipped[block]
        image, counterfactual, mask = found.image[members], found.counterfactual[members], masks[members]
        regions = [mask, ~mask]
        if organs is not None:
            organ = with_rim(organs[found.rows[members]].astype(bool))
            regions += [organ, ~organ]
        for row, region in zip(turned, regions, strict=True):
            row[block] = ask(pasted(image, counterfactual, region)) < level
    shares = [float(row.mean()) for row in turned] if len(flipped) else []
    return dict.fromkeys(names) | dict(zip(names, shares, strict=False)) | {"flipped_images": float(len(flipped))}


def _noise(image: np.ndarray) -> float:
    """The median Laplacian of an image (C, S, S), mean over its channels."""
    return float(np.mean([np.median(np.abs(ndimage.laplace(channel.astype(np.float64)))) for channel in image]))


def cues(found: Explained, position: np.ndarray | None, organs: np.ndarray | None) -> dict[str, np.ndarray]:
    """Simple image features that f could use instead of lesions: name -> (n,).

    Args:
        found: the slices.
        position: distance from the middle of the scan, (n,) in [0, 1]; None for plain images.
        organs: organ masks of the whole store, or None.
    """
    values = {"brightness": np.array([image.mean() for image in found.image])}
    values["contrast"] = np.array([image.std() for image in found.image])
    # Away from edges, which the median ignores, the Laplacian of an image is noise.
    values["noise"] = np.array([_noise(image) for image in found.image])
    if position is not None:
        values["position in the scan"] = position
    if organs is not None:
        values["size of the organ"] = np.array([organs[row].mean() for row in found.rows])
    return values


def shortcuts(found: Explained, made: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """How well each cue (see `cues`) alone predicts the labels, and how f correlates with it on normal images.

    Rows of `cue`, `auroc` (in [0.5, 1], either direction) and `follows` (rank correlation in [-1, 1]); None where undefined.
    """
    rows = []
    for cue, values in made.items():
        known, normal = found.label >= 0, found.normal
        alone = metrics.classification_scores(values[known], found.label[known], 0.5)["auroc"]
        rows.append({
            "cue": cue, "auroc": None if alone is None else max(alone, 1 - alone),
            "follows": metrics.rank_correlation(found.before[normal], values[normal]),
        })  # fmt: skip
    return rows


def mistakes(found: Explained, level: float, most: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the worst errors of f, `most` of each: abnormal images with the lowest f, normal ones with the highest."""
    order = np.argsort(found.before, kind="stable")
    missed = order[(found.label[order] == 1) & (found.before[order] < level)][:most]
    alarms = order[found.normal[order] & (found.before[order] >= level)][::-1][:most]
    return missed, alarms


def audit(
    found: Explained, masks: np.ndarray, position: np.ndarray | None, organs: np.ndarray | None, ask: Ask, level: float
) -> dict[str, Any]:
    """The contents of evaluation/audit.json: `flips` and `shortcuts` of held-out slices; see there for the arguments."""
    return {"flips": flips(found, masks, organs, ask, level), "shortcuts": shortcuts(found, cues(found, position, organs))}
