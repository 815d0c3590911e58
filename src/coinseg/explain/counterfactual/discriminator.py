"""The discriminator D of SNGAN with spectral normalisation (thesis 3.1.1)."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from coinseg.config.schema import CoinSettings
from coinseg.networks.layers import ResidualBlock


class Discriminator(nn.Module):
    """D of 3.1.1: residual blocks that halve the side, one that keeps it, ReLU, sum over pixels, one logit (real > 0 > fake).

    With several conditions (Singla et al.), or `coin.informed`, it adds the projection on their embedding (Miyato and Koyama
    2018). Arguments as in `Generator`; discriminator_width, discriminator_depth, conditions, informed, spectral,
    spectral_embedding, identity_shortcut and last_block are read.
    """

    def __init__(self, settings: CoinSettings, channels: int = 1, dims: int = 2) -> None:
        super().__init__()
        depth, spectral = settings.discriminator_depth, settings.spectral
        width = [settings.discriminator_width * min(2**level, 16) for level in range(depth)]
        blocks = [ResidualBlock(dims, channels, width[0], "down", norm=False, spectral=spectral, activate_input=False)]
        blocks += [ResidualBlock(dims, width[i], width[i + 1], "down", norm=False, spectral=spectral) for i in range(depth - 1)]
        shortcut: Literal["identity", "convolution"] = "identity" if settings.identity_shortcut else "convolution"
        if settings.last_block:
            blocks += [ResidualBlock(dims, width[-1], width[-1], None, norm=False, spectral=spectral, shortcut=shortcut)]
        self.blocks = nn.Sequential(*blocks)
        head = nn.Linear(width[-1], 1)
        self.head = spectral_norm(head) if spectral else head
        self.projection: nn.Module | None = None
        conditions = 2 if settings.informed and settings.conditions == 1 else settings.conditions
        if conditions > 1:
            embedding = nn.Embedding(conditions, width[-1])
            self.projection = spectral_norm(embedding) if spectral and settings.spectral_embedding else embedding

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Logits (B,) of images (B, channels, ...) in [-1, 1] and, with several conditions, their bins (B,) long."""
        h = torch.relu(self.blocks(x)).flatten(2).sum(-1)
        logits = self.head(h).squeeze(1)
        return logits if self.projection is None else logits + (self.projection(condition) * h).sum(1)
