"""Realism of counterfactuals (thesis 3.7.1): FID, and the Frechet distance on the features of the classifier f.

Both are |mu_1 - mu_2|^2 + Tr(S_1 + S_2 - 2 (S_1 S_2)^(1/2)) with the means and covariances of the features of two sets of images,
and grow when there are fewer images: compare only values over the same number. With fewer than two images they are None.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from coinseg.errors import UserError

if TYPE_CHECKING:
    from torchmetrics.image.fid import FrechetInceptionDistance

DOWNLOAD = "download"
FEATURES = (64, 192, 768, 2048)
"""Widths of the Inception layers that can be used; 2048 is the penultimate one, the FID of the thesis."""
BATCH = 32
WEIGHTS_FILE = "torch-fidelity's weights-inception-2015-12-05-6726825d.pth"
ALTERNATIVE = "or leave FID out and read fd_f, the Frechet distance on f's features, which needs no file"


def _check_file(weights: Path) -> None:
    """Raise `UserError` unless the file has tensors only: torch-fidelity unpickles it with weights_only=False."""
    try:
        state = torch.load(weights, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"{weights} is missing", WEIGHTS_FILE, f"mend the path, {ALTERNATIVE}") from error
    except Exception as error:  # torch.load raises many kinds for a broken file
        fault = f"{weights} cannot be read as weights ({type(error).__name__})"
        raise UserError(fault, WEIGHTS_FILE, f"fetch it again, {ALTERNATIVE}") from error
    if not isinstance(state, dict):
        raise UserError(f"{weights} holds a {type(state).__name__}", WEIGHTS_FILE, f"use that file, {ALTERNATIVE}")


def _check_download() -> None:
    """Fetch the weights into torch's cache, where torch-fidelity looks for them, unless they are there."""
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3 as url

    try:
        torch.hub.load_state_dict_from_url(url, map_location="cpu", progress=False, check_hash=True, weights_only=True)
    except Exception as error:  # no network, a proxy's page instead of the file, a full disk, a half-written cache
        fault = f"the Inception weights could not be fetched from {url} ({type(error).__name__}: {error})"
        wanted = f"a network, or {WEIGHTS_FILE} as a local file"
        raise UserError(fault, wanted, f"give the path of that file, {ALTERNATIVE}") from error


def inception(features: int, weights: Path | str | None) -> FrechetInceptionDistance:
    """The empty FID metric of torchmetrics, early; `UserError` where there is no such layer or there are no readable weights."""
    if features not in FEATURES:
        raise UserError(f"FID on {features} features", f"one of {', '.join(map(str, FEATURES))}", "use 2048, as the thesis")
    if weights is None:
        raise UserError("FID without Inception weights", f"{WEIGHTS_FILE} or '{DOWNLOAD}'", f"give one, {ALTERNATIVE}")
    path = None if weights == DOWNLOAD else str(Path(weights))
    if path is None:
        _check_download()
    else:
        _check_file(Path(path))
    from torchmetrics.image.fid import FrechetInceptionDistance

    try:
        return FrechetInceptionDistance(features, feature_extractor_weights_path=path)
    except (RuntimeError, TypeError, AttributeError) as error:  # what load_state_dict raises for other tensors
        fault = f"{weights} holds the weights of another network"
        raise UserError(fault, WEIGHTS_FILE, f"use that file, {ALTERNATIVE}") from error


def _distance(metric: FrechetInceptionDistance, real: Any, fake: Any, prepare: Callable[[Any], Tensor]) -> float:
    """The distance between two sets of images, computed in batches; at least 0."""
    for images, is_real in ((real, True), (fake, False)):
        for start in range(0, len(images), BATCH):
            metric.update(prepare(images[start : start + BATCH]), real=is_real)
    sums = torch.stack([metric.real_features_cov_sum, metric.fake_features_cov_sum])
    if not sums.isfinite().all():
        raise UserError("features that are not finite", "a Frechet distance of numbers", "look for NaN in images and weights")
    return max(0.0, float(metric.compute()))


def _as_rgb(images: np.ndarray) -> Tensor:
    """Grey images (n, H, W) in [0, 1] -> RGB (n, 3, H, W) uint8."""
    if not np.isfinite(images).all():
        raise UserError("images with values that are not finite", "grey values in [0, 1]", "look for NaN in the images")
    grey = torch.from_numpy(np.round(np.clip(images, 0, 1) * 255).astype(np.uint8))
    return grey[:, None].expand(-1, 3, -1, -1)


def fid(real: np.ndarray, fake: np.ndarray, features: int = 2048, weights: Path | str | None = None) -> float | None:
    """Frechet Inception Distance (thesis 3.7.1), on images resized to 299 x 299 with antialiasing, the default of torchmetrics.

    Args:
        real, fake: images (n, H, W) and (m, H, W) in [0, 1].
        features: 2048 is the usual FID, 768 that of the authors' figures; values of different layers do not compare.
        weights: the file of torch-fidelity's Inception weights, or "download"; `UserError` as `inception`.
    """
    if min(len(real), len(fake)) < 2:
        return None
    return _distance(inception(features, weights), real, fake, _as_rgb)


class PenultimateFeatures(nn.Module):
    """The input of f's last linear layer that runs: images (B, 1, H, W) -> features (B, d) float64 on the CPU.

    Features at several positions (tokens, pixels) are averaged; without linear layers it is the mean of the input of the last
    convolution. f runs in evaluation mode; its mode, running statistics and hooks are afterwards as before.
    """

    def __init__(self, f: nn.Module) -> None:
        super().__init__()
        self.f = f
        self.num_features = 0  # torchmetrics reads it, and would otherwise run f on an image of its own

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, d) of images (B, 1, H, W)."""
        inputs: dict[str, Tensor] = {}

        def record_input(layer: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
            value = args[0] if args else kwargs["input"]
            if isinstance(layer, nn.Linear):
                inputs["linear"] = value.reshape(len(value), -1, value.shape[-1]).mean(1)
            else:
                inputs["convolution"] = value.flatten(2).mean(-1)

        layers = [m for m in self.f.modules() if isinstance(m, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d)]
        training = [m for m in self.f.modules() if m.training]
        hooks = [layer.register_forward_pre_hook(record_input, with_kwargs=True) for layer in layers]
        try:
            self.f.eval()
            with torch.no_grad():
                self.f(x.to(next(self.f.parameters(), x)))
        finally:
            for hook in hooks:
                hook.remove()
            for module in training:
                module.training = True
        features = inputs.get("linear", inputs.get("convolution"))
        if features is None or len(features) != len(x):
            none = "a classifier without features to compare"
            fault = none if features is None else f"{len(features)} features of {len(x)} images"
            wanted = "a linear layer or a convolution that runs once with all images"
            raise UserError(fault, wanted, "leave fd_f out for this classifier")
        return features.cpu().double()


def classifier_distance(f: nn.Module, real: Tensor, fake: Tensor) -> float | None:
    """fd_f, the Frechet distance on `PenultimateFeatures` of f. It is not FID: its scale depends on f, so compare for one f only.

    The generator was trained against this f: a low value means that counterfactuals look normal to f, not to a person.

    Args:
        f: the classifier, on any device; `UserError` where it has no features to compare, or they are not finite.
        real, fake: images (n, 1, H, W) and (m, 1, H, W) in [-1, 1].
    """
    from torchmetrics.image.fid import FrechetInceptionDistance

    if min(len(real), len(fake)) < 2:
        return None
    features = PenultimateFeatures(f)
    features.num_features = features(real[:1]).shape[1]
    return _distance(FrechetInceptionDistance(features), real, fake, lambda images: images)
