"""The image score: P(abnormal | X) of the ensemble of classifiers, corrected to the share of abnormal images.

It decides which images are marked and is not what COIN turns: the first f still explains. Measured in
docs/research/image-score.md (study 23) and docs/research/student.md (study 26).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np
import torch
from scipy.special import expit
from torch import Tensor, nn

from coinseg.config.schema import Settings
from coinseg.data.slices.dataset import TrainingSlices
from coinseg.parts.base import Part


class ImageScore(nn.Module):
    """Classifiers learn from batches that are half abnormal; Bayes' rule moves their odds to the share among the training images.

        logit P(abnormal | X) = 1/K sum_k logit f_k(X) + min(0, logit(share))          logit(1/2) is 0

    (Saerens, Latinne, Decaestecker 2002, equation 2.4.) Where most training images are abnormal they were collected so, and it
    would call normal images abnormal without evidence: then it is not moved (studies/mostly_abnormal.py). Parts of the recipe may
    change the mean before the share is added.

    Args:
        classifiers: f_1 ... f_K, each images (B, C, S, S) in [-1, 1] -> logits (B,); the first one explains.
        shift: min(0, logit of the share); 0 where batches had that share themselves, and where f alone decides.
        parts: of the recipe.
    """

    def __init__(self, classifiers: Sequence[nn.Module], shift: float = 0.0, parts: Sequence[Part] = ()) -> None:
        super().__init__()
        self.classifiers, self.parts, self.shift = nn.ModuleList(classifiers), nn.ModuleList(parts), shift

    def both(self, x: Tensor) -> Tensor:
        """The logits of f_1 and of the ensemble, (B, 2), of images (B, C, S, S) in [-1, 1]; each classifier is asked once."""
        each = torch.stack([f(x) for f in self.classifiers])
        ensemble = each.mean(0)
        for part in self.parts:
            ensemble = part.score(ensemble, x)  # type: ignore[operator]
        return torch.stack([each[0], ensemble + self.shift], 1)

    def forward(self, x: Tensor) -> Tensor:
        """The logit of P(abnormal | X), (B,), of images (B, C, S, S) in [-1, 1]."""
        return self.both(x)[:, 1]


@dataclass(frozen=True)
class ImageScores:
    """Scores of B images, which are known before anything is marked in them.

    Args:
        probability: f(X) of the first classifier, (B,) float32 in [0, 1].
        ensemble: P(abnormal | X), (B,) float32 in [0, 1].
        given: labels that somebody gave the images, (B,): 0, 1, or NaN where there is none.
        foreign: whether their case is unlike the training images, (B,) bool; where nobody asked it is not.
    """

    probability: np.ndarray
    ensemble: np.ndarray
    given: np.ndarray = field(default_factory=lambda: np.zeros(0))
    foreign: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))

    def __post_init__(self) -> None:
        if not len(self.given):
            object.__setattr__(self, "given", np.full(len(self.probability), np.nan))
        if not len(self.foreign):
            object.__setattr__(self, "foreign", np.zeros(len(self.probability), bool))

    @classmethod
    def of_f(cls, probability: Tensor) -> Self:
        """Scores where f alone decides, (B,)."""
        return cls(probability.numpy(), probability.numpy())

    @classmethod
    def of_logits(cls, logits: np.ndarray, smoothed: np.ndarray | None = None) -> Self:
        """Scores of the logits of `ImageScore.both`, (B, 2) float32; `smoothed` (B,) replaces those of the ensemble."""
        ensemble = logits[:, 1].astype(np.float64) if smoothed is None else smoothed
        return cls(torch.sigmoid(torch.from_numpy(logits[:, 0])).numpy(), expit(ensemble).astype(np.float32))

    def abnormal(self, level: float) -> np.ndarray:
        """Which images count as abnormal, (B,) bool: given label 1, or no given label and a score of at least `level`."""
        return np.where(np.isnan(self.given), self.ensemble >= level, self.given == 1)

    def __getitem__(self, rows: slice | np.ndarray) -> Self:
        return type(self)(self.probability[rows], self.ensemble[rows], self.given[rows], self.foreign[rows])


def prior_shift(slices: TrainingSlices, settings: Settings) -> float:
    """The logit of the share of abnormal training images, at most 0; 0 where f did not learn, here, from balanced batches."""
    if not slices.balances(settings.classifier.balanced) or settings.classifier.steps == 0:
        return 0.0
    labels = slices.labels()
    abnormal, normal = int((labels == 1).sum()), int((labels == 0).sum())
    return min(0.0, math.log(abnormal / normal)) if abnormal and normal else 0.0
