"""A tiny cohort and tiny settings, made once for all tests of the path."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from coinseg.config.schema import Settings
from coinseg.runtime import process_group as processes

torch.set_num_threads(1)

SIZE = 32


TINY = [
    "--data.size",
    "32",
    "--classifier.steps",
    "6",
    "--classifier.batch",
    "4",
    "--coin.width",
    "4",
    "--coin.depth",
    "2",
    "--coin.skips",
    "1",
    "--coin.steps",
    "4",
    "--coin.batch",
    "4",
    "--coin.discriminator_width",
    "4",
    "--coin.discriminator_depth",
    "2",
    "--engine.threads",
    "1",
    "--engine.logger",
    "none",
]
"""Options of the command line that train in a second or two; one given after them wins."""


ABROAD = {
    "socket.bind", "socket.connect", "socket.getaddrinfo", "socket.gethostbyaddr", "socket.gethostbyname", "socket.getnameinfo",
    "socket.sendmsg", "socket.sendto", "urllib.Request", "os.link", "os.symlink",
}  # fmt: skip
"""Audit events of what connects, listens, asks for a name, or makes a link."""
_asked: list[list[str]] = []


def _forbid(event: str, arguments: tuple[object, ...]) -> None:
    if _asked and event in ABROAD:
        _asked[-1].append(f"{event} {arguments}")
        raise PermissionError(f"{event} is not allowed here")


sys.addaudithook(_forbid)


@contextmanager
def nothing_abroad() -> Iterator[list[str]]:
    """Whatever is in `ABROAD` is refused in this process and listed, also where the error is passed over."""
    _asked.append([])
    try:
        yield _asked[-1]
    finally:
        _asked.pop()


def tiny_settings(**changes: object) -> Settings:
    """Settings that train in a few seconds."""
    base = Settings()
    return replace(
        base,
        data=replace(base.data, size=SIZE),
        classifier=replace(base.classifier, steps=40, batch=8, lr=3e-3, blur=0.0, shift=0.0, scale=0.0, rotate=0.0),
        coin=replace(base.coin, width=4, depth=2, skips=1, discriminator_width=4, discriminator_depth=2, steps=12, batch=4),
        masks=replace(base.masks, refine="none", quantile=0.9),
        engine=replace(base.engine, accelerator="cpu", threads=1, checkpoint_every=4, sample_every=6, logger="none"),
        **({"student": replace(base.student, teachers=1)} | changes),  # type: ignore[arg-type]
    )


def write_images(root: Path, patients: int = 6, each: int = 4, masks: bool = True) -> Path:
    """Plain folders of grey noise; abnormal images have a bright square. Returns the folder."""
    rng = np.random.default_rng(0)
    for name in ("normal", "abnormal", "masks"):
        (root / name).mkdir(parents=True)
    for i in range(patients * each):
        image = rng.normal(90, 12, (40, 44))
        if i % 2:
            row, column = rng.integers(4, 24, 2)
            image[row : row + 10, column : column + 10] += 110
            mask = np.zeros(image.shape, np.uint8)
            mask[row : row + 10, column : column + 10] = 255
            if masks:
                Image.fromarray(mask).save(root / "masks" / f"i{i:02d}.png")
        pixels = np.clip(image, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(root / ("abnormal" if i % 2 else "normal") / f"i{i:02d}.png")
    return root


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve normal and twelve abnormal images with masks, as plain folders."""
    return write_images(tmp_path_factory.mktemp("images"))


@pytest.fixture
def other(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Makes this process the first of two, as torchrun would, and starts the other with these words."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    for name, value in {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": 2, "RANK": 0, "LOCAL_RANK": 0}.items():
        monkeypatch.setenv(name, str(value))
    for name in ("JOINING", "SHARE"):
        monkeypatch.setattr(processes, name, timedelta(seconds=90))
    begun: list[subprocess.Popen[str]] = []

    def start(*words: object) -> subprocess.Popen[str]:
        environ = os.environ | {"RANK": "1", "LOCAL_RANK": "1", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, *(str(word) for word in words)]
        begun.append(subprocess.Popen(command, env=environ, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE))
        return begun[-1]

    yield start
    for process in begun:
        process.kill()
        process.communicate()
