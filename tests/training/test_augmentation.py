"""What the training images of f may become: nothing that is switched off, each on its own draw, and never another size."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from coinseg.config.schema import ClassifierSettings
from coinseg.training.augmentation import augmentation

OFF = ClassifierSettings(flip=False, shift=0, scale=0, rotate=0, blur=0, noise=0)


def images(n: int = 64, side: int = 12) -> torch.Tensor:
    """One image, n times, without any symmetry."""
    return torch.linspace(-1, 1, side * side).reshape(1, 1, side, side).repeat(n, 1, 1, 1)


def test_everything_off_changes_nothing() -> None:
    assert torch.equal(augmentation(OFF)(images()), images())


def test_flips_are_the_four_mirrorings_drawn_for_each_image() -> None:
    torch.manual_seed(0)
    x = images()
    wanted = [x[0], x[0].flip(-1), x[0].flip(-2), x[0].flip(-1, -2)]
    found = [next(i for i, w in enumerate(wanted) if torch.equal(image, w)) for image in augmentation(replace(OFF, flip=True))(x)]
    assert set(found) == {0, 1, 2, 3}


@pytest.mark.parametrize("change", [{"shift": 0.2}, {"scale": 0.2}, {"rotate": 20.0}, {"blur": 1.0}, {"noise": 0.1}])
def test_each_change_is_switched_on_alone_and_drawn_for_each_image(change: dict[str, float]) -> None:
    torch.manual_seed(0)
    x = images()
    made = augmentation(replace(OFF, **change))(x)
    assert made.shape == x.shape
    assert made.isfinite().all()
    changed = (made - x).abs().amax((1, 2, 3)) > 1e-4
    assert changed.sum() > 0
    assert len(made.reshape(len(made), -1).unique(dim=0)) > 10


def test_noise_has_its_spread_and_no_mean() -> None:
    torch.manual_seed(0)
    noise = (augmentation(replace(OFF, noise=0.05))(images()) - images()).flatten(1)
    touched = noise[noise.abs().amax(1) > 0]
    assert 0.04 < touched.std() < 0.06
    assert abs(touched.mean()) < 0.005
