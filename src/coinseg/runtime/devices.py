"""Which device computes, and how modules and images get there (Lightning Fabric)."""

from __future__ import annotations

from typing import cast

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from coinseg.config.reading import refuse
from coinseg.config.rules import of_engine
from coinseg.config.schema import EngineSettings
from coinseg.errors import UserError

from .process_group import rank_info
from .threads import threads

CHUNK = 64
"""Images per forward pass outside training."""


def make_fabric(settings: EngineSettings) -> Fabric:
    """One device and precision as the settings name them; raises `UserError` when they are not there.

    Of several processes on a node each takes a GPU of its own, while there are some.
    """
    torch.set_num_threads(settings.threads or threads())
    if settings.accelerator == "cuda" and not torch.cuda.is_available():
        raise UserError("engine.accelerator is cuda and no GPU is visible", "a CUDA device", "set engine.accelerator to cpu")
    refuse(of_engine(settings))
    accelerator = "cuda" if settings.accelerator != "cpu" and torch.cuda.is_available() else "cpu"
    devices = [rank_info().local % torch.cuda.device_count()] if accelerator == "cuda" else 1
    try:
        return Fabric(accelerator=accelerator, devices=devices, precision=settings.precision)  # type: ignore[arg-type]
    except (ValueError, ImportError) as error:
        raise UserError(f"engine.precision is '{settings.precision}'", "a precision of Lightning Fabric", str(error)) from error


def to_device(module: nn.Module, fabric: Fabric) -> nn.Module:
    """Onto the device, channels last (the faster layout for 2-D convolutions on CPUs and GPUs alike)."""
    return module.to(device=fabric.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def images_to(fabric: Fabric, images: Tensor) -> Tensor:
    """A batch onto the device, channels last."""
    return images.to(fabric.device, memory_format=torch.channels_last)


def compiled(module: nn.Module, settings: EngineSettings) -> nn.Module:
    """The module, compiled when the engine asks for it."""
    return cast(nn.Module, torch.compile(module)) if settings.compile else module
