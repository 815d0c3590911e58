"""A threshold from the decision of f: the smallest region of the counterfactual that makes f call the image normal.

flip  = the level l of the smallest {d > l} with f(X outside of it, X_cf inside) < 1/2, mean over an image and its mirror
level = sqrt(flip * share of the peak of d), better than either alone (docs/research/thresholds.md)
"""

from collections.abc import Callable

import numpy as np

Ask = Callable[[np.ndarray], np.ndarray]  # Images (n, C, S, S) in [0, 1] -> f(X), (n,)
SMALLEST = 4  # Pixels of the smallest region
LARGEST = 0.25  # Area of the largest region, as a share of the image
REGIONS = 16  # Number of regions tried, their areas evenly spaced on a logarithmic scale


def pasted(image: np.ndarray, counterfactual: np.ndarray, region: np.ndarray) -> np.ndarray:
    """X_cf inside a region (n, S, S) bool and X outside, both (n, C, S, S)."""
    return np.where(region[:, None], counterfactual, image)


def flip_levels(image: np.ndarray, counterfactual: np.ndarray, maps: np.ndarray, ask: Ask, normal: float) -> np.ndarray:
    """The level of the smallest region {map > level} whose counterfactual makes f call the image normal, (n,).

    It is NaN where f calls the image normal already, or where no region tried is enough.

    Args:
        image, counterfactual: (n, C, S, S) in [0, 1].
        maps: the difference, (n, S, S) in [0, 1].
        ask: f.
        normal: an image is normal when f is below this.
    """
    height, width = maps.shape[-2:]
    areas = np.unique(np.rint(np.geomspace(SMALLEST, max(SMALLEST, LARGEST * height * width), REGIONS)).astype(int))
    falling = -np.sort(-maps.reshape(len(maps), -1), axis=1)
    flip = np.full(len(maps), np.nan)
    abnormal = ask(image) >= normal  # f may call an image normal whose mirror image it calls abnormal
    for area in areas:
        left = np.flatnonzero(np.isnan(flip) & abnormal)
        if not len(left):
            break
        level = falling[left, min(area, falling.shape[1] - 1)]
        region = maps[left] > level[:, None, None]
        flipped = ask(pasted(image[left], counterfactual[left], region)) < normal
        flip[left[flipped]] = level[flipped]
    return flip


def with_peaks(flip: np.ndarray, floor: float, shares: np.ndarray) -> np.ndarray:
    """The level of every image, (n,): max(floor, sqrt(flip * share of the peak)).

    Args:
        flip: see `flip_levels`, (n,); where it is NaN, the share alone counts.
        floor: the threshold from normal images, see `choose_threshold`.
        shares: the share of the peak of each map as a level, (n,); where it is 0, `flip` alone counts.
    """
    both = np.where(shares > 0, np.sqrt(flip * shares), flip)
    return np.maximum(np.where(np.isnan(flip), shares, both), floor)
