"""Where the border of a mask is, asked of the image as well as of the difference.

The least change that turns f leaves much of a large lesion standing and spreads a haze around a small one: of the masks of LGG's
smallest third as much again was marked around the lesion as in it, of the largest third two fifths were left out (docs/results/ideas.md). But what is
surely inside tells what the lesion looks like, and what is surely outside what its surroundings do. Each pixel near the border goes to the
one it resembles, unless the difference is sure of it. What it is worth: docs/decisions/0018-contrast.md.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from .masks import peaks

HAZE = 5.0
"""Pixels: about how far a generator's change runs over; lesions of that radius and less have their border higher up its slope."""
RISE = 0.2
"""How much higher at most, as a share of the peak."""
LARGE = 8.0
"""Pixels: the radius from which on the change is likely to leave some of a lesion out; smaller masks only lose pixels."""
SURE = 0.6
"""Share of the peak above which a pixel is inside whatever it looks like."""
NEAR = 0.3
"""How far from the mask pixels may be added, in its radius."""
RING = 0.5
"""How wide the surroundings are that it is compared with, in its radius."""
SPREAD = 0.4
"""Of a share of the peak: this much counts as much as a pixel that is wholly like the lesion, at weight 1."""
QUIET = 0.02
"""Least spread of intensities, of [-1, 1]: flat regions are not sure of a grey level."""
CAP = 4.0
"""Log-likelihood ratio from which on a pixel is wholly like one of the two."""
FEWEST = 4
"""Pixels without which neither inside nor surroundings are described."""
SQUARE = np.ones((3, 3), bool)


def resemblance(image: np.ndarray, inside: np.ndarray, outside: np.ndarray) -> np.ndarray:
    """Whether pixels look like the inside (1) or like the outside (-1): the log-likelihood ratio of two normal distributions, smoothed.

    Args:
        image: (H, W) in [-1, 1].
        inside: (H, W) bool, surely inside.
        outside: (H, W) bool, surely outside.

    Returns:
        (H, W) in [-1, 1]; 0 is like both.
    """

    def surprise(pixels: np.ndarray) -> np.ndarray:
        centre = np.median(pixels)
        spread = max(1.4826 * float(np.median(np.abs(pixels - centre))), QUIET)
        return 0.5 * ((image - centre) / spread) ** 2 + np.log(spread)

    ratio = surprise(image[outside]) - surprise(image[inside])
    return ndimage.gaussian_filter(np.clip(ratio / CAP, -1, 1), 0.7)


def by_contrast(image: np.ndarray, difference: np.ndarray, mask: np.ndarray, share: float, weight: float) -> np.ndarray:
    """A mask whose border was asked of the image, (H, W) bool (docs/decisions/0018-contrast.md).

    A pixel near the mask is inside where (difference / peak - level) / `SPREAD` + weight * resemblance > 0, with
    level = share + `RISE` * exp(-(radius / `HAZE`)^2) and the radius that of a disc as large as the mask.

    Args:
        image: (H, W) in [-1, 1].
        difference: (H, W), refined, in [0, 1].
        mask: (H, W) bool, the difference above `share` of its peak, cleaned.
        share: of the peak, in (0, 1).
        weight: of the image against the difference; 0 leaves the difference alone.

    Returns:
        One component without holes; the mask as it is where inside or surroundings are too few pixels to tell.
    """
    peak, radius = float(peaks(difference[None])[0]), float(np.sqrt(mask.sum() / np.pi))
    level = share + RISE * np.exp(-((radius / HAZE) ** 2))
    core = mask & (difference > max(SURE, level) * peak)
    near = ndimage.binary_dilation(mask, iterations=max(1, round(NEAR * radius + 1))) if mask.any() else mask
    ring = ndimage.binary_dilation(near, iterations=max(2, round(RING * radius))) & ~near
    if core.sum() < FEWEST or ring.sum() < FEWEST:
        return mask
    like = resemblance(image, core, ring)
    if radius < LARGE:
        like = np.minimum(like, 0)
    found = ((difference / peak - level) / SPREAD + weight * like > 0) & near & (difference > level / 2 * peak)
    found = ndimage.binary_opening(found, np.ones((2, 2))) | core
    parts, _ = ndimage.label(found, SQUARE)
    return ndimage.binary_fill_holes(parts == np.bincount(parts[core]).argmax())
