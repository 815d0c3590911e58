"""`coinseg doctor`: what coinseg stands on here, and whether it works: a training of seconds on images whose masks are known."""

import os
import platform
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from coinseg.errors import EXTRAS
from coinseg.runtime.process_group import cores

LIBRARIES = ("torch", "numpy", "scipy", "timm", "kornia", "lightning-fabric", "nibabel", "pillow")
ROOM_GB, MEMORY_GB = 2.0, 3.0
"""Free disk and memory below which a run of the default size is likely to stop."""
GROUP_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")
GROUP_2 = ("memory.max", "memory.current", "")
"""Of a control group of version 1 and 2: the files of its limit and its use, and how names of the cache in memory.stat begin."""
SIDE, IMAGES, HELD_OUT, LEAST = 32, 96, 32, 0.5
"""Of the self-test: side of an image in pixels, images to train on and to mark, and the IoU that must be reached."""


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, what was found, and whether that is in order (None: nothing to judge)."""

    name: str
    found: str
    good: bool | None = None


def findings(selftest: bool = True) -> Iterator[Finding]:
    """Everything, in the order in which it is found out; the self-test comes last."""
    yield Finding(
        "coinseg", f"{version('coinseg')}, Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    )
    yield Finding("libraries", ", ".join(f"{name} {_version(name)}" for name in LIBRARIES))
    for name, (what, modules) in EXTRAS.items():
        there = all(find_spec(module) is not None for module in modules)
        yield Finding(f"[{name}]", f"there, for {what}" if there else f"not there: {what}; pip install 'coinseg[{name}]'")
    yield from _devices()
    memory = memory_gb()
    yield Finding(
        "memory", f"{memory:.1f} GB free" if memory else "not known here", None if memory is None else memory > MEMORY_GB
    )
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    yield Finding("disk", f"{free:.1f} GB free in {Path.cwd()}", free > ROOM_GB)
    yield Finding("terminal", f"output is {sys.stdout.encoding}", sys.stdout.encoding.lower().replace("-", "") == "utf8")
    if selftest:
        yield _selftest()


def lines(found: Finding) -> str:
    """A finding for a person."""
    sign = {True: "ok  ", False: "BAD ", None: "    "}[found.good]
    return f"{sign}{found.name:<14}{found.found}"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"


def _devices() -> Iterator[Finding]:
    import torch

    from coinseg.runtime.threads import threads

    given = os.environ.get("OMP_NUM_THREADS")
    yield Finding("threads", f"{threads()} of {cores()} cores" + (f" (OMP_NUM_THREADS is {given})" if given else ", by timing"))
    if not torch.cuda.is_available():
        built = torch.version.cuda
        why = "torch is built for the CPU only" if built is None else f"torch is built for CUDA {built} and sees no GPU or driver"
        yield Finding("GPU", f"none: {why}; everything works without, slower")
        return
    for number in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(number)
        yield Finding("GPU", f"{facts.name}, {facts.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}", True)


def memory_gb(root: Path = Path("/")) -> float | None:
    """Free memory in GB (10^9 bytes), of the control groups where that is less; None where the system does not say.

    What only keeps files at hand counts as free: the system gives it up where it is needed.
    """
    found = []
    if (file := root / "proc/meminfo").is_file():
        lines_of = file.read_text(encoding="utf-8").splitlines()
        found += [1024 * int(line.split()[1]) for line in lines_of if line.startswith("MemAvailable:")]
    own = root / "proc/self/cgroup"
    for line in own.read_text(encoding="utf-8").splitlines() if own.is_file() else ():
        _, kinds, place = line.split(":", 2)
        if kinds and "memory" not in kinds.split(","):
            continue
        base, names = (root / "sys/fs/cgroup/memory", GROUP_1) if kinds else (root / "sys/fs/cgroup", GROUP_2)
        parts = [part for part in place.split("/") if part not in ("", "..")]
        for depth in range(len(parts) + 1):  # a job is limited by its groups and those around them
            with suppress(OSError, ValueError):
                found.append(_left(base.joinpath(*parts[:depth]), *names))
    return min(found) / 1e9 if found else None


def _left(group: Path, most: str, used: str, prefix: str) -> int:
    """Bytes that a control group may still take; `ValueError` where it has no limit, `OSError` where it is not there."""
    stat = [line.split() for line in (group / "memory.stat").read_text(encoding="utf-8").splitlines()]
    cache = sum(int(value) for name, value in stat if name in (f"{prefix}inactive_file", f"{prefix}active_file"))
    return max(0, int((group / most).read_text()) - int((group / used).read_text()) + cache)


def known_images(count: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Noise (N, S, S) in [0, 1], every other image with a bright square; labels (N,); the squares (N, S, S), bool."""
    rng = np.random.default_rng(seed)
    images, masks = rng.normal(0.35, 0.05, (count, SIDE, SIDE)), np.zeros((count, SIDE, SIDE), bool)
    for mask in masks[1::2]:
        row, column = rng.integers(2, SIDE - 12, 2)
        mask[row : row + 10, column : column + 10] = True
    return np.clip(images + 0.45 * masks, 0, 1).astype(np.float32), np.arange(count) % 2, masks


def selftest_settings() -> Any:
    """Small settings: two minutes of the default recipe's first half, in seconds."""
    from coinseg.config.parsing import settings_from

    return settings_from({
        "classifier": {"steps": 120, "batch": 16, "lr": 3e-3, "blur": 0.0}, "student": {"steps": 0},
        "coin": {
            "steps": 120, "batch": 8, "width": 8, "depth": 3, "skips": 2, "discriminator_width": 8, "discriminator_depth": 3,
        },
    })  # fmt: skip


def _selftest() -> Finding:
    """Train f and COIN on made images, and hold masks of others, which no training saw, against what is known of them."""
    import torch

    from coinseg.data.slices.arrays import Dataset
    from coinseg.pipeline.recipe import train

    began = time.monotonic()
    images, labels, _ = known_images(IMAGES, 0)
    predictor: Any = train(Dataset(images, labels), selftest_settings())  # of one class
    new, labels, known = known_images(HELD_OUT, 1)
    found = predictor.masks(torch.from_numpy(new)[:, None] * 2 - 1)
    called = predictor.probability(torch.from_numpy(new)[:, None] * 2 - 1).numpy() >= 0.5
    iou = (found & known).sum() / max((found | known).sum(), 1)
    right = (called == labels).mean()
    what = f"IoU {iou:.2f} with the known masks ({LEAST} is needed), {right:.0%} of the images told apart"
    return Finding("self-test", f"{what}, {time.monotonic() - began:.0f} s on {predictor.explainer.device}", bool(iou >= LEAST))
