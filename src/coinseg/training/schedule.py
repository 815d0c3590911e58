"""The learning rate over the steps, and the moving average of weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch.optim.swa_utils import get_ema_multi_avg_fn


def averaging(decay: float) -> Callable[..., None]:
    """The moving average of weights that `AveragedModel` shall keep, without the weight the first of them would have for long.

    After n updates the weights w_i have (1 - decay) decay^(n - i) / (1 - decay^n) each, as Adam's moments do (Kingma, Ba 2015,
    section 3): a plain one of decay 0.99 has, after 100 updates, still a third of w_1. With decay 0 it is the last one.
    """

    def update(kept: Any, latest: Any, before: Any) -> None:
        share = (1 - decay) / (1 - decay ** (int(before) + 1))
        get_ema_multi_avg_fn(1 - share)(kept, latest, before)

    return update


def one_cycle(step: int, steps: int, warmup: float = 0.1) -> float:
    """Share of the learning rate at a step: linear warm-up, then half a cosine down to 0."""
    done = step / max(steps, 1)
    return min(done / warmup, 1.0) * 0.5 * (1 + math.cos(math.pi * max(0.0, done - warmup) / (1 - warmup))) + 1e-3
