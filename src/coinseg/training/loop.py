"""The one training loop, of the classifier, the generator and the student; what a step computes is in their files."""

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import Optimizer

from coinseg.config.schema import Settings
from coinseg.runtime.devices import peak_memory_gb
from coinseg.runtime.distributed import average, means
from coinseg.runtime.files import damaged
from coinseg.runtime.stage import COST, Report, Stage, require_finite
from coinseg.runtime.streams import seed_step

from .schedule import one_cycle

LOG_EVERY = 10  # Steps between two lines of the log
Step = Callable[[int], Mapping[str, Tensor]]
"""The number of a step, from 0 -> the losses (scalars) of that step, after the optimisers have made theirs."""


def fit(
    name: str, stage: Stage, parts: Mapping[str, Any], step: Step, settings: Settings, report: Report, decay: bool = True,
    after_step: Callable[[int], None] = lambda done: None,
) -> None:  # fmt: skip
    """Train to the last step, from the last checkpoint of the stage where there is one; `UserError` when a loss is not finite.

    Args:
        name: "classifier", "coin" or "student": the section of the settings whose steps and lr are read, and the name in reports.
        stage: receives checkpoints and the log.
        parts: what a step changes, by name: networks, optimisers (whose learning rate is set here), dictionaries of tensors.
        step: see `Step`. The random numbers of PyTorch are seeded before each.
        settings: seed, engine and the section `name` are read.
        report: progress, after the first step here and every `LOG_EVERY` steps.
        decay: let the learning rate follow `one_cycle`; else it is constant.
        after_step: called with the number of steps that are done, after the log and before a checkpoint.
    """
    section, setting = getattr(settings, name), f"{name}.lr"
    optimisers, start = [part for part in parts.values() if isinstance(part, Optimizer)], 0
    if state := stage.resume():
        start = state["step"]
        try:
            for part_name, part in parts.items():
                (part.update if isinstance(part, dict) else part.load_state_dict)(state[part_name])
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise damaged(stage.file("checkpoint.pt"), f"it is of another training: {type(error).__name__}") from error
    logged, since = start, time.perf_counter()
    for number in stage.steps(start, section.steps):
        seed_step(settings.seed, number)
        rate = section.lr * (one_cycle(number, section.steps) if decay else 1.0)
        for optimiser in optimisers:
            for group in optimiser.param_groups:
                group["lr"] = rate
        losses, done = step(number), number + 1
        if number == start:  # of long steps the tenth is late to hear that all is well
            report(name, done, section.steps, _numbers(losses))
        if done % LOG_EVERY == 0 or done == section.steps:
            values = means(_numbers(losses))
            require_finite(values, done, setting)
            now = time.perf_counter()
            passed = max(now - since, 1e-6)  # seconds; a clock of coarse steps may say none
            stage.log(done, values | _cost(section.batch * (done - logged) / passed))
            logged, since = done, now
            report(name, done, section.steps, values)
        after_step(done)
        if stage.due(done, settings.engine.checkpoint_every):
            require_finite(_numbers(losses), done, setting)
            states = {key: part if isinstance(part, dict) else part.state_dict() for key, part in parts.items()}
            stage.save(done, setting, **states)


def _cost(speed: float) -> dict[str, float]:
    """What the log has of a training beside its losses: images a second in this stretch, and the most memory so far."""
    where = torch.device("cuda" if torch.cuda.is_initialized() else "cpu")
    return dict(zip(COST, (round(speed, 2), round(peak_memory_gb(where), 3)), strict=True))


def _numbers(losses: Mapping[str, Tensor]) -> dict[str, float]:
    return {name: value.item() for name, value in losses.items()}  # not in every step: a GPU is waited for


def descend(fabric: Fabric, optimiser: Any, loss: Tensor, parameters: Iterable[nn.Parameter] = ()) -> None:
    """One step of an optimiser.

    Args:
        fabric: does the backward pass in its precision.
        optimiser: as `fabric.setup` returned it.
        loss: scalar.
        parameters: their gradients are averaged over the processes; none where every process sees the whole batch.
    """
    optimiser.zero_grad()
    fabric.backward(loss)
    average(parameters)
    optimiser.step()
