"""Class activation maps (thesis 2.2.1, 3.5): which places of one layer of f speak for "abnormal".

Symbols: X an image in [-1, 1], Y = f(X) the logit of "abnormal", A the feature maps of the layer (B, C, h, w), dY/dA their
gradient. Each method is one function to a map (B, h, w) at the layer's size; `cam` brings it to the image and to [0, 1].

ScoreCAM, LayerCAM, Ablation-CAM and the Eigen-CAMs are written here; the others are pytorch-grad-cam's equations, given A and
dY/dA. pytorch-grad-cam's own Ablation-CAM replaces channels by -1e7 where A can be negative, and its Eigen-CAMs leave the
sign of the map to chance and hold (h * w)^2 numbers. Its FullGrad (needs every bias called as a module), RandomCAM (no
explanation, unseeded), ShapleyCAM (second derivatives, which a ReLU does not have), KPCA-CAM ((h * w)^2 numbers) and FinerCAM
(several classes) are not offered.
"""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coinseg.errors import UserError
from coinseg.runtime.threads import cpu_batch

from .layers import activations, activations_and_gradients, layer_named, logits_with, still

FLAT = 1e-6
"""A map that varies by less than this share of its largest value is constant up to rounding."""


def normalised(maps: Tensor) -> Tensor:
    """Maps (B, H, W) stretched to [0, 1], each on its own; a constant map gives zeros."""
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    flat = high - low <= FLAT * torch.maximum(low.abs(), high.abs())
    return torch.where(flat, 0.0, (maps - low) / torch.where(flat, 1.0, high - low))


def masked(x: Tensor, mask: Tensor) -> Tensor:
    """Images in [-1, 1] dimmed by masks in [0, 1]: X on [0, 1] times the mask, so that 0 hides a pixel as black, -1."""
    return (x + 1) * mask - 1


def upsampled(maps: Tensor, size: torch.Size) -> Tensor:
    """Maps (B, h, w) at the size (H, W) of the image, bilinear."""
    return F.interpolate(maps[:, None], size=tuple(size), mode="bilinear", align_corners=False)[:, 0]


def layercam(f: nn.Module, x: Tensor, layer: nn.Module, batch: int) -> Tensor:
    """LayerCAM (Jiang et al. 2021): relu(sum_c relu(dY/dA_c) * A_c), (B, h, w). At least 0."""
    a, gradient = activations_and_gradients(f, x, layer)
    return (gradient.relu() * a).sum(1).relu()


def scorecam(f: nn.Module, x: Tensor, layer: nn.Module, batch: int) -> Tensor:
    """ScoreCAM (Wang et al. 2020): relu(sum_c w_c A_c), (B, h, w), with w the softmax over channels of the scores. At least 0.

    H_c is A_c at image size, stretched to [0, 1]; a constant channel hides everything. The score of a channel is the increase
    of confidence f(X . H_c) - f(X_b), in logits, where X_b is the black image and X . H_c dims X towards it (`masked`). The
    baseline is the same for all channels, so the softmax does not see it and f(X_b) is not computed.
    """
    a = activations(f, x, layer)
    images, channels = a.shape[:2]
    scores = []
    for pairs in torch.arange(images * channels, device=x.device).split(batch):
        image, channel = pairs // channels, pairs % channels
        mask = normalised(upsampled(a[image, channel], x.shape[-2:]))
        scores.append(f(masked(x[image], mask[:, None])))
    weights = torch.cat(scores).reshape(images, channels).softmax(1).to(a.dtype)
    return torch.einsum("bc,bchw->bhw", weights, a).relu()


def ablationcam(f: nn.Module, x: Tensor, layer: nn.Module, batch: int) -> Tensor:
    """Ablation-CAM (Desai, Ramaswamy 2020): relu(sum_c (Y - Y_c) A_c), (B, h, w), Y_c the logit with A_c = 0. At least 0.

    The paper divides the drop by Y, which only scales the map of an image, and turns it around where Y is negative.
    """
    a = activations(f, x, layer)
    images, channels = a.shape[:2]
    without = []
    for pairs in torch.arange(images * channels, device=x.device).split(batch):
        image, channel = pairs // channels, pairs % channels
        ablated = a[image]
        ablated[torch.arange(len(pairs), device=x.device), channel] = 0
        without.append(logits_with(f, x[image], layer, ablated))
    drop = f(x)[:, None] - torch.cat(without).reshape(images, channels)
    return torch.einsum("bc,bchw->bhw", drop.to(a.dtype), a).relu()


def principal(maps: Tensor) -> Tensor:
    """The first principal component over channels of maps (B, C, h, w): (B, h, w).

    Its sign, which is arbitrary, is chosen so that the value largest in size is positive (Chung, Ying 2025, eq. 13).
    """
    points = maps.flatten(2).mT
    points = points - points.mean(1, keepdim=True)
    directions = torch.linalg.svd(points, full_matrices=False).Vh[:, :1]
    values = (points @ directions.mT)[..., 0]
    sign = torch.where(values.amin(1) + values.amax(1) < 0, -1.0, 1.0)
    return (sign[:, None] * values).unflatten(1, maps.shape[2:])


def eigencam(f: nn.Module, x: Tensor, layer: nn.Module, batch: int) -> Tensor:
    """Eigen-CAM (Muhammad, Yeasin 2020): the first principal component of A, whatever Y is. (B, h, w), at least 0."""
    return principal(activations(f, x, layer)).relu()


def eigengradcam(f: nn.Module, x: Tensor, layer: nn.Module, batch: int) -> Tensor:
    """Eigen-CAM of dY/dA * A, (B, h, w). At least 0."""
    a, gradient = activations_and_gradients(f, x, layer)
    return principal(gradient * a).relu()


def segeigencam(f: nn.Module, x: Tensor, layer: nn.Module, batch: int) -> Tensor:
    """Seg-Eigen-CAM (Chung, Ying 2025): Eigen-CAM of |dY/dA| * A, (B, h, w). At least 0."""
    a, gradient = activations_and_gradients(f, x, layer)
    return principal(gradient.abs() * a).relu()


def library(name: str, f: nn.Module, x: Tensor, layer: nn.Module, batch: int) -> Tensor:
    """The map of a class of pytorch-grad-cam, (B, h, w), at least 0: its equation on our A and dY/dA, f out of its reach."""
    import pytorch_grad_cam

    a, gradient = activations_and_gradients(f, x, layer)
    method = getattr(pytorch_grad_cam, name)(nn.Linear(1, 1), [])
    values = method.get_cam_image(None, None, None, a.float().cpu().numpy(), gradient.float().cpu().numpy(), False)
    return torch.from_numpy(np.asarray(values)).to(x).relu()


KINDS: dict[str, Callable[[nn.Module, Tensor, nn.Module, int], Tensor]] = {
    "scorecam": scorecam,
    "layercam": layercam,
    "ablationcam": ablationcam,
    "eigencam": eigencam,
    "eigengradcam": eigengradcam,
    "segeigencam": segeigencam,
    "gradcam": partial(library, "GradCAM"),
    "gradcam++": partial(library, "GradCAMPlusPlus"),
    "gradcamelementwise": partial(library, "GradCAMElementWise"),
    "hirescam": partial(library, "HiResCAM"),
    "xgradcam": partial(library, "XGradCAM"),
    "fem": partial(library, "FEM"),
}
"""Every class activation map by its name."""


def unknown_method(name: str, known: list[str]) -> UserError:
    """The line for a method that does not exist, with the nearest names."""
    near = get_close_matches(name.lower().replace("-", "").replace("_", ""), known, 3)
    hint = f"did you mean {' or '.join(near)}?" if near else "take one of these"
    return UserError(f"the attribution method is '{name}'", f"one of {', '.join(known)}", hint)


def cam(kind: str, f: nn.Module, x: Tensor, layer: str, batch: int) -> Tensor:
    """A class activation map at image size, each image's stretched to [0, 1].

    Args:
        kind: a name in `KINDS`.
        f: images (B, 1, H, W) in [-1, 1] -> logits (B,); used in evaluation mode and left as it was.
        x: images (B, 1, H, W) in [-1, 1].
        layer: of f, "last" or a module's name (`layers.py`).
        batch: images per forward pass of f; the result does not depend on it.

    Returns:
        (B, H, W) in [0, 1]; zeros where the map is constant.

    Raises:
        UserError: no such kind or layer.
    """
    if kind not in KINDS:
        raise unknown_method(kind, list(KINDS))
    module, batch = layer_named(f, layer, x), cpu_batch(x, batch)
    with torch.no_grad(), still(f):
        maps = [upsampled(KINDS[kind](f, part, module, batch), x.shape[-2:]) for part in x.split(batch)]
        return normalised(torch.cat(maps))
