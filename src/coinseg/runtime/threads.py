"""Number of CPU threads, found by timing because on a shared machine more can be slower, and images per batch on the CPU."""

import os
import time
import timeit
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

from .process_group import cores
from .records import read_record, write_record

TURNS = 5
"""Timings of each number of threads; the best counts."""
GAIN = 0.9
"""More threads are used only when they need less than this share of the time."""
FILE = "threads.json"
CACHED_PIXELS = 2 * 256 * 256
"""Pixels of a batch on the CPU; the features of many more do not fit into its caches."""
_chosen: list[int] = []


def convolve_once() -> None:
    """Compute a convolution forwards and backwards as in training; a few milliseconds on one thread."""
    x = torch.ones(4, 16, 64, 64).to(memory_format=torch.channels_last)
    with torch.enable_grad():  # a model may be loaded where somebody has switched gradients off
        weight = torch.ones(16, 16, 3, 3, requires_grad=True)
        F.conv2d(x, weight, padding=1).relu().sum().backward()  # type: ignore[no-untyped-call]


def quickest(available: int, work: Callable[[], None] = convolve_once, clock: Callable[[], float] = time.perf_counter) -> int:
    """Return the fastest of 1, 2, 4, ... and `available` threads for `work`, the smaller number when the gain is small."""
    tried = sorted({2**i for i in range(available.bit_length()) if 2**i <= available} | {available})
    previous, best, best_time = torch.get_num_threads(), 1, float("inf")
    try:
        for count in tried:
            torch.set_num_threads(count)
            work()
            fastest = min(timeit.repeat(work, timer=clock, repeat=TURNS, number=1))
            if fastest < GAIN * best_time:
                best, best_time = count, fastest
    finally:
        torch.set_num_threads(previous)
    return best


def threads() -> int:
    """Return the number of threads of this process: OMP_NUM_THREADS if set (torchrun sets it), else found once by `quickest`."""
    if not _chosen:
        given = os.environ.get("OMP_NUM_THREADS", "")
        _chosen.append(int(given) if given.isdecimal() and int(given) else quickest(cores()))
    return _chosen[0]


def keep_threads(folder: Path) -> None:
    """Use or record a run folder's number of threads: it decides the order of sums, so a resumed run has the same bytes."""
    file = folder / FILE
    kept = int(read_record(file, {"threads": int})["threads"]) if file.exists() else 0
    if not 0 < kept <= cores():
        write_record(file, {"threads": (kept := threads())})
    _chosen[:] = [kept]


def cpu_batch(x: torch.Tensor, most: int, side: int | None = None) -> int:
    """Return the images like x (B, C, H, W) per forward pass: `most`, on a CPU at most `CACHED_PIXELS` at the side seen."""
    pixels = x.shape[-2] * x.shape[-1] if side is None else side * side
    return most if x.is_cuda else max(1, min(most, CACHED_PIXELS // pixels))
