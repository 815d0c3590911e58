"""LayerCAM, ScoreCAM and RISE for one image after another, against the papers' algorithms as one would write them first."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import spearmanr
from torch import Tensor, nn

from benchmarks.plain_networks import PlainClassifier
from benchmarks.timing import Row, in_turns
from coinseg.config.schema import AttributionSettings, ClassifierSettings
from coinseg.explain import attribution
from coinseg.explain.attribution.rise import cell_side, random_grids
from coinseg.networks.classifier import build

SIZE = 256
CORRELATION = 0.99


def stretched(maps: Tensor) -> Tensor:
    """(H, W) to [0, 1]."""
    return (maps - maps.min()) / (maps.max() - maps.min()).clamp(min=1e-12)


def plain_layercam(f: nn.Module, x: Tensor, layer: nn.Module) -> Tensor:
    """Image by image: forward and backward hooks and a whole backward pass."""
    maps = []
    for image in x:
        found: dict[str, Tensor] = {}
        handles = [
            layer.register_forward_hook(lambda _m, _i, out, found=found: found.update(a=out)),
            layer.register_full_backward_hook(lambda _m, _i, out, found=found: found.update(g=out[0])),
        ]
        f.zero_grad()
        f(image[None].clone().requires_grad_()).sum().backward()
        [handle.remove() for handle in handles]
        small = (found["g"].relu() * found["a"]).sum(1, keepdim=True).relu().detach()
        maps.append(stretched(F.interpolate(small, size=image.shape[-2:], mode="bilinear")[0, 0]))
    return torch.stack(maps)


@torch.no_grad()
def plain_scorecam(f: nn.Module, x: Tensor, layer: nn.Module) -> Tensor:
    """Image by image and channel by channel, one forward pass each."""
    maps = []
    for image in x:
        found: list[Tensor] = []
        handle = layer.register_forward_hook(lambda _m, _i, out, found=found: found.append(out.clone()))
        f(image[None])
        handle.remove()
        a = found[0]
        masks = [stretched(m) for m in F.interpolate(a, size=image.shape[-2:], mode="bilinear")[0]]
        scores = torch.stack([f((image[None] + 1) * mask - 1)[0] for mask in masks])
        small = torch.einsum("c,chw->hw", scores.softmax(0), a[0]).relu()
        maps.append(stretched(F.interpolate(small[None, None], size=image.shape[-2:], mode="bilinear")[0, 0]))
    return torch.stack(maps)


@torch.no_grad()
def plain_rise(f: nn.Module, x: Tensor, settings: AttributionSettings, seed: int) -> Tensor:
    """All masks at full resolution first, as in the paper's code; then f on 100 at a time, image by image."""
    side = x.shape[-1]
    grids, shifts = random_grids(settings, (side, side), seed)
    stretch = (settings.grid + 1) * cell_side(side, settings.grid)
    large = (F.interpolate(g[None, None].float(), size=(stretch, stretch), mode="bilinear")[0, 0] for g in grids)
    masks = torch.stack([m[r : r + side, c : c + side] for m, (r, c) in zip(large, shifts.tolist(), strict=True)])
    maps = []
    for image in x:
        scores = torch.cat([f((image + 1) * part[:, None] - 1).sigmoid() for part in masks.split(100)])
        maps.append(stretched((scores[:, None, None] * masks).sum(0) / (len(masks) * settings.probability)))
    return torch.stack(maps)


def image_like(count: int, side: int) -> Tensor:
    """Images with a bright disc on structured noise, (count, 1, side, side) in [-1, 1]."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:side, :side] / side
    made = []
    for _ in range(count):
        a, b = rng.uniform(0.25, 0.75, 2)
        disc = ((y - a) ** 2 + (x - b) ** 2 < 0.01) * 0.8
        made.append(np.clip(-0.4 + 0.3 * np.sin(9 * x + 7 * y) + disc + rng.normal(0, 0.05, y.shape), -1, 1))
    return torch.from_numpy(np.stack(made).astype(np.float32))[:, None]


def classifiers(name: str) -> tuple[nn.Module, nn.Module]:
    """f as one would write it first and as coinseg has it, with the same random weights."""
    torch.manual_seed(0)
    ours = build(ClassifierSettings(name=name)).frozen()
    if name == "local":
        plain: nn.Module = PlainClassifier(ClassifierSettings().pooling)
    else:
        plain = build(ClassifierSettings(name=name))
    plain.load_state_dict(ours.state_dict())
    return plain.eval(), ours.to(memory_format=torch.channels_last)


def correlation(one: Tensor, other: Tensor) -> float:
    """The lowest rank correlation of the maps of an image."""
    return min(spearmanr(a.flatten(), b.flatten()).statistic for a, b in zip(one.numpy(), other.numpy(), strict=True))


def compared(name: str, plain: Callable[[], Tensor], ours: Callable[[], Tensor], turns: int, floor: float, note: str) -> Row:
    """One row, after the maps have been held against each other."""
    agree = correlation(plain(), ours())
    if not agree >= CORRELATION:
        raise SystemExit(f"{name}: rank correlation {agree:.4f}, less than {CORRELATION}")
    times = in_turns(plain, ours, turns)
    return Row(name, *times, floor, f"{note}; rank correlation {math.floor(agree * 1e4) / 1e4:.4f}")


def of_classifier(name: str, quick: bool) -> Iterator[Row]:
    """The three methods for one f."""
    plain, ours = classifiers(name)
    many, one = image_like(8, SIZE), image_like(1, SIZE)
    last = attribution.candidate_layers(ours, one)[-1]
    layer, s, what = plain.get_submodule(last), AttributionSettings(layer=last, masks=100 if quick else 200), f"{SIZE}x{SIZE}"
    yield compared(
        f"LayerCAM, {name}",
        lambda: plain_layercam(plain, many, layer),
        lambda: attribution.saliency("layercam", ours, many, s, 0),
        *(3, 2.0, f"{what}, 8 images"),
    )
    yield compared(
        f"ScoreCAM, {name}",
        lambda: plain_scorecam(plain, one, layer),
        lambda: attribution.saliency("scorecam", ours, one, s, 0),
        *(1, 2.0, f"{what}, 1 image, a forward pass for each channel"),
    )
    yield compared(
        f"RISE, {name}",
        lambda: plain_rise(plain, one, s, 0),
        lambda: attribution.saliency("rise", ours, one, s, 0),
        *(1, 4.0, f"{what}, 1 image, the same {s.masks} masks (time is proportional to their number)"),
    )


def rows(quick: bool) -> Iterator[Row]:
    """For coinseg's default f and for a ResNet18, as in the thesis; then the memory of RISE."""
    for name in ("local",) if quick else ("local", "resnet18"):
        yield from of_classifier(name, quick)
    words = [sys.executable, "-m", "benchmarks.attribution", "300" if quick else "6000"]
    before, after = map(float, subprocess.run(words, check=True, capture_output=True, text=True).stdout.split())
    yield Row(
        f"RISE's memory, {words[-1]} masks",
        None,
        (after - before) / 300,
        1.0,
        f"{after - before:.0f} MB of at most 300 above the {before:.0f} MB of a process that has asked f once (256x256, "
        "f local); the figure is their share",
    )


def peak() -> float:
    """The most MB this process has held (Linux; ru_maxrss would start from that of the parent)."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6


def memory(masks: int) -> None:
    """Print the peak MB of this process before and after RISE on one image."""
    torch.set_num_threads(1)
    ours, x = classifiers("local")[1], image_like(1, SIZE)
    with torch.no_grad():
        ours(x)
    before = peak()
    attribution.rise(ours, x, replace(AttributionSettings(), masks=masks), 0)
    print(before, peak())


if __name__ == "__main__":
    memory(int(sys.argv[1]))
