"""The verdict on runs that are known to be good, poor, useless or too small to judge."""

from __future__ import annotations

from typing import Any

import pytest

from coinseg.evaluation.verdict import judge, of_classes, trusted

GOOD: dict[str, Any] = {
    "auroc": 0.92, "auroc_scans": None, "slices_abnormal": 40, "slices_normal": 60, "slices_scored": 38, "normals_marked": 0.06,
    "abnormals_marked": 0.9, "flip_rate": 0.95, "iou_mask_free": 0.61, "dice_per_image": 0.66,
}  # fmt: skip
AUDIT = {"flips": {"mask_alone": 0.69, "flipped_images": 35.0}}
NO_MASKS = {"iou_mask_free": None, "dice_per_image": None, "slices_scored": 0}


def said(mask_alone: float | None = 0.69, flipped: float = 35.0, **changes: Any) -> str:
    return judge(GOOD | changes, {"flips": {"mask_alone": mask_alone, "flipped_images": flipped}})


def test_a_good_run_says_what_it_rests_on() -> None:
    assert said() == (
        "OK: the classifier is sound (AUROC 0.92 on 40 abnormal and 60 normal held-out images); something is marked in 6% of 60 "
        "normal images; the mask alone turns f in 69% of 35 images; IoU 0.61 and mean Dice 0.66 over 38 abnormal images with "
        "masks"
    )
    assert said(**NO_MASKS).startswith("OK: ")
    assert said(**NO_MASKS).endswith("; no masks to score with")
    assert judge(GOOD | {"flip_rate": None}, None).startswith("OK: "), "an attribution turns nothing"


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"auroc": 0.31}, "NOT USABLE: the classifier is worse than guessing (AUROC 0.31 on 40 abnormal and 60 normal"),
        ({"auroc": 0.499}, "NOT USABLE: the classifier is worse than guessing"),
        ({"auroc": 0.55}, "NOT USABLE: the classifier is hardly better than guessing"),
        ({"auroc": 0.65}, "DOUBTFUL: the classifier is weak (AUROC 0.65"),
        ({"auroc": None, "auroc_scans": 0.4, "scans_abnormal": 9, "scans_normal": 8},
            "NOT USABLE: the classifier is worse than guessing (AUROC 0.40 on 9 abnormal and 8 normal held-out scans)"),
        ({"normals_marked": 1 / 3}, "DOUBTFUL: something is marked in 33% of 60 normal images"),
        ({"normals_marked": 0.5}, "NOT USABLE: something is marked in 50% of 60 normal images"),
        ({"abnormals_marked": 0.0}, "NOT USABLE: something is marked in 0% of 40 abnormal images"),
        ({"abnormals_marked": 0.1}, "DOUBTFUL: something is marked in 10% of 40 abnormal images"),
        ({"mask_alone": 0.15}, "DOUBTFUL: the mask alone turns f in 15% of 35 images"),
        ({"mask_alone": 0.15, **NO_MASKS}, "NOT USABLE: the mask alone turns f in 15% of 35 images"),
        ({"mask_alone": 0.3}, "DOUBTFUL: the mask alone turns f in 30% of 35 images"),
        ({"flip_rate": 0.0, "mask_alone": None, "flipped": 0.0}, "DOUBTFUL: the counterfactual turns f in 0% of the images"),
        ({"flip_rate": 0.0, "mask_alone": None, "flipped": 0.0, **NO_MASKS}, "NOT USABLE: the counterfactual turns f in 0%"),
        ({"flip_rate": 0.4}, "DOUBTFUL: the counterfactual turns f in 40%"),
        ({"iou_mask_free": 0.03}, "NOT USABLE: IoU 0.03 and mean Dice 0.66 over 38 abnormal images"),
        ({"dice_per_image": 0.0}, "NOT USABLE: IoU 0.61 and mean Dice 0.00"),
        ({"iou_mask_free": 0.2}, "DOUBTFUL: IoU 0.20"),
    ],
)  # fmt: skip
def test_one_measure_is_enough_to_fail(changes: dict[str, Any], line: str) -> None:
    assert said(**changes).startswith(line)
    assert trusted(said(**changes)) is not line.startswith("NOT USABLE")


def test_what_failed_comes_before_what_is_poor_and_what_is_fine_is_left_out() -> None:
    line = said(mask_alone=0.15, iou_mask_free=0.03, normals_marked=0.33)
    assert line == (
        "NOT USABLE: the mask alone turns f in 15% of 35 images; IoU 0.03 and mean Dice 0.66 over 38 abnormal images with masks; "
        "something is marked in 33% of 60 normal images"
    )


def test_too_few_images_are_no_ground_for_a_verdict() -> None:
    few = {"slices_abnormal": 4, "slices_normal": 4, "slices_scored": 4}
    assert said(**few).startswith("NOT JUDGED: only 4 abnormal and 4 normal images are held out, and 5 of each are needed")
    assert said(**few, auroc=0.2).startswith("NOT USABLE: the classifier is worse than guessing"), "what is bad is bad enough"
    two = {"slices_abnormal": 2, "slices_normal": 2, "slices_scored": 2}
    all_wrong = said(None, 0, **two, iou_mask_free=0.0, normals_marked=1.0, auroc=0.0)
    assert all_wrong.startswith("NOT JUDGED: only 2 abnormal"), "two images say nothing"
    one_class = said(auroc=None, slices_normal=0, normals_marked=None)
    assert one_class.startswith("NOT JUDGED: only 40 abnormal and 0 normal images are held out")
    # 5 against 5 by chance: a standard deviation of the AUROC of 0.19, so 0.80 is within 1.64 of them, 0.85 is not.
    few = {"slices_abnormal": 5, "slices_normal": 5, "slices_scored": 5}
    assert said(**few, auroc=0.80).startswith("NOT JUDGED: guessing may reach an AUROC of 0.80 on only 5 abnormal and 5 normal")
    assert said(**few, auroc=0.85).startswith("OK: ")
    assert trusted(said(**few, auroc=0.80))
    assert trusted(None), "a run of an earlier version"


def test_scores_of_an_earlier_version_have_a_verdict() -> None:
    assert judge({"auroc": 0.9, "slices_abnormal": 9, "slices_normal": 9}, {}).startswith("OK: ")
    assert judge({}, None).startswith("NOT JUDGED: ")


STATES = ("NOT USABLE", "DOUBTFUL", "OK")


@pytest.mark.parametrize(
    ("measure", "bounds"),
    [("auroc", (0.6, 0.7)), ("flip_rate", (0.1, 0.5)), ("mask_alone", (0.2, 0.4)), ("iou_mask_free", (0.1, 0.3)),
     ("dice_per_image", (0.1, 0.3))],
)  # fmt: skip
def test_a_measure_fails_below_its_first_bound_and_is_poor_below_its_second(measure: str, bounds: tuple[float, float]) -> None:
    without = {} if measure in ("iou_mask_free", "dice_per_image") else NO_MASKS  # with masks what turns f only casts doubt
    for value, state in ((bounds[0] - 0.001, 0), (bounds[0], 1), (bounds[1] - 0.001, 1), (bounds[1], 2)):
        assert said(**without | {measure: value}).split(":")[0] == STATES[state], value  # type: ignore[arg-type]


def test_marks_fail_where_half_of_the_normal_images_are_marked_and_where_no_abnormal_one_is() -> None:
    for value, state in ((0.249, 2), (0.25, 1), (0.499, 1), (0.5, 0)):
        assert said(normals_marked=value).split(":")[0] == STATES[state], value
    for value, state in ((0.0, 0), (0.001, 1), (0.249, 1), (0.25, 2)):
        assert said(abnormals_marked=value).split(":")[0] == STATES[state], value


def test_every_measure_needs_three_images() -> None:
    bad = {"normals_marked": 1.0, "abnormals_marked": 0.0, "flip_rate": 0.0, "iou_mask_free": 0.0}
    for count, state in ((2, "NOT JUDGED"), (3, "NOT USABLE")):
        for changes in (
            {"slices_normal": count, "normals_marked": 1.0}, {"slices_abnormal": count, "abnormals_marked": 0.0},
            {"slices_abnormal": count, "auroc": 0.4}, {"slices_normal": count, "auroc": 0.4},
        ):  # fmt: skip
            assert said(**changes).startswith(state), changes
        assert said(**NO_MASKS, flipped=count, mask_alone=0.0).startswith("NOT USABLE" if count == 3 else "OK")
        assert said(slices_scored=count, iou_mask_free=0.0).startswith("NOT USABLE" if count == 3 else "OK")
        few = {"slices_abnormal": 0, "slices_normal": 0, "flip_rate": 0.0}
        assert said(None, count, **few, **NO_MASKS).startswith(state)
        few["slices_abnormal"] = count
        assert said(None, 0, **few, **NO_MASKS, abnormals_marked=None, auroc=None).startswith(state)
    assert said(**bad).count("; ") == 3


def test_what_turns_f_only_casts_doubt_where_masks_fit_and_fails_a_run_where_they_are_poor() -> None:
    assert said(mask_alone=0.0).startswith("DOUBTFUL: the mask alone turns f in 0%")
    assert said(mask_alone=0.0, iou_mask_free=0.2).startswith("NOT USABLE: the mask alone turns f in 0%")
    assert said(mask_alone=0.0, slices_scored=2).startswith("NOT USABLE: the mask alone")  # two masks say nothing


def test_an_auroc_that_guessing_may_reach_is_not_judged() -> None:
    """Of 6 abnormal and 8 normal images guessing has a standard deviation of sqrt(15 / (12 * 48)) = 0.161: up to 0.765."""
    few = {"slices_abnormal": 6, "slices_normal": 8, "slices_scored": 6}
    assert said(**few, auroc=0.76).startswith(
        "NOT JUDGED: guessing may reach an AUROC of 0.76 on only 6 abnormal and 8 normal images"
    )
    assert said(**few, auroc=0.77).startswith("OK: ")
    five = {"slices_abnormal": 5, "slices_normal": 5, "slices_scored": 5, "auroc": 1.0}
    assert said(**five).startswith("OK: ")
    for side in ("slices_abnormal", "slices_normal"):
        assert said(**five | {side: 4}).startswith("NOT JUDGED: only "), side
    scans = {"auroc": None, "auroc_scans": 0.95, "scans_abnormal": 9, "scans_normal": 4}
    assert said(**scans).startswith("NOT JUDGED: only 9 abnormal and 4 normal scans are held out")
    assert "(AUROC 0.95 on 9 abnormal and 5 normal held-out scans)" in said(**scans | {"scans_normal": 5})


def test_of_several_classes_the_worst_is_said_and_its_state_comes_first() -> None:
    bad = {"a": "OK: fine", "b": "DOUBTFUL: poor", "c": "NOT USABLE: it guesses; more", "d": "NOT JUDGED: few"}
    assert of_classes(bad) == "NOT USABLE: c: it guesses; more"
    assert not trusted(of_classes(bad))
    assert of_classes({"a": "OK: fine", "b": "DOUBTFUL: poor", "d": "NOT JUDGED: few"}) == "DOUBTFUL: b: poor"
    assert of_classes({"a": "OK: fine", "d": "NOT JUDGED: few"}) == "NOT JUDGED: d: few"
    assert of_classes({"a": "OK: fine", "b": "OK: too"}) == "OK in all 2 classes"
