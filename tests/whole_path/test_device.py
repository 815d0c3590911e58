"""The default recipe trains, segments and is loaded on a device that is not the CPU; nothing is left behind on either side."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import coinseg
from coinseg.data.slices.arrays import Dataset
from coinseg.pipeline import recipe
from coinseg.pipeline.job import Job
from conftest import SIZE, tiny_settings
from fake_device import GPU, FakeGPU, fake_gpu
from models import learn_from_few

pytestmark = pytest.mark.slow


@pytest.fixture
def gpu() -> Iterator[FakeGPU]:
    yield from fake_gpu()


def cohort() -> Dataset:
    """Grey noise, every second image with a bright square; of three patients."""
    rng = np.random.default_rng(0)
    images, labels = rng.normal(0.35, 0.05, (12, SIZE, SIZE)), np.arange(12) % 2
    for i in np.flatnonzero(labels):
        row, column = rng.integers(1, SIZE - 11, 2)
        images[i, row : row + 10, column : column + 10] += 0.4
    return Dataset(np.clip(images, 0, 1).astype(np.float32), labels, patients=np.arange(12) // 4)


def job(root: Path | None) -> Job:
    """The default recipe with all its parts, shortened to steps."""
    base = tiny_settings()
    settings = replace(
        base,
        classifier=replace(base.classifier, steps=2, threshold=0.0, blur=1.0, shift=0.07, scale=0.1, rotate=10.0),
        coin=replace(base.coin, steps=2, cycle=1.0),
        masks=replace(base.masks, refine="guided"),
        student=replace(
            base.student, steps=1, trust=0.0, teachers=2, imagenet_steps=1, batch=4, patchcore_quantile=0.01, gate=0.0
        ),
        engine=replace(base.engine, sample_every=2),
    )
    return Job(cohort(), settings, root)


def test_the_default_recipe_on_another_device(gpu: FakeGPU, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    learn_from_few(monkeypatch)
    monkeypatch.setattr("coinseg.parts.patchcore.WORTH", 0.0)
    trained = recipe.build(job(tmp_path))
    assert trained.student is not None
    assert len(trained.parts) >= 2
    assert trained.explainer.device == GPU
    assert gpu.seen > 500
    images = torch.rand(2, 1, SIZE, SIZE) * 2 - 1
    found, again = trained.segment_images(images), coinseg.load(tmp_path).segment_images(images)
    assert found.masks.shape == (2, SIZE, SIZE)
    np.testing.assert_array_equal(found.masks, again.masks)


def test_what_the_device_refuses(gpu: FakeGPU) -> None:
    here, there = torch.ones(3), torch.ones(3).to("cuda")
    assert (here.device.type, there.device, (there * 2).device, there.cpu().device.type) == ("cpu", GPU, GPU, "cpu")
    assert (there + torch.tensor(1.0)).device == GPU
    assert there[torch.tensor([0, 2])].device == GPU
    assert torch.arange(2, device=there.device).device == GPU
    for wrong in (
        lambda: here + there,
        lambda: torch.nn.functional.linear(here, there[None]),
        lambda: torch.cat([here, there]),
        lambda: here[there.long()],
        lambda: there.__setitem__(slice(0, 3), here),
    ):
        with pytest.raises(RuntimeError, match="same device"):
            wrong()
    for wrong in (there.numpy, lambda: np.asarray(there)):
        with pytest.raises(TypeError, match="can't convert cuda:0"):
            wrong()
    with pytest.raises(RuntimeError, match="generator"):
        torch.rand(3, generator=torch.Generator(), device="cuda")
