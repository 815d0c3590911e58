"""The audit of f: laws and values by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from coinseg.evaluation import audit
from coinseg.evaluation.protocols import Explained


def found() -> Explained:
    """Two images with a bright pixel each, which the counterfactual takes away, and one normal image."""
    image = np.zeros((3, 1, 4, 4), np.float32)
    image[0, 0, 1, 1] = image[1, 0, 2, 2] = 1
    none = np.zeros((3, 4, 4), bool)
    return Explained(
        rows=np.arange(3), label=np.array([1, 1, 0]), before=np.array([0.9, 0.9, 0.1]), image=image,
        saliency=image[:, 0], refined=image[:, 0],
        truth=none, known=np.zeros(3, bool), after=np.zeros(3), counterfactual=np.zeros_like(image),
    )  # fmt: skip


def ask(images: np.ndarray) -> np.ndarray:
    """f sees any bright pixel."""
    return images.max((1, 2, 3))


def test_a_mask_on_the_evidence_turns_f_and_one_beside_it_does_not() -> None:
    e = found()
    masks = e.image[:, 0] > 0.5
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


def test_the_rim_of_an_organ_is_in_its_own_image_and_a_sixteenth_of_the_side() -> None:
    organ = np.zeros((3, 64, 64), bool)
    organ[1, 20:30, 20:30] = True
    rim = audit.with_rim(organ)
    assert not rim[[0, 2]].any()
    assert rim[1, 16:34, 25].all()
    assert rim[1, :, 25].sum() == 18
    assert (audit.with_rim(organ[:, :4, :4]) == organ[:, :4, :4]).all()
