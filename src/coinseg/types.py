"""Shaped arrays, and the records that several rooms use: the cases of a layout and the explanation of a method.

Batches are in `data.slices.dataset`: those of training have images and image labels but no lesion mask (weak supervision).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Num

if TYPE_CHECKING:
    from torch import Tensor

LUMINANCE = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in a grey value (ITU-R BT.601)."""
Slice = Float[np.ndarray, "height width"]
"""One grey image, in source units as read or in [0, 1] as stored."""
SliceMask = Bool[np.ndarray, "height width"]
"""True inside."""
Scan = Num[np.ndarray, "slices height width"]
"""A volume in canonical orientation: slices from inferior to superior, row 0 anterior, column 0 the patient's right."""
ScanMask = Bool[np.ndarray, "slices height width"]
"""True inside, on the grid of a `Scan`."""


@dataclass(frozen=True)
class MaskSource:
    """A mask on disk.

    Args:
        path: a mask or label map on the grid of its image.
        values: label values that count as inside; empty means everything above 0.
    """

    path: Path
    values: tuple[int, ...] = ()


@dataclass(frozen=True)
class ClassLabels:
    """What is known of one class in a case, where there are several; the fields are those of `Case`."""

    label: int | None = None
    slice_labels: Mapping[int, int] = field(default_factory=dict)
    lesion: tuple[MaskSource, ...] = ()


@dataclass(frozen=True)
class Case:
    """One scan or one plain image of a layout; no voxel has been read yet.

    Args:
        id: unique within the cohort, safe as a file name.
        patient: cases of one patient are on the same side of the split.
        image: the volume (a file, a DICOM folder or archive, `FOLDER#KEY` for one of its series) or the image file.
        volume: whether `image` is a volume.
        label: 0 normal, 1 abnormal, None unknown; of a volume the label of every slice not in `slice_labels`.
        slice_labels: labels of slices of a volume by index, from inferior (0) to superior.
        organ: one mask for each organ region (left and right kidney are two).
        lesion: masks whose union is the ground truth; read for scoring only.
        series: name of the scan that a plain image is a slice of, unique in the cohort; None if unknown.
        place: number of the image along that scan.
        others: further channels on the grid of `image`, such as other MR sequences, in the order of `Cohort.sequences`.
        classes: in the order of `Cohort.classes`; label, slice_labels and lesion then mean any of them. Empty for one.
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
    others: tuple[Path, ...] = ()
    classes: tuple[ClassLabels, ...] = ()

    def of_class(self, number: int) -> Case:
        """The case as one class sees it: 1 is "has this class"; itself where there is one class."""
        if not self.classes:
            return self
        one = self.classes[number]
        return replace(self, label=one.label, slice_labels=one.slice_labels, lesion=one.lesion, classes=())


@dataclass(frozen=True)
class Cohort:
    """The cases of a data set.

    Args:
        layout: name of the layout.
        cases: sorted by id.
        label_source: where the image labels come from, in words for the manifest.
        problems: one line for each skipped case or other problem.
        sequences: names of the channels where a case has several images on one grid; empty where it has one.
        classes: names of the classes where there are several; an image may have some of them, all, or none.
        left_out: cases that have an image and lack a mask that the settings need.
    """

    layout: str
    cases: tuple[Case, ...]
    label_source: str
    problems: tuple[str, ...] = ()
    sequences: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    left_out: tuple[Case, ...] = ()

    @property
    def labelled(self) -> bool:
        """Whether any case has an image label, or a lesion mask to make one from."""
        return any(case.lesion or case.slice_labels or case.label is not None for case in self.cases)


@dataclass(frozen=True)
class Explanation:
    """The explanations of a batch of images X (B, C, ...).

    Args:
        probability: f(X) in [0, 1], (B,).
        saliency: in [0, 1], (B, ...): |X - X_cf| / 2, the mean over channels, of a counterfactual method; the map of an
            attribution, stretched to [0, 1] for each image.
        counterfactual: X_cf in [-1, 1], (B, C, ...); X itself where the generator did not run. None for an attribution.
        counterfactual_probability: f(X_cf) in [0, 1], (B,). None for an attribution.
    """

    probability: Tensor
    saliency: Tensor
    counterfactual: Tensor | None = None
    counterfactual_probability: Tensor | None = None

    def painted(self) -> tuple[Tensor, Tensor]:
        """Return X_cf and f(X_cf) of a counterfactual method; `ValueError` for an attribution."""
        if self.counterfactual is None or self.counterfactual_probability is None:
            raise ValueError("an attribution has no counterfactual")
        return self.counterfactual, self.counterfactual_probability


@dataclass(frozen=True)
class Maps:
    """The maps of B images, from which masks are read.

    Args:
        values: in [0, 1], (B, S, S): refined differences, or the output of a student.
        levels: threshold of each map, in [0, 1], (B,), NaN where f calls an image normal; None for a threshold that all images
            share, or that is a share of the peak.
        mirrored: Dice of the masks of an image and of its mirror image, in [0, 1], (B,); None without mirror images.
        agreement: how far mirror image, map and difference agree with the mask (`mean_agreement`), in [0, 1], (B,); likewise.
        image_score: P(abnormal | X) of the ensemble, in [0, 1], (B,); None without a student.
        foreign: whether the case of each image is unlike the training images, (B,) bool; None where nobody asked.
    """

    values: np.ndarray
    levels: np.ndarray | None = None
    mirrored: np.ndarray | None = None
    agreement: np.ndarray | None = None
    image_score: np.ndarray | None = None
    foreign: np.ndarray | None = None


@dataclass(frozen=True)
class NativeSlice:
    """A slice that was cut and resized, as it was before.

    Args:
        image: (H, W) or (C, H, W) in [0, 1], the part of the native slice that is shown, without an injected anomaly.
        lesion: the true mask (H, W) where there is one that was not injected.
        lift: prepared values (S, S) -> float32 (H, W), 0 beyond the box they were cut from.
        title: what a person calls the slice.
        sides: which side of the patient lies left and right in the picture; None of a plain image.
        aspect: the height of a pixel by its width.
        clean: where anomalies are injected the prepared slice (C, S, S) in [0, 1] without; None otherwise.
    """

    image: np.ndarray
    lesion: np.ndarray | None
    lift: Callable[[np.ndarray], np.ndarray]
    title: str
    sides: tuple[str, str] | None = None
    aspect: float = 1.0
    clean: np.ndarray | None = None
