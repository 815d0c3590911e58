"""Which slices are held out where there are few of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from coinseg.data.slices.split import TRAINING, VALIDATION, require_two_sides, split_rows
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
