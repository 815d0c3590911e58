"""The recipe: who teaches, on which slices, with whose threshold; and that a loaded run is the one that was trained."""

from __future__ import annotations

import csv
from dataclasses import replace
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import coinseg
from coinseg.config.schema import Settings
from coinseg.data.slices.arrays import Dataset
from coinseg.data.slices.split import TRAINING, VALIDATION
from coinseg.errors import UserError
from coinseg.inference.ensemble import Ensemble
from coinseg.inference.table import class_folder
from coinseg.pipeline import recipe
from coinseg.pipeline.job import Job, has_student
from coinseg.pipeline.run import Run, Workspace, evaluate, train
from coinseg.runtime.files import read_json
from coinseg.training.keys import result_key, with_student
from conftest import SIZE, tiny_settings
from models import PaintBlack, SameLogit, SamePixels, learn_from_few, maps_of


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
    scores = evaluate(run)
    assert read_json(run.work.root / "evaluation" / "scores.json") == scores
    index = run.store.index
    with (run.work.root / "evaluation" / "slices.csv").open(newline="") as file:
        scored = [row["case"] for row in csv.DictReader(file)]
    assert sorted(scored) == sorted(index["case"][index["split"] == VALIDATION].tolist())


KNOWN = ("store", "anomaly", "seed", "side")  # what slices are, whole


# --- which stage is given what ----------------------------------------------------------------------------------------------


class Kept:
    """A kind of part that keeps what it is asked; its number is its name."""

    def __init__(self, number: int, calls: list[Any], made: Any) -> None:
        self.number, self.calls, self.made = number, calls, made

    def examples(self, learning: Any, masks: Any) -> Any:
        self.calls.append(("examples", self.number, masks))
        return None if self.made is None else f"examples {self.number}"

    def fit(self, learning: Any) -> Any:
        self.calls.append(("fit", self.number, learning))
        return self.made


class Adds(recipe.Part):
    """A part that adds to the image score."""

    def __init__(self, by: float) -> None:
        super().__init__()
        self.by = by

    def score(self, logits: Any, x: Any) -> Any:
        return logits + self.by


class Stages:
    """Stands for everything that trains: what it was given, by stage, in the order in which it was asked."""

    def __init__(self, patch: pytest.MonkeyPatch, student: Any = None, parts: tuple[Any, ...] = ()) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.f = [SameLogit(1.0 + i) for i in range(9)]
        for f in self.f:
            f.classes = 1  # type: ignore[assignment]
        self.distribution: Any = torch.nn.Identity()
        self.student, self.parts, self.examples = student, [Kept(i, self.calls, part) for i, part in enumerate(parts)], None
        for name in ("train_classifier", "train_coin", "choose_layer", "fit_distribution", "save", "train_student"):
            patch.setattr(recipe, name, getattr(self, name))
        patch.setattr(recipe, "parts_of", lambda settings: self.parts)
        patch.setattr(recipe, "LEAST", 1)

    def train_classifier(self, store: Any, settings: Settings, folder: Any, report: Any) -> Any:
        self.calls.append(("classifier", store, settings, folder, report))
        return self.f[len(self.of("classifier")) - 1]

    def train_coin(self, store: Any, f: Any, settings: Settings, folder: Any, report: Any) -> Any:
        self.calls.append(("coin", store, f, settings, folder, report))
        return PaintBlack()

    def choose_layer(self, store: Any, f: Any, settings: Settings, folder: Any) -> str:
        self.calls.append(("layer", store, f, settings, folder))
        return "a layer"

    def fit_distribution(self, *given: Any) -> Any:
        self.calls.append(("distribution", *given))
        return self.distribution

    def save(self, predictor: Any, root: Any) -> None:
        self.calls.append(("save", predictor, root))

    def train_student(self, lessons: Any, settings: Any, key: str, folder: Any, report: Any) -> Any:
        self.calls.append(("student", lessons, settings, key, folder, report))
        (lesson,) = lessons  # there is one class
        self.examples = lesson.examples("pseudo-masks")
        return [self.student]

    def of(self, name: str) -> list[tuple[Any, ...]]:
        return [call[1:] for call in self.calls if call[0] == name]


def data(abnormal: int = 12) -> Dataset:
    """Grey images, of which some are abnormal, with a white square."""
    images = np.random.default_rng(0).uniform(0.2, 0.4, (24, 16, 16)).astype(np.float32)
    images[:abnormal, 4:9, 4:9] = 0.9
    return Dataset(images, (np.arange(24) < abnormal).astype(int))


def job_of(root: Path | None, report: Any = recipe.silent, store: Any = None, **student: Any) -> Job:
    tiny = tiny_settings()
    settings = replace(tiny, seed=2**32 - 5, student=replace(tiny.student, **{"teachers": 3, **student}))
    return Job(store or data(), settings, root, report)


def test_f_then_the_method_then_a_threshold_then_the_record_of_the_images(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stages, job = Stages(monkeypatch), job_of(tmp_path, steps=0)
    predictor = recipe.build(job)
    assert [call[0] for call in stages.calls] == ["classifier", "coin", "layer", "distribution", "save"]
    assert stages.of("classifier") == [(job.store, job.settings, tmp_path / "classifier", job.report)]
    assert stages.of("coin") == [(job.store, stages.f[0], job.settings, tmp_path / "coin", job.report)]
    assert stages.of("layer") == [(job.store, stages.f[0], job.settings, tmp_path / "attribution")]
    ((f, training, held_out, device, root, key),) = stages.of("distribution")
    assert (f, training.side, held_out.side, device, root) == (
        stages.f[0],
        TRAINING,
        VALIDATION,
        predictor.explainer.device,
        tmp_path,
    )
    for slices in (training, held_out):
        assert (slices.store, slices.anomaly, slices.seed) == (job.store, job.settings.anomaly, job.settings.seed)
    assert key == result_key(job.store, job.settings, stages.f[0])
    assert stages.of("save") == [(predictor, tmp_path)]
    assert predictor.distribution is stages.distribution
    assert (predictor.f, predictor.explainer.layer, predictor.has_student) == (stages.f[0], "a layer", False)
    made, meta = predictor.preparation, job.store.meta
    assert (made.kind, made.window, made.organs) == (meta["kind"], job.store.window, meta["has_organs"])
    assert made.trained_on is not None
    assert made.trained_on.as_dict() == meta["trained_on"]
    assert predictor.threshold == predictor.explainer.choose_threshold(job.slices).value
    # Nothing is written without a folder.
    in_memory = Stages(monkeypatch)
    recipe.build(job_of(None, steps=0))
    assert not in_memory.of("save")
    assert [call[-1] for call in in_memory.of("layer")] == [in_memory.of("classifier")[0][2]] == [None]


def test_an_attribution_and_whoever_asks_for_f_alone_train_no_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    for method, until, trained in (
        ("counterfactual", "coin", True),
        ("counterfactual", "classifier", False),
        ("rise", "coin", False),
    ):
        stages, job = Stages(monkeypatch), job_of(None)
        f, generator = recipe.train_pair(replace(job, settings=replace(job.settings, method=method)), until)  # type: ignore[arg-type]
        assert f is stages.f[0]
        assert (generator is not None) is trained is bool(stages.of("coin"))


def test_a_student_needs_a_counterfactual_mirror_images_and_steps() -> None:
    tiny = tiny_settings()
    for method, hflip, steps in product(("counterfactual", "rise"), (True, False), (0, 1)):
        settings = replace(
            tiny, method=method, masks=replace(tiny.masks, hflip=hflip), student=replace(tiny.student, steps=steps)
        )  # type: ignore[arg-type]
        assert has_student(settings) is ((method, hflip, steps) == ("counterfactual", True, 1))


def test_the_threshold_is_read_where_everything_is_the_same_and_chosen_anew_where_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    Stages(monkeypatch)
    job = job_of(tmp_path, steps=0)
    chosen = recipe.build(job).threshold
    kept = read_json(file := tmp_path / "threshold.json")
    assert (kept["value"], kept["key"]) == (chosen, result_key(job.store, job.settings, SameLogit(1.0)))
    assert "of the peak" in kept["rule"] or not job.settings.masks.peak
    recipe.write_record(file, {"key": kept["key"], "value": 0.123, "rule": "mine"})
    assert recipe.build(job).threshold == 0.123
    recipe.write_record(file, {"key": "another", "value": 0.123, "rule": "mine"})
    assert recipe.build(job).threshold == chosen
    # Masks with a student are of another key.
    taught = job_of(tmp_path)
    recipe.build(taught)
    assert read_json(file)["key"] == with_student(kept["key"], taught.settings) != kept["key"]
    for peak, words in ((0.25, "; in each image also 25% of the peak of its own difference"), (0.0, "")):
        settings = replace(job.settings, masks=replace(job.settings.masks, peak=peak))
        rule = recipe.build(replace(job, settings=settings)).explainer.choose_threshold(job.slices).rule
        assert read_json(file)["rule"] == rule + words


def test_the_other_teachers_are_trained_as_the_first_each_from_a_seed_and_in_a_folder_of_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    said: list[Any] = []
    stages = Stages(monkeypatch)
    job = job_of(tmp_path, lambda *words: said.append(words))
    predictor = recipe.build(job)
    first, second, third = stages.of("classifier")
    seeds = [settings.seed for _, settings, _, _ in (first, second, third)]
    assert seeds == [2**32 - 5, 1_000_003 - 5, 2 * 1_000_003 - 5]  # seeds have 32 bits
    assert [replace(settings, seed=0) for _, settings, _, _ in (second, third)] == [replace(job.settings, seed=0)] * 2
    assert [folder for *_, folder, _ in (first, second, third)] == [
        tmp_path / at / "classifier" for at in ("", "teacher-2", "teacher-3")
    ]
    assert [call[1:4:2] for call in stages.of("coin")] == [
        (stages.f[i], tmp_path / at / "coin") for i, at in enumerate(("", "teacher-2", "teacher-3"))
    ]
    second[3]("classifier", 1, 2, {})
    third[3]("warning: few", 1, 2, {})
    assert said == [("classifier of teacher-2", 1, 2, {}), ("warning: few", 1, 2, {})]
    ensemble = stages.of("student")[0][0][0].masks.__self__
    assert [other.f for other in ensemble.others] == stages.f[1:3]
    assert {(other.layer, other.device) for other in ensemble.others} == {("a layer", predictor.explainer.device)}
    assert all(other.settings == job.settings for other in ensemble.others)  # but for the seed, which masks do not read
    assert (ensemble.first.explainer, ensemble.first.threshold) == (predictor.explainer, predictor.threshold)


def test_no_teacher_is_trained_where_there_are_too_few_abnormal_images_for_a_student(monkeypatch: pytest.MonkeyPatch) -> None:
    store = data(6)
    abnormal = int(store.index["label"][store.index["split"] == TRAINING].sum())
    for least, teachers in ((abnormal, 3), (abnormal + 1, 1)):
        stages = Stages(monkeypatch)
        monkeypatch.setattr(recipe, "LEAST", least)
        predictor = recipe.build(job_of(None, store=store))
        assert len(stages.of("classifier")) == teachers
        assert not predictor.has_student


def test_a_student_is_taught_by_the_ensemble_and_marks_with_all_classifiers_and_the_parts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    said: list[Any] = []
    stages = Stages(monkeypatch, SamePixels(9.0), (Adds(0.5), None, Adds(2.0)))
    job = job_of(tmp_path, lambda *words: said.append(words))
    predictor = recipe.build(job)
    (((lesson,), settings, key, folder, report),) = stages.of("student")
    slices, masks = lesson.slices, lesson.masks
    own = result_key(job.store, job.settings, stages.f[0])
    assert (slices.side, slices.seed, settings, key, folder, report) == (
        TRAINING, job.settings.seed, job.settings, own, tmp_path / "student", job.report,
    )  # fmt: skip
    assert lesson.reviewed is None
    assert masks.__name__ == "pseudo_masks"
    taught = masks.__self__.slices
    assert [getattr(taught, name) for name in KNOWN] == [getattr(slices, name) for name in KNOWN]
    assert stages.of("examples") == [(0, "pseudo-masks"), (1, "pseudo-masks"), (2, "pseudo-masks")]
    assert stages.examples == ["examples 0", "examples 2"]
    assert predictor.student is stages.student
    assert [number for number, _ in stages.of("fit")] == [0, 1, 2]
    assert [part.by for part in predictor.parts] == [0.5, 2.0]  # type: ignore[attr-defined]
    assert list(predictor.image_score.classifiers) == stages.f[:3]
    share = job.slices.labels().mean()
    shift = min(0.0, np.log(share / (1 - share)))
    x = torch.zeros(2, 1, 16, 16)
    assert predictor.logits(x)[0].tolist() == pytest.approx([1.0, 2.0 + shift + 2.5], abs=1e-6)
    # Each part learns with those before it, and not with itself.
    learnings = [learning for _, learning in stages.of("fit")]
    before = [learning.segment.__self__ for learning in learnings]
    assert [[part.by for part in one.parts] for one in before] == [[], [0.5], [0.5]]
    for learning in learnings:
        assert (learning.slices, learning.settings, learning.root) == (slices, job.settings, tmp_path)
        assert learning.key == with_student(own, job.settings)
        assert learning.probability(x).tolist() == pytest.approx(
            torch.sigmoid(torch.tensor([1.0, 2.0, 3.0])).mean().repeat(2).tolist()
        )
    other = replace(job.settings, seed=7)
    assert learnings[0].train_classifier(other, tmp_path / "elsewhere", "opinion") is stages.f[3]
    *given, told = stages.of("classifier")[3]
    assert given == [job.store, other, tmp_path / "elsewhere"]
    told("classifier", 1, 2, {"loss": 0.5})
    assert said == [("classifier of opinion", 1, 2, {"loss": 0.5})]


def test_on_arrays_the_size_is_that_of_the_images_and_their_labels_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    stages, tiny = Stages(monkeypatch), tiny_settings()
    settings = replace(tiny, student=replace(tiny.student, steps=0))
    predictor = recipe.train(data(), settings)
    assert predictor.settings == replace(settings, data=replace(settings.data, size=16))
    assert stages.of("classifier")[0][2] is None
    assert recipe.train(data()).settings.method == Settings().method
    for beside in ({"labels": np.zeros(24)}, {"patients": ["a"] * 24}):
        with pytest.raises(UserError, match="labels or patients beside a data set, which has its own"):
            recipe.train(data(), **beside)  # type: ignore[call-overload]
    with pytest.raises(UserError, match=r"anomaly\.kind is blob and the images have labels of their own"):
        recipe.train(data(), replace(settings, anomaly=replace(settings.anomaly, kind="blob")))


def test_each_class_works_on_its_own_view_in_its_own_folder(tmp_path: Path) -> None:
    views = [SimpleNamespace(name="of crack"), SimpleNamespace(name="of dent")]
    store: Any = SimpleNamespace(views=views, classes=("crack", "dent"))
    job = Job(store, tiny_settings(), tmp_path)
    assert [one.store for one in job.classes] == views
    assert [one.root for one in job.classes] == [tmp_path / class_folder(name) for name in store.classes]
    assert {(one.settings, one.report) for one in job.classes} == {(job.settings, job.report)}
    assert [one.root for one in replace(job, root=None).classes] == [None, None]
    assert [one.reviewed for one in job.classes] == [(), ()]
    drawn: Any = ("cracks", "dents")
    assert [one.reviewed for one in replace(job, reviewed=drawn).classes] == [("cracks",), ("dents",)]
    alone = replace(job, store=SimpleNamespace(views=views[:1], classes=()))
    assert alone.classes == [alone]
