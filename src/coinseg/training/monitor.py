"""The health of a COIN training, seen without any mask: does anything flip, does everything change?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric
from PIL import Image
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from coinseg.config.schema import Settings
from coinseg.data.slices.dataset import TrainingSlices
from coinseg.explain.counterfactual import coin
from coinseg.runtime.devices import images_to
from coinseg.runtime.files import written_aside
from coinseg.runtime.streams import Stream, random_stream

PROBE = 64
"""Training images looked at."""


class Monitor:
    """Looks at the same few training images as training goes on: does anything flip, does everything change?

    It sees images, image labels and f, no mask.
    """

    def __init__(self, slices: TrainingSlices, f: nn.Module, kept: AveragedModel, fabric: Fabric, settings: Settings) -> None:
        self.f, self.kept, self.threshold = f, kept, settings.classifier.threshold
        labels, rng = slices.labels(), random_stream(Stream.MONITOR, settings.seed)
        chosen = [rng.permutation(np.flatnonzero(labels == c))[: PROBE // 2] for c in (1, 0)]
        batch = slices.batch(np.concatenate(chosen))
        self.images, self.labels = images_to(fabric, batch.image), batch.label.numpy()

    def look(self, picture: Path, generator: nn.Module | None = None) -> dict[str, float]:
        """Flip rate and mean change on the probe; writes input / counterfactual / difference of eight images."""
        generator = generator if generator is not None else self.kept.module
        was_training = generator.training
        generator.eval()
        found = coin.explain(self.images, generator, self.f, threshold=0.0)
        generator.train(was_training)
        counterfactual, afterwards = found.painted()
        before, after = found.probability.cpu().numpy(), afterwards.cpu().numpy()
        change = found.saliency.flatten(1).mean(1).cpu().numpy()
        called = before >= self.threshold
        save_sample(picture, self.images[:8].cpu(), counterfactual[:8].cpu())
        return {
            "probe_flip_rate": float((after[called] < self.threshold).mean()) if called.any() else 0.0,
            "probe_change_abnormal": float(change[self.labels == 1].mean()) if (self.labels == 1).any() else 0.0,
            "probe_change_normal": float(change[self.labels == 0].mean()) if (self.labels == 0).any() else 0.0,
        }

    @staticmethod
    def warnings(facts: Mapping[str, float]) -> list[str]:
        """What a user should know before trusting the masks."""
        found = []
        if facts["probe_flip_rate"] < 0.5:
            found.append(
                f"only {facts['probe_flip_rate']:.0%} of abnormal images flip to normal: train longer (coin.steps) or raise coin.classifier"
            )
        if facts["probe_change_normal"] > 0.1:
            found.append("normal images are changed by more than 10% on average: raise coin.identity or lower coin.lr")
        if facts["probe_change_abnormal"] < 1e-4:
            found.append("the generator changes nothing: lower coin.identity and coin.tv")
        return found


def save_sample(path: Path, x: Tensor, counterfactual: Tensor) -> None:
    """A grid PNG: input, counterfactual and difference in three rows."""
    rows = [x[:, 0] / 2 + 0.5, counterfactual[:, 0] / 2 + 0.5, (x - counterfactual)[:, 0].abs().clamp(max=1)]
    grid = torch.cat([torch.cat(list(row), dim=1) for row in rows])
    pixels = (grid.clamp(0, 1) * 255).round().byte().numpy()
    with written_aside(path) as part:
        Image.fromarray(pixels).save(part)
