"""What the student learns from: pseudo-masks, images with a border that was drawn, and masks that a person reviewed.

The last are there only where the user hands them over (`student.reviewed`).
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

import numpy as np
from torch import Tensor

from coinseg.config.schema import Axis
from coinseg.data.readers.axes import turned
from coinseg.errors import UserError
from coinseg.types import ScanMask

from .crop import Box
from .split import TRAINING
from .store import SliceStore

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
    """A case that a person decided on, as `review.kept.store.reviewed` gives it."""

    @property
    def case(self) -> str:
        """Its id in the cohort, of masks of `segment` its path; of several classes behind the name of its class and a slash."""

    @property
    def sha256(self) -> str | None:
        """The digest of its scan (`readers.paths.sha256_of`), where `segment` made its mask; None where a run did."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """That of its mask."""

    @property
    def class_name(self) -> str:
        """The class of several that its mask is of; "" where there is one."""

    @property
    def time(self) -> str:
        """When it was decided, UTC, ISO 8601."""

    @property
    def model_class(self) -> str:
        """The only class of several that the model of its mask was trained on; "" where it was none."""

    @property
    def pixels(self) -> str | None:
        """`twins.pixels_of` its scan as a person saw it; None where it is unknown, or where `sha256` says which scan it is."""

    @property
    def mask(self) -> ScanMask:
        """Canonical (slices, H, W) bool; empty where there is nothing."""


@dataclass(frozen=True)
class ReviewedMasks:
    """Reviewed masks of training slices, of one class; those of held-out cases are never among them.

    Args:
        rows: of the store, (n,); slices that the search for abnormal ones left out are among them.
        targets: (n, S, S) uint8, 0 outside and 1 inside; empty where there is nothing.
        cases: number of cases they are of.
        held_out: number of reviewed cases that are held out, and are not learnt from.
        unknown: number of those that are not of the data, or of which no slice is used.
    """

    rows: np.ndarray
    targets: np.ndarray
    cases: int
    held_out: int
    unknown: int = 0

    @property
    def digest(self) -> str:
        """A hash of what is learnt from."""
        return hashlib.sha256(self.rows.tobytes() + self.targets.tobytes()).hexdigest()


Ids = Mapping[str, str]
"""Digest of a scan -> id of the case of the data that has it."""


def case_of(review: ReviewedCase, ids: Ids) -> str | None:
    """The id of a reviewed case in the cohort; None where `segment` made its mask and no case has its scan."""
    if review.sha256 is not None:
        return ids.get(review.sha256)
    return review.case.removeprefix(f"{review.class_name}/") if review.class_name else review.case


def target_of(mask: np.ndarray, box: Box, size: int) -> np.ndarray:
    """The target (S, S) uint8, 0 or 1, of a native mask (H, W) in a box: where at least half of a pixel is inside.

    Of a lesion too small for that, it is the pixel with most of it: an empty target would say that there is nothing.
    """
    share = box.resize(mask, size)
    inside, ((top, bottom), (left, right)) = share >= 0.5, box.pixels((mask.shape[0], mask.shape[1]))
    if not inside.any() and mask[top:bottom, left:right].any():
        inside = share == share.max()
    return inside.astype(np.uint8)


def reviewed_masks(
    reviews: Sequence[ReviewedCase], store: SliceStore, axis: Axis, class_name: str = "", ids: Ids = MappingProxyType({})
) -> ReviewedMasks:
    """Cut the reviewed masks of a class into the training slices of their cases, as these were cut along `axis`.

    Args:
        reviews: of all classes; those of others than `class_name` count as unknown. Of two of a case, as of copies of a
            scan, the later one counts.
        store: the slices as they were prepared: a slice that is left out later, because only its scan is labelled, is among them.
        axis: along which slices were cut.
        class_name: as the reviews name the class; "" where there is one.
        ids: see `case_of`.

    Raises:
        UserError: a mask has another grid than the case that was prepared.
    """
    index, size = store.index, store.size
    rows, targets = list[int](), [np.zeros((0, size, size), np.uint8)]
    held_out, unknown, learnt = 0, 0, dict[str, tuple[ReviewedCase, list[int]]]()
    for review in reviews:
        case = case_of(review, ids) if review.class_name == class_name else None
        mine = np.flatnonzero(index["case"] == case) if case is not None else np.zeros(0, np.int64)
        of_training = mine[index["split"][mine] == TRAINING].tolist()
        if case is not None and of_training and (case not in learnt or review.time >= learnt[case][0].time):
            learnt[case] = review, of_training
        held_out, unknown = held_out + bool(len(mine) and not of_training), unknown + (not len(mine))
    for case, (review, of_training) in learnt.items():
        mask = turned(review.mask, axis)
        for row in of_training:
            number = int(index["slice"][row]) if index["series"][row] == case else 0
            if number >= len(mask):
                got = f"the reviewed mask of {review.case} has {len(mask)} slices, and its case at least {number + 1}"
                raise UserError(got, "the masks of these data", "correct student.reviewed")
            box = Box(*(float(index[name][row]) for name in ("top", "left", "height", "width")))
            rows.append(row)
            targets.append(target_of(mask[number], box, size)[None])
    return ReviewedMasks(np.array(rows, np.int64), np.concatenate(targets), len(learnt), held_out, unknown)
