"""Choose the device and precision (Lightning Fabric), and move modules and images there."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Protocol, cast

import torch
from torch import Tensor, nn

from coinseg.config.reading import refuse
from coinseg.config.rules import of_engine
from coinseg.config.schema import EngineSettings
from coinseg.errors import UserError

from .process_group import rank_info
from .threads import threads

if TYPE_CHECKING:
    from lightning_fabric import Fabric

CHUNK = 64
"""Images per forward pass outside training."""
WIDEST = 512 * 512
"""Products of input and output channels of the widest kernel (larger than 1x1) of the ResNets; above it see `to_device`."""


class HasDevice(Protocol):
    """What knows its device, as a Fabric does."""

    @property
    def device(self) -> torch.device: ...


def device_of(where: torch.device | HasDevice) -> torch.device:
    """Return the device itself, or that of a Fabric."""
    return where if isinstance(where, torch.device) else where.device


def choose_device(settings: EngineSettings) -> torch.device:
    """Set the threads and return the device (`UserError` without it); each process of a node gets its own GPU if it can."""
    torch.set_num_threads(settings.threads or threads())
    if settings.accelerator == "cuda" and not torch.cuda.is_available():
        raise UserError("engine.accelerator is cuda and no GPU is visible", "a CUDA device", "set engine.accelerator to cpu")
    if settings.accelerator == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", rank_info().local % torch.cuda.device_count())


def make_fabric(settings: EngineSettings) -> Fabric:
    """Return a Fabric with the device (`choose_device`) and precision of the settings; `UserError` where there is none such."""
    from lightning_fabric import Fabric  # it imports much that asking a trained model does not need

    device = choose_device(settings)
    refuse(of_engine(settings))
    devices = 1 if device.index is None else [device.index]
    try:
        return Fabric(accelerator=device.type, devices=devices, precision=settings.precision)  # type: ignore[arg-type]
    except (ValueError, ImportError) as error:
        raise UserError(f"engine.precision is '{settings.precision}'", "a precision of Lightning Fabric", str(error)) from error


def peak_memory_gb(device: torch.device) -> float:
    """The most memory so far in GB (10^9 bytes): of tensors on a GPU, else of the process; 0 where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def to_device(module: nn.Module, where: torch.device | HasDevice) -> nn.Module:
    """Move a module to the device, channels last, which is faster for 2-D convolutions on CPUs and GPUs.

    On a CPU a module with a kernel wider than `WIDEST` stays as it is: what its kernels cost outweighs its maps.
    """
    module, device = module.to(device=device_of(where)), device_of(where)
    kernels = (p for p in module.parameters() if p.ndim == 4 and p.shape[-1] > 1)
    if device.type == "cpu" and any(kernel.shape[0] * kernel.shape[1] > WIDEST for kernel in kernels):
        return module
    return module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def images_to(where: torch.device | HasDevice, images: Tensor) -> Tensor:
    """Move a batch to the device, channels last."""
    return images.to(device_of(where), memory_format=torch.channels_last)


def compiled(module: nn.Module, settings: EngineSettings) -> nn.Module:
    """Return the module, compiled if `engine.compile` is set."""
    return cast(nn.Module, torch.compile(module)) if settings.compile else module
