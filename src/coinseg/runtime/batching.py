"""Outside training: as many images at a time as the memory holds. What a training step holds is a setting (`errors.memory_for`)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from coinseg.errors import out_of_memory

from .devices import CHUNK

LOG = logging.getLogger("coinseg")
T = TypeVar("T")


class _Room:
    """How many images fit into the memory of this process, as far as is known."""

    images = CHUNK


def map_batched(work: Callable[[Tensor], T], images: Tensor, most: int = CHUNK) -> list[T]:
    """`work` on parts of at most `most` images (B, ...), one after the other; its results in order.

    Where the memory does not suffice parts are halved from then on, and this is said; only a single image is too much.
    """
    found: list[T] = []
    start = 0
    while start < len(images) or not found:
        part = images[start : start + min(most, _Room.images)]
        try:
            found.append(work(part))
            start += len(part)
            continue
        except (MemoryError, RuntimeError) as error:
            if len(part) <= 1 or not out_of_memory(error):
                raise
        # Here and not above, where the error holds on to what filled the memory.
        _Room.images = len(part) // 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        LOG.warning("out of memory with %d images at a time: going on with %d", len(part), _Room.images)
    return found
