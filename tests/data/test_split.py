"""Which slices are held out where there are few of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from coinseg.data.slices.split import (
    LEFT_OUT,
    TRAINING,
    VALIDATION,
    hashed_side,
    lesion_area,
    require_two_sides,
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
