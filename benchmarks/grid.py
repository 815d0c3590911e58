"""Training steps and counterfactuals at widths 8 to 64, sides 64 to 256 and batches 1 to 16, against two plain versions.

*plain*: coinseg's default networks of plain modules (`plain_networks.py`). *authors*: the thesis' networks (`--preset thesis`,
at the width of the cell), whose layers stand in the authors' order: upsample, then convolve, the 1x1 shortcut too; convolve,
then pool. Both have coinseg's weights. A ratio is of CPU seconds in one thread, the least of turns taken one by one, so that
other work on the machine slows all alike; a cell whose plain step is larger than `MOST` is left out.

    python -m benchmarks.grid            all cells that fit
    python -m benchmarks.grid --quick    four of them
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from types import MethodType

import torch
from torch import Tensor, nn

from benchmarks.plain_networks import PlainDiscriminator, PlainGenerator
from coinseg.config.parsing import PRESETS
from coinseg.config.schema import CoinSettings
from coinseg.explain.counterfactual import losses
from coinseg.explain.counterfactual.discriminator import Discriminator
from coinseg.explain.counterfactual.generator import Generator
from coinseg.networks.layers import ResidualBlock
from coinseg.runtime.devices import to_device

WIDTHS, SIDES, BATCHES = (8, 16, 32, 64), (64, 128, 256), (1, 8, 16)
QUICK = ((8, 64, 1), (8, 128, 8), (16, 64, 8), (64, 64, 1))
MOST = 2.0**24
"""Width^2 x side^2 x batch of the largest cell: a training step of some ten seconds of one busy core."""
Pair = tuple[nn.Module, nn.Module]


@dataclass(frozen=True)
class Cell:
    """CPU seconds of one cell: plain and ours, of the step and of the counterfactual."""

    against: str
    width: int
    side: int
    batch: int
    step: tuple[float, float]
    inference: tuple[float, float]

    @property
    def ratios(self) -> tuple[float, float]:
        """How many times faster than plain: the step, the counterfactual."""
        return self.step[0] / self.step[1], self.inference[0] / self.inference[1]


def in_order(module: nn.Module) -> nn.Module:
    """The same network, every block of it in the authors' order."""
    for block in module.modules():
        if isinstance(block, ResidualBlock):
            block.forward = MethodType(_forward, block)  # type: ignore[method-assign]
    return module


def _forward(block: ResidualBlock, x: Tensor, condition: Tensor | None = None) -> Tensor:
    conditions = (condition,) if block.conditional else ()
    first, last = (block.down, nn.Identity()) if block.resample == "pool_first" else (block.up, block.down)
    branch = block.norm1(x, *conditions)
    branch = block.conv1(first(torch.relu(branch) if block.activate_input else branch))
    branch = last(block.conv2(torch.relu(block.norm2(branch, *conditions))))
    return branch + last(block.shortcut(first(x)))


def settings_of(against: str, width: int) -> CoinSettings:
    """The networks of a cell; at side 64 the thesis' depth 5 leaves 2 x 2 pixels."""
    if against == "plain":
        return replace(CoinSettings(), width=width, discriminator_width=width)
    return replace(PRESETS["thesis"].coin, width=width, discriminator_width=width, informed=False)


def networks(against: str, s: CoinSettings) -> tuple[Pair, Pair]:
    """Generator and discriminator, plain and coinseg's, with the same weights."""
    torch.manual_seed(0)
    ours = Generator(s), Discriminator(s)
    plain = (
        (PlainGenerator(s), PlainDiscriminator(s)) if against == "plain" else (in_order(Generator(s)), in_order(Discriminator(s)))
    )
    for one, other in zip(plain, ours, strict=True):
        one.load_state_dict(other.state_dict())
        to_device(other, torch.device("cpu"))
    return plain, ours


def step(pair: Pair, x: Tensor) -> None:
    """The gradients of one step of both networks, without f and the optimisers, which are the same on both sides."""
    g, d = pair
    made = g(x)
    d.requires_grad_(False)
    (losses.generator_adversarial(d(made)) + losses.reconstruction(x, made)).backward()
    d.requires_grad_(True)
    losses.discriminator_adversarial(d(x), d(made.detach())).backward()


@torch.no_grad()
def counterfactual(pair: Pair, x: Tensor) -> None:
    """X_cf in evaluation mode."""
    pair[0](x)


def least(works: tuple[Callable[[], None], Callable[[], None]], turns: int) -> tuple[float, float]:
    """CPU seconds of both, the least of turns taken in turn; the first of each warms up where there are several."""
    found: list[tuple[float, ...]] = []
    for _ in range(turns):
        seconds = []
        for work in works:
            began = time.process_time()
            work()
            seconds.append(time.process_time() - began)
        found.append(tuple(seconds))
    return min(one for one, _ in found), min(other for _, other in found)


def cell(against: str, width: int, side: int, batch: int, turns: int) -> Cell:
    """Both works at one place of the grid."""
    plain, ours = networks(against, settings_of(against, width))
    x = torch.rand(batch, 1, side, side, generator=torch.Generator().manual_seed(1)) * 2 - 1
    last = x.contiguous(memory_format=torch.channels_last)
    taken = least((lambda: step(plain, x), lambda: step(ours, last)), turns)
    for module in (*plain, *ours):
        module.eval()
    asked = least((lambda: counterfactual(plain, x), lambda: counterfactual(ours, last)), turns)
    return Cell(against, width, side, batch, taken, asked)


def cells(quick: bool, most: float = MOST) -> Iterator[tuple[int, int, int]]:
    """The places of the grid that are measured, cheap ones first."""
    every = QUICK if quick else tuple((w, s, b) for w in WIDTHS for s in SIDES for b in BATCHES)
    yield from sorted((c for c in every if c[0] ** 2 * c[1] ** 2 * c[2] <= most), key=lambda c: c[0] ** 2 * c[1] ** 2 * c[2])


def main() -> None:
    """The table, and the least and the median of its ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="four cells")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--most", type=float, default=MOST, help="width^2 x side^2 x batch of the largest cell")
    given = parser.parse_args()
    torch.set_num_threads(1)
    print("| against | width | side | batch | step: plain s | coinseg s | ratio | inference: plain s | coinseg s | ratio |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    found: list[Cell] = []
    for place in cells(given.quick, given.most):
        for against in ("plain", "authors"):
            one = cell(against, *place, given.turns)
            found.append(one)
            (a, b), (c, d) = one.step, one.inference
            shown = [f"{a:.3g}", f"{b:.3g}", f"**{one.ratios[0]:.2f}**", f"{c:.3g}", f"{d:.3g}", f"**{one.ratios[1]:.2f}**"]
            print(f"| {against} | {' | '.join(map(str, place))} | {' | '.join(shown)} |", flush=True)
    for name, number in (("step", 0), ("inference", 1)):
        ratios = [one.ratios[number] for one in found]
        print(f"\n{name}: {len(ratios)} cells, least {min(ratios):.2f}, median {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
