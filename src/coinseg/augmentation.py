"""What the classifier may not take for evidence: the random changes of its training images."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import ClassifierSettings
from .counterfactual.generator import fuse_bounded

GRID = 4
"""Knots of a shading field along each side: smoother than lesions, as coils, lamps and contrast phases are."""


class Shading(nn.Module):
    """A smooth random field over each image, laid on with the generator's own fusion.

    Intensities without a unit differ by light, coil and patient. And a faint haze is the cheapest change a generator can
    find: what f is trained to overlook cannot turn it.

    Args:
        largest: the standard deviation of the field is drawn between 0 and this, for each image; in units of `fuse_bounded`.
    """

    def __init__(self, largest: float) -> None:
        super().__init__()
        self.largest = largest

    def forward_parameters(self, shape: torch.Size) -> dict[str, Tensor]:
        """The knots (B, 1, GRID, GRID) for images of a shape, as Kornia's augmentations draw theirs."""
        return {"knots": torch.randn(shape[0], 1, GRID, GRID) * torch.rand(shape[0], 1, 1, 1) * self.largest}

    def forward(self, x: Tensor, params: dict[str, Any] | None = None) -> Tensor:
        """Images (B, 1, H, W) in [-1, 1], shaded and still there."""
        knots = (params or self.forward_parameters(x.shape))["knots"].to(x.device)
        return fuse_bounded(x, F.interpolate(knots, x.shape[-2:], mode="bicubic", align_corners=True)).clamp(-1, 1)


def augmentation(settings: ClassifierSettings, calibrated: bool) -> nn.Module:
    """The thesis' flips, shift, scale and rotation, and optional blur, noise and shading, each image on its own draw.

    Args:
        settings: the classifier's.
        calibrated: whether intensities have a unit that holds from scanner to scanner (Hounsfield); those are not shaded.
    """
    import kornia.augmentation as K

    steps: list[nn.Module] = []
    if settings.flip:
        steps += [K.RandomHorizontalFlip(), K.RandomVerticalFlip()]
    if settings.shift or settings.scale or settings.rotate:
        steps.append(
            K.RandomAffine(
                settings.rotate,
                (settings.shift, settings.shift),
                (1 - settings.scale, 1 + settings.scale),
                padding_mode="border",
                p=0.9,
            )
        )
    if settings.blur:
        steps.append(K.RandomGaussianBlur((5, 5), (0.1, settings.blur), p=0.5))
    if settings.noise:
        steps.append(K.RandomGaussianNoise(0.0, settings.noise, p=0.5))
    if settings.shade and not calibrated:
        steps.append(Shading(settings.shade))
    return nn.Sequential(*steps)
