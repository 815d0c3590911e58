"""Whether an image is abnormal at all: the score of the ensemble of classifiers, corrected to the share of abnormal images.

A classifier learns from batches that are half abnormal (`classifier.balanced`), so its probability holds where every second image is
abnormal. Bayes' rule moves its odds to the share of abnormal images among the training images (Saerens, Latinne, Decaestecker 2002,
equation 2.4):

    logit P(abnormal | X) = 1/K sum_k logit f_k(X) + logit(share)          logit(1/2) is 0

of the K classifiers of the ensemble; parts of the recipe may change the mean before the share is added. It decides which images are
marked and is not what COIN turns: the first f still explains. Measured in docs/research/image-score.md (study 23) and docs/research/student.md (study 26).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.special import expit
from torch import Tensor, nn

from coinseg.config.schema import Settings
from coinseg.data.slices.dataset import TrainingSlices
from coinseg.parts.base import Part


class ImageScore(nn.Module):
    """The equation above.

    Args:
        classifiers: f_1 ... f_K, each images (B, 1, S, S) in [-1, 1] -> logits (B,); the first one explains.
        shift: logit of the share; 0 where batches had that share themselves, and where f alone decides.
        parts: of the recipe.
    """

    def __init__(self, classifiers: Sequence[nn.Module], shift: float = 0.0, parts: Sequence[Part] = ()) -> None:
        super().__init__()
        self.classifiers, self.parts, self.shift = nn.ModuleList(classifiers), nn.ModuleList(parts), shift

    def both(self, x: Tensor) -> Tensor:
        """The logits of f_1 and of the ensemble, (B, 2), of images (B, 1, S, S) in [-1, 1]; each classifier is asked once."""
        each = torch.stack([f(x) for f in self.classifiers])
        ensemble = each.mean(0)
        for part in self.parts:
            ensemble = part.score(ensemble, x)  # type: ignore[operator]
        return torch.stack([each[0], ensemble + self.shift], 1)

    def forward(self, x: Tensor) -> Tensor:
        """The logit of P(abnormal | X), (B,), of images (B, 1, S, S) in [-1, 1]."""
        return self.both(x)[:, 1]


@dataclass(frozen=True)
class ImageScores:
    """What is known of B images before anything is marked in them.

    Args:
        probability: f(X) of the first classifier, (B,) float32 in [0, 1].
        ensemble: P(abnormal | X), (B,) float32 in [0, 1].
        given: labels that somebody gave the images, (B,): 0, 1, or NaN where there is none.
    """

    probability: np.ndarray
    ensemble: np.ndarray
    given: np.ndarray = field(default_factory=lambda: np.zeros(0))

    def __post_init__(self) -> None:
        if not len(self.given):
            object.__setattr__(self, "given", np.full(len(self.probability), np.nan))

    @classmethod
    def of_f(cls, probability: Tensor) -> ImageScores:
        """Scores where f alone decides, (B,)."""
        return cls(probability.numpy(), probability.numpy())

    @classmethod
    def of_logits(cls, logits: np.ndarray, smoothed: np.ndarray | None = None) -> ImageScores:
        """Scores of the two logits of `ImageScore.both`, (B, 2) float32; `smoothed` (B,) takes the place of the ensemble's."""
        ensemble = logits[:, 1].astype(np.float64) if smoothed is None else smoothed
        return cls(torch.sigmoid(torch.from_numpy(logits[:, 0])).numpy(), expit(ensemble).astype(np.float32))

    def abnormal(self, level: float) -> np.ndarray:
        """Which images count as abnormal, (B,) bool: those with the given label 1; without a label those with at least this score.

        A label stands beside the score and not in it: the student is not asked whether there is a lesion where somebody has said so.
        """
        return np.where(np.isnan(self.given), self.ensemble >= level, self.given == 1)

    def __getitem__(self, rows: slice | np.ndarray) -> ImageScores:
        return ImageScores(self.probability[rows], self.ensemble[rows], self.given[rows])


def prior_shift(slices: TrainingSlices, settings: Settings) -> float:
    """The logit of the share of abnormal images among the training images.

    0 where f did not learn from balanced batches (those of injected anomalies have the share of all images), and where f was not trained
    here, so that nobody knows its share.
    """
    if not slices.balances(settings.classifier.balanced) or settings.classifier.steps == 0:
        return 0.0
    labels = slices.labels()
    abnormal, normal = int((labels == 1).sum()), int((labels == 0).sum())
    return math.log(abnormal / normal) if abnormal and normal else 0.0
