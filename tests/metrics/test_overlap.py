"""Scores on cases small enough to count."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torchmetrics.functional.classification import binary_average_precision

from coinseg.metrics import overlap
from coinseg.metrics.overlap import (
    best_threshold,
    classification_scores,
    counterfactual_validity,
    dice,
    flip_rate,
    hd95,
    lesions_by_size,
    mean_dice,
    mean_hd95,
    pixel_auprc,
    pooled_iou,
    scan_scores,
    size_edges,
)

SHAPE = (2, 5, 6)
MASKS = arrays(bool, SHAPE)
MAPS = arrays(np.float32, SHAPE, elements=st.integers(0, 8).map(lambda i: i / 8))  # Eighths: with ties.
THRESHOLDS = np.linspace(0, 1, 41)
law = settings(max_examples=40, deadline=None)
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


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_a_change_of_exactly_tau_is_not_valid(kind: type) -> None:
    before, after = np.array([1.0, 0.9], kind), np.array([0.2, 0.1], kind)
    assert (np.abs(before - after) == kind(0.8))[0]
    assert counterfactual_validity(before[:1], after[:1]) == 0
    assert counterfactual_validity(before, np.nextafter(after, kind(0)) - kind(1e-6)) == 1


def picture(*rows: str) -> np.ndarray:
    """One mask (H, W)."""
    return np.array([[c == "#" for c in row] for row in rows])


def test_hd95_of_two_points_and_two_lines() -> None:
    one, other = picture("#...", "....", "....", "...."), picture("....", "....", "....", "...#")
    assert hd95(one, other) == pytest.approx(np.hypot(3, 3))
    assert hd95(one, other, spacing=(2, 0.5)) == pytest.approx(np.hypot(6, 1.5))
    # Both columns are three apart at every pixel.
    assert hd95(picture("#...", "#...", "#..."), picture("...#", "...#", "...#")) == 3


def test_hd95_is_between_outlines_and_takes_the_worse_direction() -> None:
    block, dot = np.ones((3, 3), bool), picture("...", ".#.", "...")
    # The eight outline pixels of the block (the border of the image is outside) are 1 (4 x) or sqrt 2 (4 x) from the dot,
    # of which the 95th percentile is sqrt 2; from the dot to the outline it is 1.
    assert hd95(block, dot) == pytest.approx(np.sqrt(2))
    assert hd95(dot, block) == pytest.approx(np.sqrt(2))
    # A block and its rim have the same outline.
    rim = np.pad(np.zeros((3, 3), bool), 1, constant_values=True)
    assert hd95(np.ones((5, 5), bool), rim) == 0
    # 1 x 21 pixels against the first of them: distances 0..20, the 95th percentile 19 and not the maximum 20.
    line = np.ones((1, 21), bool)
    assert hd95(line, np.arange(21)[None] == 0) == 19


def test_hd95_needs_both_masks_and_the_mean_says_how_many() -> None:
    predicted, truth = masks("1000", "0000", "1000", "0000", "0110"), masks("0010", "0100", "0000", "0000", "0110")
    assert [hd95(p, t) for p, t in zip(predicted, truth, strict=True)] == [2, None, None, None, 0]
    assert mean_hd95(predicted, truth) == (1, 2)
    assert mean_hd95(predicted, truth, spacing=(1, 3)) == (3, 2)
    assert mean_hd95(predicted[1:4], truth[1:4]) == (None, 0)


@law
@given(MASKS, MASKS)
def test_laws_of_masks(p: np.ndarray, t: np.ndarray) -> None:
    assert hd95(p[0], t[0]) == hd95(t[0], p[0])
    assert hd95(p[0], p[0]) == (0 if p[0].any() else None)
    doubled = hd95(p[0], t[0], spacing=(2, 2))
    assert doubled is None or doubled == pytest.approx(2 * (hd95(p[0], t[0]) or 0))
    iou, d = pooled_iou(p[:1], t[:1]), dice(p[0], t[0])
    assert (iou, d) == (pooled_iou(t[:1], p[:1]), dice(t[0], p[0]))
    assert (iou is None) == (d is None)
    assert iou is None or d is None or iou <= d


def test_hd95_is_that_of_monai() -> None:
    monai = pytest.importorskip("monai.metrics.hausdorff_distance")
    rng = np.random.default_rng(0)
    for spacing in [(1.0, 1.0), (0.7, 2.0)]:
        p, t = rng.random((2, 9, 12)) < 0.3
        as_batch = [torch.from_numpy(m)[None, None].float() for m in (p, t)]
        theirs = monai.compute_hausdorff_distance(*as_batch, include_background=True, percentile=95, spacing=list(spacing))
        assert hd95(p, t, spacing) == pytest.approx(float(theirs), abs=1e-5)


def test_auprc_by_hand() -> None:
    # In order: hit, miss, hit, miss. Recall grows by 1/2 at precision 1, and by 1/2 at precision 2/3.
    saliency, truth = np.array([[[0.9, 0.7, 0.4, 0.1]]]), masks("1010")
    assert pixel_auprc(saliency, truth) == pytest.approx(1 / 2 + 1 / 2 * 2 / 3)
    assert pixel_auprc(np.zeros((1, 1, 4)), truth) == pytest.approx(2 / 4)  # constant: the share of lesion pixels
    assert pixel_auprc(saliency, EMPTY[:, :1, :1] & truth) is None
    # Pooled: the second image, with no lesion, costs precision.
    assert pixel_auprc(np.array([[[0.5]], [[0.9]]]), masks("1", "0")) == pytest.approx(1 / 2)


@law
@given(MAPS, MASKS)
def test_laws_of_auprc(saliency: np.ndarray, truth: np.ndarray) -> None:
    found = pixel_auprc(saliency, truth)
    assert found == pixel_auprc(np.exp(3 * saliency) - 7, truth)
    if not truth.any():
        assert found is None
        return
    exact = binary_average_precision(torch.from_numpy(saliency), torch.from_numpy(truth).long())
    assert found == pytest.approx(float(exact), abs=1e-5)
    assert pixel_auprc(truth.astype(float), truth) == 1


def test_the_oracle_by_hand() -> None:
    saliency, truth = np.array([[[0.9, 0.6, 0.5, 0.2]]]), masks("1100")
    assert best_threshold(saliency, truth, [0.1, 0.3, 0.5, 0.7]) == (1, 0.5)  # above, not at: 0.5 is out
    assert best_threshold(saliency, truth, [0.1, 0.3, 0.7]) == (pytest.approx(2 / 3), 0.3)
    assert best_threshold(saliency, truth, [0.9, 0.95]) == (0, 0.9)  # the first of equals
    assert best_threshold(saliency, truth & False, [0.9, 0.95]) == (None, None)
    assert best_threshold(saliency, truth, []) == (None, None)


def test_the_oracle_compares_exactly() -> None:
    # As float32, 0.1 is a little more than 0.1 and 0.7 a little less.
    saliency = np.array([[[0.1, 0.7]]], np.float32)
    assert best_threshold(saliency, masks("11"), [0.1]) == (1, 0.1)
    assert best_threshold(saliency, masks("11"), [0.7]) == (0, 0.7)


@law
@given(MAPS, MASKS, st.permutations(list(THRESHOLDS)), st.sampled_from([np.float16, np.float32, np.float64]))
def test_the_oracle_is_the_loop(saliency: np.ndarray, truth: np.ndarray, thresholds: list[float], kind: type) -> None:
    # Tenths are not exact in any type: equal to the loop also where thresholds fall between two float32.
    saliency = (saliency * 0.8).astype(kind)
    reached = [(pooled_iou(saliency > np.float64(t), truth), t) for t in thresholds]
    scored = [(value, t) for value, t in reached if value is not None]
    best = max(scored, key=lambda pair: pair[0], default=(None, None))
    assert best_threshold(saliency, truth, thresholds) == best
    assert best_threshold(saliency, truth, thresholds, lambda s, t: s > np.float64(t)) == best


def test_the_oracle_asks_for_masks_at_each_threshold() -> None:
    saliency, truth = np.array([[[0.9, 0.6, 0.5, 0.2]]]), masks("0110")
    without_the_peak = lambda s, t: (s > t) & (s < 0.8)
    assert best_threshold(saliency, truth, [0.1, 0.3, 0.7], without_the_peak) == (1, 0.3)


LESIONS = picture(
    "#.......",
    ".#...###",
    ".....###",
    "........",
    "####....",
    "####...#",
    "####...#",
    "........",
)


def test_lesions_by_size() -> None:
    # Lesions of 2 px (joined at a corner), 6, 12 and 2 px. One corner pixel of the first, the left two columns of the
    # third with two pixels beside it, and a far mark that touches nothing.
    predicted = picture(
        "#.......",
        "........",
        "........",
        "........",
        "##......",
        "##......",
        "##......",
        "##...#..",
    )
    small, middle, large = lesions_by_size(predicted[None], LESIONS[None], (3, 12))
    assert json.loads(json.dumps([small, middle, large])) == [small, middle, large]  # plain numbers, which can be written
    # Dice of the two small ones: 2/3 and 0.
    assert small == {"from_px": 0, "to_px": 3, "lesions": 2, "touched": 1, "found": 1, "mean_dice": pytest.approx(1 / 3)}
    assert middle == {"from_px": 3, "to_px": 12, "lesions": 1, "touched": 0, "found": 0, "mean_dice": 0}
    # 6 of 12 are marked by a component of 8.
    assert large == {"from_px": 12, "to_px": None, "lesions": 1, "touched": 1, "found": 1, "mean_dice": 2 * 6 / (12 + 8)}


def test_marks_that_meet_at_a_corner_are_one() -> None:
    predicted, truth = picture("##..", "..#.", "...#"), picture("##..", "....", "....")
    (row,) = lesions_by_size(predicted[None], truth[None], ())
    assert row["mean_dice"] == pytest.approx(2 * 2 / (2 + 4))


@pytest.mark.parametrize(("marked", "touched", "found"), [(0, 0, 0), (6, 1, 0), (7, 1, 1)])
def test_a_tenth_of_a_lesion_is_found(marked: int, touched: int, found: int) -> None:
    truth = np.ones((1, 7, 10), bool)
    predicted = (np.arange(70) < marked).reshape(truth.shape)
    (row,) = lesions_by_size(predicted, truth, ())
    assert (row["touched"], row["found"]) == (touched, found)
    assert row["mean_dice"] == pytest.approx(2 * marked / (70 + marked))


def test_lesions_do_not_join_across_images_and_no_lesion_has_no_dice() -> None:
    both = np.ones((2, 2, 2), bool)
    assert [row["lesions"] for row in lesions_by_size(both, both, (5,))] == [2, 0]
    assert lesions_by_size(both, both, (5,))[1]["mean_dice"] is None
    assert [row["lesions"] for row in lesions_by_size(EMPTY, EMPTY, (5,))] == [0, 0]


@law
@given(MASKS, MASKS)
def test_every_lesion_is_in_one_class(p: np.ndarray, t: np.ndarray) -> None:
    rows, (whole,) = lesions_by_size(p, t, (2, 5, 9)), lesions_by_size(p, t, ())
    assert all(row["found"] <= row["touched"] <= row["lesions"] for row in rows)
    for name in ("lesions", "touched", "found"):
        assert sum(row[name] for row in rows) == whole[name]
    perfect = lesions_by_size(t, t, ())[0]
    assert perfect["mean_dice"] == (1 if t.any() else None)


def test_size_edges_are_shares_of_the_image() -> None:
    assert size_edges(100) == (10, 50, 200)
    assert size_edges(64) == (5, 21, 82)  # 4.096, 20.48, 81.92: at least that many pixels
    assert size_edges(10, (0.5,)) == (50,)


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


@pytest.mark.parametrize(
    ("one", "other", "together"),
    [(0.61, 0.68, False), (0.61, 0.66, True), (0.71, 0.79, False), (0.34, 0.39, True)],
)  # fmt: skip
def test_calibration_is_judged_in_fifteen_bins(one: float, other: float, together: bool) -> None:
    """Two images, the first abnormal: in one bin their mean is held against a half, in two each against its label."""
    wanted = abs((one + other) / 2 - 0.5) if together else (1 - one + other) / 2
    found = classification_scores(np.array([one, other]), np.array([1, 0]))["calibration_error"]
    assert found == pytest.approx(wanted, abs=1e-6)


def test_unknown_labels_are_left_out_and_mislead_nobody() -> None:
    f, known = np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1])
    assert classification_scores(np.append(f, [0.9, 0.0]), np.append(known, [-1, -1])) == classification_scores(f, known)
    # Where all that is known is normal, what f says of the rest is not: an accuracy on the normal ones alone would mislead.
    assert set(classification_scores(f, np.array([0, 0, -1, -1])).values()) == {None}
    assert classification_scores(f, np.array([0, 0, 0, 0]))["accuracy"] == 0.75


def test_a_scan_is_as_abnormal_as_its_most_abnormal_slice() -> None:
    scan = np.array(["b", "a", "c", "a", "b", "d"])
    f, label = np.array([0.3, 0.1, 0.6, 0.9, 0.2, 0.5]), np.array([0, 1, 0, 0, 0, 1])
    # Scans a 0.9 and d 0.5 are abnormal, b 0.3 and c 0.6 are not: of the four pairs three are in order.
    assert scan_scores(f, label, scan) == {"auroc_scans": pytest.approx(0.75)}
    assert scan_scores(f, label * 0, scan) == {"auroc_scans": None}
    assert scan_scores(f, label, np.arange(6)) == {"auroc_scans": None}  # every image is a scan of its own


def test_what_changes_by_as_much_as_asked_is_not_yet_more() -> None:
    before, after = np.array([1.0, 1.0, 0.75, 0.5]), np.array([0.25, 0.125, 0.0, 1.0])
    # 0.75 itself is neither above tau nor a change of more than tau: of the first two images one counts.
    assert counterfactual_validity(before, after, 0.75) == 1 / 2
    assert counterfactual_validity(before, after, 0.5) == 1
    assert counterfactual_validity(before[3:], after[3:], 0.5) is None
    assert counterfactual_validity(np.array([0.9]), np.array([1.0]), 0.05) == 1  # either direction
    assert flip_rate(before, after, 0.5) == 3 / 4
    assert flip_rate(np.array([0.5, 0.5, 0.25]), np.array([0.5, 0.25, 0.0])) == 1 / 2
    assert flip_rate(np.array([0.25]), np.array([0.0])) is None


@pytest.mark.parametrize("block", [1, 2, 3, 100])
def test_counting_in_blocks_changes_nothing(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    rng = np.random.default_rng(0)
    saliency, truth = rng.integers(0, 5, (7, 6, 6)) / 4, rng.random((7, 6, 6)) < 0.2
    wanted, some = pixel_auprc(saliency, truth), pixel_auprc(saliency[[5, 0, 3]], truth[[5, 0, 3]])
    monkeypatch.setattr(overlap, "BLOCK", block)
    assert [len(each) for each in overlap.blocks_of(np.arange(7))] == [block] * (7 // block) + [7 % block] * (7 % block > 0)
    assert pixel_auprc(saliency, truth) == wanted
    assert pixel_auprc(saliency, truth, np.array([5, 0, 3])) == some != wanted
    assert np.concatenate(overlap.blocks_of(np.array([4, 2, 9]))).tolist() == [4, 2, 9]
