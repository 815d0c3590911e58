"""The two scoring protocols: `thesis_protocol` ("replica" in files; thesis 3.7, 4.2) and `mask_free` ("honest").

"replica": all images labelled abnormal; the best threshold on these very masks (an oracle); only masks of counterfactual methods
are cleaned. "honest": all abnormal images, and normal ones for false positives, after `gated`; maps are the mean with the mirror
image, filtered; a threshold chosen without masks, and one cleaning (settings `masks`) for every method.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from coinseg.config.schema import MaskSettings, Settings
from coinseg.masks.confidence import DOUBT
from coinseg.masks.postprocess import clean, masks_of
from coinseg.metrics import overlap as metrics

from .explained import Explained

THESIS_THRESHOLDS = np.concatenate([np.arange(0.005, 0.3, 0.005), np.arange(0.3, 1.0, 0.02)])
THESIS_CLEANING = MaskSettings(opening=3, closing=3, keep="largest", min_px=0)
ORACLE_THRESHOLDS = np.concatenate([np.linspace(0.0125, 0.5, 40), np.linspace(0.525, 0.975, 19)])
ORACLE_PEAKS = np.linspace(0.025, 1, 40)  # `sweep` tries one threshold for all images, and one share of the peak of each image


def gated(found: Explained, level: float) -> Explained:
    """The explanations with images of f(X) < level unchanged: map 0, X_cf = X."""
    called = found.before >= level
    keep = called[:, None, None]
    changed: dict[str, Any] = {"saliency": found.saliency * keep, "refined": found.refined * keep}
    if found.counterfactual is not None and found.after is not None:
        changed["counterfactual"] = np.where(keep[:, None], found.counterfactual, found.image)
        changed["after"] = np.where(called, found.after, found.before)
    return replace(found, **changed)


def thesis_masks(maps: np.ndarray, threshold: float, counterfactual: bool) -> np.ndarray:
    """Masks of the thesis (4.2): maps (n, S, S) above one threshold, cleaned only for counterfactual methods."""
    masks = maps > threshold
    return clean(masks, THESIS_CLEANING) if counterfactual else masks


def thesis_protocol(found: Explained) -> dict[str, Any]:
    """The scores of the thesis ("replica"): IoU at the best threshold, CV and flip rate; every image must be explained."""
    labelled = (found.label == 1) & found.known
    maps, truth = found.saliency[labelled], found.truth[labelled]
    counterfactual = found.counterfactual is not None
    cleaned = (lambda m, t: thesis_masks(m, t, True)) if counterfactual else None
    iou, threshold = metrics.best_threshold(maps, truth, THESIS_THRESHOLDS, cleaned) if labelled.any() else (None, None)
    scores: dict[str, Any] = {"iou": iou, "threshold": threshold, "slices": int(labelled.sum())}
    if found.after is not None:
        scores["cv"] = metrics.counterfactual_validity(found.before, found.after)
        scores["flip_rate"] = metrics.flip_rate(found.before, found.after)
    return scores


def _pooled(predicted: np.ndarray, truth: np.ndarray, members: np.ndarray) -> float | None:
    """`metrics.pooled_iou` of some images by index, block by block."""
    both, either = 0, 0
    for block in metrics.blocks_of(members):
        masks, true = predicted[block], truth[block]
        both, either = both + int((masks & true).sum()), either + int((masks | true).sum())
    return both / either if either else None


def sweep(
    refined: np.ndarray, truth: np.ndarray, threshold: float, settings: Settings, members: np.ndarray | None = None
) -> float | None:
    """Oracle: the best pooled IoU over `ORACLE_THRESHOLDS` and `ORACLE_PEAKS`, an upper bound, not a result.

    Args:
        refined: (n, S, S) in [0, 1].
        truth: (n, S, S) bool.
        threshold: the lowest level of the shares of the peak.
        settings: masks are read.
        members: indices of the images to score; None is all.
    """
    members = np.arange(len(truth)) if members is None else members
    rules = [(float(t), 0.0) for t in ORACLE_THRESHOLDS] + [(threshold, float(share)) for share in ORACLE_PEAKS]
    sums = np.zeros((len(rules), 2), np.int64)
    for block in metrics.blocks_of(members):
        maps, true = refined[block], truth[block]
        for i, (level, share) in enumerate(rules):
            masks = masks_of(maps, level, settings.masks, peak=share)
            sums[i] += (masks & true).sum(), (masks | true).sum()
    return max((both / either for both, either in sums.tolist() if either), default=None)


def mask_free(found: Explained, predicted: np.ndarray, threshold: float, settings: Settings) -> dict[str, Any]:
    """Every score of the mask-free protocol ("honest"), and under `null_because` the reason for every None.

    Args:
        found: gated explanations; memory maps are read in blocks.
        predicted: their masks, (n, S, S) bool, made without any lesion mask.
        threshold: of the masks, for `sweep`.
        settings: masks, classifier and student are read.
    """
    abnormal, normal, truth = found.abnormal, found.normal, found.truth
    scored = abnormal & found.known
    members = np.flatnonzero(scored)
    marked, level = predicted.sum((1, 2)), settings.classifier.threshold
    groups = {"abnormal": abnormal, "scored": scored, "normal": normal, "unknown": found.label < 0}

    def pairs() -> tuple[Iterator[np.ndarray], Iterator[np.ndarray]]:
        return (predicted[i] for i in members), (truth[i] for i in members)

    distance, measured = metrics.mean_hd95(*pairs())
    posterior = dict[str, float | None].fromkeys(("auroc", "accuracy", "calibration_error"))
    if found.posterior is not None:
        posterior = metrics.classification_scores(found.posterior, found.label, settings.student.gate)
    scores: dict[str, Any] = {
        "iou_mask_free": _pooled(predicted, truth, members),
        "iou_all_images": _pooled(predicted, truth, np.flatnonzero(scored | normal)) if scored.any() else None,
        "iou_oracle": sweep(found.refined, truth, threshold, settings, members) if scored.any() else None,
        "dice_per_image": metrics.mean_dice(*pairs()),
        "hd95_px": distance,
        "auprc": metrics.pixel_auprc(found.refined, truth, members) if scored.any() else None,
        "false_positive_area": float(marked[normal].sum() / (normal.sum() * predicted[0].size)) if normal.any() else None,
        "normals_marked": float((marked[normal] > 0).mean()) if normal.any() else None,
        "abnormals_marked": float((marked[abnormal] > 0).mean()) if abnormal.any() else None,
        "lesions_touched": float(np.mean([(p & t).any() for p, t in zip(*pairs(), strict=True)])) if scored.any() else None,
        "cv": None if found.after is None else metrics.counterfactual_validity(found.before, found.after),
        "flip_rate": None if found.after is None else metrics.flip_rate(found.before, found.after, level),
        **metrics.classification_scores(found.before, found.label, level),
        **{f"posterior_{name}": value for name, value in posterior.items()},
        **_trust(found, predicted),
        **{f"slices_{name}": int(group.sum()) for name, group in groups.items()},
        "hd95_slices": measured,
        "lesions_by_size": metrics.lesions_by_size(*pairs(), metrics.size_edges(truth.shape[-1])) if scored.any() else None,
    }
    scores["null_because"] = {name: _reason(name, found, scored, normal) for name, value in scores.items() if value is None}
    return scores


def _trust(found: Explained, predicted: np.ndarray) -> dict[str, Any]:
    """How well confidence ranks masks by their IoU, over all masks that are not empty, also of normal images.

    Without the truth of an abnormal image only the share of doubtful masks is known: the IoU of every other mask would be 0.
    """
    sure = found.confidence(predicted)
    doubted = (sure < DOUBT) | found.is_foreign
    judged = bool((found.abnormal & found.known).any())
    members = np.flatnonzero(np.isfinite(sure) & (found.known | found.normal if judged else True))
    if not judged:
        share = {"masks_doubtful": float(doubted[members].mean()) if len(members) else None}
        return dict.fromkeys(("confidence_rank", "risk_area", "iou_trusted", "iou_doubtful")) | share
    overlap = np.array([metrics.pooled_iou(predicted[i], found.truth[i] & found.known[i]) for i in members])
    sure, trusted = sure[members], ~doubted[members]
    return {
        "confidence_rank": metrics.rank_correlation(sure, overlap),
        "risk_area": metrics.risk_area(sure, overlap),
        "iou_trusted": float(overlap[trusted].mean()) if trusted.any() else None,
        "iou_doubtful": float(overlap[~trusted].mean()) if (~trusted).any() else None,
        "masks_doubtful": float((~trusted).mean()) if len(members) else None,
    }


def _reason(name: str, found: Explained, scored: np.ndarray, normal: np.ndarray) -> str:
    if name in ("cv", "flip_rate"):
        if found.after is None:
            return "an attribution has no counterfactual"
        return "the classifier calls no held-out image abnormal" + (f" with f > {metrics.TAU}" if name == "cv" else "")
    if name in ("false_positive_area", "normals_marked"):
        return "no held-out image is normal" if not normal.any() else "nothing to count"
    if name.startswith("posterior_") and found.posterior is None:
        return "no student: f alone says which images are marked"
    if name.removeprefix("posterior_") in ("auroc", "accuracy", "calibration_error"):
        return "abnormal scans have no labels by slice" if (found.label < 0).any() else "only one class is held out"
    if name in ("confidence_rank", "risk_area", "iou_trusted", "iou_doubtful", "masks_doubtful"):
        if found.agreement is None:
            return "masks.hflip is off: mirror images were not asked"
        none = {"iou_trusted": "no mask is trusted", "iou_doubtful": "no mask is doubtful", "masks_doubtful": "nothing is marked"}
        if scored.any() or name == "masks_doubtful":
            return none.get(name, "too few masks, or all alike, to rank")
    if name == "hd95_px" and scored.any():
        return "no lesion is marked"
    if name == "abnormals_marked":
        return "no held-out image is abnormal"
    return "no masks to score with: no held-out abnormal image has a lesion mask" if not scored.any() else "nothing to count"
