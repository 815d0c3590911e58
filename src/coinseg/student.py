"""The student: a segmentation network trained on the masks of the counterfactual method, the last step of weak supervision.

The generator answers one image at a time, and errs here and there; a network that learns from all its answers together keeps
what they have in common. It sees no mask of an expert: images labelled normal are taught to be empty, of those labelled
abnormal only the ones whose mask is trusted (`confidence.py`) are taught; a band around them can be left
out (`student.band`, not measured). What trust is worth: docs/results/better.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from .classifier import load_weights
from .config import Settings, StudentSettings
from .data.sampling import TrainingSlices
from .engine import CHUNK, Report, Stage, images_to, make_fabric, one_cycle, require_finite, seed_step, silent, to_device
from .errors import memory_for
from .masks import IN_PLANE, peaks
from .pretrained import DEEPEST, encoder, teach
from .storage import key_of

LEAST = 20
"""Trusted masks below which there is nothing to learn from."""
LEVEL = 0.5
"""A pixel is inside when the student gives it more than this."""
FAINTEST = 0.04
"""A student that gives no pixel more than this sees nothing, whatever f says."""
IGNORED = 2
"""Of a target: a pixel that is not taught."""
EMA = 0.99
LOG_EVERY = 10
DECODER = (128, 64, 32, 16, 16)
"""Channels of the decoder, from 1/16 of the side to all of it."""
FULL = 16
"""Channels at full resolution."""
SMOOTH = 0.01
"""Added to both sides of Dice: a hundredth of a pixel."""
Masks = Callable[[Tensor], tuple[np.ndarray, np.ndarray]]
"""Images (B, 1, S, S) in [-1, 1] -> masks (B, S, S) bool and how far to trust them, (B,); NaN where there is none."""


@dataclass(frozen=True)
class Lessons:
    """What the student is taught.

    Args:
        members: positions among the training slices, (n,): the images labelled abnormal whose mask is trusted.
        targets: (n, S, S) uint8, 0 outside, 1 inside, `IGNORED`.
        normals: positions of the images labelled normal, which are empty.
    """

    members: np.ndarray
    targets: np.ndarray
    normals: np.ndarray

    @property
    def enough(self) -> bool:
        """Whether there is anything to learn from."""
        return len(self.members) >= LEAST and len(self.normals) > 0


class StudentNetwork(nn.Module):
    """A U-Net on an encoder that can know ImageNet, with one more level beside it: the image itself, at full resolution.

    The encoder halves the side before it looks; lesions of a few pixels are drawn from what the image says there.
    """

    def __init__(self) -> None:
        from monai.networks.blocks import Convolution
        from monai.networks.nets.flexible_unet import UNetDecoder

        super().__init__()
        self.encoder = encoder()
        channels = (1, *cast(Any, self.encoder).feature_info.channels())
        self.decoder = UNetDecoder(
            2, channels, DECODER, ("relu", {"inplace": True}), "batch", 0.0, False, "nontrainable", None, "nearest", None, False
        )
        self.detail = nn.Sequential(*(Convolution(2, n, FULL, act="relu", norm="batch", adn_ordering="NA") for n in (1, FULL)))
        self.joined = Convolution(2, DECODER[-1] + FULL, FULL, act="relu", norm="batch", adn_ordering="NA")
        self.head = nn.Conv2d(FULL, 1, 1)
        nn.init.constant_(cast(Tensor, self.head.bias), -3.0)  # most pixels are outside

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, 1, S, S) of images (B, 1, S, S) in [-1, 1]."""
        rows, columns = x.shape[-2:]
        x = F.pad(x, (0, -columns % DEEPEST, 0, -rows % DEEPEST), mode="replicate").contiguous(memory_format=torch.channels_last)
        logits: Tensor = self.head(self.joined(torch.cat([self.detail(x), self.decoder(self.encoder(x))], 1)))
        return logits[..., :rows, :columns]


def build_student() -> nn.Module:
    """A fresh student, its encoder as ImageNet left it."""
    network = StudentNetwork()
    teach(network.encoder)
    return network


def ignored_band(masks: np.ndarray, band: int) -> np.ndarray:
    """Masks (n, S, S) bool as targets, with the pixels within `band` outside of a border left out; what is inside stays.

    Outside only: a small lesion has no inside to spare.
    """
    target = masks.astype(np.uint8)
    if band:
        near = ndimage.binary_dilation(masks, IN_PLANE, band)
        target[near & ~masks] = IGNORED
    return target


def lessons(slices: TrainingSlices, masks: Masks, settings: StudentSettings) -> Lessons:
    """The masks of training images that can be trusted; images f calls normal have none."""
    labels = slices.labels()
    members, targets = [], []
    abnormal = np.flatnonzero(labels == 1)
    for start in range(0, len(abnormal), CHUNK):
        chunk = abnormal[start : start + CHUNK]
        made, sure = masks(slices.batch(chunk).image)
        trusted = np.nan_to_num(sure) >= settings.trust
        members.append(chunk[trusted])
        targets.append(ignored_band(made[trusted], settings.band))
    side = slices.store.size
    empty = np.zeros((0, side, side), np.uint8)
    return Lessons(
        np.concatenate([np.zeros(0, np.int64), *members]), np.concatenate([empty, *targets]), np.flatnonzero(labels == 0)
    )


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


def student_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy minus log Dice of the whole batch, both over the pixels that are taught (n, 1, S, S).

    The logarithm, because 1 - Dice is flat where nothing is marked: where lesions are small it stays there.
    """
    taught, inside = (target != IGNORED).float(), (target == 1).float()
    entropy = (F.binary_cross_entropy_with_logits(logits, inside, reduction="none") * taught).mean()
    p = torch.sigmoid(logits) * taught
    return entropy - torch.log((2 * (p * inside).sum() + SMOOTH) / (p.sum() + inside.sum() + SMOOTH))


def student_key(settings: Settings, teacher: str) -> str:
    """What the student depends on: the key of the masks it learns from, its settings and the seed; not whom it is asked about."""
    return key_of([teacher, asdict(replace(settings.student, gate=0.0)), settings.seed])


@memory_for("student.batch")
def train_student(
    slices: TrainingSlices, masks: Masks, settings: Settings, teacher: str, folder: Path, report: Report = silent
) -> nn.Module | None:
    """Train the student, or load it when it is already there for the same masks.

    Args:
        slices: of the training side; images and image labels.
        masks: see `Masks`.
        settings: seed, student and engine are read.
        teacher: key of what makes the masks.
        folder: receives model.safetensors, stage.json and stats.jsonl.
        report: progress.

    Returns:
        The student (its moving average) in evaluation mode; None where too few masks are trusted, which stage.json says.
    """
    s, fabric = settings.student, make_fabric(settings.engine)
    stage = Stage(folder, student_key(settings, teacher), settings.engine.tensorboard)
    if stage.finished():
        return load_student(folder / "model.safetensors") if stage.facts()["taught"] else None
    seed_step(settings.seed, -3 % 2**31)
    network = build_student()
    taught = lessons(slices, masks, s)
    facts = {"trusted": len(taught.members), "abnormal": int((slices.labels() == 1).sum()), "taught": taught.enough}
    state = stage.resume()
    if not taught.enough:
        stage.finish(nn.Identity(), "model.safetensors", "student.lr", **facts)
        return None
    to_device(network, fabric)
    kept = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(EMA), use_buffers=True)
    optimiser = torch.optim.AdamW(network.parameters(), lr=s.lr, weight_decay=1e-3)
    start, half = 0, s.batch // 2
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
        rng = np.random.default_rng([settings.seed, step, 6])
        places, empty = rng.choice(len(taught.members), half), rng.choice(taught.normals, s.batch - half)
        target = torch.zeros(s.batch, 1, slices.store.size, slices.store.size)
        target[:half, 0] = torch.from_numpy(taught.targets[places]).float()
        image, target = moved(slices.batch(np.concatenate([taught.members[places], empty])).image, target)
        loss = student_loss(trained(images_to(fabric, image)), target.to(fabric.device))
        wrapped.zero_grad()
        fabric.backward(loss)
        wrapped.step()
        kept.update_parameters(network)
        if (step + 1) % LOG_EVERY == 0 or step + 1 == s.steps:
            values = {"loss": loss.item()}
            require_finite(values, step + 1, "student.lr")
            stage.log(step + 1, values)
            report("student", step + 1, s.steps, values)
        if stage.due(step + 1, settings.engine.checkpoint_every):
            stage.save(
                step + 1, "student.lr", network=network.state_dict(), kept=kept.state_dict(), optimiser=optimiser.state_dict()
            )
    result = cast(nn.Module, kept.module)
    stage.finish(result, "model.safetensors", "student.lr", **facts)
    stage.close()
    return result.eval()


def load_student(path: Path) -> nn.Module:
    """A trained student from its weights; `UserError` where they are another's."""
    network = StudentNetwork()
    load_weights(network, path, "student")
    return network.eval()


def brought_up(maps: np.ndarray, called: np.ndarray, share: float) -> np.ndarray:
    """Maps of a student with those of images that f calls abnormal brought up, so that `LEVEL` is a share of their own peak.

    A student that learnt from the masks that can be trusted is careful: it sees lesions unlike those and gives them less than a half. Where f
    says that there is one, the question is where, not whether. The share is less than a half because a map is the mean over an image and
    its mirror image: what one of the two is sure of has about a half, and on which side of it was chance (docs/decisions/0020-one-view.md).

    Args:
        maps: (B, S, S) in [0, 1].
        called: (B,) bool, f calls the image abnormal.
        share: of the peak, in [0, 1]; 0 leaves the maps as they are, as `masks.peak` does.

    Returns:
        (B, S, S) in [0, 1]; as they are where f calls an image normal, and where no pixel has more than `FAINTEST`.
    """
    highest = peaks(maps)
    lowered = np.where(called & (highest > FAINTEST) & (share > 0), np.clip(highest, None, 1) * share / LEVEL, 1)
    return np.minimum(maps / lowered[:, None, None], 1).astype(maps.dtype)


def marks(student: nn.Module, images: Tensor) -> Tensor:
    """What the student gives every pixel of images (B, 1, S, S) in [-1, 1], (B, S, S) in [0, 1]."""
    with torch.no_grad():
        return torch.sigmoid(student(images))[:, 0]
