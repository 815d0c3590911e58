"""Training of the student, which learns from the pseudo-masks of the counterfactual method and draws the final masks.

Images labelled normal are taught as empty, of those labelled abnormal only the ones with a confident pseudo-mask; no mask of an
expert is used. Every second network also learns synthetic lesions (docs/research/student.md, study 22), and all but the first
begin as a copy of the first one, late (study 34).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from coinseg.config.schema import Settings, StudentSettings
from coinseg.data.slices.dataset import TrainingSlices, in_turns, turns
from coinseg.data.slices.student_data import IGNORED, Examples, PseudoMasks, ReviewedMasks
from coinseg.errors import memory_for
from coinseg.networks.classes import map_of
from coinseg.networks.unet import Student, build_student, for_inference, load_student
from coinseg.runtime.devices import make_fabric, to_device
from coinseg.runtime.stage import Report, Stage, silent
from coinseg.runtime.streams import Stream, random_stream, seed_step

from .keys import student_key
from .loop import descend, fit
from .pseudo_masks import LEAST, Masks, collect_pseudo_masks, labels_alone, with_reviewed
from .schedule import averaging

WEIGHTS = "model.safetensors"
EMA = 0.99  # Decay of the moving average of the weights
BRANCH = 2 / 3  # share of the steps after which the other networks begin as copies of the first (study 34)
SMOOTH = 0.01  # Pixels that are added to both sides of the Dice coefficient


def augment(image: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Rotate, mirror, scale and shift image and target alike; then change brightness, contrast and noise of the image.

    The image is (B, C, S, S) in [-1, 1], the target (B, 1, S, S) of 0, 1 and `IGNORED`.
    """
    n = len(image)
    draw = torch.rand(n, 5) * 2 - 1
    angle, scale = draw[:, 0] * 0.35, 1 + 0.2 * draw[:, 1]
    mirror = torch.where(draw[:, 2] < 0, -scale, scale)
    first = torch.stack([torch.cos(angle) * mirror, -torch.sin(angle) * scale, draw[:, 3] * 0.1], 1)
    second = torch.stack([torch.sin(angle) * mirror, torch.cos(angle) * scale, draw[:, 4] * 0.1], 1)
    theta = torch.stack([first, second], 1)
    grid = F.affine_grid(theta, list(image.shape), align_corners=False)
    image = F.grid_sample(image, grid, padding_mode="border", align_corners=False)
    target = F.grid_sample(target, grid, mode="nearest", padding_mode="zeros", align_corners=False)
    draw = torch.rand(n, 4, 1, 1, 1)
    unit = (image / 2 + 0.5).clamp(0, 1) ** torch.exp((draw[:, 0] - 0.5) * 0.6)
    unit = unit * (1 + (draw[:, 1] - 0.5) * 0.3) + (draw[:, 2] - 0.5) * 0.1
    unit = unit + torch.randn_like(unit) * draw[:, 3] * 0.04
    return unit * 2 - 1, target


def student_loss(logits: Tensor, target: Tensor, per_image: float = 0.0) -> Tensor:
    """Binary cross-entropy minus log Dice, over the pixels that are not `IGNORED`; 1 - Dice is flat where nothing is marked.

    Args:
        logits: (B, 1, S, S); of several classes (B, K, S, S), then it is the mean over classes.
        target: likewise, of 0, 1 and `IGNORED`.
        per_image: share of log Dice that is the mean over images with a lesion; the rest is log Dice of all pixels of the batch.
    """
    if logits.shape[1] > 1:
        pairs = zip(logits.split(1, dim=1), target.split(1, dim=1), strict=True)
        return torch.stack([student_loss(of_class, wanted, per_image) for of_class, wanted in pairs]).mean()
    valid, inside = (target != IGNORED).float(), (target == 1).float()
    entropy = (F.binary_cross_entropy_with_logits(logits, inside, reduction="none") * valid).mean()
    p = torch.sigmoid(logits) * valid
    overlap, area = (2 * (p * inside)).sum((1, 2, 3)), inside.sum((1, 2, 3))
    total, has_lesion = p.sum((1, 2, 3)) + area, area > 0
    log_dice = torch.log((overlap.sum() + SMOOTH) / (total.sum() + SMOOTH))
    if per_image and has_lesion.any():
        each = torch.log((overlap[has_lesion] + SMOOTH) / (total[has_lesion] + SMOOTH)).mean()
        log_dice = (1 - per_image) * log_dice + per_image * each
    return entropy - log_dice


@dataclass(frozen=True)
class Lesson:
    """What the student learns of one class.

    Args:
        slices: the training side, as the class sees it, with all reviewed slices; images and image labels.
        masks: images -> pseudo-masks and their confidence, see `pseudo_masks.Masks`.
        examples: further examples made from the pseudo-masks, for every second network; asked where there is one.
        reviewed: masks of this class that a person reviewed, where the user handed some over.
    """

    slices: TrainingSlices
    masks: Masks
    examples: Callable[[PseudoMasks], Sequence[Examples]] = lambda pseudo_masks: ()
    reviewed: ReviewedMasks | None = None


@dataclass(frozen=True)
class Taught:
    """The pseudo-masks and further examples of one class; None for too few examples to learn from."""

    slices: TrainingSlices
    pseudo_masks: PseudoMasks
    lesions: Examples | None

    @cached_property
    def trusted(self) -> dict[int, int]:
        """Row of the store -> number of its pseudo-mask."""
        return {int(row): i for i, row in enumerate(self.slices.rows[self.pseudo_masks.indices])}

    @cached_property
    def empty(self) -> np.ndarray:
        """Rows of the store without the class: by their label, or as a person saw them."""
        return np.unique(self.slices.rows[self.pseudo_masks.normals])


def _joined(examples: Sequence[Examples]) -> Examples | None:
    """All further examples together; None where they are too few to learn from."""
    if sum(len(each.images) for each in examples) < LEAST:
        return None
    return Examples(torch.cat([each.images for each in examples]), np.concatenate([each.masks for each in examples]))


def _of_class(
    taught: Sequence[Taught | None], number: int, share: tuple[int, int], with_lesions: bool, settings: StudentSettings,
    rng: np.random.Generator,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Images (B, C, S, S) and targets (B, K, S, S): `share` says how many have pseudo-masks of a class, how many are without."""
    one, (half, without) = cast(Taught, taught[number]), share
    pseudo_masks, lesions, side, size = one.pseudo_masks, one.lesions if with_lesions else None, one.slices.store.size, sum(share)
    chosen = rng.choice(len(pseudo_masks.indices), half)
    normals = rng.choice(pseudo_masks.normals, without)
    indices = np.concatenate([pseudo_masks.indices[chosen], normals])
    target = torch.full((size, len(taught), side, side), float(IGNORED))
    for other, known in enumerate(taught):
        if known is not None:
            wanted = _known(known, one.slices.rows[indices]) if other != number else np.zeros((size, side, side), np.uint8)
            target[:, other] = torch.from_numpy(wanted).float()
    target[:half, number] = torch.from_numpy(pseudo_masks.targets[chosen]).float()
    image = one.slices.batch(indices).image
    if lesions:
        count = round(without * settings.synthetic_lesions)
        if without == 1 and len(taught) > 1:  # else the share of one image would always be none, or all
            count = int(rng.random() < settings.synthetic_lesions)
        picked = rng.choice(len(lesions.images), count)
        drawn = slice(half, half + count)
        image[drawn], target[drawn] = lesions.images[picked], IGNORED
        target[drawn, number] = torch.from_numpy(lesions.masks[picked]).float()
    return image, target


def _known(taught: Taught, rows: np.ndarray) -> np.ndarray:
    """The targets (n, S, S) of a class in rows of the store: empty without the class, `IGNORED` where no mask is trusted."""
    store, trusted = taught.slices.store, taught.trusted
    target = np.full((len(rows), store.size, store.size), IGNORED, np.uint8)
    target[(store.index["label"][rows] == 0) | np.isin(rows, taught.empty)] = 0
    for i, row in enumerate(rows):
        if (number := trusted.get(int(row))) is not None:
            target[i] = taught.pseudo_masks.targets[number]
    return target


def _batch(
    taught: Sequence[Taught | None], with_lesions: bool, settings: StudentSettings, rng: np.random.Generator, step: int = 0
) -> tuple[Tensor, Tensor]:
    """Images (B, C, S, S) and targets (B, K, S, S), augmented; every class taught draws its share, or its turn in this step."""
    numbers = [number for number, one in enumerate(taught) if one is not None]
    sizes = [(settings.batch + len(numbers) - 1 - place) // len(numbers) for place in range(len(numbers))]
    shares = [(size // 2, size - size // 2) for size in sizes]
    if in_turns(len(numbers), settings.batch):
        drawn = [(place, label) for place, label, _ in turns(len(numbers), settings.batch, step)]
        shares = [(drawn.count((place, 1)), drawn.count((place, 0))) for place in range(len(numbers))]
    drawing = [(number, share) for number, share in zip(numbers, shares, strict=True) if any(share)]
    parts = [_of_class(taught, number, share, with_lesions, settings, rng) for number, share in drawing]
    return augment(torch.cat([image for image, _ in parts]), torch.cat([target for _, target in parts]))


@memory_for("student.batch")
def train_student(
    lessons: Sequence[Lesson], settings: Settings, teacher: str = "", folder: Path | None = None, report: Report = silent
) -> list[nn.Module | None]:
    """Train the student, or load it where it was trained on the same masks; it has no part in a class with too few trusted masks.

    All classes share its networks (their moving averages), in evaluation mode.

    Args:
        lessons: one for each class.
        settings: seed, student and engine are read.
        teacher: key of everything that the masks depend on; not needed without a folder.
        folder: receives model.safetensors, stage.json and stats.jsonl; None writes nothing.
        report: progress.

    Returns:
        Of each class: images (B, C, S, S) in [-1, 1] -> logits (B, 1, S, S); None where too few masks are trusted.
    """
    s, fabric, channels = settings.student, make_fabric(settings.engine), len(lessons[0].slices.store.channels)
    classes = len(lessons)
    stage = Stage(folder, student_key(settings, teacher, classes), settings.engine.logger)
    if stage.finished() and (taught_before := taught_classes(stage.facts(taught=bool), classes)) is not None:
        network = load_student(stage.file(WEIGHTS), s.networks, channels, classes) if any(taught_before) else None
        return _of_classes(network, taught_before)
    seed_step(settings.seed, Stream.STUDENT_WEIGHTS)
    network = build_student(s.networks, channels, classes)
    trusted_masks = [collect_pseudo_masks(lesson.slices, lesson.masks, s, lesson.reviewed) for lesson in lessons]
    found = [with_reviewed(masks, one.slices, one.reviewed) for one, masks in zip(lessons, trusted_masks, strict=True)]
    abnormal = [int((labels_alone(one.slices, one.reviewed) == 1).sum()) for one in lessons]
    enough = [len(one.indices) >= LEAST and len(one.normals) > 0 for one in found]
    each = [
        {"trusted": len(one.indices), "abnormal": count, "taught": right}
        for one, count, right in zip(trusted_masks, abnormal, enough, strict=True)
    ]
    facts: dict[str, Any] = {name: sum(one[name] for one in each) for name in ("trusted", "abnormal")} | {"taught": any(enough)}
    facts |= {"classes": each} if classes > 1 else {}
    if not any(enough):
        stage.resume()  # what another key has left goes
        stage.finish(nn.Identity(), WEIGHTS, "student.lr", **facts)
        return _of_classes(None, enough)
    taught = [
        Taught(one.slices, masks, _joined(one.examples(masks)) if s.networks > 1 else None) if right else None
        for one, masks, right in zip(lessons, found, enough, strict=True)
    ]
    to_device(network, fabric)
    averaged = AveragedModel(network, multi_avg_fn=averaging(EMA), use_buffers=True)
    optimiser = torch.optim.AdamW(network.parameters(), lr=s.lr, weight_decay=1e-3)
    trained, wrapped = fabric.setup(network, optimiser)
    trained.train()
    branch = min(round(BRANCH * s.steps), s.steps - 1)  # in the last step at the latest

    def step(number: int) -> dict[str, Tensor]:
        if number == branch:
            network.branch()
            cast(Student, averaged.module).branch()
        rng = random_stream(Stream.STUDENT_BATCH, settings.seed, number)
        batches = [_batch(taught, i % 2 == 1, s, rng, number) for i in range(s.networks if number >= branch else 1)]
        images, targets = (torch.stack(part) for part in zip(*batches, strict=True))
        outputs = zip(trained(images.to(fabric.device)), targets.to(fabric.device), strict=True)
        losses = [student_loss(logits, target, 0.0 if i % 2 else s.per_image) for i, (logits, target) in enumerate(outputs)]
        descend(fabric, wrapped, torch.stack(losses).sum())
        averaged.update_parameters(network)
        return {"loss": torch.stack(losses).mean()}

    fit("student", stage, {"network": network, "kept": averaged, "optimiser": optimiser}, step, settings, report)
    result = cast(Student, averaged.module)
    drawn = sum(len(one.lesions.images) for one in taught if one and one.lesions)
    stage.finish(result, WEIGHTS, "student.lr", **facts, drawn=drawn)
    return _of_classes(for_inference(result), enough)


def taught_classes(facts: Mapping[str, Any], classes: int) -> list[bool] | None:
    """Which classes a finished student was taught, from its stage.json.

    None where an earlier version left out all classes because one had too few masks: the others can be taught.
    """
    each = facts.get("classes", [])
    if classes > 1 and len(each) == classes and all("taught" in one for one in each):
        return [one["taught"] for one in each]
    return [facts["taught"]] * classes if facts["taught"] or classes == 1 else None


def _of_classes(network: nn.Module | None, taught: Sequence[bool]) -> list[nn.Module | None]:
    """The student of each class; None where it was not taught."""
    return [map_of(network, number, len(taught)) if network and right else None for number, right in enumerate(taught)]
