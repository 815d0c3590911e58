"""Whether there is a lesion at all: what the classifiers of a run say together, at the share of abnormal images there is.

A classifier learns from batches that are half abnormal (`classifier.balanced`), so it says what is so where every second image is.
Bayes' rule moves its odds to the share of abnormal images it was trained among (Saerens, Latinne, Decaestecker 2002, equation 2.4):

    logit P(abnormal | X) = (1 - w)/K sum_k logit f_k(X) + w logit o(X) + logit(share)          logit(1/2) is 0

of the K teachers' f and a second opinion o, a classifier on features that ImageNet taught (`student.opinion`), w = `WEIGHT`. COIN cannot use o, because it
says whether and not where; here that is the question, and it errs elsewhere than the others. Without it w is 0.

It decides which images are marked and is not what COIN turns: the first f, asked as it was trained, still explains. What it changed
is in docs/decisions/0023-posterior.md and 0026-every-lesion.md. Image labels are all it knows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from coinseg.config.schema import Settings
from coinseg.data.slices.dataset import TrainingSlices

WEIGHT = 0.25
"""What the second opinion counts: where images look like no photograph it is the weaker voice (docs/decisions/0026-every-lesion.md)."""


class ImageScore(nn.Module):
    """The equation above.

    Args:
        classifiers: f_1 ... f_K, each images (B, 1, S, S) in [-1, 1] -> logits (B,).
        shift: logit of the share; 0 where batches had that share themselves.
        opinion: o, likewise; None where only the f are asked.
    """

    def __init__(self, classifiers: Sequence[nn.Module], shift: float, opinion: nn.Module | None = None) -> None:
        super().__init__()
        self.classifiers, self.shift, self.opinion = nn.ModuleList(classifiers), shift, opinion

    def forward(self, x: Tensor) -> Tensor:
        """The logit of P(abnormal | X), (B,), of images (B, 1, S, S) in [-1, 1]."""
        said = torch.stack([f(x) for f in self.classifiers]).mean(0)
        if self.opinion is not None:
            said = (1 - WEIGHT) * said + WEIGHT * self.opinion(x)
        return said + self.shift


def prior_shift(slices: TrainingSlices, settings: Settings) -> float:
    """The logit of the share of abnormal images among those trained on.

    0 where f did not learn from balanced batches: those of injected anomalies have the share of all images, and of an f that was
    not trained here nobody knows what it learnt from.
    """
    if not slices.balances(settings.classifier.balanced) or settings.classifier.steps == 0:
        return 0.0
    labels = slices.labels()
    abnormal, normal = int((labels == 1).sum()), int((labels == 0).sum())
    return math.log(abnormal / normal) if abnormal and normal else 0.0
