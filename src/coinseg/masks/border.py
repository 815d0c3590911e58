"""The border of a mask, fitted to the intensities of the image (docs/research/student.md, studies 18 and 19).

The smallest change that turns f leaves parts of large lesions unchanged and changes pixels around small ones. So each pixel near
the border is compared with the certain inside of the mask and with its surroundings.
"""

import numpy as np
from scipy import ndimage

from coinseg.metrics.overlap import EIGHT

from .postprocess import peaks

HAZE = 5.0  # Pixels: width of the change around a lesion. Lesions of at most this radius get a higher level.
RISE = 0.2  # Largest increase of that level, as a share of the peak
LARGE = 8.0  # Pixels: radius from which on a mask may also gain pixels; smaller masks only lose some
SURE = 0.6  # Share of the peak above which a pixel is inside, whatever its intensity
NEAR = 0.6  # Distance from the mask up to which pixels may be added, in radii of the mask
RING = 0.5  # Width of the surroundings, in radii of the mask
SPREAD = 0.4  # Distance from the level, as a share of the peak, that counts as much as a resemblance of 1 at weight 1
QUIET = 0.02  # Smallest standard deviation of intensities in [-1, 1] that is used, for flat regions
CAP = 2.0  # Log-likelihood ratio that is a resemblance of 1
FEWEST = 4  # Smallest number of pixels from which intensities are estimated
BAY = 1.0  # Radius of the disc of the closing, in radii of the mask


def resemblance(image: np.ndarray, inside: np.ndarray, outside: np.ndarray) -> np.ndarray:
    """Smoothed log-likelihood ratio of inside to outside intensities, clipped at `CAP` and scaled: (H, W) in [-1, 1].

    Of several channels it is the mean, so that equal channels count as one.

    Args:
        image: (C, H, W) in [-1, 1].
        inside, outside: pixels (H, W) bool from whose median and median absolute deviation each normal distribution is made.
    """

    def negative_log_likelihood(channel: np.ndarray, pixels: np.ndarray) -> np.ndarray:
        centre = np.median(pixels)
        spread = max(1.4826 * float(np.median(np.abs(pixels - centre))), QUIET)
        return 0.5 * ((channel - centre) / spread) ** 2 + np.log(spread)

    ratios = [negative_log_likelihood(c, c[outside]) - negative_log_likelihood(c, c[inside]) for c in image]
    ratio = ratios[0] if len(ratios) == 1 else np.mean(ratios, axis=0)
    return ndimage.gaussian_filter(np.clip(ratio / CAP, -1, 1), 0.7)


def fit_border(images: np.ndarray, maps: np.ndarray, masks: np.ndarray, share: float, weight: float) -> np.ndarray:
    """Masks (n, H, W) bool whose borders are fitted to the images, component by component, concavities and holes filled.

    Args:
        images: (n, C, H, W) in [-1, 1].
        maps: refined differences, (n, H, W) in [0, 1].
        masks: the maps above `share` of their peak, cleaned, (n, H, W) bool.
        share: of the peak, in (0, 1).
        weight: of the image against the map; at 0 only the map and its level decide.
    """
    fitted = np.zeros_like(masks)
    for i in np.flatnonzero(masks.any((1, 2))):
        labels, count = ndimage.label(masks[i], EIGHT)
        for component in (labels == n for n in range(1, count + 1)):
            others = masks[i] & ~component
            fitted[i] |= fill_concavities(_fit_component(images[i], maps[i], component, others, share, weight))
    return fitted


def fill_concavities(mask: np.ndarray) -> np.ndarray:
    """A mask (H, W) bool closed with a disc of `BAY` times its radius, its holes filled."""
    from skimage.morphology import isotropic_closing

    radius = BAY * _radius(mask)
    edge = int(radius) + 2
    closed = isotropic_closing(np.pad(mask, edge), radius)  # padded: the erosion would remove pixels at the image border
    return ndimage.binary_fill_holes(closed[edge:-edge, edge:-edge])


def _radius(mask: np.ndarray) -> float:
    """The radius of a disc of the same area, in pixels."""
    return float(np.sqrt(mask.sum() / np.pi))


def _fit_component(
    image: np.ndarray, difference: np.ndarray, mask: np.ndarray, others: np.ndarray, share: float, weight: float
) -> np.ndarray:
    """One component (H, W) of a mask of an image (C, H, W), holes filled; unchanged with fewer than `FEWEST` pixels to compare.

    A pixel near the mask is inside where (difference / peak - level) / `SPREAD` + weight * resemblance > 0, with
    level = share + `RISE` * exp(-(radius / `HAZE`)^2).
    """
    peak, radius = float(peaks(difference[None])[0]), _radius(mask)
    level = share + RISE * np.exp(-((radius / HAZE) ** 2))
    core = mask & (difference > max(SURE, level) * peak)
    near = ndimage.binary_dilation(mask, iterations=round(NEAR * radius + 1))
    ring = ndimage.binary_dilation(near, iterations=max(2, round(RING * radius))) & ~near & ~others
    if core.sum() < FEWEST or ring.sum() < FEWEST:
        return mask
    like = resemblance(image, core, ring)
    if radius < LARGE:
        like = np.minimum(like, 0)
    fitted = ((difference / peak - level) / SPREAD + weight * like > 0) & near & ~others & (difference > level / 2 * peak)
    fitted = ndimage.binary_opening(fitted, np.ones((2, 2))) | core
    labels, _ = ndimage.label(fitted, EIGHT)
    return ndimage.binary_fill_holes(labels == np.bincount(labels[core]).argmax())
