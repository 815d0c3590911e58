"""What the scripts of this folder share: the sets, the folder of a run, changed predictors, and the slices they are read on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from coinseg import Workspace
from coinseg.config.parsing import settings_from
from coinseg.config.schema import MaskSettings
from coinseg.data.slices.dataset import ScoredBatch, ScoredSlices, TrainingSlices
from coinseg.data.slices.split import VALIDATION
from coinseg.evaluation.explained import Explain
from coinseg.inference.image_score import ImageScores
from coinseg.inference.predictor import Predictor
from coinseg.masks.postprocess import masks_of
from coinseg.metrics.overlap import mean_dice, pooled_iou
from coinseg.networks.unet import Mean, sides
from coinseg.pipeline.run import job_of

DEFECTS = ("Blowhole", "Break", "Crack", "Fray")
SETS: dict[str, dict[str, Any]] = {
    "lgg": {"data": {"size": 64}},
    "liver": {"data": {"size": 64, "roi": "organ"}, "anomaly": {"kind": "blob"}},
    "phantom": {"data": {"size": 64, "roi": "organ", "organ": ["kidney_left", "kidney_right"], "lesion": ["kidney_tumor"]}},
    "tiles": {"data": {"size": 96}},
    "photographs": {"data": {"size": 96}},
    **{name: {"data": {"size": 64}} for name in DEFECTS},
    "lgg96": {"data": {"size": 96}},
    "soy": {"data": {"size": 64}},
    "kits": {"data": {"size": 96}},
    "rails": {"data": {"size": 80, "tile": 80}},
    "steel": {"data": {"size": 64}},
}  # fmt: skip
FOLDERS = {
    "lgg": "lgg-flair-2d", "lgg96": "lgg-flair-2d", "liver": "msd-liver-ct-2d", "soy": "soy-rust", "kits": "kits19-halves",
    "rails": "rail-defects", "steel": "neu-steel",
}  # fmt: skip


def workspace(source: Path, work: Path, name: str, seed: int, held_out: str = "validation") -> Workspace:
    """A run of a set, in the folder of its name, seed and fifth."""
    values = SETS[name] | {"data": SETS[name]["data"] | {"split_by": "hash", "held_out": held_out}}
    settings = replace(settings_from(values), seed=seed)
    settings = replace(settings, engine=replace(settings.engine, threads=1, logger="none"))
    folder = source / FOLDERS[name] if name in FOLDERS else work / "data" / name
    return Workspace(folder, work / f"{name}-{seed}", settings)


# --- a trained run, and what is changed of it ----------------------------------------------------------------------


def rebuilt(
    run: Predictor, without: Sequence[str] = (), student: nn.Module | None = None, others: Sequence[nn.Module] | None = None,
    shift: float | None = None,
) -> Predictor:  # fmt: skip
    """A predictor with some of its networks changed; what is not given stays.

    Args:
        run: the predictor.
        without: names of the parts that are left out.
        student: in the place of its own.
        others: the classifiers of the ensemble beside f.
        shift: of the image score.
    """
    score = run.image_score
    return Predictor.of(
        run.explainer, run.preparation, run.threshold, student or run.student,
        list(score.classifiers)[1:] if others is None else others, score.shift if shift is None else shift,
        [part for part in run.parts if part.name not in without],
    )  # fmt: skip


def without_student(run: Predictor) -> Predictor:
    """The predictor whose masks are read from the difference."""
    return Predictor.of(run.explainer, run.preparation, run.threshold)


def coin_alone(run: Predictor, training: TrainingSlices, **masks: Any) -> Predictor:
    """The same with other settings `masks`, and with the threshold that these choose on the training images."""
    settings = replace(run.settings, masks=replace(run.settings.masks, **masks))
    explainer = replace(run.explainer, settings=settings)
    return Predictor.of(explainer, run.preparation, explainer.choose_threshold(training).value)


def at_one_size(run: Predictor) -> Predictor:
    """The predictor whose student sees images at the first of its two sizes only."""
    return rebuilt(run, student=Mean(networks(run).student, lambda side: sides(side)[:1]).eval())


def networks(run: Predictor) -> Mean:
    """The student; ends the program where there is none."""
    if not isinstance(run.student, Mean):
        raise SystemExit("the run has no student")
    return run.student


def masks_with(run: Predictor, images: Tensor, scores: ImageScores, cleaning: MaskSettings) -> np.ndarray:
    """Masks (B, S, S) bool of images (B, 1, S, S) in [-1, 1], cleaned as `cleaning` says and not as the predictor does."""
    maps = run.segmenter.maps(images, scores)
    return masks_of(maps.values, run.segmenter.level if maps.levels is None else maps.levels, cleaning)


# --- what it is read on -------------------------------------------------------------------------------------------


def scored(space: Workspace) -> ScoredSlices:
    """The held-out slices of a folder with their masks; they are prepared where they are not there."""
    return ScoredSlices(job_of(space).store, space.settings.anomaly, space.settings.seed, VALIDATION)


def held_out(source: Path, work: Path, name: str, seed: int, fifth: str) -> ScoredSlices:
    """The slices of a fifth with their masks.

    The validation fifth is prepared beside the run; its window and its training side are the same.
    """
    space = workspace(source, work, name, seed, fifth)
    return scored(space if fifth == "test" else replace(space, root=space.root / fifth))


def batches_of(slices: ScoredSlices) -> tuple[list[ScoredBatch], np.ndarray, np.ndarray]:
    """All slices in batches, their masks (n, S, S) bool and their labels (n,)."""
    batches = [slices.scored(np.arange(i, min(i + 64, len(slices)))) for i in range(0, len(slices), 64)]
    return batches, np.concatenate([b.truth for b in batches]), np.concatenate([b.label for b in batches])


def evidence(run: Predictor, slices: ScoredSlices) -> Explain:
    """What scoring looks at; slices of a scan are asked about together."""
    scores_of = run.scores_of(slices)
    return lambda batch: run.evidence(batch.image, scores_of(batch.rows))


def figures(masks: np.ndarray, truth: np.ndarray, abnormal: np.ndarray, normal: np.ndarray) -> list[str]:
    """Pooled IoU and mean Dice of abnormal images, and the share of pixels of normal ones that is marked, as they are printed.

    Args:
        masks, truth: (n, S, S) bool.
        abnormal, normal: which images count, (n,) bool.
    """
    iou, dice = pooled_iou(masks[abnormal], truth[abnormal]), mean_dice(masks[abnormal], truth[abnormal])
    return [f"{iou:.3f}", f"{dice:.3f}", f"{100 * masks[normal].mean():.3f} %"]
