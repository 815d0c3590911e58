"""The threshold on the refined difference, chosen without any lesion mask (thesis 4.2)."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from skimage.filters import threshold_otsu

from coinseg.config.reading import refuse
from coinseg.config.rules import of_ranges
from coinseg.config.schema import MaskSettings
from coinseg.errors import UserError


@dataclass(frozen=True)
class Threshold:
    """A threshold on the refined difference."""

    value: float  # in [0, 1]; a pixel above it is inside
    rule: str  # how it was chosen, in words for the report


def rule_of(settings: MaskSettings, counterfactual: bool) -> Literal["normals", "otsu", "decision_flip"] | float:
    """masks.threshold, with "auto" resolved: "normals" for a counterfactual method, "otsu" for an attribution.

    An attribution's map is scaled to [0, 1] in every image, so its values on normal images give no threshold.
    """
    if settings.threshold == "auto":
        return "normals" if counterfactual else "otsu"
    return settings.threshold


def choose_threshold(
    normals: np.ndarray, abnormals: np.ndarray, settings: MaskSettings, counterfactual: bool = True
) -> Threshold:
    """A threshold from image labels: a quantile of the differences of normal images, or Otsu on those of abnormal ones.

    `UserError` where there are no images of the class that the rule needs, or the number is outside (0, 1].

    Args:
        normals: refined differences of training images labelled normal, (n, H, W), inpainted whatever f says.
        abnormals: the same of training images labelled abnormal.
        settings: threshold and quantile are read.
        counterfactual: whether the method is a counterfactual one, see `rule_of`.
    """
    rule = rule_of(settings, counterfactual)
    if isinstance(rule, float | int):
        refuse(of_ranges("masks", settings))
        return Threshold(float(rule), "given by the user")
    values = abnormals if rule == "otsu" else normals
    if not values.size:
        which = "abnormal" if rule == "otsu" else "normal"
        raise UserError(f"no training image is labelled {which}", f"some for masks.threshold {rule}", "set a number")
    if rule != "otsu":
        value = float(np.quantile(values, settings.quantile))
        words = f"{settings.quantile:.3g} quantile of the difference on training images labelled normal"
        return Threshold(value, f"{words}; in each image also what turns f" if rule == "decision_flip" else words)
    return Threshold(float(threshold_otsu(values.ravel())), "Otsu on the differences of training images labelled abnormal")
