"""The student: a U-Net that segments images directly, trained on pseudo-masks (docs/research/results.md)."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from copy import deepcopy
from itertools import pairwise
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from .imagenet import CHANNELS, Encoder, enlarged, load_imagenet, resized
from .weights import load_weights

DECODER = (128, 64, 32, 16, 16)  # channels of the decoder, from 1/16 of the side to the full side
FULL = 16  # channels at full resolution


class Convolution(nn.Sequential):
    """A 3 x 3 convolution, batch normalisation and ReLU."""

    def __init__(self, inputs: int, outputs: int, bias: bool = False) -> None:
        conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias)
        after = nn.Sequential(OrderedDict(N=nn.BatchNorm2d(outputs), A=nn.ReLU(inplace=True)))
        super().__init__(OrderedDict(conv=conv, adn=after))  # the names that stored weights have


class UpBlock(nn.Module):
    """A block of a U-Net's decoder: nearest upsampling by 2, the encoder's features beside it, two convolutions."""

    def __init__(self, inputs: int, skip: int, outputs: int) -> None:
        super().__init__()
        self.convs = nn.Sequential()
        self.convs.add_module("conv_0", Convolution(inputs + skip, outputs))
        self.convs.add_module("conv_1", Convolution(outputs, outputs))

    def forward(self, x: Tensor, skip: Tensor | None) -> Tensor:
        """(B, inputs, S, S) and the encoder's (B, skip, 2 S, 2 S), None for no skip, -> (B, outputs, 2 S, 2 S)."""
        x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        return self.convs(x if skip is None else torch.cat([skip, x], 1))


class Decoder(nn.Module):
    """The decoder of a U-Net (Ronneberger et al. 2015): feature maps of the encoder, largest first, -> (B, DECODER[-1], S, S)."""

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        skips = (*channels[-2::-1], 0)
        self.blocks = nn.ModuleList(map(UpBlock, (channels[-1], *DECODER[:-1]), skips, DECODER))

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """`LEVELS` feature maps, map i at 1 / 2^(i + 1) of the side -> features at the full side."""
        x = features[-1]
        for block, skip in zip(self.blocks, (*features[-2::-1], None), strict=True):
            x = block(x, skip)
        return x


class StudentNetwork(nn.Module):
    """A U-Net with the ImageNet encoder and, for small lesions, convolutions of the enlarged image at full resolution."""

    def __init__(self, channels: int = 1, classes: int = 1) -> None:
        super().__init__()
        self.encoder = Encoder(channels)
        self.decoder = Decoder(CHANNELS)
        self.detail = nn.Sequential(Convolution(channels, FULL, bias=True), Convolution(FULL, FULL, bias=True))
        self.joined = Convolution(DECODER[-1] + FULL, FULL, bias=True)
        self.head = nn.Conv2d(FULL, classes, 1)
        nn.init.constant_(cast(Tensor, self.head.bias), -3.0)  # most pixels are outside

    def forward(self, x: Tensor, seen: int | None = None) -> Tensor:
        """Logits (B, classes, S, S) of images (B, channels, S, S), enlarged to the side `seen` (by default `enlarged`)."""
        side = x.shape[-1]
        x = resized(x, seen or enlarged(side)).contiguous(memory_format=torch.channels_last)
        return resized(self.head(self.joined(torch.cat([self.detail(x), self.decoder(self.encoder(x))], 1))), side)


class Student(nn.Module):
    """An ensemble of `members` networks, each trained on batches of its own; the others may branch off the first one."""

    def __init__(self, members: int, channels: int = 1, classes: int = 1) -> None:
        super().__init__()
        self.members = nn.ModuleList(StudentNetwork(channels, classes) for _ in range(members))

    def forward(self, x: Tensor) -> Tensor:
        """Images of the first n networks, (n, B, channels, S, S) in [-1, 1] -> logits (n, B, classes, S, S)."""
        return torch.stack([member(images) for member, images in zip(self.members, x, strict=False)])

    def branch(self) -> None:
        """Make all other networks copies of the first one, in place."""
        for member in self.members[1:]:
            member.load_state_dict(self.members[0].state_dict())


def sides(side: int) -> tuple[int, ...]:
    """The two sides at which images are segmented: that of training, and one enlarged again (decision 0028)."""
    return tuple(dict.fromkeys((enlarged(side), enlarged(enlarged(side)))))


class Mean(nn.Module):
    """A trained student: the mean probability, as a logit, over its networks and the sides `seen` of an image."""

    def __init__(self, student: Student, seen: Callable[[int], Sequence[int]] = sides) -> None:
        super().__init__()
        self.student, self.seen = student, seen

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes, S, S) of images (B, channels, S, S) in [-1, 1]."""
        logits = torch.stack([member(x, seen) for member in self.student.members for seen in self.seen(x.shape[-1])])
        # log p - log (1 - p) of the mean p, computed so that p is never rounded to 0 or 1.
        return torch.logsumexp(F.logsigmoid(logits), 0) - torch.logsumexp(F.logsigmoid(-logits), 0)


def build_student(members: int, channels: int = 1, classes: int = 1) -> Student:
    """A new student with pretrained encoders."""
    student = Student(members, channels, classes)
    for member in student.members:
        load_imagenet(cast(StudentNetwork, member).encoder)
    return student


def for_inference(student: Student) -> Mean:
    """A student for inference: a copy whose batch normalisations are part of the convolutions before them, in evaluation mode.

    With running mean m and variance v, gain g and shift b, weights w become w g / sqrt(v + e) and the bias b - m g / sqrt(v + e)
    (Jacob et al. 2018, 3.2): the same but for rounding, in fewer passes over memory.
    """
    folded = deepcopy(student).eval()
    layers = [(name, layer) for name, layer in folded.named_modules() if isinstance(layer, (nn.Conv2d, nn.BatchNorm2d))]
    for (before, conv), (name, norm) in pairwise(layers):
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            folded.set_submodule(before, fuse_conv_bn_eval(conv, norm))
            folded.set_submodule(name, nn.Identity())
    return Mean(folded).eval()


def load_student(path: Path, members: int, channels: int = 1, classes: int = 1) -> nn.Module:
    """A trained student in evaluation mode from its weights; `UserError` when the file does not fit."""
    student = Student(members, channels, classes)
    load_weights(student, path, "student")
    return for_inference(student)


def marks(student: nn.Module, images: Tensor) -> Tensor:
    """Probability (B, S, S) that each pixel of images (B, C, S, S) in [-1, 1] is inside a lesion."""
    with torch.no_grad():
        return torch.sigmoid(student(images))[:, 0]
