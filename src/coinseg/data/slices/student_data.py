"""What the student learns from: pseudo-masks of training images, and examples whose border is known. No mask of a person is among them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor


@dataclass(frozen=True)
class PseudoMasks:
    """Masks of training images that the ensemble made and that are trusted.

    Args:
        members: positions among the training slices, (n,): the images labelled abnormal whose mask is trusted.
        targets: (n, S, S) uint8, 0 outside, 1 inside, 2 a pixel that is not learnt from.
        normals: positions of the images labelled normal, which are empty.
    """

    members: np.ndarray
    targets: np.ndarray
    normals: np.ndarray


@dataclass(frozen=True)
class Examples:
    """Images with a lesion whose border is known, because it was drawn.

    Args:
        images: (k, 1, S, S) in [-1, 1].
        masks: (k, S, S) bool.
    """

    images: Tensor
    masks: np.ndarray
