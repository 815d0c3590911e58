"""What suits the CPU: how many threads, by trying, because on a shared machine more can be far slower; how many images at once."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

from .files import read_json, write_json
from .process_group import cores

TURNS = 5
"""Tries of each number; the best counts."""
GAIN = 0.9
"""More threads are taken only when they need less than this share of the time."""
FILE = "threads.json"
CACHED_PIXELS = 2 * 256 * 256
"""Pixels of a batch on the CPU: the features of many more leave its caches, which costs time, and memory for nothing."""
_chosen: list[int] = []


def convolve_once() -> None:
    """A convolution forwards and backwards, of the kind training is made of; a few milliseconds on one thread."""
    x = torch.ones(4, 16, 64, 64).to(memory_format=torch.channels_last)
    with torch.enable_grad():  # a model may be loaded where somebody has switched gradients off
        weight = torch.ones(16, 16, 3, 3, requires_grad=True)
        F.conv2d(x, weight, padding=1).relu().sum().backward()  # type: ignore[no-untyped-call]


def quickest(available: int, work: Callable[[], None] = convolve_once, clock: Callable[[], float] = time.perf_counter) -> int:
    """1, 2, 4, ... or `available` threads: the number `work` is done quickest with, the smaller where the gain is small."""
    tried = sorted({2**i for i in range(available.bit_length()) if 2**i <= available} | {available})
    before, best, best_time = torch.get_num_threads(), 1, float("inf")
    try:
        for count in tried:
            torch.set_num_threads(count)
            work()
            times = []
            for _ in range(TURNS):
                began = clock()
                work()
                times.append(clock() - began)
            if min(times) < GAIN * best_time:
                best, best_time = count, min(times)
    finally:
        torch.set_num_threads(before)
    return best


def threads() -> int:
    """The number for this process, tried once; OMP_NUM_THREADS wins (torchrun sets it, and so can a user)."""
    if not _chosen:
        given = os.environ.get("OMP_NUM_THREADS", "")
        _chosen.append(int(given) if given.isdecimal() and int(given) else quickest(cores()))
    return _chosen[0]


def keep_threads(folder: Path) -> None:
    """Use the number a run folder was begun with, or note there the one that is chosen now.

    Threads decide in which order sums are rounded; a run that is resumed with the same number gives the same bytes as one that
    was never killed. A number that this machine does not have is chosen anew.
    """
    file = folder / FILE
    kept = int(read_json(file)["threads"]) if file.exists() else 0
    if not 0 < kept <= cores():
        write_json(file, {"threads": (kept := threads())})
    _chosen[:] = [kept]


def cpu_batch(x: torch.Tensor, most: int) -> int:
    """Images like x (B, C, H, W) in one forward pass: `most`, on a CPU at most `CACHED_PIXELS`; the results do not depend on it."""
    return most if x.is_cuda else max(1, min(most, CACHED_PIXELS // (x.shape[-2] * x.shape[-1])))
