"""Residual blocks of SNGAN (Miyato et al. 2018) for 2-D and 3-D (thesis 3.1.1): generator, discriminator, own classifiers."""

from functools import partial
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

_CONV = {2: nn.Conv2d, 3: nn.Conv3d}
_NORM = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_POOL = {2: nn.AvgPool2d, 3: nn.AvgPool3d}
_STRIDED = {2: F.conv2d, 3: F.conv3d}
_TRANSPOSED = {2: F.conv_transpose2d, 3: F.conv_transpose3d}
_BOX = {2: F.avg_pool2d, 3: F.avg_pool3d}
SMALL = 4
"""Side of the input up to which a layer is computed as it stands: its sums cost less there than what a rewrite does to kernels."""
NARROW = 512
"""Products of input and output channels up to which a kernel is widened; above that it stays as it is.
Both are read off what each form costs (docs/research/speed.md). The form never depends on the batch: an image has the same
counterfactual in any company."""


def convolution(
    dims: int, inputs: int, outputs: int, kernel: int = 3, spectral: bool = False, with_bias: bool = True
) -> nn.Module:
    """A convolution that keeps the side.

    Args:
        dims: 2 for slices, 3 for volumes.
        inputs, outputs: channels.
        kernel: its side, odd.
        spectral: whether its weights are spectrally normalised.
        with_bias: whether it has a bias.
    """
    conv: nn.Module = _CONV[dims](inputs, outputs, kernel, padding=kernel // 2, bias=with_bias)
    weight, bias = _weights(conv)
    nn.init.xavier_uniform_(weight, gain=2**0.5 if kernel > 1 else 1.0)
    if bias is not None:
        nn.init.zeros_(bias)
    return spectral_norm(conv) if spectral else conv


def normalisation(dims: int, channels: int) -> nn.Module:
    """Batch normalisation over the channel axis."""
    return _NORM[dims](channels)


class ConditionalNorm(nn.Module):
    """Batch normalisation whose gain and shift are looked up by the condition (Dumoulin et al. 2017; thesis 3.1.1)."""

    def __init__(self, dims: int, channels: int, conditions: int) -> None:
        super().__init__()
        self.norm = _NORM[dims](channels, affine=False)
        self.gain, self.shift = nn.Embedding(conditions, channels), nn.Embedding(conditions, channels)
        nn.init.ones_(self.gain.weight)
        nn.init.zeros_(self.shift.weight)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """(B, channels, ...) and conditions (B,) -> (B, channels, ...)."""
        shape = (*x.shape[:2], *[1] * (x.ndim - 2))
        return self.norm(x) * self.gain(condition).view(shape) + self.shift(condition).view(shape)


def _widened(kernel: Tensor) -> Tensor:
    """A kernel (O, I, 3, ...) plus itself shifted by one pixel, along every spatial axis: (O, I, 4, ...)."""
    for axis in range(2, kernel.ndim):
        zeros = torch.zeros_like(kernel.narrow(axis, 0, 1))
        kernel = torch.cat([kernel, zeros], axis) + torch.cat([zeros, kernel], axis)
    return kernel


def _weights(conv: nn.Module) -> tuple[Tensor, Tensor | None]:
    """The kernel (with spectral normalisation where there is one) and the bias of a convolution."""
    return cast(Tensor, conv.weight), cast(Tensor | None, conv.bias)


def convolve_then_pool(x: Tensor, conv: nn.Module) -> Tensor:
    """A 3-tap convolution and average pooling by 2, with fewer products and less memory.

    The mean over 2 pixels and a convolution commute: it is a convolution of stride 2 of the means of neighbours. Of a narrow
    kernel both are one 4-tap convolution of stride 2.
    """
    weight, bias = _weights(conv)
    dims = weight.ndim - 2
    if max(x.shape[2:]) <= SMALL:
        return _BOX[dims](_STRIDED[dims](x, weight, bias, padding=1), 2)
    if weight.shape[0] * weight.shape[1] <= NARROW:
        return _STRIDED[dims](x, _widened(weight) / 2**dims, bias, stride=2, padding=1)
    return _STRIDED[dims](_BOX[dims](x, 2, 1, 1), weight, bias, stride=2)


def upsample_then_convolve(x: Tensor, conv: nn.Module) -> Tensor:
    """Nearest upsampling by 2 and a 3-tap convolution, with fewer products and less memory.

    It is a 3-tap transposed convolution of stride 2 and the sum over 2 pixels of what that gives. Of a narrow kernel both are
    one 4-tap transposed convolution.
    """
    weight, bias = _weights(conv)
    dims, around = weight.ndim - 2, list(range(2, weight.ndim))
    if max(x.shape[2:]) <= SMALL:
        return _STRIDED[dims](F.interpolate(x, scale_factor=2.0), weight, bias, padding=1)
    if weight.shape[0] * weight.shape[1] <= NARROW:
        return _TRANSPOSED[dims](x, _widened(weight).flip(around).transpose(0, 1), bias, stride=2, padding=1)
    spread = _TRANSPOSED[dims](x, 2**dims * weight.flip(around).transpose(0, 1), stride=2)
    found = _BOX[dims](spread, 2, 1)
    return found if bias is None else found + bias.view(-1, *[1] * dims)


Resample = Literal["down", "pool_first", "up", "up_bilinear"]


class ResidualBlock(nn.Module):
    """Pre-activation residual block: (norm) - ReLU - conv - (norm) - ReLU - conv, plus a 1x1 shortcut.

    Args:
        dims: 2 for slices, 3 for volumes.
        inputs, outputs: channels.
        resample: "down" halves the side after the last convolution, "pool_first" before the first one, "up" doubles it before the
            first one (nearest), "up_bilinear" alike (bilinear, corners on corners), None keeps it.
        norm: batch normalisation before each ReLU (encoder, decoder); the discriminator has none.
        spectral: spectral normalisation of every convolution (discriminator).
        conditions: 2 or more for normalisation by condition (the decoder of Singla et al.).
        activate_input: False for the block that sees the image itself: a ReLU would take away all that is darker than mid-grey
            (the first block of SNGAN's discriminator is conv - ReLU - conv).
        with_bias: whether the convolutions have a bias.
        shortcut: "spectral" normalises its 1x1 convolution spectrally where `spectral` does not, "identity" is none at all.
    """

    def __init__(
        self, dims: int, inputs: int, outputs: int, resample: Resample | None = None, norm: bool = True, spectral: bool = False,
        conditions: int = 1, activate_input: bool = True, with_bias: bool = True,
        shortcut: Literal["convolution", "spectral", "identity"] = "convolution",
    ) -> None:  # fmt: skip
        super().__init__()
        self.activate_input, self.conditional, self.resample = activate_input, conditions > 1, resample

        def make_norm(channels: int) -> nn.Module:
            if not norm:
                return nn.Identity()
            return ConditionalNorm(dims, channels, conditions) if self.conditional else normalisation(dims, channels)

        self.norm1 = make_norm(inputs)
        self.conv1 = convolution(dims, inputs, outputs, spectral=spectral, with_bias=with_bias)
        self.norm2 = make_norm(outputs)
        self.conv2 = convolution(dims, outputs, outputs, spectral=spectral, with_bias=with_bias)
        normalised = spectral or shortcut == "spectral"
        of_shortcut = partial(convolution, dims, inputs, outputs, 1, normalised, with_bias)
        self.shortcut = nn.Identity() if shortcut == "identity" else of_shortcut()
        self.up: nn.Module = nn.Upsample(scale_factor=2) if resample == "up" else nn.Identity()
        if resample == "up_bilinear":
            self.up = nn.Upsample(scale_factor=2, mode="bilinear" if dims == 2 else "trilinear", align_corners=True)
        self.down = _POOL[dims](2) if resample in ("down", "pool_first") else nn.Identity()

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """(B, inputs, ...) -> (B, outputs, ...), the side halved, doubled or kept; conditions (B,) where there are several."""
        conditions = (condition,) if self.conditional else ()
        branch = self.norm1(x, *conditions)
        branch = torch.relu(branch) if self.activate_input else branch
        if self.resample == "up":
            branch = upsample_then_convolve(branch, self.conv1)
        else:
            before = {"pool_first": self.down, "up_bilinear": self.up}.get(self.resample or "", nn.Identity())
            branch = self.conv1(before(branch))
        branch = torch.relu(self.norm2(branch, *conditions))
        branch = convolve_then_pool(branch, self.conv2) if self.resample == "down" else self.conv2(branch)
        # A 1x1 convolution commutes with upsampling and average pooling, so it is done at the smaller side.
        return branch + self.up(self.shortcut(self.down(x)))
