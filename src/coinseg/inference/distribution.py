"""Is an image like those of the training? The distance of its features to their nearest neighbours among the training images.

    d(X) = mean distance of the standardised features of X to the `NEAREST` nearest features of training images
    out of distribution: d(X) > limit, which hardly a held-out image exceeds

(Sun et al. 2022, "Out-of-distribution detection with deep nearest neighbors", section 3.) The features are what the last layer of
f reads, mean over places, and shares of grey values and edges. f is asked anyway, so nothing is asked twice.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from coinseg.data.slices.dataset import TrainingSlices
from coinseg.networks.weights import load_weights
from coinseg.runtime.devices import CHUNK
from coinseg.runtime.forward import forward
from coinseg.runtime.process_group import current
from coinseg.runtime.stage import Stage

from .table import median

FOLDER, WEIGHTS = "distribution", "model.safetensors"
IMAGES = 400  # of either side that are looked at, at most, evenly spread
LEAST = 5  # images of either side without which there is no limit
NEAREST = 3  # neighbours whose distances are averaged
QUANTILE = 0.99  # of the distances of held-out images
SPREAD = 3.0  # standard deviations of their logarithms that the limit lies above their mean at least: they may be few
LOWEST = 0.25  # of the limit, in standard deviations of the training images: twins must not make everything foreign
GREYS = (-0.95, -0.5, 0.0, 0.5, 0.95)  # shares of pixels above these are features


@contextmanager
def features_of(f: nn.Module) -> Iterator[list[Tensor]]:
    """A list that fills with the features (B, C) that the last layer of f reads whenever f is asked; empty without a layer."""
    seen: list[Tensor] = []
    layers = [module for module in f.modules() if isinstance(module, nn.Linear | nn.Conv2d)]

    def keep(layer: nn.Module, given: tuple[Tensor, ...]) -> None:
        if given and given[0].ndim > 1:
            features = given[0].detach().float()
            places = (
                features.flatten(2)
                if isinstance(layer, nn.Conv2d)
                else features.reshape(len(features), -1, features.shape[-1]).mT
            )
            seen.append(places.mean(2))

    handle = layers[-1].register_forward_pre_hook(keep) if layers else None
    try:
        yield seen
    finally:
        if handle is not None:
            handle.remove()


def grey_features(x: Tensor) -> Tensor:
    """Shares of pixels above `GREYS`, and mean steps down and across, (B, 7), of images (B, C, S, S) in [-1, 1]."""
    shares = [(x > level).float().mean((1, 2, 3)) for level in GREYS]
    return torch.stack([*shares, *(x.diff(dim=axis).abs().mean((1, 2, 3)) for axis in (2, 3))], 1)


def joined(seen: list[Tensor], x: Tensor) -> Tensor | None:
    """All features (B, C) of images; None where f has no layer that reads one feature vector for each image."""
    return torch.cat([seen[-1], grey_features(x)], 1) if seen and len(seen[-1]) == len(x) else None


def of_places(distances: np.ndarray, places: np.ndarray, tiles: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return distinct places (p, 2), and the distance of each, (p,): of regions the farthest, of tiles the median; NaN unknown.

    Args:
        distances: of squares to the training images, (n,); NaN where unknown.
        places: of the squares, case and number of the slice, (n, 2).
        tiles: whether several squares of one place are tiles.
    """
    distinct, where = np.unique(places, axis=0, return_inverse=True)
    where = where.reshape(-1)
    found = np.full(len(distinct), np.nan)
    if not tiles:
        np.fmax.at(found, where, distances)
        return distinct, found
    order = np.argsort(where, kind="stable")
    for place, members in enumerate(np.split(order, np.flatnonzero(np.diff(where[order])) + 1)):
        known = distances[members][np.isfinite(distances[members])]
        found[place] = np.median(known) if len(known) else np.nan
    return distinct, found


def foreign(distances: np.ndarray, cases: np.ndarray, numbers: np.ndarray, tiles: bool = False) -> np.ndarray:
    """Return of which slices the case is unlike the training images, (n,) bool: where the median of its slices is above 1.

    Args:
        distances: of slices, or of their regions, to the training images, (n,); NaN where unknown.
        cases: whose they are, (n,).
        numbers: of the slices in their cases, (n,).
        tiles: see `of_places`.
    """
    names, of = np.unique(cases, return_inverse=True)
    places, apart = of_places(distances, np.stack([of, numbers], axis=1), tiles)
    return np.array([(median(apart[places[:, 0] == case]) or 0) > 1 for case in range(len(names))], bool)[of]


class Distribution(nn.Module):
    """Features (n, C) of training images, their `mean` and `scale` (C,), and the `limit` of distances, above 0."""

    def __init__(self, features: Tensor, mean: Tensor, scale: Tensor, limit: float = 1.0) -> None:
        super().__init__()
        self.features: Tensor
        self.mean: Tensor
        self.scale: Tensor
        self.limit: Tensor
        for name, value in {"features": features, "mean": mean, "scale": scale, "limit": torch.tensor(limit)}.items():
            self.register_buffer(name, value)

    @classmethod
    def fit(cls, training: Tensor, held_out: Tensor) -> Self:
        """From features (n, C) of training images and (m, C) of held-out ones; both kinds of features weigh the same."""
        greys = len(GREYS) + 2
        weights = torch.tensor([training.shape[1] - greys] * (training.shape[1] - greys) + [greys] * greys, dtype=torch.float32)
        scale = training.std(0)
        scale = scale.clamp(min=0.05 * float(scale.mean()) + 1e-6) * weights.sqrt()
        mean = training.mean(0)
        found = cls((training - mean) / scale, mean, scale)
        distances = found(held_out).clamp(min=1e-6)
        limit = max(float(distances.quantile(QUANTILE)), float((distances.log().mean() + SPREAD * distances.log().std()).exp()))
        found.limit.fill_(max(limit, LOWEST))
        return found

    def forward(self, features: Tensor) -> Tensor:
        """Distances (B,) of features (B, C), as shares of the limit: above 1 is out of distribution."""
        apart = torch.cdist((features - self.mean) / self.scale, self.features)
        return apart.topk(min(NEAREST, len(self.features)), largest=False).values.mean(1) / self.limit

    @classmethod
    def load(cls, root: Path) -> Self:
        """Read what was fitted for a run; `UserError` where the file does not fit."""
        path = root / FOLDER / WEIGHTS
        try:
            with safe_open(path, "pt") as file:
                count, channels = file.get_slice("features").get_shape()
        except (FileNotFoundError, SafetensorError, OSError, ValueError):
            count, channels = 0, 0  # `load_weights` says what is wrong
        found = cls(torch.zeros(count, channels), torch.zeros(channels), torch.ones(channels))
        load_weights(found, path, "record of training images")
        return found


def fit_distribution(
    f: nn.Module, training: TrainingSlices, held_out: TrainingSlices, device: torch.device, root: Path | None, key: str
) -> Distribution | None:
    """The distribution of the training images, kept in a folder of the run; None where f has no features, or images are few."""
    stage, found = Stage(None if root is None else root / FOLDER, key), None
    if not stage.finished():
        stage.resume()
        if stage.is_main:
            sides = [_features(f, slices, device) for slices in (training, held_out)]
            if kept := all(side is not None and len(side) >= LEAST and bool(side.isfinite().all()) for side in sides):
                found = Distribution.fit(*(side for side in sides if side is not None))
            stage.finish(found or nn.Module(), WEIGHTS, "classifier.lr", kept=kept, limit=found and found.limit.item())
        current().barrier()
    if root is None:
        return found
    return Distribution.load(root) if stage.facts()["kept"] else None


def _features(f: nn.Module, slices: TrainingSlices, device: torch.device) -> Tensor | None:
    """Features (n, C) of at most `IMAGES` images of one side."""
    chosen = np.unique(np.linspace(0, len(slices) - 1, min(len(slices), IMAGES)).astype(int))

    def look(x: Tensor) -> Tensor | None:
        with features_of(f) as seen:
            f(x)
        features = joined(seen, x)
        return None if features is None else features.cpu()

    parts = [
        part for i in range(0, len(chosen), CHUNK) for part in forward(look, slices.batch(chosen[i : i + CHUNK]).image, device)
    ]
    known = [part for part in parts if part is not None]
    return torch.cat(known) if known and len(known) == len(parts) else None
