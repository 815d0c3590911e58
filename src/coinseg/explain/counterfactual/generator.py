"""The generator E: encoder, decoder with skip connections, and the fusion with the image (thesis 3.1.1, 3.2)."""

import math
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from coinseg.config.schema import CoinSettings
from coinseg.networks.layers import ResidualBlock, convolution, normalisation

SLOPE = math.tanh(1)


def fuse_tanh(x: Tensor, delta: Tensor) -> Tensor:
    """tanh(X + delta), the fusion of the thesis (3.2.1). Not the identity at delta = 0: X = 1 becomes 0.76."""
    return torch.tanh(x + delta)


def fuse_bounded(x: Tensor, delta: Tensor) -> Tensor:
    """tanh(artanh(c X) + delta) / c with c = tanh(1): 3.2.1 with an exact identity at delta = 0.

    With t = c X and s = tanh(delta) it is X + s (1 - t^2) / (c (1 + t s)), within 1 / c = 1.31; `explain` clips to [-1, 1].
    """
    t, s = SLOPE * x, torch.tanh(delta)
    return x + s * (1 - t * t) / (SLOPE * (1 + t * s))


def fuse_none(x: Tensor, delta: Tensor) -> Tensor:
    """tanh(delta): the decoder generates the whole image instead of a perturbation (thesis 3.1.1; Table 1 A and H)."""
    return torch.tanh(delta)


FUSIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"bounded": fuse_bounded, "tanh": fuse_tanh, "none": fuse_none}


class Generator(nn.Module):
    """Perturbation-based encoder-decoder: X -> delta -> X_cf = fusion(X, delta) (thesis 3.2.1, figure 2).

    The encoder has `depth` residual blocks that halve the side and double the channels (16 times the width at most). Skip k
    (from the deepest) joins its features to the input of decoder block k, from 1 on (3.2.2, Table 1 B-F). With several
    conditions (Singla et al., 3.1.1) the decoder gets the target bin of f(X_cf) through conditional batch normalisation.

    Args:
        settings: width, depth, skips, fusion and conditions are read.
        channels: channels of the image.
        dims: 2 for slices, 3 for volumes.
    """

    def __init__(self, settings: CoinSettings, channels: int = 1, dims: int = 2) -> None:
        super().__init__()
        depth, skips = settings.depth, settings.skips
        if not 0 <= skips <= depth - 1:
            raise ValueError(f"coin.skips is {skips}; required: between 0 and coin.depth - 1 = {depth - 1}")
        self.depth, self.skips, self.fuse, self.conditions = depth, skips, FUSIONS[settings.fusion], settings.conditions
        width = [settings.width * min(2**level, 16) for level in range(depth + 1)]
        self.stem = convolution(dims, channels, width[0])
        self.encoder = nn.ModuleList(ResidualBlock(dims, width[i], width[i + 1], "down") for i in range(depth))
        self.decoder = nn.ModuleList()
        for block in range(depth):
            level = depth - block  # the block goes from side / 2**level to side / 2**(level - 1)
            skip = width[level] if 1 <= block <= skips else 0
            block_of = ResidualBlock(dims, width[level] + skip, width[level - 1], "up", conditions=settings.conditions)
            self.decoder.append(block_of)
        last = convolution(dims, width[0], channels)
        if settings.fusion != "none":
            nn.init.zeros_(cast(Tensor, last.weight))  # training starts from "change nothing"
        self.head = nn.Sequential(normalisation(dims, width[0]), nn.ReLU(), last)

    def perturbation(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """delta, of the shape of `x` and unbounded. The side of `x` must be a multiple of 2 ** depth."""
        if self.conditions > 1 and condition is None:
            condition = torch.zeros(len(x), dtype=torch.long, device=x.device)
        h = self.stem(x)
        features = [h]
        for block in self.encoder:
            h = block(h)
            features.append(h)
        for i, block in enumerate(self.decoder):
            if 1 <= i <= self.skips:
                h = torch.cat([h, features[self.depth - i]], dim=1)
            h = block(h, condition)
        return self.head(h)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """X_cf of images (B, channels, ...) in [-1, 1]; `condition` (B,) are target bins of f(X_cf), None is 0, normal."""
        return self.fuse(x, self.perturbation(x, condition))
