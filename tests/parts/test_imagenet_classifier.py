"""The ImageNet classifier: how it is mixed in, what it is trained with and where, and that it is read again as it was."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from coinseg.config.parsing import opinion_settings
from coinseg.config.schema import Settings
from coinseg.networks.classifier import build
from coinseg.parts import imagenet_classifier as room
from coinseg.parts.base import Learning
from coinseg.parts.imagenet_classifier import ImageNetClassifier
from coinseg.runtime.stage import silent
from conftest import tiny_settings
from models import SameLogit, nobody


def asking(imagenet_steps: int = 3, steps: int = 6) -> Settings:
    tiny = tiny_settings()
    return replace(
        tiny,
        classifier=replace(tiny.classifier, steps=steps),
        student=replace(tiny.student, imagenet_steps=imagenet_steps, lr=0.004, batch=6),
    )


def test_its_logit_is_a_quarter_of_the_sum() -> None:
    part = ImageNetClassifier(SameLogit(8.0))
    assert part.score(torch.tensor([4.0, -4.0, 0.0]), torch.zeros(3, 1, 4, 4)).tolist() == [5.0, -1.0, 2.0]
    assert (ImageNetClassifier.name, ImageNetClassifier.folder) == ("imagenet_classifier", "opinion")
    assert ImageNetClassifier.weights == "classifier/model.safetensors"


@pytest.mark.parametrize(("imagenet_steps", "steps", "asked"), [(3, 6, True), (0, 6, False), (3, 0, False)])
def test_it_is_asked_for_by_its_steps_and_where_f_is_trained(imagenet_steps: int, steps: int, asked: bool) -> None:
    assert ImageNetClassifier.asked_for(asking(imagenet_steps, steps)) is asked


@pytest.mark.parametrize("root", [None, Path("run")])
def test_it_is_trained_on_the_same_slices_with_settings_of_its_own_in_a_folder_of_its_own(root: Path | None) -> None:
    calls: list[Any] = []
    network, settings, slices = SameLogit(1.0), asking(), object()

    def train_classifier(*given: Any) -> Any:
        calls.append(given)
        return network

    part = ImageNetClassifier.fit(Learning(slices, settings, "k", root, silent, train_classifier, nobody, nobody))  # type: ignore[arg-type]
    assert part.network is network
    ((own, folder, name),) = calls
    assert (folder, name) == (root and root / "opinion" / "classifier", "the second opinion")
    assert own == opinion_settings(settings)
    f = own.classifier
    assert (f.name, f.weights, f.steps, f.lr, f.batch) == ("imagenet", "imagenet", 3, 0.004, 6)


@pytest.mark.parametrize("channels", [1, 3])
def test_it_is_read_again_as_it_was_without_the_weights_of_imagenet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, channels: int
) -> None:
    settings = asking()
    settings = replace(settings, data=replace(settings.data, size=48))
    torch.manual_seed(3)
    trained = build(replace(opinion_settings(settings).classifier, weights=None), channels).eval()
    file = tmp_path / "opinion" / "classifier" / "model.safetensors"
    file.parent.mkdir(parents=True)
    save_file(trained.state_dict(), file)
    asked: list[Any] = []
    load = room.load_classifier
    monkeypatch.setattr(room, "load_classifier", lambda *given: (asked.append(given), load(*given))[1])
    state = ImageNetClassifier(trained).state()
    assert state == ({} if channels == 1 else {"channels": 3})
    part = ImageNetClassifier.load(settings, state, tmp_path)
    assert asked[0][0].weights is None
    assert asked[0][1:] == (file, 48, channels)
    x = torch.rand(2, channels, 48, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(part.network(x), trained(x))
        expected = 0.75 * torch.tensor([1.0, -2.0]) + 0.25 * trained(x)
        torch.testing.assert_close(part.score(torch.tensor([1.0, -2.0]), x), expected)
    assert part.state() == state
