"""How real counterfactuals look (thesis 3.7.1): FID, and the Frechet distance on the classifier's own features.

Both are |mu_1 - mu_2|^2 + Tr(S_1 + S_2 - 2 (S_1 S_2)^(1/2)) between the means and covariances of features. Both grow as
images become fewer, so only numbers over the same number of images compare. Under two images there is no covariance and
the score is None.
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
"""Widths of the Inception layers to choose from; 2048 is the penultimate one, the FID of the thesis' text."""
BATCH = 32
WEIGHTS_FILE = "torch-fidelity's weights-inception-2015-12-05-6726825d.pth"
ALTERNATIVE = "or leave FID out and read fd_f, the Frechet distance on f's features, which needs no file"


def _check_file(weights: Path) -> None:
    """Refuse what is not a plain file of tensors: torch-fidelity unpickles the file it is given (weights_only=False)."""
    try:
        state = torch.load(weights, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"{weights} is missing", WEIGHTS_FILE, f"mend the path, {ALTERNATIVE}") from error
    except Exception as error:  # A file of anything can break the reader in any way.
        raise UserError(
            f"{weights} cannot be read as weights ({type(error).__name__})", WEIGHTS_FILE, f"fetch it again, {ALTERNATIVE}"
        ) from error
    if not isinstance(state, dict):
        raise UserError(f"{weights} holds a {type(state).__name__}", WEIGHTS_FILE, f"use that file, {ALTERNATIVE}")


def _check_download() -> None:
    """Fetch the weights into torch's cache, where torch-fidelity looks for them, unless they are there."""
    from torch_fidelity import feature_extractor_inceptionv3 as library

    try:
        torch.hub.load_state_dict_from_url(
            library.URL_INCEPTION_V3, map_location="cpu", progress=False, check_hash=True, weights_only=True
        )
    except Exception as error:  # No network, a proxy's page instead of the file, a full disk, a half-written cache.
        raise UserError(
            f"the Inception weights could not be fetched from {library.URL_INCEPTION_V3} ({type(error).__name__}: {error})",
            f"a network, or {WEIGHTS_FILE} as a local file",
            f"give the path of that file, {ALTERNATIVE}",
        ) from error


def inception(features: int, weights: Path | str | None) -> FrechetInceptionDistance:
    """FID's network with nothing counted yet; call it early to learn of bad settings before the work is done.

    Raises:
        UserError: no such layer; no weights, or none that can be read.
    """
    if features not in FEATURES:
        raise UserError(f"FID on {features} features", f"one of {', '.join(map(str, FEATURES))}", "use 2048, as the thesis")
    if weights is None:
        raise UserError("FID without Inception weights", f"{WEIGHTS_FILE} or '{DOWNLOAD}'", f"give one, {ALTERNATIVE}")
    local = None if weights == DOWNLOAD else Path(weights)
    if local is None:
        _check_download()
    else:
        _check_file(local)
    from torchmetrics.image.fid import FrechetInceptionDistance

    try:
        return FrechetInceptionDistance(features, feature_extractor_weights_path=None if local is None else str(local))
    except (RuntimeError, TypeError, AttributeError) as error:  # What load_state_dict raises for other tensors.
        raise UserError(
            f"{weights} holds the weights of another network", WEIGHTS_FILE, f"use that file, {ALTERNATIVE}"
        ) from error


def _distance(metric: FrechetInceptionDistance, real: Any, fake: Any, prepare: Callable[[Any], Tensor]) -> float:
    """The distance between two sets of images, in batches; rounding below 0 is cut off."""
    for images, is_real in ((real, True), (fake, False)):
        for start in range(0, len(images), BATCH):
            metric.update(prepare(images[start : start + BATCH]), real=is_real)
    sums = torch.stack([metric.real_features_cov_sum, metric.fake_features_cov_sum])
    if not sums.isfinite().all():
        raise UserError("features that are not finite", "a Frechet distance of numbers", "look for NaN in images and weights")
    return max(0.0, float(metric.compute()))


def _as_rgb(images: np.ndarray) -> Tensor:
    """(n, H, W) in [0, 1] -> (n, 3, H, W) of bytes, three times the same."""
    if not np.isfinite(images).all():
        raise UserError("images with values that are not finite", "grey values in [0, 1]", "look for NaN in the images")
    grey = torch.from_numpy(np.round(np.clip(images, 0, 1) * 255).astype(np.uint8))
    return grey[:, None].expand(-1, 3, -1, -1)


def fid(real: np.ndarray, fake: np.ndarray, features: int = 2048, weights: Path | str | None = None) -> float | None:
    """Frechet Inception Distance of 3.7.1, resized to 299 x 299 with antialiasing as torchmetrics does by default.

    Args:
        real: images (n, H, W) in [0, 1].
        fake: images (m, H, W) in [0, 1].
        features: 2048 is the FID everyone means; 768 is the layer behind the authors' figures. Layers do not compare.
        weights: the file of torch-fidelity's Inception weights, or "download".

    Raises:
        UserError: see `inception`.
    """
    if min(len(real), len(fake)) < 2:
        return None
    return _distance(inception(features, weights), real, fake, _as_rgb)


class PenultimateFeatures(nn.Module):
    """Images -> what the last linear layer of f is given, (B, d) float64 on the CPU.

    The last is the last to run, not the last to be declared. Positions, if there are any (tokens, pixels), are averaged.
    A network without linear layers gives the spatial mean of what its last convolution is given. f itself runs in
    evaluation mode and is left as it was: mode, running statistics, hooks.

    Args:
        f: any module from images to a logit, in which a linear layer or a convolution runs.
    """

    def __init__(self, f: nn.Module) -> None:
        super().__init__()
        self.f = f
        self.num_features = 0  # Read by torchmetrics, which would else try f on an image of its own.

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, d) of images (B, 1, H, W)."""
        seen: dict[str, Tensor] = {}

        def fit_patchcore(layer: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
            given = args[0] if args else kwargs["input"]
            if isinstance(layer, nn.Linear):
                seen["linear"] = given.reshape(len(given), -1, given.shape[-1]).mean(1)
            else:
                seen["convolution"] = given.flatten(2).mean(-1)

        layers = [m for m in self.f.modules() if isinstance(m, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d)]
        training = [m for m in self.f.modules() if m.training]
        hooks = [layer.register_forward_pre_hook(fit_patchcore, with_kwargs=True) for layer in layers]
        try:
            self.f.eval()
            with torch.no_grad():
                self.f(x.to(next(self.f.parameters(), x)))
        finally:
            for hook in hooks:
                hook.remove()
            for module in training:
                module.training = True
        found = seen.get("linear", seen.get("convolution"))
        if found is None or len(found) != len(x):
            raise UserError(
                "a classifier without features to compare" if found is None else f"{len(found)} features of {len(x)} images",
                "a linear layer or a convolution that runs once with all images",
                "leave fd_f out for this classifier",
            )
        return found.cpu().double()


def classifier_distance(f: nn.Module, real: Tensor, fake: Tensor) -> float | None:
    """fd_f, the Frechet distance on f's features: FID's formula on `PenultimateFeatures` instead of Inception's.

    It is not FID and must never be called so. Its scale is that of f's features, so it compares only counterfactuals of
    one f. It sees only what f sees: damage f is blind to costs nothing. And the generator was trained against this very
    f, so a low value says that counterfactuals look normal *to f*, not to anyone else. FID has a fixed, foreign network,
    and none of these ties.

    Args:
        f: the classifier, on any device.
        real: images (n, 1, H, W) in [-1, 1].
        fake: images (m, 1, H, W) in [-1, 1].

    Raises:
        UserError: f has no features to compare, or they are not finite.
    """
    from torchmetrics.image.fid import FrechetInceptionDistance

    if min(len(real), len(fake)) < 2:
        return None
    features = PenultimateFeatures(f)
    features.num_features = features(real[:1]).shape[1]
    return _distance(FrechetInceptionDistance(features), real, fake, lambda images: images)
