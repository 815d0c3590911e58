"""The thesis' networks and update as one would write them first: eager, contiguous, one operation after the other.

Generator and discriminator of 3.1.1 with the residual blocks of SNGAN (Miyato et al. 2018): upsample then convolve, convolve
then pool. Names of weights are those of coinseg, so that one state fits both.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from coinseg.config.schema import CoinSettings
from coinseg.explain.counterfactual.generator import FUSIONS
from coinseg.networks.classifier import LOCAL_WIDTHS


class PlainBlock(nn.Module):
    """(norm) - ReLU - (upsample) - conv - (norm) - ReLU - conv - (pool), and a shortcut: upsample, 1x1, pool."""

    def __init__(
        self, inputs: int, outputs: int, resample: str | None, norm: bool = True, spectral: bool = False, first: bool = False
    ) -> None:
        super().__init__()
        self.first = first  # of the discriminator: the image itself, without a ReLU
        wrap = spectral_norm if spectral else nn.Identity()
        self.norm1 = nn.BatchNorm2d(inputs) if norm else nn.Identity()
        self.conv1 = wrap(nn.Conv2d(inputs, outputs, 3, padding=1))
        self.norm2 = nn.BatchNorm2d(outputs) if norm else nn.Identity()
        self.conv2 = wrap(nn.Conv2d(outputs, outputs, 3, padding=1))
        self.shortcut = wrap(nn.Conv2d(inputs, outputs, 1))
        self.up = nn.Upsample(scale_factor=2) if resample == "up" else nn.Identity()
        self.down = nn.AvgPool2d(2) if resample == "down" else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        branch = self.conv1(self.up(x if self.first else F.relu(self.norm1(x))))
        branch = self.down(self.conv2(F.relu(self.norm2(branch))))
        return branch + self.down(self.shortcut(self.up(x)))


class PlainGenerator(nn.Module):
    """Encoder, decoder with skips, fusion (COIN)."""

    def __init__(self, s: CoinSettings) -> None:
        super().__init__()
        self.depth, self.skips, self.fuse = s.depth, s.skips, FUSIONS[s.fusion]
        width = [s.width * min(2**level, 16) for level in range(s.depth + 1)]
        self.stem = nn.Conv2d(1, width[0], 3, padding=1)
        self.encoder = nn.ModuleList(PlainBlock(a, b, "down") for a, b in pairwise(width))
        self.decoder = nn.ModuleList()
        for block in range(s.depth):
            level = s.depth - block
            skip = width[level] if 1 <= block <= s.skips else 0
            self.decoder.append(PlainBlock(width[level] + skip, width[level - 1], "up"))
        self.head = nn.Sequential(nn.BatchNorm2d(width[0]), nn.ReLU(), nn.Conv2d(width[0], 1, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        features = [h]
        for block in self.encoder:
            h = block(h)
            features.append(h)
        for i, block in enumerate(self.decoder):
            h = block(torch.cat([h, features[self.depth - i]], 1) if 1 <= i <= self.skips else h)
        return self.fuse(x, self.head(h))


class PlainDiscriminator(nn.Module):
    """SNGAN's discriminator."""

    def __init__(self, s: CoinSettings) -> None:
        super().__init__()
        width = [1] + [s.discriminator_width * min(2**level, 16) for level in range(s.discriminator_depth)]
        blocks = [PlainBlock(a, b, "down", norm=False, spectral=True, first=a == 1) for a, b in pairwise(width)]
        self.blocks = nn.Sequential(*blocks, PlainBlock(width[-1], width[-1], None, norm=False, spectral=True))
        self.head = spectral_norm(nn.Linear(width[-1], 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.blocks(x)).sum((2, 3))).squeeze(1)


class PlainClassifier(nn.Module):
    """coinseg's default classifier, "local", of plain blocks."""

    def __init__(self, pooling: float) -> None:
        super().__init__()
        self.pooling = pooling
        widths = (LOCAL_WIDTHS[0], *LOCAL_WIDTHS)
        self.network = nn.Module()
        self.network.stem = nn.Conv2d(1, widths[0], 3, padding=1)
        kinds = ["down"] * (len(widths) - 2) + [None]
        self.network.blocks = nn.Sequential(
            *(PlainBlock(a, b, kind) for (a, b), kind in zip(pairwise(widths), kinds, strict=True))
        )
        self.network.norm = nn.BatchNorm2d(widths[-1])
        self.network.head = nn.Conv2d(widths[-1], 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        n = self.network
        places = n.head(F.relu(n.norm(n.blocks(n.stem(x))))).flatten(1)
        return places.topk(max(1, round(self.pooling * places.shape[1])), 1).values.mean(1)
