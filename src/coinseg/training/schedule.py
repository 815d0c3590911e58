"""The learning rate over the steps, and the moving average of weights."""

import math
from collections.abc import Callable
from typing import Any

from torch.optim.swa_utils import get_ema_multi_avg_fn


def averaging(decay: float) -> Callable[..., None]:
    """The exponential moving average of weights for `AveragedModel`, corrected for its start; with decay 0 the last weights.

    After n updates the weights w_i count (1 - decay) decay^(n - i) / (1 - decay^n) each (as Adam's moments; Kingma, Ba 2015).
    """

    def update(averaged: Any, latest: Any, updates: Any) -> None:
        share = (1 - decay) / (1 - decay ** (int(updates) + 1))
        get_ema_multi_avg_fn(1 - share)(averaged, latest, updates)

    return update


def one_cycle(step: int, steps: int, warmup: float = 0.1) -> float:
    """The learning rate at a step (from 0) as a share of the largest: linear warm-up from 0.001, half a cosine down to 0.001.

    Args:
        step: its number, from 0.
        steps: of the training.
        warmup: share of the steps that the warm-up takes.
    """
    done = step / max(steps, 1)
    return min(done / warmup, 1.0) * 0.5 * (1 + math.cos(math.pi * max(0.0, done - warmup) / (1 - warmup))) + 1e-3
