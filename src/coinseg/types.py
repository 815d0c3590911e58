"""Shaped arrays, and the records that several rooms use: the cases of a layout and the explanation of a method.

Batches are in `data.slices.dataset`: those of training have images and image labels but no lesion mask (weak supervision).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Num

if TYPE_CHECKING:
    from torch import Tensor

Slice = Float[np.ndarray, "height width"]  # One grey image, in source units as read or in [0, 1] as stored
SliceMask = Bool[np.ndarray, "height width"]  # True inside
Scan = Num[np.ndarray, "slices height width"]
"""A volume in canonical orientation: slices from inferior to superior, row 0 anterior, column 0 the patient's right."""
ScanMask = Bool[np.ndarray, "slices height width"]  # True inside, on the grid of a `Scan`


@dataclass(frozen=True)
class MaskSource:
    """A mask on disk."""

    path: Path  # a mask or label map on the grid of its image
    values: tuple[int, ...] = ()  # label values that count as inside; empty means everything above 0


@dataclass(frozen=True)
class Case:
    """One scan or one plain image of a layout; no voxel has been read yet."""

    id: str  # unique within the cohort, safe as a file name
    patient: str  # cases of one patient are on the same side of the split
    image: Path  # the volume (a file, a DICOM folder or archive, `FOLDER#KEY` for one of its series) or the image file
    volume: bool  # whether `image` is a volume
    label: int | None = None  # 0 normal, 1 abnormal, None unknown; of a volume the label of every slice not in `slice_labels`
    slice_labels: Mapping[int, int] = field(default_factory=dict)  # of slices of a volume by index, 0 the most inferior
    organ: tuple[MaskSource, ...] = ()  # one mask for each organ region (left and right kidney are two)
    lesion: tuple[MaskSource, ...] = ()  # masks whose union is the ground truth; read for scoring only
    series: str | None = None  # name of the scan that a plain image is a slice of, unique in the cohort; None if unknown
    place: int = 0  # number of the image along that scan


@dataclass(frozen=True)
class Cohort:
    """The cases of a data set."""

    layout: str  # name of the layout
    cases: tuple[Case, ...]  # sorted by id
    label_source: str  # where the image labels come from, in words for the manifest
    problems: tuple[str, ...] = ()  # one line for each skipped case or other problem

    @property
    def labelled(self) -> bool:
        """Whether any case has an image label, or a lesion mask to make one from."""
        return any(case.lesion or case.slice_labels or case.label is not None for case in self.cases)


@dataclass(frozen=True)
class Explanation:
    """The explanations of a batch of images X (B, C, ...)."""

    probability: Tensor  # f(X) in [0, 1], (B,)
    # In [0, 1], (B, ...): |X - X_cf| / 2, the mean over channels; the map of an attribution, stretched to [0, 1] for each image.
    saliency: Tensor
    counterfactual: Tensor | None = None  # X_cf in [-1, 1], (B, C, ...), X itself where G did not run; None: attribution
    counterfactual_probability: Tensor | None = None  # f(X_cf) in [0, 1], (B,). None for an attribution.

    def painted(self) -> tuple[Tensor, Tensor]:
        """Return X_cf and f(X_cf) of a counterfactual method; `ValueError` for an attribution."""
        if self.counterfactual is None or self.counterfactual_probability is None:
            raise ValueError("an attribution has no counterfactual")
        return self.counterfactual, self.counterfactual_probability


@dataclass(frozen=True)
class Maps:
    """The maps of B images, from which masks are read."""

    values: np.ndarray  # in [0, 1], (B, S, S): refined differences, or the output of a student
    # Threshold of each map, in [0, 1], (B,), NaN where f calls an image normal; None: one threshold, or a share of the peak.
    levels: np.ndarray | None = None
    agreement: np.ndarray | None = None  # Dice of the masks of an image and its mirror image, (B,); None without the latter
    image_score: np.ndarray | None = None  # P(abnormal | X) of the ensemble, in [0, 1], (B,); None without a student
