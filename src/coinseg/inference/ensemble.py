"""The committee that teaches the student: pairs of classifier and generator that differ in nothing but their seed.

One pair errs where chance led it: too wide around a lesion, or a haze somewhere else. What several of them change is
mostly the lesion; with one classifier for all of them a third of that is gained (docs/results/better.md). The generators are only
asked for the training images; afterwards the first pair explains and the student draws, where all classifiers together say that
there is something to draw (`posterior.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
from torch import Tensor, nn

from coinseg.data.slices.dataset import TrainingSlices
from coinseg.masks.border import fit_border
from coinseg.masks.confidence import confidence
from coinseg.masks.postprocess import masks_of
from coinseg.runtime.process_group import current

from .predictor import Inference


@dataclass
class Ensemble:
    """Runs of one training, each with its own classifier, generator and threshold.

    Args:
        first: the run that will explain; on its own its masks are the committee's.
        others: classifier and generator of the others.
        slices: of the training side; the thresholds are chosen on them.
    """

    first: Inference
    others: Sequence[tuple[nn.Module, nn.Module]]
    slices: TrainingSlices

    @cached_property
    def runs(self) -> list[Inference]:
        """All of them; thresholds are chosen when they are first asked for."""
        others = [replace(self.first, f=f, generator=generator, student=None) for f, generator in self.others]
        for other in others:
            other.threshold = current().on_main(partial(self._threshold, other))
        return [self.first, *others]

    def _threshold(self, run: Inference) -> float:
        return run.choose_threshold(self.slices).value

    def called(self, images: Tensor) -> np.ndarray:
        """The mean f(X) of images (B, 1, S, S) in [-1, 1], (B,) in [0, 1]."""
        return np.mean([run.probability(images).numpy() for run in self.runs], axis=0)

    def trusted(self, images: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Masks of the mean of the refined differences, their borders asked of the image (`contrast.py`), and how far to trust
        them: mean f(X) times the mean mirror agreement.

        Args:
            images: (B, 1, S, S) in [-1, 1].

        Returns:
            Masks (B, S, S) bool, empty where the mean f(X) says normal, and their confidence (B,) in [0, 1]; NaN where a mask
            is empty or `masks.flips` is off.
        """
        found = [run.differences(images) for run in self.runs]
        settings, unknown = self.first.settings, np.full(len(images), np.nan)
        probability = np.mean([e.probability.numpy() for e, _ in found], axis=0)
        maps = np.mean([refined for _, refined in found], axis=0)
        maps[probability < settings.classifier.threshold] = 0
        each = [np.asarray(run.levels(e)) for run, (e, _) in zip(self.runs, found, strict=True)]
        # Who calls an image normal changed nothing in it, and has but its floor to say.
        levels = np.mean([np.where(np.isnan(own), run.threshold, own) for run, own in zip(self.runs, each, strict=True)], axis=0)
        masks = masks_of(maps, levels if levels.ndim else float(levels), settings.masks)
        if settings.student.contrast and settings.masks.peak:
            masks = fit_border(images[:, 0].numpy(), maps, masks, settings.masks.peak, settings.student.contrast)
        agreed = np.mean([unknown if e.agreement is None else e.agreement.numpy() for e, _ in found], axis=0)
        return masks, confidence(probability, agreed, masks)
