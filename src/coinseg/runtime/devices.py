"""Choose the device and precision (Lightning Fabric), and move modules and images there."""

from __future__ import annotations

from typing import cast

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from coinseg.config.schema import EngineSettings
from coinseg.errors import UserError

from .process_group import rank_info
from .threads import threads

CHUNK = 64
"""Images per forward pass outside training."""
UNSUITED = ("64-true", "64", "bf16-true", "16-true")
"""Precisions of Fabric that give trained weights another type than those of the frozen f."""


def make_fabric(settings: EngineSettings) -> Fabric:
    """Return a Fabric with the device and precision of the settings; each process of a node gets its own GPU if it can.

    Raises:
        UserError: there is no such device or precision.
    """
    torch.set_num_threads(settings.threads or threads())
    if settings.accelerator == "cuda" and not torch.cuda.is_available():
        raise UserError("engine.accelerator is cuda and no GPU is visible", "a CUDA device", "set engine.accelerator to cpu")
    if settings.precision in UNSUITED:
        required = "weights and images in single precision"
        raise UserError(f"engine.precision is '{settings.precision}'", required, "32-true, bf16-mixed or 16-mixed")
    accelerator = "cuda" if settings.accelerator != "cpu" and torch.cuda.is_available() else "cpu"
    devices = [rank_info().local % torch.cuda.device_count()] if accelerator == "cuda" else 1
    try:
        return Fabric(accelerator=accelerator, devices=devices, precision=settings.precision)  # type: ignore[arg-type]
    except (ValueError, ImportError) as error:
        raise UserError(f"engine.precision is '{settings.precision}'", "a precision of Lightning Fabric", str(error)) from error


def to_device(module: nn.Module, fabric: Fabric) -> nn.Module:
    """Move a module to the device, channels last, which is faster for 2-D convolutions on CPUs and GPUs."""
    return module.to(device=fabric.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def images_to(fabric: Fabric, images: Tensor) -> Tensor:
    """Move a batch to the device, channels last."""
    return images.to(fabric.device, memory_format=torch.channels_last)


def compiled(module: nn.Module, settings: EngineSettings) -> nn.Module:
    """Return the module, compiled if `engine.compile` is set."""
    return cast(nn.Module, torch.compile(module)) if settings.compile else module
