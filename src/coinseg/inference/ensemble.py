"""The ensemble: pairs of classifier and generator that differ only in their seed and make the pseudo-masks together.

A single pair may mark too much around a lesion; what several of them change is mostly the lesion (docs/research/results.md).
The other generators are asked about training images only; afterwards the first pair explains, and all classifiers score images.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
import torch
from torch import Tensor

from coinseg.config.schema import MaskSettings
from coinseg.data.slices.dataset import TrainingSlices
from coinseg.masks.border import fit_border
from coinseg.masks.confidence import confidence
from coinseg.masks.evidence import densest, density, parts_with_evidence
from coinseg.masks.postprocess import masks_of
from coinseg.runtime.process_group import current

from .explainer import Explainer
from .image_score import ImageScores
from .segmenter import DifferenceSegmenter

OPENING = 3  # side of the square of the thesis' opening, in pixels
ASKED = 128  # abnormal training images, at most, on which it is decided whether masks are opened


@dataclass(frozen=True)
class Marked:
    """What the pairs say of images: their mean maps and what a pixel inside exceeds, f(X) and agreement of each.

    Args:
        maps: mean refined differences, (B, S, S) in [0, 1]; 0 where the mean f(X) says normal.
        levels: a number, or one for each image, (B,).
        probability: mean f(X), (B,) in [0, 1].
        agreement: mean agreement with the mirror image, (B,); NaN where `masks.hflip` is off.
    """

    maps: np.ndarray
    levels: float | np.ndarray
    probability: np.ndarray
    agreement: np.ndarray


@dataclass(frozen=True)
class Ensemble:
    """Pairs of f and generator, each with its own threshold: `first`, which explains, and `others`.

    The thresholds of the others are chosen on `slices`, which are of the training side.
    """

    first: DifferenceSegmenter
    others: Sequence[Explainer]
    slices: TrainingSlices

    @cached_property
    def pairs(self) -> list[DifferenceSegmenter]:
        """All of them; the other thresholds are chosen when they are first needed, together with the other processes."""
        chosen = [current().on_main(partial(self._threshold, other)) for other in self.others]
        return [self.first, *(DifferenceSegmenter(*pair) for pair in zip(self.others, chosen, strict=True))]

    def _threshold(self, other: Explainer) -> float:
        return other.choose_threshold(self.slices).value

    def probability(self, images: Tensor) -> np.ndarray:
        """The mean f(X) of images (B, C, S, S) in [-1, 1], (B,) in [0, 1]."""
        return np.mean([pair.explainer.probability(images).numpy() for pair in self.pairs], axis=0)

    def pseudo_masks(self, images: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Masks of the mean of the refined differences of images (B, C, S, S) in [-1, 1], their borders fitted to the image.

        Returns:
            Masks (B, S, S) bool, empty where the mean f(X) says normal, and their confidence (B,) in [0, 1]: mean f(X) times the
            mean agreement with the mirror image; NaN where a mask is empty or `masks.hflip` is off.
        """
        settings, marked = self.first.explainer.settings, self._marked(images)
        masks = self._masks(images, marked, self.cleaning)
        if settings.student.border_weight and settings.masks.peak:
            masks = fit_border(images.numpy(), marked.maps, masks, settings.masks.peak, settings.student.border_weight)
        return masks, confidence(marked.probability, marked.agreement, masks)

    @cached_property
    def cleaning(self) -> MaskSettings | None:
        """How pseudo-masks are cleaned where the evidence of f decides about their parts; None where `masks` decides.

        Of the opening and no opening it is the one whose masks hold more of f's decision for their size, on training images that
        are labelled abnormal (`masks.evidence.density`). No lesion mask is read.
        """
        settings = self.first.explainer.settings
        if settings.student.parts == "masks" or not self.first.explainer.has_evidence:
            return None
        choices = [replace(settings.masks, keep="all", opening=side) for side in (OPENING, 0)]
        pairs = self.pairs  # all processes choose their thresholds together, before the first one is alone here
        return current().on_main(lambda: self._densest(choices, pairs))

    def _densest(self, choices: list[MaskSettings], pairs: Sequence[DifferenceSegmenter]) -> MaskSettings:
        abnormal = np.flatnonzero(self.slices.labels() == 1)
        few = abnormal[np.unique(np.linspace(0, len(abnormal) - 1, min(ASKED, len(abnormal))).astype(int))]
        images = self.slices.batch(few).image
        marked = self._marked(images)
        called = marked.probability >= self.first.explainer.settings.classifier.threshold
        if not called.any():
            return choices[0]
        of_called = torch.from_numpy(called)

        def density_of(choice: MaskSettings) -> float:
            masks = self._masks(images, marked, choice)[called]
            each = [pair.explainer.explained(images[of_called], masks) for pair in pairs]
            return density(np.mean(each, axis=0), masks.mean((1, 2)))

        return densest(choices, density_of)

    def _masks(self, images: Tensor, marked: Marked, cleaning: MaskSettings | None) -> np.ndarray:
        """The masks (B, S, S) bool of what is marked; without a `cleaning` as `masks` says."""
        if cleaning is None:
            return masks_of(marked.maps, marked.levels, self.first.explainer.settings.masks)
        evidence = np.mean([pair.explainer.evidence(images) for pair in self.pairs], axis=0)
        return parts_with_evidence(masks_of(marked.maps, marked.levels, cleaning), evidence)

    def _marked(self, images: Tensor) -> Marked:
        scores = [ImageScores.of_f(pair.explainer.probability(images)) for pair in self.pairs]
        answers = [pair.maps(images, score) for pair, score in zip(self.pairs, scores, strict=True)]
        settings, unknown = self.first.explainer.settings, np.full(len(images), np.nan)
        probability = np.mean([score.probability for score in scores], axis=0)
        maps = np.mean([answer.values for answer in answers], axis=0)
        maps[probability < settings.classifier.threshold] = 0
        # A pair that calls an image normal changed nothing in it, and has only its threshold to give.
        each = [
            np.asarray(pair.threshold if one.levels is None else np.where(np.isnan(one.levels), pair.threshold, one.levels))
            for pair, one in zip(self.pairs, answers, strict=True)
        ]
        levels = np.mean(each, axis=0)
        agreements = np.mean([unknown if answer.mirrored is None else answer.mirrored for answer in answers], axis=0)
        return Marked(maps, levels if levels.ndim else float(levels), probability, agreements)
