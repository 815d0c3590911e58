"""The audit of f and the lessons of the student: laws and values by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from coinseg import audit, student
from coinseg.config import StudentSettings
from coinseg.protocols import Explained


def found() -> Explained:
    """Two images with a bright pixel each, which the counterfactual takes away, and one normal image."""
    image = np.zeros((3, 4, 4), np.float32)
    image[0, 1, 1] = image[1, 2, 2] = 1
    none = np.zeros((3, 4, 4), bool)
    return Explained(
        rows=np.arange(3), label=np.array([1, 1, 0]), before=np.array([0.9, 0.9, 0.1]), image=image, saliency=image, refined=image,
        truth=none, known=np.zeros(3, bool), after=np.zeros(3), counterfactual=np.zeros_like(image),
    )  # fmt: skip


def ask(images: np.ndarray) -> np.ndarray:
    """f sees any bright pixel."""
    return images.max((1, 2))


def test_a_mask_on_the_evidence_turns_f_and_one_beside_it_does_not() -> None:
    e = found()
    masks = e.image > 0.5
    assert audit.flips(e, masks, None, ask, 0.5) == {
        "mask_alone": 1, "outside_mask_alone": 0, "organ_alone": None, "outside_organ_alone": None, "flipped_images": 2,
    }  # fmt: skip
    organs = np.zeros((3, 4, 4), np.uint8)
    organs[:, 1, 1] = 1  # holds the evidence of the first image alone
    said = audit.flips(e, ~masks, organs, ask, 0.5)
    assert (said["mask_alone"], said["outside_mask_alone"]) == (0, 1)
    assert (said["organ_alone"], said["outside_organ_alone"]) == (0.5, 0.5)


def test_without_a_counterfactual_nothing_is_said() -> None:
    e = replace(found(), counterfactual=None, after=None)
    assert set(audit.flips(e, e.truth, None, ask, 0.5).values()) == {None}


def test_mistakes_are_by_the_image_labels() -> None:
    e = replace(found(), before=np.array([0.2, 0.9, 0.8]))
    missed, alarms = audit.mistakes(e, 0.5)
    assert (missed.tolist(), alarms.tolist()) == ([0], [2])


def test_the_band_lies_outside_and_is_not_taught() -> None:
    masks = np.zeros((2, 5, 5), bool)
    masks[0, 2, 2] = True
    target = student.ignored_band(masks, 1)
    assert (target == 1).sum() == 1
    assert (target == student.IGNORED).sum() == 4
    assert not target[1].any()
    logits = torch.zeros(1, 1, 5, 5)
    other = logits.clone()
    other[0, 0, 1, 2] = 9  # in the band
    given = torch.from_numpy(target[:1, None]).float()
    assert student.student_loss(logits, given) == student.student_loss(other, given)


def test_a_student_keeps_the_size() -> None:
    settings = StudentSettings(width=4)
    assert student.marks(student.build_student(settings).eval(), torch.zeros(2, 1, 16, 16)).shape == (2, 16, 16)


def test_it_sees_no_truth() -> None:
    from pathlib import Path

    source = Path(str(student.__file__)).read_text(encoding="utf-8")
    assert "truth" not in source
    assert "ScoredSlices" not in source
