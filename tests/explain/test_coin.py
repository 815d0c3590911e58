"""The algorithm on toys whose answers are worked by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from coinseg.config.schema import CoinSettings
from coinseg.explain.counterfactual import coin, losses, singla
from coinseg.explain.counterfactual.coin import Generated, difference, discriminator_loss, explain

WEIGHTS = CoinSettings(adversarial=2.0, classifier=5.0, identity=3.0, cycle=7.0, tv=0.05)
NAMES = ("adversarial", "classifier", "identity", "cycle", "tv")


def softplus(z: float) -> float:
    return math.log1p(math.exp(z))


def total_of_pixels(x: Tensor) -> Tensor:
    """A toy f: the logit is the sum of the pixels."""
    return x.flatten(1).sum(1)


def halved(x: Tensor) -> Tensor:
    """A toy generator."""
    return x / 2


def toy_discriminator(x: Tensor) -> Tensor:
    return -4 * total_of_pixels(x)


def image(rows: list[list[float]]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)[None, None]


X = image([[1, 0], [0, 0]])
# X_cf has 1/2 where X has 1, E(X_cf) has 1/4; the difference map is 63.75 of 255 there, with two neighbours.
BY_HAND = {
    "adversarial": 2 * softplus(2.0),
    "classifier": 5 * softplus(0.5),
    "identity": 3 * 0.5 / 4,
    "cycle": 7 * 0.75 / 4,
    "tv": 0.05 * 2 * 63.75**2 / 4,
}


def generator_losses(x: Tensor, generator: Any, d: Any, f: Any, weights: CoinSettings) -> tuple[dict[str, Tensor], Tensor]:
    """The terms and X_cf, made as training makes them."""
    made = coin.generate(x, generator, f, weights)
    return coin.generator_losses(x, made, generator, d, f, weights), made.image


def test_terms_by_hand() -> None:
    terms, counterfactual = generator_losses(X, halved, toy_discriminator, total_of_pixels, WEIGHTS)
    assert {name: t.item() for name, t in terms.items()} == pytest.approx(BY_HAND, rel=1e-12)
    assert sum(t.item() for t in terms.values()) == pytest.approx(
        2 * softplus(2.0) + 5 * softplus(0.5) + 0.375 + 1.3125 + 101.6015625, rel=1e-12
    )
    assert torch.equal(counterfactual, X / 2)


@pytest.mark.parametrize("absent", NAMES)
def test_a_term_is_there_exactly_when_its_weight_is_not_zero(absent: str) -> None:
    terms, _ = generator_losses(X, halved, toy_discriminator, total_of_pixels, replace(WEIGHTS, **{absent: 0.0}))
    assert set(terms) == set(NAMES) - {absent}
    assert {name: t.item() for name, t in terms.items()} == pytest.approx(
        {name: value for name, value in BY_HAND.items() if name != absent}, rel=1e-12
    )
    alone = {name: 0.0 for name in NAMES if name != absent}
    terms, _ = generator_losses(X, halved, toy_discriminator, total_of_pixels, replace(WEIGHTS, **alone))
    assert set(terms) == {absent}


def test_images_that_f_calls_normal_are_asked_to_stay_as_they_are_where_the_settings_say_so() -> None:
    """f(X) is 0.27, 0.5 and 0.73: below a half it is the target of f(X_cf), from a half on the target is 0 as ever."""
    x = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64).reshape(3, 1, 1, 1)
    kept = coin.generate(x, halved, total_of_pixels, replace(WEIGHTS, keep_normal=True))
    normal = 1 / (1 + math.e)
    assert kept.posterior is not None
    torch.testing.assert_close(kept.posterior, torch.tensor([normal, 0.0, 0.0], dtype=torch.float64))
    assert torch.equal(kept.image, x / 2)
    terms = coin.generator_losses(x, kept, halved, toy_discriminator, total_of_pixels, replace(WEIGHTS, keep_normal=True))
    # The least that the first can cost is the entropy of its target, which is not counted.
    to_normal = (
        normal * softplus(0.5) + (1 - normal) * softplus(-0.5) + normal * math.log(normal) + (1 - normal) * math.log(1 - normal)
    )
    assert terms["classifier"].item() == pytest.approx(5 * (to_normal + softplus(0.0) + softplus(0.5)) / 3, rel=1e-9)
    asked = coin.generate(x, halved, total_of_pixels, replace(WEIGHTS, keep_normal=False))
    assert asked.posterior is None
    assert torch.equal(asked.image, x / 2)


def test_a_discriminator_that_is_told_takes_counterfactuals_for_normal_images() -> None:
    """f(X) is 0.73 and 0.27: D hears bins 1 and 0 with the images, and 0 with both counterfactuals."""
    heard: list[list[int]] = []

    def d(x: Tensor, condition: Tensor) -> Tensor:
        heard.append(condition.tolist())
        return toy_discriminator(x) + 100 * condition

    x, told = torch.cat([X, -X]), replace(WEIGHTS, informed=True, cycle=0.0)
    made = coin.generate(x, halved, total_of_pixels, told)
    assert made.posterior is None  # what L_f asks for stays
    terms = coin.generator_losses(x, made, halved, d, total_of_pixels, told)
    plain, _ = generator_losses(x, halved, toy_discriminator, total_of_pixels, WEIGHTS)
    assert torch.equal(terms["adversarial"], plain["adversarial"])
    loss = discriminator_loss(x, made, d)
    assert heard == [[0, 0], [1, 0], [0, 0]]
    # D is -4 and 4 for the images, 100 more for the abnormal one, and -2 and 2 for the counterfactuals.
    assert loss.item() == pytest.approx((softplus(-96.0) + softplus(-4.0)) / 2 + (softplus(-2.0) + softplus(2.0)) / 2)


def test_a_counterfactual_has_the_precision_of_its_image() -> None:
    x = torch.rand(3, 1, 4, 4)
    found = explain(x, lambda t: t.double() / 2, lambda t: total_of_pixels(t).double(), 0.0)
    assert found.counterfactual.dtype == found.saliency.dtype == torch.float32
    torch.testing.assert_close(found.counterfactual, x / 2)


def test_differences_do_not_depend_on_which_image_comes_first() -> None:
    x, other, regions = torch.rand(2, 2, 4, 4), torch.rand(2, 2, 4, 4), torch.rand(2, 3, 4, 4).round()
    for measure in (losses.reconstruction, losses.total_variation_of_difference, coin.difference):
        torch.testing.assert_close(measure(x, other), measure(other, x))
    torch.testing.assert_close(
        losses.regional_reconstruction(x, other, regions), losses.regional_reconstruction(other, x, regions)
    )


def test_a_term_of_weight_zero_is_not_computed() -> None:
    def never(x: Tensor) -> Tensor:
        raise AssertionError("called")

    terms, _ = generator_losses(X, halved, never, never, replace(WEIGHTS, adversarial=0.0, classifier=0.0))
    assert set(terms) == {"identity", "cycle", "tv"}
    calls: list[Tensor] = []

    def counted(x: Tensor) -> Tensor:
        calls.append(x)
        return x / 2

    generator_losses(X, counted, toy_discriminator, total_of_pixels, replace(WEIGHTS, cycle=0.0))
    assert len(calls) == 1


def test_identity_generator_pays_only_f_and_d() -> None:
    terms, counterfactual = generator_losses(X, lambda x: x, toy_discriminator, total_of_pixels, WEIGHTS)
    assert torch.equal(counterfactual, X)
    assert [terms[name].item() for name in ("identity", "cycle", "tv")] == [0, 0, 0]
    assert terms["classifier"].item() == pytest.approx(5 * softplus(1.0), rel=1e-12)
    assert terms["adversarial"].item() == pytest.approx(2 * softplus(4.0), rel=1e-12)


def test_losses_of_a_batch_are_the_mean_of_its_singles() -> None:
    torch.manual_seed(0)
    x = torch.rand(3, 1, 4, 5, dtype=torch.float64) * 2 - 1
    batch, _ = generator_losses(x, torch.tanh, toy_discriminator, total_of_pixels, WEIGHTS)
    singles = [generator_losses(one, torch.tanh, toy_discriminator, total_of_pixels, WEIGHTS)[0] for one in x.split(1)]
    for name, term in batch.items():
        torch.testing.assert_close(term, torch.stack([s[name] for s in singles]).mean(), rtol=1e-12, atol=0)


def networks() -> tuple[nn.Module, nn.Module, nn.Module]:
    torch.manual_seed(1)
    generator = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 1, 3, padding=1))
    f = nn.Sequential(nn.Flatten(), nn.Linear(16, 1), nn.Flatten(0))
    d = nn.Sequential(nn.Flatten(), nn.Linear(16, 1), nn.Flatten(0))
    return generator, d, f


def test_a_generator_step_leaves_the_frozen_f_alone() -> None:
    generator, d, f = networks()
    f.requires_grad_(False)
    before = [p.clone() for p in f.parameters()]
    own = [p.clone() for p in generator.parameters()]
    step = torch.optim.Adam([*generator.parameters(), *f.parameters()], lr=0.1)
    terms, _ = generator_losses(torch.rand(2, 1, 4, 4), generator, d, f, WEIGHTS)
    torch.stack(list(terms.values())).sum().backward()
    step.step()
    assert all(p.grad is None for p in f.parameters())
    assert all(torch.equal(p, q) for p, q in zip(f.parameters(), before, strict=True))
    assert not any(torch.equal(p, q) for p, q in zip(generator.parameters(), own, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_every_term_reaches_the_generator(name: str) -> None:
    generator, d, f = networks()
    terms, _ = generator_losses(torch.rand(2, 1, 4, 4), generator, d, f, WEIGHTS)
    gradients = torch.autograd.grad(terms[name], list(generator.parameters()), allow_unused=True)
    assert all(g is not None for g in gradients)
    assert gradients[0].abs().max() > 0


def test_discriminator_loss_by_hand() -> None:
    # D says -4 on X and -2 on X_cf: softplus(4) + softplus(-2)
    found = discriminator_loss(X, Generated(X / 2), toy_discriminator)
    assert found.item() == pytest.approx(softplus(4.0) + softplus(-2.0), rel=1e-12)


def test_discriminator_step_does_not_reach_the_generator() -> None:
    generator, d, _ = networks()
    x = torch.rand(2, 1, 4, 4)
    discriminator_loss(x, Generated(generator(x)), d).backward()
    assert all(p.grad is None for p in generator.parameters())
    assert all(p.grad is not None for p in d.parameters())


def test_explain_by_hand() -> None:
    x = torch.cat([image([[1, 1], [0, 0]]), image([[-1, 1], [-1, 0]]), image([[0.5, -0.5], [0, 0]])])
    found = explain(x, halved, total_of_pixels)
    # The logits are 2, -1 and 0; the last is exactly at the threshold and counts as abnormal.
    torch.testing.assert_close(found.probability, torch.sigmoid(torch.tensor([2.0, -1.0, 0.0], dtype=torch.float64)))
    assert torch.equal(found.counterfactual, torch.stack([x[0] / 2, x[1], x[2] / 2]))
    torch.testing.assert_close(
        found.counterfactual_probability, torch.sigmoid(torch.tensor([1.0, -1.0, 0.0], dtype=torch.float64))
    )
    wanted = torch.tensor([[[0.25, 0.25], [0, 0]], [[0, 0], [0, 0]], [[0.125, 0.125], [0, 0]]], dtype=torch.float64)
    assert torch.equal(found.saliency, wanted)


@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.9])
def test_normal_images_come_back_bit_for_bit(threshold: float) -> None:
    torch.manual_seed(2)
    x = torch.rand(40, 1, 3, 3) * 2 - 1
    found = explain(x, lambda t: t * 0.999 + 0.5, total_of_pixels, threshold)
    normal = torch.sigmoid(total_of_pixels(x)) < threshold
    assert 0 < normal.sum() < 40
    assert torch.equal(found.counterfactual[normal], x[normal])
    assert (found.saliency[normal] == 0).all()
    assert torch.equal(found.counterfactual_probability[normal], found.probability[normal])
    assert (found.saliency[~normal].flatten(1).amax(1) > 0).all()


def test_normal_images_survive_a_generator_that_fails() -> None:
    x = -torch.ones(1, 1, 2, 2)
    found = explain(x, lambda t: t * math.nan, total_of_pixels)
    assert torch.equal(found.counterfactual, x)
    assert (found.saliency == 0).all()


def test_threshold_zero_inpaints_everything() -> None:
    x = torch.tensor([-1.0, 0.0, 1.0]).reshape(3, 1, 1, 1).expand(3, 1, 2, 2)
    assert torch.equal(explain(x, lambda t: t / 2 + 0.25, total_of_pixels, 0.0).counterfactual, x / 2 + 0.25)


def test_saliency_is_half_the_difference_in_0_to_1() -> None:
    torch.manual_seed(3)
    x = torch.rand(6, 2, 5, 4) * 2 - 1
    found = explain(x, lambda t: -9 * t, total_of_pixels, 0.0)
    assert found.counterfactual.abs().max() <= 1
    assert found.saliency.shape == (6, 5, 4)
    assert found.saliency.min() >= 0
    assert found.saliency.max() <= 1
    torch.testing.assert_close(found.saliency, ((x - found.counterfactual) / 2).abs().mean(1))
    white = explain(torch.ones(1, 1, 2, 2), lambda t: t - 5, total_of_pixels)
    assert torch.equal(white.saliency, torch.ones(1, 2, 2))  # white to black is the largest change there is


def test_equal_channels_differ_as_one_and_a_change_of_one_of_three_counts_a_third() -> None:
    torch.manual_seed(6)
    x, other = (torch.rand(4, 1, 5, 6) * 2 - 1 for _ in range(2))
    grey = difference(x, other)
    torch.testing.assert_close(difference(x.expand(-1, 3, -1, -1), other.expand(-1, 3, -1, -1)), grey)
    red = torch.cat([other, x, x], dim=1)
    torch.testing.assert_close(difference(x.expand(-1, 3, -1, -1), red), grey / 3)


@pytest.mark.parametrize("axis", [2, 3])
def test_flipping_the_image_flips_the_saliency(axis: int) -> None:
    torch.manual_seed(4)
    x = torch.rand(5, 1, 6, 8, dtype=torch.float64) * 2 - 1
    kernel = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]], dtype=torch.float64)[None, None] / 16

    def smooth(t: Tensor) -> Tensor:
        return torch.tanh(nn.functional.conv2d(t, kernel, padding=1))

    straight, flipped = (explain(t, smooth, total_of_pixels) for t in (x, x.flip(axis)))
    torch.testing.assert_close(flipped.saliency, straight.saliency.flip(axis - 1), rtol=0, atol=1e-12)
    assert straight.saliency.max() > 0


def test_a_batch_is_explained_as_its_singles_are() -> None:
    torch.manual_seed(5)
    x = torch.rand(6, 1, 4, 4, 3) * 2 - 1  # volumes go the same way
    whole = explain(x, torch.tanh, total_of_pixels)
    parts = [explain(one, torch.tanh, total_of_pixels) for one in x.split(1)]
    for name in ("probability", "counterfactual", "counterfactual_probability", "saliency"):
        torch.testing.assert_close(getattr(whole, name), torch.cat([getattr(p, name) for p in parts]), rtol=0, atol=1e-6)


def test_explaining_keeps_no_gradient_and_no_change() -> None:
    generator, _, f = networks()
    x = torch.rand(2, 1, 4, 4)
    before = x.clone()
    found = explain(x, generator, f, 0.0)
    assert not found.counterfactual.requires_grad
    assert not found.saliency.requires_grad
    assert torch.equal(x, before)


def test_the_loss_of_the_discriminator_does_not_reach_the_generator() -> None:
    painted = torch.rand(2, 1, 2, 2, requires_grad=True)
    made = Generated(painted, torch.tensor([0, 1]), torch.tensor([1, 0]), torch.zeros(2))
    weight = torch.tensor(2.0, requires_grad=True)
    x = torch.rand(2, 1, 2, 2)
    for loss in (
        discriminator_loss(x, replace(made, own=None), lambda t: weight * total_of_pixels(t)),
        singla.discriminator_loss(x, made, lambda t, condition: weight * total_of_pixels(t) * (1 + condition)),
    ):
        of_image, of_weight = torch.autograd.grad(loss, [painted, weight], allow_unused=True)
        assert of_image is None
        assert of_weight.abs() > 0
