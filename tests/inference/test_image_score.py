"""Which images are marked at all: the posterior of a run's classifiers."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

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
from coinseg.networks.imagenet import Encoder, load_imagenet
from coinseg.parts.imagenet_classifier import ImageNetClassifier
from coinseg.pipeline.run import Workspace, train
from coinseg.training.keys import student_key
from conftest import tiny_settings, write_images
from models import SameLogit, as_first_schema, learn_from_few, part_of, scores_of


def test_the_posterior_by_hand() -> None:
    images = torch.zeros(2, 1, 8, 8)
    assert ImageScore([SameLogit(1.0), SameLogit(3.0)], math.log(0.25))(images).tolist() == pytest.approx(
        [2 + math.log(0.25)] * 2
    )
    # The ImageNet classifier counts a quarter; f_1 stands beside the ensemble as it is.
    assert ImageScore([SameLogit(1.0), SameLogit(3.0)], 0.5, [ImageNetClassifier(SameLogit(-6.0))])(
        images
    ).tolist() == pytest.approx([0.75 * 2 - 0.25 * 6 + 0.5] * 2)
    both = ImageScore([SameLogit(1.0), SameLogit(3.0)], 0.5, [ImageNetClassifier(SameLogit(-6.0))]).both(images)
    assert both.tolist() == pytest.approx(np.array([[1.0, 0.75 * 2 - 0.25 * 6 + 0.5]] * 2))
    # A sign that 8 of 10 abnormal and 2 of 10 normal images have: 0.8 where every second image is abnormal, and where one of
    # ten is
    # 0.8 * 0.1 / (0.8 * 0.1 + 0.2 * 0.9) = 4/13.
    asked = ImageScore([SameLogit(math.log(0.8 / 0.2))], math.log(0.1 / 0.9))
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
    store.index["label"][slices.rows[:-1]] = 1  # most are abnormal: they were collected so, and new images are not
    assert prior_shift(TrainingSlices(store, settings.anomaly, 0), settings) == 0
    store.index["label"][slices.rows[3:]] = 0
    for changed in ({"balanced": False}, {"steps": 0}):  # it learnt from that share itself, or nobody knows from which
        assert prior_shift(slices, replace(settings, classifier=replace(settings.classifier, **changed))) == 0


def images_of(n: int, settings: Settings) -> Tensor:
    side = settings.data.size
    return torch.rand(n, 1, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1


def taught(tmp_path: Path) -> Path:
    """A run with a student and two teachers; every image is called abnormal, so that six steps of f leave something to learn
    from."""
    settings = tiny_settings()
    settings = replace(
        settings,
        classifier=replace(settings.classifier, threshold=0.0),
        student=replace(settings.student, steps=2, trust=0.0, teachers=2, imagenet_steps=2),
    )
    work = Workspace(write_images(tmp_path / "data", masks=False), tmp_path / "out", settings)
    work.start()
    assert train(work).predictor.student is not None
    return work.root


@pytest.mark.slow
def test_a_student_is_asked_about_the_images_the_posterior_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    learn_from_few(monkeypatch)
    run = coinseg.load(taught(tmp_path))
    images = images_of(6, run.settings)
    with torch.no_grad():
        by_hand = torch.sigmoid(run.image_score(images)).numpy()
        logits = torch.stack([f(images) for f in run.image_score.classifiers])
    assert len(logits) == 2
    assert not torch.equal(*logits)
    imagenet = part_of(run, ImageNetClassifier)
    assert isinstance(imagenet.network, Classifier)
    assert isinstance(imagenet.network.network, ImageNetNetwork)
    gate = float(np.median(by_hand))
    run = run.with_settings(replace(run.settings, student=replace(run.settings.student, gate=gate)))
    scores = scores_of(run, images)
    explained, maps = run.evidence(images, scores)
    assert maps.image_score is not None
    np.testing.assert_allclose(maps.image_score, by_hand, rtol=1e-6)
    assert not np.array_equal(maps.image_score, explained.probability.numpy())  # f still says what it says
    np.testing.assert_allclose(scores.probability, explained.probability.numpy(), rtol=1e-6)
    assert (maps.values.any((1, 2)) == (by_hand >= gate)).all()


@pytest.mark.slow
def test_a_run_from_before_asks_f_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    learn_from_few(monkeypatch)
    root = taught(tmp_path)
    model = json.loads((root / "model.json").read_text())
    for wrong in (1e9, "1", [1.0]):
        (root / "model.json").write_text(json.dumps(model | {"prior_shift": wrong}))
        with pytest.raises(UserError, match="has a wrong prior_shift"):
            coinseg.load(root)
    first = as_first_schema(model)
    assert first["opinion"]
    for kept, counted in ((0.5, 0.0), (-0.5, -0.5)):  # a share above a half was counted before
        (root / "model.json").write_text(json.dumps(first | {"prior_shift": kept}))
        assert coinseg.load(root).image_score.shift == counted
    (root / "model.json").write_text(json.dumps({name: value for name, value in first.items() if name != "opinion"}))
    alone = coinseg.load(root)  # from before the second opinion
    assert len(alone.image_score.classifiers) == 2
    assert part_of(alone, ImageNetClassifier) is None
    export_run(root, tmp_path / "away")
    assert not (tmp_path / "away" / "opinion").exists()
    assert part_of(coinseg.load(tmp_path / "away"), ImageNetClassifier) is None
    del first["prior_shift"]
    (root / "model.json").write_text(json.dumps(first))
    run = coinseg.load(root)
    assert list(run.image_score.classifiers) == [run.f]
    assert run.parts == ()
    images = images_of(2, run.settings)
    explained, maps = run.evidence(images, scores_of(run, images))
    assert maps.image_score is not None
    np.testing.assert_allclose(maps.image_score, explained.probability, rtol=1e-6)


def test_the_second_opinion_begins_where_imagenet_ended_and_is_none_where_no_classifier_is_trained() -> None:
    settings = tiny_settings()
    own = opinion_settings(settings)
    assert own.classifier.steps == settings.student.imagenet_steps
    assert replace(own, classifier=settings.classifier) == settings  # nothing else changes
    network = build(own.classifier).network
    assert isinstance(network, ImageNetNetwork)
    known = load_imagenet(Encoder()).state_dict()
    assert all(torch.equal(value, known[name]) for name, value in network.encoder.state_dict().items())
    assert asks_opinion(settings)
    assert not asks_opinion(replace(settings, student=replace(settings.student, imagenet_steps=0)))
    assert not asks_opinion(replace(settings, classifier=replace(settings.classifier, steps=0)))
    batch = images_of(4, settings)
    with torch.no_grad():
        together = network.eval()(batch)
        singles = torch.cat([network(image[None]) for image in batch])
    torch.testing.assert_close(together, singles, rtol=1e-4, atol=1e-5)


def test_the_student_does_not_depend_on_the_second_opinion() -> None:
    settings = tiny_settings()
    assert student_key(settings, "t") == student_key(replace(settings, student=replace(settings.student, imagenet_steps=0)), "t")
