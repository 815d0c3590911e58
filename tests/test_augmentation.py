"""What f is trained to overlook."""

from __future__ import annotations

import torch

from coinseg.augmentation import GRID, Shading, augmentation
from coinseg.config import ClassifierSettings
from coinseg.counterfactual.generator import fuse_bounded

CLASSIFIER = ClassifierSettings()


def shadings(settings: ClassifierSettings, calibrated: bool) -> int:
    return sum(isinstance(step, Shading) for step in augmentation(settings, calibrated))


def test_hounsfield_units_are_never_shaded() -> None:
    assert CLASSIFIER.shade > 0
    assert shadings(CLASSIFIER, calibrated=False) == 1
    assert shadings(CLASSIFIER, calibrated=True) == 0
    assert shadings(ClassifierSettings(shade=0.0), calibrated=False) == 0


def test_equal_knots_are_one_step_of_the_fusion_everywhere() -> None:
    x = torch.rand(3, 1, 20, 28) * 2 - 1
    found = Shading(1.0)(x, params={"knots": torch.full((3, 1, GRID, GRID), 0.4)})
    torch.testing.assert_close(found, fuse_bounded(x, torch.tensor(0.4)).clamp(-1, 1))
    assert torch.equal(Shading(1.0)(x, params={"knots": torch.zeros(3, 1, GRID, GRID)}), x)


def test_a_shading_is_smooth_bounded_and_each_image_has_its_own() -> None:
    torch.manual_seed(1)
    grey = torch.zeros(64, 1, 64, 64)
    found = Shading(0.3)(grey)
    assert found.abs().max() <= 1
    assert found.std((1, 2, 3)).unique().numel() == 64
    strongest = found[found.std((1, 2, 3)).argmax()]
    assert strongest.std() > 0.1
    for axis in (1, 2):  # a pixel differs from its neighbour by a fraction of what the field differs over the image
        assert strongest.diff(dim=axis).abs().max() < 0.15 * (strongest.max() - strongest.min())
