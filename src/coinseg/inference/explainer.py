"""A classifier and the method that explains it, on one device: f(X), X_cf, and the difference that masks can be read from."""

from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from coinseg.config.schema import Settings
from coinseg.data.slices.dataset import TrainingSlices
from coinseg.errors import UserError
from coinseg.explain.counterfactual import coin
from coinseg.explain.registry import COUNTERFACTUAL, Explain, explain_with
from coinseg.masks.refine import refine
from coinseg.masks.threshold import Threshold, choose_threshold, rule_of
from coinseg.networks.classifier import probabilities
from coinseg.runtime.devices import to_device
from coinseg.runtime.forward import forward
from coinseg.runtime.streams import Stream, random_stream
from coinseg.types import Explanation

THRESHOLD_IMAGES = 400  # training images the threshold is read from; a tenth of it for an attribution, which is slower

ROUNDING = 1e-3  # that values may lie outside of [-1, 1]


@dataclass(frozen=True)
class Differences:
    """Refined differences of B images, (B, S, S) in [0, 1] each; 0 in images that were not asked about.

    Args:
        asked: (B,) bool.
        mean: the mean of `own` and `other`; `own` where `masks.hflip` is off.
        own: of the images.
        other: of their mirror images, mirrored back; None where `masks.hflip` is off.
    """

    asked: np.ndarray
    mean: np.ndarray
    own: np.ndarray
    other: np.ndarray | None


@dataclass(frozen=True)
class Explainer:
    """f with COIN, Singla et al. or an attribution.

    Args:
        settings: of the run; method, attribution, masks and the threshold of f are read.
        f: images (B, C, S, S) in [-1, 1] -> logits (B,).
        generator: X -> X_cf; None for an attribution.
        layer: of f, which a CAM looks at; None where the settings name it.
        channels: C.
    """

    settings: Settings
    f: nn.Module
    generator: nn.Module | None
    device: torch.device
    layer: str | None = None
    channels: int = 1

    def __post_init__(self) -> None:
        for module in filter(None, (self.f, self.generator)):
            to_device(module.eval(), self.device)

    @cached_property
    def _explain(self) -> Explain:
        return explain_with(self.settings, self.f, self.generator, self.layer)

    def require_images(self, images: Tensor) -> None:
        """Raise `UserError` unless images are float32 (B, C, S, S) in [-1, 1], with a side that the generator can halve."""
        halvings = 2**self.settings.coin.depth
        needed = f"(B, {self.channels}, S, S) with S a multiple of {halvings}, float32 in [-1, 1]"
        if not isinstance(images, Tensor) or images.dtype != torch.float32:
            kind = images.dtype if isinstance(images, Tensor) else type(images).__name__
            do = "scale them, then give torch.as_tensor(images, dtype=torch.float32)"
            raise UserError(f"images of {kind}", f"a torch tensor {needed}", do)
        if (
            images.ndim != 4
            or images.shape[1] != self.channels
            or images.shape[-2] != images.shape[-1]
            or images.shape[-1] % halvings
        ):
            raise UserError(f"images of shape {tuple(images.shape)}", needed, "reshape them")
        low, high = (float(end) for end in images.aminmax()) if images.numel() else (0.0, 0.0)
        if not (low >= -1 - ROUNDING and high <= 1 + ROUNDING):  # also for NaN
            do = "give run.masks the array (H, W) or (N, H, W) as the file holds it, which the run scales"
            raise UserError(f"images with values from {low:g} to {high:g}", needed, do)

    def probability(self, images: Tensor) -> Tensor:
        """f(X) in [0, 1] of images (B, C, S, S) in [-1, 1], (B,)."""
        return torch.cat(forward(lambda x: probabilities(self.f, x).cpu(), images, self.device))

    def explain(self, images: Tensor, inpaint_all: bool = False) -> Explanation:
        """Explain images (B, C, S, S) in [-1, 1], with `inpaint_all` also those that f calls normal.

        S is `settings.data.size` for the scores to hold; any multiple of 2 ** coin.depth works.

        Raises:
            UserError: the shape does not fit.
        """
        self.require_images(images)
        level = 0.0 if inpaint_all else self.settings.classifier.threshold
        batches = forward(lambda x: self._explain(x, level), images, self.device)
        present = [field.name for field in fields(Explanation) if getattr(batches[0], field.name) is not None]
        return Explanation(**{name: torch.cat([getattr(batch, name) for batch in batches]).cpu() for name in present})

    def counterfactual(self, images: Tensor) -> Tensor:
        """X_cf (B, C, S, S) in [-1, 1] of all images; f is not asked."""
        if (generator := self.generator) is None:
            raise ValueError("an attribution has no counterfactual")
        return torch.cat(forward(lambda x: generator(x).clamp(-1, 1).cpu(), images, self.device))

    def saliency(self, images: Tensor) -> Tensor:
        """The map of the method, (B, S, S) in [0, 1], of all images; see `Explanation.saliency`."""
        if (generator := self.generator) is None:
            return self.explain(images, inpaint_all=True).saliency
        return torch.cat(forward(lambda x: coin.difference(x, generator(x).clamp(-1, 1)).cpu(), images, self.device))

    def differences(self, images: Tensor, asked: np.ndarray, saliency: Tensor | None = None) -> Differences:
        """Differences, refined along the edges of the image; with `masks.hflip` the mean of those of image and mirror image.

        Args:
            images: (B, C, S, S) in [-1, 1].
            asked: (B,) bool, the images to ask about.
            saliency: of all images, (B, S, S), where it is known already.
        """
        guide, settings = images.numpy()[asked] / 2 + 0.5, self.settings.masks
        kind = np.float32 if settings.refine == "none" else np.float64
        maps = [np.zeros((len(images), *images.shape[2:]), kind) for _ in ("mean", "own", "other")]
        if asked.any():
            known = self.saliency(images[asked]) if saliency is None else saliency[torch.from_numpy(asked)]
            own = other = refine(known.numpy(), guide, settings)
            if settings.hflip:
                other = refine(self.saliency(images[asked].flip(-1)).flip(-1).numpy(), guide, settings)
            # The guided filter is linear in what it smooths: the mean of two refined maps is the refined mean.
            for whole, part in zip(maps, ((own + other) / 2, own, other), strict=True):
                whole[asked] = part
        return Differences(asked, maps[0], maps[1], maps[2] if settings.hflip else None)

    def choose_threshold(self, slices: TrainingSlices) -> Threshold:
        """The threshold of the refined difference, from training images and their image labels alone."""
        labels, rng = slices.labels(), random_stream(Stream.THRESHOLD, self.settings.seed)
        counterfactual = self.settings.method == COUNTERFACTUAL
        few = THRESHOLD_IMAGES if counterfactual else THRESHOLD_IMAGES // 10
        refined = {0: np.zeros((0, 1, 1)), 1: np.zeros((0, 1, 1))}
        # One rule looks at normal images, the other at abnormal ones; a number at none.
        rule = str(rule_of(self.settings.masks, counterfactual))
        for label in {"normals": (0,), "decision_flip": (0,), "otsu": (1,)}.get(rule, ()):
            indices = np.sort(rng.permutation(np.flatnonzero(labels == label))[:few])
            if len(indices):
                refined[label] = self.differences(slices.batch(indices).image, np.ones(len(indices), bool)).mean
        return choose_threshold(refined[0], refined[1], self.settings.masks, counterfactual)
