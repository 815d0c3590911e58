"""The recipe: who teaches, on which slices, with whose threshold; and that a loaded run is the one that was trained."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import coinseg
from coinseg.data.slices.split import TRAINING, VALIDATION
from coinseg.inference.ensemble import Ensemble
from coinseg.pipeline import recipe
from coinseg.pipeline.run import Run, Workspace, evaluate, train
from conftest import SIZE, tiny_settings
from models import learn_from_few, maps_of


@pytest.fixture(scope="module")
def trained(images: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Ensemble]:
    """A run with two teachers and a student, and the ensemble that taught it."""
    tiny, asked = tiny_settings(), []
    few = {"steps": 2, "batch": 4, "networks": 1, "trust": 0.0, "gate": 0.0, "imagenet_steps": 0, "patchcore_quantile": 0.0}
    settings = replace(
        tiny,
        student=replace(tiny.student, teachers=2, **few),  # type: ignore[arg-type]
        classifier=replace(tiny.classifier, threshold=0.0),
    )
    teach = recipe.train_student

    def spy(lessons: Any, *rest: Any) -> Any:
        (lesson,) = lessons
        asked.append(lesson.masks.__self__)
        return teach(lessons, *rest)

    with pytest.MonkeyPatch.context() as patch:
        learn_from_few(patch)
        patch.setattr(recipe, "train_student", spy)
        work = Workspace(images, tmp_path_factory.mktemp("recipe") / "run", settings)
        work.start()
        run = train(work)
    assert run.predictor.has_student
    return run, asked[0]


def test_each_teacher_has_its_own_weights_and_its_own_threshold_of_training_images(trained: tuple[Run, Ensemble]) -> None:
    run, ensemble = trained
    first, second = ensemble.pairs
    assert (first.explainer, first.threshold) == (run.predictor.explainer, run.predictor.threshold)
    assert ensemble.slices.side == TRAINING
    assert first.threshold == first.explainer.choose_threshold(ensemble.slices).value
    assert second.threshold == second.explainer.choose_threshold(ensemble.slices).value != first.threshold
    for pair, root in ((first, run.work.root), (second, run.work.root / "teacher-2")):
        for module, file in ((pair.explainer.f, "classifier/model"), (pair.explainer.generator, "coin/generator")):
            assert module is not None
            stored = load_file(root / f"{file}.safetensors")
            assert all(torch.equal(value, stored[name]) for name, value in module.state_dict().items())
    one, other = (pair.explainer.f.state_dict() for pair in (first, second))
    assert any(not torch.equal(value, other[name]) for name, value in one.items())


def test_a_loaded_run_scores_and_marks_images_as_the_run_that_was_trained(trained: tuple[Run, Ensemble]) -> None:
    here = trained[0].predictor
    loaded = coinseg.load(trained[0].work.root)
    x = torch.rand(4, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    np.testing.assert_allclose(here.logits(x), loaded.logits(x), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(maps_of(here, x), maps_of(loaded, x), atol=1e-6)
    # The ensemble is the mean of both classifiers, not the first one twice.
    assert np.abs(np.diff(here.logits(x), axis=1)).min() > 1e-6
    pairs = trained[1].pairs
    mean = np.mean([pair.explainer.f(x).numpy() for pair in pairs], axis=0)
    np.testing.assert_allclose(here.logits(x)[:, 1], mean + here.image_score.shift, rtol=1e-4, atol=1e-5)
    assert (here.threshold, here.image_score.shift) == (loaded.threshold, loaded.image_score.shift)


def test_a_run_is_scored_on_held_out_images_and_on_all_of_them(trained: tuple[Run, Ensemble]) -> None:
    run = trained[0]
    evaluate(run)
    index = run.store.index
    with (run.work.root / "evaluation" / "slices.csv").open(newline="") as file:
        scored = [row["case"] for row in csv.DictReader(file)]
    assert sorted(scored) == sorted(index["case"][index["split"] == VALIDATION].tolist())
