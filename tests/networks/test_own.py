"""Classifiers as people have them are taken, or refused in one line, and are what they were after the trial."""

from __future__ import annotations

import sys
from collections import namedtuple
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from coinseg.config.schema import ClassifierSettings
from coinseg.data.slices.arrays import Dataset
from coinseg.errors import UserError
from coinseg.networks.classifier import Classifier, build
from coinseg.networks.own import logits_in
from coinseg.training.classifier import train_classifier
from conftest import tiny_settings

Named = namedtuple("Named", "logits aux_logits")


class Body(nn.Module):
    """Features, their highest values, and `outputs` numbers, of which `end` makes what is returned."""

    def __init__(self, outputs: int = 1, channels: int = 1, end: Callable[[Tensor], Any] = lambda y: y) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(channels, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.drop, self.head, self.end = nn.Dropout(0.5), nn.Linear(8, outputs), end

    def forward(self, x: Tensor) -> Any:
        return self.end(self.head(self.drop(self.features(x).amax((2, 3)))))


class Writes(Body):
    def forward(self, x: Tensor) -> Any:
        with torch.no_grad():
            x.mul_(0.5)
        return super().forward(x)


class Weightless(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((1, 2, 3))


def silent_head(bias: float) -> Body:
    """A network that has not begun to learn: all its logits are one number in [0, 1]."""
    body = Body()
    nn.init.zeros_(body.head.weight)
    nn.init.constant_(body.head.bias, bias)
    return body


class OfItsBatch(Body):
    """Normalises by the images of its batch, in evaluation mode too."""

    def train(self, mode: bool = True) -> OfItsBatch:
        return super().train()


TAKEN: dict[str, Callable[[], nn.Module]] = {
    "plain": Body, "a dict": lambda: Body(end=lambda y: {"logits": y}), "a dict of one": lambda: Body(end=lambda y: {"out": y}),
    "a tuple of one": lambda: Body(end=lambda y: (y,)), "named outputs": lambda: Body(end=lambda y: Named(y, 2 * y)),
    "an object": lambda: Body(end=lambda y: SimpleNamespace(logits=y)), "squeezed": lambda: Body(end=lambda y: y.squeeze()),
    "parallel": lambda: nn.DataParallel(Body()), "begins at 0": lambda: silent_head(0), "begins at 0.3": lambda: silent_head(0.3),
    "bounded": lambda: Body(end=torch.tanh), "declared": lambda: Body(end=lambda y: torch.logit(torch.sigmoid(y), eps=1e-6)),
}  # fmt: skip
REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "a tuple": (lambda: Body(end=lambda y: (y, y)), "returned a tuple with 2 tensors; required: one logit for each image"),
    "two names": (lambda: Body(end=lambda y: {"a": y, "b": y}), "returned a dict with 2 tensors, named a, b; required"),
    "nothing": (lambda: Body(end=lambda y: None), "returned a NoneType with 0 tensors"),
    "two logits": (lambda: Body(2), r"returned shape \(1, 2\) for 1 images; required: one logit .* z\[:, 1\] - z\[:, 0\]"),
    "softmax": (lambda: Body(2, end=nn.Softmax(1)), r"returned shape \(1, 2\)"),
    "three channels": (lambda: Body(channels=3), r"cannot take images \(1, 1, 32, 32\) \(RuntimeError: Given groups=1"),
    "another size": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(99, 1)), "cannot take images .*; set data.size to what it"),
    "half": (lambda: Body().half(), r"has weights of torch\.float16; required: weights of torch\.float32"),
    "double": (lambda: Body().double(), r"has weights of torch\.float64"),
    "double logits": (lambda: Body(end=Tensor.double), r"gives logits of torch\.float64; required"),
    "whole numbers": (lambda: Body(end=lambda y: (y > 0).long()), r"gives logits of torch\.int64"),
    "NaN": (lambda: Body(end=lambda y: y / 0 * 0), "gives logits that are NaN or infinite"),
    "no gradient": (lambda: Body(end=Tensor.detach), "have no gradient with respect to the image"),
    "in place": (Writes, "changes the images it is given|in-place operation"),
    "no weights": (Weightless, "the classifier Weightless has no weights"),
    "sigmoid": (lambda: Body(end=torch.sigmoid), r"values in \[0, 1\] for every image.* probabilities; .*torch\.logit\(p"),
    "sigmoid by hand": (lambda: Body(end=lambda y: 1 / (1 + (-y).exp())), "probabilities"),
    "random": (lambda: Body(end=lambda y: y + torch.randn_like(y)), "another logit when it is asked again, or beside other"),
    "of its batch": (OfItsBatch, "another logit when it is asked again, or beside other images"),
    "ends the program": (lambda: Body(end=lambda y: sys.exit(3)), r"cannot take images .*\(SystemExit: 3\)"),
    "clipped": (lambda: Body(end=lambda y: (y / 9 + 0.5).clamp(0, 1)), "probabilities"),
}  # fmt: skip


@pytest.fixture
def factory(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], ClassifierSettings]:
    """Settings that name a factory."""

    def named(make: Any) -> ClassifierSettings:
        module = ModuleType("somebodys_nets")
        module.make = make  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "somebodys_nets", module)
        return ClassifierSettings(name="somebodys_nets:make")

    return named


@pytest.mark.parametrize("name", TAKEN)
@pytest.mark.parametrize("gradient", [True, False])
def test_taken_and_left_as_it_was(name: str, gradient: bool, factory: Callable[[Any], ClassifierSettings]) -> None:
    torch.manual_seed(0)
    f = build(factory(TAKEN[name]))
    before = {key: value.clone() for key, value in f.state_dict().items()}
    f.get_submodule("network").eval()
    modes, state = [part.training for part in f.modules()], torch.get_rng_state()
    f.require_usable(32, gradient)
    assert torch.equal(torch.get_rng_state(), state)
    assert modes == [part.training for part in f.modules()]
    assert all(torch.equal(value, before[key]) for key, value in f.state_dict().items())
    f.eval()
    assert f(torch.zeros(3, 1, 32, 32)).shape == (3,)


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_one_line(name: str, factory: Callable[[Any], ClassifierSettings]) -> None:
    make, line = REFUSED[name]
    torch.manual_seed(0)
    f = build(factory(make))
    with pytest.raises(UserError, match=line) as refused:
        f.require_usable(32)
    assert "\n" not in str(refused.value)


def test_what_is_no_network_is_refused_when_it_is_built(factory: Callable[[Any], ClassifierSettings]) -> None:
    def boom() -> nn.Module:
        raise RuntimeError("no GPU here\nat all")

    for make, line in ((boom, r"\(RuntimeError: no GPU here\)"), (lambda: 3, "returned a int"), (lambda x: x, "TypeError"),
        (lambda: Body, "returned a type"), (lambda: sys.exit(3), "SystemExit: 3")):  # fmt: skip
        with pytest.raises(UserError, match=line):
            build(factory(make))


def test_an_error_in_training_is_one_line_and_memory_is_left_to_who_minds_it() -> None:
    with pytest.raises(UserError, match=r"cannot take images .*Expected more than 1 value per channel"):
        Classifier(nn.Sequential(nn.Conv2d(1, 1, 8), nn.BatchNorm2d(1))).train()(torch.zeros(1, 1, 8, 8))

    def full(x: Tensor) -> Tensor:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    with pytest.raises(RuntimeError, match="allocate"):
        Classifier(Body(end=full))(torch.zeros(1, 1, 8, 8))


def test_a_network_none_of_whose_weights_learns_is_refused_before_it_is_trained(
    factory: Callable[[Any], ClassifierSettings],
) -> None:
    data = Dataset(torch.rand(12, 32, 32), np.arange(12) % 2)
    settings = replace(tiny_settings(), classifier=replace(tiny_settings().classifier, name=factory(lambda: Body()).name))
    train_classifier(data, settings, None)
    factory(lambda: Body().requires_grad_(False))
    with pytest.raises(UserError, match="no weight of the classifier somebodys_nets:make learns"):
        train_classifier(data, settings, None)


def test_the_logits_of_what_a_network_returns() -> None:
    y, other = torch.zeros(2), torch.ones(2)
    for output in (y, {"logits": y, "loss": other}, {"logit": y, "features": other}, [y], Named(y, other)):
        assert logits_in(output) is y


def test_timm_models_of_a_fixed_size() -> None:
    f = build(ClassifierSettings(name="vit_tiny_patch16_224"))
    with pytest.raises(UserError, match=r"cannot take images \(1, 1, 32, 32\) .*224.*; set data.size"):
        f.require_usable(32)
