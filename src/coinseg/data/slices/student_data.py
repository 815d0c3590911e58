"""What the student learns from: pseudo-masks of training images, and examples whose border is known. No mask of a person is among them."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

IGNORED = 2
"""In a target: a pixel that the loss leaves out."""


@dataclass(frozen=True)
class PseudoMasks:
    """Masks of training images that the ensemble made and that are trusted.

    Args:
        indices: which training slices have a trusted mask, (n,); all are labelled abnormal.
        targets: (n, S, S) uint8, 0 outside, 1 inside, `IGNORED`.
        normals: which training slices are labelled normal, (m,); their target is empty.
    """

    indices: np.ndarray
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
