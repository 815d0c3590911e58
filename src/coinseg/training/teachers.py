"""Training of the further (classifier, generator) pairs of the ensemble, and of the ImageNet classifier."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from coinseg.config.parsing import OPINION, asks_opinion, opinion_settings, teacher_folders
from coinseg.config.schema import Settings
from coinseg.data.slices.store import SliceStore
from coinseg.explain.counterfactual.generator import Generator
from coinseg.networks.classifier import Classifier
from coinseg.runtime.stage import Report, silent

from .classifier import train_classifier
from .coin import train_coin

SEEDS_APART = 1_000_003
"""Between the seeds of the teachers of one run; more than seeds that are tried one after another are apart."""


def train_teachers(
    store: SliceStore, settings: Settings, root: Path, report: Report = silent
) -> list[tuple[Classifier, Generator]]:
    """Classifier and generator of the teachers beside the first: trained alike, each pair from its own seed, or loaded.

    Args:
        store: the prepared slices; only images and labels are read.
        settings: of the run.
        root: the folder of the run; receives `teacher_folders`.
        report: progress, told as "classifier of teacher-2".
    """

    def told(name: str, stage: str, done: int, total: int, values: Mapping[str, float]) -> None:
        report(stage if stage.startswith("warning") else f"{stage} of {name}", done, total, values)

    found = []
    for number, name in enumerate(teacher_folders(settings), 1):
        own = replace(settings, seed=(settings.seed + SEEDS_APART * number) % 2**32)
        f = train_classifier(store, own, root / name / "classifier", partial(told, name))
        found.append((f, train_coin(store, f, own, root / name / "coin", partial(told, name))))
    return found


def train_imagenet_classifier(store: SliceStore, settings: Settings, root: Path, report: Report = silent) -> Classifier | None:
    """The classifier that is asked beside the teachers' whether there is a lesion (`posterior.py`), trained or loaded; None where there is to be none.

    Args: see `train_others`; the folder of the run receives `OPINION`.
    """
    if not asks_opinion(settings):
        return None

    def told(stage: str, done: int, total: int, values: Mapping[str, float]) -> None:
        report(stage if stage.startswith("warning") else f"{stage} of the second {OPINION}", done, total, values)

    return train_classifier(store, opinion_settings(settings), root / OPINION / "classifier", told)
