"""What a person's minutes are worth: students taught so many reviewed masks beside the pseudo-masks (docs/research/reviewed.md).

    python studies/learning_curve.py DATA WORK SET SEED...          rows in WORK/learning_curve.json, validation fifth
    python studies/learning_curve.py final DATA WORK SET SEED...    the same students, read on the test fifth; once, at the end

The reviewer is simulated: he draws the true mask. Masks of abnormal training images are reviewed, the first of the desk's queue
("ranked") or drawn at random ("random"). f, generators and pseudo-masks of a seed are the same for all its students, which have
`NETWORKS` networks and `STEPS` steps each; "ceiling" is the same student taught all true masks.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from board import scored, sides
from recipe import ceiling
from runs import rebuilt, workspace
from scipy import ndimage
from torch import Tensor

from coinseg import Workspace
from coinseg.data.slices.dataset import ScoredSlices, TrainingSlices
from coinseg.data.slices.student_data import ReviewedMasks
from coinseg.inference.ensemble import Ensemble
from coinseg.inference.predictor import Predictor
from coinseg.inference.segmenter import DifferenceSegmenter
from coinseg.masks.confidence import doubtful
from coinseg.pipeline.recipe import other_pairs
from coinseg.pipeline.run import Run, job_of, train
from coinseg.review.kept.records import CaseRecord
from coinseg.review.queue import worth_looking_at
from coinseg.runtime.files import key_of, read_json, write_json
from coinseg.training.pseudo_masks import REVIEWED
from coinseg.training.student import Lesson, train_student

COUNTS = (20, 50, 5)
NETWORKS, STEPS = 1, 300
WHICH = ("fifth", "set", "seed", "size", "networks", "steps", "weight", "chosen", "reviewed")  # what makes a row another one


def of_study(source: Path, work: Path, name: str, seed: int) -> Workspace:
    """The base run of a seed: the default recipe with a shorter student."""
    space = workspace(source, work / "learning_curve", name, seed, "test")
    student = replace(space.settings.student, networks=NETWORKS, steps=STEPS)
    return replace(space, settings=replace(space.settings, student=student))


def masks_of(run: Run) -> Callable[[Tensor], tuple[np.ndarray, np.ndarray]]:
    """Images -> pseudo-masks and their confidence, which are found once for each batch."""
    space, one = run.work, run.predictor.explainer
    others = [replace(one, f=f, generator=generator) for f, generator in other_pairs(job_of(space))]
    slices = TrainingSlices(run.store, space.settings.anomaly, space.settings.seed)
    ensemble, known = Ensemble(DifferenceSegmenter(one, run.predictor.threshold), others, slices), {}

    def masks(images: Tensor) -> tuple[np.ndarray, np.ndarray]:
        key = images.numpy().tobytes()
        if key not in known:
            known[key] = ensemble.pseudo_masks(images)
        return known[key]  # type: ignore[no-any-return]

    return masks


def records(base: Predictor, slices: TrainingSlices, indices: np.ndarray) -> list[CaseRecord]:
    """Training images as the desk lists them, with the numbers that the index of a run has of their masks."""
    found = []
    for chunk in np.split(indices, range(64, len(indices), 64)):
        answers = base.segment_images(slices.batch(chunk).image)
        for index, mask, probability, confidence in zip(
            chunk, answers.masks, answers.scores.probability, answers.confidence, strict=True
        ):
            known = float(confidence) if np.isfinite(confidence) else None
            numbers = {
                "pixels": int(mask.sum()), "components": ndimage.label(mask)[1], "highest_f": float(probability),
                "confidence": known, "doubtful": doubtful(known),
            }  # fmt: skip
            if mask.any():
                where = np.argwhere(mask)
                numbers["box"] = {"min": [*where.min(0).tolist(), 0], "max": [*where.max(0).tolist(), 0]}
            patient = str(slices.store.index["patient"][slices.rows[index]])
            found.append(CaseRecord(str(index), patient, "", False, "training", numbers))
    return found


def choices(base: Predictor, slices: TrainingSlices, seed: int) -> Iterator[tuple[str, np.ndarray]]:
    """How masks are chosen, and the training images in that order."""
    abnormal = np.flatnonzero(slices.labels() == 1)
    yield "ranked", np.array([int(case.id) for case in worth_looking_at(records(base, slices, abnormal))])
    yield "random", np.random.default_rng(seed).permutation(abnormal)


def reviewed(slices: ScoredSlices, indices: np.ndarray) -> ReviewedMasks:
    """The true masks of training images, as a reviewer who makes no mistake hands them over."""
    return ReviewedMasks(slices.rows[indices], slices.scored(indices).truth.astype(np.uint8), len(indices), 0)


def measure(source: Path, work: Path, name: str, seed: int, fifth: str) -> Iterator[dict[str, object]]:
    """A row for each student of a seed, read on this fifth; what is trained already is not trained again."""
    space = of_study(source, work, name, seed)
    space.start()
    run, settings = train(space), space.settings
    truth, slices = ScoredSlices(run.store, settings.anomaly, seed), TrainingSlices(run.store, settings.anomaly, seed)
    ((_, held_out),) = sides(space, fifth)
    same = {"size": settings.data.size, "networks": NETWORKS, "steps": STEPS, "weight": REVIEWED}
    row: dict[str, object] = {"fifth": fifth, "set": name, "seed": seed} | same

    def read(chosen: str, count: int, predictor: Predictor, begun: float) -> dict[str, object]:
        seconds = round(time.process_time() - begun)
        facts = {"chosen": chosen, "reviewed": count, "cpu_s": seconds}
        return row | facts | scored(predictor, held_out, space.root / "scores" / fifth / f"{chosen}-{count}")

    yield read("none", 0, run.predictor, time.process_time())
    begun = time.process_time()
    yield read("ceiling", 0, rebuilt(run.predictor, ["patchcore"], student=ceiling(run)), begun)
    masks = masks_of(run)
    orders = dict(choices(run.predictor, slices, seed))
    for count in COUNTS:
        for chosen, order in orders.items():
            begun = time.process_time()
            lesson = Lesson(slices, masks, reviewed=reviewed(truth, order[:count]))
            folder = space.root / "students" / f"{chosen}-{count}"
            student = train_student([lesson], settings, f"{chosen} {count} {key_of(order[:count].tolist())}", folder)[0]
            if student is None:
                raise SystemExit("too few masks for a student")
            yield read(chosen, count, rebuilt(run.predictor, student=student), begun)


if __name__ == "__main__":
    fifth = "test" if sys.argv[1] == "final" else "validation"
    source, work, name, *seeds = sys.argv[2 if fifth == "test" else 1 :]
    file = Path(work) / "learning_curve.json"
    for seed in map(int, seeds):
        for row in measure(Path(source), Path(work), name, seed, fifth):
            print(json.dumps(row), flush=True)
            rows = read_json(file) if file.exists() else []
            write_json(file, [*(kept for kept in rows if any(kept.get(which) != row[which] for which in WHICH)), row])
