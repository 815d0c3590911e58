"""Scores, each a pure function of arrays (thesis 3.7). A score that has nothing to count is None, never 0 or 1."""

from __future__ import annotations

import numpy as np

TAU = 0.8
"""Least change of f for a counterfactual to count as valid (thesis 3.7.2)."""


def _share(part: float, whole: float) -> float | None:
    return float(part / whole) if whole else None


def pooled_iou(predicted: np.ndarray, truth: np.ndarray) -> float | None:
    """TP / (TP + FP + FN) over all pixels of all masks (n, H, W) together (thesis 3.7.3); None when both are empty."""
    return _share((predicted & truth).sum(), (predicted | truth).sum())


def dice(predicted: np.ndarray, truth: np.ndarray) -> float | None:
    """2 TP / (2 TP + FP + FN) of one mask (H, W); None when both are empty."""
    return _share(2 * (predicted & truth).sum(), predicted.sum() + truth.sum())


def mean_dice(predicted: np.ndarray, truth: np.ndarray) -> float | None:
    """The mean of `dice` over masks (n, H, W), each image counting the same; images empty on both sides are left out."""
    found = [d for p, t in zip(predicted, truth, strict=True) if (d := dice(p, t)) is not None]
    return _share(sum(found), len(found))


def false_positive_area(predicted: np.ndarray) -> float | None:
    """The share of pixels marked on normal images (n, H, W)."""
    return _share(predicted.sum(), predicted.size)


def counterfactual_validity(before: np.ndarray, after: np.ndarray, tau: float = TAU) -> float | None:
    """CV of 3.7.2: among images with f(X) > tau, the share with |f(X) - f(X_cf)| > tau.

    Images f is less sure of cannot reach tau, so they are left out, as in the authors' figures for COIN.
    """
    sure = before > tau
    return _share((np.abs(before - after)[sure] > tau).sum(), sure.sum())


def flip_rate(before: np.ndarray, after: np.ndarray, threshold: float = 0.5) -> float | None:
    """Among images f calls abnormal, the share whose counterfactual it calls normal."""
    called = before >= threshold
    return _share((after[called] < threshold).sum(), called.sum())


def classification_scores(probability: np.ndarray, label: np.ndarray, threshold: float = 0.5) -> dict[str, float | None]:
    """AUROC, accuracy, and expected calibration error (15 bins) of probabilities (n,) against labels (n,).

    AUROC is None when only one class is there.
    """
    import torch
    from torchmetrics.functional.classification import binary_auroc, binary_calibration_error

    p, y = torch.from_numpy(np.asarray(probability, dtype=np.float32)), torch.from_numpy(np.asarray(label, dtype=np.int64))
    both = 0 < int(y.sum()) < len(y)
    return {
        "auroc": float(binary_auroc(p, y)) if both else None,
        "accuracy": _share(float(((p >= threshold).long() == y).sum()), len(y)),
        "calibration_error": float(binary_calibration_error(p, y, n_bins=15)) if len(y) else None,
    }
