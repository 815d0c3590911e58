"""A run folder, stage by stage: data -> slices (-> instances) -> the recipe -> scores -> masks.

Every stage has a key (over the files and settings it depends on), is skipped when its result is there, and resumes from its last
checkpoint; so the same command, given again, finishes the run. All processes of a job call the same stages in the same order.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from coinseg.config.parsing import asks_opinion
from coinseg.config.reading import refuse
from coinseg.config.rules import of_classes, of_organs, require_consistent
from coinseg.config.schema import Settings
from coinseg.data.layouts.registry import read_layout
from coinseg.data.readers.axes import require_views
from coinseg.data.slices.dataset import ScoredSlices, TrainingSlices
from coinseg.data.slices.intensity import signed
from coinseg.data.slices.scale import kind_of_intensity
from coinseg.data.slices.split import LEFT_OUT, TRAINING, VALIDATION, require_labels
from coinseg.data.slices.store import SliceStore, bytes_needed, prepare, same_files
from coinseg.data.slices.student_data import ReviewedCase
from coinseg.errors import UserError, plain
from coinseg.evaluation import evaluate as evaluation
from coinseg.evaluation.verdict import trusted
from coinseg.inference.classes import predictors_of
from coinseg.inference.predictor import Predictor
from coinseg.inference.table import JSON, class_folder, folders_of_classes, of_other_classes, untrusted, write_table
from coinseg.runtime.distributed import require_parts
from coinseg.runtime.files import MAX_JSON, discard, key_of, require_room
from coinseg.runtime.process_group import current
from coinseg.runtime.records import Kinds, read_record, write_record
from coinseg.runtime.stage import Report, Stage, silent
from coinseg.runtime.threads import keep_threads
from coinseg.training.classifier import scores_kept
from coinseg.training.instance_selection import INHERITED, select_instances
from coinseg.training.keys import class_count, result_key, with_student
from coinseg.types import Cohort

from . import recipe
from .job import Job, has_student
from .manifest import verdict
from .mask_files import MaskFiles
from .reviews import NO_REVIEWS, Learnt, ids_of, require_reviews, reviewed_of
from .run_folder import changes, write_settings

FORMAT = 6  # of scores and masks and what is beside them; raised where an older run has less, so that they are written anew
SAID = 10  # lines about the data that are printed once they are prepared
FINISHED = (
    "manifest.json",
    "report.html",
    "cases.html",
    "model.json",
    "evaluation/scores.json",
)  # in a folder whose run has ended: `segment` takes it for a model


@dataclass
class Workspace:
    """One run: the user's `data`, the output folder `root`, the settings, and where progress is reported.

    `reviews` are the cases that a person decided on, of `student.reviewed`.
    """

    data: Path
    root: Path
    settings: Settings
    report: Report = silent
    reviews: Sequence[ReviewedCase] = ()

    @cached_property
    def cohort(self) -> Cohort:
        """What the layout recognised; it is read when it is first needed."""
        return read_layout(self.data, self.settings.data, one_class=self.settings.anomaly.kind != "none")

    @cached_property
    def reviewed_ids(self) -> dict[str, str]:
        """See `reviews.ids_of`; scans are read when it is first needed."""
        return ids_of(self.reviews, self.cohort)

    def of_class(self, name: str, number: int) -> "Workspace":
        """The run as one class sees it: its labels and lesion masks, and a folder of its own below that of the run."""
        one = Workspace(self.data, self.root / class_folder(name), self.settings, self.report)
        cases = tuple(case.of_class(number) for case in self.cohort.cases)
        vars(one)["cohort"] = replace(self.cohort, cases=cases, classes=())
        return one

    def step(self, stage: str) -> Callable[[int, int], None]:
        """Progress of a stage without losses."""
        return lambda done, total: self.report(stage, done, total, {})

    def check(self) -> int:
        """Everything that can be refused before any work: data, settings, room. Returns the bytes the slices need."""
        require_consistent(self.settings)
        require_reviews(self.reviews, self.settings, self.cohort, has_student(self.settings), self.reviewed_ids)
        if "auto" in (self.settings.data.size, self.settings.data.tile):
            raise UserError("data.size or data.tile is auto", "numbers here", "take those of pipeline.sizes.sized")
        organs, classes = any(case.organ for case in self.cohort.cases), len(self.cohort.classes)
        refuse([*of_organs(self.settings.coin, organs), *of_classes(self.settings, classes)])
        kind_of_intensity(self.cohort, self.settings.data)
        require_labels(self.cohort, self.settings.anomaly.kind != "none")
        require_parts(self.settings.classifier.batch, "classifier.batch")
        require_parts(self.settings.coin.batch, "coin.batch")
        if has_student(self.settings) and asks_opinion(self.settings):
            require_parts(self.settings.student.batch, "student.batch")
        require_views(self.cohort, self.settings.data)
        needed = bytes_needed(self.cohort, self.settings)
        require_room(self.root, needed, "the prepared slices")
        return needed

    def start(self, overwrite: bool = True) -> None:
        """Check, then write settings.yaml; `FINISHED` files of other data or settings are removed first.

        Raises:
            UserError: see `check`; or the data have changed, there are results of what they were, and `overwrite` is False.
        """
        self.check()
        file, slices = self.root / "settings.yaml", self.root / "slices"
        if not overwrite and not same_files(self.cohort, self.settings, slices):
            prepare(self.cohort, self.settings, slices, self.step("prepare"), overwrite)
        if not same_files(self.cohort, self.settings, slices) or changes(file, self.data, self.settings):
            discard(*(place / name for place in (self.root, *folders_of_classes(self.root)) for name in FINISHED))
        discard(*of_other_classes(self.root, self.cohort.classes))
        write_settings(self.data, self.root, self.settings)
        if not self.settings.engine.threads:
            keep_threads(self.root)


@dataclass(frozen=True)
class Run:
    """A trained run of one class: its folder, its slices, its predictor, and the key of what its masks and scores depend on.

    `networks` is the folder of the trained networks: that of the run, of which the class may have one below. `reviews` are
    the masks of a person that the student was given of this class.
    """

    work: Workspace
    store: SliceStore
    predictor: Predictor
    key: str
    networks: Path
    reviews: Learnt = NO_REVIEWS

    def held_out(self) -> ScoredSlices:
        """The held-out slices with their lesion masks, for scoring."""
        return ScoredSlices(self.store, self.work.settings.anomaly, self.work.settings.seed, VALIDATION)


def prepare_slices(work: Workspace) -> SliceStore:
    """All prepared slices; of several processes the first prepares them, and says what is wrong with the data."""
    others, folder = current(), work.root / "slices"
    store = prepare(work.cohort, work.settings, folder, work.step("prepare")) if others.here.is_main else None
    for line in shortened(store.meta["problems"]) if store else ():
        work.report(f"warning: data: {plain(line)}", 1, 1, {})
    others.barrier()
    return store or SliceStore(folder)


def shortened(lines: Sequence[str]) -> list[str]:
    """The first `SAID` lines, and how many there are besides."""
    more = f"and {len(lines) - SAID} more lines: slices/store.json has all"
    return list(lines) if len(lines) <= SAID + 1 else [*lines[:SAID], more]


def job_of(work: Workspace) -> Job:
    """The job of the recipe: where only scans are labelled, the slices that are not trained on are left out."""
    whole, views = prepare_slices(work), []
    for view, name in zip(whole.views, whole.classes or ("",), strict=True):
        root = work.root / class_folder(name) if name else work.root
        views.append(select_instances(view, work.settings, root / "witnesses", work.report))
    reviewed = reviewed_of(work.reviews, work.settings, whole, current().on_main(lambda: work.reviewed_ids))
    return Job(whole.with_views(views), work.settings, work.root, work.report, reviewed)


def train(work: Workspace) -> Run:
    """Everything that learns, of one class; `UserError` where there are several, see `train_classes`."""
    if names := work.cohort.classes:
        got = f"data of {len(names)} classes: {', '.join(names)}"
        raise UserError(got, "one class here", "use train_classes, or name one class in data.classes")
    return train_classes(work)[""]


def train_classes(work: Workspace) -> dict[str, Run]:
    """Everything that learns; a run of each class by its name, which is "" where there is one."""
    job = job_of(work)
    trained, runs = recipe.build(job), {}
    for number, (name, predictor) in enumerate(predictors_of(trained).items()):
        view, own = job.store.views[number], work if not name else work.of_class(name, number)
        key = job.key(result_key(view, work.settings, predictor.f))
        if has_student(work.settings):
            key = with_student(key, work.settings, class_count(job.store))
            key = key_of([key, predictor.has_student]) if name else key  # a class may be without one
        reviews = NO_REVIEWS
        if job.reviewed:
            left_out = int((view.index["split"][job.reviewed[number].rows] == LEFT_OUT).sum())
            reviews = Learnt(job.reviewed[number], name, predictor.has_student, left_out)
        runs[name] = Run(own, view, predictor, key, work.root, reviews)
    return runs


def _kept(file: Path, key: str, kinds: Kinds) -> dict[str, Any] | None:
    kept = read_record(file, {"key": str, "seconds": float, **kinds}, MAX_JSON) if file.exists() else None
    return kept if kept and kept["key"] == key else None


def evaluate(run: Run) -> dict[str, Any]:
    """Scores on held-out patients; leaves evaluation/. It is for one process."""
    work, predictor, key = run.work, run.predictor, key_of([run.key, FORMAT])
    file = work.root / "evaluation" / "scores.json"
    if (file.parent / "audit.json").exists() and (kept := _kept(file, key, {"null_because": dict[str, str]})):
        return kept
    began = time.perf_counter()
    discard(file)  # what is written beside it must never be that of other scores
    slices = run.held_out()
    scores_of = predictor.scores_of(slices)
    scores = evaluation.evaluate(
        slices, lambda batch: predictor.evidence(batch.image, scores_of(batch.rows)), predictor.segmenter.level,
        replace(work.settings, masks=predictor.segmenter.cleaning), file.parent, work.step("evaluate"),
        lambda unit: predictor.probability(torch.from_numpy(signed(unit))).numpy(),
    )  # fmt: skip
    scores |= {"key": key, "seconds": round(time.perf_counter() - began, 2)}
    write_record(file, scores)
    return scores


def masks_key(run: Run) -> str:
    """The key of the masks of the user's own cases: they also depend on the labels that were given."""
    given = current().on_main(lambda: [(c.id, c.label, sorted(c.slice_labels.items())) for c in run.work.cohort.cases])
    return key_of([run.key, given, FORMAT])


def write_masks(run: Run) -> dict[str, Any]:
    """Masks of the user's own cases, in their own geometry, under masks/, with an index; resumes where it stopped.

    The confidence of each pixel, in percent, is under confidence/. Cases labelled normal as a whole get no mask; with injected
    anomalies the held-out slices are written instead, as PNG. All processes call this and share the cases.
    """
    work, others, key = run.work, current(), masks_key(run)
    folder, confidences = work.root / "masks", work.root / "confidence"
    if kept := others.on_main(lambda: confidences.is_dir() and _kept(folder / JSON, key, {"masks": list[dict]})):
        return kept
    began = time.perf_counter()
    files = MaskFiles(run.predictor, folder, confidences, work.step("masks"))
    others.on_main(lambda: files.begin(key))
    if work.settings.anomaly.kind != "none":
        rows = files.of_slices(run.held_out())
    else:
        cases = others.on_main(lambda: work.cohort.cases)
        rows = files.of_cases(cases, lambda case: case.label != 0 or 1 in case.slice_labels.values())
    seconds = round(time.perf_counter() - began, 2)
    if not others.here.is_main:
        return {}
    rows = rows if trusted(verdict(work.root)) else list(map(untrusted, rows))
    return write_table(folder, rows, key=key, seconds=seconds)


def warnings(run: Run) -> list[str]:
    """What a user should know before trusting the masks, from every finished stage."""
    root, store = run.networks, run.store
    lines = [*run.reviews.said(), *(f"data: {problem}" for problem in store.meta["problems"])]
    if (searched := store.meta.get("witnesses")) and searched["slices"] is None:
        lines.append(INHERITED)
    scores = scores_kept(root / "classifier", store.number)
    # Without labels by slice only scans have an AUROC.
    auroc, units = (scores["auroc_scans"], "scans") if scores["auroc"] is None else (scores["auroc"], "patients")
    if auroc is not None and auroc < 0.7:
        words = "worse than guessing" if auroc < 0.5 else "weak"
        lines.append(f"the classifier is {words} (AUROC {auroc:.2f} on held-out {units}): the masks can be no better than it")
    if run.work.settings.data.split_by == "slice":
        lines.append("split inside patients (data.split_by slice): the scores say nothing about new patients")
    return lines + (Stage(root / "coin", "").facts(warnings=list[str])["warnings"] if run.predictor.is_counterfactual else [])


def counts(run: Run) -> dict[str, Any]:
    """The data in numbers, for the manifest."""
    store, settings, index, meta = run.store, run.work.settings, run.store.index, run.store.meta
    searched = meta.get("witnesses")
    sides = [TrainingSlices(store, settings.anomaly, settings.seed, side) for side in (TRAINING, VALIDATION)]
    # Slices trained on as abnormal, and held-out ones labelled so (not only their scan); injected ones as first drawn.
    certain = [np.ones(len(sides[0]), bool), ~sides[1].weak()]
    return {
        "path": str(run.work.data), "layout": meta["layout"], "label_source": meta["label_source"],
        "cases": len(set(index["case"])), "slices": len(store), "patients": len(set(index["patient"])),
        "patients_held_out": len(set(index["patient"][index["split"] == VALIDATION])),
        "abnormal": sum(int((side.labels()[of] == 1).sum()) for side, of in zip(sides, certain, strict=True)),
        "labels_per_scan": searched and {
            "rule": "inherited" if searched["slices"] is None else "witnesses", "abnormal_scans": searched["scans"],
            "slices": searched["weak"], "kept": searched["kept"],
        }, "fingerprint": meta["fingerprint"], "window": meta["window"], "intensity": meta["kind"],
        **({"tiles": int((index["region"] >= 0).sum())} if settings.data.tile else {}),
        **({"reviewed": learnt} if (learnt := run.reviews.counts()) else {}),
    }  # fmt: skip
