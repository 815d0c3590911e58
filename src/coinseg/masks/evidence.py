"""Which parts of a difference are lesions: f has evidence for them. Decided without any lesion mask.

The thesis keeps the largest part (3.7.3). Where an image has several lesions that loses all others, and the opening that removes
a generator's specks removes thin lesions. Measured in docs/research/student.md, study 31.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from scipy import ndimage

HALF = 0.5  # of the highest evidence of an image, which a part must have somewhere

Choice = TypeVar("Choice")


def parts_with_evidence(masks: np.ndarray, evidence: np.ndarray) -> np.ndarray:
    """The connected parts of masks that have evidence of at least `HALF` of the highest one of a part of their image.

    Args:
        masks: (n, H, W) bool; not modified. Parts are connected by faces.
        evidence: local evidence of f in [0, 1], (n, H, W). It is coarser than the mask: of a part its pixels and those beside
            them count.
    """
    kept = np.zeros_like(masks)
    for result, mask, local in zip(kept, masks, evidence, strict=True):
        labels, count = ndimage.label(mask)
        if count:
            highest = np.atleast_1d(ndimage.maximum(ndimage.maximum_filter(local, 3), labels, np.arange(1, count + 1)))
            result |= np.concatenate([[False], highest >= HALF * highest.max()])[labels]
    return kept


def density(explained: np.ndarray, areas: np.ndarray) -> float:
    """How much of f's decision masks hold for their size: the mean of `explained` over the root of the mean area.

        density(m) = mean_i share_i(m) / sqrt(mean_i area_i(m))
        share_i(m) = (z(X) - z(X (1 - m) + X_cf m)) / (z(X) - z(X_cf))        z the logit of f, see `Explainer.explained`

    As the scan statistic of a raised mean (Kulldorff, Huang, Konty 2009): what noise adds to the sum over a region grows with
    the root of its area, so pixels that hold nothing make it smaller, and lesions that are left out too.

    Args:
        explained: the share of f's change, logit f(X) - logit f(X_cf), that X_cf inside of the mask alone gives, (n,).
        areas: shares of the image inside of the masks, (n,).

    Returns:
        0 where nothing is marked.
    """
    area = float(np.mean(areas)) if len(areas) else 0.0
    return float(np.mean(explained)) / area**0.5 if area > 0 else 0.0


def densest(choices: Sequence[Choice], density_of: Callable[[Choice], float]) -> Choice:
    """The choice with the highest `density`; of equal ones the first."""
    return max(choices, key=density_of)
