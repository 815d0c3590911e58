"""Training of the generator, of COIN or of Singla et al., and the choice of the layer a CAM looks at."""

from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from coinseg.config.reading import refuse
from coinseg.config.rules import of_classes, of_organs, of_side
from coinseg.config.schema import Settings
from coinseg.data.slices.dataset import JointSlices, TrainingSlices, slices_of
from coinseg.data.slices.store import SliceStore
from coinseg.errors import memory_for
from coinseg.explain.attribution import best_layer
from coinseg.explain.attribution.cam import KINDS
from coinseg.explain.counterfactual import coin, singla
from coinseg.explain.counterfactual.discriminator import Discriminator
from coinseg.explain.counterfactual.generator import Generator, build_generator
from coinseg.networks.classifier import Classifier
from coinseg.networks.weights import load_weights
from coinseg.runtime.devices import choose_device, compiled, images_to, make_fabric, to_device
from coinseg.runtime.distributed import over_whole_batch, require_parts
from coinseg.runtime.process_group import current
from coinseg.runtime.records import read_record, write_record
from coinseg.runtime.stage import Report, Stage, silent
from coinseg.runtime.streams import Stream, random_stream, seed_step

from .keys import coin_key, result_key
from .loop import descend, fit
from .monitor import Monitor
from .schedule import averaging

WEIGHTS = "generator.safetensors"
LAYER_IMAGES = 32  # Training images that a CAM's layer is chosen on


class CoinStep:
    """A training step of generator and discriminator, with what it changes; networks and the frozen f are on the device.

    `averaged` is the moving average of the generator; `latest` has every loss, those of the generator of its last update.
    """

    def __init__(
        self, slices: TrainingSlices | JointSlices, f: nn.Module, generator: Generator, discriminator: Discriminator,
        fabric: Fabric, settings: Settings,
    ) -> None:  # fmt: skip
        s = settings.coin
        self.slices, self.f, self.fabric, self.settings = slices, f, fabric, s
        self.method = coin if s.conditions == 1 else singla
        self.generator, self.discriminator = generator, discriminator
        self.averaged = AveragedModel(generator, multi_avg_fn=averaging(s.ema), use_buffers=True)
        modules, betas = (generator, discriminator), (s.beta1, s.beta2)
        self.optimisers = [torch.optim.Adam(module.parameters(), lr=s.lr, betas=betas) for module in modules]
        g, self.g_optimiser = fabric.setup(compiled(generator, settings.engine), self.optimisers[0])
        # Not compiled: spectral normalisation updates itself in place between its two passes of a step.
        d, self.d_optimiser = fabric.setup(discriminator, self.optimisers[1])
        g.train()
        d.train()
        self.g, self.d = over_whole_batch(g), over_whole_batch(d)
        self.latest: dict[str, Tensor] = {}

    def parts(self) -> dict[str, Any]:
        """What a checkpoint holds, see `loop.fit`."""
        networks = {"g": self.generator, "d": self.discriminator, "kept": self.averaged}
        g_optimiser, d_optimiser = self.optimisers
        return {"latest": self.latest, **networks, "g_optimiser": g_optimiser, "d_optimiser": d_optimiser}

    def __call__(self, number: int) -> dict[str, Tensor]:
        """Update the generator, at every `coin.generator_every`-th step, and the discriminator; returns all losses."""
        x, regions, asked = self._batch(number)
        if number % self.settings.generator_every == 0:
            generated = self._update_generator(x, regions, asked)
        else:
            with torch.no_grad():
                generated = self.method.generate(x, self.g, self.f, self.settings, asked)
        if self.settings.adversarial:
            loss = self.method.discriminator_loss(x, generated, self.d)
            descend(self.fabric, self.d_optimiser, loss, self.discriminator.parameters())
            self.latest["discriminator"] = loss.detach()
        return self.latest

    def _batch(self, number: int) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Images (B, C, S, S), regions (B, 2, S, S) where `coin.regions` asks, and of several classes the one to turn off, (B,).

        See `coin.balanced` and `coin.hflip`.
        """
        s, rank = self.settings, current().here
        indices, epoch = self.slices.indices_of_step(number, s.batch, s.balanced)
        batch = self.slices.batch(rank.share(indices), epoch, regions=s.regions != "none")
        mirror = rank.share(torch.rand(len(indices)) < (0.5 if s.hflip else 0.0))
        x = images_to(self.fabric, mirrored(batch.image, mirror))
        asked = None if batch.asked is None else batch.asked.to(self.fabric.device)
        return x, None if batch.regions is None else images_to(self.fabric, mirrored(batch.regions, mirror)), asked

    def _update_generator(self, x: Tensor, regions: Tensor | None, asked: Tensor | None) -> coin.Generated:
        """Step the generator's optimiser; returns what the generator made of the images before."""
        self.discriminator.requires_grad_(False)
        generated = self.method.generate(x, self.g, self.f, self.settings, asked)
        losses = self.method.generator_losses(x, generated, self.g, self.d, self.f, self.settings, regions)
        descend(self.fabric, self.g_optimiser, torch.stack(list(losses.values())).sum(), self.generator.parameters())
        self.discriminator.requires_grad_(True)
        self.averaged.update_parameters(self.generator)
        self.latest.update({name: loss.detach() for name, loss in losses.items()})
        return generated


@memory_for("coin.batch")
def train_coin(
    store: SliceStore, f: nn.Module, settings: Settings, folder: Path | None = None, report: Report = silent
) -> Generator:
    """Train the generator of COIN, or of Singla et al. (`coin.conditions`), against a frozen classifier, or load it.

    The generator (its moving average when coin.ema > 0) is in evaluation mode: X -> X_cf, (B, C, S, S) in [-1, 1]. `UserError`
    where the side of the images does not suit coin.depth, organ masks are missing, or a loss is no longer finite.

    Args:
        store: the prepared slices, or a `Dataset` of arrays; images and labels are read, and organ masks where coin.regions asks.
        f: images (B, C, S, S) in [-1, 1] -> logits (B,); it is frozen, its weights stay.
        settings: seed, anomaly, coin, engine and classifier.threshold (for the monitor) are read.
        folder: receives generator.safetensors, stage.json, stats.jsonl and sample pictures; None writes nothing.
        report: progress.
    """
    if isinstance(f, Classifier):
        f.require_usable(store.size, channels=len(store.channels))
    stage = Stage(folder, coin_key(store, settings, f), settings.engine.logger)
    seed_step(settings.seed, Stream.GENERATOR_WEIGHTS)
    s, fabric = settings.coin, make_fabric(settings.engine)
    require_parts(s.batch, "coin.batch")
    channels, classes = len(store.channels), len(store.views)
    refuse([*of_side(store.size, s), *of_organs(s, store.meta["has_organs"]), *of_classes(settings, classes)])
    generator, discriminator = build_generator(s, channels, classes), Discriminator(s, channels)
    if stage.finished():
        load_weights(generator, stage.file(WEIGHTS), "generator")
        return generator.eval()
    slices = slices_of(store, settings.anomaly, settings.seed)
    for module in (generator, discriminator, f.eval().requires_grad_(False)):
        to_device(module, fabric)
    step = CoinStep(slices, f, generator, discriminator, fabric, settings)
    monitor = Monitor(store, f, step.averaged, fabric, settings, stage, report)
    fit("coin", stage, step.parts(), step, settings, report, s.decay, monitor.after_step)
    result = cast(Generator, step.averaged.module)
    stage.finish(result, WEIGHTS, "coin.lr", **monitor.summary())
    return result.eval()


def choose_layer(store: SliceStore, f: nn.Module, settings: Settings, folder: Path | None = None) -> str | None:
    """The layer a CAM looks at where attribution.layer is "best", else None: that with the best `attribution.best_layer`.

    Args:
        store: the prepared slices.
        f: the frozen classifier.
        settings: seed, anomaly, method, attribution, coin and masks are read.
        folder: keeps layer.json with the scores of all layers, which is read for the same inputs; None keeps nothing.
    """
    if settings.method not in KINDS or settings.attribution.layer != "best":
        return None
    file, key = folder and folder / "layer.json", result_key(store, settings, f)
    if file and file.exists() and (earlier := read_record(file, {"key": str, "layer": str}))["key"] == key:
        return str(earlier["layer"])
    slices = TrainingSlices(store, settings.anomaly, settings.seed)
    abnormal = np.flatnonzero(slices.labels() == 1)
    indices = np.sort(random_stream(Stream.CAM_LAYER, settings.seed).permutation(abnormal)[:LAYER_IMAGES])
    device = choose_device(settings.engine)
    to_device(f, device)  # also its memory format, which a trained f has and one from a file has not: it decides the last bits
    images = images_to(device, slices.batch(indices).image)
    layer, scores = best_layer(settings.method, f, images, settings.attribution.batch)
    if file:
        write_record(file, {"key": key, "layer": layer, "insertion_minus_deletion": scores})
    return layer


def mirrored(images: Tensor, mirror: Tensor) -> Tensor:
    """The images (B, C, H, W) that `mirror` (B,) bool names left-right mirrored, the others as they are."""
    return torch.where(mirror[:, None, None, None], images.flip(3), images)
