"""Watches a training of the generator, without any lesion mask: does anything flip, does everything change?"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from PIL import Image
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from coinseg.config.schema import Settings
from coinseg.data.slices.dataset import TrainingSlices
from coinseg.data.slices.store import SliceStore
from coinseg.explain.counterfactual import coin
from coinseg.networks.classes import ClassGenerator, ClassLogit
from coinseg.runtime.devices import images_to
from coinseg.runtime.files import written_aside
from coinseg.runtime.stage import Report, Stage
from coinseg.runtime.streams import Stream, random_stream

PROBE = 64  # Training images that are looked at, half of them abnormal
SHOWN = 8  # Of these in a sample picture


class Monitor:
    """Looks at the same few training images again and again; in the first process alone, which logs and reports.

    The stage receives sample pictures and lines of the log, `report` also warnings in the second half of the training.
    """

    def __init__(
        self, store: SliceStore, f: nn.Module, averaged: AveragedModel, fabric: Fabric, settings: Settings, stage: Stage,
        report: Report,
    ) -> None:  # fmt: skip
        self.f, self.averaged, self.stage, self.report = f, averaged, stage, report
        views = [TrainingSlices(view, settings.anomaly, settings.seed) for view in store.views]
        self.threshold, self.steps, self.every = settings.classifier.threshold, settings.coin.steps, settings.engine.sample_every
        rng, probes = random_stream(Stream.MONITOR, settings.seed), []
        for slices in views:
            labels = slices.labels()
            chosen = [rng.permutation(np.flatnonzero(labels == label))[: PROBE // 2] for label in (1, 0)]
            batch = slices.batch(np.concatenate(chosen))
            probes.append((images_to(fabric, batch.image), batch.label.numpy()))
        self.probes = probes
        self.labels = np.concatenate([labels for _, labels in probes])

    def after_step(self, done: int) -> None:
        """Look, at every `engine.sample_every`-th step; `done` is the number of steps so far."""
        if done % self.every or not self.stage.is_main:
            return
        facts = self.look(f"step_{done:06d}")
        self.stage.log(done, facts)
        self.report("coin", done, self.steps, facts)
        for warning in self.warnings(facts) if 2 * done >= self.steps else []:
            self.report(f"warning: {warning}", done, self.steps, {})

    def summary(self) -> dict[str, Any]:
        """What the stage keeps at the end; empty in other processes than the first."""
        if not self.stage.is_main:
            return {}
        facts = self.look("final")
        return {"health": facts, "warnings": self.warnings(facts)}

    def look(self, name: str) -> dict[str, float]:
        """Share of abnormal images that flip, and mean absolute change on [0, 1]; writes the sample picture `name`."""
        generator, was_training = self.averaged.module, self.averaged.module.training
        generator.eval()
        of_classes = []
        for number, (images, _) in enumerate(self.probes):
            f, turned_off = self.f, generator
            if len(self.probes) > 1:
                f, turned_off = ClassLogit(f, number), ClassGenerator(generator, number)
            of_classes.append(coin.explain(images, turned_off, f, threshold=0.0))
        generator.train(was_training)
        before = np.concatenate([one.probability.cpu().numpy() for one in of_classes])
        after = np.concatenate([one.painted()[1].cpu().numpy() for one in of_classes])
        change = np.concatenate([one.saliency.flatten(1).mean(1).cpu().numpy() for one in of_classes])
        called = before >= self.threshold
        if self.stage.folder:
            shown, painted = self.probes[0][0][:SHOWN], of_classes[0].painted()[0][:SHOWN]
            save_sample(self.stage.file(f"samples/{name}.png"), shown.cpu(), painted.cpu())
        changes = {word: change[self.labels == label] for word, label in (("abnormal", 1), ("normal", 0))}
        flipped = {"probe_flip_rate": float((after[called] < self.threshold).mean()) if called.any() else 0.0}
        return flipped | {f"probe_change_{word}": float(part.mean()) if len(part) else 0.0 for word, part in changes.items()}

    @staticmethod
    def warnings(facts: Mapping[str, float]) -> list[str]:
        """What a user should know before trusting the masks, from what `look` returned."""
        few = f"only {facts['probe_flip_rate']:.0%} of abnormal images flip to normal"
        much = "normal images are changed by more than 10% on average"
        checks = {
            f"{few}: train longer (coin.steps) or raise coin.classifier": facts["probe_flip_rate"] < 0.5,
            f"{much}: raise coin.identity or lower coin.lr": facts["probe_change_normal"] > 0.1,
            "the generator changes nothing: lower coin.identity and coin.tv": facts["probe_change_abnormal"] < 1e-4,
        }
        return [warning for warning, wrong in checks.items() if wrong]


def save_sample(path: Path, x: Tensor, counterfactual: Tensor) -> None:
    """Write a PNG with X, X_cf (both (n, C, S, S) in [-1, 1]) and |X - X_cf| in three rows; in colour where C is 3."""
    colours = slice(3 if x.shape[1] == 3 else 1)
    rows = [part[:, colours] for part in (x / 2 + 0.5, counterfactual / 2 + 0.5, (x - counterfactual).abs().clamp(max=1))]
    grid = torch.cat([torch.cat(list(row), dim=2) for row in rows], dim=1)
    pixels = (grid.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).squeeze(2).numpy()
    with written_aside(path) as part:
        Image.fromarray(pixels).save(part)
