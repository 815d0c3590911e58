"""The tools of the desk on masks whose answer is known, the order of the queue, and the agreement of reviewers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from desks import SHAPE, masks_folder
from hypothesis import given, settings
from hypothesis import strategies as st

from coinseg.data.readers.axes import turned
from coinseg.errors import UserError
from coinseg.review import tools
from coinseg.review.agreement import agreement, kappa
from coinseg.review.desk import Rules, desk_on
from coinseg.review.kept.records import CaseRecord, Decision
from coinseg.review.kept.store import Store
from coinseg.review.queue import LIKE, MOST_APART, asks_second, described, minutes_left, queue_of, worth_looking_at
from coinseg.review.scans import solid_of
from coinseg.review.sources import key_of_case, read_source


def disc(radius: float, side: int = 21) -> np.ndarray:
    y, x = np.mgrid[:side, :side] - side // 2
    return np.asarray(np.hypot(y, x) <= radius)


def test_the_threshold_takes_voxels_from_its_percent_on_in_one_slice_or_all() -> None:
    confidence = np.tile(np.arange(0, 100, 10, dtype=np.uint8), (3, 2, 1))
    mask = np.zeros(confidence.shape, bool)
    one = tools.threshold(mask, confidence, 50, 1)
    assert one[1].sum(1).tolist() == [5, 5]
    assert not one[[0, 2]].any()
    assert (tools.threshold(mask, confidence, 50, None) == (confidence >= 50)).all()


def test_grow_and_shrink_are_pixels_within_the_slice() -> None:
    mask = np.zeros((3, 9, 9), bool)
    mask[1, 4, 4] = True
    grown = tools.grow(mask, 2, None)
    assert grown.sum((1, 2)).tolist() == [0, 13, 0]
    assert (tools.grow(grown, -2, 1) == mask).all()
    whole = np.ones((1, 5, 5), bool)
    assert tools.grow(whole, -1, None).all()  # what reaches the border of the image goes on behind it


def test_fill_and_holes_and_parts() -> None:
    mask = np.zeros((4, 12, 12), bool)
    mask[1:3, 2:7, 2:7] = True
    mask[1:3, 4, 4] = False
    mask[1, 9:11, 9:11] = True
    assert tools.fill_holes(mask, 1)[1].sum() == 25 + 4
    assert not tools.fill_holes(mask, 1)[2, 4, 4]
    assert tools.fill_at(mask, 1, 4, 4)[1, 4, 4]
    with pytest.raises(UserError, match="not enclosed"):
        tools.fill_at(mask, 1, 0, 0)
    assert (tools.fill_at(mask, 1, 3, 3) == mask).all()
    assert tools.without_component(mask, 1, 3, 3, True)[:, :8].sum() == 0
    only = tools.without_component(mask, 1, 3, 3, False)
    assert (only[1, :8].sum(), only[2, :8].sum(), only[1, 9:].sum()) == (0, 24, 4)
    assert tools.cleared(mask, 1).sum() == 24


def test_between_two_discs_lie_discs_between() -> None:
    mask = np.zeros((5, 21, 21), bool)
    mask[0], mask[4] = disc(4), disc(8)
    mask[2, 0, 0] = True  # what was there between is replaced
    found = tools.interpolated(mask, 4, 0)
    areas = found.sum((1, 2))
    assert (np.diff(areas) > 0).all()
    assert abs(int(areas[2]) - int(disc(6).sum())) <= 8
    assert (found[[0, 4]] == mask[[0, 4]]).all()
    same = mask.copy()
    same[4] = same[0]
    assert (tools.interpolated(same, 0, 4) == same[0]).all()


@given(st.integers(0, 2**16))
@settings(max_examples=20, deadline=None)
def test_no_tool_changes_what_it_is_given(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.random((4, 7, 8)) < 0.4
    mask[1, 2, 3] = mask[3, 2, 3] = True
    before, confidence = mask.copy(), rng.integers(0, 100, mask.shape).astype(np.uint8)
    for made in (
        tools.threshold(mask, confidence, 50, 1), tools.grow(mask, 1, None), tools.grow(mask, -1, 2),
        tools.fill_holes(mask, None),
        tools.without_component(mask, 1, 2, 3, True), tools.without_component(mask, 1, 2, 3, False), tools.cleared(mask, 1),
        tools.interpolated(mask, 1, 3),
    ):  # fmt: skip
        assert made is not mask
        assert made.shape == mask.shape
        assert (mask == before).all()


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_a_stroke_in_every_plane_changes_the_voxels_that_are_seen(tmp_path: Path, plane: str) -> None:
    masks_folder(tmp_path, cases=1)
    key = key_of_case("s00.nii.gz")
    with desk_on(read_source(tmp_path / "masks"), None, Rules()) as desk:
        desk.editor.tool(key, "ann", {
            "tool": "clear", "plane": plane, "index": 0, "whole": True, "row": 0, "column": 0, "amount": 1, "first": 0, "last": 0,
            "name": "clear",
        })  # fmt: skip
        drawn = np.random.default_rng(0).random((3, 4)) < 0.6
        desk.editor.stroke(key, "ann", plane, 5, (1, 2), drawn, True, "brush", "s")
        seen = turned(desk.editor.mask(key, "ann"), plane)
        wanted = np.zeros(seen.shape, bool)
        wanted[5, 1:4, 2:6] = drawn
        np.testing.assert_array_equal(seen, wanted)
        np.testing.assert_array_equal(desk.layer(key, "ann", "mask", plane, 5), wanted[5])
        desk.editor.stroke(key, "ann", plane, 5, (1, 2), np.ones((3, 4), bool), False, "eraser", "e")
        assert not desk.editor.mask(key, "ann").any()
        assert desk.editor.undo(key, "ann", False)["undo"] == 2
        np.testing.assert_array_equal(turned(desk.editor.mask(key, "ann"), plane), wanted)


def test_small_lesions_are_seen_in_3d() -> None:
    mask = np.zeros((30, 500, 400), bool)
    mask[3, 17, 91] = True
    scan = np.full(mask.shape, 100, np.int16)
    solid = solid_of(scan, mask, (3.0, 0.7, 0.7), (0.0, 200.0))
    assert max(solid.shape) <= 160
    assert solid[1].sum() == 255
    assert int(np.nonzero(solid[1])[0][0]) == round(solid.shape[1] * (1 - 3.5 / 30) - 0.5)  # from the top down
    assert np.unique(solid[0]).tolist() == [128]


# --- the queue


def case(name: str, patient: str, confidence: float | None, doubtful: bool = False) -> CaseRecord:
    numbers = {"doubtful": doubtful} | ({} if confidence is None else {"confidence": confidence})
    return CaseRecord(name, patient, f"/{name}", True, "", numbers)


CASES = [
    case("a1", "a", 0.2, True), case("a2", "a", 0.1, True), case("b1", "b", 0.4, True), case("b2", "b", 0.95),
    case("c1", "c", 0.8), case("c2", "c", None),
]  # fmt: skip


def decision(case: str, reviewer: str, state: str = "accepted", stale: bool = False, seconds: float = 20.0) -> Decision:
    return Decision(case, reviewer, state, "", "", seconds, stale, 0)


def test_doubtful_cases_come_first_and_patients_in_turn() -> None:
    assert [one.id for one in worth_looking_at(CASES)] == ["a2", "b1", "a1", "c1", "b2", "c2"]


def shaped(name: str, patient: str, confidence: float, pixels: int, at: int, doubtful: bool = True) -> CaseRecord:
    box = {"min": [at, at, at], "max": [at + 4, at + 4, at + 4]} if pixels else None
    numbers = {"confidence": confidence, "doubtful": doubtful, "pixels": pixels, "components": 1, "box": box}
    return CaseRecord(name, patient, name, True, "", numbers)


def test_what_is_unlike_what_was_looked_at_comes_before_what_is_like_it_though_a_little_surer() -> None:
    like, unlike = shaped("like", "b", 0.12, 100, 10), shaped("unlike", "c", 0.15, 900, 90)
    first = shaped("first", "a", 0.1, 100, 10)
    assert [one.id for one in worth_looking_at([like, unlike, first])] == ["first", "unlike", "like"]
    # By hand: ranks of size and of three places differ by 1 of 7 columns, so the distance is sqrt(4 / 7).
    assert described([first, unlike])[:, [1, 4, 5, 6]].tolist() == [[0] * 4, [1] * 4]
    assert 0.85 * (LIKE + (4 / 7) ** 0.5) > 0.88 * LIKE
    much_surer = replace(unlike, numbers=unlike.numbers | {"confidence": 0.9})
    assert [one.id for one in worth_looking_at([like, much_surer, first])] == ["first", "like", "unlike"]


def test_a_budget_has_one_of_each_patient_first_each_case_once_and_the_same_ones_again() -> None:
    rng = np.random.default_rng(0)
    cases = [
        shaped(f"c{i:03d}", f"p{rng.integers(40)}", round(float(rng.random()), 2), int(rng.integers(500)), int(rng.integers(99)),
               bool(rng.random() < 0.6))
        for i in range(400)
    ]  # fmt: skip
    order = worth_looking_at(cases)
    assert sorted(one.id for one in order) == [one.id for one in cases]
    assert order == worth_looking_at(cases)
    doubted = [one for one in order if one.numbers["doubtful"]]
    assert order[: len(doubted)] == doubted
    assert len(doubted) > MOST_APART, "both ways of choosing are tried"
    patients = len({one.patient for one in doubted})
    assert len({one.patient for one in order[:patients]}) == patients
    assert order[0].numbers["confidence"] == min(one.numbers["confidence"] for one in doubted)
    seen: dict[str, int] = {}
    for one in doubted:  # nobody has a turn more than another who still has cases
        seen[one.patient] = seen.get(one.patient, 0) + 1
        waiting = {other.patient for other in doubted[doubted.index(one) + 1 :]}
        assert all(seen.get(patient, 0) >= seen[one.patient] - 1 for patient in waiting)
    assert worth_looking_at([]) == []


def test_what_another_reviewer_decided_is_left_out_but_for_second_opinions() -> None:
    decisions = [decision("a2", "ann"), decision("b1", "bob"), decision("c1", "bob", stale=True)]
    assert [(one.case.id, one.state) for one in queue_of(CASES, decisions, "ann")] == [
        ("a2", "accepted"), ("a1", "open"), ("c1", "open"), ("b2", "open"), ("c2", "open"),
    ]  # fmt: skip
    both = queue_of(CASES, decisions, "ann", second=1.0)
    assert [(one.case.id, one.second) for one in both][:2] == [("a2", False), ("b1", True)]
    assert [one.case.id for one in queue_of(CASES, decisions, "ann", budget=2)] == ["a2"]
    share = np.mean([asks_second(f"case {i}", 0.2) for i in range(2000)])
    assert 0.17 < share < 0.23


def test_the_time_that_is_left_is_the_median_times_what_is_open() -> None:
    entries = queue_of(CASES, [], "ann")
    assert minutes_left(entries, [decision("x", "ann")] * 2, "ann") is None
    assert minutes_left(entries, [decision("x", "ann", seconds=s) for s in (10, 30, 900)], "ann") == 30 * 6 / 60


# --- agreement


def test_kappa_of_known_answers() -> None:
    pairs = [(True, True)] * 20 + [(True, False)] * 5 + [(False, True)] * 10 + [(False, False)] * 15
    assert kappa(pairs) == pytest.approx(0.4)  # 0.7 observed, 0.5 by chance
    assert kappa([]) is None
    assert kappa([(True, True)]) is None


def test_agreement_is_of_cases_that_both_decided(tmp_path: Path) -> None:
    store = Store(tmp_path)
    names = [f"c{i}" for i in range(4)]
    store.list_cases([CaseRecord(name, name, name, True) for name in names])
    mask = np.zeros(SHAPE, bool)
    mask[0, :2, :4] = True
    half = mask.copy()
    half[0, 1] = False
    for name in names:
        store.keep_draft(name, mask)
    for name, bob in (("c0", mask), ("c1", half)):
        store.decide(name, "ann", "accepted", mask)
        store.decide(name, "bob", "accepted", bob)
    store.decide("c2", "ann", "rejected", mask)
    store.decide("c2", "bob", "rejected", mask)
    store.decide("c3", "ann", "accepted", mask)
    store.decide("c3", "bob", "unsure", None)
    (row,) = agreement(store)
    assert row == {"reviewers": ["ann", "bob"], "cases": 3, "dice": pytest.approx((1 + 2 / 3) / 2), "kappa": 1.0}
