"""The two protocols on arrays small enough to count by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from coinseg.config.schema import MaskSettings, Settings
from coinseg.evaluation import protocols
from coinseg.evaluation.explained import Explained
from coinseg.evaluation.protocols import gated, mask_free, sweep, thesis_masks, thesis_protocol

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


# --- what stays what it is, and borders -------------------------------------------------------------------------------------


def test_the_levels_and_the_cleaning_of_both_protocols() -> None:
    """4.2 of the thesis names no steps; these are those of its runs: finer where maps are dark."""
    thesis = [0.005 * i for i in range(1, 60)] + [0.3 + 0.02 * i for i in range(35)]
    np.testing.assert_allclose(protocols.THESIS_THRESHOLDS, thesis)
    np.testing.assert_allclose(
        protocols.ORACLE_THRESHOLDS, [0.0125 * i for i in range(1, 41)] + [0.5 + 0.025 * i for i in range(1, 20)], atol=1e-12
    )
    np.testing.assert_allclose(protocols.ORACLE_PEAKS, [0.025 * i for i in range(1, 41)])
    cleaning = protocols.THESIS_CLEANING
    assert (cleaning.opening, cleaning.closing, cleaning.keep, cleaning.min_px) == (3, 3, "largest", 0)


def test_one_marked_pixel_is_a_mark() -> None:
    found = explained(label=np.array([1, 1, 0, 0]), truth=np.zeros((4, 8, 8), bool))
    predicted = np.zeros((4, 8, 8), bool)
    predicted[[0, 2], 0, 0] = True
    scores = mask_free(found, predicted, 0.5, RAW)
    assert (scores["normals_marked"], scores["abnormals_marked"]) == (0.5, 0.5)
    assert scores["false_positive_area"] == pytest.approx(1 / 128)
    assert (scores["slices_normal"], scores["slices_abnormal"], scores["slices_unknown"]) == (2, 2, 0)


def test_an_unknown_slice_is_neither_normal_nor_abnormal_unless_a_lesion_is_seen_in_it() -> None:
    found = explained(label=np.array([1, -1, -1, 0]), known=np.array([True, True, False, True]))
    assert found.abnormal.tolist() == [True, True, False, True]
    assert found.normal.tolist() == [False] * 4
    scores = mask_free(found, found.truth, 0.5, RAW)
    assert (scores["slices_unknown"], scores["slices_normal"], scores["slices_scored"]) == (2, 0, 3)
    assert scores["false_positive_area"] is scores["normals_marked"] is None
    assert scores["null_because"]["normals_marked"] == "no held-out image is normal"
    assert scores["iou_all_images"] == 1.0
    same = mask_free(replace(found, label=np.array([1, 1, -1, 1])), found.truth, 0.5, RAW)
    assert same["auroc"] is None
    assert same["null_because"]["auroc"] == "abnormal scans have no labels by slice"


def test_the_confidence_of_a_mask_is_f_times_the_agreement_of_both_views() -> None:
    found = explained(agreement=np.array([0.5, 1.0, 0.0, 0.2]))
    masks = found.truth
    np.testing.assert_allclose(found.confidence(masks), [0.45, 0.3, np.nan, 0.19])
    assert np.isnan(explained().confidence(masks)).all()
    assert explained().levels(0.3, [1, 2]) == 0.3
    assert explained(level=np.array([0.1, 0.2, 0.3, 0.4])).levels(0.3, [3, 1]).tolist() == [0.4, 0.2]  # type: ignore[union-attr]


def test_confidence_is_ranked_against_the_iou_of_every_mask_that_is_not_empty() -> None:
    truth = np.stack([square(1, 1), square(1, 1), square(4, 4), square(4, 4), np.zeros((8, 8), bool)])
    predicted = truth.copy()
    predicted[1, 1], predicted[2, 4:6] = False, False  # IoU 6/9 and 3/9
    predicted[3] = False
    found = Explained(
        np.arange(5), np.array([1, 1, 1, 1, 0]), np.array([0.9, 0.5, 0.4, 0.8, 0.1]), truth * 1.0, truth * 1.0, truth * 1.0,
        truth, np.ones(5, bool), agreement=np.ones(5),
    )  # fmt: skip
    scores = mask_free(found, predicted, 0.5, RAW)
    assert scores["confidence_rank"] == pytest.approx(1.0)
    assert scores["iou_trusted"] == pytest.approx((1 + 6 / 9) / 2)  # from one half on
    assert scores["iou_doubtful"] == pytest.approx(3 / 9)
    assert scores["masks_doubtful"] == pytest.approx(1 / 3)
    assert scores["risk_area"] == pytest.approx((0 + (1 / 3) / 2 + (1 / 3 + 2 / 3) / 3) / 3)
    assert (scores["slices_scored"], scores["hd95_slices"]) == (4, 3)
    assert scores["lesions_touched"] == 0.75
    sure = mask_free(replace(found, before=np.full(5, 0.9)), predicted, 0.5, RAW)
    assert sure["null_because"]["iou_doubtful"] == "no mask is doubtful"
    assert sure["null_because"]["confidence_rank"] == "too few masks, or all alike, to rank"
    doubted = mask_free(replace(found, before=np.full(5, 0.2)), predicted, 0.5, RAW)
    assert doubted["null_because"]["iou_trusted"] == "no mask is trusted"
    empty = mask_free(found, predicted & False, 0.5, RAW)
    assert empty["null_because"]["masks_doubtful"] == "nothing is marked"
    blind = mask_free(replace(found, agreement=None), predicted, 0.5, RAW)
    assert blind["null_because"]["risk_area"] == "masks.hflip is off: mirror images were not asked"


def test_why_there_is_no_score_in_every_case() -> None:
    nothing = np.zeros((4, 8, 8), bool)
    one_class = mask_free(explained(label=np.array([1, 1, 1, 1]), before=np.full(4, 0.1)), nothing, 0.5, RAW)["null_because"]
    assert one_class["auroc"] == "only one class is held out"
    assert one_class["cv"] == "the classifier calls no held-out image abnormal with f > 0.8"
    none = mask_free(explained(label=np.zeros(4, int), truth=nothing), nothing, 0.5, RAW)["null_because"]
    assert none["abnormals_marked"] == "no held-out image is abnormal"
    for name in (
        "iou_mask_free",
        "iou_all_images",
        "iou_oracle",
        "dice_per_image",
        "hd95_px",
        "auprc",
        "lesions_touched",
        "lesions_by_size",
    ):
        assert none[name] == "no masks to score with: no held-out abnormal image has a lesion mask"
    posterior = mask_free(explained(posterior=np.full(4, 0.5), label=np.ones(4, int)), nothing, 0.5, RAW)["null_because"]
    assert posterior["posterior_auroc"] == "only one class is held out"


def test_oracle_and_ranking_are_of_scored_images_alone_and_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    found = explained(known=np.array([True, False, True, False]))
    loud = replace(found, refined=found.refined + np.array([0, 0.5, 0.1, 0.5])[:, None, None])
    scores = mask_free(loud, found.truth, 0.5, RAW)
    assert (scores["iou_oracle"], scores["auprc"], scores["slices_scored"]) == (1.0, 1.0, 1)
    whole = mask_free(loud, loud.refined > 0.45, 0.5, RAW)
    monkeypatch.setattr(protocols.metrics, "BLOCK", 1)
    assert mask_free(loud, loud.refined > 0.45, 0.5, RAW) == whole


def test_the_thesis_is_scored_on_images_labelled_abnormal_whose_masks_are_known() -> None:
    found = explained(known=np.array([True, False, True, True]))
    assert thesis_protocol(found)["slices"] == 1  # not the lesion in an image that is labelled normal
    none = thesis_protocol(explained(label=np.zeros(4, int)))
    assert (none["iou"], none["threshold"], none["slices"]) == (None, None, 0)


def test_a_single_image_is_scored() -> None:
    one = Explained(**{name: value[2:3] for name, value in vars(explained()).items() if value is not None})
    assert mask_free(one, np.ones((1, 8, 8), bool), 0.5, RAW)["false_positive_area"] == 1.0
