"""Prepared slices as batches: for training (images and image labels, nothing else) and for scoring (with masks)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from coinseg.config.schema import AnomalySettings
from coinseg.runtime.streams import Stream, random_stream

from .intensity import signed
from .split import LEFT_OUT, TRAINING
from .store import SliceStore
from .synthetic_anomaly import inject

SEED_OF_CLASS = 7919  # between the seeds of the batches of classes that are trained together
ROOM = 2  # images of each class that a batch needs room for: one with the class and one without
UNKNOWN = -1  # the label of a held-out slice that only its scan has a label for, and no mask decides


@dataclass(frozen=True)
class Batch:
    """What training sees: no lesion mask is among it."""

    image: Tensor  # (B, C, S, S) in [-1, 1]
    label: Tensor  # (B,) float, 0 normal or 1 abnormal; of K classes (B, K), NaN where it is not known
    regions: Tensor | None = None  # organ and background, (B, 2, S, S) of 0 and 1 (CARL of Singla et al.)
    asked: Tensor | None = None  # number of the class that each image was drawn for, (B,); None where there is one class


class TrainingSlices:
    """n slices of one side of the split without lesion masks; `rows` (n,) are those of the store, all indices positions in it.

    Args:
        store: the prepared slices.
        anomaly: the injected anomaly; with kind "none" the labels are those of the data.
        seed: of batches, and of the injected anomalies together with row and epoch.
        side: `TRAINING` or `VALIDATION`.
        also: rows of the store, whatever their side.
    """

    def __init__(
        self, store: SliceStore, anomaly: AnomalySettings, seed: int, side: int = TRAINING, also: Sequence[int] | np.ndarray = ()
    ) -> None:
        self.store, self.anomaly, self.seed, self.side = store, anomaly, seed, side
        self.rows = np.union1d(np.flatnonzero(store.index["split"] == side), np.asarray(also, dtype=np.int64))
        self._orders: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.rows)

    def _draw(self, indices: np.ndarray, epoch: int) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
        """Return images in [0, 1] (n, C, S, S), labels (n,) float32, and masks of the injected anomalies, if any."""
        rows = self.rows[indices]
        images, labels = self.store.unit(rows), self.store.index["label"][rows].astype(np.float32)
        if self.anomaly.kind == "none":
            return images, labels, []
        rngs = [random_stream(Stream.ANOMALY, self.seed, int(row), epoch if self.anomaly.redraw else 0) for row in rows]
        organs = [self.store.organs[row].astype(bool) for row in rows]
        drawn = [inject(image, organ, self.anomaly, rng) for image, organ, rng in zip(images, organs, rngs, strict=True)]
        masks = [mask for _, mask in drawn]
        return np.stack([image for image, _ in drawn]), np.array([m.any() for m in masks], dtype=np.float32), masks

    def with_rows(self, rows: np.ndarray) -> "TrainingSlices":
        """Return these slices and others of the same store, by their rows in it (m,)."""
        return TrainingSlices(self.store, self.anomaly, self.seed, self.side, np.union1d(self.rows, rows))

    def weak(self) -> np.ndarray:
        """Return which slices have only the label of their scan, (n,) bool."""
        return self.store.index["weak"][self.rows] == 1

    def batch(self, indices: np.ndarray, epoch: int = 0, regions: bool = False) -> Batch:
        """Return slices by their indices (B,), with the anomalies of an epoch; `regions` adds organ and background."""
        images, labels, _ = self._draw(indices, epoch)
        batch = Batch(torch.from_numpy(signed(images)), torch.from_numpy(labels))
        if not regions:
            return batch
        organ = torch.from_numpy(self.store.organs[self.rows[indices]].astype(np.float32))
        return replace(batch, regions=torch.stack([organ, 1 - organ], dim=1))

    def body(self, indices: np.ndarray) -> np.ndarray:
        """Return where the body is, (B, S, S) bool; see `SliceStore.body`."""
        return self.store.body(self.rows[indices])

    def labels(self, epoch: int = 0) -> np.ndarray:
        """Return the image labels of all slices, (n,) 0 or 1; injected anomalies are drawn once to know them."""
        if self.anomaly.kind == "none":
            return self.store.index["label"][self.rows]
        drawn, key = self.store.drawn, (self.anomaly, self.seed, self.side, epoch)
        if key not in drawn:
            chunks = np.array_split(np.arange(len(self)), max(1, len(self) // 256))
            drawn[key] = np.concatenate([self._draw(chunk, epoch)[1] for chunk in chunks]).astype(np.int64)
        return drawn[key]

    def balances(self, balanced: bool) -> bool:
        """Return whether batches are half abnormal: not with injected anomalies, whose share is a setting."""
        return balanced and self.anomaly.kind == "none"

    def indices_of_step(self, step: int, size: int, balanced: bool) -> tuple[np.ndarray, int]:
        """Return which slices a training step sees, (size,), a function of (seed, step) alone, and its epoch.

        Args:
            step: its number, from 0.
            size: slices of a batch.
            balanced: draw normal and abnormal slices equally often, where `balances`; else every epoch is a permutation.
        """
        epoch = step * size // len(self)
        if self.balances(balanced):
            rng = random_stream(Stream.BALANCED_BATCH, self.seed, step)
            half = [rng.choice(indices, (size + c) // 2) for c, indices in enumerate(self._classes)]
            return np.concatenate(half), epoch
        epochs, places = np.divmod(np.arange(step * size, (step + 1) * size), len(self))
        self._orders = {e: self._order(e) for e in np.unique(epochs).tolist()}
        return np.array([self._orders[e][p] for e, p in zip(epochs.tolist(), places.tolist(), strict=True)]), epoch

    @cached_property
    def _classes(self) -> list[np.ndarray]:
        labels = self.labels()
        return [np.flatnonzero(labels == c) for c in (0, 1)]

    def _order(self, epoch: int) -> np.ndarray:
        """Return the permutation of an epoch; those of the last step are kept."""
        kept = self._orders.get(epoch)
        return random_stream(Stream.EPOCH_ORDER, self.seed, epoch).permutation(len(self)) if kept is None else kept


def in_turns(classes: int, size: int) -> bool:
    """Return whether a batch of `size` images has no room for `ROOM` of each of several classes."""
    return classes > 1 and size < ROOM * classes


def turns(classes: int, size: int, step: int) -> list[tuple[int, int, int]]:
    """Return whose turn each image of a small batch is: the class, whether the image has it, 0 or 1, and how many it drew before.

    Steps go on where the last one ended, so that every class is drawn as often as any other, and as often with as without it.
    """
    places = range(step * size, (step + 1) * size)
    return [(at // ROOM % classes, at % ROOM, at // (ROOM * classes) * ROOM + at % ROOM) for at in places]


class JointSlices:
    """The slices of one side for the joint training of K classes, of which an image may have several.

    Every class draws its share of a batch, half of it images that have the class; where batches are too small for that, classes
    take turns. Arguments as in `TrainingSlices`; an index is (number of the class, row of the store).
    """

    def __init__(self, store: SliceStore, anomaly: AnomalySettings, seed: int, side: int = TRAINING) -> None:
        self.store = store
        seeds = [seed + SEED_OF_CLASS * number for number in range(len(store.views))]
        self.views = [TrainingSlices(view, anomaly, s, side) for view, s in zip(store.views, seeds, strict=True)]

    def indices_of_step(self, step: int, size: int, balanced: bool) -> tuple[np.ndarray, int]:
        """Return the indices of a training step, (size, 2), and the largest epoch; see `TrainingSlices.indices_of_step`."""
        if in_turns(len(self.views), size):
            return self._in_turns(step, size, balanced)
        chosen, epochs = [], []
        for number, view in enumerate(self.views):
            share = (size + len(self.views) - 1 - number) // len(self.views)
            indices, epoch = view.indices_of_step(step, share, balanced)
            chosen.append(np.stack([np.full(share, number), view.rows[indices]], axis=1))
            epochs.append(epoch)
        return np.concatenate(chosen), max(epochs)

    def _in_turns(self, step: int, size: int, balanced: bool) -> tuple[np.ndarray, int]:
        """The same of a batch without room for every class; without `balanced` an image has its class or not, as it comes."""
        chosen, epochs = [], []
        for number, label, before in turns(len(self.views), size, step):
            view = self.views[number]
            pair = view.balances(balanced)
            indices, epoch = view.indices_of_step(step, ROOM, True) if pair else view.indices_of_step(before, 1, False)
            chosen.append((number, view.rows[indices[label if pair else 0]]))
            epochs.append(epoch)
        return np.array(chosen, np.int64), max(epochs)

    def batch(self, indices: np.ndarray, epoch: int = 0, regions: bool = False) -> Batch:
        """Return slices by their indices (B, 2); `regions` adds organ and background."""
        asked, rows = indices.T
        indices_of = [view.store.index for view in self.views]
        labels = np.stack([index["label"][rows] for index in indices_of], axis=1).astype(np.float32)
        # Left out too where only the scan or image has the label.
        labels[np.stack([index["split"][rows] == LEFT_OUT for index in indices_of], axis=1) | (labels < 0)] = np.nan
        image = torch.from_numpy(signed(self.store.unit(rows)))
        batch = Batch(image, torch.from_numpy(labels), asked=torch.from_numpy(asked.copy()))
        if not regions:
            return batch
        organ = torch.from_numpy(self.store.organs[rows].astype(np.float32))
        return replace(batch, regions=torch.stack([organ, 1 - organ], dim=1))


def slices_of(store: SliceStore, anomaly: AnomalySettings, seed: int, side: int = TRAINING) -> TrainingSlices | JointSlices:
    """Return what networks are trained on: the slices of the only class, or of all together."""
    return TrainingSlices(store, anomaly, seed, side) if len(store.views) == 1 else JointSlices(store, anomaly, seed, side)


@dataclass(frozen=True)
class ScoredBatch:
    """What scoring sees."""

    rows: np.ndarray  # (B,) rows of the store
    image: Tensor  # (B, C, S, S) in [-1, 1]
    label: np.ndarray  # (B,) 0 or 1; of a weak slice that of its mask, `UNKNOWN` without one
    truth: np.ndarray  # (B, S, S) bool lesion masks
    known: np.ndarray  # (B,) whether the truth is known


class ScoredSlices(TrainingSlices):
    """The same slices with their lesion masks, for scoring. Anomalies are those of epoch 0, the same at every read."""

    def scored(self, indices: np.ndarray) -> ScoredBatch:
        """Return slices of this side, by their indices (B,), with their masks."""
        rows = self.rows[indices]
        images, labels, masks = self._draw(indices, epoch=0)
        injected = self.anomaly.kind != "none"
        truth = np.stack(masks) if injected else self.store.truth()[rows].astype(bool)
        known = np.ones(len(rows), bool) if injected else self.store.index["truth"][rows] == 1
        decided = np.where(known, self.store.index["lesion_px"][rows] > 0, UNKNOWN)
        labels = np.where(self.weak()[indices], decided, labels).astype(np.int64)
        image = torch.from_numpy(signed(images))
        return ScoredBatch(rows, image, labels, truth, known)
