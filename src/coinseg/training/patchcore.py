"""Fitting the memory bank of normal patches, and whether it is worth asking."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from coinseg.config.schema import Settings
from coinseg.data.slices.dataset import TrainingSlices
from coinseg.masks.student_maps import beyond
from coinseg.networks.patchcore import AT_ONCE, FeatureExtractor, MemoryBank, PatchCore, distances, load_patchcore
from coinseg.runtime.batching import map_batched
from coinseg.runtime.devices import CHUNK, images_to, make_fabric, to_device
from coinseg.runtime.process_group import current
from coinseg.runtime.stage import Report, Stage, silent
from coinseg.runtime.streams import Stream, random_stream

MEMORY = 5000
"""Places that are remembered, rounded up to as many of each image."""
IMAGES = 400
"""Normal images they are from, at most."""
ASKED = 200
"""Abnormal training images that are asked, at most, whether it is worth while."""
WORTH = 1 / 20
"""Share of them that has to have such a region; elsewhere the few there are would be chance, and asking costs time."""
NOWHERE = 1e9
"""A limit that no distance reaches."""
Drawn = Callable[[Tensor], np.ndarray]
"""Images (B, 1, S, S) in [-1, 1] -> masks (B, S, S) bool of the student alone."""


def fit_patchcore(
    slices: TrainingSlices, drawn: Drawn, settings: Settings, key: str, folder: Path, report: Report = silent
) -> PatchCore | None:
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
        if stage.is_main:
            rng = random_stream(Stream.PATCHCORE, settings.seed)
            asked = [rng.permutation(of)[:most] for of, most in ((normals, IMAGES), (abnormals, ASKED))]
            total = sum(map(len, asked))

            def told(done: int) -> None:
                report("novelty", done, total, {})

            memory = _remembered(slices, asked[0], patients[asked[0]], settings, rng, told)
            share = _share(slices, asked[1], PatchCore(memory), drawn, settings, lambda done: told(len(asked[0]) + done))
            facts = {"places": len(memory.features), "limit": memory.limit.item(), "share": share, "kept": share >= WORTH}
            stage.finish(memory, file.name, "student.novelty", **facts)
        current().barrier()
    return load_patchcore(file) if stage.facts()["kept"] else None


def _said(
    network: nn.Module, slices: TrainingSlices, members: np.ndarray, settings: Settings, told: Callable[[int], None]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Images, a chunk at a time, and what a network says of them."""
    fabric = make_fabric(settings.engine)
    to_device(network, fabric)
    for start in range(0, len(members), CHUNK):
        images = slices.batch(members[start : start + CHUNK]).image
        with torch.no_grad():
            parts = map_batched(lambda part: network(images_to(fabric, part)).cpu(), images, AT_ONCE)
        yield images, torch.cat(parts)
        told(min(start + CHUNK, len(members)))


def _remembered(
    slices: TrainingSlices,
    members: np.ndarray,
    patients: np.ndarray,
    settings: Settings,
    rng: np.random.Generator,
    told: Callable[[int], None],
) -> MemoryBank:
    """As many places of each of the images as together are `MEMORY`, drawn at random, and the limit they give."""
    each = -(-MEMORY // len(members))
    found = [
        own[torch.from_numpy(rng.permutation(len(own))[:each])]
        for _, seen in _said(FeatureExtractor(), slices, members, settings, told)
        for own in seen.flatten(1, 2)
    ]
    features = torch.cat(found)
    whose = torch.from_numpy(np.unique(patients, return_inverse=True)[1]).repeat_interleave(len(found[0]))
    parts = torch.arange(len(features)).split(1000)
    far = torch.cat([distances(features[part], features, whose[part][:, None] == whose[None]) for part in parts])
    known = far[far.isfinite()]  # none where all that were drawn are of one patient: then nothing is novel
    limit = float(np.quantile(known.numpy(), settings.student.novelty)) if len(known) else NOWHERE
    return MemoryBank(features, max(limit, 1e-6))


def _share(
    slices: TrainingSlices,
    members: np.ndarray,
    novelty: PatchCore,
    drawn: Drawn,
    settings: Settings,
    told: Callable[[int], None],
) -> float:
    """Of which share of the images a region goes beyond what the student marks."""
    said = _said(novelty, slices, members, settings, told)
    return round(sum(int(beyond(far.numpy() > 1, drawn(images)).any((1, 2)).sum()) for images, far in said) / len(members), 4)
