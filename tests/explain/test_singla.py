"""Singla et al. on toys whose answers are worked by hand: bins, the asked posterior, CARL, KL, the four cases."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from coinseg.config.schema import CoinSettings
from coinseg.explain.counterfactual import coin, losses, singla
from coinseg.explain.counterfactual.discriminator import Discriminator
from coinseg.explain.counterfactual.generator import Generator
from coinseg.networks.layers import ConditionalNorm

TWO = CoinSettings(conditions=2, adversarial=2.0, classifier=5.0, identity=3.0, cycle=7.0, tv=0.0, width=4, depth=2, skips=1)


def softplus(z: float) -> float:
    return math.log1p(math.exp(z))


def total(x: Tensor) -> Tensor:
    """A toy f: the logit is the sum of the pixels."""
    return x.flatten(1).sum(1)


def halves_or_doubles(x: Tensor, condition: Tensor) -> Tensor:
    """A toy generator: condition 0 halves the image, condition 1 doubles it."""
    return x * torch.where(condition == 1, 2.0, 0.5).reshape(-1, 1, 1, 1)


def toy_discriminator(x: Tensor, condition: Tensor) -> Tensor:
    return total(x) * (1 + condition)


# --- bins ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("probability", "conditions", "number"),
    [(0.0, 2, 0), (0.49, 2, 0), (0.5, 2, 1), (1.0, 2, 1), (0.0, 10, 0), (0.1, 10, 1), (0.95, 10, 9), (1.0, 10, 9)],
)
def test_bins_by_hand(probability: float, conditions: int, number: int) -> None:
    assert singla.bin_of(torch.tensor([probability]), conditions).item() == number


@given(st.floats(0, 1), st.integers(2, 12))
def test_a_bin_holds_its_posterior(probability: float, conditions: int) -> None:
    number = singla.bin_of(torch.tensor([probability], dtype=torch.float64), conditions).item()
    assert 0 <= number < conditions
    assert number / conditions <= probability + 1e-9
    assert probability <= (number + 1) / conditions + 1e-9


def test_two_bins_ask_for_the_opposite() -> None:
    torch.testing.assert_close(singla.asked_posterior(torch.tensor([0.2, 0.9]), 2), torch.tensor([0.8, 0.1]))


def test_ten_bins_are_all_asked_for() -> None:
    torch.manual_seed(0)
    asked = singla.bin_of(singla.asked_posterior(torch.full((500,), 0.7), 10), 10)
    assert set(asked.tolist()) == set(range(10))


# --- losses ----------------------------------------------------------------------------------------------------------------


def test_carl_on_a_4x4_image_by_hand() -> None:
    # The organ is the 2 x 2 corner, changed by 0.5 in one pixel; the background has 12 pixels, one changed by 0.6.
    x, other = torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 4)
    other[0, 0, 0, 0], other[0, 0, 3, 3] = 0.5, -0.6
    organ = torch.zeros(1, 4, 4)
    organ[0, :2, :2] = 1
    regions = torch.stack([organ, 1 - organ], 1)
    assert losses.regional_reconstruction(x, other, regions).item() == pytest.approx(0.5 / 4 + 0.6 / 12)
    assert losses.reconstruction(x, other).item() == pytest.approx(1.1 / 16)


def test_carl_of_an_absent_region_is_zero_and_of_one_region_is_l1() -> None:
    x, other = torch.rand(2, 1, 4, 4), torch.rand(2, 1, 4, 4)
    everything, nothing = torch.ones(2, 1, 4, 4), torch.zeros(2, 1, 4, 4)
    assert losses.regional_reconstruction(x, other, nothing).item() == 0
    expected = losses.reconstruction(x, other)
    torch.testing.assert_close(losses.regional_reconstruction(x, other, everything), expected)
    torch.testing.assert_close(losses.regional_reconstruction(x, other, torch.cat([everything, nothing], 1)), expected)


def test_kl_by_hand() -> None:
    # asked 1/4, f says 1/2: 1/4 log(1/2) + 3/4 log(3/2)
    found = losses.posterior_consistency(torch.zeros(1), torch.tensor([0.25]))
    assert found.item() == pytest.approx(0.25 * math.log(0.5) + 0.75 * math.log(1.5), rel=1e-6)


def test_kl_is_zero_where_f_says_what_was_asked_and_coins_where_normal_is_asked() -> None:
    logits = torch.tensor([-3.0, 0.5, 2.0], dtype=torch.float64)
    assert losses.posterior_consistency(logits, torch.sigmoid(logits)).item() == pytest.approx(0, abs=1e-12)
    torch.testing.assert_close(
        losses.posterior_consistency(logits, torch.zeros(3).double()), losses.classifier_consistency(logits)
    )


@given(st.floats(-20, 20), st.floats(0, 1))
def test_kl_is_finite_and_not_negative(logit: float, asked: float) -> None:
    found = losses.posterior_consistency(torch.tensor([logit], dtype=torch.float64), torch.tensor([asked], dtype=torch.float64))
    assert math.isfinite(found.item())
    assert found.item() >= -1e-12


# --- the algorithm ---------------------------------------------------------------------------------------------------------


def test_terms_by_hand() -> None:
    # One pixel is 1, f(X) = sigmoid(1) > 1/2: X is in bin 1, bin 0 is asked for and X_cf is X / 2.
    x = torch.zeros(1, 1, 2, 2, dtype=torch.float64)
    x[0, 0, 0, 0] = 1
    made = singla.generate(x, halves_or_doubles, total, TWO)
    assert (made.own.item(), made.asked.item()) == (1, 0)  # type: ignore[union-attr]
    torch.testing.assert_close(made.image, x / 2)
    terms = singla.generator_losses(x, made, halves_or_doubles, toy_discriminator, total, TWO)
    q = 1 - 1 / (1 + math.exp(-1))
    entropy = -(q * math.log(q) + (1 - q) * math.log(1 - q))
    by_hand = {
        "adversarial": 2 * softplus(-0.5),
        "classifier": 5 * (q * softplus(-0.5) + (1 - q) * softplus(0.5) - entropy),
        "identity": 3 * 1 / 4,  # E(X, own) = 2 X
        "cycle": 0.0,  # E(X / 2, own) = X
    }
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(by_hand, rel=1e-6, abs=1e-12)


def test_discriminator_loss_sees_each_image_in_its_own_bin() -> None:
    x = torch.full((1, 1, 1, 1), 1.0)
    made = coin.Generated(torch.full((1, 1, 1, 1), 3.0), torch.tensor([0]), torch.tensor([1]), torch.tensor([0.3]))
    # D: 1 * (1 + 1) on the real one, 3 * (1 + 0) on the other.
    assert singla.discriminator_loss(x, made, toy_discriminator).item() == pytest.approx(softplus(-2.0) + softplus(3.0), rel=1e-6)


def test_regions_reach_both_reconstruction_terms() -> None:
    x = torch.rand(2, 1, 4, 4)
    made = singla.generate(x, halves_or_doubles, total, TWO)
    nothing = torch.zeros(2, 2, 4, 4)
    terms = singla.generator_losses(x, made, halves_or_doubles, toy_discriminator, total, TWO, nothing)
    assert terms["identity"].item() == terms["cycle"].item() == 0


def test_a_weight_of_zero_is_not_computed() -> None:
    alone = replace(TWO, adversarial=0.0, identity=0.0, cycle=0.0)
    x = torch.rand(1, 1, 2, 2)
    made = singla.generate(x, halves_or_doubles, total, alone)
    assert list(singla.generator_losses(x, made, halves_or_doubles, toy_discriminator, total, alone)) == ["classifier"]


@pytest.mark.parametrize("term", ["adversarial", "classifier", "identity", "cycle", "tv"])
def test_every_term_grows_with_its_own_weight_and_with_no_other(term: str) -> None:
    torch.manual_seed(0)
    x = torch.rand(3, 1, 4, 4) - 0.3
    made = singla.generate(x, halves_or_doubles, total, TWO)
    made = replace(made, image=made.image + 0.1)  # so that the cycle does not close
    all_terms = replace(TWO, tv=0.3)
    one, five = (
        singla.generator_losses(x, made, halves_or_doubles, toy_discriminator, total, weights)
        for weights in (all_terms, replace(all_terms, **{term: 5 * getattr(all_terms, term)}))
    )
    assert one.keys() == five.keys() == {"adversarial", "classifier", "identity", "cycle", "tv"}
    for name, value in one.items():
        assert value > 0
        torch.testing.assert_close(five[name], value * (5 if name == term else 1))
    torch.testing.assert_close(one["tv"], 0.3 * losses.total_variation_of_difference(x, made.image))


def test_the_four_cases_of_label_and_condition() -> None:
    """(0, 0) and (1, 1) are asked to return the image, (1, 0) to remove, (0, 1) to add (thesis 3.2.3)."""
    abnormal, normal = torch.full((1, 1, 1, 1), 2.0), torch.full((1, 1, 1, 1), -2.0)
    for x, own in ((abnormal, 1), (normal, 0)):
        made = singla.generate(x, halves_or_doubles, total, TWO)
        assert made.own is not None
        assert made.asked is not None
        assert made.posterior is not None
        assert (made.own.item(), made.asked.item()) == (own, 1 - own)
        torch.testing.assert_close(made.posterior, 1 - torch.sigmoid(total(x)))


def test_both_directions() -> None:
    x = torch.tensor([0.4, -0.4]).reshape(2, 1, 1, 1)
    removed, added = singla.directions(x, halves_or_doubles, total, 2)
    torch.testing.assert_close(removed.painted()[0], x / 2)
    torch.testing.assert_close(added.painted()[0], x * 2)
    assert (added.painted()[1] > 0.5).tolist() == [True, False]


# --- networks --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("conditions", [2, 10])
@pytest.mark.parametrize("fusion", ["none", "tanh", "bounded"])
def test_conditions_change_the_counterfactual_after_a_step(conditions: int, fusion: str) -> None:
    torch.manual_seed(0)
    s = replace(TWO, conditions=conditions, fusion=fusion)  # type: ignore[arg-type]
    generator = Generator(s)
    torch.nn.init.normal_(generator.head[2].weight)  # type: ignore[arg-type]
    x = torch.rand(2, 1, 8, 8) * 2 - 1
    low, high = torch.zeros(2, dtype=torch.long), torch.full((2,), conditions - 1)
    torch.testing.assert_close(generator(x, low), generator(x, high))  # gains and shifts start alike
    step = torch.optim.SGD(generator.parameters(), lr=0.5)
    for _ in range(2):
        step.zero_grad()
        (generator(x, high).mean() - generator(x, low).mean()).backward()
        step.step()
    assert (generator(x, low) - generator(x, high)).abs().max() > 1e-4


def test_no_condition_asks_for_normal() -> None:
    torch.manual_seed(0)
    generator = Generator(TWO).eval()
    for p in generator.parameters():
        torch.nn.init.normal_(p, std=0.3)
    x = torch.rand(2, 1, 8, 8)
    torch.testing.assert_close(generator(x), generator(x, torch.zeros(2, dtype=torch.long)))
    assert (generator(x) - generator(x, torch.ones(2, dtype=torch.long))).abs().max() > 1e-3


def test_no_perturbation_paints_whole_images() -> None:
    torch.manual_seed(0)
    painter = Generator(replace(TWO, conditions=1, fusion="none")).eval()
    bright, dark = torch.ones(1, 1, 8, 8), -torch.ones(1, 1, 8, 8)
    assert painter(bright).std() > 0  # not started from "change nothing"
    assert painter(bright).abs().max() < 1
    assert painter(dark).abs().max() < 1


def test_conditional_norm_by_hand() -> None:
    norm = ConditionalNorm(2, 1, 3).eval()
    torch.nn.init.constant_(norm.gain.weight[2].data, 4.0)
    norm.shift.weight.data[2] = 0.5
    x = torch.full((2, 1, 2, 2), 2.0)
    # Running mean 0 and variance 1: condition 0 leaves x, condition 2 gives 4 x + 0.5.
    found = norm(x, torch.tensor([0, 2]))
    torch.testing.assert_close(found[:, 0, 0, 0], torch.tensor([2.0, 8.5]), rtol=1e-4, atol=1e-4)


def test_the_projection_adds_the_inner_product_with_the_condition() -> None:
    torch.manual_seed(0)
    d = Discriminator(replace(TWO, discriminator_width=4, discriminator_depth=2)).eval()
    x = torch.rand(3, 1, 8, 8)
    found = [d(x, torch.full((3,), c)) for c in (0, 1)]
    assert found[0].shape == (3,)
    assert (found[0] - found[1]).abs().max() > 1e-6


@pytest.mark.parametrize("dims", [2, 3])
def test_batch_equals_singles(dims: int) -> None:
    torch.manual_seed(0)
    generator = Generator(TWO, dims=dims).eval()
    torch.nn.init.normal_(generator.head[2].weight)  # type: ignore[arg-type]
    x, condition = torch.rand(3, 1, *[8] * dims), torch.tensor([0, 1, 0])
    singles = torch.cat([generator(x[i : i + 1], condition[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(generator(x, condition), singles, rtol=1e-4, atol=1e-5)
