"""Where the border of a mask is, asked of the image as well as of the difference.

The least change that turns f leaves much of a large lesion standing and spreads a haze around a small one: of the masks of LGG's
smallest third as much again was marked around the lesion as in it, of the largest third two fifths were left out (docs/research/ideas.md). But what is
surely inside tells what the lesion looks like, and what is surely outside what its surroundings do. Each pixel near the border goes to the
one it resembles, unless the difference is sure of it. What it is worth: docs/research/student.md, study 18,
and how far to look: docs/research/student.md, study 21.

A cyst or a cavity in a tumour is no evidence for f, the tissue around it is: bays are filled (docs/research/student.md, study 19).
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from .postprocess import peaks

HAZE = 5.0
"""Pixels: about how far a generator's change runs over; lesions of that radius and less have their border higher up its slope."""
RISE = 0.2
"""How much higher at most, as a share of the peak."""
LARGE = 8.0
"""Pixels: the radius from which on the change is likely to leave some of a lesion out; smaller masks only lose pixels."""
SURE = 0.6
"""Share of the peak above which a pixel is inside whatever it looks like."""
NEAR = 0.6
"""How far from the mask pixels may be added, in its radius."""
RING = 0.5
"""How wide the surroundings are that it is compared with, in its radius."""
SPREAD = 0.4
"""Of a share of the peak: this much counts as much as a pixel that is wholly like the lesion, at weight 1."""
QUIET = 0.02
"""Least spread of intensities, of [-1, 1]: flat regions are not sure of a grey level."""
CAP = 2.0
"""Log-likelihood ratio from which on a pixel is wholly like one of the two."""
FEWEST = 4
"""Pixels without which neither inside nor surroundings are described."""
BAY = 1.0
"""Bays into which no disc of this radius fits are filled, in the radius of the mask."""
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


def fit_border(images: np.ndarray, maps: np.ndarray, masks: np.ndarray, share: float, weight: float) -> np.ndarray:
    """Masks whose borders were asked of the images, their bays filled, (n, H, W) bool.

    Args:
        images: (n, H, W) in [-1, 1].
        maps: (n, H, W) in [0, 1], refined differences.
        masks: (n, H, W) bool, the maps above `share` of their peak, cleaned.
        share: of the peak, in (0, 1).
        weight: of the image against the map; 0 leaves the border to the map and its level (`RISE`).

    Returns:
        For each component of a mask one without holes; components are asked one by one, and may meet.
    """
    found = np.zeros_like(masks)
    for i in np.flatnonzero(masks.any((1, 2))):
        parts, count = ndimage.label(masks[i], SQUARE)
        for part in (parts == n for n in range(1, count + 1)):
            found[i] |= fill_concavities(_bordered(images[i], maps[i], part, masks[i] & ~part, share, weight))
    return found


def fill_concavities(mask: np.ndarray) -> np.ndarray:
    """A mask (H, W) bool with the bays filled that are narrower than `BAY`, and its holes: closed with a disc of that radius."""
    from skimage.morphology import isotropic_closing

    radius = BAY * _radius(mask)
    edge = int(radius) + 2
    closed = isotropic_closing(np.pad(mask, edge), radius)  # padded: the erosion would eat what touches the border
    return ndimage.binary_fill_holes(closed[edge:-edge, edge:-edge])


def _radius(mask: np.ndarray) -> float:
    """The radius of a disc as large as the mask, in pixels."""
    return float(np.sqrt(mask.sum() / np.pi))


def _bordered(
    image: np.ndarray, difference: np.ndarray, mask: np.ndarray, others: np.ndarray, share: float, weight: float
) -> np.ndarray:
    """A component whose border was asked of the image, without holes (docs/research/student.md, study 18).

    A pixel near the mask is inside where (difference / peak - level) / `SPREAD` + weight * resemblance > 0, with
    level = share + `RISE` * exp(-(radius / `HAZE`)^2) and the radius that of a disc as large as the mask.
    The mask as it is where inside or surroundings are too few pixels to tell.
    """
    peak, radius = float(peaks(difference[None])[0]), _radius(mask)
    level = share + RISE * np.exp(-((radius / HAZE) ** 2))
    core = mask & (difference > max(SURE, level) * peak)
    near = ndimage.binary_dilation(mask, iterations=max(1, round(NEAR * radius + 1)))
    ring = ndimage.binary_dilation(near, iterations=max(2, round(RING * radius))) & ~near & ~others
    if core.sum() < FEWEST or ring.sum() < FEWEST:
        return mask
    like = resemblance(image, core, ring)
    if radius < LARGE:
        like = np.minimum(like, 0)
    found = ((difference / peak - level) / SPREAD + weight * like > 0) & near & ~others & (difference > level / 2 * peak)
    found = ndimage.binary_opening(found, np.ones((2, 2))) | core
    parts, _ = ndimage.label(found, SQUARE)
    return ndimage.binary_fill_holes(parts == np.bincount(parts[core]).argmax())
