"""Scores, each a pure function of arrays (thesis 3.7). A score that has nothing to count is None, never 0 or 1."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from scipy import ndimage
from scipy.spatial import KDTree

TAU = 0.8
"""Least change of f for a counterfactual to count as valid (thesis 3.7.2)."""
SIZE_SHARES = (0.001, 0.005, 0.02)
"""Where lesions of one size class end and the next begin, as shares of the image: tiny, small, medium, large."""
FOUND_SHARE = 0.1
"""Least share of a lesion that must be marked for it to be found."""
BLOCK = 256
"""Images whose pixels are counted together."""
EIGHT = np.ones((3, 3), bool)
"""Pixels that touch at a corner belong to one lesion."""


def _share(part: float, whole: float) -> float | None:
    return float(part / whole) if whole else None


def pooled_iou(predicted: np.ndarray, truth: np.ndarray) -> float | None:
    """TP / (TP + FP + FN) over all pixels of all masks (n, H, W) together (thesis 3.7.3); None when both are empty."""
    return _share((predicted & truth).sum(), (predicted | truth).sum())


def dice(predicted: np.ndarray, truth: np.ndarray) -> float | None:
    """2 TP / (2 TP + FP + FN) of one mask (H, W); None when both are empty."""
    return _share(2 * (predicted & truth).sum(), predicted.sum() + truth.sum())


def mean_dice(predicted: Iterable[np.ndarray], truth: Iterable[np.ndarray]) -> float | None:
    """The mean of `dice` over masks (n, H, W), each image counting the same; images empty on both sides are left out."""
    found = [d for p, t in zip(predicted, truth, strict=True) if (d := dice(p, t)) is not None]
    return _share(sum(found), len(found))


def _outline(mask: np.ndarray, spacing: tuple[float, float]) -> np.ndarray:
    return np.argwhere(mask & ~ndimage.binary_erosion(mask)) * spacing


def hd95(predicted: np.ndarray, truth: np.ndarray, spacing: tuple[float, float] = (1, 1)) -> float | None:
    """95 % Hausdorff distance between the outlines of two masks (H, W), in units of `spacing`; None when one is empty.

    From each pixel of one outline to the nearest of the other: the 95th percentile, and the worse of the two directions.
    An outline is the pixels with one of their four neighbours outside; beyond the image is outside.
    """
    # Measured on one core: MONAI's compute_hausdorff_distance(percentile=95) gives the same number (2e-6 over 341 random
    # pairs, its float32) but takes 5 s to import and 7 ms a pair; distance maps of the whole image take 1 ms at 64 x 64
    # and 12 ms at 256 x 256; the nearest points of the outlines alone take 1 and 3 ms, and are as exact.
    if not (predicted.any() and truth.any()):
        return None
    a, b = _outline(predicted, spacing), _outline(truth, spacing)
    return float(max(np.percentile(KDTree(b).query(a)[0], 95), np.percentile(KDTree(a).query(b)[0], 95)))


def mean_hd95(
    predicted: Iterable[np.ndarray], truth: Iterable[np.ndarray], spacing: tuple[float, float] = (1, 1)
) -> tuple[float | None, int]:
    """The mean of `hd95` over masks (n, H, W) where neither side is empty, and over how many that was.

    The number belongs to the mean: a method that marks nothing on hard images has fewer of them, and a better mean.
    """
    found = [d for p, t in zip(predicted, truth, strict=True) if (d := hd95(p, t, spacing)) is not None]
    return _share(sum(found), len(found)), len(found)


def blocks_of(members: np.ndarray) -> list[np.ndarray]:
    """Positions in blocks, so that what is made of the pixels of a block fits into memory, however many there are."""
    return [members[i : i + BLOCK] for i in range(0, len(members), BLOCK)]


def pixel_auprc(saliency: np.ndarray, truth: np.ndarray, members: np.ndarray | None = None) -> float | None:
    """Average precision over all pixels of all images (n, H, W), or of `members` by position, together; None when the truth is empty.

    The sum over levels of precision times the gain in recall, equal saliencies entering together: a constant map scores
    the share of lesion pixels. It needs no threshold, and only the order of the saliencies counts.
    """
    blocks = blocks_of(np.arange(len(truth)) if members is None else members)
    inside = [saliency[block][truth[block]] for block in blocks]
    levels, hits = np.unique(np.concatenate([*inside, np.zeros(0, saliency.dtype)]), return_counts=True)
    true = hits[::-1].cumsum()[::-1]
    reached = np.zeros(len(levels) + 1, np.int64)  # pixels outside by how many levels they are at or above
    for block in blocks:
        outside = np.sort(saliency[block][~truth[block]])
        reached += np.bincount(np.searchsorted(levels, outside, "right"), minlength=len(reached))
    false = reached[:0:-1].cumsum()[::-1]
    return _share((hits * true / (true + false)).sum(), hits.sum())


def best_threshold(
    saliency: np.ndarray,
    truth: np.ndarray,
    thresholds: Sequence[float] | np.ndarray,
    masks_of: Callable[[np.ndarray, float], np.ndarray] | None = None,
) -> tuple[float | None, float | None]:
    """Oracle: the best pooled IoU that any one threshold reaches, and the first threshold that reaches it (thesis 4.2).

    The threshold is tuned on the masks it is scored with, so this is an upper bound to be named oracle, never a result.

    Args:
        saliency: (n, H, W), floats; a pixel above the threshold, both as float64, is inside.
        truth: (n, H, W) bool.
        thresholds: in any order.
        masks_of: (saliency, threshold) -> masks (n, H, W), when there is more to a mask than the threshold; slower.

    Returns:
        (None, None) when there is no threshold at which anything is marked or to be marked.
    """
    if masks_of:
        reached = [pooled_iou(masks_of(saliency, float(t)), truth) for t in thresholds]
    else:
        # Sorted once, all thresholds are counted at once. They are rounded down to the type of the saliencies, above
        # which lie the same saliencies as above the threshold itself.
        exact = np.asarray(thresholds, np.float64)
        levels = exact.astype(saliency.dtype)
        levels = np.where(levels > exact, np.nextafter(levels, -np.inf, dtype=levels.dtype), levels)
        everywhere, inside = np.sort(saliency, axis=None), np.sort(saliency[truth])
        marked = everywhere.size - np.searchsorted(everywhere, levels, "right")
        hit = inside.size - np.searchsorted(inside, levels, "right")
        reached = [_share(h, m + inside.size - h) for h, m in zip(hit, marked, strict=True)]
    scored = [(value, -i) for i, value in enumerate(reached) if value is not None]
    if not scored:
        return None, None
    value, i = max(scored)
    return value, float(thresholds[-i])


def size_edges(side: int, shares: Sequence[float] = SIZE_SHARES) -> tuple[int, ...]:
    """Shares of a square image of this side in whole pixels, rounded up; the same lesions fall in the same classes."""
    return tuple(math.ceil(round(share * side * side, 6)) for share in shares)


def lesions_by_size(
    predicted: Iterable[np.ndarray], truth: Iterable[np.ndarray], edges: Sequence[int]
) -> list[dict[str, float | None]]:
    """How many lesions of each size are found, and how well they are outlined.

    A lesion is a component of the truth, 8-connected, in one image. It is touched when a pixel of it is marked, and found
    when at least `FOUND_SHARE` of it is. Its Dice is between it and those components of the prediction that touch it, so
    0 when none does. Marking everything finds everything: read it with the Dice and `false_positive_area`.

    Args:
        predicted: (n, H, W) bool.
        truth: (n, H, W) bool.
        edges: in pixels, ascending; see `size_edges`. k edges make k + 1 classes.

    Returns:
        For each class, from small to large: from_px (included), to_px (excluded; None for no end), lesions, touched,
        found, and mean_dice, None without lesions.
    """
    lesions = [lesion for p, t in zip(predicted, truth, strict=True) for lesion in _lesions(p, t)]
    rows: list[dict[str, float | None]] = []
    for low, high in zip((0, *edges), (*edges, None), strict=True):
        here = [lesion for lesion in lesions if low <= lesion[0] and (high is None or lesion[0] < high)]
        rows.append({
            "from_px": low,
            "to_px": high,
            "lesions": len(here),
            "touched": sum(marked > 0 for _, marked, _ in here),
            "found": sum(marked / px >= FOUND_SHARE for px, marked, _ in here),
            "mean_dice": _share(sum(d for _, _, d in here), len(here)),
        })  # fmt: skip
    return rows


def _lesions(predicted: np.ndarray, truth: np.ndarray) -> list[tuple[int, int, float]]:
    """Pixels, marked pixels and Dice of every lesion of one image."""
    components, count = ndimage.label(truth, EIGHT)
    marks, _ = ndimage.label(predicted, EIGHT)
    found = []
    for number in range(1, count + 1):
        lesion = components == number
        touching = np.unique(marks[lesion & predicted])
        overlap = dice(np.isin(marks, touching), lesion)
        found.append((int(lesion.sum()), int((lesion & predicted).sum()), overlap or 0.0))
    return found


def false_positive_area(predicted: np.ndarray) -> float | None:
    """The share of pixels marked on normal images (n, H, W)."""
    return _share(predicted.sum(), predicted.size)


def counterfactual_validity(before: np.ndarray, after: np.ndarray, tau: float = TAU) -> float | None:
    """CV of 3.7.2: among images with f(X) > tau, the share with |f(X) - f(X_cf)| > tau.

    Images f is less sure of cannot reach tau, so they are left out, as in the authors' figures for COIN.
    """
    sure = before > tau
    return _share((np.abs(before - after)[sure] > tau).sum(), sure.sum())


def counterfactual_validity_of_all(before: np.ndarray, after: np.ndarray, tau: float = TAU) -> float | None:
    """CV as 3.7.2 writes it: among all N images given, the share with |f(X) - f(X_cf)| > tau.

    Every image that cannot change by tau, such as a normal one asked to stay, counts against it: with a tenth of abnormal
    images a perfect generator reaches 0.1. It compares with nothing but itself over the same images.
    """
    return _share((np.abs(before - after) > tau).sum(), before.size)


def flip_rate(before: np.ndarray, after: np.ndarray, threshold: float = 0.5) -> float | None:
    """Among images f calls abnormal, the share whose counterfactual it calls normal."""
    called = before >= threshold
    return _share((after[called] < threshold).sum(), called.sum())


def classification_scores(probability: np.ndarray, label: np.ndarray, threshold: float = 0.5) -> dict[str, float | None]:
    """AUROC, accuracy, and expected calibration error (15 bins) of probabilities (n,) against labels (n,).

    AUROC is None when only one class is there. Labels below 0 are unknown and not counted; where that leaves one class, which
    is then the normal one, nothing is said: accuracy would be that on normals.
    """
    import torch
    from torchmetrics.functional.classification import binary_auroc, binary_calibration_error

    p, y = torch.from_numpy(np.asarray(probability, dtype=np.float32)), torch.from_numpy(np.asarray(label, dtype=np.int64))
    p, y, some_unknown = p[y >= 0], y[y >= 0], bool((y < 0).any())
    both = 0 < int(y.sum()) < len(y)
    if some_unknown and not both:
        return dict.fromkeys(("auroc", "accuracy", "calibration_error"))
    return {
        "auroc": float(binary_auroc(p, y)) if both else None,
        "accuracy": _share(float(((p >= threshold).long() == y).sum()), len(y)),
        "calibration_error": float(binary_calibration_error(p, y, n_bins=15)) if len(y) else None,
    }


def scan_scores(probability: np.ndarray, label: np.ndarray, scan: np.ndarray) -> dict[str, float | None]:
    """`auroc_scans`: the highest f(X) over the slices of a scan against whether one of them is labelled abnormal.

    The highest, because it is what `highest_f` of the masks' index says of a new scan, and one slice is enough to be abnormal.

    Args:
        probability: f(X) of slices, (n,).
        label: of slices, 0 or 1, that of the scan where a slice has none of its own, (n,).
        scan: which scan each slice is of, (n,).

    Returns:
        None where there is one class of scans only, or where every scan is a single image, which `auroc` is about.
    """
    names, of = np.unique(scan, return_inverse=True)
    if len(names) == len(scan):
        return {"auroc_scans": None}
    highest, abnormal = np.zeros(len(names)), np.zeros(len(names), np.int64)
    np.maximum.at(highest, of, probability)
    np.maximum.at(abnormal, of, label)
    return {"auroc_scans": classification_scores(highest, abnormal)["auroc"]}


def rank_correlation(confidence: np.ndarray, overlap: np.ndarray) -> float | None:
    """Spearman's rank correlation of two scores of the same masks, (n,) each, in [-1, 1]; None where one does not vary."""
    from scipy.stats import spearmanr

    if len(np.unique(confidence)) < 2 or len(np.unique(overlap)) < 2:
        return None
    return float(spearmanr(confidence, overlap).statistic)


def risk_area(confidence: np.ndarray, overlap: np.ndarray) -> float | None:
    """Area under the risk-coverage curve (Geifman, El-Yaniv 2017) with 1 - IoU as the risk; in [0, 1], lower is better.

    Masks are kept in the order of their confidence, the surest first; the mean risk of those kept, averaged over how many are.
    With a confidence that says nothing it is the mean risk of all. Masks of one confidence come in with their mean risk.

    Args:
        confidence: (n,).
        overlap: IoU of each mask, (n,).
    """
    if not len(confidence):
        return None
    _, group, counts = np.unique(-confidence, return_inverse=True, return_counts=True)
    risk = (np.bincount(group, 1 - overlap) / counts)[group]
    kept = risk[np.argsort(-confidence, kind="stable")]
    return float((np.cumsum(kept) / np.arange(1, len(kept) + 1)).mean())
