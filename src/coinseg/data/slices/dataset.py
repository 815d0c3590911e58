"""Prepared slices as batches: for training (images and image labels, nothing else) and for scoring (with masks)."""

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
    """What training sees: no lesion mask is among it.

    Args:
        image: (B, 1, S, S) in [-1, 1].
        label: (B,) float, 0 normal or 1 abnormal.
        regions: the organ and the background, (B, 2, S, S) of 0 and 1, where they were asked for (CARL of Singla et al.).
    """

    image: Tensor
    label: Tensor
    regions: Tensor | None = None


class TrainingSlices:
    """Images and image labels of one side of the split. Never opens a lesion mask.

    Args:
        store: the prepared slices.
        anomaly: the injected anomaly; with kind "none" the labels are those of the data.
        seed: of batches, and of the injected anomalies together with row and epoch.
        side: `TRAINING` or `VALIDATION`.

    Attributes:
        rows: which rows of the store are on this side, (n,). All other indices are positions in it, 0 to n - 1.
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

    def _draw(self, indices: np.ndarray, epoch: int) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
        """Images in [0, 1] (n, S, S), labels (n,) float32, and masks of the injected anomalies, if any."""
        rows = self.rows[indices]
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

    def batch(self, indices: np.ndarray, epoch: int = 0, regions: bool = False) -> Batch:
        """Slices as a batch.

        Args:
            indices: which slices of this side, (B,).
            epoch: the anomalies of which epoch are injected.
            regions: also give organ and background.
        """
        images, labels, _ = self._draw(indices, epoch)
        batch = Batch(torch.from_numpy(signed(images))[:, None], torch.from_numpy(labels))
        if not regions:
            return batch
        organ = torch.from_numpy(self.store.organs[self.rows[indices]].astype(np.float32))
        return replace(batch, regions=torch.stack([organ, 1 - organ], dim=1))

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
        """Whether the batches of `indices_of_step` are half abnormal: not with injected anomalies, whose share is a setting."""
        return balanced and self.anomaly.kind == "none"

    def indices_of_step(self, step: int, size: int, balanced: bool) -> tuple[np.ndarray, int]:
        """Which slices a training step sees: a function of (seed, step) alone.

        Args:
            step: its number, from 0.
            size: slices of a batch.
            balanced: draw normal and abnormal slices equally often, where `balances`; else every epoch is a permutation.

        Returns:
            Indices (size,), and the epoch.
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
        image: (B, 1, S, S) in [-1, 1].
        label: (B,) 0 or 1; a weak slice has what its mask says, `UNKNOWN` without one.
        truth: (B, S, S) bool lesion masks.
        known: (B,) whether the truth is known.
    """

    rows: np.ndarray
    image: Tensor
    label: np.ndarray
    truth: np.ndarray
    known: np.ndarray


class ScoredSlices(TrainingSlices):
    """The same slices with their lesion masks, for scoring. Anomalies are those of epoch 0, the same at every read."""

    def scored(self, indices: np.ndarray) -> ScoredBatch:
        """Slices of this side, by their indices (B,), with their masks."""
        rows = self.rows[indices]
        images, labels, masks = self._draw(indices, epoch=0)
        injected = self.anomaly.kind != "none"
        truth = np.stack(masks) if injected else self.store.truth()[rows].astype(bool)
        known = np.ones(len(rows), bool) if injected else self.store.index["truth"][rows] == 1
        decided = np.where(known, self.store.index["lesion_px"][rows] > 0, UNKNOWN)
        labels = np.where(self.weak()[indices], decided, labels).astype(np.int64)
        image = torch.from_numpy(signed(images))[:, None]
        return ScoredBatch(rows, image, labels, truth, known)
