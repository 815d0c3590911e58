"""What the student learns from: pseudo-masks, and images with a border that was drawn; no mask of a person is among them."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

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
