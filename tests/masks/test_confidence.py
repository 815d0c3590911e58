"""Confidence of masks and pixels: laws, values by hand, and that no lesion mask is read for it."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import coinseg
from coinseg.masks.confidence import agreement, confidence, doubtful, expected_dice, mean_agreement, of_pixels, of_scan
from coinseg.masks.postprocess import levels_of
from coinseg.metrics import overlap as metrics


def squares(*corners: tuple[int, int]) -> np.ndarray:
    """Masks of 8 x 8 with a square of 2 x 2 each."""
    masks = np.zeros((len(corners), 8, 8), bool)
    for mask, (row, column) in zip(masks, corners, strict=True):
        mask[row : row + 2, column : column + 2] = True
    return masks


def test_agreement_is_dice_and_symmetric() -> None:
    one, other = squares((0, 0), (0, 0), (0, 0)), squares((0, 0), (0, 1), (4, 4))
    assert agreement(one, other) == pytest.approx([1, 0.5, 0])
    assert (agreement(one, other) == agreement(other, one)).all()


def test_where_nothing_is_marked_there_is_nothing_to_trust() -> None:
    empty = np.zeros((1, 8, 8), bool)
    assert agreement(empty, empty) == [0]
    assert agreement(empty, squares((0, 0))) == [0]
    assert np.isnan(confidence(np.ones(1), np.ones(1), empty)).all()


def test_the_dice_to_expect_is_that_of_the_mask_where_all_pixels_are_sure() -> None:
    one, other = squares((0, 0), (0, 0)), squares((0, 1), (4, 4))
    assert expected_dice(other.astype(np.float32), one) == pytest.approx([0.5, 0])
    assert expected_dice(one / 2, one) == pytest.approx([2 * 2 / (2 + 4)] * 2)
    assert expected_dice(np.zeros((1, 8, 8)), np.zeros((1, 8, 8), bool)) == [0]


@given(st.integers(0, 2**32 - 1))
def test_a_surer_mask_has_a_higher_dice_to_expect_and_what_lies_outside_of_it_lowers_it(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sure, masks = rng.random((2, 6, 6)), rng.random((2, 6, 6)) < 0.4
    masks[:, 0, 0] = True
    known = expected_dice(sure, masks)
    assert (known >= 0).all()
    assert (known <= 1).all()
    assert (expected_dice(np.where(masks, (1 + sure) / 2, sure), masks) > known).all()
    assert (expected_dice(np.where(masks, sure, sure / 2), masks) >= known).all()
    assert expected_dice(sure[:1], masks[:1]) == known[:1]


def test_three_opinions_count_alike() -> None:
    mask = squares((0, 0))
    sure = mask * 1.0
    assert mean_agreement(mask, sure, np.array([0.5])) == pytest.approx([2.5 / 3])
    assert mean_agreement(mask, sure, np.array([0.5]), np.array([0.25])) == pytest.approx([1.75 / 3])
    assert (
        mean_agreement(mask, sure, np.zeros(1)) == mean_agreement(mask, sure, np.ones(1), np.zeros(1)) == pytest.approx([2 / 3])
    )
    assert mean_agreement(mask, sure, np.ones(1)) == [1]


def test_confidence_is_the_product() -> None:
    assert confidence(np.array([0.8]), np.array([0.5]), squares((0, 0))) == pytest.approx([0.4])


def test_a_scan_is_trusted_by_its_marked_pixels() -> None:
    sure = np.array([0.9, 0.3, np.nan, 0.1])
    assert of_scan(sure, np.array([30, 10, 0, 0])) == pytest.approx((0.9 * 30 + 0.3 * 10) / 40)
    assert of_scan(sure, np.zeros(4)) is None
    assert of_scan(np.full(4, np.nan), np.ones(4)) is None


def test_a_pixel_at_the_border_has_half_and_one_at_twice_the_level_all() -> None:
    maps = np.array([[[0.0, 0.1, 0.2, 0.5]], [[0.0, 0.1, 0.2, 0.5]]], np.float32)
    np.testing.assert_allclose(of_pixels(maps, np.array([0.1, 0.5])), [[[0, 0.5, 1, 1]], [[0, 0.1, 0.2, 0.5]]], rtol=1e-6)
    assert (of_pixels(maps, np.zeros(2)) == (maps > 0)).all()


@given(st.integers(0, 2**32 - 1), st.floats(0.01, 0.9), st.floats(0, 0.9))
def test_a_pixel_has_more_than_half_where_it_exceeds_its_level(seed: int, threshold: float, share: float) -> None:
    maps = np.random.default_rng(seed).random((3, 6, 6)).astype(np.float32)
    levels = levels_of(maps, threshold, share)
    clear = np.abs(maps - levels[:, None, None]) > 1e-6
    assert ((of_pixels(maps, levels) > 0.5) == (maps > levels[:, None, None]))[clear].all()


def test_a_mask_is_doubtful_below_a_half_and_nobody_knows_of_none() -> None:
    assert [doubtful(value) for value in (0.0, 0.4999, 0.5, 1.0, None, float("nan"))] == [True, True, False, False, None, None]


def test_risk_area_by_hand() -> None:
    # Kept: the surest, risk 0; the first two, 0.25; all three, 0.5.
    assert metrics.risk_area(np.array([0.9, 0.5, 0.1]), np.array([1.0, 0.5, 0.0])) == pytest.approx((0 + 0.25 + 0.5) / 3)
    assert metrics.risk_area(np.zeros(0), np.zeros(0)) is None


def test_a_confidence_that_says_nothing_has_the_mean_risk_and_the_right_order_the_least() -> None:
    overlap = np.random.default_rng(0).random(50)
    nothing = metrics.risk_area(np.ones(50), overlap)
    assert nothing == pytest.approx(1 - overlap.mean())
    best, worst = metrics.risk_area(overlap, overlap), metrics.risk_area(-overlap, overlap)
    assert best is not None
    assert worst is not None
    assert best < nothing < worst


def test_rank_correlation() -> None:
    up = np.array([0.1, 0.2, 0.9])
    assert metrics.rank_correlation(up, up**3) == pytest.approx(1)
    assert metrics.rank_correlation(up, -up) == pytest.approx(-1)
    assert metrics.rank_correlation(up, np.ones(3)) is None


def test_what_computes_confidence_cannot_read_a_lesion_mask() -> None:
    """No module that compares the masks of mirror images knows a reader of lesion masks, or a name of what they return."""
    source = Path(coinseg.__file__).parent
    names = {path: names_in(ast.parse(path.read_text(encoding="utf-8"))) for path in source.rglob("*.py")}
    computing = [path for path, known in names.items() if {"agreement", "confidence"} <= known and path.parent.name != "masks"]
    assert "inference" in {path.parent.name for path in computing}
    assert {path.parent.name for path in computing} <= {"inference", "evaluation"}
    for path in computing:
        if path.parent.name == "inference":
            assert not names[path] & {"ScoredSlices", "ScoredBatch", "scored", "truth", "MaskSource", "read_mask"}, path


def names_in(tree: ast.AST) -> set[str]:
    """Every name, attribute, argument and import of a module."""
    nodes = list(ast.walk(tree))
    names = {node.id for node in nodes if isinstance(node, ast.Name)} | {n.attr for n in nodes if isinstance(n, ast.Attribute)}
    return names | {node.arg for node in nodes if isinstance(node, ast.arg)} | {
        alias.name.rpartition(".")[2] for node in nodes if isinstance(node, ast.Import | ast.ImportFrom) for alias in node.names
    }  # fmt: skip
