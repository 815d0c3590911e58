"""What the student learns from: pseudo-masks, images with a border that was drawn, and masks that a person reviewed.

The last are there only where the user hands them over (`student.reviewed`).
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor

from coinseg.config.schema import Axis
from coinseg.data.readers.axes import turned
from coinseg.errors import UserError
from coinseg.types import ScanMask

from .crop import Box
from .dataset import TrainingSlices

IGNORED = 2  # in a target: a pixel that the loss leaves out


@dataclass(frozen=True)
class PseudoMasks:
    """Trusted masks of training images, made by the ensemble."""

    indices: np.ndarray  # (n,) abnormal training slices with a trusted mask
    targets: np.ndarray  # (n, S, S) uint8: 0 outside, 1 inside, `IGNORED`
    normals: np.ndarray  # (m,) training slices labelled normal; their target is empty


@dataclass(frozen=True)
class Examples:
    """Images (k, C, S, S) in [-1, 1] with a drawn lesion, and its masks (k, S, S) bool."""

    images: Tensor
    masks: np.ndarray


class ReviewedCase(Protocol):
    """A case that a person decided on, as `review.store.reviewed` gives it."""

    @property
    def case(self) -> str:
        """Its id in the cohort; of several classes behind the name of its class and a slash."""

    @property
    def class_name(self) -> str:
        """The class of several that its mask is of; "" where there is one."""

    @property
    def mask(self) -> ScanMask:
        """Canonical (slices, H, W) bool; empty where there is nothing."""


@dataclass(frozen=True)
class ReviewedMasks:
    """Reviewed masks of training slices, of one class; those of held-out cases are never among them.

    Args:
        indices: training slices, (n,).
        targets: (n, S, S) uint8, 0 outside and 1 inside; empty where there is nothing.
        cases: number of cases they are of.
        held_out: number of reviewed cases that are held out or unknown, and are not learnt from.
    """

    indices: np.ndarray
    targets: np.ndarray
    cases: int
    held_out: int

    @property
    def digest(self) -> str:
        """A hash of what is learnt from."""
        return hashlib.sha256(self.indices.tobytes() + self.targets.tobytes()).hexdigest()


def case_of(review: ReviewedCase) -> str:
    """The id of a reviewed case in the cohort."""
    return review.case.removeprefix(f"{review.class_name}/") if review.class_name else review.case


def reviewed_masks(reviews: Iterable[ReviewedCase], slices: TrainingSlices, axis: Axis, class_name: str = "") -> ReviewedMasks:
    """Cut the reviewed masks of a class into the training slices of their cases, as these were cut along `axis`.

    Args:
        reviews: of all classes; those of others than `class_name` count as unknown.
        slices: the training side, as the class sees it.
        axis: along which slices were cut.
        class_name: as the reviews name the class; "" where there is one.

    Raises:
        UserError: a mask has another grid than the case that was prepared.
    """
    index, size = slices.store.index, slices.store.size
    indices, targets = list[int](), [np.zeros((0, size, size), np.uint8)]
    cases = held_out = 0
    for review in reviews:
        case = case_of(review) if review.class_name == class_name else None
        mine = np.flatnonzero(index["case"][slices.rows] == case) if case is not None else np.zeros(0, np.int64)
        cases, held_out = cases + bool(len(mine)), held_out + (not len(mine))
        if not len(mine):
            continue
        mask = turned(review.mask, axis)
        for i in mine.tolist():
            row = slices.rows[i]
            number = int(index["slice"][row]) if index["series"][row] == case else 0
            if number >= len(mask):
                got = f"the reviewed mask of {review.case} has {len(mask)} slices, and its case at least {number + 1}"
                raise UserError(got, "the masks of these data", "correct student.reviewed")
            box = Box(*(float(index[name][row]) for name in ("top", "left", "height", "width")))
            indices.append(i)
            targets.append(box.resize_mask(mask[number], size)[None].astype(np.uint8))
    return ReviewedMasks(np.array(indices, np.int64), np.concatenate(targets), cases, held_out)
