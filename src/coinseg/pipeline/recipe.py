"""The recipe: f -> the method -> a threshold -> the ensemble -> the student -> the parts, in this order, to one predictor.

Every stage is loaded where it is there for the same data and settings. Nothing here reads a lesion mask.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast, overload

import numpy as np
import torch
from torch import nn

from coinseg.config.parsing import teacher_folders
from coinseg.config.rules import require_consistent
from coinseg.config.schema import Settings
from coinseg.data.slices.arrays import Dataset, Images, Labels, Patients
from coinseg.data.slices.dataset import TrainingSlices
from coinseg.data.slices.split import TRAINING, VALIDATION
from coinseg.data.slices.store import SliceStore
from coinseg.data.slices.student_data import Examples, PseudoMasks
from coinseg.data.slices.trained_on import TrainedOn
from coinseg.errors import UserError
from coinseg.explain.registry import COUNTERFACTUAL
from coinseg.inference.checkpoint import save
from coinseg.inference.classes import ClassPredictors
from coinseg.inference.distribution import Distribution, fit_distribution
from coinseg.inference.ensemble import Ensemble
from coinseg.inference.explainer import Explainer
from coinseg.inference.image_score import prior_shift
from coinseg.inference.predictor import Predictor, Preparation
from coinseg.inference.segmenter import DifferenceSegmenter
from coinseg.networks.classes import generator_of, logit_of
from coinseg.networks.classifier import Classifier
from coinseg.parts.base import Learning, Part
from coinseg.parts.table import parts_of
from coinseg.runtime.devices import choose_device
from coinseg.runtime.files import key_of
from coinseg.runtime.process_group import current
from coinseg.runtime.records import read_record, write_record
from coinseg.runtime.stage import Report, silent
from coinseg.training.classifier import train_classifier
from coinseg.training.coin import choose_layer, train_coin
from coinseg.training.keys import class_count, class_key, result_key, with_student
from coinseg.training.pseudo_masks import LEAST, Masks, most_masks
from coinseg.training.student import Lesson, train_student

from .job import Job, has_student

SEEDS_APART = 1_000_003  # between the seeds of the pairs of one ensemble; more than between seeds that people try in turn
THRESHOLD = "threshold.json"
CHOSEN = {"key": str, "value": float, "rule": str}
"""What it holds, and of which kind."""


def train_pair(job: Job, until: str = "coin") -> tuple[nn.Module, nn.Module | None]:
    """The classifier f, and the generator of a counterfactual method; `until` "classifier" trains f alone."""
    f = train_classifier(job.store, job.settings, job.folder("classifier"), job.report)
    if until == "classifier" or job.settings.method != COUNTERFACTUAL:
        return f, None
    return f, train_coin(job.store, f, job.settings, job.folder("coin"), job.report)


def build(job: Job) -> Predictor | ClassPredictors:
    """Train, or load, everything that the settings ask for; with a root it is saved there for `coinseg.load`.

    Of several classes f, generators and student are trained together; threshold, image score and parts are those of each class.
    """
    f, generator = train_pair(job)
    key = job.key(result_key(job.store, job.settings, f))
    jobs = job.classes
    predictors = [_without_student(one, f, generator, i, class_key(key, i, len(jobs))) for i, one in enumerate(jobs)]
    if has_student(job.settings):
        predictors = _with_student(job, predictors, key)
    known = _distribution(jobs, f, predictors[0].explainer.device, job.root, key)
    predictors = [replace(predictor, distribution=known) for predictor in predictors]
    names = job.store.classes
    trained = ClassPredictors(dict(zip(names, predictors, strict=True))) if names else predictors[0]
    if job.root is not None and current().here.is_main:
        save(trained, job.root)
    return trained


def _distribution(jobs: Sequence[Job], f: nn.Module, device: torch.device, root: Path | None, key: str) -> Distribution | None:
    """The distribution of the images that any class is trained on: of one class some labels may not be known."""
    (store, settings), sides = (jobs[0].store, jobs[0].settings), (TRAINING, VALIDATION)
    own = [[TrainingSlices(one.store, settings.anomaly, settings.seed, side).rows for one in jobs] for side in sides]
    every = [np.unique(np.concatenate(rows)) for rows in own]
    training, held_out = (
        TrainingSlices(store, settings.anomaly, settings.seed, side, rows) for side, rows in zip(sides, every, strict=True)
    )
    if any(len(rows) > len(of_each[0]) for rows, of_each in zip(every, own, strict=True)):
        key = key_of([key, "all classes"])  # once it was that of the first class
    return fit_distribution(f, training, held_out, device, root, key)


def _without_student(one: Job, f: nn.Module, generator: nn.Module | None, number: int, key: str) -> Predictor:
    """The predictor of a class whose masks are read off the difference, or the map of an attribution."""
    classes, meta = cast(Classifier, f).classes, one.store.meta
    own_f, own_generator = logit_of(f, number, classes), generator_of(generator, number, classes)
    layer = current().on_main(lambda: choose_layer(one.store, own_f, one.settings, one.folder("attribution")))
    device, channels = choose_device(one.settings.engine), one.store.channels
    explainer = Explainer(one.settings, own_f, own_generator, device, layer, len(channels))
    known = TrainedOn.read(meta.get("trained_on"))
    preparation = Preparation(meta["kind"], one.store.window, meta["has_organs"], known, channels)
    threshold = current().on_main(lambda: _threshold(one, explainer, key))["value"]
    return Predictor.of(explainer, preparation, threshold)


@overload
def train(data: SliceStore, settings: Settings | None, /, report: Report = silent) -> Predictor: ...
@overload
def train(data: SliceStore, *, settings: Settings | None = None, report: Report = silent) -> Predictor: ...
@overload
def train(
    data: Images, labels: Labels, *, settings: Settings | None = None, report: Report = silent, patients: Patients = None
) -> Predictor: ...
def train(
    data: SliceStore | Images,
    labels: Labels | Settings | None = None,
    report: Report = silent,
    *,
    settings: Settings | None = None,
    patients: Patients = None,
) -> Predictor:
    """Train on images and labels in memory: f, COIN, the student and the parts; nothing is written.

    `train(images, labels)` is `train(Dataset(images, labels))`; of the latter, settings may be the second argument.

    Args:
        data: images (N, S, S) or (N, C, S, S) in [0, 1], a `coinseg.Dataset`, or a store of prepared slices.
        labels: (N,) of 0 (normal) and 1 (abnormal), of images.
        report: progress: stage, steps done, steps in all, the latest losses.
        settings: of the run; None is the defaults. `data.size` becomes that of the images.
        patients: (N,) names or numbers, of images, see `Dataset`.

    Raises:
        UserError: settings and images do not fit.
    """
    if isinstance(labels, Settings):
        labels, settings = None, labels
    if not callable(report):  # the third argument of `fit` is the patients, and of the trainings of one network the settings
        got = f"report is {type(report).__name__}"
        raise UserError(got, "a function that is told the progress", "name the others: settings=..., patients=...")
    if not isinstance(settings, Settings | None):
        raise UserError(f"settings is {type(settings).__name__}", "coinseg.Settings", "give coinseg.settings_from({...})")
    if isinstance(data, SliceStore):
        if labels is not None or patients is not None:
            raise UserError("labels or patients beside a data set, which has its own", "the data set alone", "leave them out")
    elif labels is None:
        raise UserError("images without labels", "0 (normal) or 1 (abnormal) for each", "give train(images, labels)")
    else:
        data = Dataset(data, labels, patients)
    settings = settings or Settings()
    settings = replace(settings, data=replace(settings.data, size=data.size))
    require_consistent(settings)
    if isinstance(data, Dataset) and settings.anomaly.kind != "none":  # the given labels would not be read
        got = f"anomaly.kind is {settings.anomaly.kind} and the images have labels of their own"
        raise UserError(got, "anomaly.kind none for arrays", "leave it, or use coinseg run")
    if data.classes:
        got = f"a store of {len(data.classes)} classes: {', '.join(data.classes)}"
        raise UserError(got, "one class", "use coinseg run, or one of store.views")
    return cast(Predictor, build(Job(data, settings, None, report)))


def _threshold(job: Job, explainer: Explainer, key: str) -> dict[str, Any]:
    """The contents of threshold.json, chosen anew where it is of another key."""
    key = with_student(key, job.settings, class_count(job.store)) if has_student(job.settings) else key
    file = job.folder(THRESHOLD)
    if file is not None and file.exists() and (kept := read_record(file, CHOSEN))["key"] == key:
        return dict(kept)
    threshold, peak = explainer.choose_threshold(job.slices), job.settings.masks.peak
    rule = threshold.rule + (f"; in each image also {peak:.0%} of the peak of its own difference" if peak else "")
    contents = {"key": key, "value": threshold.value, "rule": rule}
    if file is not None:
        write_record(file, contents)
    return contents


def other_pairs(job: Job) -> list[tuple[nn.Module, nn.Module | None]]:
    """The other pairs of f and generator of the ensemble: trained as the first one, each from its own seed."""
    pairs = []
    for number, name in enumerate(teacher_folders(job.settings), 1):
        settings = replace(job.settings, seed=(job.settings.seed + SEEDS_APART * number) % 2**32)
        other = replace(job, settings=settings, root=job.folder(name), report=partial(_report_of, job.report, name))
        pairs.append(train_pair(other))
    return pairs


def _report_of(report: Report, name: str, stage: str, done: int, total: int, values: Mapping[str, float]) -> None:
    report(stage if stage.startswith("warning") else f"{stage} of {name}", done, total, values)


def _with_student(job: Job, firsts: Sequence[Predictor], key: str) -> list[Predictor]:
    """The predictors of the classes with a student and the parts; as they are where too few masks are trusted."""
    jobs = job.classes
    # Then there is no student, whoever makes pseudo-masks.
    few = all(most_masks(one.taught_slices, next(iter(one.reviewed), None)) < LEAST for one in jobs)
    pairs = [] if few else other_pairs(job)
    others = [_of_class(pairs, first, number, len(firsts)) for number, first in enumerate(firsts)]
    keys = [class_key(key, number, len(jobs)) for number in range(len(jobs))]
    taught = [_learning(*parts) for parts in zip(jobs, firsts, others, keys, strict=True)]
    lessons = [_lesson(one, learning, masks) for one, (learning, masks) in zip(jobs, taught, strict=True)]
    students = train_student(lessons, job.settings, key, job.folder("student"), job.report)
    return [
        first if student is None else _with_parts(first, own, learning, student)
        for first, own, (learning, _), student in zip(firsts, others, taught, students, strict=True)
    ]


def _of_class(
    pairs: Sequence[tuple[nn.Module, nn.Module | None]], first: Predictor, number: int, classes: int
) -> list[Explainer]:
    """The other pairs of the ensemble as one class sees them."""
    one = first.explainer
    return [
        replace(one, f=logit_of(f, number, classes), generator=generator_of(generator, number, classes)) for f, generator in pairs
    ]


def _learning(one: Job, first: Predictor, others: Sequence[Explainer], key: str) -> tuple[Learning, Masks]:
    """What the parts of a class learn from, and the pseudo-masks of its ensemble."""
    slices = one.slices
    ensemble = Ensemble(DifferenceSegmenter(first.explainer, first.threshold), others, slices)

    def classify(settings: Settings, folder: Path | None, name: str) -> nn.Module:
        return train_classifier(one.store, settings, folder, partial(_report_of, one.report, name))

    student_key, probability = with_student(key, one.settings, class_count(one.store)), ensemble.probability
    learning = Learning(slices, one.settings, student_key, one.root, one.report, classify, probability, first.masks)
    return learning, ensemble.pseudo_masks


def _lesson(one: Job, learning: Learning, masks: Masks) -> Lesson:
    """What the student learns of a class."""
    slices = one.taught_slices if one.reviewed else learning.slices
    return Lesson(slices, masks, partial(_examples, replace(learning, slices=slices)), next(iter(one.reviewed), None))


def _examples(learning: Learning, masks: PseudoMasks) -> list[Examples]:
    """Further examples for the student, from the parts that make some."""
    found = [kind.examples(learning, masks) for kind in parts_of(learning.settings)]
    return [examples for examples in found if examples is not None]


def _with_parts(first: Predictor, others: Sequence[Explainer], learning: Learning, student: nn.Module) -> Predictor:
    """The predictor of a class with its student and the parts, each of which learns from what the earlier ones make."""
    shift, classifiers, parts = prior_shift(learning.slices, learning.settings), [other.f for other in others], list[Part]()
    predictor_with = partial(Predictor.of, first.explainer, first.preparation, first.threshold, student, classifiers, shift)
    for kind in parts_of(learning.settings):
        part = kind.fit(replace(learning, segment=predictor_with(parts).masks))
        parts += [] if part is None else [part]
    return predictor_with(parts)
