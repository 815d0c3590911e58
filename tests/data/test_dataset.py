"""Slices as training and scoring see them: the same image with its own anomaly, drawn anew or not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from coinseg.config.schema import AnomalySettings
from coinseg.data.layouts.registry import read_layout
from coinseg.data.slices.arrays import Dataset
from coinseg.data.slices.dataset import ScoredSlices, TrainingSlices
from coinseg.data.slices.split import TRAINING, VALIDATION
from coinseg.data.slices.store import SliceStore, prepare
from conftest import tiny_settings

BLOB = AnomalySettings(kind="blob", template=10, probability=0.6)


@pytest.fixture(scope="module")
def store(images: Path, tmp_path_factory: pytest.TempPathFactory) -> SliceStore:
    settings = replace(tiny_settings(), anomaly=BLOB)
    settings = replace(settings, data=replace(settings.data, validation=0.4))
    return prepare(read_layout(images, settings.data, one_class=True), settings, tmp_path_factory.mktemp("store") / "slices")


def test_what_is_scored_is_the_image_that_is_shown_with_the_mask_of_its_own_anomaly(store: SliceStore) -> None:
    slices = ScoredSlices(store, BLOB, 0, VALIDATION)
    members = np.arange(len(slices))
    scored, shown = slices.scored(members), slices.batch(members)
    assert torch.equal(scored.image, shown.image)
    assert np.array_equal(scored.label, shown.label.numpy())
    assert np.array_equal(scored.label, slices.labels())
    assert set(scored.label.tolist()) == {0, 1}
    # Each mask lies where its image differs from the slice without an anomaly, and nowhere else.
    clean = torch.from_numpy(store.unit(scored.rows) * 2 - 1)
    changed = (scored.image - clean).abs()[:, 0].numpy()
    assert (changed[scored.truth] > 0).mean() > 0.95
    assert changed[~scored.truth].max() < 2 * BLOB.alpha * BLOB.level + 1e-6


def test_slices_of_a_side_are_of_that_side_and_of_no_other(store: SliceStore) -> None:
    for side in (TRAINING, VALIDATION):
        for kind in (TrainingSlices, ScoredSlices):
            slices = kind(store, BLOB, 0, side)
            assert np.array_equal(slices.rows, np.flatnonzero(store.index["split"] == side))
    assert np.array_equal(ScoredSlices(store, BLOB, 0, VALIDATION).scored(np.array([1])).rows, [slices.rows[1]])


@pytest.mark.parametrize("redraw", [True, False])
def test_anomalies_are_drawn_anew_in_every_epoch_only_where_the_settings_say_so(store: SliceStore, redraw: bool) -> None:
    slices = TrainingSlices(store, replace(BLOB, redraw=redraw), 0)
    one, two = (slices.batch(np.arange(len(slices)), epoch) for epoch in (0, 3))
    assert torch.equal(one.image, two.image) is not redraw
    assert torch.equal(one.label, two.label) is not redraw
    assert np.array_equal(slices.labels(3), two.label.numpy())


def test_each_slice_and_each_seed_has_an_anomaly_of_its_own(store: SliceStore) -> None:
    always = replace(BLOB, probability=1.0)
    seeds = [ScoredSlices(store, always, seed) for seed in (0, 1)]
    truths = [mask for slices in seeds for mask in slices.scored(np.arange(len(slices))).truth]
    places = [tuple(np.argwhere(mask).mean(0)) for mask in truths]
    assert len(set(places)) > 0.9 * len(places)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_batch_is_its_slices_one_by_one_in_every_channel(channels: int) -> None:
    images = np.random.default_rng(0).random((20, channels, 8, 8), np.float32)
    data = Dataset(images, np.arange(20) % 2)
    slices = TrainingSlices(data, AnomalySettings(), 0)
    members = np.arange(len(slices))[::-1]
    together = slices.batch(members).image
    assert together.shape == (len(slices), channels, 8, 8)
    assert torch.equal(together, torch.cat([slices.batch(members[i : i + 1]).image for i in range(len(slices))]))
    np.testing.assert_allclose(together.numpy(), images[slices.rows[::-1]] * 2 - 1, atol=1e-6)


def test_an_injected_anomaly_is_grey_and_lies_at_one_place_of_all_channels() -> None:
    flat = Dataset(np.full((20, 3, 32, 32), 0.4, np.float32), np.arange(20) % 2)
    slices = ScoredSlices(flat, replace(BLOB, probability=1.0), 0)
    scored = slices.scored(np.arange(len(slices)))
    changed = (scored.image - slices.store.unit(scored.rows) * 2 + 1).abs()
    assert (changed == changed[:, :1]).all()
    assert scored.truth.any((1, 2)).all()
    assert changed[:, 0].numpy()[scored.truth].min() > 0
    assert changed[:, 0].numpy()[~scored.truth].max() < 2 * BLOB.alpha * BLOB.level + 1e-6


def test_balanced_batches_are_half_of_each_class_and_every_slice_comes_up() -> None:
    labels = np.array([0] * 20 + [1] * 6)
    data = Dataset(np.random.default_rng(0).random((26, 8, 8)), labels)
    slices = TrainingSlices(data, AnomalySettings(), 0)
    drawn = [slices.indices_of_step(step, 7, balanced=True) for step in range(40)]
    for indices, _ in drawn:
        assert sorted(slices.labels()[indices].tolist()) == [0] * 3 + [1] * 4
    assert set(np.concatenate([indices for indices, _ in drawn]).tolist()) == set(range(len(slices)))
    assert drawn[0][0].tolist() != drawn[1][0].tolist()
    assert [epoch for _, epoch in drawn[:8]] == [step * 7 // len(slices) for step in range(8)]


def test_unbalanced_batches_go_through_the_slices_epoch_by_epoch_in_a_new_order() -> None:
    data = Dataset(np.random.default_rng(0).random((25, 8, 8)), np.arange(25) % 2)
    slices = TrainingSlices(data, AnomalySettings(), 0)
    count = len(slices)
    drawn = np.concatenate([slices.indices_of_step(step, 4, balanced=False)[0] for step in range(count)])
    epochs = drawn.reshape(4, count)
    assert all(sorted(epoch.tolist()) == list(range(count)) for epoch in epochs)
    assert len({tuple(epoch.tolist()) for epoch in epochs}) == 4
