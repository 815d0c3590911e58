"""What each form of the two exact rewrites costs (`networks/layers.py`): plain layers, a widened kernel, a kernel as it is.

CPU milliseconds in one thread, the least of turns in turn, of a step (both passes) and of the forward pass alone. The constants
`SMALL` and `NARROW` of `layers.py` are read off this table. `python -m benchmarks.forms`
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from coinseg.networks import layers

Form = Callable[[Tensor, torch.nn.Module], Tensor]
CASES = {
    "pool": ((16, 16, 64, 1), (16, 16, 64, 8), (16, 16, 256, 2), (32, 32, 32, 1), (32, 32, 32, 8), (64, 64, 16, 1), (64, 64, 16, 8),
             (128, 128, 8, 1), (128, 128, 8, 8), (128, 128, 4, 1), (256, 256, 16, 1), (512, 512, 8, 1), (512, 512, 8, 8),
             (1024, 1024, 4, 1), (1024, 1024, 4, 8)),
    "up": ((16, 8, 128, 2), (32, 8, 32, 1), (32, 8, 32, 8), (64, 16, 16, 1), (64, 16, 16, 8), (128, 32, 8, 1), (128, 32, 8, 8),
           (128, 64, 4, 1), (128, 64, 4, 8), (192, 64, 32, 1), (384, 128, 16, 1), (768, 256, 8, 1), (768, 256, 8, 8),
           (1536, 512, 4, 1), (1024, 1024, 2, 1)),
}  # fmt: skip
"""Inputs, outputs, side and batch."""
PLAIN: dict[str, Form] = {
    "pool": lambda x, conv: F.avg_pool2d(conv(x), 2),
    "up": lambda x, conv: conv(F.interpolate(x, scale_factor=2.0)),
}
REWRITTEN: dict[str, Form] = {"pool": layers.convolve_then_pool, "up": layers.upsample_then_convolve}


def forms(kind: str) -> dict[str, Form]:
    """The forms by name; the switches of `layers` are set for each call."""

    def switched(narrow: int) -> Form:
        def form(x: Tensor, conv: torch.nn.Module) -> Tensor:
            layers.NARROW, layers.SMALL = narrow, 0
            return REWRITTEN[kind](x, conv)

        return form

    return {"plain": PLAIN[kind], "widened": switched(2**62), "as it is": switched(0)}


def seconds(form: Form, x: Tensor, conv: torch.nn.Module, train: bool) -> float:
    """CPU seconds of one call."""
    began = time.process_time()
    with torch.set_grad_enabled(train):
        found = form(x, conv)
        if train:
            found.sum().backward()
    return time.process_time() - began


def main() -> None:
    """The table."""
    torch.set_num_threads(1)
    print("| layer | inputs, outputs, side, batch | step: plain, widened, as it is (ms) | forward (ms) |\n|---|---|---|---|")
    for kind, cases in CASES.items():
        for inputs, outputs, side, batch in cases:
            conv = layers.convolution(2, inputs, outputs).to(memory_format=torch.channels_last)
            x = torch.rand(batch, inputs, side, side).contiguous(memory_format=torch.channels_last).requires_grad_()
            shown = []
            for train in (True, False):
                turns = [[seconds(form, x, conv, train) for form in forms(kind).values()] for _ in range(4)]
                shown.append(", ".join(f"{1e3 * min(times):.3g}" for times in zip(*turns, strict=True)))
            print(f"| {kind} | {inputs}, {outputs}, {side}, {batch} | {' | '.join(shown)} |", flush=True)


if __name__ == "__main__":
    main()
