"""What no normal image has anything like: the rest of a large lesion, which the least change does not need.

Where something is wrong with a third of an image, mending its most telling edge is enough for f; the counterfactual leaves the rest,
and so does a student of such masks. The normal images know better: nothing in them is like it. Of places in normal training images the
features that ImageNet taught (`pretrained.py`) are remembered, and a place of another image is as novel as it is far from all of them:

    novelty(p) = mean distance of its feature to the `NEAREST` nearest remembered ones / limit

(PatchCore: Roth et al. 2022, "Towards total recall in industrial anomaly detection", section 3). The limit is a quantile of the distances
of the remembered places themselves, each to those of *other* patients: image labels are all it knows. A feature sees far, so
a small lesion has a halo of novelty: only regions count that go well beyond what the student draws (`beyond`). What it is worth is in docs/decisions/0024-novelty.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from scipy import ndimage
from torch import Tensor, nn

from .classifier import load_weights
from .config import Settings
from .data.sampling import TrainingSlices
from .engine import CHUNK, Report, Stage, images_to, make_fabric, silent, to_device
from .errors import UserError
from .memory import by_parts
from .pretrained import encoder, teach
from .processes import current

SIDE = 384
"""Images are enlarged to this side, where the last features of the encoder are those of 12 x 12 places."""
MEMORY = 5000
"""Places that are remembered, rounded up to as many of each image."""
IMAGES = 400
"""Normal images they are from, at most."""
FEATURES = 320
"""Numbers of the last features of the encoder at each place."""
NEAREST = 3
"""Remembered places a distance is the mean over."""
AT_ONCE = 8
"""Images that are asked about together: enlarged they are many times what they were."""
HALO = 1 / 8
"""How far around a lesion places are novel because of it, as a share of the side."""
WIDE = 1 / 16
"""Radius of the disc that has to fit into a region outside of that, as a share of the side."""
ASKED = 200
"""Abnormal training images that are asked, at most, whether it is worth while."""
WORTH = 1 / 20
"""Share of them that has to have such a region; elsewhere the few there are would be chance, and asking costs time."""
SQUARE = np.ones((3, 3), bool)
NOWHERE = 1e9
"""A limit that no distance reaches."""
Drawn = Callable[[Tensor], np.ndarray]
"""Images (B, 1, S, S) in [-1, 1] -> masks (B, S, S) bool of the student alone."""


def distances(features: Tensor, remembered: Tensor, barred: Tensor | None = None) -> Tensor:
    """The mean distance to the `NEAREST` nearest remembered features.

    Args:
        features: (m, C).
        remembered: (n, C).
        barred: (m, n) bool, remembered ones that do not count for a feature.

    Returns:
        (m,); infinite where fewer than `NEAREST` count.
    """
    squares = (features**2).sum(1, keepdim=True) + (remembered**2).sum(1) - 2 * features @ remembered.T
    if barred is not None:
        squares = squares.masked_fill(barred, torch.inf)
    return squares.topk(min(NEAREST, len(remembered)), largest=False).values.clamp(min=0).sqrt().mean(1)


class Memory(nn.Module):
    """Features of places in normal images, and how far from them others of other patients are.

    Args:
        features: (n, C).
        limit: the distance that is a novelty of 1, above 0.
    """

    def __init__(self, features: Tensor, limit: float) -> None:
        super().__init__()
        self.features: Tensor
        self.limit: Tensor
        self.register_buffer("features", features)
        self.register_buffer("limit", torch.tensor(limit))

    def forward(self, features: Tensor) -> Tensor:
        """Novelty of the places of features (B, h, w, C), (B, h, w)."""
        return (distances(features.flatten(0, 2), self.features) / self.limit).reshape(features.shape[:3])


class Eye(nn.Module):
    """Images as ImageNet's features see them, place by place; it is not trained."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = teach(encoder()).eval().requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, h, w, C) of images (B, 1, S, S) in [-1, 1], each the mean over the 3 x 3 places around it."""
        x = F.interpolate(x, (SIDE, SIDE), mode="bilinear", align_corners=False).contiguous(memory_format=torch.channels_last)
        return F.avg_pool2d(self.encoder(x)[-1], 3, 1, 1, count_include_pad=False).permute(0, 2, 3, 1)


class Novelty(nn.Module):
    """The equation above.

    Args:
        memory: of the normal training images.
    """

    def __init__(self, memory: Memory) -> None:
        super().__init__()
        self.eye, self.memory = Eye(), memory

    def forward(self, x: Tensor) -> Tensor:
        """The novelty of every pixel, (B, S, S), 0 and more, of images (B, 1, S, S) in [-1, 1]; above 1 is novel."""
        return F.interpolate(self.memory(self.eye(x))[:, None], x.shape[-2:], mode="bilinear", align_corners=False)[:, 0]


def beyond(novel: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """The connected novel regions that are more than the halo of what is drawn: a disc of `WIDE` fits in further than `HALO` from it.

    Args:
        novel: (B, S, S) bool. The disc has to fit into the image: between a small lesion and a corner its halo would seem wide.
        drawn: (B, S, S) bool, what the student marks.
    """
    kept, (halo, radius) = np.zeros_like(novel), (round(share * novel.shape[-1]) for share in (HALO, WIDE))
    for own, region, marked in zip(kept, novel, drawn, strict=True):
        if not region.any():
            continue
        rest = region & (ndimage.distance_transform_edt(~marked) > halo if marked.any() else True)
        seeds = ndimage.distance_transform_edt(np.pad(rest, 1))[1:-1, 1:-1] > radius
        labels = ndimage.label(region, SQUARE)[0]
        own |= region & np.isin(labels, np.unique(labels[seeds]))
    return kept


def with_novel(maps: np.ndarray, novelty: np.ndarray, level: float) -> np.ndarray:
    """Maps of a student with the novel regions drawn in that go beyond what it marks.

    Args:
        maps: (B, S, S) in [0, 1].
        novelty: of the same images, (B, S, S).
        level: what a pixel inside exceeds.

    Returns:
        (B, S, S) in [0, 1], nowhere below `maps`.
    """
    regions = beyond(novelty > 1, maps > level)
    return np.maximum(maps, np.where(regions, np.clip(level * novelty, 0, 1), 0)).astype(maps.dtype)


def remember(
    slices: TrainingSlices, drawn: Drawn, settings: Settings, key: str, folder: Path, report: Report = silent
) -> Novelty | None:
    """Remember the normal training images, or load what was remembered of the same.

    Args:
        slices: of the training side; images, image labels and patients are read.
        drawn: what the student marks, see `Drawn`.
        settings: seed, engine and `student.novelty` are read.
        key: of everything that what the student marks depends on, and of `student.novelty`.
        folder: receives model.safetensors and stage.json.
        report: progress.

    Returns:
        None where `student.novelty` is 0, the normal images are of fewer than two patients, whom nobody could be compared with, or fewer than
        `WORTH` of the abnormal ones have a region that goes beyond what the student marks.
    """
    labels, patients = slices.labels(), slices.store.index["patient"][slices.rows]
    normals, abnormals = (np.flatnonzero(labels == label) for label in (0, 1))
    if not settings.student.novelty or len(set(patients[normals].tolist())) < 2 or not len(abnormals):
        return None
    stage, file = Stage(folder, key), folder / "model.safetensors"
    if not stage.finished():
        stage.resume()
        if stage.first:
            rng = np.random.default_rng([settings.seed, 8])
            asked = [rng.permutation(of)[:most] for of, most in ((normals, IMAGES), (abnormals, ASKED))]
            total = sum(map(len, asked))

            def told(done: int) -> None:
                report("novelty", done, total, {})

            memory = _remembered(slices, asked[0], patients[asked[0]], settings, rng, told)
            share = _share(slices, asked[1], Novelty(memory), drawn, settings, lambda done: told(len(asked[0]) + done))
            facts = {"places": len(memory.features), "limit": memory.limit.item(), "share": share, "kept": share >= WORTH}
            stage.finish(memory, file.name, "student.novelty", **facts)
        current().wait()
    return load_novelty(file) if stage.facts()["kept"] else None


def _said(
    network: nn.Module, slices: TrainingSlices, members: np.ndarray, settings: Settings, told: Callable[[int], None]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Images, a chunk at a time, and what a network says of them."""
    fabric = make_fabric(settings.engine)
    to_device(network, fabric)
    for start in range(0, len(members), CHUNK):
        images = slices.batch(members[start : start + CHUNK]).image
        with torch.no_grad():
            parts = by_parts(lambda part: network(images_to(fabric, part)).cpu(), images, AT_ONCE)
        yield images, torch.cat(parts)
        told(min(start + CHUNK, len(members)))


def _remembered(
    slices: TrainingSlices,
    members: np.ndarray,
    patients: np.ndarray,
    settings: Settings,
    rng: np.random.Generator,
    told: Callable[[int], None],
) -> Memory:
    """As many places of each of the images as together are `MEMORY`, drawn at random, and the limit they give."""
    each = -(-MEMORY // len(members))
    found = [
        own[torch.from_numpy(rng.permutation(len(own))[:each])]
        for _, seen in _said(Eye(), slices, members, settings, told)
        for own in seen.flatten(1, 2)
    ]
    features = torch.cat(found)
    whose = torch.from_numpy(np.unique(patients, return_inverse=True)[1]).repeat_interleave(len(found[0]))
    parts = torch.arange(len(features)).split(1000)
    far = torch.cat([distances(features[part], features, whose[part][:, None] == whose[None]) for part in parts])
    known = far[far.isfinite()]  # none where all that were drawn are of one patient: then nothing is novel
    limit = float(np.quantile(known.numpy(), settings.student.novelty)) if len(known) else NOWHERE
    return Memory(features, max(limit, 1e-6))


def _share(
    slices: TrainingSlices,
    members: np.ndarray,
    novelty: Novelty,
    drawn: Drawn,
    settings: Settings,
    told: Callable[[int], None],
) -> float:
    """Of which share of the images a region goes beyond what the student marks."""
    said = _said(novelty, slices, members, settings, told)
    return round(sum(int(beyond(far.numpy() > 1, drawn(images)).any((1, 2)).sum()) for images, far in said) / len(members), 4)


def load_novelty(path: Path) -> Novelty:
    """What `remember` wrote, ready to be asked; `UserError` where the file is another's."""
    try:
        with safe_open(path, "pt") as file:
            places = file.get_slice("features").get_shape()[0]
    except (FileNotFoundError, SafetensorError, OSError, IndexError):
        places = 0  # `load_weights` says what is wrong
    memory = Memory(torch.zeros(places, FEATURES), 1.0)
    load_weights(memory, path, "memory of normal images")
    if not (places and memory.limit > 0):
        raise UserError(f"{path} remembers nothing", "a memory of normal images with a limit above 0", "train it again")
    return Novelty(memory).eval()
