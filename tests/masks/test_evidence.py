"""Parts of masks by the evidence of f, and the density that decides about the opening."""

from __future__ import annotations

import numpy as np
import pytest

from coinseg.masks.evidence import densest, density, parts_with_evidence


def three_parts() -> tuple[np.ndarray, np.ndarray]:
    """One image with three parts, and evidence of 0.8, 0.4 and 0.39 in them."""
    masks, evidence = np.zeros((1, 20, 20), bool), np.zeros((1, 20, 20))
    for column, value in ((1, 0.8), (8, 0.4), (15, 0.39)):
        masks[0, 3:6, column : column + 3] = True
        evidence[0, 4, column + 1] = value
    return masks, evidence


def test_parts_with_half_of_the_highest_evidence_are_kept_whatever_their_size() -> None:
    masks, evidence = three_parts()
    masks[0, 10:20] = True  # large, and nothing in it
    kept = parts_with_evidence(masks, evidence)
    assert kept[0, 3:6, 1:4].all()
    assert kept[0, 3:6, 8:11].all()
    assert kept.sum() == 18


def test_evidence_is_coarse_so_that_beside_a_part_counts_but_not_two_pixels_away() -> None:
    masks, evidence = np.zeros((2, 9, 9), bool), np.zeros((2, 9, 9))
    masks[:, 1, 1] = masks[:, 5, 5] = True
    evidence[:, 1, 1] = 1.0
    evidence[0, 5, 6], evidence[1, 5, 7] = 1.0, 1.0
    assert parts_with_evidence(masks, evidence).sum((1, 2)).tolist() == [2, 1]


def test_evidence_anywhere_in_a_long_part_is_enough() -> None:
    masks, evidence = np.zeros((1, 9, 20), bool), np.zeros((1, 9, 20))
    masks[0, 2], masks[0, 6] = True, True
    evidence[0, 2, 18] = evidence[0, 6, 1] = 1.0
    assert parts_with_evidence(masks, evidence).sum() == 40


def test_an_image_whose_parts_have_no_evidence_keeps_all_and_an_empty_one_stays_empty() -> None:
    masks = np.zeros((2, 8, 8), bool)
    masks[0, 1, 1] = masks[0, 5, 5] = True
    before = masks.copy()
    assert (parts_with_evidence(masks, np.zeros((2, 8, 8))) == before).all()
    assert (masks == before).all()


def test_each_image_is_its_own_so_that_a_batch_is_its_singles() -> None:
    masks, evidence = three_parts()
    two, faint = np.concatenate([masks, masks]), np.concatenate([evidence, 0.1 * evidence])
    assert (parts_with_evidence(two, faint)[1] == parts_with_evidence(masks, evidence)[0]).all()


def test_density_is_the_share_explained_over_the_root_of_the_area() -> None:
    assert density(np.array([0.5, 1.0]), np.array([0.05, 0.03])) == pytest.approx(0.75 / 0.2)
    assert density(np.array([0.5]), np.array([0.0])) == 0.0
    assert density(np.zeros(0), np.zeros(0)) == 0.0


def test_pixels_that_hold_nothing_and_lesions_that_are_left_out_both_make_it_smaller() -> None:
    both = density(np.array([1.0]), np.array([0.02]))
    assert both > density(np.array([1.0]), np.array([0.03]))
    assert both > density(np.array([0.5]), np.array([0.01]))


def test_of_equal_choices_the_first_is_taken() -> None:
    assert densest(["opened", "as it is"], lambda choice: 1.0) == "opened"
    assert densest(["opened", "as it is"], len) == "as it is"
