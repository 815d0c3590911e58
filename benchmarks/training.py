"""A training step of COIN: what `training.train_coin` does for a batch, against the same update as one would write it first."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.plain_networks import PlainClassifier, PlainDiscriminator, PlainGenerator
from benchmarks.timing import Row, in_turns, require_close, seconds
from coinseg.config.schema import ClassifierSettings, CoinSettings
from coinseg.explain.counterfactual import coin
from coinseg.explain.counterfactual.discriminator import Discriminator
from coinseg.explain.counterfactual.generator import Generator
from coinseg.networks.classifier import build

BATCH, SIZE = 8, 256
Step = Callable[[], dict[str, Tensor]]


def networks(s: CoinSettings, device: str = "cpu") -> tuple[tuple[nn.Module, ...], tuple[nn.Module, ...]]:
    """Generator, discriminator and f: plain ones, and coinseg's (channels last) with the same weights."""
    torch.manual_seed(0)
    ours = (Generator(s), Discriminator(s), build(ClassifierSettings()).frozen())
    nn.init.normal_(ours[0].head[2].weight, 0, 0.05)  # a generator that changes something
    plain = (PlainGenerator(s), PlainDiscriminator(s), PlainClassifier(ClassifierSettings().pooling).eval().requires_grad_(False))
    for one, other in zip(plain, ours, strict=True):
        one.load_state_dict(other.state_dict())
        one.to(device)
        other.to(device).to(memory_format=torch.channels_last)
    return plain, ours


def optimisers(s: CoinSettings, *modules: nn.Module) -> list[torch.optim.Optimizer]:
    """Adam for each."""
    return [torch.optim.Adam(m.parameters(), lr=s.lr, betas=(s.beta1, s.beta2)) for m in modules]


def plain_step(x: Tensor, s: CoinSettings, g: nn.Module, d: nn.Module, f: nn.Module) -> Step:
    """The update as written first: the discriminator collects gradients it throws away, averages go weight by weight."""
    (g_optimiser, d_optimiser), kept = optimisers(s, g, d), copy.deepcopy(g)

    def step() -> dict[str, Tensor]:
        made = coin.generate(x, g, f, s)
        terms = coin.generator_losses(x, made, g, d, f, s)
        g_optimiser.zero_grad()
        sum(terms.values()).backward()  # type: ignore[union-attr]
        g_optimiser.step()
        with torch.no_grad():
            for mean, now in zip(kept.state_dict().values(), g.state_dict().values(), strict=True):
                if mean.is_floating_point():
                    mean.mul_(s.ema).add_(now, alpha=1 - s.ema)
        loss = coin.discriminator_loss(x, made, d)
        d_optimiser.zero_grad()
        loss.backward()
        d_optimiser.step()
        values = {**terms, "discriminator": loss}
        [value.item() for value in values.values()]
        return values

    return step


def our_step(x: Tensor, s: CoinSettings, g: nn.Module, d: nn.Module, f: nn.Module) -> Step:
    """The body of the loop of `train_coin`."""
    (g_optimiser, d_optimiser), kept = (
        optimisers(s, g, d),
        AveragedModel(g, multi_avg_fn=get_ema_multi_avg_fn(s.ema), use_buffers=True),
    )
    x = x.contiguous(memory_format=torch.channels_last)

    def step() -> dict[str, Tensor]:
        d.requires_grad_(False)
        made = coin.generate(x, g, f, s)
        terms = coin.generator_losses(x, made, g, d, f, s)
        g_optimiser.zero_grad()
        torch.stack(list(terms.values())).sum().backward()
        g_optimiser.step()
        d.requires_grad_(True)
        kept.update_parameters(g)
        loss = coin.discriminator_loss(x, made, d)
        d_optimiser.zero_grad()
        loss.backward()
        d_optimiser.step()
        return {**terms, "discriminator": loss}

    return step


def synchronised(step: Step, device: str) -> Callable[[], None]:
    """A step that has ended when it returns, also on a GPU."""

    def whole() -> None:
        step()
        if device != "cpu":
            torch.cuda.synchronize()

    return whole


def rate(work: Callable[[], object], products: float, device: str) -> float:
    """Floating-point operations a second of some work, the best of three."""
    done = synchronised(lambda: {"": torch.zeros(())} if work() is None else {}, device)
    done()
    return products / min(seconds(done) for _ in range(3))


def of_device(device: str, side: int, width: int, compiled: bool = True) -> Row:
    """On a GPU: bf16, channels last and compiled, against plain fp32; with the share of what matrix products reach there."""
    x = torch.rand(BATCH, 1, side, side, generator=torch.Generator().manual_seed(1)).to(device) * 2 - 1
    s = replace(CoinSettings(), width=width, discriminator_width=width)
    plain, (g, d, f) = networks(s, device)
    one = plain_step(x, s, *plain)
    inner = our_step(x, s, torch.compile(g) if compiled else g, d, torch.compile(f) if compiled else f)

    def other() -> dict[str, Tensor]:
        with torch.autocast(torch.device(device).type, torch.bfloat16):
            return inner()

    with FlopCounterMode(display=False) as counter:
        plain_step(x, s, *networks(s, device)[0])()
    times = in_turns(synchronised(one, device), synchronised(other, device), 5)
    n = 4096 if device != "cpu" else 256
    a = torch.rand(n, n, device=device, dtype=torch.bfloat16)
    share = counter.get_total_flops() / times[1] / rate(lambda: a @ a, 2 * n**3, device)
    note = (
        f"{BATCH} images {side}x{side}, bf16, channels last, compiled, against plain fp32; {share:.1%} of the rate of bf16 "
        "matrix products there"
    )
    return Row(f"training step on {device}, width {width}", *times, 3.0, note)


def rows(quick: bool) -> Iterator[Row]:
    """The step at the default width, and at twice that; on a GPU, where there is one, at that of the thesis."""
    if torch.cuda.is_available():
        yield of_device("cuda", SIZE, 16 if quick else 64)
    else:
        yield Row("training step on cuda", None, None, 3.0, "no GPU at hand: not measured")
    x = torch.rand(BATCH, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(1)) * 2 - 1
    for width in (8,) if quick else (8, 16):
        s = replace(CoinSettings(), width=width, discriminator_width=width)
        plain, ours = networks(s)
        one, other = plain_step(x, s, *plain), our_step(x, s, *ours)
        a, b = one(), other()
        error = max(abs(a[name].item() - b[name].item()) / max(1.0, abs(a[name].item())) for name in a)
        agreed = require_close("training step", error, 1e-3)
        times = in_turns(one, other, 2 if quick else 5)
        yield Row(
            f"training step, width {width}",
            *times,
            1.5,
            f"{BATCH} images {SIZE}x{SIZE}, depth {s.depth}, fp32, both networks updated; losses {agreed}",
        )
