"""Which slices are held out where there are few of them."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from coinseg.data.slices.split import (
    LEFT_OUT,
    TRAINING,
    VALIDATION,
    groups,
    hashed_side,
    lesion_area,
    require_both_classes,
    require_labels,
    require_masks,
    require_two_sides,
    require_usable,
    split,
    split_rows,
)
from coinseg.errors import UserError
from conftest import tiny_settings

BY_SLICE = replace(tiny_settings(), data=replace(tiny_settings().data, split_by="slice", validation=0.2))


def row(series: str, place: int, label: int = 0, patient: str = "p", **more: Any) -> dict[str, Any]:
    return {
        "case": f"{series}-{place}",
        "series": series,
        "slice": place,
        "region": -1,
        "label": label,
        "patient": patient,
    } | more


def held_out(rows: list[dict[str, Any]]) -> list[int]:
    return np.flatnonzero(split_rows(rows, BY_SLICE) == VALIDATION).tolist()


def test_the_last_slices_of_every_scan_and_region_are_held_out() -> None:
    rows = [row("a", i) for i in range(10)] + [row("b", i) for i in range(5)] + [row("a", i, region=1) for i in range(5)]
    assert held_out(rows) == [8, 9, 14, 19]


def test_images_of_a_scan_are_held_out_by_their_number_and_not_by_their_name() -> None:
    assert held_out([row("p/", place) for place in (3, 4, 0, 1, 2)]) == [1]


def test_single_slices_belong_to_their_patient_and_of_patients_of_one_to_their_label() -> None:
    of_one_patient = [row(f"i{i}", 0, label=i % 2) for i in range(10)]
    assert held_out(of_one_patient) == [8, 9]
    of_their_own = [row(f"i{i}", 0, label=int(i >= 5), patient=f"p{i}") for i in range(10)]
    assert held_out(of_their_own) == [4, 9]  # one of each class


@pytest.mark.parametrize(
    ("sides", "by", "message"),
    [
        (
            [TRAINING] * 3,
            "hash",
            r"data\.split_by hash\) leaves none of the 3 slices to hold out; .*set --data\.split_by patient",
        ),
        ([LEFT_OUT] * 2, "hash", r"leaves none of the 2 slices to train on; .*set --data\.split_by patient"),
        ([VALIDATION], "slice", r"leaves none of the 1 slices to train on; .*add slices or patients"),
    ],
)
def test_a_side_without_slices_is_refused(sides: list[int], by: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        require_two_sides(np.array(sides), replace(BY_SLICE.data, split_by=by))


@pytest.mark.parametrize(
    ("held_out", "expected"),
    [("validation", [TRAINING, TRAINING, VALIDATION, VALIDATION, LEFT_OUT, LEFT_OUT]),
     ("test", [TRAINING, TRAINING, LEFT_OUT, LEFT_OUT, VALIDATION, VALIDATION])],
)  # fmt: skip
def test_the_fifths_of_the_hash_stay_what_they_are(held_out: str, expected: list[int]) -> None:
    """SHA-256 of these ids begins with 0.053, 0.568, 0.677, 0.765, 0.802 and 0.973 of its range; everything was chosen on the
    first fifth above 0.6, and tables were read on the second."""
    assert [hashed_side(name, held_out) for name in ("s0021", "s0018", "s0019", "s0026", "s0001", "s0013")] == expected


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("by", ["labels", "lesion_area"])
def test_of_every_five_patients_in_the_order_of_their_lesions_one_is_held_out(seed: int, by: str) -> None:
    rng = np.random.default_rng(seed)
    amount = rng.permutation(40)  # abnormal slices of 40, or lesion pixels, of every patient: no two are alike
    patients = [f"p{i:02d}" for i in range(40) for _ in range(40)]
    labels = np.array([int(place < amount[i]) for i in range(40) for place in range(40)])
    area = np.array([int(amount[i]) * 7 * (place == 3) for i in range(40) for place in range(40)])
    side = split(patients, labels, 0.2, seed, area if by == "lesion_area" else None)
    held = [side[f"p{i:02d}"] == VALIDATION for i in np.argsort(amount)]
    assert np.reshape(held, (8, 5)).sum(1).tolist() == [1] * 8
    assert len(side) == 40


def test_patients_are_ordered_by_their_lesion_pixels_and_not_by_their_abnormal_slices() -> None:
    rows = [row("a", 0, lesion_px=3, patient="p"), row("b", 1, label=1, lesion_px=500), row("c", 2, lesion_px=-1)]
    assert lesion_area(rows).tolist() == [3, 500, 0]
    with pytest.raises(UserError, match="slice 4 of a-4 has no lesion mask"):
        lesion_area([row("a", 4, label=1, lesion_px=-1)])
    # Six patients with one abnormal slice each: which one of three is held out depends on the pixels.
    settings = replace(BY_SLICE, data=replace(BY_SLICE.data, split_by="patient", stratify="lesion_area", validation=0.34))
    pixels = {f"p{i}": px for i, px in enumerate((900, 10, 800, 20, 700, 30))}
    given = [row(name, 0, label=1, lesion_px=px, patient=name) for name, px in pixels.items()]
    for seed in range(10):
        sides = split_rows(given, replace(settings, seed=seed))
        held = [each["lesion_px"] > 100 for each, side in zip(given, sides, strict=True) if side == VALIDATION]
        assert sorted(held) == [False, True]


# --- what stays what it is ------------------------------------------------------------------------------------------------


def test_the_patients_held_out_of_a_cohort_stay_the_same() -> None:
    """Golden: with other ones every run folder would be trained again. Eleven patients are five and six, not of one size."""
    patients = [f"p{i:02d}" for i in range(11) for _ in range(6)]
    labels = np.array([int(place < i % 7) for i in range(11) for place in range(6)])
    area = np.array([(i * 37 % 11) * (place == 0) for i in range(11) for place in range(6)])
    by_labels, by_area = split(patients, labels, 0.2, 0), split(patients, labels, 0.2, 0, area)
    assert sorted(name for name, side in by_labels.items() if side == VALIDATION) == ["p01", "p06"]
    assert sorted(name for name, side in by_area.items() if side == VALIDATION) == ["p08", "p09"]
    assert set(by_labels.values()) == {TRAINING, VALIDATION}


@pytest.mark.parametrize(("patients", "share", "held"), [(2, 0.2, 1), (7, 0.2, 1), (8, 0.2, 2), (10, 0.34, 3), (3, 0.9, 3)])
def test_a_share_of_the_patients_is_held_out_and_at_least_one(patients: int, share: float, held: int) -> None:
    names = [f"p{i}" for i in range(patients)]
    sides = split(names, np.arange(patients) % 2, share, 0)
    assert list(sides.values()).count(VALIDATION) == held


def test_a_patient_whose_name_is_a_number_is_the_one_of_that_name() -> None:
    settings = replace(BY_SLICE, data=replace(BY_SLICE.data, split_by="hash"))
    numbers, names = ([row("a", i, patient=kind(i)) for i in range(30)] for kind in (int, str))
    assert split_rows(numbers, settings).tolist() == split_rows(names, settings).tolist()
    assert set(split_rows(names, settings).tolist()) == {TRAINING, VALIDATION, LEFT_OUT}


def test_another_seed_draws_other_patients() -> None:
    names, labels = [f"p{i}" for i in range(20)], np.zeros(20, int)
    drawn = [tuple(name for name, side in split(names, labels, 0.2, seed).items() if side == VALIDATION) for seed in range(8)]
    assert len(set(drawn)) > 4
    assert drawn[0] == tuple(name for name, side in split(names, labels, 0.2, 0).items() if side == VALIDATION)


@pytest.mark.parametrize("seed", range(5))
def test_patients_are_ordered_by_the_share_of_their_abnormal_slices_and_not_by_their_number(seed: int) -> None:
    slices, abnormal = [10, 10, 100, 100, 20, 200], [9, 8, 10, 20, 14, 10]  # shares 0.9, 0.8, 0.1, 0.2, 0.7, 0.05
    patients = [f"p{i}" for i, count in enumerate(slices) for _ in range(count)]
    labels = np.array([int(place < abnormal[i]) for i, count in enumerate(slices) for place in range(count)])
    held = [name for name, side in split(patients, labels, 0.34, seed).items() if side == VALIDATION]
    assert sorted(name in {"p0", "p1", "p4"} for name in held) == [False, True]


def test_groups_are_the_places_of_every_name_in_their_order() -> None:
    names = np.random.default_rng(0).integers(0, 7, 200).astype(str)
    found = groups(names)
    assert [group.tolist() for group in found] == [np.flatnonzero(names == name).tolist() for name in sorted(set(names))]
    assert groups(np.array([], str)) == []


def test_a_label_of_nobody_is_no_abnormal_slice() -> None:
    """Slices of scans whose label alone is known (-1) count like normal ones: 5 of 10 abnormal before 0 of 10."""
    patients = [f"p{i}" for i in range(4) for _ in range(10)]
    unknown = np.array([1] * 5 + [0] * 5 + [-1] * 10 + [1] * 6 + [0] * 4 + [-1] * 10)
    normal = np.where(unknown == 1, 1, 0)
    for seed in range(6):
        assert split(patients, unknown, 0.5, seed) == split(patients, normal, 0.5, seed)


# --- what is refused --------------------------------------------------------------------------------------------------------

NO_ANOMALY = tiny_settings()


def with_data(**changes: Any) -> Any:
    return replace(NO_ANOMALY, data=replace(NO_ANOMALY.data, **changes))


def test_what_cannot_be_split_is_refused_and_what_can_is_not() -> None:
    both = [row("a", 0, label=1, patient="p", lesion_px=9), row("b", 0, patient="q", lesion_px=0)]
    require_usable(both, [], NO_ANOMALY)
    with pytest.raises(UserError, match=r"no usable slice \(one; two; three\)"):
        require_usable([], ["one", "two", "three", "four"], NO_ANOMALY)
    with pytest.raises(UserError, match=r"no usable slice \(no case has one\)"):
        require_usable([], [], NO_ANOMALY)
    for label, word in ((0, "normal"), (1, "abnormal")):
        same = [each | {"label": label} for each in both]
        with pytest.raises(UserError, match=rf"all 2 usable slices are {word}"):
            require_usable(same, [], NO_ANOMALY)
        injected = replace(NO_ANOMALY, anomaly=replace(NO_ANOMALY.anomaly, kind="blob"))
        require_usable(same, [], injected)  # the anomalies make the other class
    # A lesion that is too small to count is named, and the setting that leaves it out.
    small = [each | {"label": 0} for each in both]
    with pytest.raises(UserError, match=r"normal, 1 of them with a lesion of at most \d+ pixels.*lower data\.min_lesion_px, add"):
        require_usable(small, [], NO_ANOMALY)
    with pytest.raises(UserError, match=r"normal; required: .*; add the other class"):
        require_usable([each | {"lesion_px": 0} for each in small], [], NO_ANOMALY)
    one_patient = [each | {"patient": "p"} for each in both]
    with pytest.raises(UserError, match=r"only 1 patient has usable slices \(no other was given\)"):
        require_usable(one_patient, [], NO_ANOMALY)
    require_usable(one_patient, [], with_data(split_by="slice"))


def test_both_sides_and_both_classes_are_required_of_the_side_that_is_trained_on() -> None:
    sides, data = np.array([TRAINING, TRAINING, VALIDATION, VALIDATION, LEFT_OUT]), NO_ANOMALY.data
    require_two_sides(sides, data)
    require_both_classes(np.array([0, 1, 0, 0, 0]), sides, 0)
    with pytest.raises(UserError, match=r"has 2 normal and 0 abnormal slices; required: .*--data\.validation$"):
        require_both_classes(np.array([0, 0, 1, 1, 1]), sides, 0)
    with pytest.raises(
        UserError, match=r"has 0 normal and 2 abnormal slices, and 3 with small lesions are left out of it.*min_lesion_px"
    ):
        require_both_classes(np.array([1, 1, 0, 0, 0]), sides, 3)


def test_masks_are_required_where_patients_are_ordered_by_them() -> None:
    def cohort(*lesions: bool, labelled: bool = True) -> Any:
        cases = [SimpleNamespace(lesion=("mask",) if lesion else ()) for lesion in lesions]
        return SimpleNamespace(cases=cases, labelled=labelled, label_source="nowhere")

    by_area = with_data(split_by="patient", stratify="lesion_area").data
    with pytest.raises(UserError, match="stratify is lesion_area and no case has a lesion mask"):
        require_masks(cohort(False, False), by_area)
    require_masks(cohort(False, True), by_area)
    require_masks(cohort(False), with_data(split_by="slice", stratify="lesion_area").data)
    require_masks(cohort(False), with_data(split_by="patient", stratify="labels").data)
    with pytest.raises(UserError, match="no case has an image label or a lesion mask: nowhere"):
        require_labels(cohort(False, labelled=False), injected=False)
    require_labels(cohort(False, labelled=False), injected=True)
    require_labels(cohort(False), injected=False)
