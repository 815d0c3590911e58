"""What no normal image has anything like: the rest of a large lesion, which the least change does not need.

Where something is wrong with a third of an image, mending its most telling edge is enough for f; the counterfactual leaves the rest,
and so does a student of such masks. The normal images know better: nothing in them is like it. Of places in normal training images the
features that ImageNet taught (`pretrained.py`) are remembered, and a place of another image is as novel as it is far from all of them:

    novelty(p) = mean distance of its feature to the `NEAREST` nearest remembered ones / limit

(PatchCore: Roth et al. 2022, "Towards total recall in industrial anomaly detection", section 3). The limit is a quantile of the distances
of the remembered places themselves, each to those of *other* patients: image labels are all it knows. A feature sees far, so
a small lesion has a halo of novelty: only regions count that go well beyond what the student draws (`beyond`). What it is worth is in docs/decisions/0024-novelty.md.
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
"""Images are enlarged to this side, where the last features of the encoder are those of 12 x 12 places."""
FEATURES = 320
"""Numbers of the last features of the encoder at each place."""
NEAREST = 3
"""Remembered places a distance is the mean over."""
AT_ONCE = 8
"""Images that are asked about together: enlarged they are many times what they were."""


def distances(features: Tensor, remembered: Tensor, barred: Tensor | None = None) -> Tensor:
    """The mean distance to the `NEAREST` nearest remembered features.

    Args:
        features: (m, C).
        remembered: (n, C).
        barred: (m, n) bool, remembered ones that do not count for a feature.

    Returns:
        (m,); infinite where fewer than `NEAREST` count.
    """
    squares = (features**2).sum(1, keepdim=True) + (remembered**2).sum(1) - 2 * features @ remembered.T
    if barred is not None:
        squares = squares.masked_fill(barred, torch.inf)
    return squares.topk(min(NEAREST, len(remembered)), largest=False).values.clamp(min=0).sqrt().mean(1)


class MemoryBank(nn.Module):
    """Features of places in normal images, and how far from them others of other patients are.

    Args:
        features: (n, C).
        limit: the distance that is a novelty of 1, above 0.
    """

    def __init__(self, features: Tensor, limit: float) -> None:
        super().__init__()
        self.features: Tensor
        self.limit: Tensor
        self.register_buffer("features", features)
        self.register_buffer("limit", torch.tensor(limit))

    def forward(self, features: Tensor) -> Tensor:
        """Novelty of the places of features (B, h, w, C), (B, h, w)."""
        return (distances(features.flatten(0, 2), self.features) / self.limit).reshape(features.shape[:3])


class FeatureExtractor(nn.Module):
    """Images as ImageNet's features see them, place by place; it is not trained."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = load_imagenet(encoder()).eval().requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, h, w, C) of images (B, 1, S, S) in [-1, 1], each the mean over the 3 x 3 places around it."""
        x = F.interpolate(x, (SIDE, SIDE), mode="bilinear", align_corners=False).contiguous(memory_format=torch.channels_last)
        return F.avg_pool2d(self.encoder(x)[-1], 3, 1, 1, count_include_pad=False).permute(0, 2, 3, 1)


class PatchCore(nn.Module):
    """The equation above.

    Args:
        memory: of the normal training images.
    """

    def __init__(self, memory: MemoryBank) -> None:
        super().__init__()
        self.eye, self.memory = FeatureExtractor(), memory

    def forward(self, x: Tensor) -> Tensor:
        """The novelty of every pixel, (B, S, S), 0 and more, of images (B, 1, S, S) in [-1, 1]; above 1 is novel."""
        return F.interpolate(self.memory(self.eye(x))[:, None], x.shape[-2:], mode="bilinear", align_corners=False)[:, 0]


def load_patchcore(path: Path) -> PatchCore:
    """What `remember` wrote, ready to be asked; `UserError` where the file is another's."""
    try:
        with safe_open(path, "pt") as file:
            places = file.get_slice("features").get_shape()[0]
    except (FileNotFoundError, SafetensorError, OSError, IndexError):
        places = 0  # `load_weights` says what is wrong
    memory = MemoryBank(torch.zeros(places, FEATURES), 1.0)
    load_weights(memory, path, "memory of normal images")
    if not (places and memory.limit > 0):
        raise UserError(f"{path} remembers nothing", "a memory of normal images with a limit above 0", "train it again")
    return PatchCore(memory).eval()
