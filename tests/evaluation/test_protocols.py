"""The two protocols on arrays small enough to count by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from coinseg.config.schema import MaskSettings, Settings
from coinseg.evaluation.protocols import Explained, gated, mask_free, sweep, thesis_masks, thesis_protocol

RAW = replace(
    Settings(),
    masks=MaskSettings(threshold=0.5, peak=0.0, hflip=False, refine="none", opening=0, closing=0, keep="all", min_px=0),
)


def square(top: int, left: int, side: int = 3, size: int = 8) -> np.ndarray:
    mask = np.zeros((size, size), bool)
    mask[top : top + side, left : left + side] = True
    return mask


def explained(**changes: Any) -> Explained:
    """Four slices: a lesion f sees, one it misses, a normal slice, and one labelled normal with a small lesion."""
    truth = np.stack([square(1, 1), square(4, 4), np.zeros((8, 8), bool), square(2, 2, 1)])
    maps = np.stack([square(1, 1) * 0.6, square(4, 4) * 0.4, square(0, 0, 2) * 0.3, square(2, 2, 1) * 0.9])
    image = np.full((4, 1, 8, 8), 0.5)
    base: dict[str, Any] = {
        "rows": np.arange(4), "label": np.array([1, 1, 0, 0]), "before": np.array([0.9, 0.3, 0.2, 0.95]), "image": image,
        "saliency": maps, "refined": maps, "truth": truth, "known": np.ones(4, bool),
        "after": np.array([0.05, 0.3, 0.1, 0.9]), "counterfactual": image - maps[:, None],
    }  # fmt: skip
    return Explained(**(base | changes))


def test_abnormal_is_what_has_a_lesion_whatever_its_label() -> None:
    assert explained().abnormal.tolist() == [True, True, False, True]
    assert explained(known=np.array([True, True, True, False])).abnormal.tolist() == [True, True, False, False]


def test_gating_returns_what_f_calls_normal_unchanged() -> None:
    found = explained()
    kept = gated(found, 0.5)
    assert kept.refined.any((1, 2)).tolist() == [True, False, False, True]
    assert kept.saliency.any((1, 2)).tolist() == [True, False, False, True]
    assert kept.counterfactual is not None
    assert kept.after is not None
    np.testing.assert_array_equal(kept.counterfactual[1], found.image[1])
    assert kept.after.tolist() == [0.05, 0.3, 0.2, 0.9]
    assert gated(explained(after=None, counterfactual=None), 0.5).counterfactual is None


def test_gating_at_the_edge_calls_abnormal() -> None:
    assert gated(explained(before=np.full(4, 0.5)), 0.5).refined.any((1, 2)).all()


def test_replica_scores_labelled_slices_at_the_best_threshold_and_asks_for_all() -> None:
    scores = thesis_protocol(explained())
    # Both labelled lesions are found to the pixel by any threshold below 0.4, the one f misses as well.
    assert scores["iou"] == 1.0
    assert 0 < scores["threshold"] < 0.4
    assert scores["slices"] == 2
    # f is sure of two images (0.9 and 0.95); the first changes by 0.85, the second by 0.05.
    assert scores["cv"] == 0.5
    assert scores["flip_rate"] == 0.5


def test_replica_cleans_counterfactuals_and_leaves_attributions_as_they_are() -> None:
    speck = square(1, 1) | square(6, 6, 1)
    assert thesis_masks(speck[None] * 0.8, 0.5, True)[0].sum() == 9
    assert thesis_masks(speck[None] * 0.8, 0.5, False)[0].sum() == 10
    maps = explained().saliency.copy()
    maps[0, 7, 7] = 0.9
    with_speck = {"saliency": maps}
    assert thesis_protocol(explained(**with_speck))["iou"] == 1.0
    attribution = thesis_protocol(explained(**with_speck, after=None, counterfactual=None))
    assert attribution["iou"] == pytest.approx(18 / 19)
    assert "cv" not in attribution


def test_replica_does_not_see_false_positives_on_normal_slices_and_honest_does() -> None:
    maps = explained().saliency.copy()
    maps[2] = 0.8
    loud = explained(saliency=maps, refined=maps, before=np.full(4, 0.9))
    assert thesis_protocol(loud)["iou"] == 1.0
    predicted = loud.refined > 0.5
    assert mask_free(loud, predicted, 0.5, RAW)["false_positive_area"] == 1.0


def test_honest_by_hand() -> None:
    kept = gated(explained(), 0.5)
    scores = mask_free(kept, kept.refined > 0.5, 0.5, RAW)
    # 9 of the 9 + 9 + 1 lesion pixels are marked, and the 1: the lesion f misses is missed.
    assert scores["iou_mask_free"] == pytest.approx(10 / 19)
    assert scores["dice_per_image"] == pytest.approx(2 / 3)
    assert scores["lesions_touched"] == pytest.approx(2 / 3)
    assert scores["hd95_px"] == 0.0
    assert scores["hd95_slices"] == 2
    assert scores["false_positive_area"] == 0.0
    assert scores["iou_oracle"] == pytest.approx(10 / 19)
    assert (scores["slices_abnormal"], scores["slices_scored"], scores["slices_normal"]) == (3, 3, 1)
    assert [group["lesions"] for group in scores["lesions_by_size"]] == [0, 0, 1, 2]
    assert sum(group["found"] for group in scores["lesions_by_size"]) == 2


def test_honest_says_why_there_is_no_score() -> None:
    unknown = explained(known=np.zeros(4, bool), after=None, counterfactual=None, before=np.full(4, 0.1))
    scores = mask_free(unknown, np.zeros((4, 8, 8), bool), 0.5, RAW)
    assert scores["iou_mask_free"] is None
    assert scores["null_because"]["iou_mask_free"] == "no masks to score with: no held-out abnormal image has a lesion mask"
    assert scores["null_because"]["cv"] == "an attribution has no counterfactual"
    sure = explained(before=np.full(4, 0.1))
    none = mask_free(gated(sure, 0.5), np.zeros((4, 8, 8), bool), 0.5, RAW)
    assert none["null_because"]["hd95_px"] == "no lesion is marked"
    assert none["null_because"]["flip_rate"] == "the classifier calls no held-out image abnormal"
    assert none["iou_mask_free"] == 0.0


def test_without_masks_nothing_is_scored_that_needs_one() -> None:
    """Marks in normal images alone would make an IoU of 0, a risk of 1 and no small lesion found."""
    found = explained(known=np.zeros(4, bool), agreement=np.full(4, 0.9), label=np.array([1, 1, 0, 1]), before=np.full(4, 0.95))
    predicted = np.ones((4, 8, 8), bool)
    scores = mask_free(found, predicted, 0.5, RAW)
    names = ("iou_mask_free", "iou_all_images", "iou_trusted", "iou_doubtful", "risk_area", "confidence_rank", "lesions_by_size")
    for name in names:
        assert scores[name] is None, name
        assert scores["null_because"][name].startswith("no masks to score with"), name
    assert (scores["masks_doubtful"], scores["normals_marked"], scores["abnormals_marked"]) == (0.0, 1.0, 1.0)
    with_truth = mask_free(replace(found, known=np.ones(4, bool)), predicted, 0.5, RAW)
    assert with_truth["iou_trusted"] == pytest.approx((9 + 9 + 0 + 1) / 64 / 4)
    assert with_truth["lesions_by_size"] is not None


def test_the_pooled_iou_is_also_given_with_the_normal_images() -> None:
    found = explained()
    predicted = found.truth.copy()
    predicted[2, :2, :2] = True  # 4 pixels of the normal image
    scores = mask_free(found, predicted, 0.5, RAW)
    assert (scores["iou_mask_free"], scores["iou_all_images"]) == (1.0, pytest.approx(19 / 23))
    assert scores["abnormals_marked"] == 1.0


def test_the_posterior_is_scored_beside_f() -> None:
    found = explained(posterior=np.array([0.9, 0.45, 0.1, 0.3]))  # ranks all four right, where f has one of each class wrong
    scores = mask_free(found, found.refined > 0.5, 0.5, RAW)
    assert (scores["posterior_auroc"], scores["posterior_accuracy"]) == (1.0, 1.0)  # asked from student.gate 0.4 on
    assert (scores["auroc"], scores["accuracy"]) == (0.5, 0.5)
    assert scores["posterior_calibration_error"] == pytest.approx((0.1 + 0.55 + 0.1 + 0.3) / 4)
    none = mask_free(explained(), found.refined > 0.5, 0.5, RAW)
    assert none["posterior_auroc"] is None
    assert none["null_because"]["posterior_auroc"] == "no student: f alone says which images are marked"


def test_scores_do_not_depend_on_the_order_of_the_slices() -> None:
    found, order = explained(), np.array([2, 0, 3, 1])
    shuffled = Explained(**{name: value[order] for name, value in vars(found).items() if value is not None})
    for one, other in ((found, shuffled),):
        a, b = (mask_free(gated(e, 0.5), gated(e, 0.5).refined > 0.5, 0.5, RAW) for e in (one, other))
        assert a == b
        assert thesis_protocol(one) == thesis_protocol(other)


def at(threshold: float) -> Settings:
    """Settings whose f calls an image abnormal from another value on."""
    return replace(RAW, classifier=replace(RAW.classifier, threshold=threshold))


def test_flips_and_accuracy_are_counted_at_the_threshold_of_f() -> None:
    found = explained(before=np.array([0.9, 0.7, 0.2, 0.35]), after=np.array([0.45, 0.05, 0.1, 0.32]))
    scores = {level: mask_free(found, found.refined > 0.5, 0.5, at(level)) for level in (0.3, 0.5, 0.8)}
    assert [scores[level]["flip_rate"] for level in scores] == [pytest.approx(1 / 3), 1.0, 1.0]
    assert [scores[level]["accuracy"] for level in scores] == [0.75, 1.0, 0.75]


def test_cv_counts_what_changes_by_more_than_four_fifths() -> None:
    found = explained(before=np.array([0.9, 0.85, 0.2, 0.95]), after=np.array([0.05, 0.1, 0.1, 0.1]))
    assert mask_free(found, found.refined > 0.5, 0.5, RAW)["cv"] == pytest.approx(2 / 3)


def test_the_oracle_also_tries_a_share_of_the_peak_of_each_image() -> None:
    """One lesion is faint and the other is strong amid a change as strong as the faint one: no threshold finds both."""
    truth = np.stack([square(1, 1), square(4, 4)])
    maps = np.where(truth, np.array([0.8, 0.3])[:, None, None], np.array([0.4, 0.1])[:, None, None])
    assert sweep(maps, truth, 0.0, RAW) == 1.0
    flat = [best for t in np.linspace(0, 1, 200) if (best := float((maps > t)[truth].mean())) and ((maps > t) == truth).all()]
    assert flat == []
    # The threshold that was chosen is the lowest level: above the faint lesion no share finds it.
    assert sweep(maps, truth, 0.5, RAW) < 1.0
    assert sweep(maps, truth, 0.0, RAW, np.array([1])) == 1.0


def test_masks_of_normal_images_count_against_what_is_trusted() -> None:
    truth = np.stack([square(1, 1), square(4, 4), np.zeros((8, 8), bool)])
    predicted = np.stack([square(1, 1), square(4, 4, 1), square(0, 0)])
    found = Explained(
        rows=np.arange(3), label=np.array([1, 1, 0]), before=np.array([0.9, 0.4, 0.8]), image=np.zeros((3, 1, 8, 8)),
        saliency=predicted * 1.0, refined=predicted * 1.0, truth=truth, known=np.ones(3, bool), agreement=np.ones(3),
    )  # fmt: skip
    scores = mask_free(found, predicted, 0.5, RAW)
    assert scores["iou_trusted"] == pytest.approx((1 + 0) / 2)  # the exact mask, and the one of the normal image
    assert scores["iou_doubtful"] == pytest.approx(1 / 9)
    assert scores["masks_doubtful"] == pytest.approx(1 / 3)
    # From the surest on: risk 0, then 0 and 1, then also 8/9.
    assert scores["risk_area"] == pytest.approx((0 + 1 / 2 + (1 + 8 / 9) / 3) / 3)
    assert scores["normals_marked"] == 1.0
    assert scores["false_positive_area"] == pytest.approx(9 / 64)


def test_masks_whose_truth_is_not_known_say_nothing_about_trust() -> None:
    predicted = np.stack([square(1, 1), square(4, 4, 2)])
    found = Explained(
        rows=np.arange(2), label=np.array([1, 1]), before=np.array([0.9, 0.9]), image=np.zeros((2, 1, 8, 8)),
        saliency=predicted * 1.0, refined=predicted * 1.0, truth=np.stack([square(1, 1), np.zeros((8, 8), bool)]),
        known=np.array([True, False]), agreement=np.ones(2),
    )  # fmt: skip
    assert mask_free(found, predicted, 0.5, RAW)["iou_trusted"] == 1.0
