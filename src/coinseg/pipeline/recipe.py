"""The recipe: f -> the method -> a threshold -> the ensemble -> the student -> the parts, in this order, to one predictor.

Every stage is loaded where it is there for the same data and settings. Nothing here reads a lesion mask.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from coinseg.config.parsing import teacher_folders
from coinseg.config.rules import require_consistent
from coinseg.config.schema import Settings
from coinseg.data.slices.arrays import Dataset
from coinseg.data.slices.dataset import TrainingSlices
from coinseg.data.slices.split import VALIDATION
from coinseg.data.slices.store import SliceStore
from coinseg.data.slices.trained_on import TrainedOn
from coinseg.errors import UserError
from coinseg.explain.registry import COUNTERFACTUAL
from coinseg.inference.checkpoint import save
from coinseg.inference.distribution import fit_distribution
from coinseg.inference.ensemble import Ensemble
from coinseg.inference.explainer import Explainer
from coinseg.inference.image_score import prior_shift
from coinseg.inference.predictor import Predictor, Preparation
from coinseg.inference.segmenter import DifferenceSegmenter
from coinseg.parts.base import Learning, Part
from coinseg.parts.table import parts_of
from coinseg.runtime.devices import choose_device
from coinseg.runtime.process_group import current
from coinseg.runtime.records import read_record, write_record
from coinseg.runtime.stage import Report, silent
from coinseg.training.classifier import train_classifier
from coinseg.training.coin import choose_layer, train_coin
from coinseg.training.keys import result_key, with_student
from coinseg.training.pseudo_masks import LEAST
from coinseg.training.student import train_student

SEEDS_APART = 1_000_003  # between the seeds of the pairs of one ensemble; more than between seeds that people try in turn
THRESHOLD = "threshold.json"
CHOSEN = {"key": str, "value": float, "rule": str}
"""What it holds, and of which kind."""


@dataclass(frozen=True)
class Job:
    """What a recipe works on; no lesion mask is read from `store`, and organ masks only where `coin.regions` asks for them.

    `root` is the folder that keeps every stage; None keeps nothing.
    """

    store: SliceStore
    settings: Settings
    root: Path | None = None
    report: Report = silent

    def folder(self, *names: str) -> Path | None:
        """A folder below the root."""
        return None if self.root is None else self.root.joinpath(*names)

    @property
    def slices(self) -> TrainingSlices:
        """The training side."""
        return TrainingSlices(self.store, self.settings.anomaly, self.settings.seed)


def has_student(settings: Settings) -> bool:
    """Whether a student is trained: it needs a counterfactual method, and `masks.hflip` for the confidence of its masks."""
    return settings.method == COUNTERFACTUAL and settings.masks.hflip and settings.student.steps > 0


def train_pair(job: Job, until: str = "coin") -> tuple[nn.Module, nn.Module | None]:
    """The classifier f, and the generator of a counterfactual method; `until` "classifier" trains f alone."""
    f = train_classifier(job.store, job.settings, job.folder("classifier"), job.report)
    if until == "classifier" or job.settings.method != COUNTERFACTUAL:
        return f, None
    return f, train_coin(job.store, f, job.settings, job.folder("coin"), job.report)


def build(job: Job) -> Predictor:
    """Train, or load, everything that the settings ask for; with a root the predictor is saved there for `coinseg.load`."""
    f, generator = train_pair(job)
    layer = current().on_main(lambda: choose_layer(job.store, f, job.settings, job.folder("attribution")))
    explainer = Explainer(job.settings, f, generator, choose_device(job.settings.engine), layer, len(job.store.channels))
    meta = job.store.meta
    preparation = Preparation(
        meta["kind"], job.store.window, meta["has_organs"], TrainedOn.read(meta.get("trained_on")), job.store.channels
    )
    key = result_key(job.store, job.settings, f)
    threshold = current().on_main(lambda: _threshold(job, explainer, key))["value"]
    predictor = Predictor.of(explainer, preparation, threshold)
    if has_student(job.settings):
        predictor = _with_student(job, predictor, key)
    held_out = TrainingSlices(job.store, job.settings.anomaly, job.settings.seed, VALIDATION)
    known = fit_distribution(f, job.slices, held_out, explainer.device, job.root, key)
    predictor = replace(predictor, distribution=known)
    if job.root is not None and current().here.is_main:
        save(predictor, job.root)
    return predictor


def train(data: SliceStore, settings: Settings | None = None, report: Report = silent) -> Predictor:
    """Train on images and labels in memory: f, COIN, the student and the parts; nothing is written.

    Args:
        data: `coinseg.Dataset(images, labels)`, or a store of prepared slices.
        settings: of the run; None is the defaults. `data.size` becomes that of the images.
        report: progress: stage, steps done, steps in all, the latest losses.

    Raises:
        UserError: settings and images do not fit.
    """
    settings = settings or Settings()
    settings = replace(settings, data=replace(settings.data, size=data.size))
    require_consistent(settings)
    if isinstance(data, Dataset) and settings.anomaly.kind != "none":  # the given labels would not be read
        got = f"anomaly.kind is {settings.anomaly.kind} and the images have labels of their own"
        raise UserError(got, "anomaly.kind none for arrays", "leave it, or use coinseg run")
    return build(Job(data, settings, None, report))


def _threshold(job: Job, explainer: Explainer, key: str) -> dict[str, Any]:
    """The contents of threshold.json, chosen anew where it is of another key."""
    key = with_student(key, job.settings) if has_student(job.settings) else key
    file = job.folder(THRESHOLD)
    if file is not None and file.exists() and (kept := read_record(file, CHOSEN))["key"] == key:
        return dict(kept)
    threshold, peak = explainer.choose_threshold(job.slices), job.settings.masks.peak
    rule = threshold.rule + (f"; in each image also {peak:.0%} of the peak of its own difference" if peak else "")
    contents = {"key": key, "value": threshold.value, "rule": rule}
    if file is not None:
        write_record(file, contents)
    return contents


def _others(job: Job, first: Explainer) -> list[Explainer]:
    """The other pairs of the ensemble: trained as the first one, each from its own seed."""
    explainers = []
    for number, name in enumerate(teacher_folders(job.settings), 1):
        settings = replace(job.settings, seed=(job.settings.seed + SEEDS_APART * number) % 2**32)
        other = replace(job, settings=settings, root=job.folder(name), report=partial(_report_of, job.report, name))
        explainers.append(Explainer(job.settings, *train_pair(other), first.device, first.layer, first.channels))
    return explainers


def _report_of(report: Report, name: str, stage: str, done: int, total: int, values: Mapping[str, float]) -> None:
    report(stage if stage.startswith("warning") else f"{stage} of {name}", done, total, values)


def _with_student(job: Job, first: Predictor, key: str) -> Predictor:
    """The predictor with a student and the parts; as it is where too few masks are trusted."""
    slices, explainer = job.slices, first.explainer
    few = (slices.labels() == 1).sum() < LEAST  # then there will be no student, whoever the pseudo-masks are made by
    others = [] if few else _others(job, explainer)
    ensemble = Ensemble(DifferenceSegmenter(explainer, first.threshold), others, slices)

    def classify(settings: Settings, folder: Path | None, name: str) -> nn.Module:
        return train_classifier(job.store, settings, folder, partial(_report_of, job.report, name))

    report, student_key = job.report, with_student(key, job.settings)
    learning = Learning(slices, job.settings, student_key, job.root, report, classify, ensemble.probability, first.masks)
    kinds, folder = parts_of(job.settings), job.folder("student")
    student = train_student(
        slices, ensemble.pseudo_masks, job.settings, key, folder, report,
        lambda masks: [examples for kind in kinds if (examples := kind.examples(learning, masks)) is not None],
    )  # fmt: skip
    if student is None:
        return first
    shift, classifiers, parts = prior_shift(slices, job.settings), [other.f for other in others], list[Part]()
    predictor_with = partial(Predictor.of, explainer, first.preparation, first.threshold, student, classifiers, shift)
    for kind in kinds:
        part = kind.fit(replace(learning, segment=predictor_with(parts).masks))
        parts += [] if part is None else [part]
    return predictor_with(parts)
