"""Every loss on numbers worked by hand against its equation in the thesis, and the laws it has to obey."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from coinseg.explain.counterfactual.losses import (
    class_consistency,
    classifier_consistency,
    discriminator_adversarial,
    generator_adversarial,
    reconstruction,
    regional_reconstruction,
    total_variation,
    total_variation_of_difference,
)

LOG2 = math.log(2)
OF_LOGITS = [generator_adversarial, classifier_consistency]
OF_PAIRS = [discriminator_adversarial, reconstruction, total_variation_of_difference]


def logit(p: float) -> float:
    return math.log(p / (1 - p))


def doubles(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def image(rows: list[list[float]]) -> Tensor:
    """One grey image (1, 1, H, W)."""
    return torch.tensor(rows, dtype=torch.float64)[None, None]


@pytest.mark.parametrize("loss", OF_LOGITS)
def test_one_undecided_logit_costs_log_2(loss: Callable[[Tensor], Tensor]) -> None:
    assert loss(doubles(0.0)).item() == pytest.approx(LOG2, abs=1e-12)


def test_discriminator_that_cannot_tell_costs_2_log_2() -> None:
    assert discriminator_adversarial(doubles(0, 0, 0), doubles(0, 0, 0)).item() == pytest.approx(2 * LOG2, abs=1e-12)


def test_discriminator_by_hand() -> None:
    # -mean(log .8, log .5) - mean(log(1 - .1), log(1 - .4)), section 3.1.3
    real, fake = doubles(logit(0.8), logit(0.5)), doubles(logit(0.1), logit(0.4))
    wanted = -(math.log(0.8) + math.log(0.5)) / 2 - (math.log(0.9) + math.log(0.6)) / 2
    assert discriminator_adversarial(real, fake).item() == pytest.approx(wanted, abs=1e-12)


def test_discriminator_takes_batches_of_different_length() -> None:
    found = discriminator_adversarial(doubles(logit(0.5)), doubles(logit(0.2), logit(0.2), logit(0.2)))
    assert found.item() == pytest.approx(LOG2 - math.log(0.8), abs=1e-12)


def test_generator_adversarial_by_hand() -> None:
    found = generator_adversarial(doubles(logit(0.8), logit(0.1)))
    assert found.item() == pytest.approx(-(math.log(0.8) + math.log(0.1)) / 2, abs=1e-12)


def test_generator_and_discriminator_want_opposite_things_of_a_counterfactual() -> None:
    real, worse, better = doubles(0.0), doubles(-1.0), doubles(1.0)
    assert generator_adversarial(better) < generator_adversarial(worse)
    assert discriminator_adversarial(real, better) > discriminator_adversarial(real, worse)
    assert discriminator_adversarial(better, real) < discriminator_adversarial(worse, real)


@pytest.mark.parametrize("p", [0.01, 0.2, 0.5, 0.9])
def test_classifier_consistency_is_the_divergence_from_normal(p: float) -> None:
    # KL(Bernoulli(0) || Bernoulli(p)) = 0 log(0 / p) + 1 log(1 / (1 - p)), section 3.3.2
    assert classifier_consistency(doubles(logit(p))).item() == pytest.approx(-math.log(1 - p), abs=1e-12)


def test_classifier_consistency_of_two() -> None:
    found = classifier_consistency(doubles(logit(0.2), logit(0.6)))
    assert found.item() == pytest.approx(-(math.log(0.8) + math.log(0.4)) / 2, abs=1e-12)


def test_classifier_consistency_grows_with_f() -> None:
    steps = torch.linspace(-6, 6, 50, dtype=torch.float64)
    values = torch.stack([classifier_consistency(s[None]) for s in steps])
    assert (values.diff() > 0).all()
    assert classifier_consistency(doubles(-60.0)).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("size", [1e3, 1e4])
def test_extreme_logits_stay_finite(size: float) -> None:
    for loss in OF_LOGITS:
        for z in (size, -size):
            assert torch.isfinite(loss(torch.tensor([z])))
    assert torch.isfinite(discriminator_adversarial(torch.tensor([-size]), torch.tensor([size])))


def test_reconstruction_by_hand() -> None:
    # (|1 - 0| + |-1 - 1| + |0.5 - 0.25| + 0) / 4, section 3.1.5
    found = reconstruction(image([[1, -1], [0.5, 0]]), image([[0, 1], [0.25, 0]]))
    assert found.item() == pytest.approx(3.25 / 4, abs=1e-15)


def test_reconstruction_is_a_distance() -> None:
    torch.manual_seed(0)
    a, b, c = (torch.rand(2, 1, 5, 4, dtype=torch.float64) * 2 - 1 for _ in range(3))
    assert reconstruction(a, a).item() == 0
    assert reconstruction(a, b).item() == reconstruction(b, a).item()
    assert reconstruction(a, c) <= reconstruction(a, b) + reconstruction(b, c)
    assert reconstruction(torch.ones(1, 1, 2, 2), -torch.ones(1, 1, 2, 2)).item() == 2


def test_total_variation_by_hand() -> None:
    # rows: (4 - 1)^2 + (8 - 2)^2; columns: (2 - 1)^2 + (8 - 4)^2; over 4 pixels, section 3.3.4
    assert total_variation(image([[1, 2], [4, 8]])).item() == pytest.approx((9 + 36 + 1 + 16) / 4, abs=1e-12)


def test_total_variation_of_an_oblong_image() -> None:
    # columns: 1 + 4, 9 + 0; rows: 25 + 9 + 25; over 6 pixels
    rows = [[0, 1, 3], [5, 2, 2]]
    wanted = ((1 - 0) ** 2 + (3 - 1) ** 2 + (2 - 5) ** 2 + 0 + 5**2 + (2 - 1) ** 2 + (2 - 3) ** 2) / 6
    assert total_variation(image(rows)).item() == pytest.approx(wanted, abs=1e-12)


def test_total_variation_of_a_cube() -> None:
    cube = torch.zeros(1, 1, 2, 2, 2, dtype=torch.float64)
    cube[0, 0, 0, 0, 0] = 3  # three neighbours, 3^2 each, 8 voxels
    assert total_variation(cube).item() == pytest.approx(27 / 8, abs=1e-12)
    # A slab of one slice has the total variation of the slice.
    slab = torch.rand(1, 1, 1, 4, 5, dtype=torch.float64)
    assert total_variation(slab).item() == pytest.approx(total_variation(slab[:, :, 0]).item(), abs=1e-12)


def test_total_variation_is_the_mean_over_channels() -> None:
    one, other = image([[1, 2], [4, 8]]), image([[0, 0], [0, 2]])
    assert total_variation(torch.cat([one, other], 1)).item() == pytest.approx((62 / 4 + 8 / 4) / 2, abs=1e-12)


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 1, 4, 5), (1, 3, 2, 3, 4)])
def test_total_variation_of_a_constant_is_zero(shape: tuple[int, ...]) -> None:
    assert total_variation(torch.full(shape, 0.7)).item() == 0


def test_total_variation_ignores_level_and_squares_the_scale() -> None:
    torch.manual_seed(1)
    x = torch.rand(2, 1, 6, 7, dtype=torch.float64)
    one = total_variation(x).item()
    assert total_variation(x + 3).item() == pytest.approx(one, rel=1e-10)
    assert total_variation(5 * x).item() == pytest.approx(25 * one, rel=1e-10)
    assert total_variation(x.flip(2)).item() == pytest.approx(one, rel=1e-12)
    assert total_variation(x.transpose(2, 3)).item() == pytest.approx(one, rel=1e-12)


def test_total_variation_of_a_difference_is_on_0_to_255() -> None:
    # White against black at one pixel of four: the difference map is 255 there, with two neighbours.
    x, other = image([[1, 0], [0, 0]]), image([[-1, 0], [0, 0]])
    assert total_variation_of_difference(x, other).item() == pytest.approx(2 * 255**2 / 4, rel=1e-12)
    assert total_variation_of_difference(other, x).item() == pytest.approx(2 * 255**2 / 4, rel=1e-12)


def test_total_variation_of_a_difference_takes_the_absolute_difference() -> None:
    # +0.5 beside -0.5 is one flat difference map.
    x = image([[0.5, -0.5], [-0.5, 0.5]])
    assert total_variation_of_difference(x, torch.zeros_like(x)).item() == 0
    assert total_variation_of_difference(x, x).item() == 0


def test_none_is_negative() -> None:
    torch.manual_seed(2)
    for _ in range(20):
        z, y = torch.randn(2, 5) * 4
        a, b = torch.rand(2, 3, 1, 4, 4) * 2 - 1
        values = [loss(z) for loss in OF_LOGITS] + [discriminator_adversarial(z, y), total_variation(a)]
        values += [reconstruction(a, b), total_variation_of_difference(a, b)]
        assert all(v.ndim == 0 and v >= 0 for v in values)


@pytest.mark.parametrize("loss", [*OF_LOGITS, total_variation])
def test_batch_is_the_mean_of_its_singles(loss: Callable[[Tensor], Tensor]) -> None:
    torch.manual_seed(3)
    batch = torch.randn(4, 2, 5, 3, dtype=torch.float64) if loss is total_variation else torch.randn(4, dtype=torch.float64)
    singles = torch.stack([loss(one) for one in batch.split(1)])
    torch.testing.assert_close(loss(batch), singles.mean(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("loss", OF_PAIRS)
def test_batch_of_pairs_is_the_mean_of_its_singles(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    torch.manual_seed(4)
    shape = (4,) if loss is discriminator_adversarial else (4, 1, 3, 6)
    a, b = torch.randn(2, *shape, dtype=torch.float64)
    singles = torch.stack([loss(p, q) for p, q in zip(a.split(1), b.split(1), strict=True)])
    torch.testing.assert_close(loss(a, b), singles.mean(), rtol=1e-12, atol=1e-12)


def test_gradients() -> None:
    torch.manual_seed(5)
    z, y = (torch.randn(3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(discriminator_adversarial, (z, y))
    for loss in OF_LOGITS:
        assert torch.autograd.gradcheck(loss, (z,))
    for shape in ((2, 1, 3, 4), (1, 2, 2, 3, 2)):
        x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(total_variation, (x,))
    # Smooth as long as no difference is at its kink.
    a = torch.rand(1, 1, 3, 3, dtype=torch.float64, requires_grad=True)
    b = torch.full_like(a, 2.0)
    assert torch.autograd.gradcheck(lambda t: reconstruction(t, b), (a,))
    assert torch.autograd.gradcheck(lambda t: total_variation_of_difference(t, b) / 127.5**2, (a,))


def test_regional_reconstruction_is_of_the_mean_over_channels_and_of_regions_of_one_pixel() -> None:
    """Differences of two channels whose means are 2, 0, 0 and 1.5; the first pixel is a region, the others are one."""
    x = torch.tensor([[[[1.0, 0.0], [0.0, 3.0]], [[3.0, 0.0], [0.0, 0.0]]]])
    regions = torch.tensor([[[[1.0, 0.0], [0.0, 0.0]], [[0.0, 1.0], [1.0, 1.0]]]])
    assert regional_reconstruction(torch.zeros_like(x), x, regions).item() == pytest.approx(2 + 1.5 / 3)


def test_class_consistency_turns_off_the_asked_class_and_holds_the_others_by_hand() -> None:
    logits = torch.tensor([[2.0, -1.0, 0.5], [0.0, 3.0, 1.0]], dtype=torch.float64)
    changed = torch.tensor([[-3.0, -1.0, 2.5], [0.4, -2.0, 1.0]], dtype=torch.float64)
    # Image 0, class 0: log(1 + e^-3); the others moved by 0 and 2: 0 and 1.5. Image 1, class 1: log(1 + e^-2); 0.4^2 / 2 and 0.
    wanted = (math.log1p(math.exp(-3)) + 1.5 + math.log1p(math.exp(-2)) + 0.08) / 2
    assert class_consistency(changed, logits, torch.tensor([0, 1])).item() == pytest.approx(wanted, abs=1e-12)


def test_class_consistency_of_one_class_is_that_of_coin() -> None:
    logits = doubles(0.3, -2.0, 1.7)
    found = class_consistency(logits[:, None], torch.zeros(3, 1, dtype=torch.float64), torch.zeros(3, dtype=torch.long))
    assert found.item() == pytest.approx(classifier_consistency(logits).item(), abs=1e-12)
