"""Runs that were not trained: they mark what a test can foretell."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from coinseg.config.schema import MaskSettings
from coinseg.data.slices.intensity import Window
from coinseg.explain.counterfactual.generator import Generator
from coinseg.inference.scans import Run
from coinseg.networks.classifier import build
from coinseg.runtime.devices import make_fabric
from coinseg.types import Explanation
from conftest import tiny_settings


def bright_run() -> Run:
    """A run that marks what is bright, and whose counterfactual has none of it."""
    base = replace(tiny_settings(), masks=MaskSettings(peak=0.0, refine="none", opening=0, closing=0, keep="all", min_px=0))
    f, generator = build(base.classifier), Generator(base.coin)
    run = Run(base, f, generator, "hu", Window(0.0, 1000.0), False, 0.5, make_fabric(base.engine))

    def differences(images: torch.Tensor, inpaint_all: bool = False) -> tuple[Explanation, np.ndarray]:
        bright = images > 0
        painted = torch.where(bright, -torch.ones_like(images), images)
        return Explanation(torch.ones(len(images)), bright[:, 0], painted, torch.zeros(len(images))), bright[:, 0].float().numpy()

    run.differences = differences  # type: ignore[method-assign, assignment]
    return run
