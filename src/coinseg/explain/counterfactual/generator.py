"""The generator E: encoder, decoder with skip connections, and the fusion with the image (thesis 3.1.1, 3.2)."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from coinseg.config.schema import CoinSettings
from coinseg.networks.layers import Resample, ResidualBlock, convolution, normalisation

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


def stem(dims: int, channels: int, outputs: int, settings: CoinSettings) -> nn.Module:
    """The first convolution of the encoder; with `coin.stem` "relu_norm" ReLU and batch normalisation after it."""
    conv = convolution(dims, channels, outputs, with_bias=settings.bias)
    return conv if settings.stem == "linear" else nn.Sequential(conv, nn.ReLU(), normalisation(dims, outputs))


class Generator(nn.Module):
    """Perturbation-based encoder-decoder: X -> delta -> X_cf = fusion(X, delta) (thesis 3.2.1, figure 2).

    The encoder has `depth` residual blocks that halve the side and double the channels (16 times the width at most). Skip k
    (from the deepest) joins its features to the input of decoder block k, from 1 on (3.2.2, Table 1 B-F). With several
    conditions (Singla et al., 3.1.1) the decoder gets the target bin of f(X_cf) through conditional batch normalisation.

    Args:
        settings: width, depth, skips, fusion, conditions, and what its blocks are like (late_widening to upsampling).
        channels: channels of the image.
        dims: 2 for slices, 3 for volumes.
    """

    def __init__(self, settings: CoinSettings, channels: int = 1, dims: int = 2) -> None:
        super().__init__()
        depth, skips = settings.depth, settings.skips
        if not 0 <= skips <= depth - 1:
            raise ValueError(f"coin.skips is {skips}; required: between 0 and coin.depth - 1 = {depth - 1}")
        self.depth, self.skips, self.fuse, self.conditions = depth, skips, FUSIONS[settings.fusion], settings.conditions
        wide = [settings.width * min(2**level, 16) for level in range(depth + 1)]  # decoder: before the block to level - 1
        width = [wide[0], *wide[:-1]] if settings.late_widening else wide  # encoder: at side / 2**level
        block = partial(
            ResidualBlock, dims, with_bias=settings.bias, shortcut="spectral" if settings.spectral_shortcuts else "convolution"
        )
        self.stem = stem(dims, channels, width[0], settings)
        down: Resample = "pool_first" if settings.pooling == "first" else "down"
        up: Resample = "up_bilinear" if settings.upsampling == "bilinear" else "up"
        self.encoder = nn.ModuleList(block(width[i], width[i + 1], down) for i in range(depth))
        self.decoder = nn.ModuleList()
        for number in range(depth):
            level = depth - number  # the block goes from side / 2**level to side / 2**(level - 1)
            inputs = wide[level] + width[level] if 1 <= number <= skips else wide[level] if number else width[level]
            self.decoder.append(block(inputs, wide[level - 1], up, conditions=settings.conditions))
        last = convolution(dims, width[0], channels)
        if settings.fusion != "none" and settings.zero_start:
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


def build_generator(settings: CoinSettings, channels: int = 1, classes: int = 1) -> Generator:
    """A generator of images (B, channels, ...); of several classes the condition is the number of the class it turns off.

    `ValueError` for several classes with bins of Singla et al., which are conditions too.
    """
    if classes == 1:
        return Generator(settings, channels)
    if settings.conditions > 1:
        raise ValueError(f"coin.conditions is {settings.conditions} and there are {classes} classes; required: 1")
    return Generator(replace(settings, conditions=classes), channels)
