"""The student: the segmentation network that draws the final masks, the last step of weak supervision, and how it is asked.

What it learns from is in `teaching.py`, what it is worth in docs/research/results.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .imagenet import encoder, enlarged, load_imagenet, resized
from .weights import load_weights

DECODER = (128, 64, 32, 16, 16)
"""Channels of the decoder, from 1/16 of the side to all of it."""
FULL = 16
"""Channels at full resolution."""


class StudentNetwork(nn.Module):
    """A U-Net on an encoder that can know ImageNet, with one more level beside it: the image itself, at full resolution.

    Images are seen enlarged. The encoder still halves the side before it looks; lesions of a few pixels are drawn from what the
    image says there.
    """

    def __init__(self) -> None:
        from monai.networks.blocks import Convolution
        from monai.networks.nets.flexible_unet import UNetDecoder

        super().__init__()
        self.encoder = encoder()
        channels = (1, *cast(Any, self.encoder).feature_info.channels())
        self.decoder = UNetDecoder(
            2, channels, DECODER, ("relu", {"inplace": True}), "batch", 0.0, False, "nontrainable", None, "nearest", None, False
        )
        self.detail = nn.Sequential(*(Convolution(2, n, FULL, act="relu", norm="batch", adn_ordering="NA") for n in (1, FULL)))
        self.joined = Convolution(2, DECODER[-1] + FULL, FULL, act="relu", norm="batch", adn_ordering="NA")
        self.head = nn.Conv2d(FULL, 1, 1)
        nn.init.constant_(cast(Tensor, self.head.bias), -3.0)  # most pixels are outside

    def forward(self, x: Tensor, seen: int | None = None) -> Tensor:
        """Logits (B, 1, S, S) of images (B, 1, S, S) in [-1, 1]; they are looked at with this side, `enlarged` by itself."""
        side = x.shape[-1]
        x = resized(x, seen or enlarged(side)).contiguous(memory_format=torch.channels_last)
        logits = self.head(self.joined(torch.cat([self.detail(x), self.decoder(self.encoder(x))], 1)))
        return resized(logits, side)


class Student(nn.Module):
    """Networks that were taught apart, asked together.

    Args:
        members: how many.
    """

    def __init__(self, members: int) -> None:
        super().__init__()
        self.members = nn.ModuleList(StudentNetwork() for _ in range(members))

    def forward(self, x: Tensor) -> Tensor:
        """Logits of every member's own images, (members, B, 1, S, S) in [-1, 1] -> the same shape."""
        return torch.stack([member(own) for member, own in zip(self.members, x, strict=True)])


def sides(side: int) -> tuple[int, ...]:
    """With which sides images are looked at when a student is asked: as it was taught, and as much larger again.

    What it is sure of in one size and not in the other is mostly the border (docs/research/student.md, study 28).
    """
    return tuple(dict.fromkeys((enlarged(side), enlarged(enlarged(side)))))


class Mean(nn.Module):
    """A student that was taught, asked about the same images: the mean of what its members give a pixel at some sides, as a logit.

    Args:
        student: whose members are asked.
        seen: the side of an image -> with which sides it is looked at.
    """

    def __init__(self, student: Student, seen: Callable[[int], Sequence[int]] = sides) -> None:
        super().__init__()
        self.student, self.seen = student, seen

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, 1, S, S) of images (B, 1, S, S) in [-1, 1]."""
        given = torch.stack([member(x, seen) for member in self.student.members for seen in self.seen(x.shape[-1])])
        # log p - log (1 - p) of the mean p, where p itself would have been rounded to 0 or 1.
        return torch.logsumexp(F.logsigmoid(given), 0) - torch.logsumexp(F.logsigmoid(-given), 0)


def build_student(members: int) -> Student:
    """A fresh student, its encoders as ImageNet left them."""
    student = Student(members)
    for member in student.members:
        load_imagenet(cast(StudentNetwork, member).encoder)
    return student


def load_student(path: Path, members: int) -> nn.Module:
    """A trained student from its weights, ready to be asked; `UserError` where they are another's."""
    student = Student(members)
    load_weights(student, path, "student")
    return Mean(student).eval()


def marks(student: nn.Module, images: Tensor) -> Tensor:
    """What the student gives every pixel of images (B, 1, S, S) in [-1, 1], (B, S, S) in [0, 1]."""
    with torch.no_grad():
        return torch.sigmoid(student(images))[:, 0]
