"""From the difference |X - X_cf| to a mask: refine, threshold without masks, clean (thesis 3.7.3, 4.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import ndimage

from .config import MaskSettings
from .errors import UserError

GUIDE_RADIUS = 4 / 96
"""Radius of the guided filter as a share of the side."""
GUIDE_EPS = 0.005
"""Variance of the image, on [0, 1], below which the guided filter simply averages."""


def guided_filter(values: np.ndarray, guide: np.ndarray, radius: int, eps: float = GUIDE_EPS) -> np.ndarray:
    """Smooth `values` but not across the edges of `guide` (He, Sun, Tang 2013).

    Args:
        values: (..., H, W).
        guide: the image in [0, 1], same shape.
        radius: of the square window, in pixels.
        eps: regularisation, in squared units of the guide.

    Returns:
        The local linear model of `values` in `guide`, same shape. A constant stays what it is.
    """

    def mean(a: np.ndarray) -> np.ndarray:
        side = 2 * radius + 1
        return ndimage.uniform_filter(a, size=(*[1] * (a.ndim - 2), side, side), mode="reflect")

    guide, values = guide.astype(np.float64), values.astype(np.float64)
    mean_guide, mean_values = mean(guide), mean(values)
    variance = mean(guide * guide) - mean_guide**2
    slope = (mean(guide * values) - mean_guide * mean_values) / (variance + eps)
    return mean(slope) * guide + mean(mean_values - slope * mean_guide)


def refine(saliency: np.ndarray, image: np.ndarray, settings: MaskSettings) -> np.ndarray:
    """The difference made to follow the edges of the image, when the settings ask for it.

    Args:
        saliency: (n, H, W) in [0, 1].
        image: (n, H, W) in [0, 1].
    """
    if settings.refine == "none":
        return saliency
    radius = max(1, round(GUIDE_RADIUS * image.shape[-1]))
    return np.clip(guided_filter(saliency, image, radius), 0, 1)


@dataclass(frozen=True)
class Threshold:
    """A threshold on the refined difference and how it was chosen.

    Args:
        value: in [0, 1]; a pixel above it is inside.
        rule: in words, for the report.
    """

    value: float
    rule: str


def rule_of(settings: MaskSettings, counterfactual: bool) -> Literal["normals", "otsu"] | float:
    """The rule "auto" stands for: "normals" for a counterfactual method, "otsu" for an attribution.

    An attribution's map is stretched to [0, 1] in every image, normal ones too, so what it does to normal images says
    nothing about where to cut.
    """
    if settings.threshold == "auto":
        return "normals" if counterfactual else "otsu"
    return settings.threshold


def choose_threshold(
    normals: np.ndarray, abnormals: np.ndarray, settings: MaskSettings, counterfactual: bool = True
) -> Threshold:
    """A threshold that has seen no lesion mask.

    Args:
        normals: refined differences of training images labelled normal, (n, H, W), every one inpainted whatever f says.
        abnormals: the same of training images labelled abnormal.
        settings: threshold and quantile are read.
        counterfactual: whether the method is one, see `rule_of`.

    Raises:
        UserError: the rule needs images there are none of, or the number is outside (0, 1].
    """
    rule = rule_of(settings, counterfactual)
    if isinstance(rule, float | int):
        if not 0 < rule <= 1:
            raise UserError(f"masks.threshold is {rule}", "auto, normals, otsu or a number in (0, 1]", "mend it")
        return Threshold(float(rule), "given by the user")
    values = normals if rule == "normals" else abnormals
    if not values.size:
        which = "normal" if rule == "normals" else "abnormal"
        raise UserError(f"no training image is labelled {which}", f"some for masks.threshold {rule}", "set a number")
    if rule == "normals":
        value = float(np.quantile(values, settings.quantile))
        return Threshold(value, f"{settings.quantile:.3g} quantile of the difference on training images labelled normal")
    from skimage.filters import threshold_otsu

    return Threshold(float(threshold_otsu(values.ravel())), "Otsu on the differences of training images labelled abnormal")


def clean(mask: np.ndarray, settings: MaskSettings) -> np.ndarray:
    """Opening, closing, then the largest component or all that are large enough; (H, W) bool -> (H, W) bool."""
    if settings.opening:
        mask = ndimage.binary_opening(mask, np.ones((settings.opening, settings.opening)))
    if settings.closing:
        # Padded, because the erosion of a closing would eat what touches the border.
        pad = settings.closing
        closed = ndimage.binary_closing(np.pad(mask, pad), np.ones((settings.closing, settings.closing)))
        mask = closed[pad:-pad, pad:-pad]
    components, count = ndimage.label(mask)
    if not count:
        return np.zeros_like(mask, dtype=bool)
    sizes = np.bincount(components.ravel())
    sizes[0] = 0
    kept = sizes >= settings.min_px
    if settings.keep == "largest":
        kept &= np.arange(len(sizes)) == sizes.argmax()
    kept[0] = False
    return kept[components]


def peaks(refined: np.ndarray) -> np.ndarray:
    """The 99.9th percentile of each map, (n, H, W) -> (n,): its peak, but for a pixel or two."""
    return np.quantile(refined.reshape(len(refined), -1), 0.999, axis=1) if len(refined) else np.zeros(0)


def masks_of(refined: np.ndarray, threshold: float, settings: MaskSettings, peak: float | None = None) -> np.ndarray:
    """Refined differences (n, H, W) -> clean masks (n, H, W) bool.

    A pixel is inside when it exceeds the threshold (what the generator changes in normal images) and a share of the peak
    of its own image: a strong change has a wide skirt, and one threshold for all images would mark the skirt of the
    strong ones or lose the weak ones. The thesis normalises its maps to [0, 1] before thresholding (4.2); this is that,
    with a floor.

    Args:
        refined: in [0, 1].
        threshold: the floor, see `choose_threshold`.
        settings: of the cleaning; its `peak` is the share.
        peak: a share to use instead of the settings'.
    """
    share = settings.peak if peak is None else peak
    levels = np.maximum(threshold, share * peaks(refined))
    masks = [clean(m > level, settings) for m, level in zip(refined, levels, strict=True)]
    return np.stack(masks) if masks else np.zeros(refined.shape, bool)
