"""Where to cut by what turns f: the smallest region of a counterfactual that already makes an image normal (flip consistency).

    flip = the level of the smallest region {d > level} with f(X outside of it, X_cf inside) < 1/2, mean over an image and its mirror image
    level = sqrt(flip * share of the peak of d)

f turns over part of a lesion, or only over far more than it, so `flip` by itself cuts too tightly here and too widely there; so does a share
of the peak, for other reasons, and their geometric mean is better than either alone (docs/research/thresholds.md). No lesion mask is used.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Ask = Callable[[np.ndarray], np.ndarray]
"""Images (n, S, S) in [0, 1] -> f(X), (n,)."""
SMALLEST = 4
"""Pixels of the smallest region that is pasted."""
LARGEST = 0.25
"""Of an image, the largest."""
REGIONS = 16
"""How many are tried, their areas evenly apart on a logarithmic scale."""


def pasted(image: np.ndarray, counterfactual: np.ndarray, region: np.ndarray) -> np.ndarray:
    """The image with its counterfactual inside the region and itself everywhere else; all (n, S, S), the region bool."""
    return np.where(region, counterfactual, image)


def flip_levels(image: np.ndarray, counterfactual: np.ndarray, maps: np.ndarray, ask: Ask, normal: float) -> np.ndarray:
    """What the pixels of the smallest region exceed whose counterfactual turns f, (n,); NaN where none of those tried does.

    Args:
        image, counterfactual: (n, S, S) in [0, 1].
        maps: how much each pixel was changed, (n, S, S) in [0, 1]; the regions are its largest values.
        ask: f.
        normal: an image is normal when f is below this.
    """
    height, width = maps.shape[-2:]
    areas = np.unique(np.rint(np.geomspace(SMALLEST, max(SMALLEST, LARGEST * height * width), REGIONS)).astype(int))
    falling = -np.sort(-maps.reshape(len(maps), -1), axis=1)
    found = np.full(len(maps), np.nan)
    before = ask(image) >= normal  # of two views one may have called it abnormal: then there is nothing to turn
    for area in areas:
        open_ = np.flatnonzero(np.isnan(found) & before)
        if not len(open_):
            break
        level = falling[open_, min(area, falling.shape[1] - 1)]
        region = maps[open_] > level[:, None, None]
        turned = ask(pasted(image[open_], counterfactual[open_], region)) < normal
        found[open_[turned]] = level[turned]
    return found


def with_peaks(flip: np.ndarray, floor: float, shares: np.ndarray) -> np.ndarray:
    """The level of every image, (n,): the geometric mean of both, not below the floor.

    Args:
        flip: see `flip_levels`; where it is NaN the share of the peak counts alone.
        floor: what the generator changes in normal images (`masks.choose_threshold`).
        shares: of the peak of each image's map, (n,); 0 where no share is asked, and `flip` counts alone.
    """
    both = np.where(shares > 0, np.sqrt(flip * shares), flip)
    return np.maximum(np.where(np.isnan(flip), shares, both), floor)
