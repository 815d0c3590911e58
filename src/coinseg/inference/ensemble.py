"""The ensemble: pairs of classifier and generator that differ in nothing but their seed, and make the pseudo-masks together.

One pair is wrong where chance led it: too wide around a lesion, or a haze somewhere else. What several of them change is mostly the
lesion; with one classifier for all of them a third of that is gained (docs/research/results.md). The further generators are only asked
about training images; afterwards the first pair explains, and all classifiers together say which images are abnormal.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from torch import Tensor

from coinseg.data.slices.dataset import TrainingSlices
from coinseg.masks.border import fit_border
from coinseg.masks.confidence import confidence
from coinseg.masks.postprocess import masks_of
from coinseg.runtime.process_group import current

from .explainer import Explainer
from .image_score import ImageScores
from .segmenter import DifferenceSegmenter


@dataclass(frozen=True)
class Ensemble:
    """Pairs of f and generator, each with its own threshold.

    Args:
        first: the pair that explains, with its threshold.
        others: the other pairs.
        slices: of the training side; the thresholds of the others are chosen on them.
    """

    first: DifferenceSegmenter
    others: Sequence[Explainer]
    slices: TrainingSlices

    @cached_property
    def pairs(self) -> list[DifferenceSegmenter]:
        """All of them; the other thresholds are chosen when they are first needed, together with the other processes."""
        chosen = [current().on_main(lambda other=other: other.choose_threshold(self.slices).value) for other in self.others]  # type: ignore[misc]
        return [self.first, *(DifferenceSegmenter(*pair) for pair in zip(self.others, chosen, strict=True))]

    def probability(self, images: Tensor) -> np.ndarray:
        """The mean f(X) of images (B, 1, S, S) in [-1, 1], (B,) in [0, 1]."""
        return np.mean([pair.explainer.probability(images).numpy() for pair in self.pairs], axis=0)

    def pseudo_masks(self, images: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Masks of the mean of the refined differences, their borders fitted to the image, and their confidence.

        Args:
            images: (B, 1, S, S) in [-1, 1].

        Returns:
            Masks (B, S, S) bool, empty where the mean f(X) says normal, and their confidence (B,) in [0, 1]: mean f(X) times the mean
            agreement with the mirror image; NaN where a mask is empty or `masks.hflip` is off.
        """
        scores = [ImageScores.of_f(pair.explainer.probability(images)) for pair in self.pairs]
        found = [pair.maps(images, score) for pair, score in zip(self.pairs, scores, strict=True)]
        settings, unknown = self.first.explainer.settings, np.full(len(images), np.nan)
        probability = np.mean([score.probability for score in scores], axis=0)
        maps = np.mean([one.values for one in found], axis=0)
        maps[probability < settings.classifier.threshold] = 0
        each = [
            np.asarray(pair.threshold if one.levels is None else one.levels) for pair, one in zip(self.pairs, found, strict=True)
        ]
        # A pair that calls an image normal changed nothing in it, and has only its threshold to give.
        levels = np.mean(
            [np.where(np.isnan(own), pair.threshold, own) for pair, own in zip(self.pairs, each, strict=True)], axis=0
        )
        masks = masks_of(maps, levels if levels.ndim else float(levels), settings.masks)
        if settings.student.border_weight and settings.masks.peak:
            masks = fit_border(images[:, 0].numpy(), maps, masks, settings.masks.peak, settings.student.border_weight)
        agreed = np.mean([unknown if one.agreement is None else one.agreement for one in found], axis=0)
        return masks, confidence(probability, agreed, masks)
