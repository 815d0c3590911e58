"""A trained run asked about images: what the method explains, where the student draws, which masks come of both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import TypeVar

import numpy as np
import torch
from lightning_fabric import Fabric
from scipy.special import expit
from torch import Tensor, nn

from coinseg.config.schema import MaskSettings, Settings
from coinseg.data.slices.dataset import TrainingSlices
from coinseg.data.slices.intensity import Window, signed
from coinseg.errors import UserError
from coinseg.explain.counterfactual import coin
from coinseg.explain.registry import COUNTERFACTUAL, explainer
from coinseg.masks.confidence import agreement, confidence, of_pixels
from coinseg.masks.decision_flip import flip_levels, with_peaks
from coinseg.masks.postprocess import levels_of, masks_of, peaks
from coinseg.masks.refine import refine
from coinseg.masks.student_maps import LEVEL, add_anomalous_regions, rescale_to_peak, student_cleaning
from coinseg.masks.threshold import Threshold, choose_threshold, rule_of
from coinseg.networks.classifier import probabilities
from coinseg.networks.patchcore import AT_ONCE
from coinseg.networks.unet import marks
from coinseg.runtime.batching import map_batched
from coinseg.runtime.devices import CHUNK, images_to, to_device
from coinseg.runtime.streams import Stream, random_stream
from coinseg.runtime.threads import cpu_batch
from coinseg.types import Explanation

from .slice_hmm import smooth

T = TypeVar("T")
THRESHOLD_IMAGES = 400
"""Training images the threshold is read from; a tenth of it for an attribution, which takes longer for each."""


@dataclass(frozen=True)
class Marked:
    """Prepared slices, marked: arrays over B slices of (S, S).

    Args:
        explained: what the method says of them.
        refined: the maps the masks are read from, in [0, 1] (`Run.evidence`).
        masks: bool; empty where f calls a slice normal, with a student where the posterior is below `student.gate`.
        confidence: of the masks, (B,) in [0, 1]; NaN where one is empty, or `masks.flips` is off.
        sure: that a pixel is inside, float32 in [0, 1] (`confidence.of_pixels`).
    """

    explained: Explanation
    refined: np.ndarray
    masks: np.ndarray
    confidence: np.ndarray
    sure: np.ndarray


@dataclass
class Inference:
    """Classifier, method and threshold of a finished training, and its student where there is one.

    Args:
        settings: those it was trained with.
        f: the frozen classifier, images (B, 1, S, S) in [-1, 1] -> logits.
        generator: X -> X_cf; None for an attribution.
        kind: "hu" or "percentile", how intensities were stored.
        window: how stored intensities become [0, 1].
        organs: whether slices were chosen by an organ mask.
        threshold: on the refined difference, in [0, 1]; with a student it made the masks that one learnt from.
        fabric: where it is computed.
        layer: of f, which a CAM looks at; None where the settings name it.
        student: draws the final masks, images -> logits of every pixel; None where they are read from the difference.
        posterior: which images a student is asked about, images -> logits (`posterior.py`); None where f alone says so.
        novelty: what is unlike anything in normal images, images -> (B, S, S), above 1 (`novelty.py`); None where nobody is asked.
        steps: how slices follow each other along a scan, (2, 2) (`neighbours.py`); None where each is asked about by itself.
    """

    settings: Settings
    f: nn.Module
    generator: nn.Module | None
    kind: str
    window: Window
    organs: bool
    threshold: float
    fabric: Fabric
    layer: str | None = None
    student: nn.Module | None = None
    posterior: nn.Module | None = None
    novelty: nn.Module | None = None
    steps: np.ndarray | None = None

    def __post_init__(self) -> None:
        for module in (self.f, self.generator, self.student, self.posterior, self.novelty):
            if module is not None:
                to_device(module.eval(), self.fabric)
        self._explain = explainer(self.settings, self.f, self.generator, self.layer)

    def explain(self, images: Tensor, inpaint_all: bool = False) -> Explanation:
        """Explain images (B, 1, S, S) in [-1, 1], in chunks; by the method of the settings.

        Args:
            images: S is `settings.data.size` for the scores to hold; any multiple of 2 ** coin.depth works.
            inpaint_all: explain images that f calls normal too (the threshold rule needs their differences).
        """
        if images.ndim != 4 or images.shape[1] != 1 or images.shape[-1] % 2**self.settings.coin.depth:
            raise UserError(
                f"images of shape {tuple(images.shape)}",
                f"(B, 1, S, S) with S a multiple of {2**self.settings.coin.depth}",
                "reshape them",
            )
        level = 0.0 if inpaint_all else self.settings.classifier.threshold
        found = self._in_parts(lambda x: self._explain(x, level), images)
        present = [f.name for f in fields(Explanation) if getattr(found[0], f.name) is not None]
        return Explanation(**{name: torch.cat([getattr(e, name) for e in found]).cpu() for name in present})

    @property
    def level(self) -> float:
        """What a pixel of the maps of `evidence` has to exceed, in [0, 1]: the threshold, or half of what a student gives."""
        return self.threshold if self.student is None else LEVEL

    @property
    def cleaning(self) -> MaskSettings:
        """What is done with what exceeds `level`: a student's masks are taken as they are drawn."""
        return self.settings.masks if self.student is None else student_cleaning(self.settings.masks)

    def probability(self, images: Tensor) -> Tensor:
        """f(X) in [0, 1] of images (B, 1, S, S) in [-1, 1], (B,)."""
        return self._probability(self.f, images)

    def _probability(self, f: nn.Module, images: Tensor) -> Tensor:
        return torch.cat(map_batched(lambda part: probabilities(f, images_to(self.fabric, part)).cpu(), images))

    def differences(self, images: Tensor, inpaint_all: bool = False) -> tuple[Explanation, np.ndarray]:
        """The explanation and the refined differences (B, S, S).

        With `masks.flips` the difference is the mean over an image and its mirror image: what the generator does for
        reasons of its own differs between the two, the lesion does not. f(X) of the image itself decides whether there is
        one at all. How well the masks of the two agree is noted in the explanation.
        """
        explained, guide = self.explain(images, inpaint_all), images[:, 0].numpy() / 2 + 0.5
        own = refine(explained.saliency.numpy(), guide, self.settings.masks)
        asked = (explained.probability >= (0.0 if inpaint_all else self.settings.classifier.threshold)).numpy()
        if not self.settings.masks.flips:
            return (explained if inpaint_all else replace(explained, level=self._flip_levels(explained, guide, own, asked))), own
        refined, agreed = np.zeros_like(own), np.zeros(len(own), np.float32)
        if asked.any():
            mirrored = self._saliency(images[asked].flip(-1)).flip(-1).numpy()
            other = refine(mirrored, guide[asked], self.settings.masks)
            # The guided filter is linear in what it smooths: the mean of two refined maps is the refined mean.
            refined[asked] = (own[asked] + other) / 2
        if inpaint_all:  # then there is no threshold yet
            return explained, refined
        level = self._flip_levels(explained, guide, refined, asked)
        if asked.any():
            here = self.threshold if level is None else level.numpy()[asked]
            agreed[asked] = agreement(*(masks_of(maps, here, self.settings.masks) for maps in (own[asked], other)))
        return replace(explained, agreement=torch.from_numpy(agreed), level=level), refined

    def _flip_levels(self, explained: Explanation, images: np.ndarray, refined: np.ndarray, asked: np.ndarray) -> Tensor | None:
        """What a pixel of each map has to exceed, (B,), where `masks.threshold` is "flip"; NaN in images f calls normal. None with another rule,
        and where a student draws the masks.

        Args:
            explained: the images.
            images: themselves, (B, S, S) in [0, 1].
            refined: their refined differences.
            asked: (B,) bool, f calls them abnormal.
        """
        if self.student is not None or rule_of(self.settings.masks, self.settings.method == COUNTERFACTUAL) != "flip":
            return None

        def ask(unit: np.ndarray) -> np.ndarray:
            pixels = torch.from_numpy(signed(unit))[:, None]
            return (self.probability(pixels).numpy() + self.probability(pixels.flip(-1)).numpy()) / 2

        level = np.full(len(images), np.nan, np.float32)
        if asked.any():
            painted = explained.painted()[0][:, 0].numpy()[asked] / 2 + 0.5
            flip = flip_levels(images[asked], painted, refined[asked], ask, self.settings.classifier.threshold)
            level[asked] = with_peaks(flip, self.threshold, self.settings.masks.peak * peaks(refined[asked]))
        return torch.from_numpy(level)

    def levels(self, explained: Explanation) -> float | np.ndarray:
        """What a pixel of the maps of `evidence` has to exceed: `level`, or that of each image, (B,), where the rule says it image by image."""
        return self.level if explained.level is None else explained.level.numpy()

    @property
    def asks_neighbours(self) -> bool:
        """Whether the posterior of a slice depends on those before and behind it."""
        return self.student is not None and self.posterior is not None and self.steps is not None

    def logits(self, images: Tensor) -> np.ndarray:
        """What the posterior says of images (B, 1, S, S) in [-1, 1], each by itself, (B,)."""
        posterior = self.f if self.posterior is None else self.posterior
        with torch.no_grad():
            said = map_batched(lambda part: posterior(images_to(self.fabric, part)).cpu(), images)
        return torch.cat(said).double().numpy()

    def along_scans(self, logits: np.ndarray, chains: np.ndarray, places: np.ndarray) -> Tensor:
        """The posterior in [0, 1], (n,), of the slices of some scans, their neighbours asked as well.

        Args:
            logits: see `logits`, (n,).
            chains: which scan, and region of it, each slice is of, (n,).
            places: its number along it, (n,) integers.
        """
        found = logits if self.steps is None else smooth(logits, chains, places, self.steps)
        return torch.from_numpy(expit(found).astype(np.float32))

    def posterior_of(self, slices: TrainingSlices) -> Callable[[np.ndarray], Tensor | None]:
        """Rows of the store, (B,) -> the posterior of these slices of one side, as `evidence` takes it; None where neighbours are not asked."""
        if not self.asks_neighbours:
            return lambda rows: None
        parts = (np.arange(i, min(i + CHUNK, len(slices))) for i in range(0, len(slices), CHUNK))
        said = np.concatenate([self.logits(slices.batch(part).image) for part in parts])
        known = torch.full((len(slices.store),), torch.nan)
        known[slices.rows] = self.along_scans(said, *slices.store.chains(slices.rows))
        return lambda rows: known[rows]

    def evidence(
        self, images: Tensor, inpaint_all: bool = False, posterior: Tensor | None = None
    ) -> tuple[Explanation, np.ndarray]:
        """The explanation and the maps (B, S, S) in [0, 1] that masks are read from: the differences, or what a student gives.

        A student is asked as the generator is: the mean over an image and its mirror image; 0 where the posterior is below
        `student.gate`, brought up where it calls an image abnormal (`student.brought_up`), and there with what is unlike anything
        in normal images (`novelty.with_novel`). The posterior, (B,) in [0, 1], may come from outside (`along_scans`).
        """
        student = self.student
        if student is None:
            return self.differences(images, inpaint_all)
        explained = self.explain(images, inpaint_all)
        if posterior is None:
            posterior = explained.probability if self.posterior is None else self._probability(self.posterior, images)
        asked = (posterior >= (0.0 if inpaint_all else self.settings.student.gate)).numpy()
        maps, agreed = np.zeros((len(images), *images.shape[2:]), np.float32), np.zeros(len(images), np.float32)
        if asked.any():
            own, other = self._both(lambda x: marks(student, x), images[asked])
            called = (posterior >= self.settings.classifier.threshold).numpy()[asked]
            found = [rescale_to_peak(given, called, self.settings.masks.peak) for given in ((own + other) / 2, own, other)]
            if self.novelty is not None and called.any():
                own, other = self._both(self.novelty, images[asked][called], AT_ONCE)
                for given, novelty in zip(found, ((own + other) / 2, own, other), strict=True):
                    given[called] = add_anomalous_regions(given[called], novelty, LEVEL)
            maps[asked], *each = found
            agreed[asked] = agreement(*(masks_of(given, LEVEL, self.cleaning) for given in each))
        return replace(explained, agreement=torch.from_numpy(agreed), posterior=posterior), maps

    def _saliency(self, images: Tensor) -> Tensor:
        """The saliency (B, S, S) of images whatever f says of them; a generator is not asked for more than X_cf."""
        generator = self.generator
        if generator is None:
            return self.explain(images, inpaint_all=True).saliency
        with torch.no_grad():
            return torch.cat(self._in_parts(lambda x: coin.difference(x, generator(x).clamp(-1, 1)).cpu(), images))

    def _both(self, ask: Callable[[Tensor], Tensor], images: Tensor, most: int = CHUNK) -> tuple[np.ndarray, np.ndarray]:
        """What is said of every pixel of images (B, 1, S, S), (B, S, S), and of their mirror images, turned back."""
        with torch.no_grad():
            own, other = (torch.cat(self._in_parts(lambda x: ask(x).cpu(), x, most)) for x in (images, images.flip(-1)))
        return own.numpy(), other.flip(-1).numpy()

    def _in_parts(self, work: Callable[[Tensor], T], images: Tensor, most: int = CHUNK) -> list[T]:
        """`work` on the images on the device, as many together as suit it and its memory holds, at most `most`."""
        most = cpu_batch(images, most) if self.fabric.device.type == "cpu" else most
        return map_batched(lambda part: work(images_to(self.fabric, part)), images, most)

    def choose_threshold(self, slices: TrainingSlices) -> Threshold:
        """The threshold on refined differences, from training images and their image labels alone."""
        labels, rng = slices.labels(), random_stream(Stream.THRESHOLD, self.settings.seed)
        counterfactual = self.settings.method == COUNTERFACTUAL
        rule = rule_of(self.settings.masks, counterfactual)
        refined = {0: np.zeros((0, 1, 1)), 1: np.zeros((0, 1, 1))}
        # One rule looks at normal images, the other at abnormal ones; a number at none.
        for label in {"normals": (0,), "flip": (0,), "otsu": (1,)}.get(str(rule), ()):
            few = THRESHOLD_IMAGES if counterfactual else THRESHOLD_IMAGES // 10
            members = np.sort(rng.permutation(np.flatnonzero(labels == label))[:few])
            if len(members):
                refined[label] = self.differences(slices.batch(members).image, inpaint_all=True)[1]
        return choose_threshold(refined[0], refined[1], self.settings.masks, counterfactual)

    def marked(self, images: Tensor, posterior: Tensor | None = None) -> Marked:
        """Masks of images (B, 1, S, S) in [-1, 1], with what they were read from and how far to trust them; see `evidence`."""
        explained, refined = self.evidence(images, posterior=posterior)
        levels = self.levels(explained)
        masks = masks_of(refined, levels, self.cleaning)
        agreed = np.full(len(masks), np.nan) if explained.agreement is None else explained.agreement.numpy()
        sure = of_pixels(refined, levels_of(refined, levels, self.cleaning.peak))
        return Marked(explained, refined, masks, confidence(explained.probability.numpy(), agreed, masks), sure)

    def masks(self, images: Tensor) -> np.ndarray:
        """Masks (B, S, S) bool of images (B, 1, S, S) in [-1, 1], see `marked`."""
        return self.marked(images).masks
