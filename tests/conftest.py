"""A tiny cohort and tiny settings, made once for all tests of the path."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from coinseg.config import Settings

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
    "--engine.tensorboard",
    "false",
]
"""Options of the command line that train in a second or two; one given after them wins."""


def tiny_settings(**changes: object) -> Settings:
    """Settings that train in a few seconds."""
    base = Settings()
    return replace(
        base,
        data=replace(base.data, size=SIZE),
        classifier=replace(base.classifier, steps=40, batch=8, lr=3e-3, blur=0.0, shift=0.0, scale=0.0, rotate=0.0),
        coin=replace(base.coin, width=4, depth=2, skips=1, discriminator_width=4, discriminator_depth=2, steps=12, batch=4),
        masks=replace(base.masks, refine="none", quantile=0.9),
        engine=replace(base.engine, accelerator="cpu", threads=1, checkpoint_every=4, sample_every=6, tensorboard=False),
        **changes,  # type: ignore[arg-type]
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
