"""The whole path, stage by stage, in one output folder: data -> slices (-> witnesses) -> f -> COIN -> scores -> masks -> report.

Every stage knows what it depends on (a key over files and settings), skips itself when its result is there, and goes on
from its last checkpoint when it was killed; so the same command, given again, finishes the run.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from coinseg.config.parsing import asks_opinion
from coinseg.config.reading import refuse
from coinseg.config.renamed import hashed
from coinseg.config.rules import of_organs, require_consistent
from coinseg.config.schema import Settings
from coinseg.data.layouts.registry import read_layout
from coinseg.data.readers.axes import require_views
from coinseg.data.slices.case import kind_of_intensity
from coinseg.data.slices.dataset import ScoredSlices, TrainingSlices
from coinseg.data.slices.intensity import signed
from coinseg.data.slices.split import TRAINING, VALIDATION, require_labels
from coinseg.data.slices.store import SliceStore, bytes_needed, prepare, same_files
from coinseg.evaluation.evaluate import evaluate
from coinseg.explain.counterfactual.generator import Generator
from coinseg.explain.registry import COUNTERFACTUAL
from coinseg.inference import scans as runs
from coinseg.inference.checkpoint import save
from coinseg.inference.ensemble import Ensemble
from coinseg.inference.image_score import ImageScore, prior_shift
from coinseg.inference.slice_hmm import fit_transitions
from coinseg.inference.table import JSON, write_table
from coinseg.networks.classifier import Classifier
from coinseg.runtime.devices import make_fabric
from coinseg.runtime.distributed import require_parts
from coinseg.runtime.files import key_of, read_json, require_room, write_json
from coinseg.runtime.process_group import current
from coinseg.runtime.stage import Report, Stage, silent
from coinseg.runtime.threads import keep_threads
from coinseg.training.classifier import train_classifier
from coinseg.training.coin import choose_layer, train_coin
from coinseg.training.instance_selection import INHERITED, select_instances
from coinseg.training.keys import result_key
from coinseg.training.patchcore import fit_patchcore
from coinseg.training.pseudo_masks import LEAST
from coinseg.training.student import train_student
from coinseg.training.teachers import train_imagenet_classifier, train_teachers
from coinseg.types import Cohort

from .mask_files import MaskFiles
from .run_folder import changes, write_settings

FORMAT = 2
"""Of what is written beside scores and masks; raised where an older run has less, so that it is made once more. Nothing is trained again."""
FINISHED = ("manifest.json", "report.html", "model.json")
"""What a folder has once its run has ended: `segment` takes it for a model then."""


@dataclass
class Workspace:
    """One run folder and the stages in it; each stage asks for the ones before it.

    Args:
        data: what the user pointed at.
        root: the output folder.
        settings: of the run.
        report: progress.
    """

    data: Path
    root: Path
    settings: Settings
    report: Report = silent

    def check(self) -> int:
        """Everything that can be refused before any work: data, settings, room. Returns the bytes the slices need."""
        require_consistent(self.settings)
        refuse(of_organs(self.settings.coin, any(case.organ for case in self.cohort.cases)))
        kind_of_intensity(self.cohort, self.settings.data)
        require_labels(self.cohort, self.settings.anomaly.kind != "none")
        require_parts(self.settings.classifier.batch, "classifier.batch")
        require_parts(self.settings.coin.batch, "coin.batch")
        if self.taught and asks_opinion(self.settings):
            require_parts(self.settings.student.batch, "student.batch")
        require_views(self.cohort, self.settings.data)
        needed = bytes_needed(self.cohort, self.settings)
        require_room(self.root, needed, "the prepared slices")
        return needed

    def start(self, overwrite: bool = True) -> None:
        """Check, then write the settings down with the data they belong to; what says that a run of others ended goes first.

        Args:
            overwrite: whether results of data that have changed since may be replaced.

        Raises:
            UserError: see `check`; or the data have changed, and there are results of what they were.
        """
        self.check()
        file, slices = self.root / "settings.yaml", self.root / "slices"
        if not overwrite and not same_files(self.cohort, self.settings, slices):
            prepare(self.cohort, self.settings, slices, self._step("prepare"), overwrite)
        if not same_files(self.cohort, self.settings, slices) or changes(file, self.data, self.settings):
            for name in FINISHED:
                (self.root / name).unlink(missing_ok=True)
        write_settings(self.data, self.root, self.settings)
        if not self.settings.engine.threads:
            keep_threads(self.root)

    def _step(self, stage: str) -> Callable[[int, int], None]:
        return lambda done, total: self.report(stage, done, total, {})

    @cached_property
    def cohort(self) -> Cohort:
        """What the layout recognised."""
        return read_layout(self.data, self.settings.data, one_class=self.settings.anomaly.kind != "none")

    @cached_property
    def prepared(self) -> SliceStore:
        """The prepared slices, all of them; of several processes the first prepares them."""
        others, place = current(), self.root / "slices"
        store = prepare(self.cohort, self.settings, place, self._step("prepare")) if others.here.is_main else None
        others.barrier()
        return store or SliceStore(place)

    @cached_property
    def store(self) -> SliceStore:
        """The prepared slices; where only scans are labelled, those that are not trained on are left out."""
        return select_instances(self.prepared, self.settings, self.root / "witnesses", self.report)

    @cached_property
    def f(self) -> Classifier:
        """The trained, frozen classifier."""
        return train_classifier(self.store, self.settings, self.root / "classifier", self.report)

    @cached_property
    def generator(self) -> Generator | None:
        """The trained generator; None for an attribution."""
        if self.settings.method != COUNTERFACTUAL:
            return None
        return train_coin(self.store, self.f, self.settings, self.root / "coin", self.report)

    @cached_property
    def layer(self) -> str | None:
        """The layer a CAM looks at, where it was to be chosen (`attribution.layer` "best")."""
        return current().on_main(lambda: choose_layer(self.store, self.f, self.settings, self.root / "attribution"))

    @property
    def taught(self) -> bool:
        """Whether there is to be a student: it needs masks of a counterfactual method, and to know which of them to trust."""
        return self.settings.method == COUNTERFACTUAL and self.settings.masks.flips and self.settings.student.steps > 0

    @cached_property
    def result_key(self) -> str:
        """What scores and masks depend on."""
        key = result_key(self.store, self.settings, self.f)
        return key_of([key, hashed(self.settings.student)]) if self.taught else key

    @cached_property
    def masks_key(self) -> str:
        """What the masks of the user's own cases depend on: also on which labels were given, and not made from lesion masks."""
        given = current().on_main(lambda: [(c.id, c.label, sorted(c.slice_labels.items())) for c in self.cohort.cases])
        return key_of([self.result_key, given, FORMAT])

    @property
    def scores_key(self) -> str:
        """What scores and the audit depend on."""
        return key_of([self.result_key, FORMAT])

    def train(self, command: str) -> None:
        """What a command trains; the processes of a job do it together, in this one order."""
        _ = self.prepared
        if command != "prepare":
            _ = self.f
        if command not in ("prepare", "train-classifier"):
            _ = self.generator
        if command not in ("prepare", "train-classifier", "train-coin"):
            _ = self.run

    def _made(self, file: Path, key: str | None = None) -> dict[str, Any] | None:
        made = read_json(file) if file.exists() else None
        return made if made and made.get("key") == (key or self.result_key) else None

    @cached_property
    def run(self) -> runs.Run:
        """The loaded run, its threshold chosen on training images without any mask; leaves model.json."""
        loaded = runs.Run(
            self.settings, self.f, self.generator, self.store.meta["kind"], self.store.window,
            self.store.meta["has_organs"], 1.0, make_fabric(self.settings.engine), self.layer,
        )  # fmt: skip
        chosen = current().on_main(lambda: self._threshold(loaded))
        loaded.threshold = chosen["value"]
        if self.taught:
            slices = TrainingSlices(self.store, self.settings.anomaly, self.settings.seed)
            few = (slices.labels() == 1).sum() < LEAST  # then there will be no student, whoever teaches
            others = [] if few else train_teachers(self.store, self.settings, self.root, self.report)
            committee = Ensemble(loaded, others, slices)
            loaded.student = train_student(
                slices,
                committee.trusted,
                committee.called,
                self.settings,
                result_key(self.store, self.settings, self.f),
                self.root / "student",
                self.report,
            )
            if loaded.student is not None:
                opinion = train_imagenet_classifier(self.store, self.settings, self.root, self.report)
                asked = [self.f, *(f for f, _ in others)]
                loaded.posterior = ImageScore(asked, prior_shift(slices, self.settings), opinion)
                loaded.steps = fit_transitions(slices) if self.settings.student.neighbours else None
                place = self.root / "novelty"
                loaded.novelty = fit_patchcore(slices, loaded.masks, self.settings, self.result_key, place, self.report)
        if current().here.is_main:
            save(loaded, self.root)
        return loaded

    def _threshold(self, loaded: runs.Run) -> dict[str, Any]:
        """The contents of threshold.json."""
        chosen = self._made(self.root / "threshold.json")
        if chosen is None:
            threshold = loaded.choose_threshold(TrainingSlices(self.store, self.settings.anomaly, self.settings.seed))
            rule = threshold.rule
            if self.settings.masks.peak:
                rule += f"; in each image also {self.settings.masks.peak:.0%} of the peak of its own difference"
            chosen = {"key": self.result_key, "value": threshold.value, "rule": rule}
            write_json(self.root / "threshold.json", chosen)
        return chosen

    def evaluate(self) -> dict[str, Any]:
        """Scores on held-out patients; leaves evaluation/."""
        run, file = self.run, self.root / "evaluation" / "scores.json"
        if made := self._made(file, self.scores_key):
            return made
        began = time.perf_counter()
        file.unlink(missing_ok=True)  # what is written beside it must never be that of other scores
        slices = ScoredSlices(self.store, self.settings.anomaly, self.settings.seed, VALIDATION)
        posterior = run.posterior_of(slices)
        scores = evaluate(
            slices, lambda batch: run.evidence(batch.image, posterior=posterior(batch.rows)), run.level, replace(self.settings, masks=run.cleaning), file.parent,
            self._step("evaluate"), lambda unit: run.probability(torch.from_numpy(signed(unit))[:, None]).numpy(),
        )  # fmt: skip
        scores |= {"key": self.scores_key, "seconds": round(time.perf_counter() - began, 2)}
        write_json(file, scores)
        return scores

    def write_masks(self) -> dict[str, Any]:
        """Masks of the user's own cases, in their own geometry, under masks/, with an index; resumes where it stopped.

        Under confidence/ is how far to trust each of their pixels, in percent, under the same names. Masks of another key are removed before
        the first one is written, so that whatever is there is of the key in key.txt.

        Cases labelled normal as a whole have no mask to make. Where anomalies were injected the user's scans have
        none, so the held-out slices are written with their masks instead, as PNG. Several processes share the cases; all come
        here.
        """
        folder, sure, others, key = self.root / "masks", self.root / "confidence", current(), self.masks_key
        if made := others.on_main(lambda: sure.is_dir() and self._made(folder / JSON, key)):
            return made
        run, began = self.run, time.perf_counter()
        files = MaskFiles(run, folder, sure, self._step("masks"))
        others.on_main(lambda: files.begin(key))
        if self.settings.anomaly.kind != "none":
            written = files.of_slices(ScoredSlices(self.store, self.settings.anomaly, self.settings.seed, VALIDATION))
        else:
            every = others.on_main(lambda: self.cohort.cases)
            written = files.of_cases(every, lambda case: case.label != 0 or 1 in case.slice_labels.values())
        seconds = round(time.perf_counter() - began, 2)
        return write_table(folder, written, key=key, seconds=seconds) if others.here.is_main else {}

    def warnings(self) -> list[str]:
        """What a user should know before trusting the masks, from every finished stage."""
        found = [f"data: {problem}" for problem in self.store.meta["problems"]]
        if (searched := self.store.meta.get("witnesses")) and searched["slices"] is None:
            found.append(INHERITED)
        scores = Stage(self.root / "classifier", "").facts()["scores"]
        auroc, what = scores["auroc"], "patients"
        if auroc is None:  # no labels by slice
            auroc, what = scores["auroc_scans"], "scans"
        if auroc is not None and auroc < 0.7:
            found.append(f"the classifier is weak (AUROC {auroc:.2f} on held-out {what}): the masks can be no better than it")
        if self.settings.data.split_by == "slice":
            found.append("split inside patients (data.split_by slice): the scores say nothing about new patients")
        return found + (Stage(self.root / "coin", "").facts()["warnings"] if self.generator is not None else [])

    def counts(self) -> dict[str, Any]:
        """The data in numbers, for the manifest."""
        index, meta = self.store.index, self.store.meta
        searched = meta.get("witnesses")
        return {
            "path": str(self.data), "layout": meta["layout"], "label_source": meta["label_source"],
            "cases": len(set(index["case"])), "slices": len(self.store), "patients": len(set(index["patient"])),
            "patients_held_out": len(set(index["patient"][index["split"] == VALIDATION])),
            "abnormal": int(self.abnormal()), "labels_per_scan": searched and {
                "rule": "inherited" if searched["slices"] is None else "witnesses", "abnormal_scans": searched["scans"],
                "slices": searched["weak"], "kept": searched["kept"],
            }, "fingerprint": meta["fingerprint"], "window": meta["window"], "intensity": meta["kind"],
        }  # fmt: skip

    def abnormal(self) -> int:
        """Slices trained on as abnormal, and held-out ones labelled so (not only their scan); injected ones as first drawn."""
        sides = [TrainingSlices(self.store, self.settings.anomaly, self.settings.seed, side) for side in (TRAINING, VALIDATION)]
        certain = [np.ones(len(sides[0]), bool), ~sides[1].weak()]
        return sum(int((side.labels()[of] == 1).sum()) for side, of in zip(sides, certain, strict=True))
