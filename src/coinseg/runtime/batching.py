"""Forward passes outside training, in parts that fit into memory; in training the batch is a setting (`errors.memory_for`)."""

import logging
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from coinseg.errors import out_of_memory

from .devices import CHUNK

LOG = logging.getLogger("coinseg")
T = TypeVar("T")


class _Limit:
    """The number of images that fit into memory, as far as is known."""

    images = CHUNK


def map_batched(work: Callable[[Tensor], T], images: Tensor, most: int = CHUNK) -> list[T]:
    """Call `work` on parts of at most `most` images (B, ...) and return its results in order.

    When memory runs out, parts are halved from then on with a warning; the error is raised only for a single image.
    """
    results: list[T] = []
    start = 0
    while start < len(images) or not results:
        part = images[start : start + min(most, _Limit.images)]
        try:
            results.append(work(part))
            start += len(part)
            continue
        except (MemoryError, RuntimeError) as error:
            if len(part) <= 1 or not out_of_memory(error):
                raise
        # Outside of the except block, in which the error keeps the memory in use.
        _Limit.images = len(part) // 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        LOG.warning("out of memory with %d images at a time: going on with %d", len(part), _Limit.images)
    return results
