"""Training of the generator, of COIN or of Singla et al., and the layer a CAM looks at."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from coinseg.config.reading import refuse
from coinseg.config.rules import of_organs, of_side
from coinseg.config.schema import Settings
from coinseg.data.slices.dataset import TrainingSlices
from coinseg.data.slices.store import SliceStore
from coinseg.errors import memory_for
from coinseg.explain.attribution import best_layer
from coinseg.explain.attribution.cam import KINDS
from coinseg.explain.counterfactual import coin, singla
from coinseg.explain.counterfactual.discriminator import Discriminator
from coinseg.explain.counterfactual.generator import Generator
from coinseg.networks.weights import load_weights
from coinseg.runtime.devices import compiled, images_to, make_fabric, to_device
from coinseg.runtime.distributed import average, means, over_whole_batch, require_parts
from coinseg.runtime.files import read_json, write_json
from coinseg.runtime.process_group import current
from coinseg.runtime.stage import Report, Stage, require_finite, seed_step, silent

from .classifier import LOG_EVERY
from .keys import coin_key, result_key
from .monitor import Monitor
from .schedule import averaging, one_cycle

LAYER_IMAGES = 32
"""Training images a CAM's layer is chosen on."""


@memory_for("coin.batch")
def train_coin(store: SliceStore, f: nn.Module, settings: Settings, folder: Path, report: Report = silent) -> Generator:
    """Train the generator (of COIN, or of Singla et al.: `coin.conditions`) against a frozen classifier, or load it when it is already there for the same inputs.

    Args:
        store: the prepared slices; only images and labels are read, and organ masks where coin.regions asks for them.
        f: images (B, 1, H, W) in [-1, 1] -> logits (B,); its weights are left as they are.
        settings: seed, anomaly, coin and engine are read.
        folder: receives generator.safetensors, stage.json, stats.jsonl and sample pictures.
        report: progress.

    Returns:
        The generator (its moving average when coin.ema > 0) in evaluation mode.
    """
    stage = Stage(folder, coin_key(store, settings, f), settings.engine.tensorboard)
    seed_step(settings.seed, -2 % 2**31)
    s, fabric, here = settings.coin, make_fabric(settings.engine), current().here
    require_parts(s.batch, "coin.batch")
    refuse([*of_side(store.size, s), *of_organs(s, store.meta["has_organs"])])
    generator, discriminator = Generator(s), Discriminator(s)
    if stage.finished():
        load_weights(generator, folder / "generator.safetensors", "generator")
        return generator.eval()
    slices = TrainingSlices(store, settings.anomaly, settings.seed)
    for module in (generator, discriminator, f.eval().requires_grad_(False)):
        to_device(module, fabric)
    kept = AveragedModel(generator, multi_avg_fn=averaging(s.ema), use_buffers=True)
    g_optimiser, d_optimiser = (
        torch.optim.Adam(m.parameters(), lr=s.lr, betas=(s.beta1, s.beta2)) for m in (generator, discriminator)
    )
    parts: dict[str, Any] = {
        "g": generator,
        "d": discriminator,
        "kept": kept,
        "g_optimiser": g_optimiser,
        "d_optimiser": d_optimiser,
    }
    start, latest = 0, dict[str, Tensor]()
    if state := stage.resume():
        for name, part in parts.items():
            part.load_state_dict(state[name])
        start, latest = state["step"], state.get("latest", {})
    g, g_step = fabric.setup(compiled(generator, settings.engine), g_optimiser)
    # Not compiled: spectral normalisation updates itself in place between its two passes of a step.
    d, d_step = fabric.setup(discriminator, d_optimiser)
    g.train()
    d.train()
    g, d = over_whole_batch(g), over_whole_batch(d)
    method = coin if s.conditions == 1 else singla
    health = Monitor(slices, f, kept, fabric, settings)
    for step in stage.steps(start, s.steps):
        seed_step(settings.seed, step)
        members, epoch = slices.members_of_step(step, s.batch, balanced=True)
        for group in (*g_optimiser.param_groups, *d_optimiser.param_groups):
            group["lr"] = s.lr * (one_cycle(step, s.steps) if s.decay else 1.0)
        batch = slices.batch(here.share(members), epoch, regions=s.regions != "none")
        mirror = here.share(torch.rand(len(members)) < 0.5)
        x = images_to(fabric, mirrored(batch.image, mirror))
        regions = None if batch.regions is None else images_to(fabric, mirrored(batch.regions, mirror))
        if step % s.generator_every == 0:
            discriminator.requires_grad_(False)
            made = method.generate(x, g, f, s)
            terms = method.generator_losses(x, made, g, d, f, s, regions)
            g_step.zero_grad()
            fabric.backward(torch.stack(list(terms.values())).sum())
            average(generator.parameters())
            g_step.step()
            discriminator.requires_grad_(True)
            kept.update_parameters(generator)
            latest |= {name: term.detach() for name, term in terms.items()}
        else:
            with torch.no_grad():
                made = method.generate(x, g, f, s)
        if s.adversarial:
            loss = method.discriminator_loss(x, made, d)
            d_step.zero_grad()
            fabric.backward(loss)
            average(discriminator.parameters())
            d_step.step()
            latest["discriminator"] = loss.detach()
        due = stage.due(step + 1, settings.engine.checkpoint_every)
        logged = (step + 1) % LOG_EVERY == 0 or step + 1 == s.steps
        if logged or due:
            values = {name: value.item() for name, value in latest.items()}  # only here a GPU is waited for
            require_finite(values, step + 1, "coin.lr")
        if logged:
            known = means(values)
            stage.log(step + 1, known)
            report("coin", step + 1, s.steps, known)
        if (step + 1) % settings.engine.sample_every == 0 and here.is_main:
            facts = health.look(folder / "samples" / f"step_{step + 1:06d}.png")
            stage.log(step + 1, facts)
            report("coin", step + 1, s.steps, facts)
            for warning in health.warnings(facts) if 2 * (step + 1) >= s.steps else []:
                report(f"warning: {warning}", step + 1, s.steps, {})
        if due:
            stage.save(step + 1, "coin.lr", latest=latest, **{name: part.state_dict() for name, part in parts.items()})
    result = cast(Generator, kept.module)
    if not here.is_main:
        return result.eval()
    facts = health.look(folder / "samples" / "final.png", result)
    stage.finish(result, "generator.safetensors", "coin.lr", health=facts, warnings=health.warnings(facts))
    stage.close()
    return result.eval()


def choose_layer(store: SliceStore, f: nn.Module, settings: Settings, folder: Path) -> str | None:
    """The layer a CAM shall look at when `attribution.layer` is "best": chosen on training images f was told are abnormal.

    No lesion mask is used: the layer is the one whose maps, inserted and deleted pixel by pixel, move f the most
    (`attribution.best_layer`). It is written to layer.json with the scores of all layers. None where nothing is to choose.
    """
    if settings.method not in KINDS or settings.attribution.layer != "best":
        return None
    file, key = folder / "layer.json", result_key(store, settings, f)
    if file.exists() and (made := read_json(file)).get("key") == key:
        return str(made["layer"])
    slices = TrainingSlices(store, settings.anomaly, settings.seed)
    abnormal = np.flatnonzero(slices.labels() == 1)
    members = np.sort(np.random.default_rng([settings.seed, 5]).permutation(abnormal)[:LAYER_IMAGES])
    layer, scores = best_layer(settings.method, f, slices.batch(members).image, settings.attribution.batch)
    write_json(file, {"key": key, "layer": layer, "insertion_minus_deletion": scores})
    return layer


def mirrored(images: Tensor, mirror: Tensor) -> Tensor:
    """The images (B, C, H, W) that `mirror` (B,) bool names left-right mirrored, the others as they are."""
    return torch.where(mirror[:, None, None, None], images.flip(3), images)
