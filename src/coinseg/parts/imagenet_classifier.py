"""The ImageNet classifier: one more classifier in the ensemble, on features that were learnt on ImageNet.

It says whether an image is abnormal and not where, so COIN cannot use it; the image score can, because it is wrong about other
images than the classifiers that started from nothing. With w = `WEIGHT` and its logit o(X):

    logit = (1 - w) logit of the ensemble + w o(X)

Measured in docs/research/student.md, study 26.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from coinseg.config.parsing import OPINION, asks_opinion, opinion_settings
from coinseg.config.schema import Settings
from coinseg.networks.classifier import load_classifier

from .base import Learning, Part

WEIGHT = 0.25
"""w: it has less weight because it is the weaker classifier where images look like no photograph."""


class ImageNetClassifier(Part):
    """The equation above as a part of the recipe.

    Args:
        network: the frozen classifier, images (B, 1, S, S) in [-1, 1] -> logits (B,).
    """

    name, folder, weights = "imagenet_classifier", OPINION, "classifier/model.safetensors"

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    @classmethod
    def asked_for(cls, settings: Settings) -> bool:
        """`student.imagenet_steps` above 0, and f is trained here."""
        return asks_opinion(settings)

    @classmethod
    def fit(cls, learning: Learning) -> ImageNetClassifier:
        """Train the classifier on the training slices, or load it."""
        root = learning.folder(cls)
        return cls(
            learning.train_classifier(opinion_settings(learning.settings), root and root / "classifier", f"the second {OPINION}")
        )

    @classmethod
    def load(cls, settings: Settings, state: dict[str, Any], root: Path) -> ImageNetClassifier:
        """Read the weights; ImageNet's own are not looked for."""
        own = replace(opinion_settings(settings).classifier, weights=None)
        return cls(load_classifier(own, root / cls.folder / "classifier" / "model.safetensors"))

    def score(self, logits: Tensor, x: Tensor) -> Tensor:
        """The equation above, (B,)."""
        return (1 - WEIGHT) * logits + WEIGHT * self.network(x)
