"""The lessons of the student: which image comes with which target, how both are moved, and which weights are kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from test_loop import assert_is_the_mean, watched
from torch import Tensor

from coinseg.config.schema import StudentSettings
from coinseg.data.slices.arrays import Dataset
from coinseg.data.slices.dataset import TrainingSlices
from coinseg.data.slices.student_data import IGNORED, Examples, PseudoMasks
from coinseg.networks.unet import build_student, for_inference
from coinseg.training import student
from conftest import tiny_settings
from models import learn_from_few

SIDE = 32
SETTINGS = StudentSettings(batch=8, networks=2, per_image=0.75, synthetic_lesions=0.5, steps=3, trust=0.0)


def numbered() -> TrainingSlices:
    """Images that are told apart by their grey level, the first half abnormal; nearly all of them are trained on."""
    images = np.broadcast_to(np.linspace(0.1, 0.9, 24, dtype=np.float32)[:, None, None], (24, SIDE, SIDE)).copy()
    return TrainingSlices(Dataset(images, (np.arange(24) < 12).astype(int), held_out=0.1), tiny_settings().anomaly, 0)


def lessons_of(slices: TrainingSlices) -> PseudoMasks:
    """A mask for every third abnormal image: its column is its number."""
    indices = np.flatnonzero(slices.labels() == 1)[::3]
    targets = np.zeros((len(indices), SIDE, SIDE), np.uint8)
    targets[np.arange(len(indices)), :, np.arange(len(indices))] = 1
    return PseudoMasks(indices, targets, np.flatnonzero(slices.labels() == 0))


def batch(slices: TrainingSlices, lessons: PseudoMasks, lesions: Examples | None = None) -> tuple[Tensor, Tensor]:
    return student._batch([student.Taught(slices, lessons, lesions)], lesions is not None, SETTINGS, np.random.default_rng(0))


def batch_of(monkeypatch: pytest.MonkeyPatch, lesions: Examples | None) -> tuple[TrainingSlices, PseudoMasks, Tensor, Tensor]:
    monkeypatch.setattr(student, "augment", lambda image, target: (image, target))
    slices = numbered()
    lessons = lessons_of(slices)
    return slices, lessons, *batch(slices, lessons, lesions)


def lesions() -> Examples:
    """White images whose lesion is one row."""
    masks = np.zeros((5, SIDE, SIDE), bool)
    masks[np.arange(5), 10 + np.arange(5)] = True
    return Examples(torch.from_numpy(masks).float()[:, None] * 2 + 5, masks)


def test_half_of_a_batch_are_masked_images_with_their_own_masks_and_half_are_normal_and_empty(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slices, lessons, image, target = batch_of(monkeypatch, None)
    plain = slices.batch(np.arange(len(slices))).image[:, 0, 0, 0]
    shown = [int((plain - value).abs().argmin()) for value in image[:, 0, 0, 0]]
    assert len(image) == len(target) == 8
    for index, mask in zip(shown[:4], target[:4, 0], strict=True):
        assert mask.numpy().tolist() == lessons.targets[lessons.indices.tolist().index(index)].tolist()
    assert set(shown[4:]) <= set(lessons.normals.tolist())
    assert not target[4:].any()


def test_of_the_normal_half_a_share_gets_synthetic_lesions_and_is_taught_their_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    slices, lessons, image, target = batch_of(monkeypatch, lesions())
    assert target[:4].any((1, 2, 3)).all()
    for picture, mask in zip(image[4:6, 0], target[4:6, 0], strict=True):
        assert torch.equal(picture > 6, mask == 1)
        assert mask.any()
    plain = slices.batch(lessons.normals).image[:, 0, 0, 0]
    assert all((plain - value).abs().min() == 0 for value in image[6:, 0, 0, 0])
    assert not target[6:].any()


def test_every_batch_is_augmented(monkeypatch: pytest.MonkeyPatch) -> None:
    slices = numbered()
    monkeypatch.setattr(student, "augment", lambda image, target: (image + 9, target + 9))
    image, target = batch(slices, lessons_of(slices))
    assert image.min() > 7
    assert target.min() == 9


def discs(count: int = 64) -> Tensor:
    """White discs on the left of black images, (n, 1, 64, 64), of 0 and 1."""
    rows, columns = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    return (((rows - 32) ** 2 + (columns - 20) ** 2) < 81).float().expand(count, 1, 64, 64)


def moved(shapes: Tensor) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    image, target = student.augment(shapes * 2 - 1, shapes)
    return image, target[:, 0]


def test_a_target_is_moved_as_its_image_is() -> None:
    image, target = moved(discs())
    seen = image[:, 0] > 0
    assert ((seen & (target == 1)).sum((1, 2)) / (seen | (target == 1)).sum((1, 2))).min() > 0.9
    assert set(target.unique().tolist()) == {0.0, 1.0}


def test_images_are_mirrored_shifted_and_scaled_each_for_itself() -> None:
    _, target = moved(discs())
    places = torch.stack([mask.nonzero().float().mean(0) for mask in target])
    area, middle = target.sum((1, 2)), 31.5
    left = places[:, 1] < middle
    assert 16 < left.sum() < 48
    assert len({tuple(place) for place in places.int().tolist()}) > 20
    shares = (discs(1).sum() / area).sqrt()  # of the side that is shown
    assert 0.78 < shares.min() < 0.88
    assert 1.12 < shares.max() < 1.22


def test_images_are_turned_by_at_most_twenty_degrees_either_way() -> None:
    bar = torch.zeros(64, 1, 64, 64)
    bar[:, :, 30:34, 12:52] = 1
    _, target = moved(bar)
    angles = []
    for mask in target:
        rows, columns = mask.nonzero().double().T
        angles.append(float(torch.atan2(*torch.linalg.eigh(torch.cov(torch.stack([rows, columns])))[1][:, 1])))
    turned = (np.array(angles) + np.pi / 2) % np.pi - np.pi / 2
    assert -0.39 < turned.min() < -0.25
    assert 0.25 < turned.max() < 0.39


def test_brightness_contrast_and_noise_change_from_image_to_image_and_targets_do_not() -> None:
    grey = torch.full((32, 1, 16, 16), 0.2)
    image, target = student.augment(grey, torch.full_like(grey, 0.0))
    levels, noise = image.mean((1, 2, 3)), image.std((1, 2, 3))
    assert levels.std() > 0.05
    assert noise.max() > 0.03
    assert noise.min() < noise.max() / 4
    assert not target.any()


def test_what_moves_into_view_is_empty_in_the_target() -> None:
    _, target = moved(torch.ones(64, 1, 64, 64))
    assert (target == 0).any((1, 2)).any()
    assert not (target == 2).any()


def trained(
    monkeypatch: pytest.MonkeyPatch, examples: Callable[[PseudoMasks], list[Examples]]
) -> tuple[Any, dict[str, Any], Any]:
    learn_from_few(monkeypatch)
    parts, after = watched(monkeypatch, student, "network")
    slices = numbered()

    def masks(images: Tensor) -> tuple[np.ndarray, np.ndarray]:
        found = np.zeros((len(images), SIDE, SIDE), bool)
        found[:, 8:20, 8:20] = True
        return found, np.ones(len(images))

    (found,) = student.train_student([student.Lesson(slices, masks, examples)], replace(tiny_settings(), student=SETTINGS))
    return found, parts, after


def test_every_second_network_learns_drawn_lesions_and_the_others_the_dice_of_each_image(monkeypatch: pytest.MonkeyPatch) -> None:
    given, shares = [], []
    drawing, loss = student._of_class, student.student_loss

    def watched_drawing(taught: list[student.Taught], number: int, size: int, with_lesions: bool, *rest: Any) -> Any:
        given.append(taught[number].lesions if with_lesions else None)
        return drawing(taught, number, size, with_lesions, *rest)

    monkeypatch.setattr(student, "_of_class", watched_drawing)
    monkeypatch.setattr(student, "student_loss", lambda *words: (shares.append(words[2]), loss(*words))[1])
    drawn = Examples(torch.zeros(2, 1, SIDE, SIDE), np.ones((2, SIDE, SIDE), bool))
    trained(monkeypatch, lambda pseudo_masks: [drawn])
    assert student.BRANCH == 2 / 3  # so of three steps the first two are of the first network alone
    assert [None if each is None else len(each.images) for each in given] == [None, None, None, 2]
    assert shares == [0.75, 0.75, 0.75, 0.0]


@pytest.mark.parametrize(("steps", "wanted"), [(1, [2]), (2, [1, 2]), (4, [1, 1, 1, 2])])
def test_the_second_network_is_trained_in_the_last_step_at_the_latest(
    monkeypatch: pytest.MonkeyPatch, steps: int, wanted: list[int]
) -> None:
    learn_from_few(monkeypatch)
    slices, drawn, batch_of_step = numbered(), list[int](), student._batch
    monkeypatch.setattr(student, "_batch", lambda *given: (drawn.append(given[4]), batch_of_step(*given))[1])
    lesson = student.Lesson(slices, lambda x: (np.ones((len(x), SIDE, SIDE), bool), np.ones(len(x))))
    student.train_student([lesson], replace(tiny_settings(), student=replace(SETTINGS, steps=steps)))
    assert [drawn.count(number) for number in range(steps)] == wanted


def test_the_student_is_the_moving_average_of_its_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    found, parts, after = trained(monkeypatch, lambda pseudo_masks: [])
    kept = parts["kept"].module
    for weights in after[:2]:  # before it branches off, the second network counts as the first one
        weights |= {f"members.1.{name[10:]}": value for name, value in weights.items() if name.startswith("members.0.")}
    assert_is_the_mean(kept, after, student.EMA)
    for one, other in zip(found.state_dict().values(), for_inference(kept).state_dict().values(), strict=True):
        assert torch.equal(one, other)
    assert student.EMA == 0.99
    (group,) = parts["optimiser"].param_groups
    assert group["betas"] == (0.9, 0.999)
    assert {id(p) for p in group["params"]} == {id(p) for p in parts["network"].parameters()}
    assert all(not module.training for module in found.modules())


def test_the_loss_by_hand() -> None:
    logits = torch.tensor([[[[0.0, 2.0], [-2.0, 0.0]]]])
    target = torch.tensor([[[[1.0, 1.0], [0.0, 2.0]]]])  # the last pixel does not count
    p = torch.sigmoid(logits)[0, 0]
    entropy = -(p[0, 0].log() + p[0, 1].log() + (1 - p[1, 0]).log()) / 4
    overlap, total = 2 * (p[0, 0] + p[0, 1]), p[0, 0] + p[0, 1] + p[1, 0] + 2
    wanted = entropy - ((overlap + 0.01) / (total + 0.01)).log()
    assert student.student_loss(logits, target).item() == pytest.approx(wanted.item(), rel=1e-5)


def test_a_new_student_learns_from_its_first_step() -> None:
    network = build_student(1)
    student.student_loss(network(torch.zeros(1, 2, 1, SIDE, SIDE))[0], torch.ones(2, 1, SIDE, SIDE)).backward()
    assert any(p.grad is not None and p.grad.any() for p in network.parameters())


def test_of_another_class_an_image_without_it_is_empty_a_trusted_mask_is_taught_and_the_rest_is_ignored() -> None:
    slices: Any = SimpleNamespace(
        rows=np.array([3, 4, 5, 6]), store=SimpleNamespace(size=2, index={"label": np.array([9, 9, 9, 0, 1, 1, 0])})
    )
    mask = np.array([[[1, 0], [0, IGNORED]]], np.uint8)
    taught = student.Taught(slices, PseudoMasks(np.array([1]), mask, np.array([0, 3])), None)
    found = student._known(taught, np.array([3, 4, 5]))
    assert found.tolist() == [np.zeros((2, 2)).tolist(), mask[0].tolist(), np.full((2, 2), IGNORED).tolist()]


# --- each number that is drawn, by hand: at the middle of its range it changes nothing


def augmented_by(monkeypatch: pytest.MonkeyPatch, image: Tensor, place: dict[str, float], look: dict[str, float]) -> Any:
    """An image and itself as target; `place` and `look` are what is drawn in [0, 1] instead of a half, or of no noise."""
    names = ("angle", "scale", "mirror", "right", "down"), ("gamma", "contrast", "brightness", "noise")

    def rand(*shape: int) -> Tensor:
        order, given = (names[0], place) if len(shape) == 2 else (names[1], look)
        assert shape == ((len(image), 5) if order is names[0] else (len(image), 4, 1, 1, 1))
        values = torch.tensor([given.get(name, 0.0 if name == "noise" else 0.5) for name in order])
        return values.reshape(1, -1, *[1] * (len(shape) - 2)).expand(shape)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "rand", rand)
        patch.setattr(torch, "randn_like", torch.ones_like)
        return student.augment(image, (image > 0).float())


SQUARE = torch.full((1, 1, 40, 40), -1.0)
SQUARE[:, :, 10:16, 4:12] = 0.0


def test_the_middle_of_every_range_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    image, target = augmented_by(monkeypatch, SQUARE + 0.2, {}, {})
    torch.testing.assert_close(image, (SQUARE + 0.2).clamp(-1, 1), atol=1e-5, rtol=0)
    assert torch.equal(target, (SQUARE + 0.2 > 0).float())


@pytest.mark.parametrize(
    ("place", "moved_by"),
    [
        ({"mirror": 0.4}, lambda x: x.flip(-1)), ({"mirror": 0.6}, lambda x: x),
        ({"right": 1.0}, lambda x: x.roll(-2, -1)), ({"right": 0.0}, lambda x: x.roll(2, -1)),
        ({"down": 1.0}, lambda x: x.roll(-2, -2)), ({"down": 0.5, "right": 0.75}, lambda x: x.roll(-1, -1)),
    ],
)  # fmt: skip
def test_a_tenth_of_half_the_side_is_two_pixels_of_forty(
    monkeypatch: pytest.MonkeyPatch, place: dict[str, float], moved_by: Callable[[Tensor], Tensor]
) -> None:
    image, target = augmented_by(monkeypatch, SQUARE + 0.2, place, {})
    torch.testing.assert_close(image, moved_by((SQUARE + 0.2).clamp(-1, 1)), atol=1e-4, rtol=0)
    assert torch.equal(target, moved_by((SQUARE + 0.2 > 0).float()))


@pytest.mark.parametrize(("scale", "side"), [(1.0, 20 / 1.2), (0.0, 20 / 0.8), (0.75, 20 / 1.1)])
def test_a_lesion_is_scaled_by_up_to_a_fifth_either_way(monkeypatch: pytest.MonkeyPatch, scale: float, side: float) -> None:
    image = torch.full((1, 1, 100, 100), -1.0)
    image[:, :, 40:60, 40:60] = 0.2
    target = augmented_by(monkeypatch, image, {"scale": scale}, {})[1][0, 0]
    for axis in (0, 1):
        assert target.any(axis).sum().item() == pytest.approx(side, abs=1)


@pytest.mark.parametrize(("angle", "radians"), [(1.0, -0.35), (0.0, 0.35), (0.75, -0.175)])
def test_a_lesion_is_turned_by_up_to_twenty_degrees(monkeypatch: pytest.MonkeyPatch, angle: float, radians: float) -> None:
    image = torch.full((1, 1, 101, 101), -1.0)
    image[:, :, 49:52, 20:81] = 0.2
    target = augmented_by(monkeypatch, image, {"angle": angle}, {})[1][0, 0]
    rows, columns = target.nonzero().double().T
    slope = ((rows - 50) * (columns - 50)).sum() / ((columns - 50) ** 2).sum()
    assert float(torch.atan(slope)) == pytest.approx(radians, abs=0.01)


@pytest.mark.parametrize(
    ("look", "value"),
    [
        ({"gamma": 1.0}, 0.5 ** np.exp(0.3)), ({"gamma": 0.0}, 0.5 ** np.exp(-0.3)), ({"contrast": 1.0}, 0.5 * 1.15),
        ({"contrast": 0.0}, 0.5 * 0.85), ({"brightness": 1.0}, 0.55), ({"brightness": 0.0}, 0.45), ({"noise": 1.0}, 0.54),
        ({"contrast": 1.0, "brightness": 1.0, "noise": 0.5}, 0.5 * 1.15 + 0.05 + 0.02),
    ],
)  # fmt: skip
def test_a_grey_of_a_half_becomes(monkeypatch: pytest.MonkeyPatch, look: dict[str, float], value: float) -> None:
    image = augmented_by(monkeypatch, torch.zeros(2, 3, 8, 8), {}, look)[0]
    np.testing.assert_allclose(image.numpy() / 2 + 0.5, value, atol=1e-5)
