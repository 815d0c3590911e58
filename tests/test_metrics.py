"""Scores on cases small enough to count."""

from __future__ import annotations

import numpy as np
import pytest

from coinseg.metrics import (
    classification_scores,
    counterfactual_validity,
    dice,
    false_positive_area,
    flip_rate,
    mean_dice,
    pooled_iou,
)

EMPTY = np.zeros((1, 2, 3), bool)


def masks(*rows: str) -> np.ndarray:
    """Masks (n, 1, W), one for each word of 0 and 1."""
    return np.array([[[c == "1" for c in row]] for row in rows])


def test_iou_by_hand() -> None:
    # TP 2, FP 1, FN 1
    assert pooled_iou(masks("111000"), masks("011100")) == 2 / 4
    assert pooled_iou(masks("110"), masks("110")) == 1
    assert pooled_iou(masks("110"), masks("001")) == 0


def test_iou_is_pooled_over_the_images_and_not_averaged() -> None:
    # 1 of 1 in the first and 1 of 5 in the second: 2 of 6 pooled, 0.6 on average.
    assert pooled_iou(masks("10000", "10000"), masks("10000", "11111")) == pytest.approx(2 / 6)


def test_dice_by_hand() -> None:
    assert dice(masks("111000")[0], masks("011100")[0]) == pytest.approx(4 / 6)
    assert dice(masks("1000")[0], masks("1110")[0]) == pytest.approx(2 / 4)
    assert dice(masks("10")[0], masks("01")[0]) == 0


def test_dice_and_iou_say_the_same_of_one_mask() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        p, t = rng.random((2, 1, 5, 5)) < 0.4
        iou, d = pooled_iou(p, t), dice(p[0], t[0])
        assert iou is not None
        assert d == pytest.approx(2 * iou / (1 + iou))
        assert (iou, d) == (pooled_iou(t, p), dice(t[0], p[0]))


def test_both_empty_is_none() -> None:
    assert pooled_iou(EMPTY, EMPTY) is None
    assert dice(EMPTY[0], EMPTY[0]) is None
    assert mean_dice(EMPTY, EMPTY) is None
    assert mean_dice(EMPTY[:0], EMPTY[:0]) is None


def test_one_side_empty_is_zero() -> None:
    assert pooled_iou(EMPTY, ~EMPTY) == 0
    assert dice(~EMPTY[0], EMPTY[0]) == 0


def test_mean_dice_leaves_out_what_is_empty_on_both_sides() -> None:
    # Dice 1, none, 0 and 1/2
    predicted, truth = masks("1100", "0000", "1000", "1000"), masks("1100", "0000", "0000", "1110")
    assert mean_dice(predicted, truth) == pytest.approx((1 + 0 + 0.5) / 3)


def test_mean_dice_wants_equal_numbers() -> None:
    with pytest.raises(ValueError, match="shorter"):
        mean_dice(masks("1", "1"), masks("1"))


def test_false_positive_area() -> None:
    assert false_positive_area(masks("1000", "1100")) == 3 / 8
    assert false_positive_area(EMPTY) == 0
    assert false_positive_area(EMPTY[:0]) is None


def test_validity_by_hand() -> None:
    before, after = np.array([0.95, 0.9, 0.99, 0.3]), np.array([0.05, 0.5, 0.1, 0.0])
    # 0.3 is not sure; of the three sure ones 0.90 and 0.89 exceed 0.8, 0.40 does not.
    assert counterfactual_validity(before, after) == pytest.approx(2 / 3)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_validity_is_strict_at_tau(kind: type) -> None:
    # In quarters, so that the differences are exact.
    before = np.array([1.0, 1.0, 0.75, 0.5], kind)
    after = np.array([0.5, 0.25, 0.25, 0.0], kind)
    assert counterfactual_validity(before, after, tau=0.5) == pytest.approx(1 / 3)  # 0.5 is not sure; 0.5 is not above
    assert counterfactual_validity(np.array([0.8], kind), np.array([0.0], kind)) is None


def test_validity_counts_changes_either_way_and_none_when_nobody_is_sure() -> None:
    assert counterfactual_validity(np.array([0.5]), np.array([0.0]), tau=0.4) == 1
    assert counterfactual_validity(np.array([0.5]), np.array([1.0]), tau=0.4) == 1
    assert counterfactual_validity(np.array([0.1, 0.8]), np.array([0.0, 0.0])) is None
    assert counterfactual_validity(np.array([]), np.array([])) is None


def test_flip_rate() -> None:
    before, after = np.array([0.5, 0.9, 0.7, 0.49]), np.array([0.49, 0.5, 0.1, 0.0])
    # 0.5 is abnormal and 0.49 normal, before as after: the first and third of three flip.
    assert flip_rate(before, after) == pytest.approx(2 / 3)
    assert flip_rate(before, after, threshold=0.8) == 1
    assert flip_rate(before, after, threshold=0.95) is None


def test_classification_of_four_points() -> None:
    # Of the 2 x 2 pairs three are in order: 0.35 > 0.1, 0.8 > 0.1, 0.8 > 0.4.
    found = classification_scores(np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1]))
    assert found["auroc"] == pytest.approx(0.75)
    assert found["accuracy"] == pytest.approx(0.75)


def test_ties_are_half_right() -> None:
    assert classification_scores(np.array([0.5, 0.5]), np.array([0, 1]))["auroc"] == pytest.approx(0.5)


def test_accuracy_at_the_threshold() -> None:
    assert classification_scores(np.array([0.5, 0.25]), np.array([1, 0]))["accuracy"] == 1
    assert classification_scores(np.array([0.5, 0.25]), np.array([1, 0]), threshold=0.25)["accuracy"] == 0.5


def test_calibration_error_by_hand() -> None:
    # Two bins of two: said 0.25 and half were abnormal, said 0.75 and all were.
    found = classification_scores(np.array([0.25, 0.25, 0.75, 0.75]), np.array([0, 1, 1, 1]))
    assert found["calibration_error"] == pytest.approx(0.25, abs=1e-6)
    assert classification_scores(np.array([0.0, 1.0]), np.array([0, 1]))["calibration_error"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_has_no_auroc(label: int) -> None:
    found = classification_scores(np.array([0.2, 0.7]), np.array([label, label]))
    assert found["auroc"] is None
    assert found["accuracy"] == 0.5


def test_nobody_has_no_scores() -> None:
    assert set(classification_scores(np.array([]), np.array([])).values()) == {None}
