"""The student: a U-Net that segments images directly, trained on pseudo-masks (docs/research/results.md)."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .imagenet import encoder, enlarged, load_imagenet, resized
from .weights import load_weights

DECODER = (128, 64, 32, 16, 16)  # channels of the decoder, from 1/16 of the side to the full side
FULL = 16  # channels at full resolution


class StudentNetwork(nn.Module):
    """A U-Net with the ImageNet encoder and, for small lesions, convolutions of the enlarged image at full resolution."""

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
        """Logits (B, 1, S, S) of images (B, 1, S, S) in [-1, 1], enlarged to the side `seen` (by default `enlarged`)."""
        side = x.shape[-1]
        x = resized(x, seen or enlarged(side)).contiguous(memory_format=torch.channels_last)
        return resized(self.head(self.joined(torch.cat([self.detail(x), self.decoder(self.encoder(x))], 1))), side)


class Student(nn.Module):
    """An ensemble of `members` networks, each trained on batches of its own."""

    def __init__(self, members: int) -> None:
        super().__init__()
        self.members = nn.ModuleList(StudentNetwork() for _ in range(members))

    def forward(self, x: Tensor) -> Tensor:
        """Images of each network, (members, B, 1, S, S) in [-1, 1] -> logits of the same shape."""
        return torch.stack([member(images) for member, images in zip(self.members, x, strict=True)])


def sides(side: int) -> tuple[int, ...]:
    """The two sides at which images are segmented: that of training, and one enlarged again (decision 0028)."""
    return tuple(dict.fromkeys((enlarged(side), enlarged(enlarged(side)))))


class Mean(nn.Module):
    """A trained student: the mean probability, as a logit, over its networks and the sides `seen` of an image."""

    def __init__(self, student: Student, seen: Callable[[int], Sequence[int]] = sides) -> None:
        super().__init__()
        self.student, self.seen = student, seen

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, 1, S, S) of images (B, 1, S, S) in [-1, 1]."""
        logits = torch.stack([member(x, seen) for member in self.student.members for seen in self.seen(x.shape[-1])])
        # log p - log (1 - p) of the mean p, computed so that p is never rounded to 0 or 1.
        return torch.logsumexp(F.logsigmoid(logits), 0) - torch.logsumexp(F.logsigmoid(-logits), 0)


def build_student(members: int) -> Student:
    """A new student with pretrained encoders."""
    student = Student(members)
    for member in student.members:
        load_imagenet(cast(StudentNetwork, member).encoder)
    return student


def load_student(path: Path, members: int) -> nn.Module:
    """A trained student in evaluation mode from its weights; `UserError` when the file does not fit."""
    student = Student(members)
    load_weights(student, path, "student")
    return Mean(student).eval()


def marks(student: nn.Module, images: Tensor) -> Tensor:
    """Probability (B, S, S) that each pixel of images (B, 1, S, S) in [-1, 1] is inside a lesion."""
    with torch.no_grad():
        return torch.sigmoid(student(images))[:, 0]
