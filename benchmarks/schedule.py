"""Wall time until the masks are as good: the thesis' schedule with plain modules against coinseg's.

The thesis updates the generator at every fifth step of the discriminator, at one learning rate; coinseg at every step. Both have
the same initial weights, batches, f and losses. Every few updates the averaged generator is scored on held-out anomalies, by the
pooled IoU at the best threshold; the time of scoring is not counted. Takes minutes: only with --long.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.timing import Row, in_turns
from benchmarks.training import networks, optimisers
from coinseg.config.schema import AnomalySettings, CoinSettings
from coinseg.data.slices.synthetic_anomaly import inject
from coinseg.explain.counterfactual import coin
from coinseg.metrics import overlap as metrics

SIZE, BATCH, LOOK = 32, 8, 25
GOAL, MOST = 0.4, 600
"""The IoU to reach, and the updates of the generator after which it is given up."""
LEVELS = np.linspace(0.02, 0.4, 20)


def slices(count: int, seed: int) -> tuple[Tensor, Tensor, np.ndarray]:
    """Smooth noise with the thesis' anomaly in two of three images: (n, 1, S, S) in [-1, 1], labels (n,), masks (n, S, S)."""
    rng, images, masks = np.random.default_rng(seed), [], []
    settings = AnomalySettings(kind="blob", template=10)
    for _ in range(count):
        ground = F.interpolate(torch.from_numpy(rng.uniform(0.2, 0.6, (1, 1, 6, 6))), size=(SIZE, SIZE), mode="bicubic")
        image = np.clip(ground[0, 0].numpy() + rng.normal(0, 0.02, (SIZE, SIZE)), 0, 1).astype(np.float32)
        image, mask = inject(image, np.ones((SIZE, SIZE), bool), settings, rng)
        images.append(image)
        masks.append(mask)
    truth = np.stack(masks)
    return torch.from_numpy(np.stack(images)).float()[:, None] * 2 - 1, torch.from_numpy(truth.any((1, 2))).float(), truth


def train_f(f: nn.Module, images: Tensor, labels: Tensor) -> None:
    """A few hundred steps; both sides ask the same f."""
    optimiser, rng = torch.optim.Adam(f.train().requires_grad_(True).parameters(), lr=2e-3), np.random.default_rng(2)
    for _ in range(200):
        members = rng.integers(0, len(images), 16)
        optimiser.zero_grad()
        F.binary_cross_entropy_with_logits(f(images[members]).flatten(), labels[members]).backward()
        optimiser.step()
    f.eval().requires_grad_(False)


def step_of(g: nn.Module, d: nn.Module, f: nn.Module, kept: nn.Module, s: CoinSettings) -> Callable[[Tensor, int], None]:
    """One step of the discriminator, and of the generator at every `generator_every`-th."""
    g_optimiser, d_optimiser = optimisers(s, g.train(), d.train())

    def step(x: Tensor, number: int) -> None:
        made = coin.generate(x, g, f, s)
        if number % s.generator_every == 0:
            d.requires_grad_(False)
            g_optimiser.zero_grad()
            torch.stack(list(coin.generator_losses(x, made, g, d, f, s).values())).sum().backward()
            g_optimiser.step()
            d.requires_grad_(True)
            with torch.no_grad():
                for mean, now in zip(kept.state_dict().values(), g.state_dict().values(), strict=True):
                    if mean.is_floating_point():
                        mean.mul_(s.ema).add_(now, alpha=1 - s.ema)
        d_optimiser.zero_grad()
        coin.discriminator_loss(x, made, d).backward()
        d_optimiser.step()

    return step


@torch.no_grad()
def score(kept: nn.Module, images: Tensor, truth: np.ndarray) -> float:
    """Pooled IoU at the best threshold."""
    change = coin.difference(images, kept.eval()(images).clamp(-1, 1)).numpy()
    return max(metrics.pooled_iou(change > level, truth) or 0.0 for level in LEVELS)


def until(
    nets: tuple[nn.Module, ...], s: CoinSettings, images: Tensor, held: tuple[Tensor, np.ndarray]
) -> tuple[float, int, float]:
    """Seconds, updates of the generator and IoU when the goal is reached or given up."""
    g, d, f = nets
    kept, rng = copy.deepcopy(g), np.random.default_rng(3)
    step, spent, number, reached = step_of(g, d, f, kept, s), 0.0, 0, 0.0
    while number < MOST * s.generator_every and reached < GOAL:
        began = time.perf_counter()
        for _ in range(LOOK * s.generator_every):
            step(images[rng.integers(0, len(images), BATCH)], number)
            number += 1
        spent += time.perf_counter() - began
        reached = score(kept, *held)
    return spent, number // s.generator_every, reached


def of_one_update(quick: bool) -> Row:
    """At the size of the thesis: one update of the generator, with the steps of the discriminator that its schedule adds."""
    large = torch.rand(BATCH, 1, 256, 256, generator=torch.Generator().manual_seed(1)) * 2 - 1
    s = CoinSettings()
    thesis, (plain, ours) = replace(s, generator_every=5), networks(s)
    one, other = (step_of(*nets, copy.deepcopy(nets[0]), of) for nets, of in ((plain, thesis), (ours, s)))
    last = large.contiguous(memory_format=torch.channels_last)
    times = in_turns(lambda: [one(large, n) for n in range(5)], lambda: other(last, 0), 1 if quick else 2)
    return Row(
        "an update of the generator, 256x256",
        *times,
        5.0,
        f"{BATCH} images, width {s.width}; five steps of the discriminator against one",
    )


def rows(quick: bool) -> Iterator[Row]:
    """One goal, two ways."""
    images, labels, _ = slices(400, 0)
    held_images, _, truth = slices(100, 1)
    s = replace(CoinSettings(), depth=3, discriminator_depth=3, skips=2)
    plain, ours = networks(s)
    train_f(ours[2], images, labels)
    plain[2].load_state_dict(ours[2].state_dict())
    last = images.contiguous(memory_format=torch.channels_last)
    ours_s, ours_updates, ours_iou = until(ours, s, last, (held_images, truth))
    thesis = replace(s, generator_every=5)
    plain_s, plain_updates, plain_iou = until(plain, thesis, images, (held_images, truth))
    note = (
        f"{SIZE}x{SIZE}, {BATCH} images, to IoU {GOAL:g} (oracle, held out): {ours_updates} updates of the generator "
        f"(IoU {ours_iou:.2f}) against "
        f"{plain_updates} (IoU {plain_iou:.2f}) and five times as many of the discriminator"
    )
    yield of_one_update(quick)
    yield Row("to the same IoU", plain_s if plain_iou >= GOAL else None, ours_s if ours_iou >= GOAL else None, 5.0, note)
