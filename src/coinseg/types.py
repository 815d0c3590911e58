"""Shaped aliases and the few records that travel between rooms.

Here are arrays as files hold them, what a layout says of a case, and what a method says of images. Batches are in `data/sampling.py`, where weak
supervision shows: what training sees has images and image labels and no lesion mask.
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

Slice = Float[np.ndarray, "height width"]
"""One grey image in [0, 1] (as stored) or in source units (as read)."""
SliceMask = Bool[np.ndarray, "height width"]
"""True inside."""
Scan = Num[np.ndarray, "slices height width"]
"""A volume in canonical orientation: slices from inferior to superior, each as a radiologist sees it."""
ScanMask = Bool[np.ndarray, "slices height width"]
"""True inside, on the grid of a `Scan`."""


@dataclass(frozen=True)
class MaskSource:
    """Where a mask is on disk.

    Args:
        path: a mask or label map on the grid of its image.
        values: the label values that count as inside; empty means everything above 0.
    """

    path: Path
    values: tuple[int, ...] = ()


@dataclass(frozen=True)
class Case:
    """One scan or one plain image, as a layout describes it; nothing has been read yet.

    Args:
        id: unique within the cohort, safe as a file name.
        patient: cases of one patient never end on both sides of the split.
        image: the volume (a file, a DICOM folder or archive, `FOLDER#KEY` for one of its series) or the image file.
        volume: whether `image` is a volume.
        label: 0 normal, 1 abnormal, None unknown; for volumes the label of every slice not in `slice_labels`.
        slice_labels: labels of single slices of a volume, by index from inferior (0) to superior.
        organ: one mask for each organ region (left and right kidney are two).
        lesion: masks whose union is the truth; read for scoring only.
        series: the scan a plain image is a slice of, by a name of its own in the cohort; None where nobody says.
        place: its number along that scan.
    """

    id: str
    patient: str
    image: Path
    volume: bool
    label: int | None = None
    slice_labels: Mapping[int, int] = field(default_factory=dict)
    organ: tuple[MaskSource, ...] = ()
    lesion: tuple[MaskSource, ...] = ()
    series: str | None = None
    place: int = 0


@dataclass(frozen=True)
class Cohort:
    """What a layout found.

    Args:
        layout: name of the recognised layout.
        cases: in a stable order (sorted by id).
        label_source: where the image labels come from, in words for the manifest.
        problems: one line for each case that was skipped and why.
    """

    layout: str
    cases: tuple[Case, ...]
    label_source: str
    problems: tuple[str, ...] = ()

    @property
    def labelled(self) -> bool:
        """Whether any case has an image label, or a lesion mask to make one from."""
        return any(case.lesion or case.slice_labels or case.label is not None for case in self.cases)


@dataclass(frozen=True)
class Explanation:
    """What a method says of a batch of images X (B, C, ...).

    Args:
        probability: f(X) in [0, 1], (B,).
        saliency: in [0, 1], (B, ...): |X - X_cf| / 2, the mean over channels, of a counterfactual method; the map of an
            attribution, stretched to [0, 1] for each image.
        counterfactual: X_cf in [-1, 1], (B, C, ...); exactly X where nothing was asked. None for an attribution.
        counterfactual_probability: f(X_cf) in [0, 1], (B,). None for an attribution.
    """

    probability: Tensor
    saliency: Tensor
    counterfactual: Tensor | None = None
    counterfactual_probability: Tensor | None = None

    def painted(self) -> tuple[Tensor, Tensor]:
        """X_cf and f(X_cf) of a counterfactual method; `ValueError` for an attribution, which has none."""
        if self.counterfactual is None or self.counterfactual_probability is None:
            raise ValueError("an attribution has no counterfactual")
        return self.counterfactual, self.counterfactual_probability


@dataclass(frozen=True)
class Maps:
    """What the masks of B images are read from.

    Args:
        values: in [0, 1], (B, S, S): refined differences, or what a student gives each pixel.
        levels: what a pixel of each map must exceed, in [0, 1], (B,), NaN where f calls an image normal; None where it is one threshold
            for all images, or a share of the peak.
        agreement: Dice of the masks of an image and of its mirror image, in [0, 1], (B,); None where mirror images were not asked.
        image_score: P(abnormal | X) of the ensemble, in [0, 1], (B,); None where no student is asked.
    """

    values: np.ndarray
    levels: np.ndarray | None = None
    agreement: np.ndarray | None = None
    image_score: np.ndarray | None = None
