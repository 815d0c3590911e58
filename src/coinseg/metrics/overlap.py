"""Scores, each a pure function of arrays (thesis 3.7). A score that has nothing to count is None, never 0 or 1."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import ndimage
from scipy.spatial import KDTree

TAU = 0.8  # Least change of f for a counterfactual to count as valid (thesis 3.7.2)
SIZE_SHARES = (0.001, 0.005, 0.02)  # Borders of the size classes tiny, small, medium and large, as shares of the image area
FOUND_SHARE = 0.1  # Smallest share of a lesion's pixels that must be marked for the lesion to count as found
BLOCK = 256  # Images whose pixels are counted together
EIGHT = np.ones((3, 3), bool)  # Connectivity of lesions: 8 neighbours


def _ratio(part: float, whole: float) -> float | None:
    return float(part / whole) if whole else None


def pooled_iou(predicted: np.ndarray, truth: np.ndarray) -> float | None:
    """TP / (TP + FP + FN) over all pixels of all masks (n, H, W) together (thesis 3.7.3); None when both are empty."""
    return _ratio((predicted & truth).sum(), (predicted | truth).sum())


def dice(predicted: np.ndarray, truth: np.ndarray) -> float | None:
    """2 TP / (2 TP + FP + FN) of two masks (H, W) bool; None when both are empty."""
    return _ratio(2 * (predicted & truth).sum(), predicted.sum() + truth.sum())


def mean_dice(predicted: Iterable[np.ndarray], truth: Iterable[np.ndarray]) -> float | None:
    """The mean of `dice` over n masks (H, W) bool; images where both masks are empty are left out."""
    values = [value for pair in zip(predicted, truth, strict=True) if (value := dice(*pair)) is not None]
    return _ratio(sum(values), len(values))


def _outline(mask: np.ndarray, spacing: tuple[float, float]) -> np.ndarray:
    return np.argwhere(mask & ~ndimage.binary_erosion(mask)) * spacing


def hd95(predicted: np.ndarray, truth: np.ndarray, spacing: tuple[float, float] = (1, 1)) -> float | None:
    """95 % Hausdorff distance: max(P95 of d(a, B) over a in A, P95 of d(b, A) over b in B), A and B the two outlines.

    An outline has the pixels with one of their 4 neighbours outside the mask or the image. None when one mask is empty.

    Args:
        predicted: (H, W) bool.
        truth: (H, W) bool.
        spacing: size of a pixel, (rows, columns); the distance is in its unit.
    """
    # Measured on one core: MONAI's compute_hausdorff_distance(percentile=95) gives the same number (2e-6 over 341 random pairs,
    # its float32) but takes 5 s to import and 7 ms a pair at 64 x 64; the nearest points of the outlines take 1 ms.
    if not (predicted.any() and truth.any()):
        return None
    a, b = _outline(predicted, spacing), _outline(truth, spacing)
    return float(max(np.percentile(KDTree(b).query(a)[0], 95), np.percentile(KDTree(a).query(b)[0], 95)))


def mean_hd95(
    predicted: Iterable[np.ndarray], truth: Iterable[np.ndarray], spacing: tuple[float, float] = (1, 1)
) -> tuple[float | None, int]:
    """The mean of `hd95` over the pairs of masks (H, W) of which neither is empty, and their number; report both."""
    values = [value for p, t in zip(predicted, truth, strict=True) if (value := hd95(p, t, spacing)) is not None]
    return _ratio(sum(values), len(values)), len(values)


def blocks_of(indices: np.ndarray) -> list[np.ndarray]:
    """Indices (n,) in blocks of at most `BLOCK`, so that the pixels of one block fit into memory."""
    return [indices[i : i + BLOCK] for i in range(0, len(indices), BLOCK)]


def pixel_auprc(saliency: np.ndarray, truth: np.ndarray, indices: np.ndarray | None = None) -> float | None:
    """Average precision over the pixels of all images together: the sum over levels k of precision_k (recall_k - recall_(k-1)).

    Pixels of equal saliency share one level, so a constant map scores the share of lesion pixels. None when the truth is empty.

    Args:
        saliency: (n, H, W) floats; only their order counts.
        truth: (n, H, W) bool.
        indices: of the images to score; None is all.
    """
    # Measured on 1000 images of 96 x 96: torchmetrics' binary_average_precision gives the same to 1e-9 (its float32) but takes
    # 4 times as long and 445 MB more; blocks need next to nothing, and the arrays may lie on disk.
    blocks = blocks_of(np.arange(len(truth)) if indices is None else indices)
    inside = [saliency[block][truth[block]] for block in blocks]
    levels, hits = np.unique(np.concatenate([*inside, np.zeros(0, saliency.dtype)]), return_counts=True)
    true = hits[::-1].cumsum()[::-1]
    reached = np.zeros(len(levels) + 1, np.int64)  # pixels outside by how many levels they are at or above
    for block in blocks:
        outside = np.sort(saliency[block][~truth[block]])
        reached += np.bincount(np.searchsorted(levels, outside, "right"), minlength=len(reached))
    false = reached[:0:-1].cumsum()[::-1]
    return _ratio((hits * true / (true + false)).sum(), hits.sum())


def best_threshold(
    saliency: np.ndarray, truth: np.ndarray, thresholds: Sequence[float] | np.ndarray,
    masks_of: Callable[[np.ndarray, float], np.ndarray] | None = None,
) -> tuple[float | None, float | None]:  # fmt: skip
    """Oracle: max over thresholds t of `pooled_iou`(saliency > t, truth), and the first threshold that reaches it (thesis 4.2).

    It is tuned on the masks it is scored with: an upper bound, not a result. (None, None) when all masks are always empty.

    Args:
        saliency: (n, H, W) floats; compared with the threshold as float64.
        truth: (n, H, W) bool.
        thresholds: in any order.
        masks_of: (saliency, threshold) -> masks (n, H, W), where a mask is not just saliency > threshold; slower.
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
        reached = [_ratio(h, m + inside.size - h) for h, m in zip(hit, marked, strict=True)]
    scored = [(value, -i) for i, value in enumerate(reached) if value is not None]
    if not scored:
        return None, None
    value, i = max(scored)
    return value, float(thresholds[-i])


def size_edges(side: int, shares: Sequence[float] = SIZE_SHARES) -> tuple[int, ...]:
    """Lesion sizes in pixels at which the size classes of a square image begin: shares of its area, rounded up."""
    return tuple(math.ceil(round(share * side * side, 6)) for share in shares)


def lesions_by_size(
    predicted: Iterable[np.ndarray], truth: Iterable[np.ndarray], edges: Sequence[int]
) -> list[dict[str, float | None]]:
    """Detection rate and Dice of lesions (8-connected components of the truth) by size class, from small to large.

    A lesion is touched when one of its pixels is marked, found when at least `FOUND_SHARE` of them are. Its Dice is with the
    components of the prediction that touch it. Each row has from_px (included), to_px (excluded) and numbers of lesions.

    Args:
        predicted: n masks (H, W) bool.
        truth: n masks (H, W) bool.
        edges: in pixels, ascending, see `size_edges`; k edges make k + 1 classes.
    """
    lesions = [lesion for p, t in zip(predicted, truth, strict=True) for lesion in _lesions(p, t)]
    rows: list[dict[str, float | None]] = []
    for low, high in zip((0, *edges), (*edges, None), strict=True):
        here = [lesion for lesion in lesions if low <= lesion[0] and (high is None or lesion[0] < high)]
        rows.append({
            "from_px": low, "to_px": high, "lesions": len(here), "touched": sum(marked > 0 for _, marked, _ in here),
            "found": sum(marked / px >= FOUND_SHARE for px, marked, _ in here),
            "mean_dice": _ratio(sum(d for _, _, d in here), len(here)),
        })  # fmt: skip
    return rows


def _lesions(predicted: np.ndarray, truth: np.ndarray) -> list[tuple[int, int, float]]:
    """(pixels, marked pixels, Dice) of every lesion of one image."""
    components, count = ndimage.label(truth, EIGHT)
    marks, _ = ndimage.label(predicted, EIGHT)
    lesions = []
    for number in range(1, count + 1):
        lesion = components == number
        touching = np.unique(marks[lesion & predicted])
        overlap = dice(np.isin(marks, touching), lesion)
        lesions.append((int(lesion.sum()), int((lesion & predicted).sum()), overlap or 0.0))
    return lesions


def counterfactual_validity(before: np.ndarray, after: np.ndarray, tau: float = TAU) -> float | None:
    """CV of 3.7.2: among images with f(X) > tau, the share with |f(X) - f(X_cf)| > tau.

    Args:
        before: f(X), (n,) in [0, 1].
        after: f(X_cf), (n,) in [0, 1].
        tau: in [0, 1]; images with f(X) <= tau cannot change by more and are left out, as in the authors' figures.
    """
    confident = before > tau
    return _ratio((np.abs(before - after)[confident] > tau).sum(), confident.sum())


def flip_rate(before: np.ndarray, after: np.ndarray, threshold: float = 0.5) -> float | None:
    """Among images with f(X) >= threshold, the share with f(X_cf) < threshold; `before` and `after` are (n,) in [0, 1]."""
    abnormal = before >= threshold
    return _ratio((after[abnormal] < threshold).sum(), abnormal.sum())


def classification_scores(probability: np.ndarray, label: np.ndarray, threshold: float = 0.5) -> dict[str, float | None]:
    """AUROC (None with one class), accuracy and expected calibration error (15 bins) of a binary classifier.

    All are None where some labels are unknown and the others of one class, the normal one: an accuracy on it would mislead.

    Args:
        probability: (n,) in [0, 1].
        label: (n,), 0 or 1; below 0 is unknown and left out.
        threshold: of the accuracy.
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
        "accuracy": _ratio(float(((p >= threshold).long() == y).sum()), len(y)),
        "calibration_error": float(binary_calibration_error(p, y, n_bins=15)) if len(y) else None,
    }


def scan_scores(probability: np.ndarray, label: np.ndarray, scan: np.ndarray) -> dict[str, float | None]:
    """AUROC over scans, max f(X) over their slices against max label; None with one class, or where every scan is one image.

    Args:
        probability: f(X) of slices, (n,).
        label: of slices, 0 or 1, (n,); that of the scan where a slice has none.
        scan: the scan of each slice, (n,).
    """
    names, scan_of = np.unique(scan, return_inverse=True)
    if len(names) == len(scan):
        return {"auroc_scans": None}
    highest, abnormal = np.zeros(len(names)), np.zeros(len(names), np.int64)
    np.maximum.at(highest, scan_of, probability)
    np.maximum.at(abnormal, scan_of, label)
    return {"auroc_scans": classification_scores(highest, abnormal)["auroc"]}


def rank_correlation(confidence: np.ndarray, overlap: np.ndarray) -> float | None:
    """Spearman's rank correlation of two arrays (n,), in [-1, 1]; None when one of them is constant."""
    from scipy.stats import spearmanr

    if len(np.unique(confidence)) < 2 or len(np.unique(overlap)) < 2:
        return None
    return float(spearmanr(confidence, overlap).statistic)


def risk_area(confidence: np.ndarray, overlap: np.ndarray) -> float | None:
    """Area under the risk-coverage curve (Geifman, El-Yaniv 2017): mean over k of the mean risk of the k most confident masks.

    The risk is 1 - `overlap`, the IoU (n,) of each mask; equal confidences (n,) share their mean risk. Lower is better.
    """
    if not len(confidence):
        return None
    _, group, counts = np.unique(-confidence, return_inverse=True, return_counts=True)
    risk = (np.bincount(group, 1 - overlap) / counts)[group]
    kept = risk[np.argsort(-confidence, kind="stable")]
    return float((np.cumsum(kept) / np.arange(1, len(kept) + 1)).mean())


def mean_scores(classes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means over classes of the scores that are numbers, by name; None where a class has none."""
    names = [name for name, value in classes[0].items() if value is None or isinstance(value, int | float)]
    found: dict[str, Any] = {}
    for name in names:
        values = [one.get(name) for one in classes]
        numbers = [float(value) for value in values if isinstance(value, int | float)]
        found[name] = float(np.mean(numbers)) if len(numbers) == len(values) else None
    return found
