"""The committee that teaches the student: pairs of classifier and generator that differ in nothing but their seed.

One pair errs where chance led it: too wide around a lesion, or a haze somewhere else. What several of them change is
mostly the lesion; with one classifier for all of them a third of that is gained (docs/results/better.md). The generators are only
asked for the training images; afterwards the first pair explains and the student draws, where all classifiers together say that
there is something to draw (`posterior.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from .classifier import Classifier
from .confidence import confidence
from .config import Settings
from .contrast import by_contrast
from .counterfactual.generator import Generator
from .data.sampling import TrainingSlices
from .data.slices import SliceStore
from .engine import Report, silent
from .inference import Inference
from .masks import masks_of
from .posterior import OPINION, asks_opinion, opinion_settings
from .processes import current
from .run_folder import teacher_folders
from .training import train_classifier, train_coin

SEEDS_APART = 1_000_003
"""Between the seeds of the teachers of one run; more than seeds that are tried one after another are apart."""


def train_others(
    store: SliceStore, settings: Settings, root: Path, report: Report = silent
) -> list[tuple[Classifier, Generator]]:
    """Classifier and generator of the teachers beside the first: trained alike, each pair from its own seed, or loaded.

    Args:
        store: the prepared slices; only images and labels are read.
        settings: of the run.
        root: the folder of the run; receives `teacher_folders`.
        report: progress, told as "classifier of teacher-2".
    """

    def told(name: str, stage: str, done: int, total: int, values: Mapping[str, float]) -> None:
        report(stage if stage.startswith("warning") else f"{stage} of {name}", done, total, values)

    found = []
    for number, name in enumerate(teacher_folders(settings), 1):
        own = replace(settings, seed=(settings.seed + SEEDS_APART * number) % 2**32)
        f = train_classifier(store, own, root / name / "classifier", partial(told, name))
        found.append((f, train_coin(store, f, own, root / name / "coin", partial(told, name))))
    return found


def train_opinion(store: SliceStore, settings: Settings, root: Path, report: Report = silent) -> Classifier | None:
    """The classifier that is asked beside the teachers' whether there is a lesion (`posterior.py`), trained or loaded; None where there is to be none.

    Args: see `train_others`; the folder of the run receives `OPINION`.
    """
    if not asks_opinion(settings):
        return None

    def told(stage: str, done: int, total: int, values: Mapping[str, float]) -> None:
        report(stage if stage.startswith("warning") else f"{stage} of the second {OPINION}", done, total, values)

    return train_classifier(store, opinion_settings(settings), root / OPINION / "classifier", told)


@dataclass
class Committee:
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
            other.threshold = current().of_first(partial(self._threshold, other))
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
            masks = by_contrast(images[:, 0].numpy(), maps, masks, settings.masks.peak, settings.student.contrast)
        agreed = np.mean([unknown if e.agreement is None else e.agreement.numpy() for e, _ in found], axis=0)
        return masks, confidence(probability, agreed, masks)
