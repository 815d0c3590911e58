"""The ImageNet classifier: one more classifier in the ensemble, on features that were learnt on ImageNet.

It says whether an image is abnormal and not where, so COIN cannot use it; the image score can (study 26 of
docs/research/student.md).
"""

from dataclasses import replace
from pathlib import Path
from typing import Any, Self, cast

from torch import Tensor, nn

from coinseg.config.parsing import OPINION, asks_opinion, opinion_settings
from coinseg.config.schema import Settings
from coinseg.networks.classifier import Classifier, ImageNetNetwork, load_classifier

from .base import Learning, Part

WEIGHT = 0.25  # w: it is the weaker classifier where images look like no photograph


class ImageNetClassifier(Part):
    """Mixes the logit o(X) of `network`, images (B, C, S, S) in [-1, 1] -> logits (B,), into that of the ensemble:

    logit = (1 - w) logit of the ensemble + w o(X)         with w = `WEIGHT`
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
    def fit(cls, learning: Learning) -> Self:
        """Train the classifier on the training slices, or load it."""
        root, settings = learning.folder(cls), opinion_settings(learning.settings)
        return cls(learning.train_classifier(settings, root and root / "classifier", f"the second {OPINION}"))

    @classmethod
    def load(cls, settings: Settings, state: dict[str, Any], root: Path) -> Self:
        """Read the weights; ImageNet's own are not looked for."""
        classifier = replace(opinion_settings(settings).classifier, weights=None)
        return cls(
            load_classifier(
                classifier, root / cls.folder / "classifier" / "model.safetensors", settings.data.side, state.get("channels", 1)
            )
        )

    def state(self) -> dict[str, Any]:
        network = cast(ImageNetNetwork, cast(Classifier, self.network).network)
        return self.of_channels(network.encoder.conv_stem.in_channels)

    def score(self, logits: Tensor, x: Tensor) -> Tensor:
        return (1 - WEIGHT) * logits + WEIGHT * self.network(x)
