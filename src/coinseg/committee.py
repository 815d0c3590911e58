"""The committee that teaches the student: pairs of classifier and generator that differ in nothing but their seed.

One pair errs where chance led it: too wide around a lesion, or a haze somewhere else. What several of them change is
mostly the lesion; with one classifier for all of them a third of that is gained (docs/results/better.md). They are only
asked for the training images; afterwards the first pair explains and the student draws, so a run is as quick and as
small as with one teacher.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
from torch import Tensor, nn

from .confidence import confidence
from .data.sampling import TrainingSlices
from .masks import masks_of
from .processes import current
from .runs import Run


@dataclass
class Committee:
    """Runs of one training, each with its own classifier, generator and threshold.

    Args:
        first: the run that will explain; on its own its masks are the committee's.
        others: classifier and generator of the others.
        slices: of the training side; the thresholds are chosen on them.
    """

    first: Run
    others: Sequence[tuple[nn.Module, nn.Module]]
    slices: TrainingSlices

    @cached_property
    def runs(self) -> list[Run]:
        """All of them; thresholds are chosen when they are first asked for."""
        others = [replace(self.first, f=f, generator=generator, student=None) for f, generator in self.others]
        for other in others:
            other.threshold = current().of_first(partial(self._threshold, other))
        return [self.first, *others]

    def _threshold(self, run: Run) -> float:
        return run.choose_threshold(self.slices).value

    def trusted(self, images: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Masks of the mean of the refined differences, and how far to trust them: mean f(X) times the mean mirror agreement.

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
        masks = masks_of(maps, float(np.mean([run.threshold for run in self.runs])), settings.masks)
        agreed = np.mean([unknown if e.agreement is None else e.agreement.numpy() for e, _ in found], axis=0)
        return masks, confidence(probability, agreed, masks)
