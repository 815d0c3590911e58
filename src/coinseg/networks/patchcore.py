"""PatchCore: anomaly scores from the distances of patch features to those of normal images (Roth et al. 2022, section 3).

    score(p) = mean distance of the feature of patch p to its `NEAREST` nearest neighbours in the memory bank / limit

The features are those of the ImageNet encoder. The limit is a quantile of the distances among patches of the memory bank,
each to those of *other* patients, so only image labels are used. It finds the parts of large lesions that the counterfactual,
and so the student, leaves out. Features have a large receptive field, so the score is also high around small lesions: only
regions far from the student's mask count (`masks.student_maps.beyond`; docs/decisions/0024-novelty.md).
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from coinseg.errors import UserError

from .imagenet import encoder, load_imagenet
from .weights import load_weights

SIDE = 384
"""Images are resized to this side; the last feature map then has 12 x 12 patches."""
FEATURES = 320
"""Channels of the last feature map of the encoder."""
NEAREST = 3
"""Number of nearest neighbours a distance is the mean over."""
AT_ONCE = 8
"""Batch size; small, because the images are enlarged."""


def distances(features: Tensor, remembered: Tensor, barred: Tensor | None = None) -> Tensor:
    """Mean Euclidean distance of each feature to its `NEAREST` nearest neighbours in the memory bank.

    Args:
        features: (m, C).
        remembered: the memory bank, (n, C).
        barred: (m, n) bool, pairs that do not count.

    Returns:
        (m,); infinite where fewer than `NEAREST` pairs count.
    """
    squares = (features**2).sum(1, keepdim=True) + (remembered**2).sum(1) - 2 * features @ remembered.T
    if barred is not None:
        squares = squares.masked_fill(barred, torch.inf)
    return squares.topk(min(NEAREST, len(remembered)), largest=False).values.clamp(min=0).sqrt().mean(1)


class MemoryBank(nn.Module):
    """Patch features of normal images, and the distance that limits normal patches.

    Args:
        features: (n, C).
        limit: the distance whose anomaly score is 1, above 0.
    """

    def __init__(self, features: Tensor, limit: float) -> None:
        super().__init__()
        self.features: Tensor
        self.limit: Tensor
        self.register_buffer("features", features)
        self.register_buffer("limit", torch.tensor(limit))

    def forward(self, features: Tensor) -> Tensor:
        """Anomaly scores (B, h, w) of patch features (B, h, w, C)."""
        return (distances(features.flatten(0, 2), self.features) / self.limit).reshape(features.shape[:3])


class FeatureExtractor(nn.Module):
    """Patch features of the frozen ImageNet encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = load_imagenet(encoder()).eval().requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, h, w, C) of images (B, 1, S, S) in [-1, 1], each the mean over its 3 x 3 neighbourhood."""
        x = F.interpolate(x, (SIDE, SIDE), mode="bilinear", align_corners=False).contiguous(memory_format=torch.channels_last)
        return F.avg_pool2d(self.encoder(x)[-1], 3, 1, 1, count_include_pad=False).permute(0, 2, 3, 1)


class PatchCore(nn.Module):
    """Anomaly scores of images.

    Args:
        memory: the memory bank of the normal training images.
    """

    def __init__(self, memory: MemoryBank) -> None:
        super().__init__()
        self.extractor, self.memory = FeatureExtractor(), memory

    def forward(self, x: Tensor) -> Tensor:
        """Scores (B, S, S), at least 0, of the pixels of images (B, 1, S, S) in [-1, 1]; above 1 is anomalous."""
        scores = self.memory(self.extractor(x))[:, None]
        return F.interpolate(scores, x.shape[-2:], mode="bilinear", align_corners=False)[:, 0]


def load_patchcore(path: Path) -> PatchCore:
    """A trained PatchCore in evaluation mode, from its file.

    Raises:
        UserError: the file is missing, is no memory bank, or an empty one.
    """
    try:
        with safe_open(path, "pt") as file:
            count = file.get_slice("features").get_shape()[0]
    except (FileNotFoundError, SafetensorError, OSError, IndexError):
        count = 0  # `load_weights` raises the error
    memory = MemoryBank(torch.zeros(count, FEATURES), 1.0)
    load_weights(memory, path, "memory of normal images")
    if not (count and memory.limit > 0):
        raise UserError(f"{path} remembers nothing", "a memory of normal images with a limit above 0", "train it again")
    return PatchCore(memory).eval()
