"""Prepared slices as batches: for training (images and image labels, nothing else) and for scoring (with masks)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from coinseg.config.schema import AnomalySettings
from coinseg.runtime.streams import Stream, random_stream

from .intensity import signed
from .split import TRAINING
from .store import SliceStore
from .synthetic_anomaly import inject

UNKNOWN = -1
"""The label of a held-out slice that only its scan has a label for, and no mask decides."""


@dataclass(frozen=True)
class Batch:
    """What training sees.

    Args:
        image: (B, 1, size, size) in [-1, 1].
        label: (B,) float, 0 normal or 1 abnormal.
        regions: the organ and the background, (B, 2, size, size) of 0 and 1, only where they were asked for (CARL of
            Singla et al.). There is no lesion mask among them.
    """

    image: Tensor
    label: Tensor
    regions: Tensor | None = None


class TrainingSlices:
    """Images and image labels of one side of the split. Never opens a lesion mask.

    Args:
        store: the prepared slices.
        anomaly: the injected anomaly; its kind "none" uses the labels of the data.
        seed: with the row and the epoch it decides every injected anomaly.
        side: `TRAINING` or `VALIDATION`.
    """

    def __init__(self, store: SliceStore, anomaly: AnomalySettings, seed: int, side: int = TRAINING) -> None:
        self.store, self.anomaly, self.seed, self.side = store, anomaly, seed, side
        self.rows = np.flatnonzero(store.index["split"] == side)
        self._orders: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.rows)

    def _injected(self, image: np.ndarray, row: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        rng = random_stream(Stream.ANOMALY, self.seed, row, epoch)
        return inject(image, self.store.organs[row].astype(bool), self.anomaly, rng)

    def _draw(self, members: np.ndarray, epoch: int) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
        rows = self.rows[members]
        images, labels = self.store.unit(rows), self.store.index["label"][rows].astype(np.float32)
        if self.anomaly.kind == "none":
            return images, labels, []
        epoch = epoch if self.anomaly.redraw else 0
        drawn = [self._injected(image, int(row), epoch) for image, row in zip(images, rows, strict=True)]
        masks = [mask for _, mask in drawn]
        return np.stack([image for image, _ in drawn]), np.array([m.any() for m in masks], dtype=np.float32), masks

    def weak(self) -> np.ndarray:
        """Which slices have only the label of their scan, (n,) bool."""
        return self.store.index["weak"][self.rows] == 1

    def batch(self, members: np.ndarray, epoch: int = 0, regions: bool = False) -> Batch:
        """Slices by their position on this side; `epoch` redraws the injected anomalies."""
        images, labels, _ = self._draw(members, epoch)
        made = Batch(torch.from_numpy(signed(images))[:, None], torch.from_numpy(labels))
        if not regions:
            return made
        organ = torch.from_numpy(self.store.organs[self.rows[members]].astype(np.float32))
        return replace(made, regions=torch.stack([organ, 1 - organ], dim=1))

    def labels(self, epoch: int = 0) -> np.ndarray:
        """The image labels of all slices, (n,) 0 or 1; where anomalies are injected every image is read once to know them."""
        if self.anomaly.kind == "none":
            return self.store.index["label"][self.rows]
        drawn, key = self.store.drawn, (self.anomaly, self.seed, self.side, epoch)
        if key not in drawn:
            chunks = np.array_split(np.arange(len(self)), max(1, len(self) // 256))
            drawn[key] = np.concatenate([self._draw(chunk, epoch)[1] for chunk in chunks]).astype(np.int64)
        return drawn[key]

    def balances(self, balanced: bool) -> bool:
        """Whether the batches of `indices_of_step` are half abnormal."""
        return balanced and self.anomaly.kind == "none"

    def indices_of_step(self, step: int, size: int, balanced: bool) -> tuple[np.ndarray, int]:
        """Which slices step number `step` sees, and the epoch they belong to: a function of (seed, step) alone.

        Every epoch is a fresh permutation; `balanced` draws normal and abnormal equally often instead (not for
        injected anomalies, whose share is a setting).
        """
        epoch = step * size // len(self)
        if self.balances(balanced):
            rng = random_stream(Stream.BALANCED_BATCH, self.seed, step)
            half = [rng.choice(members, (size + c) // 2) for c, members in enumerate(self._classes)]
            return np.concatenate(half), epoch
        epochs, places = np.divmod(np.arange(step * size, (step + 1) * size), len(self))
        self._orders = {e: self._order(e) for e in np.unique(epochs).tolist()}
        return np.array([self._orders[e][p] for e, p in zip(epochs.tolist(), places.tolist(), strict=True)]), epoch

    @cached_property
    def _classes(self) -> list[np.ndarray]:
        """The positions of the normal and of the abnormal slices, found once: a step costs the same whatever the cohort."""
        labels = self.labels()
        return [np.flatnonzero(labels == c) for c in (0, 1)]

    def _order(self, epoch: int) -> np.ndarray:
        """The permutation of an epoch; those of the last step are kept."""
        kept = self._orders.get(epoch)
        return random_stream(Stream.EPOCH_ORDER, self.seed, epoch).permutation(len(self)) if kept is None else kept


@dataclass(frozen=True)
class ScoredBatch:
    """What scoring sees.

    Args:
        rows: rows of the store, (B,).
        image: (B, 1, size, size) in [-1, 1].
        label: (B,) 0 or 1; a weak slice has what its mask says, `UNKNOWN` without one.
        truth: (B, size, size) bool lesion masks.
        known: (B,) whether the truth is known.
    """

    rows: np.ndarray
    image: Tensor
    label: np.ndarray
    truth: np.ndarray
    known: np.ndarray


class ScoredSlices(TrainingSlices):
    """The same slices with their lesion masks, for scoring. Anomalies are those of epoch 0, the same at every read."""

    def scored(self, members: np.ndarray) -> ScoredBatch:
        """Slices by their position on this side, with their masks."""
        rows = self.rows[members]
        images, labels, masks = self._draw(members, epoch=0)
        injected = self.anomaly.kind != "none"
        truth = np.stack(masks) if injected else self.store.truth()[rows].astype(bool)
        known = np.ones(len(rows), bool) if injected else self.store.index["truth"][rows] == 1
        decided = np.where(known, self.store.index["lesion_px"][rows] > 0, UNKNOWN)
        labels = np.where(self.weak()[members], decided, labels).astype(np.int64)
        image = torch.from_numpy(signed(images))[:, None]
        return ScoredBatch(rows, image, labels, truth, known)
