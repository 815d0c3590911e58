"""What the student is taught: the masks of the counterfactual method that can be trusted, and lesions drawn after them.

The generator answers one image at a time, and errs here and there; a network that learns from all its answers together keeps
what they have in common. It sees no mask of an expert: images labelled normal are taught to be empty, of those labelled
abnormal only the ones whose mask is trusted (`confidence.py`) are taught; a band around them can be left
out (`student.band`, not measured). Every second member is taught drawn lesions as well (`drawn_lesions.py`): what is careful and what
covers more is better together than either (docs/decisions/0022-members.md).
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from coinseg.config.schema import Settings, StudentSettings
from coinseg.data.slices.dataset import TrainingSlices
from coinseg.errors import memory_for
from coinseg.networks.unet import Mean, Student, build_student, load_student
from coinseg.runtime.devices import make_fabric, to_device
from coinseg.runtime.stage import Report, Stage, require_finite, silent
from coinseg.runtime.streams import Stream, random_stream, seed_step

from .keys import student_key
from .pseudo_masks import IGNORED, LEAST, Masks, PseudoMasks, collect_pseudo_masks
from .schedule import averaging, one_cycle
from .synthetic_lesions import Called, Drawn, drawn_lesions

EMA = 0.99
LOG_EVERY = 10
SMOOTH = 0.01
"""Added to both sides of Dice: a hundredth of a pixel."""


def moved(image: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Image and target under the same random turn, mirroring, scale and shift; then brightness, contrast and noise for the image.

    Args:
        image: (B, 1, S, S) in [-1, 1].
        target: (B, 1, S, S) of 0, 1 and `IGNORED`.
    """
    n = len(image)
    draw = torch.rand(n, 5) * 2 - 1
    angle, scale = draw[:, 0] * 0.35, 1 + 0.2 * draw[:, 1]
    mirror = torch.where(draw[:, 2] < 0, -scale, scale)
    rows = (torch.cos(angle) * mirror, -torch.sin(angle) * scale, draw[:, 3] * 0.1), (
        torch.sin(angle) * mirror, torch.cos(angle) * scale, draw[:, 4] * 0.1,
    )  # fmt: skip
    theta = torch.stack([torch.stack(row, 1) for row in rows], 1)
    grid = F.affine_grid(theta, list(image.shape), align_corners=False)
    image = F.grid_sample(image, grid, padding_mode="border", align_corners=False)
    target = F.grid_sample(target, grid, mode="nearest", padding_mode="zeros", align_corners=False)
    draw = torch.rand(n, 4, 1, 1, 1)
    unit = (image / 2 + 0.5).clamp(0, 1) ** torch.exp((draw[:, 0] - 0.5) * 0.6)
    unit = unit * (1 + (draw[:, 1] - 0.5) * 0.3) + (draw[:, 2] - 0.5) * 0.1
    unit = unit + torch.randn_like(unit) * draw[:, 3] * 0.04
    return unit * 2 - 1, target


def student_loss(logits: Tensor, target: Tensor, per_image: float = 0.0) -> Tensor:
    """Binary cross-entropy minus log Dice, over the pixels that are taught (n, 1, S, S).

    The logarithm, because 1 - Dice is flat where nothing is marked: where lesions are small it stays there.

    Args:
        per_image: share of log Dice that is the mean over the images with a lesion, in which a small one counts as a large one does;
            the rest is that of the whole batch, in which every pixel counts alike.
    """
    taught, inside = (target != IGNORED).float(), (target == 1).float()
    entropy = (F.binary_cross_entropy_with_logits(logits, inside, reduction="none") * taught).mean()
    p = torch.sigmoid(logits) * taught
    both, area = (2 * (p * inside)).sum((1, 2, 3)), inside.sum((1, 2, 3))
    either, has = p.sum((1, 2, 3)) + area, area > 0
    found = torch.log((both.sum() + SMOOTH) / (either.sum() + SMOOTH))
    if per_image and has.any():
        found = (1 - per_image) * found + per_image * torch.log((both[has] + SMOOTH) / (either[has] + SMOOTH)).mean()
    return entropy - found


def _drawn(slices: TrainingSlices, taught: PseudoMasks, called: Called, settings: Settings, report: Report) -> Drawn | None:
    """Lesions drawn after the lessons'; None where nobody is taught them, or f takes too few for lesions."""
    if not settings.student.drawn or settings.student.members < 2:
        return None
    level = settings.classifier.threshold
    made = drawn_lesions(slices, taught.members, taught.targets == 1, taught.normals, called, level, settings.seed, report)
    return made if len(made.images) >= LEAST else None


def _batch(
    slices: TrainingSlices, taught: PseudoMasks, drawn: Drawn | None, settings: StudentSettings, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Images (B, 1, S, S) and targets alike: half of them lessons, the others normal, and a share of those with drawn lesions."""
    half, side = settings.batch // 2, slices.store.size
    places, empty = rng.choice(len(taught.members), half), rng.choice(taught.normals, settings.batch - half)
    target = torch.zeros(settings.batch, 1, side, side)
    target[:half, 0] = torch.from_numpy(taught.targets[places]).float()
    image = slices.batch(np.concatenate([taught.members[places], empty])).image
    if drawn:
        extra = round(len(empty) * settings.drawn)
        picked = rng.choice(len(drawn.images), extra)
        image[half : half + extra] = drawn.images[picked]
        target[half : half + extra, 0] = torch.from_numpy(drawn.masks[picked]).float()
    return moved(image, target)


@memory_for("student.batch")
def train_student(
    slices: TrainingSlices, masks: Masks, called: Called, settings: Settings, teacher: str, folder: Path, report: Report = silent
) -> nn.Module | None:
    """Train the student, or load it when it is already there for the same masks.

    Args:
        slices: of the training side; images and image labels.
        masks: see `Masks`.
        called: what f says of images, see `drawn_lesions.Called`; only asked where lesions are drawn.
        settings: seed, student, engine and the threshold of f are read.
        teacher: key of what makes the masks.
        folder: receives model.safetensors, stage.json and stats.jsonl.
        report: progress.

    Returns:
        The student (its moving average), ready to be asked; None where too few masks are trusted, which stage.json says.
    """
    s, fabric = settings.student, make_fabric(settings.engine)
    stage = Stage(folder, student_key(settings, teacher), settings.engine.tensorboard)
    if stage.finished():
        return load_student(folder / "model.safetensors", s.members) if stage.facts()["taught"] else None
    seed_step(settings.seed, Stream.STUDENT_WEIGHTS)
    network = build_student(s.members)
    taught = collect_pseudo_masks(slices, masks, s)
    facts = {"trusted": len(taught.members), "abnormal": int((slices.labels() == 1).sum()), "taught": taught.enough}
    state = stage.resume()
    if not taught.enough:
        stage.finish(nn.Identity(), "model.safetensors", "student.lr", **facts)
        return None
    drawn = _drawn(slices, taught, called, settings, report)
    to_device(network, fabric)
    kept = AveragedModel(network, multi_avg_fn=averaging(EMA), use_buffers=True)
    optimiser = torch.optim.AdamW(network.parameters(), lr=s.lr, weight_decay=1e-3)
    start = 0
    if state:
        network.load_state_dict(state["network"])
        kept.load_state_dict(state["kept"])
        optimiser.load_state_dict(state["optimiser"])
        start = state["step"]
    trained, wrapped = fabric.setup(network, optimiser)
    trained.train()
    for step in stage.steps(start, s.steps):
        seed_step(settings.seed, step)
        for group in optimiser.param_groups:
            group["lr"] = s.lr * one_cycle(step, s.steps)
        rng = random_stream(Stream.STUDENT_BATCH, settings.seed, step)
        batches = [_batch(slices, taught, drawn if member % 2 else None, s, rng) for member in range(s.members)]
        images, targets = (torch.stack(part) for part in zip(*batches, strict=True))
        given, wanted = trained(images.to(fabric.device)), targets.to(fabric.device)
        shares = [0.0 if member % 2 else s.per_image for member in range(s.members)]
        losses = [student_loss(own, target, share) for own, target, share in zip(given, wanted, shares, strict=True)]
        wrapped.zero_grad()
        fabric.backward(torch.stack(losses).sum())
        wrapped.step()
        kept.update_parameters(network)
        if (step + 1) % LOG_EVERY == 0 or step + 1 == s.steps:
            values = {"loss": torch.stack(losses).mean().item()}
            require_finite(values, step + 1, "student.lr")
            stage.log(step + 1, values)
            report("student", step + 1, s.steps, values)
        if stage.due(step + 1, settings.engine.checkpoint_every):
            stage.save(
                step + 1, "student.lr", network=network.state_dict(), kept=kept.state_dict(), optimiser=optimiser.state_dict()
            )
    result = cast(Student, kept.module)
    stage.finish(result, "model.safetensors", "student.lr", **facts, drawn=len(drawn.images) if drawn else 0)
    stage.close()
    return Mean(result).eval()
