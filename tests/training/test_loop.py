"""The training loops: what is optimised, on which images, and which weights are kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from coinseg.config.schema import Settings
from coinseg.data.slices.arrays import Dataset
from coinseg.data.slices.dataset import TrainingSlices
from coinseg.data.slices.split import TRAINING, VALIDATION
from coinseg.explain.counterfactual.discriminator import Discriminator
from coinseg.explain.counterfactual.generator import Generator
from coinseg.metrics.overlap import classification_scores
from coinseg.networks.classifier import build, probabilities
from coinseg.runtime.devices import make_fabric
from coinseg.runtime.files import read_json
from coinseg.training import classifier, coin, loop
from coinseg.training.schedule import one_cycle
from conftest import tiny_settings
from models import SameLogit

Weights = dict[str, Tensor]


def squares(count: int = 24, organs: bool = False) -> Dataset:
    """Grey noise, every second image with a bright square on its left, in which the organ lies."""
    rng = np.random.default_rng(0)
    images, labels = rng.normal(0.35, 0.04, (count, 32, 32)), np.arange(count) % 2
    for i in np.flatnonzero(labels):
        row, column = rng.integers(2, 20), rng.integers(1, 5)
        images[i, row : row + 9, column : column + 9] += 0.5
    images = np.clip(images, 0, 1).astype(np.float32)
    return Dataset(images, labels, organs=(images > 0.6).astype(np.uint8) if organs else None)


def copied(module: nn.Module) -> Weights:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def watched(monkeypatch: pytest.MonkeyPatch, room: Any, network: str) -> tuple[dict[str, Any], list[Weights]]:
    """Lets a training run as it is, and keeps what it trains and the weights of a network after every step."""
    parts: dict[str, Any] = {}
    after: list[Weights] = []

    def fit(name: str, stage: Any, given: dict[str, Any], step: Callable[[int], Any], *rest: Any) -> None:
        def counted(number: int) -> Any:
            losses = step(number)
            after.append(copied(given[network]))
            return losses

        parts.update(given)
        loop.fit(name, stage, given, counted, *rest)

    monkeypatch.setattr(room, "fit", fit)
    return parts, after


def assert_is_the_mean(kept: nn.Module, after: list[Weights], decay: float) -> None:
    """After n steps the weights w_i count decay^(n - i), all of them together 1."""
    share = np.array([decay ** (len(after) - 1 - i) for i in range(len(after))])
    for name, value in kept.state_dict().items():
        if not value.dtype.is_floating_point:
            continue
        wanted = sum(w * each[name].double() for w, each in zip(share / share.sum(), after, strict=True))
        torch.testing.assert_close(value.double(), wanted, rtol=1e-4, atol=1e-6)
    last = after[-1]
    assert any(not torch.allclose(value, last[name]) for name, value in kept.state_dict().items() if "weight" in name)


def with_coin(**changes: Any) -> Settings:
    base = tiny_settings()
    return replace(base, coin=replace(base.coin, **changes))


# --- f ----------------------------------------------------------------------------------------------------------------


def test_f_learns_that_what_is_labelled_abnormal_is_abnormal() -> None:
    data = squares()
    f = classifier.train_classifier(data, tiny_settings())
    probability = probabilities(f, TrainingSlices(data, tiny_settings().anomaly, 0).batch(np.arange(16)).image).numpy()
    label = data.index["label"][np.flatnonzero(data.index["split"] == TRAINING)[:16]]
    assert probability[label == 1].mean() > probability[label == 0].mean() + 0.1


def test_scores_of_f_are_those_of_held_out_images_and_of_no_other(tmp_path: Path) -> None:
    data, settings = squares(40), replace(tiny_settings(), classifier=replace(tiny_settings().classifier, steps=6, batch=8))
    f = classifier.train_classifier(data, settings, tmp_path)
    written = read_json(tmp_path / "stage.json")["scores"]

    def scored(side: int) -> dict[str, Any]:
        rows = np.flatnonzero(data.index["split"] == side)
        image = torch.from_numpy(data.images[rows] * 2 - 1)
        return classification_scores(probabilities(f, image).numpy(), data.index["label"][rows], settings.classifier.threshold)

    held_out, trained_on = scored(VALIDATION), scored(TRAINING)
    assert written["calibration_error"] == pytest.approx(held_out["calibration_error"], abs=1e-6)
    assert written["calibration_error"] != pytest.approx(trained_on["calibration_error"], abs=1e-4)
    assert {name: written[name] for name in ("auroc", "accuracy")} == {name: held_out[name] for name in ("auroc", "accuracy")}


def test_f_is_trained_on_training_images_and_asked_about_them_as_they_are_augmented(monkeypatch: pytest.MonkeyPatch) -> None:
    data, sides, seen = squares(), [], []
    plain, augmented = TrainingSlices.batch, classifier.augmented

    def batch(self: TrainingSlices, *given: Any, **more: Any) -> Any:
        sides.append(self.side)
        return plain(self, *given, **more)

    monkeypatch.setattr(TrainingSlices, "batch", batch)
    monkeypatch.setattr(classifier, "augmented", lambda augment, image: seen.append(image) or augmented(augment, image))
    monkeypatch.setattr(classifier, "_scores", lambda *given: {})
    settings = replace(tiny_settings(), classifier=replace(tiny_settings().classifier, steps=3))
    classifier.train_classifier(data, settings)
    assert sides == [TRAINING] * 3
    assert [len(image) for image in seen] == [8] * 3


def test_a_frozen_f_neither_learns_nor_updates_its_statistics() -> None:
    f = build(tiny_settings().classifier).train()
    before = copied(f)
    assert f.frozen() is f
    assert not any(module.training for module in f.modules())
    assert not any(value.requires_grad for value in f.parameters())
    f(torch.rand(4, 1, 32, 32))
    assert all(torch.equal(value, before[name]) for name, value in f.state_dict().items())


def test_f_is_optimised_as_its_settings_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classifier, "_scores", lambda *given: {})
    parts, _ = watched(monkeypatch, classifier, "f")
    settings = replace(tiny_settings(), classifier=replace(tiny_settings().classifier, steps=2, weight_decay=0.03))
    f = classifier.train_classifier(squares(), settings)
    (group,) = parts["optimiser"].param_groups
    assert isinstance(parts["optimiser"], torch.optim.AdamW)
    assert (group["betas"], group["weight_decay"]) == ((0.9, 0.999), 0.03)
    assert {id(p) for p in group["params"]} == {id(p) for p in f.parameters()}
    assert group["lr"] == pytest.approx(settings.classifier.lr * one_cycle(1, 2))


# --- the generator ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("conditions", [1, 2])
@pytest.mark.parametrize("decay", [0.5, 0.9])
def test_the_generator_is_the_moving_average_of_its_weights(
    monkeypatch: pytest.MonkeyPatch, decay: float, conditions: int
) -> None:
    _, after = watched(monkeypatch, coin, "g")
    generator = coin.train_coin(squares(), SameLogit(1.0), with_coin(steps=4, ema=decay, conditions=conditions, lr=0.01))
    assert len(after) == 4
    assert_is_the_mean(generator, after, decay)


def test_without_an_average_the_last_weights_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    _, after = watched(monkeypatch, coin, "g")
    generator = coin.train_coin(squares(), SameLogit(1.0), with_coin(steps=3, ema=0.0, lr=0.01))
    assert all(torch.equal(value, after[-1][name]) for name, value in generator.state_dict().items())


def test_generator_and_discriminator_have_an_adam_each_with_the_betas_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    parts, _ = watched(monkeypatch, coin, "g")
    settings = with_coin(steps=2, beta1=0.3, beta2=0.7, decay=False)
    coin.train_coin(squares(), SameLogit(1.0), settings)
    for network, kind in (("g", Generator), ("d", Discriminator)):
        (group,) = parts[f"{network}_optimiser"].param_groups
        assert isinstance(parts[network], kind)
        assert group["betas"] == (0.3, 0.7)
        assert group["lr"] == settings.coin.lr
        assert {id(p) for p in group["params"]} == {id(p) for p in parts[network].parameters()}


def test_the_defaults_of_adam_and_of_the_average() -> None:
    assert (Settings().coin.beta1, Settings().coin.beta2, Settings().coin.ema) == (0.0, 0.99, 0.99)


def step_of(data: Dataset, **changes: Any) -> coin.CoinStep:
    """A step of the generator's training on arrays, with an f that calls everything abnormal."""
    settings = with_coin(**changes)
    slices, networks = TrainingSlices(data, settings.anomaly, 0), (Generator(settings.coin), Discriminator(settings.coin))
    return coin.CoinStep(slices, SameLogit(1.0), *networks, make_fabric(settings.engine), settings)


def test_the_regions_of_a_batch_lie_on_its_images_also_where_these_are_mirrored() -> None:
    step, left = step_of(squares(organs=True), batch=8, regions="organ"), []
    for number in range(4):
        torch.manual_seed(number)
        x, regions, asked = step._batch(number)
        assert asked is None  # there is one class
        assert regions is not None
        organ = x[:, 0] > 0.2
        assert organ.any((1, 2)).sum() == 4  # the abnormal half
        assert torch.equal(regions[:, 0] == 1, organ)
        assert torch.equal(regions[:, 1] == 0, organ)
        left += [bool(image[:, :16].any()) for image in organ if image.any()]
    assert {True, False} == set(left)  # each image is mirrored, or not, for itself


def test_the_generator_moves_at_every_nth_step_and_the_discriminator_at_each() -> None:
    step = step_of(squares(), generator_every=2, lr=0.01)
    moved = []
    for number in range(3):
        before = [copied(step.generator), copied(step.discriminator)]
        step(number)
        now = (step.generator, step.discriminator)
        moved.append(
            [any(not torch.equal(p, old[n]) for n, p in m.named_parameters()) for m, old in zip(now, before, strict=True)]
        )
    assert moved == [[True, True], [False, True], [True, True]]
    assert all(p.requires_grad for p in step.discriminator.parameters())


@pytest.mark.parametrize("conditions", [1, 2])
def test_the_steps_of_the_generator_leave_the_gradient_of_the_discriminator_alone(conditions: int) -> None:
    step = step_of(squares(), conditions=conditions)
    x, _, asked = step._batch(0)
    step._update_generator(x, None, asked)
    assert all(p.grad is None for p in step.discriminator.parameters())
    assert any(p.grad is not None and p.grad.any() for p in step.generator.parameters())


# --- the learning rate ------------------------------------------------------------------------------------------------


def test_the_learning_rate_by_hand() -> None:
    assert one_cycle(0, 100) == pytest.approx(1e-3)
    assert one_cycle(5, 100) == pytest.approx(0.5 + 1e-3)  # half of the warm-up
    assert one_cycle(10, 100) == pytest.approx(1 + 1e-3)
    assert one_cycle(55, 100) == pytest.approx(0.5 + 1e-3)  # half of the cosine
    assert one_cycle(100, 100) == pytest.approx(1e-3)
