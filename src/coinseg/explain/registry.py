"""The registry of explanation methods by name; a new method is added here."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from coinseg.config.reading import refuse
from coinseg.config.rules import of_method
from coinseg.config.schema import COUNTERFACTUAL, Settings
from coinseg.explain.counterfactual import coin
from coinseg.networks.classifier import probabilities
from coinseg.types import Explanation

from . import attribution

METHODS = (COUNTERFACTUAL, *attribution.METHODS)
# Images (B, C, S, S) in [-1, 1] and a threshold -> their explanation; an image with f(X) below it is not explained.
Explain = Callable[[Tensor, float], Explanation]


def explain_with(settings: Settings, f: nn.Module, generator: nn.Module | None = None, layer: str | None = None) -> Explain:
    """Return the explanation method of the settings.

    Args:
        settings: method, attribution and seed are read.
        f: the frozen classifier.
        generator: of a counterfactual method.
        layer: of f, for a CAM whose `attribution.layer` is "best".
    """
    refuse(of_method(settings))
    if settings.method == COUNTERFACTUAL:
        if generator is None:
            raise ValueError("a counterfactual method explains with a generator")
        return lambda x, threshold: coin.explain(x, generator, f, threshold)

    def attribute(x: Tensor, threshold: float) -> Explanation:
        probability = probabilities(f, x)
        abnormal = probability >= threshold
        saliency = torch.zeros(len(x), *x.shape[2:], device=x.device)
        if abnormal.any():
            maps = attribution.saliency(settings.method, f, x[abnormal], settings.attribution, settings.seed, layer)
            saliency[abnormal] = maps
        return Explanation(probability, saliency)

    return attribute
