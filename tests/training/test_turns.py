"""More classes than a batch has room for: they take turns, and none is left out of the training of f, COIN or the student."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from coinseg.config.schema import AnomalySettings, StudentSettings
from coinseg.data.slices.arrays import Dataset
from coinseg.data.slices.dataset import JointSlices, TrainingSlices, in_turns, turns
from coinseg.data.slices.store import SliceStore
from coinseg.data.slices.student_data import IGNORED, Examples, PseudoMasks
from coinseg.runtime.records import read_record, write_record
from coinseg.training import student
from coinseg.training.keys import classifier_key, coin_key, student_key
from conftest import tiny_settings

SIDE, CLASSES = 8, 10


def store_of(classes: int) -> SliceStore:
    """Six images of each class, which have that class and no other."""
    rng, numbers = np.random.default_rng(0), np.arange(6 * classes) % classes
    images = rng.random((len(numbers), SIDE, SIDE), dtype=np.float32)
    views = []
    for number in range(classes):
        view = Dataset(images, (numbers == number).astype(int), held_out=0.01)
        view.meta |= {"contents": f"{number}"}
        view.index["split"][:] = 0
        views.append(view)
    store = Dataset(images, (numbers == 0).astype(int), held_out=0.01)
    store.meta["classes"] = [str(number) for number in range(classes)]
    return store.with_views(views)


def drawn(classes: int, size: int, steps: int, balanced: bool = True) -> Counter[tuple[int, int]]:
    """How often each class was asked about images without and with it."""
    slices, found = JointSlices(store_of(classes), AnomalySettings(), 0), Counter[tuple[int, int]]()
    for step in range(steps):
        indices, _ = slices.indices_of_step(step, size, balanced)
        batch = slices.batch(indices)
        assert batch.asked is not None
        assert len(indices) == size
        found.update((int(asked), int(labels[asked])) for asked, labels in zip(batch.asked, batch.label, strict=True))
    return found


@pytest.mark.parametrize(("classes", "size"), [(10, 8), (5, 8), (7, 3), (2, 3), (4, 1)])
def test_every_class_is_asked_as_often_with_as_without_it(classes: int, size: int) -> None:
    assert in_turns(classes, size)
    found = drawn(classes, size, 2 * classes)
    assert found == {(number, label): size for number in range(classes) for label in (0, 1)}


def test_a_batch_with_room_for_all_has_all_of_them() -> None:
    assert not in_turns(2, 4)
    assert not in_turns(1, 1)
    assert drawn(2, 4, 3) == {(number, label): 3 for number in (0, 1) for label in (0, 1)}


def test_classes_that_are_not_balanced_take_turns_too_and_see_all_of_their_images() -> None:
    found = drawn(CLASSES, 8, 75, balanced=False)  # each class is asked 60 times, once about every image
    assert found == {(number, label): 6 if label else 54 for number in range(CLASSES) for label in (0, 1)}


def test_turns_by_hand() -> None:
    assert turns(3, 4, 0) == [(0, 0, 0), (0, 1, 1), (1, 0, 0), (1, 1, 1)]
    assert turns(3, 4, 1) == [(2, 0, 0), (2, 1, 1), (0, 0, 2), (0, 1, 3)]


def taught_of(classes: int, lesions: int = 0) -> list[student.Taught]:
    """A pseudo-mask for every image with a class, all of it inside."""
    found = []
    for view in store_of(classes).views:
        slices = TrainingSlices(view, AnomalySettings(), 0)
        indices = np.flatnonzero(slices.labels() == 1)
        masks = PseudoMasks(indices, np.ones((len(indices), SIDE, SIDE), np.uint8), np.flatnonzero(slices.labels() == 0))
        examples = Examples(torch.full((lesions, 1, SIDE, SIDE), 5.0), np.ones((lesions, SIDE, SIDE), bool))
        found.append(student.Taught(slices, masks, examples if lesions else None))
    return found


def test_the_student_sees_masks_of_every_class(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(student, "augment", lambda image, target: (image, target))
    taught, settings = taught_of(CLASSES), StudentSettings(batch=8)
    shares: list[tuple[int, tuple[int, int]]] = []
    drawing = student._of_class

    def watched(found: list[student.Taught], number: int, share: tuple[int, int], *rest: Any) -> Any:
        shares.append((number, share))
        return drawing(found, number, share, *rest)

    monkeypatch.setattr(student, "_of_class", watched)
    for step in range(2 * CLASSES):
        images, targets = student._batch(taught, False, settings, np.random.default_rng(step), step)
        assert images.shape == (8, 1, SIDE, SIDE)
        assert targets.shape == (8, CLASSES, SIDE, SIDE)
    for side in (0, 1):
        assert Counter(number for number, share in shares for _ in range(share[side])) == dict.fromkeys(range(CLASSES), 8)


@pytest.mark.parametrize("batch", [8, 3])  # with room for both classes, and where they take turns
def test_a_class_with_too_few_masks_is_neither_drawn_nor_taught(monkeypatch: pytest.MonkeyPatch, batch: int) -> None:
    monkeypatch.setattr(student, "augment", lambda image, target: (image, target))
    taught: list[student.Taught | None] = [*taught_of(3)]
    taught[1], settings, inside = None, StudentSettings(batch=batch), np.zeros(3)
    for step in range(24):
        images, targets = student._batch(taught, False, settings, np.random.default_rng(step), step)
        assert targets.shape == (len(images), 3, SIDE, SIDE)
        assert (targets[:, 1] == IGNORED).all()
        assert (targets[:, 0::2] != IGNORED).any((1, 2, 3)).all()
        inside += (targets == 1).float().mean((0, 2, 3)).numpy()
    assert min(inside[0], inside[2]) > 0
    logits = torch.randn_like(targets).requires_grad_()
    student.student_loss(logits, targets).backward()
    assert not logits.grad[:, 1].any()
    assert logits.grad[:, 0::2].any()


def test_a_student_of_two_classes_is_taught_the_one_with_enough_masks(tmp_path: Path) -> None:
    asked: list[int] = []

    def lesson(number: int, count: int) -> student.Lesson:
        slices = TrainingSlices(store_of(2).with_views(two.views).views[number], AnomalySettings(), 0)

        def masks(images: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
            asked.append(number)
            return np.ones((len(images), SIDE, SIDE), bool), np.where(np.arange(len(images)) < count, 1.0, 0.0)

        return student.Lesson(slices, masks)

    two, settings = store_of(2), tiny_settings()
    settings = replace(settings, student=replace(settings.student, steps=2, batch=4, networks=1))
    lessons = [lesson(0, 3), lesson(1, 6)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(student, "LEAST", 4)
        rare, common = student.train_student(lessons, settings, "t", tmp_path)
        first = len(asked)
        again = student.train_student(lessons, settings, "t", tmp_path)
        assert len(asked) == first
        stage = tmp_path / "stage.json"
        known = read_record(stage, {})
        # Of an earlier version, that left out all classes because of one: they are asked anew.
        each = [{"trusted": one["trusted"], "abnormal": one["abnormal"]} for one in known["classes"]]
        write_record(stage, known | {"taught": False, "classes": each})
        later = student.train_student(lessons, settings, "t", tmp_path)
    assert rare is again[0] is later[0] is None
    x = torch.rand(1, 1, SIDE, SIDE)
    assert common is not None
    assert common(x).shape == (1, 1, SIDE, SIDE)
    for other in (again[1], later[1]):
        assert other is not None
        torch.testing.assert_close(other(x), common(x))
    assert [one["taught"] for one in known["classes"]] == [False, True]
    assert known["taught"]


def test_the_only_image_without_a_class_gets_a_synthetic_lesion_as_often_as_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(student, "augment", lambda image, target: (image, target))
    taught, settings = taught_of(4, lesions=3), StudentSettings(batch=8, synthetic_lesions=0.25)
    batches = [student._batch(taught, True, settings, np.random.default_rng(step), step)[0] for step in range(100)]
    share = float(torch.stack(batches).eq(5).all((2, 3, 4)).float().sum(1).mean()) / 4  # four images without their class
    assert 0.15 < share < 0.35


def test_weights_of_classes_that_were_left_out_are_not_those_of_classes_in_turns() -> None:
    settings, f = tiny_settings(), nn.Linear(1, 1)
    large = replace(settings, classifier=replace(settings.classifier, batch=64), coin=replace(settings.coin, batch=64))

    def keys(store: Any, asked: Any, classes: int) -> list[bool]:
        """Whether each key is another one than it was before there were turns."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("coinseg.training.keys._of_turns", lambda key, with_turns: key)
            before = classifier_key(store, asked), coin_key(store, asked, f), student_key(asked, "t", classes)
        now = classifier_key(store, asked), coin_key(store, asked, f), student_key(asked, "t", classes)
        return [one != other for one, other in zip(now, before, strict=True)]

    assert keys(store_of(CLASSES), settings, CLASSES) == [True, True, True]
    assert keys(store_of(CLASSES), large, CLASSES) == [False, False, True]
    assert keys(store_of(2), settings, 2) == [False, False, False]
    assert keys(Dataset(np.zeros((4, SIDE, SIDE), np.float32), [0, 1, 0, 1]), settings, 1) == [False, False, False]
