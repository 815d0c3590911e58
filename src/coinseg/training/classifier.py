"""Training of the classifier f on image labels, and its scores on held-out slices."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor, nn

from coinseg.config.schema import Settings
from coinseg.data.slices.dataset import UNKNOWN, TrainingSlices, slices_of
from coinseg.data.slices.split import VALIDATION
from coinseg.data.slices.store import SliceStore
from coinseg.errors import UserError, memory_for
from coinseg.metrics.overlap import classification_scores, mean_scores, scan_scores
from coinseg.networks.classes import ClassLogit
from coinseg.networks.classifier import Classifier, build, probabilities
from coinseg.networks.weights import load_weights
from coinseg.runtime.batching import map_batched
from coinseg.runtime.devices import CHUNK, compiled, images_to, make_fabric, to_device
from coinseg.runtime.distributed import augmented, over_whole_batch, require_parts
from coinseg.runtime.files import damaged
from coinseg.runtime.process_group import current
from coinseg.runtime.stage import Report, Stage, silent
from coinseg.runtime.streams import Stream, seed_step

from .augmentation import augmentation
from .keys import DEFAULT_THRESHOLD, classifier_key
from .loop import descend, fit

WEIGHTS = "model.safetensors"


@memory_for("classifier.batch")
def train_classifier(store: SliceStore, settings: Settings, folder: Path | None = None, report: Report = silent) -> Classifier:
    """Train f on image labels, or load it where it was trained on the same data with the same settings.

    f is returned frozen: images (B, C, S, S) in [-1, 1] -> logits (B,), above 0 abnormal; of K classes (B, K).

    Args:
        store: the prepared slices, or a `Dataset` of arrays; only images and labels are read.
        settings: seed, anomaly, classifier and engine are read.
        folder: receives model.safetensors, stage.json with the scores on held-out slices, stats.jsonl; None writes nothing.
        report: progress.
    """
    stage = Stage(folder, classifier_key(store, settings), settings.engine.logger)
    seed_step(settings.seed, Stream.CLASSIFIER_WEIGHTS)
    channels, classes = len(store.channels), len(store.views)
    # A trained f does not need what it was trained from.
    f = build(replace(settings.classifier, weights=None) if stage.finished() else settings.classifier, channels, classes)
    f.require_usable(store.size, settings.classifier.steps > 0 or settings.method != "rise", channels)
    s, rank = settings.classifier, current().here
    if stage.finished():
        load_weights(f, stage.file(WEIGHTS), "classifier")
        # The threshold trains nothing: with another one than before f is only scored again.
        if stage.facts().get("accuracy_threshold", DEFAULT_THRESHOLD) != s.threshold:
            stage.amend(**_scores(f, store, settings))
        return f.frozen()
    if not any(p.requires_grad for p in f.parameters()):
        got = f"no weight of the classifier {s.name} learns (requires_grad is False for all)"
        raise UserError(got, "weights to train", "let some have gradients: those that are not to change may stay as they are")
    fabric = make_fabric(settings.engine)
    require_parts(s.batch, "classifier.batch")
    slices = slices_of(store, settings.anomaly, settings.seed)
    to_device(f, fabric)
    optimiser = torch.optim.AdamW(f.parameters(), lr=s.lr, betas=(s.beta1, s.beta2), weight_decay=s.weight_decay)
    network, wrapped = fabric.setup(compiled(f, settings.engine), optimiser)
    network.train()
    network, augment = over_whole_batch(network), augmentation(s)

    def step(number: int) -> dict[str, Tensor]:
        indices, epoch = slices.indices_of_step(number, s.batch, s.balanced)
        batch = slices.batch(rank.share(indices), epoch)
        logits = network(images_to(fabric, augmented(augment, batch.image)))
        loss = label_loss(logits, batch.label.to(fabric.device))
        descend(fabric, wrapped, loss, f.parameters())
        return {"loss": loss}

    fit("classifier", stage, {"f": f, "optimiser": optimiser}, step, settings, report)
    stage.finish(f.frozen(), WEIGHTS, "classifier.lr", model=s.name, **_scores(f, store, settings))
    return f


def label_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy of logits and labels, (B,) or (B, K), the mean over the labels that are not NaN."""
    if labels.ndim == 1:
        return F.binary_cross_entropy_with_logits(logits, labels)
    known = ~labels.isnan()
    return F.binary_cross_entropy_with_logits(logits[known], labels[known])


def _scores(f: Classifier, store: SliceStore, settings: Settings) -> dict[str, Any]:
    """What stage.json has of the scores on held-out slices."""
    fabric, threshold = make_fabric(settings.engine), settings.classifier.threshold
    to_device(f.frozen(), fabric)
    each = []
    for number, view in enumerate(store.views):
        slices = TrainingSlices(view, settings.anomaly, settings.seed, VALIDATION)
        each.append(score_classifier(f if len(store.views) == 1 else ClassLogit(f, number), slices, fabric, threshold))
    if len(each) == 1:
        return {"scores": each[0], "accuracy_threshold": threshold}
    classes = dict(zip(store.classes, each, strict=True))
    return {"scores": mean_scores(each), "classes": classes, "accuracy_threshold": threshold}


def scores_kept(folder: Path, number: int | None = None) -> dict[str, Any]:
    """The scores in stage.json of a folder, of several classes those of class `number`: names of classes may be corrected."""
    stage, kind = Stage(folder, ""), {"auroc": float | None, "auroc_scans": float | None}
    if number is None:
        return dict(stage.facts(scores=kind)["scores"])
    scores = list(stage.facts(classes=dict[str, dict[str, float | None]])["classes"].values())
    if number >= len(scores):
        raise damaged(stage.file("stage.json"), "it has no scores of every class")
    return dict(scores[number])


def predict(f: nn.Module, slices: TrainingSlices, indices: np.ndarray, fabric: Fabric) -> tuple[np.ndarray, np.ndarray]:
    """f(X) in [0, 1], (n,) float32, and labels, (n,) int64, of slices, with the anomalies of epoch 0; processes share the work.

    Args:
        f: images -> logits.
        slices: one side of the split.
        indices: which of them, (n,).
        fabric: the device.
    """
    rank = current().here
    shared = rank.share(indices)
    part = np.zeros((2, len(shared)), np.float32)
    for start in range(0, len(shared), CHUNK):
        chunk = slice(start, start + CHUNK)
        batch = slices.batch(shared[chunk])
        found = map_batched(lambda images: probabilities(f, images_to(fabric, images)).cpu().numpy(), batch.image)
        part[:, chunk] = np.concatenate(found), batch.label.numpy()
    whole = np.zeros((2, len(indices)), np.float32)
    for number, values in enumerate(current().all_gather(part)):
        whole[:, number :: rank.count] = values
    return whole[0], whole[1].astype(np.int64)


def score_classifier(f: nn.Module, slices: TrainingSlices, fabric: Fabric, threshold: float) -> dict[str, float | None]:
    """AUROC, accuracy and calibration error over slices with a label of their own, and AUROC over scans; None where undefined.

    Args:
        f: images -> logits.
        slices: one side of the split.
        fabric: the device.
        threshold: f(X) from which an image counts as abnormal, for the accuracy.
    """
    probability, labels = predict(f, slices, np.arange(len(slices)), fabric)
    by_slice = classification_scores(probability, np.where(slices.weak(), UNKNOWN, labels), threshold)
    return by_slice | scan_scores(probability, labels, slices.store.index["series"][slices.rows])
