"""PatchCore: regions of an abnormal image that no normal image resembles are added to what the student marks.

Where a lesion is large, changing its edge is enough to turn f, and the rest stays unmarked. A memory bank of features of patches
of normal training images finds it (Roth et al. 2022, "Towards total recall in industrial anomaly detection", section 3); only
image labels are used. Measured in docs/research/patchcore.md, study 24.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor, nn

from coinseg.config.schema import Settings
from coinseg.errors import UserError
from coinseg.masks.student_maps import LEVEL
from coinseg.networks.imagenet import Encoder, load_imagenet
from coinseg.networks.weights import load_weights, shapes_in
from coinseg.runtime.devices import CHUNK, choose_device, to_device
from coinseg.runtime.forward import forward, forward_hflip
from coinseg.runtime.process_group import current
from coinseg.runtime.stage import Stage
from coinseg.runtime.streams import Stream, random_stream

from .base import Learning, Part, Views

SIDE = 384  # images are enlarged to this side; the last features of the encoder are then those of 12 x 12 patches
FEATURES = 320  # channels of the last features of the encoder
NEAREST = 3  # neighbours in the memory bank whose distances are averaged
BATCH = 8  # images in one forward pass: enlarged they take much memory
MEMORY = 5000  # patches in the memory bank, rounded up to as many of each image
IMAGES = 400  # normal images the patches come from, at most
ASKED = 200  # abnormal training images, at most, on which it is decided whether the part is worth its time
WORTH = 1 / 20  # share of them that must have a region to add; with fewer the regions are chance, and the part is not kept
HALO = 1 / 8  # how far around a lesion patches are anomalous because of it, as a share of the side
WIDE = 1 / 16  # radius of the disc that must fit into a region outside of the halo, as a share of the side
UNREACHABLE = 1e9  # a limit that no distance reaches


def distances(features: Tensor, bank: Tensor, barred: Tensor | None = None) -> Tensor:
    """Mean distance (m,) of features (m, C) to the `NEAREST` nearest of a bank (n, C); infinite where fewer count.

    Features of the bank that are `barred`, (m, n) bool, do not count for a feature.
    """
    squares = (features**2).sum(1, keepdim=True) + (bank**2).sum(1) - 2 * features @ bank.T
    if barred is not None:
        squares = squares.masked_fill(barred, torch.inf)
    return squares.topk(min(NEAREST, len(bank)), largest=False).values.clamp(min=0).sqrt().mean(1)


class MemoryBank(nn.Module):
    """Features (n, C) of patches of normal images, and the distance with the anomaly score 1, above 0."""

    def __init__(self, features: Tensor, limit: float) -> None:
        super().__init__()
        self.features: Tensor
        self.limit: Tensor
        self.register_buffer("features", features)
        self.register_buffer("limit", torch.tensor(limit))

    def forward(self, features: Tensor) -> Tensor:
        """Anomaly scores (B, h, w) of features (B, h, w, C)."""
        return (distances(features.flatten(0, 2), self.features) / self.limit).reshape(features.shape[:3])


class FeatureExtractor(nn.Module):
    """The frozen ImageNet encoder, its features averaged over 3 x 3 patches."""

    def __init__(self, channels: int = 1) -> None:
        super().__init__()
        self.encoder = load_imagenet(Encoder(channels)).eval().requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, h, w, C) of images (B, C, S, S) in [-1, 1]."""
        x = F.interpolate(x, (SIDE, SIDE), mode="bilinear", align_corners=False).contiguous(memory_format=torch.channels_last)
        return F.avg_pool2d(self.encoder(x)[-1], 3, 1, 1, count_include_pad=False).permute(0, 2, 3, 1)


class PatchCore(Part):
    """Adds anomalous regions to the student's maps. The anomaly score of a patch p is

        score(p) = mean distance of its feature to the `NEAREST` nearest features of the memory bank / limit

    and the limit is a quantile of the same distances of the bank's own patches, each to those of *other* patients.
    """

    name, folder, weights, onnx = "patchcore", "novelty", "model.safetensors", "novelty"
    rule = "; and wide regions unlike anything in normal images"

    def __init__(self, bank: MemoryBank, channels: int = 1) -> None:
        super().__init__()
        self.extractor, self.bank = FeatureExtractor(channels), bank

    def forward(self, x: Tensor) -> Tensor:
        """Anomaly scores of every pixel, (B, S, S), 0 and more, of images (B, C, S, S) in [-1, 1]; above 1 is anomalous."""
        return F.interpolate(self.bank(self.extractor(x))[:, None], x.shape[-2:], mode="bilinear", align_corners=False)[:, 0]

    @classmethod
    def asked_for(cls, settings: Settings) -> bool:
        return settings.student.patchcore_quantile > 0

    @classmethod
    def fit(cls, learning: Learning) -> Self | None:
        """Fill the memory bank, or load the one of the same key.

        None where the normal images are of fewer than two patients, so that none can be compared, or fewer than `WORTH` of the
        abnormal images have a region to add.
        """
        slices = learning.slices
        labels, patients = slices.labels(), slices.store.index["patient"][slices.rows]
        normals, abnormals = (np.flatnonzero(labels == label) for label in (0, 1))
        if len(set(patients[normals].tolist())) < 2 or not len(abnormals):
            return None
        stage, part = Stage(learning.folder(cls), learning.key), None
        if not stage.finished():
            stage.resume()
            if stage.is_main:
                part = cls._fill(learning, normals, abnormals, patients, stage)
            current().barrier()
        if not stage.facts(kept=bool)["kept"]:
            return None
        state = cls.of_channels(len(slices.store.channels))
        return cls.load(learning.settings, state, learning.root) if learning.root is not None else part

    @classmethod
    def _fill(cls, learning: Learning, normals: np.ndarray, abnormals: np.ndarray, patients: np.ndarray, stage: Stage) -> Self:
        """Fill the memory bank, count the images it adds regions to, and finish the stage."""
        rng = random_stream(Stream.PATCHCORE, learning.settings.seed)
        normals, abnormals = (rng.permutation(of)[:most] for of, most in ((normals, IMAGES), (abnormals, ASKED)))
        total = len(normals) + len(abnormals)
        bank = memory_bank(learning, normals, patients[normals], rng, total)
        part, regions = cls(bank, len(learning.slices.store.channels)), 0
        for images, scores in _forward(part, learning, abnormals, len(normals), total):
            regions += int(beyond(scores.numpy() > 1, learning.segment(images)).any((1, 2)).sum())
        share = round(regions / len(abnormals), 4)
        facts = {"places": len(bank.features), "limit": bank.limit.item(), "share": share, "kept": share >= WORTH}
        stage.finish(bank, cls.weights or "", "student.patchcore_quantile", **facts)
        return part

    @classmethod
    def load(cls, settings: Settings, state: dict[str, Any], root: Path) -> Self:
        """Read the memory bank; the encoder's weights come with coinseg."""
        path = root / cls.folder / "model.safetensors"
        shape = shapes_in(path, "memory of normal images").get("features", ())
        patches = shape[0] if shape else 0  # `load_weights` says what is wrong
        bank = MemoryBank(torch.zeros(patches, FEATURES), 1.0)
        load_weights(bank, path, "memory of normal images")
        if not (patches and bank.limit > 0):
            raise UserError(f"{path} remembers nothing", "a memory of normal images with a limit above 0", "train it again")
        return cls(bank, state.get("channels", 1))

    def state(self) -> dict[str, Any]:
        return self.of_channels(self.extractor.encoder.conv_stem.in_channels)

    def add(self, views: Views, device: torch.device) -> None:
        """Add the anomalous regions of images that are called abnormal."""
        if not (called := views.called).any():
            return
        own, other = forward_hflip(self, views.images[called], device, SIDE, BATCH)
        for maps, scores in zip((views.mean, views.own, views.other), ((own + other) / 2, own, other), strict=True):
            maps[called] = add_anomalous_regions(maps[called], scores, LEVEL)


def beyond(anomalous: np.ndarray, marked: np.ndarray) -> np.ndarray:
    """Connected anomalous regions that go well beyond the halo of what is marked; a feature has a wide field of view.

    A disc of radius `WIDE` must fit into them farther than `HALO` from a mark. It must also fit into the image, because the halo
    between a small lesion and a corner would seem wide. Both arrays are (B, S, S) bool, `marked` is what the student marks.
    """
    kept, (halo, radius) = np.zeros_like(anomalous), (round(share * anomalous.shape[-1]) for share in (HALO, WIDE))
    for result, region, mask in zip(kept, anomalous, marked, strict=True):
        if not region.any():
            continue
        rest = region & (ndimage.distance_transform_edt(~mask) > halo if mask.any() else True)
        seeds = ndimage.distance_transform_edt(np.pad(rest, 1))[1:-1, 1:-1] > radius
        labels = ndimage.label(region, np.ones((3, 3), bool))[0]
        result |= region & np.isin(labels, labels[seeds])
    return kept


def add_anomalous_regions(maps: np.ndarray, scores: np.ndarray, level: float) -> np.ndarray:
    """Maps (B, S, S) in [0, 1] of a student with the anomalous regions that go beyond what it marks; nowhere below `maps`.

    Args:
        maps: (B, S, S) in [0, 1].
        scores: anomaly scores of the same images, (B, S, S).
        level: what a pixel inside exceeds.
    """
    regions = beyond(scores > 1, maps > level)
    return np.maximum(maps, np.where(regions, np.clip(level * scores, 0, 1), 0)).astype(maps.dtype)


def _forward(
    network: nn.Module, learning: Learning, indices: np.ndarray, done: int, total: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Images, a chunk at a time, and what a network gives for them; `done` of `total` images come before them."""
    device = choose_device(learning.settings.engine)
    to_device(network, device)
    for start in range(0, len(indices), CHUNK):
        images = learning.slices.batch(indices[start : start + CHUNK]).image
        yield images, torch.cat([part.cpu() for part in forward(network, images, device, SIDE, BATCH)])
        learning.report("novelty", done + min(start + CHUNK, len(indices)), total, {})


def memory_bank(
    learning: Learning, indices: np.ndarray, patients: np.ndarray, rng: np.random.Generator, total: int
) -> MemoryBank:
    """A memory bank of random patches, as many of each image, `MEMORY` together, and its limit."""
    each = -(-MEMORY // len(indices))
    patches = [
        features[torch.from_numpy(rng.permutation(len(features))[:each])]
        for _, batch in _forward(FeatureExtractor(len(learning.slices.store.channels)), learning, indices, 0, total)
        for features in batch.flatten(1, 2)
    ]
    features = torch.cat(patches)
    owners = torch.from_numpy(np.unique(patients, return_inverse=True)[1]).repeat_interleave(len(patches[0]))
    parts = torch.arange(len(features)).split(1000)
    far = torch.cat([distances(features[part], features, owners[part][:, None] == owners[None]) for part in parts])
    known = far[far.isfinite()]  # none where all patches are of one patient: then nothing is anomalous
    limit = float(np.quantile(known.numpy(), learning.settings.student.patchcore_quantile)) if len(known) else UNREACHABLE
    return MemoryBank(features, max(limit, 1e-6))
