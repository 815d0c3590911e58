"""Which images are marked at all: the posterior of a run's classifiers."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import coinseg
from coinseg.config.parsing import asks_opinion, opinion_settings
from coinseg.config.schema import Settings
from coinseg.data.layouts.registry import read_layout
from coinseg.data.slices.dataset import TrainingSlices
from coinseg.data.slices.store import prepare
from coinseg.errors import UserError
from coinseg.export.folder import export_run
from coinseg.inference.image_score import ImageScore, prior_shift
from coinseg.networks.classifier import Classifier, ImageNetNetwork, build
from coinseg.networks.imagenet import encoder, load_imagenet
from coinseg.pipeline.run import Workspace
from coinseg.training.keys import student_key
from conftest import tiny_settings, write_images


class Says(nn.Module):
    """A classifier that gives every image the same logit."""

    def __init__(self, logit: float) -> None:
        super().__init__()
        self.logit = logit

    def forward(self, x: Tensor) -> Tensor:
        return torch.full((len(x),), self.logit)


def test_the_posterior_by_hand() -> None:
    images = torch.zeros(2, 1, 8, 8)
    assert ImageScore([Says(1.0), Says(3.0)], math.log(0.25))(images).tolist() == pytest.approx([2 + math.log(0.25)] * 2)
    # A second opinion counts a quarter.
    assert ImageScore([Says(1.0), Says(3.0)], 0.5, Says(-6.0))(images).tolist() == pytest.approx([0.75 * 2 - 0.25 * 6 + 0.5] * 2)
    # A sign that 8 of 10 abnormal and 2 of 10 normal images have: 0.8 where every second image is abnormal, and where one of ten is
    # 0.8 * 0.1 / (0.8 * 0.1 + 0.2 * 0.9) = 4/13.
    asked = ImageScore([Says(math.log(0.8 / 0.2))], math.log(0.1 / 0.9))
    assert torch.sigmoid(asked(images))[0].item() == pytest.approx(4 / 13)


def test_the_share_is_that_of_the_training_images_where_batches_were_balanced(tmp_path: Path) -> None:
    settings = tiny_settings()
    data = write_images(tmp_path / "data", masks=False)
    store = prepare(read_layout(data, settings.data, one_class=False), settings, tmp_path / "slices")
    store.index["label"][:] = 0
    slices = TrainingSlices(store, settings.anomaly, 0)
    assert prior_shift(slices, settings) == 0  # one class has no odds
    store.index["label"][slices.rows[:3]] = 1
    slices = TrainingSlices(store, settings.anomaly, 0)
    assert prior_shift(slices, settings) == pytest.approx(math.log(3 / (len(slices) - 3)))
    for changed in ({"balanced": False}, {"steps": 0}):  # it learnt from that share itself, or nobody knows from which
        assert prior_shift(slices, replace(settings, classifier=replace(settings.classifier, **changed))) == 0


def images_of(n: int, settings: Settings) -> Tensor:
    side = settings.data.size
    return torch.rand(n, 1, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1


def taught(tmp_path: Path) -> Path:
    """A run with a student and two teachers; every image is called abnormal, so that six steps of f leave something to learn from."""
    settings = tiny_settings()
    settings = replace(
        settings,
        classifier=replace(settings.classifier, threshold=0.0),
        student=replace(settings.student, steps=2, trust=0.0, teachers=2, opinion=2),
    )
    work = Workspace(write_images(tmp_path / "data", masks=False), tmp_path / "out", settings)
    work.start()
    assert work.run.student is not None
    return work.root


def test_a_student_is_asked_about_the_images_the_posterior_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for room in ("training.pseudo_masks", "training.student", "pipeline.run"):
        monkeypatch.setattr(f"coinseg.{room}.LEAST", 1)
    run = coinseg.load(taught(tmp_path))
    images = images_of(6, run.settings)
    assert isinstance(run.posterior, ImageScore)
    with torch.no_grad():
        by_hand = torch.sigmoid(run.posterior(images))
        logits = torch.stack([f(images) for f in run.posterior.classifiers])
    assert len(logits) == 2
    assert not torch.equal(*logits)
    assert isinstance(run.posterior.opinion, Classifier)
    assert isinstance(run.posterior.opinion.network, ImageNetNetwork)
    gate = float(by_hand.median())
    settings = replace(run.settings, student=replace(run.settings.student, gate=gate))
    explained, maps = replace(run, settings=settings).evidence(images)
    assert explained.posterior is not None
    torch.testing.assert_close(explained.posterior, by_hand)
    assert not torch.equal(explained.posterior, explained.probability)  # f still says what it says
    assert (maps.any((1, 2)) == (by_hand >= gate).numpy()).all()


def test_a_run_from_before_asks_f_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for room in ("training.pseudo_masks", "training.student", "pipeline.run"):
        monkeypatch.setattr(f"coinseg.{room}.LEAST", 1)
    root = taught(tmp_path)
    model = json.loads((root / "model.json").read_text())
    for wrong in (1e9, "1", [1.0]):
        (root / "model.json").write_text(json.dumps(model | {"prior_shift": wrong}))
        with pytest.raises(UserError, match="has a wrong prior_shift"):
            coinseg.load(root)
    (root / "model.json").write_text(json.dumps({name: value for name, value in model.items() if name != "opinion"}))
    alone = coinseg.load(root)  # from before the second opinion
    assert isinstance(alone.posterior, ImageScore)
    assert alone.posterior.opinion is None
    export_run(root, tmp_path / "away")
    assert not (tmp_path / "away" / "opinion").exists()
    assert coinseg.load(tmp_path / "away").posterior.opinion is None  # type: ignore[union-attr]
    del model["prior_shift"]
    (root / "model.json").write_text(json.dumps(model))
    run = coinseg.load(root)
    assert run.posterior is None
    explained = run.evidence(images_of(2, run.settings))[0]
    assert explained.posterior is not None
    assert np.array_equal(explained.posterior, explained.probability)


def test_the_second_opinion_begins_where_imagenet_ended_and_is_none_where_no_classifier_is_trained() -> None:
    settings = tiny_settings()
    own = opinion_settings(settings)
    assert own.classifier.steps == settings.student.opinion
    assert replace(own, classifier=settings.classifier) == settings  # nothing else changes
    network = build(own.classifier).network
    assert isinstance(network, ImageNetNetwork)
    known = load_imagenet(encoder()).state_dict()
    assert all(torch.equal(value, known[name]) for name, value in network.encoder.state_dict().items())
    assert asks_opinion(settings)
    assert not asks_opinion(replace(settings, student=replace(settings.student, opinion=0)))
    assert not asks_opinion(replace(settings, classifier=replace(settings.classifier, steps=0)))
    batch = images_of(4, settings)
    with torch.no_grad():
        together = network.eval()(batch)
        singles = torch.cat([network(image[None]) for image in batch])
    torch.testing.assert_close(together, singles, rtol=1e-4, atol=1e-5)


def test_the_student_does_not_depend_on_the_second_opinion() -> None:
    settings = tiny_settings()
    assert student_key(settings, "t") == student_key(replace(settings, student=replace(settings.student, opinion=0)), "t")
