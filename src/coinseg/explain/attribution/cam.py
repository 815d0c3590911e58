"""Class activation maps (thesis 2.2.1, 3.5) of one layer of f.

X are images (B, C, H, W) in [-1, 1], Y = f(X) the logits of "abnormal", A the feature maps (B, C, h, w). A method takes (f, X,
layer, batch) to maps (B, h, w), at least 0. Not of pytorch-grad-cam are Ablation-CAM (it puts -1e7 into channels) and the
Eigen-CAMs (of random sign).
"""

from collections.abc import Callable
from difflib import get_close_matches
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coinseg.config.schema import AttributionSettings
from coinseg.errors import UserError
from coinseg.runtime.threads import cpu_batch

from .layers import activations, activations_and_gradients, layer_named, logits_with, still

FLAT = 1e-6  # a map that varies by less than this share of its largest value counts as constant


def normalised(maps: Tensor) -> Tensor:
    """Maps (B, H, W), each scaled to [0, 1]; a constant map gives zeros."""
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    flat = high - low <= FLAT * torch.maximum(low.abs(), high.abs())
    return torch.where(flat, 0.0, (maps - low) / torch.where(flat, 1.0, high - low))


HIDDEN = {"black": -1.0, "grey": 0.0}
"""`attribution.hidden` -> the value of a hidden pixel."""


def masked(x: Tensor, mask: Tensor, hidden: float = -1.0) -> Tensor:
    """Images in [-1, 1] where masks in [0, 1] are 1, `hidden` where they are 0, and between them in between."""
    return (x - hidden) * mask + hidden


def upsampled(maps: Tensor, size: torch.Size) -> Tensor:
    """Maps (B, h, w) resized to (H, W), bilinear."""
    return F.interpolate(maps[:, None], size=tuple(size), mode="bilinear", align_corners=False)[:, 0]


def layercam(f: nn.Module, x: Tensor, layer: nn.Module, batch: int) -> Tensor:
    """LayerCAM (Jiang et al. 2021): relu(sum_c relu(dY/dA_c) * A_c)."""
    a, gradient = activations_and_gradients(f, x, layer)
    return (gradient.relu() * a).sum(1).relu()


def scorecam(f: nn.Module, x: Tensor, layer: nn.Module, batch: int, hidden: float = -1.0, weigh: str = "logit") -> Tensor:
    """ScoreCAM (Wang et al. 2020): relu(sum_c w_c A_c) with w = softmax_c(f(X . H_c) - f(X_b)), H_c from A_c in [0, 1].

    f(X_b) of the image X_b of `hidden` is the same for all channels, so the softmax does not depend on it and it is not computed.
    f is its logit, or with `weigh` "probability" its sigmoid.
    """
    a = activations(f, x, layer)

    def score(image: Tensor, channel: Tensor) -> Tensor:
        logits = f(masked(x[image], normalised(upsampled(a[image, channel], x.shape[-2:]))[:, None], hidden))
        return logits.sigmoid() if weigh == "probability" else logits

    return torch.einsum("bc,bchw->bhw", _of_channels(score, a, batch).softmax(1).to(a.dtype), a).relu()


def _of_channels(logits: Callable[[Tensor, Tensor], Tensor], a: Tensor, batch: int) -> Tensor:
    """Logits (B, C) of every channel of maps (B, C, h, w), from indices of images and channels, `batch` pairs at a time."""
    images, channels = a.shape[:2]
    pairs = torch.arange(images * channels, device=a.device).split(batch)
    return torch.cat([logits(some // channels, some % channels) for some in pairs]).reshape(images, channels)


def ablationcam(f: nn.Module, x: Tensor, layer: nn.Module, batch: int) -> Tensor:
    """Ablation-CAM (Desai, Ramaswamy 2020): relu(sum_c (Y - Y_c) A_c) with Y_c the logit for A_c = 0.

    The paper divides by Y, which only scales the map, and inverts it where Y is negative.
    """
    a = activations(f, x, layer)

    def without(image: Tensor, channel: Tensor) -> Tensor:
        ablated = a[image]
        ablated[torch.arange(len(image), device=x.device), channel] = 0
        return logits_with(f, x[image], layer, ablated)

    drop = f(x)[:, None] - _of_channels(without, a, batch)
    return torch.einsum("bc,bchw->bhw", drop.to(a.dtype), a).relu()


def principal(maps: Tensor) -> Tensor:
    """The first principal component (B, h, w) over channels; its largest magnitude is positive (Chung, Ying 2025, eq. 13)."""
    points = maps.flatten(2).mT
    points = points - points.mean(1, keepdim=True)
    directions = torch.linalg.svd(points, full_matrices=False).Vh[:, :1]
    values = (points @ directions.mT)[..., 0]
    sign = torch.where(values.amin(1) + values.amax(1) < 0, -1.0, 1.0)
    return (sign[:, None] * values).unflatten(1, maps.shape[2:])


def eigencam(f: nn.Module, x: Tensor, layer: nn.Module, batch: int) -> Tensor:
    """Eigen-CAM (Muhammad, Yeasin 2020): relu of the first principal component of A, independent of Y."""
    return principal(activations(f, x, layer)).relu()


def eigengradcam(f: nn.Module, x: Tensor, layer: nn.Module, batch: int, absolute: bool = False) -> Tensor:
    """Eigen-CAM of dY/dA * A; Seg-Eigen-CAM (Chung, Ying 2025) of |dY/dA| * A where `absolute`."""
    a, gradient = activations_and_gradients(f, x, layer)
    return principal((gradient.abs() if absolute else gradient) * a).relu()


def library(name: str, f: nn.Module, x: Tensor, layer: nn.Module, batch: int) -> Tensor:
    """The map of a class of pytorch-grad-cam, computed from A and dY/dA only."""
    import pytorch_grad_cam

    a, gradient = activations_and_gradients(f, x, layer)
    method = getattr(pytorch_grad_cam, name)(nn.Linear(1, 1), [])
    values = method.get_cam_image(None, None, None, a.float().cpu().numpy(), gradient.float().cpu().numpy(), False)
    return torch.from_numpy(np.asarray(values)).to(x).relu()


KINDS: dict[str, Callable[[nn.Module, Tensor, nn.Module, int], Tensor]] = {
    "scorecam": scorecam, "layercam": layercam, "ablationcam": ablationcam, "eigencam": eigencam, "eigengradcam": eigengradcam,
    "segeigencam": partial(eigengradcam, absolute=True), "gradcam": partial(library, "GradCAM"),
    "gradcam++": partial(library, "GradCAMPlusPlus"), "gradcamelementwise": partial(library, "GradCAMElementWise"),
    "hirescam": partial(library, "HiResCAM"), "xgradcam": partial(library, "XGradCAM"), "fem": partial(library, "FEM"),
}  # fmt: skip  # every class activation map by its name


def unknown_method(name: str, known: list[str]) -> UserError:
    """The error for a method that does not exist, with the nearest names."""
    near = get_close_matches(name.lower().replace("-", "").replace("_", ""), known, 3)
    hint = f"did you mean {' or '.join(near)}?" if near else "take one of these"
    return UserError(f"the attribution method is '{name}'", f"one of {', '.join(known)}", hint)


def cam(kind: str, f: nn.Module, x: Tensor, layer: str, batch: int, settings: AttributionSettings | None = None) -> Tensor:
    """Return a class activation map (B, H, W), scaled to [0, 1] in each image; zeros where it is constant.

    Args:
        kind: a name in `KINDS`; any other is a `UserError`.
        f: images (B, C, H, W) in [-1, 1] -> logits (B,); used in evaluation mode and left as it was.
        x: images (B, C, H, W) in [-1, 1].
        layer: of f, "last" or a module's name; `UserError` when there is none (`layers.py`).
        batch: images per forward pass of f; the result does not depend on it.
        settings: hidden and weigh are read, for ScoreCAM; None is the default.
    """
    if kind not in KINDS:
        raise unknown_method(kind, list(KINDS))
    module, batch = layer_named(f, layer, x), cpu_batch(x, batch)
    method = KINDS[kind]
    if kind == "scorecam" and settings is not None:
        method = partial(scorecam, hidden=HIDDEN[settings.hidden], weigh=settings.weigh)
    with torch.no_grad(), still(f):
        maps = [upsampled(method(f, part, module, batch), x.shape[-2:]) for part in x.split(batch)]
        return normalised(torch.cat(maps))
