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
from coinseg.data.slices.dataset import UNKNOWN, ScoredSlices, TrainingSlices
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


# --- what is scored where masks are stored ----------------------------------------------------------------------------------


class WithMasks(Dataset):
    """Arrays with lesion masks: row i of the store has i pixels in its first row."""

    def truth(self) -> np.ndarray:
        found = np.zeros(self.organs.shape, np.uint8)
        for i, mask in enumerate(found):
            mask[0, :i] = 1
        return found


def test_truth_and_label_of_a_slice_are_its_own_and_a_weak_label_is_decided_by_the_mask_where_there_is_one() -> None:
    data = WithMasks(np.random.default_rng(0).random((8, 8, 8)).astype(np.float32), np.array([0, 1] * 4))
    data.index["split"] = np.array([VALIDATION, TRAINING, *[VALIDATION] * 5, TRAINING])
    data.index["lesion_px"] = np.arange(8)
    data.index["truth"] = np.array([1, 1, 1, 0, 1, 1, 0, 1])
    data.index["weak"] = np.array([1, 0, 1, 1, 0, 0, 0, 0])
    slices = ScoredSlices(data, AnomalySettings(), 0, VALIDATION)
    assert slices.weak().tolist() == [True, True, True, False, False, False]
    assert np.array_equal(slices.body(np.array([2])), data.body(np.array([3])))
    found = slices.scored(np.array([5, 0, 1, 2, 3]))
    assert found.rows.tolist() == [6, 0, 2, 3, 4]
    assert found.truth.dtype == bool
    assert found.truth.sum((1, 2)).tolist() == [6, 0, 2, 3, 4]
    assert found.known.tolist() == [False, True, True, False, True]
    # Rows 0, 2 and 3 are weak: 0 and 2 have a mask (without and with pixels), 3 has none; 6 and 4 keep their labels.
    assert found.label.tolist() == [0, 0, 1, -1, 0]
    assert UNKNOWN == -1
    assert found.label.dtype == np.int64
    assert torch.equal(found.image, torch.from_numpy(data.images[found.rows] * 2 - 1))


def test_the_labels_of_anomalies_are_those_of_their_own_seed_side_and_epoch(store: SliceStore) -> None:
    """They are kept with the store, which all of them share."""
    faint = replace(BLOB, probability=0.3)
    for anomaly, seed, side, epoch in [
        (BLOB, 0, TRAINING, 0), (BLOB, 1, TRAINING, 0), (BLOB, 0, VALIDATION, 0), (BLOB, 0, TRAINING, 2), (faint, 0, TRAINING, 0),
    ] * 2:  # fmt: skip
        slices = TrainingSlices(store, anomaly, seed, side)
        assert np.array_equal(slices.labels(epoch), slices.batch(np.arange(len(slices)), epoch).label.numpy())
    labels = [TrainingSlices(store, BLOB, seed).labels() for seed in range(6)]
    assert len({tuple(each) for each in labels}) > 1


def test_regions_are_organ_and_background_of_the_slices_of_the_batch() -> None:
    organs = np.random.default_rng(0).integers(0, 2, (10, 8, 8))
    data = Dataset(np.zeros((10, 8, 8)) + np.arange(10)[:, None, None] / 10, np.arange(10) % 2, organs=organs)
    slices = TrainingSlices(data, AnomalySettings(), 0)
    batch = slices.batch(np.array([3, 1]), regions=True)
    assert batch.regions is not None
    assert np.array_equal(batch.regions[:, 0], organs[slices.rows[[3, 1]]])
    assert torch.equal(batch.regions.sum(1), torch.ones(2, 8, 8))
    assert slices.batch(np.array([3])).regions is None


@pytest.mark.parametrize("balanced", [True, False])
def test_the_slices_of_a_step_do_not_depend_on_the_steps_before(balanced: bool) -> None:
    """So a training that goes on from a checkpoint sees what an undisturbed one sees; epochs end amid a batch here."""
    data = Dataset(np.random.default_rng(0).random((25, 8, 8)), np.arange(25) % 2)
    whole = TrainingSlices(data, AnomalySettings(), 0)
    one_by_one = [whole.indices_of_step(step, 7, balanced) for step in range(12)]
    for step in (11, 2, 5):
        indices, epoch = TrainingSlices(data, AnomalySettings(), 0).indices_of_step(step, 7, balanced)
        assert indices.tolist() == one_by_one[step][0].tolist()
        assert epoch == one_by_one[step][1] == step * 7 // len(whole)
        assert TrainingSlices(data, AnomalySettings(), 1).indices_of_step(step, 7, balanced)[0].tolist() != indices.tolist()


def test_the_slices_of_a_step_stay_the_same() -> None:
    """Golden: a training that goes on under another version would see other batches than the one that began."""
    slices = TrainingSlices(Dataset(np.random.default_rng(0).random((25, 8, 8)), np.arange(25) % 2), AnomalySettings(), 3)
    assert slices.indices_of_step(5, 6, balanced=True)[0].tolist() == [11, 13, 0, 6, 1, 9]
    assert slices.indices_of_step(5, 6, balanced=False)[0].tolist() == [18, 17, 0, 15, 9, 11]


def test_injected_anomalies_are_not_balanced(store: SliceStore) -> None:
    assert TrainingSlices(store, AnomalySettings(), 0).balances(True)
    assert not TrainingSlices(store, AnomalySettings(), 0).balances(False)
    injected = TrainingSlices(store, BLOB, 0)
    assert not injected.balances(True)
    steps = np.concatenate([injected.indices_of_step(step, 1, balanced=True)[0] for step in range(len(injected))])
    assert sorted(steps.tolist()) == list(range(len(injected)))
