"""The two training loops: the classifier f, then COIN. `--dry-run` and everything around them is elsewhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import nn

from coinseg.config.schema import Settings
from coinseg.data.slices.dataset import UNKNOWN, TrainingSlices
from coinseg.data.slices.split import VALIDATION
from coinseg.data.slices.store import SliceStore
from coinseg.errors import memory_for
from coinseg.metrics.overlap import classification_scores, scan_scores
from coinseg.networks.classifier import Classifier, build, probabilities
from coinseg.networks.weights import load_weights
from coinseg.runtime.batching import map_batched
from coinseg.runtime.devices import CHUNK, compiled, images_to, make_fabric, to_device
from coinseg.runtime.distributed import augmented, average, means, over_whole_batch, require_parts
from coinseg.runtime.process_group import current
from coinseg.runtime.stage import Report, Stage, require_finite, silent
from coinseg.runtime.streams import Stream, seed_step

from .augmentation import augmentation
from .keys import classifier_key
from .schedule import one_cycle

LOG_EVERY = 10


def in_chunks(slices: TrainingSlices, members: np.ndarray) -> list[np.ndarray]:
    """Positions in groups of at most `CHUNK`."""
    return [members[i : i + CHUNK] for i in range(0, len(members), CHUNK)]


# --- the classifier -----------------------------------------------------------------------------------------------


@memory_for("classifier.batch")
def train_classifier(store: SliceStore, settings: Settings, folder: Path, report: Report = silent) -> Classifier:
    """Train f on image labels, or load it when it is already there for this very data and settings.

    Args:
        store: the prepared slices; only images and labels are read.
        settings: seed, anomaly, classifier and engine are read.
        folder: receives model.safetensors, stage.json with the scores on validation patients, stats.jsonl.
        report: progress.

    Returns:
        f, frozen.
    """
    stage = Stage(folder, classifier_key(store, settings), settings.engine.tensorboard)
    seed_step(settings.seed, Stream.CLASSIFIER_WEIGHTS)
    f = build(settings.classifier)
    if stage.finished():
        load_weights(f, folder / "model.safetensors", "classifier")
        return f.frozen()
    s, fabric, here = settings.classifier, make_fabric(settings.engine), current().here
    require_parts(s.batch, "classifier.batch")
    slices = TrainingSlices(store, settings.anomaly, settings.seed)
    to_device(f, fabric)
    optimiser = torch.optim.AdamW(f.parameters(), lr=s.lr, weight_decay=s.weight_decay)
    network, wrapped = fabric.setup(compiled(f, settings.engine), optimiser)
    augment, start = augmentation(s), 0
    if state := stage.resume():
        f.load_state_dict(state["f"])
        optimiser.load_state_dict(state["optimiser"])
        start = state["step"]
    network.train()
    network = over_whole_batch(network)
    for step in stage.steps(start, s.steps):
        seed_step(settings.seed, step)
        for group in optimiser.param_groups:
            group["lr"] = s.lr * one_cycle(step, s.steps)
        members, epoch = slices.members_of_step(step, s.batch, s.balanced)
        batch = slices.batch(here.share(members), epoch)
        logits = network(images_to(fabric, augmented(augment, batch.image)))
        loss = F.binary_cross_entropy_with_logits(logits, batch.label.to(fabric.device))
        wrapped.zero_grad()
        fabric.backward(loss)
        average(f.parameters())
        wrapped.step()
        if (step + 1) % LOG_EVERY == 0 or step + 1 == s.steps:
            values = means({"loss": loss.item()})
            require_finite(values, step + 1, "classifier.lr")
            stage.log(step + 1, values)
            report("classifier", step + 1, s.steps, values)
        if stage.due(step + 1, settings.engine.checkpoint_every):
            stage.save(step + 1, "classifier.lr", f=f.state_dict(), optimiser=optimiser.state_dict())
    f.frozen()
    held = TrainingSlices(store, settings.anomaly, settings.seed, VALIDATION)
    stage.finish(f, "model.safetensors", "classifier.lr", scores=score_classifier(f, held, fabric, s.threshold), model=s.name)
    stage.close()
    return f


def predict(f: nn.Module, slices: TrainingSlices, members: np.ndarray, fabric: Fabric) -> tuple[np.ndarray, np.ndarray]:
    """f(X) and the image label for slices by position, as first drawn (epoch 0); several processes share the slices."""
    here = current().here
    own = np.zeros((2, len(here.share(members))), np.float32)
    for chunk in in_chunks(slices, np.arange(own.shape[1])):
        batch = slices.batch(here.share(members)[chunk])
        asked = map_batched(lambda part: probabilities(f, images_to(fabric, part)).cpu().numpy(), batch.image)
        own[:, chunk] = np.concatenate(asked), batch.label.numpy()
    found = np.zeros((2, len(members)), np.float32)
    for rank, part in enumerate(current().all_gather(own)):
        found[:, rank :: here.count] = part
    return found[0], found[1].astype(np.int64)


def score_classifier(f: nn.Module, slices: TrainingSlices, fabric: Fabric, threshold: float) -> dict[str, float | None]:
    """AUROC, accuracy and calibration on one side of the split, without its weak slices, and AUROC over its scans."""
    found, labels = predict(f, slices, np.arange(len(slices)), fabric)
    own = classification_scores(found, np.where(slices.weak(), UNKNOWN, labels), threshold)
    return own | scan_scores(found, labels, slices.store.index["series"][slices.rows])


# --- COIN ---------------------------------------------------------------------------------------------------------
