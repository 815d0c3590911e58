"""The audit of f: laws and values by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from coinseg.evaluation import audit
from coinseg.evaluation.explained import Explained
from coinseg.metrics import overlap as metrics


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


# --- by hand ----------------------------------------------------------------------------------------------------------------


def test_only_images_that_the_counterfactual_turned_are_asked_about(monkeypatch: pytest.MonkeyPatch) -> None:
    """Abnormal is from the level on, before and after; the number of those that turned stands beside the shares."""
    e = replace(found(), before=np.array([0.5, 0.49, 0.9]), after=np.array([0.49, 0.0, 0.5]))
    asked: list[int] = []

    def counted(images: np.ndarray) -> np.ndarray:
        asked.append(len(images))
        return ask(images)

    masks = e.image[:, 0] > 0.5
    said = audit.flips(e, masks, None, counted, 0.5)
    assert said["flipped_images"] == 1.0
    assert asked == [1, 1]
    none = audit.flips(replace(e, after=e.before), masks, None, counted, 0.5)
    assert none == dict.fromkeys(("mask_alone", "outside_mask_alone", "organ_alone", "outside_organ_alone")) | {
        "flipped_images": 0.0
    }


@pytest.mark.parametrize("block", [1, 2, 100])
def test_shares_are_of_all_images_that_turned_each_with_its_own_mask_and_organ(
    monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(metrics, "BLOCK", block)
    side, rows = 32, np.array([4, 1, 3, 0])
    image = np.zeros((4, side, side), np.float32)
    image[np.arange(4), 16, 16] = 1
    masks = np.zeros(image.shape, bool)
    masks[[0, 2, 3], 16, 16] = True  # beside the evidence in the second
    organs = np.zeros((5, side, side), np.uint8)
    organs[3, 16, 16 + 2] = 1  # a sixteenth of the side away: in the rim
    organs[1, 16, 16 + 3] = 1  # just outside of it
    organs[0, 16, 16] = 1
    e = Explained(
        rows, np.ones(4, int), np.full(4, 0.9), image[:, None], image, image, masks, np.ones(4, bool), np.zeros(4),
        np.zeros_like(image[:, None]),
    )  # fmt: skip
    said = audit.flips(e, masks, organs, ask, 0.5)
    assert said == {
        "mask_alone": 0.75, "outside_mask_alone": 0.25, "organ_alone": 0.5, "outside_organ_alone": 0.5, "flipped_images": 4.0,
    }  # fmt: skip


def noisy() -> Explained:
    """Five images: rows 3, 0, 2, 1, 4 of the store; brighter from one to the next, and one with noise."""
    image = np.broadcast_to(np.array([0.1, 0.2, 0.3, 0.4, 0.5])[:, None, None], (5, 6, 6)).copy()
    image[4] += np.where(np.indices((6, 6)).sum(0) % 2, 0.125, -0.125)
    none = np.zeros((5, 6, 6), bool)
    return Explained(
        np.array([3, 0, 2, 1, 4]), np.array([1, 0, 0, -1, 0]), np.array([0.9, 0.1, 0.2, 0.6, 0.4]), image[:, None], image, image,
        none, np.zeros(5, bool),
    )  # fmt: skip


def test_cues_by_hand() -> None:
    e, organs = noisy(), np.zeros((5, 6, 6), np.uint8)
    for row in range(5):
        organs[row, 0, : row + 1] = 1
    made = audit.cues(e, np.linspace(0, 1, 5), organs)
    assert list(made) == ["brightness", "contrast", "noise", "position in the scan", "size of the organ"]
    np.testing.assert_allclose(made["brightness"], [0.1, 0.2, 0.3, 0.4, 0.5])
    np.testing.assert_allclose(made["contrast"], [0, 0, 0, 0, 0.125], atol=1e-12)
    # At the border, where most of 36 pixels are, three neighbours are of the other kind, 0.25 away each.
    np.testing.assert_allclose(made["noise"], [0, 0, 0, 0, 0.75], atol=1e-12)
    np.testing.assert_allclose(made["position in the scan"], [0, 0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(made["size of the organ"], np.array([4, 1, 3, 2, 5]) / 36)
    assert list(audit.cues(e, None, None)) == ["brightness", "contrast", "noise"]
    assert list(audit.cues(e, None, organs)) == ["brightness", "contrast", "noise", "size of the organ"]


def test_shortcuts_are_of_known_labels_in_either_direction_and_of_normal_images() -> None:
    e = noisy()
    brightness, contrast = audit.shortcuts(e, {"brightness": np.arange(5.0), "flat": np.zeros(5)})
    # The one abnormal image is the darkest: as good as the brightest. f rises with brightness on the three normal ones.
    assert brightness == {"cue": "brightness", "auroc": 1.0, "follows": pytest.approx(1.0)}
    assert contrast == {"cue": "flat", "auroc": 0.5, "follows": None}
    (falling,) = audit.shortcuts(replace(e, before=np.array([0.9, 0.4, 0.3, 0.0, 0.1])), {"b": np.arange(5.0)})
    assert falling["follows"] == pytest.approx(-1.0)
    (middle,) = audit.shortcuts(e, {"b": np.array([2.0, 1.0, 3.0, 9.0, 4.0])})  # above one of three normal images
    assert middle["auroc"] == pytest.approx(2 / 3)
    (unlabelled,) = audit.shortcuts(replace(e, label=np.full(5, -1)), {"b": np.arange(5.0)})
    assert (unlabelled["auroc"], unlabelled["follows"]) == (None, None)
    both = audit.audit(e, e.truth, None, None, ask, 0.5)
    assert both == {"flips": audit.flips(e, e.truth, None, ask, 0.5), "shortcuts": audit.shortcuts(e, audit.cues(e, None, None))}


def test_the_worst_errors_come_first_and_of_equal_ones_the_first_and_there_are_at_most_four() -> None:
    none = np.zeros((40, 2, 2))
    label = np.arange(40) % 2
    before = np.where(label == 1, 0.25, 0.75)
    before[[11, 13]], before[[20, 22]], before[5], before[6] = 0.125, 0.875, 0.5, 0.5
    e = Explained(np.arange(40), label, before, none[:, None], none, none, none.astype(bool), np.ones(40, bool))
    missed, alarms = audit.mistakes(e, 0.5)
    assert missed.tolist() == [11, 13, 1, 3]
    assert alarms.tolist() == [22, 20, 38, 36]
    missed, alarms = audit.mistakes(e, 0.5, 100)
    assert 5 not in missed  # f says abnormal from the level on
    assert 6 in alarms
    assert (len(missed), len(alarms)) == (19, 20)
    # A lesion in an image that is labelled normal is no false alarm.
    lesion = replace(e, truth=np.arange(40)[:, None, None] == np.full((1, 2, 2), 22))
    assert audit.mistakes(lesion, 0.5)[1].tolist() == [20, 38, 36, 34]
