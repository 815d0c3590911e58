"""Choose the device and precision (Lightning Fabric), and move modules and images there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, cast

import torch
from torch import Tensor, nn

from coinseg.config.schema import EngineSettings
from coinseg.errors import UserError

from .process_group import rank_info
from .threads import threads

if TYPE_CHECKING:
    from lightning_fabric import Fabric

CHUNK = 64
"""Images per forward pass outside training."""
UNSUITED = ("64-true", "64", "bf16-true", "16-true")
"""Precisions of Fabric that give trained weights another type than those of the frozen f."""


class HasDevice(Protocol):
    """What knows its device, as a Fabric does."""

    @property
    def device(self) -> torch.device: ...


def device_of(where: torch.device | HasDevice) -> torch.device:
    """Return the device itself, or that of a Fabric."""
    return where if isinstance(where, torch.device) else where.device


def _accelerator(settings: EngineSettings) -> str:
    """Set the threads; return "cuda" or "cpu"; `UserError` where there is no such device."""
    torch.set_num_threads(settings.threads or threads())
    if settings.accelerator == "cuda" and not torch.cuda.is_available():
        raise UserError("engine.accelerator is cuda and no GPU is visible", "a CUDA device", "set engine.accelerator to cpu")
    return "cuda" if settings.accelerator != "cpu" and torch.cuda.is_available() else "cpu"


def choose_device(settings: EngineSettings) -> torch.device:
    """Return the device of the settings, for work without training; each process of a node gets its own GPU if it can.

    Raises:
        UserError: there is no such device.
    """
    if _accelerator(settings) == "cpu":
        return torch.device("cpu")
    return torch.device("cuda", rank_info().local % torch.cuda.device_count())


def make_fabric(settings: EngineSettings) -> Fabric:
    """Return a Fabric with the device and precision of the settings; each process of a node gets its own GPU if it can.

    Raises:
        UserError: there is no such device or precision.
    """
    from lightning_fabric import Fabric  # it imports much that asking a trained model does not need

    accelerator = _accelerator(settings)
    if settings.precision in UNSUITED:
        required = "weights and images in single precision"
        raise UserError(f"engine.precision is '{settings.precision}'", required, "32-true, bf16-mixed or 16-mixed")
    devices = [rank_info().local % torch.cuda.device_count()] if accelerator == "cuda" else 1
    try:
        return Fabric(accelerator=accelerator, devices=devices, precision=settings.precision)  # type: ignore[arg-type]
    except (ValueError, ImportError) as error:
        raise UserError(f"engine.precision is '{settings.precision}'", "a precision of Lightning Fabric", str(error)) from error


def to_device(module: nn.Module, where: torch.device | HasDevice) -> nn.Module:
    """Move a module to the device, channels last, which is faster for 2-D convolutions on CPUs and GPUs."""
    return module.to(device=device_of(where)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def images_to(where: torch.device | HasDevice, images: Tensor) -> Tensor:
    """Move a batch to the device, channels last."""
    return images.to(device_of(where), memory_format=torch.channels_last)


def compiled(module: nn.Module, settings: EngineSettings) -> nn.Module:
    """Return the module, compiled if `engine.compile` is set."""
    return cast(nn.Module, torch.compile(module)) if settings.compile else module
