"""3-D components of a scan's mask: hand-worked, and against labels of the whole volume."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import ndimage

from coinseg.config.schema import MaskSettings
from coinseg.masks import postprocess as masks
from coinseg.masks.postprocess import clean_volume

LARGEST = MaskSettings(keep_3d="largest")


@pytest.fixture(autouse=True, params=[1, 2, 16])
def slab(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test with volumes of several slabs and of one."""
    monkeypatch.setattr(masks, "SLAB", request.param)


def volume_of(*places: tuple[int, int, int]) -> np.ndarray:
    mask = np.zeros((4, 5, 6), bool)
    for place in places:
        mask[place] = True
    return mask


def test_nothing_asked_is_the_mask_itself() -> None:
    mask = volume_of((0, 0, 0))
    assert clean_volume(mask, 1.0, MaskSettings()) is mask


def test_a_corner_across_slices_connects() -> None:
    pair, single = volume_of((0, 1, 1), (1, 2, 2)), volume_of((3, 4, 5))
    assert np.array_equal(clean_volume(pair | single, 1.0, LARGEST), pair)
    # The same two voxels with a slice between them are two components, the first of which stays.
    apart = volume_of((0, 1, 1), (2, 2, 2))
    assert np.array_equal(clean_volume(apart, 1.0, LARGEST), volume_of((0, 1, 1)))


def test_pieces_that_meet_in_another_slice_are_one_component() -> None:
    # Two legs in slice 0, joined by a bridge in slice 1: 2 + 3 voxels against a block of 4 in slice 3.
    arch = volume_of((0, 0, 0), (0, 0, 4), (1, 0, 1), (1, 0, 2), (1, 0, 3))
    block = volume_of((3, 3, 0), (3, 3, 1), (3, 4, 0), (3, 4, 1))
    assert np.array_equal(clean_volume(arch | block, 1.0, LARGEST), arch)


@pytest.mark.parametrize(("least", "kept"), [(0.0009, 3), (0.001, 3), (0.0011, 2), (0.002, 2), (0.0021, 0)])
def test_min_ml_at_its_edge(least: float, kept: int) -> None:
    # Voxels of 1 mm3: one component of 0.001 ml and one of 0.002 ml.
    mask = volume_of((0, 0, 0), (2, 2, 2), (3, 2, 2))
    found = clean_volume(mask, 0.001, MaskSettings(min_ml=least))
    assert found.sum() == kept
    assert not (found & ~mask).any()


def test_both_rules_hold() -> None:
    mask = volume_of((0, 0, 0), (2, 2, 2), (3, 2, 2))
    assert clean_volume(mask, 0.001, replace(LARGEST, min_ml=0.001)).sum() == 2
    assert not clean_volume(mask, 0.001, replace(LARGEST, min_ml=0.003)).any()


@pytest.mark.parametrize("full", [False, True])
def test_empty_and_full_volumes(full: bool) -> None:
    mask = np.full((3, 4, 5), full)
    assert np.array_equal(clean_volume(mask, 1.0, replace(LARGEST, min_ml=0.5)), mask)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 10_000),
    share=st.floats(0.02, 0.5),
    shape=st.tuples(*[st.integers(1, 7)] * 3),
    least=st.integers(1, 9),
    keep=st.sampled_from(["all", "largest"]),
)
def test_it_is_what_labels_of_the_whole_volume_say(
    seed: int, share: float, shape: tuple[int, int, int], least: int, keep: str
) -> None:
    mask = np.random.default_rng(seed).random(shape) < share
    before = mask.copy()
    labels, count = ndimage.label(mask, np.ones((3, 3, 3)))
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    sizes[0] = 0
    kept = [i for i in range(1, count + 1) if sizes[i] >= least and (keep == "all" or i == sizes.argmax())]
    found = clean_volume(mask, 0.5, MaskSettings(min_ml=least / 2, keep_3d=keep))  # type: ignore[arg-type]
    assert np.array_equal(found, np.isin(labels, kept))
    assert np.array_equal(mask, before)
    assert np.array_equal(clean_volume(found, 0.5, MaskSettings(min_ml=least / 2, keep_3d=keep)), found)  # type: ignore[arg-type]


def test_tens_of_thousands_of_components_are_told_apart() -> None:
    """Every other voxel of two slices, 33124 pillars: their labels times their number are more than 2^31."""
    mask = np.zeros((2, 364, 364), bool)
    mask[:, ::2, ::2] = True
    mask[1, 2, 2] = False
    kept = clean_volume(mask, 1.0, MaskSettings(min_ml=2.0))
    assert mask.sum() - kept.sum() == 1
    assert not kept[0, 2, 2]
