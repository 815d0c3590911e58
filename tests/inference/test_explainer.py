"""The threshold of masks: whose differences it is read from, and that f has no say in it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from coinseg.config.schema import MaskSettings, Settings
from coinseg.data.slices.arrays import Dataset
from coinseg.data.slices.dataset import TrainingSlices
from coinseg.data.slices.split import TRAINING
from coinseg.inference import explainer as room
from conftest import tiny_settings
from models import SameLogit, explainer_of

SIDE, WHITE = 16, 0.9
PLAIN = MaskSettings(refine="none", hflip=False, quantile=0.5, peak=0.0)


class Changes(nn.Module):
    """A generator that lowers every pixel of images of one kind, by an amount: `bright` images have a white upper left corner."""

    def __init__(self, bright: bool, by: float) -> None:
        super().__init__()
        self.bright, self.by = bright, by

    def forward(self, x: Tensor) -> Tensor:
        kind = ((x[:, :, :2, :2].amin((1, 2, 3)) > 0.5) == self.bright).float()[:, None, None, None]
        return x - kind * self.by


def data() -> Dataset:
    """Grey images in [0.4, 0.6], every second one abnormal with a white corner; a fifth is held out."""
    images = np.random.default_rng(0).uniform(0.4, 0.6, (40, SIDE, SIDE)).astype(np.float32)
    images[::2, :2, :2] = WHITE
    return Dataset(images, (np.arange(40) % 2 == 0).astype(int))


def chosen(generator: nn.Module, store: Dataset | None = None, logit: float = -9.0, **masks: Any) -> float:
    settings: Settings = replace(tiny_settings(), masks=replace(PLAIN, **masks))
    slices = TrainingSlices(store or data(), settings.anomaly, 0)
    return explainer_of(settings, SameLogit(logit), generator).choose_threshold(slices).value


@pytest.mark.parametrize("logit", [-9.0, 9.0])
@pytest.mark.parametrize("rule", ["auto", "normals", "decision_flip"])
def test_the_threshold_is_of_normal_images_alone_whatever_f_says(rule: str, logit: float) -> None:
    assert chosen(Changes(bright=True, by=0.4), logit=logit, threshold=rule) == 0
    assert chosen(Changes(bright=False, by=0.4), logit=logit, threshold=rule) == pytest.approx(0.2, abs=1e-6)


def test_the_threshold_of_otsu_is_of_abnormal_images_alone_whatever_f_says() -> None:
    def corner(x: Tensor) -> Tensor:
        return torch.where(x > 0.7, x - 0.8, x - 0.1)

    class Corner(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return corner(x)

    assert 0.05 <= chosen(Corner(), threshold="otsu") < 0.4  # between the differences of the grey and of the white pixels
    none = chosen(Changes(bright=False, by=0.4), threshold="otsu")
    assert none == pytest.approx(0, abs=1e-6)


def test_the_threshold_is_the_quantile_over_all_pixels_and_images() -> None:
    class Own(nn.Module):
        """Takes away what is above the darkest grey."""

        def forward(self, x: Tensor) -> Tensor:
            return torch.minimum(x, torch.full_like(x, -0.2))

    store = data()
    rows = np.flatnonzero((store.index["split"] == TRAINING) & (store.index["label"] == 0))
    for quantile in (0.3, 0.98):
        wanted = np.quantile(np.clip(store.images[rows] - 0.4, 0, None), quantile)
        assert chosen(Own(), store, quantile=quantile) == pytest.approx(wanted, abs=1e-6)


def test_the_threshold_is_of_training_images_and_of_no_more_than_said(monkeypatch: pytest.MonkeyPatch) -> None:
    store, seen = data(), []
    plain = TrainingSlices.batch

    def batch(self: TrainingSlices, indices: np.ndarray, *rest: Any) -> Any:
        seen.append(self.rows[indices])
        return plain(self, indices, *rest)

    monkeypatch.setattr(TrainingSlices, "batch", batch)
    monkeypatch.setattr(room, "THRESHOLD_IMAGES", 10)
    chosen(Changes(bright=False, by=0.4), store)
    (rows,) = seen
    assert len(set(rows.tolist())) == 10
    assert (store.index["split"][rows] == TRAINING).all()
    assert (store.index["label"][rows] == 0).all()


def test_with_mirror_images_the_difference_is_the_mean_of_both_views() -> None:
    class Left(nn.Module):
        """Lowers the left half, and more in brighter images."""

        def forward(self, x: Tensor) -> Tensor:
            found = x.clone()
            found[..., : SIDE // 2] -= 0.2
            return found

    settings = replace(tiny_settings(), masks=replace(PLAIN, hflip=True))
    images = torch.rand(3, 1, SIDE, SIDE) * 0.5
    found = explainer_of(settings, SameLogit(1.0), Left()).differences(images, np.array([True, False, True]))
    assert found.other is not None
    left = np.zeros((SIDE, SIDE))
    left[:, : SIDE // 2] = 0.1
    for i in (0, 2):
        np.testing.assert_allclose(found.own[i], left, atol=1e-6)
        np.testing.assert_allclose(found.other[i], left[:, ::-1], atol=1e-6)
        np.testing.assert_allclose(found.mean[i], 0.05, atol=1e-6)
    assert not any(maps[1].any() for maps in (found.mean, found.own, found.other))
