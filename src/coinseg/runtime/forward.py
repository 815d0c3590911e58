"""Forward passes outside training: images in batches that fit the device, results on the CPU."""

from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from .batching import map_batched
from .devices import CHUNK, images_to
from .threads import cpu_batch

T = TypeVar("T")


def forward(
    network: Callable[[Tensor], T], images: Tensor, device: torch.device, side: int | None = None, most: int = CHUNK
) -> list[T]:
    """Run a network on images, a batch at a time, without gradients, and return the results of the batches in order.

    Args:
        network: images (b, C, S, S) on the device -> anything.
        images: (B, C, S, S) in [-1, 1], on the CPU.
        device: where the network is.
        side: at which the network sees the images, where it enlarges them.
        most: images in one batch at most; on a CPU fewer where a batch would leave its caches.
    """
    most = cpu_batch(images, most, side) if device.type == "cpu" else most
    with torch.no_grad():
        return map_batched(lambda batch: network(images_to(device, batch)), images, most)


def forward_hflip(
    network: Callable[[Tensor], Tensor], images: Tensor, device: torch.device, side: int | None = None, most: int = CHUNK
) -> tuple[np.ndarray, np.ndarray]:
    """Maps (B, S, S) of images and of their mirror images, the latter mirrored back; see `forward`."""
    straight, flipped = (
        torch.cat([maps.cpu() for maps in forward(network, views, device, side, most)]) for views in (images, images.flip(-1))
    )
    return straight.numpy(), flipped.flip(-1).numpy()
