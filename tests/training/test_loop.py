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
from coinseg.errors import UserError
from coinseg.explain.counterfactual.discriminator import Discriminator
from coinseg.explain.counterfactual.generator import Generator
from coinseg.metrics.overlap import classification_scores
from coinseg.networks.classifier import build, probabilities
from coinseg.runtime.devices import make_fabric
from coinseg.runtime.files import read_json
from coinseg.runtime.stage import COST
from coinseg.training import classifier, coin, loop
from coinseg.training.schedule import one_cycle
from conftest import tiny_settings
from models import Brightness, SameLogit

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


def test_the_adam_of_f_has_the_betas_and_the_decay_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    parts, _ = watched(monkeypatch, classifier, "f")
    base = tiny_settings()
    settings = replace(base, classifier=replace(base.classifier, steps=1, beta1=0.3, beta2=0.7, weight_decay=0.2))
    classifier.train_classifier(squares(), settings)
    (group,) = parts["optimiser"].param_groups
    assert (group["betas"], group["weight_decay"]) == ((0.3, 0.7), 0.2)
    assert {id(p) for p in group["params"]} == {id(p) for p in parts["f"].parameters()}


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


def test_without_a_discriminator_and_mirrors_images_stay_and_the_discriminator_too() -> None:
    data = squares()
    step = step_of(data, adversarial=0.0, hflip=False, regions="none", lr=0.01)
    slices = TrainingSlices(data, step.slices.anomaly, 0)
    x, regions, asked = step._batch(3)
    indices, epoch = slices.indices_of_step(3, step.settings.batch, step.settings.balanced)
    assert torch.equal(x, slices.batch(indices, epoch).image)
    assert regions is asked is None
    before = copied(step.discriminator)
    losses = step(0)
    assert "discriminator" not in losses
    assert "adversarial" not in losses
    assert all(torch.equal(value, before[name]) for name, value in step.discriminator.state_dict().items())
    assert not any(value.requires_grad for value in losses.values())
    assert losses is step.latest


def test_a_step_of_the_discriminator_alone_keeps_the_losses_of_the_generator() -> None:
    step = step_of(squares(), generator_every=2, lr=0.01)
    first = dict(step(0))
    second = step(1)
    assert (
        first.keys()
        == second.keys()
        == {"adversarial", "classifier", "identity", "tv", "discriminator"} | ({"cycle"} if step.settings.cycle else set())
    )
    changed = {name for name in first if not torch.equal(first[name], second[name])}
    assert changed == {"discriminator"}
    assert set(step.parts()) == {"latest", "g", "d", "kept", "g_optimiser", "d_optimiser"}
    assert step.parts()["kept"] is step.averaged


def test_a_generator_that_is_there_is_read_and_f_stays_frozen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    f, settings = build(tiny_settings().classifier).train(), with_coin(steps=2)
    before = copied(f)
    made = coin.train_coin(squares(), f, settings, tmp_path)
    assert not f.training
    assert not any(value.requires_grad for value in f.parameters())
    assert all(torch.equal(value, before[name]) for name, value in f.state_dict().items())
    monkeypatch.setattr(coin, "fit", lambda *given: pytest.fail("trained again"))
    again = coin.train_coin(squares(), f, settings, tmp_path)
    assert made.training is again.training is False
    assert all(torch.equal(value, made.state_dict()[name]) for name, value in again.state_dict().items())


@pytest.mark.parametrize("most", [3, 100])
def test_a_layer_is_chosen_on_abnormal_training_images_and_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, most: int
) -> None:
    asked: list[tuple[str, nn.Module, Tensor, int]] = []

    def best(*given: Any) -> tuple[str, dict[str, float]]:
        asked.append(given)
        return "two", {"one": 0.1, "two": 0.2}

    monkeypatch.setattr(coin, "best_layer", best)
    monkeypatch.setattr(coin, "LAYER_IMAGES", most)
    data, f, base = squares(), SameLogit(1.0), tiny_settings()
    settings = replace(base, method="scorecam", attribution=replace(base.attribution, layer="best", batch=5))
    folder = tmp_path / "layer"
    folder.mkdir()
    for other in ({"method": "rise"}, {"method": "counterfactual"}, {"attribution": replace(settings.attribution, layer="last")}):
        assert coin.choose_layer(data, f, replace(settings, **other), folder) is None  # type: ignore[arg-type]
    assert coin.choose_layer(data, f, settings, folder) == coin.choose_layer(data, f, settings, folder) == "two"
    ((method, network, images, batch),) = asked
    assert (method, network, batch) == ("scorecam", f, 5)
    slices = TrainingSlices(data, settings.anomaly, 0)
    abnormal = slices.batch(np.flatnonzero(slices.labels() == 1)).image
    assert len(images) == min(most, len(abnormal))
    places = [[i for i, one in enumerate(abnormal) if torch.equal(one, image)] for image in images]
    assert places == sorted(places)
    assert all(len(place) == 1 for place in places)
    kept = read_json(folder / "layer.json")
    assert (kept["layer"], kept["insertion_minus_deletion"]) == ("two", {"one": 0.1, "two": 0.2})
    assert coin.choose_layer(data, f, replace(settings, seed=5), folder) == "two"
    assert len(asked) == 2  # of another key
    assert coin.choose_layer(data, f, settings) == "two"
    assert len(asked) == 3


# --- scores of f ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [3, 100])
def test_predictions_are_in_the_order_that_was_asked_for(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(classifier, "CHUNK", chunk)
    data = squares()
    data.images = np.broadcast_to(np.linspace(0.1, 0.9, 24, dtype=np.float32)[:, None, None, None], data.images.shape).copy()
    slices = TrainingSlices(data, tiny_settings().anomaly, 0)
    indices = np.array([7, 2, 11, 0, 5, 3, 9])
    f, labels = classifier.predict(Brightness(), slices, indices, make_fabric(tiny_settings().engine))
    level = data.images[slices.rows[indices], 0, 0, 0] * 2 - 1
    np.testing.assert_allclose(f, 1 / (1 + np.exp(-8 * level)), rtol=1e-5)
    assert labels.tolist() == data.index["label"][slices.rows[indices]].tolist()
    assert labels.dtype == np.int64


def test_slices_with_the_label_of_their_scan_alone_count_for_scans_and_not_for_slices() -> None:
    data = squares()
    data.images[:] = np.linspace(0.1, 0.9, 24)[:, None, None, None]
    data.index["split"][:] = VALIDATION
    data.index["label"] = np.array([0] * 8 + [1] * 16)
    data.index["series"] = np.repeat(list("abcdef"), 4)
    data.index["weak"] = np.array([0] * 8 + [0, 0] + [1] * 14)
    slices = TrainingSlices(data, tiny_settings().anomaly, 0, VALIDATION)
    found = classifier.score_classifier(Brightness(), slices, make_fabric(tiny_settings().engine), 0.28)
    assert found["auroc"] == 1.0
    # Ten slices have labels: f is 8 (2 u - 1) below log(0.28 / 0.72) in all of them, so only normal ones are right.
    assert found["accuracy"] == pytest.approx(0.8)
    assert found["auroc_scans"] == 1.0


# --- the loop ---------------------------------------------------------------------------------------------------------


class Kept:
    """A stage that keeps what it is told; checkpoints are due at every fourth step."""

    def __init__(self, state: dict[str, Any] | None = None) -> None:
        self.state, self.told = state, []  # type: ignore[var-annotated]
        self.costs: list[tuple[float, ...]] = []

    def resume(self) -> dict[str, Any] | None:
        return self.state

    def steps(self, start: int, stop: int) -> range:
        return range(start, stop)

    def log(self, done: int, values: dict[str, float]) -> None:
        self.costs.append(tuple(values[name] for name in COST))
        self.told.append(("log", done, {name: value for name, value in values.items() if name not in COST}))

    def due(self, done: int, every: int) -> bool:
        assert every == 4
        return done % every == 0

    def save(self, done: int, setting: str, **states: Any) -> None:
        self.told.append(("save", done, setting, states))

    def file(self, name: str) -> Path:
        return Path(name)


def fitted(state: dict[str, Any] | None = None, steps: int = 13, decay: bool = True) -> tuple[Kept, dict[str, Any], list[Any]]:
    """Thirteen steps of two optimisers; returns the stage, what was trained, and what each step saw."""
    torch.manual_seed(0)
    network = nn.Linear(2, 1)
    one, other = torch.optim.SGD(network.parameters(), lr=9.0), torch.optim.Adam([nn.Parameter(torch.zeros(1))], lr=9.0)
    parts: dict[str, Any] = {"network": network, "one": one, "other": other, "latest": {}}
    stage, seen = Kept(state), []  # type: ignore[var-annotated]

    def step(number: int) -> dict[str, Tensor]:
        seen.append((number, one.param_groups[0]["lr"], other.param_groups[0]["lr"], torch.rand(1).item()))
        parts["latest"]["loss"] = torch.tensor(float(number))
        return parts["latest"]

    settings = with_coin(steps=steps, lr=0.5)
    report = lambda *words: stage.told.append(("report", *words))
    loop.fit("coin", stage, parts, step, settings, report, decay, lambda done: stage.told.append(("after", done)))  # type: ignore[arg-type]
    return stage, parts, seen


def test_the_loop_sets_rates_seeds_logs_and_keeps_checkpoints() -> None:
    stage, _, seen = fitted()
    assert [number for number, *_ in seen] == list(range(13))
    for number, one, other, _ in seen:
        assert one == other == pytest.approx(0.5 * one_cycle(number, 13))
    assert len({draw for *_, draw in seen}) == 13  # the random numbers of a step are its own
    assert [draw for *_, draw in fitted()[2]] == [draw for *_, draw in seen]
    assert {(one, other) for _, one, other, _ in fitted(decay=False)[2]} == {(0.5, 0.5)}
    assert [told[:3] for told in stage.told if told[0] == "log"] == [("log", 10, {"loss": 9.0}), ("log", 13, {"loss": 12.0})]
    assert [told for told in stage.told if told[0] == "report"] == [
        ("report", "coin", 1, 13, {"loss": 0.0}),
        ("report", "coin", 10, 13, {"loss": 9.0}),
        ("report", "coin", 13, 13, {"loss": 12.0}),
    ]
    saved = [told for told in stage.told if told[0] == "save"]
    assert [told[1:3] for told in saved] == [(4, "coin.lr"), (8, "coin.lr"), (12, "coin.lr")]
    assert set(saved[0][3]) == {"network", "one", "other", "latest"}
    assert [told[1] for told in stage.told if told[0] == "after"] == list(range(1, 14))
    order = [told[0] for told in stage.told if told[1] in (12, 13) or told[2:3] == (13,)]
    assert order == ["after", "save", "log", "report", "after"]


def test_the_log_has_the_images_a_second_of_its_own_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 100, 2))  # two seconds from one look at it to the next
    monkeypatch.setattr(loop.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(loop, "peak_memory_gb", lambda device: 1.5)
    batch = tiny_settings().coin.batch
    assert fitted()[0].costs == [(10 * batch / 2, 1.5), (3 * batch / 2, 1.5)]


def test_the_loop_goes_on_from_a_checkpoint_with_everything_that_it_holds() -> None:
    weights = {"weight": torch.tensor([[5.0, 6.0]]), "bias": torch.tensor([7.0])}
    _, whole, undisturbed = fitted()
    optimisers = {name: whole[name].state_dict() for name in ("one", "other")}
    state = {"step": 9, "network": weights, "latest": {"old": torch.tensor(1.0)}, **optimisers}
    _, parts, seen = fitted(state)
    assert [number for number, *_ in seen] == [9, 10, 11, 12]
    assert seen == undisturbed[9:]
    assert parts["network"].weight.tolist() == [[5.0, 6.0]]
    assert set(parts["latest"]) == {"old", "loss"}
    assert fitted(state | {"step": 13})[2] == []
    for broken in ({"network": {"weight": 1}}, {"one": {}}):
        with pytest.raises(UserError, match="it is of another training"):
            fitted(state | broken)
    with pytest.raises(UserError, match="it is of another training"):
        fitted({"step": 1})


def test_a_step_down_clears_the_gradient_of_the_step_before() -> None:
    parameter = nn.Parameter(torch.tensor([1.0]))
    optimiser = torch.optim.SGD([parameter], lr=0.5)
    fabric = make_fabric(tiny_settings().engine)
    for wanted in (-0.5, -2.0):
        loop.descend(fabric, optimiser, (3 * parameter).sum(), [parameter])
        assert parameter.item() == wanted
    loop.descend(fabric, optimiser, (parameter**2).sum())
    assert parameter.item() == 0.0


# --- the learning rate ------------------------------------------------------------------------------------------------


def test_the_learning_rate_by_hand() -> None:
    assert one_cycle(0, 100) == pytest.approx(1e-3)
    assert one_cycle(5, 100) == pytest.approx(0.5 + 1e-3)  # half of the warm-up
    assert one_cycle(10, 100) == pytest.approx(1 + 1e-3)
    assert one_cycle(55, 100) == pytest.approx(0.5 + 1e-3)  # half of the cosine
    assert one_cycle(100, 100) == pytest.approx(1e-3)
    assert one_cycle(0, 0) == pytest.approx(1e-3)
    assert one_cycle(25, 100, 0.5) == pytest.approx(0.5 + 1e-3)
    assert one_cycle(75, 100, 0.5) == pytest.approx(0.5 + 1e-3)


def test_f_is_asked_about_images_of_the_channels_there_are_before_a_generator_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    class Asked(Exception):
        pass

    def require(f: nn.Module, side: int, gradient: bool = True, channels: int = 1) -> None:
        raise Asked(side, gradient, channels)

    monkeypatch.setattr(coin.Classifier, "require_usable", require)
    settings = tiny_settings()
    for count in (1, 3):
        images = np.random.default_rng(0).random((8, count, 32, 32))
        store = Dataset(images, np.arange(8) % 2)
        with pytest.raises(Asked) as caught:
            coin.train_coin(store, build(settings.classifier, count), settings)
        assert caught.value.args == (32, True, count)
