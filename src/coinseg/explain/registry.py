"""The registry of explanation methods by name; a new method is added here."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches

import torch
from torch import Tensor, nn

from coinseg.config.schema import Settings
from coinseg.errors import UserError
from coinseg.explain.counterfactual import coin
from coinseg.networks.classifier import probabilities
from coinseg.types import Explanation

from . import attribution

COUNTERFACTUAL = "counterfactual"
METHODS = (COUNTERFACTUAL, *attribution.METHODS)
Explain = Callable[[Tensor, float], Explanation]
"""Images (B, 1, S, S) in [-1, 1] and a threshold -> their explanation; an image with f(X) below it is not explained."""


def require_method(settings: Settings) -> None:
    """Raise `UserError` for an unknown method, or for masks.threshold "flip" with a method without counterfactuals."""
    if settings.method not in METHODS:
        near = get_close_matches(settings.method, METHODS, 1, 0.4)
        hint = f"did you mean {near[0]}?" if near else "choose one"
        raise UserError(f"method is '{settings.method}'", f"one of {', '.join(METHODS)}", hint)
    if settings.masks.threshold == "flip" and settings.method != COUNTERFACTUAL:
        fault = f"masks.threshold is flip and method is {settings.method}"
        raise UserError(fault, f"method {COUNTERFACTUAL} for it", "leave masks.threshold as it is")


def explain_with(settings: Settings, f: nn.Module, generator: nn.Module | None = None, layer: str | None = None) -> Explain:
    """The explanation method of the settings.

    Args:
        settings: method, attribution and seed are read.
        f: the frozen classifier.
        generator: of a counterfactual method.
        layer: of f, for a CAM whose `attribution.layer` is "best".
    """
    require_method(settings)
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
