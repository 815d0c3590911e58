"""What evaluation leaves behind: masks at the level of each image, the order of its pictures, and whose values they show."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from coinseg.config.schema import MaskSettings, Settings
from coinseg.data.slices.arrays import Dataset
from coinseg.data.slices.dataset import ScoredBatch, ScoredSlices
from coinseg.data.slices.split import VALIDATION
from coinseg.evaluation.evaluate import choose_examples, evaluate, explain_all, middle_distance
from coinseg.evaluation.protocols import Explained
from coinseg.types import Explanation, Maps

SIDE = 8
RAW = replace(Settings(), masks=MaskSettings(peak=0.0, refine="none", opening=0, closing=0, keep="all", min_px=0))


def held_out(count: int = 20) -> ScoredSlices:
    """Images whose upper half is brighter the higher their number, half of them held out."""
    images = np.zeros((count, SIDE, SIDE), np.float32)
    images[:, :4] = np.linspace(0.2, 0.9, count)[:, None, None]
    return ScoredSlices(Dataset(images, np.arange(count) % 2, held_out=0.5), Settings().anomaly, 0, VALIDATION)


def told(batch: ScoredBatch, **maps: Any) -> tuple[Explanation, Maps]:
    """An explanation that is told apart from the map: the image is the map, f is its brightness, the counterfactual is black."""
    image = batch.image[:, 0].numpy() / 2 + 0.5
    probability = torch.from_numpy(image.max((1, 2)))
    nothing = torch.full_like(batch.image, -1.0)
    saliency = torch.from_numpy(image) / 4
    return Explanation(probability, saliency, nothing, torch.full_like(probability, 0.125)), Maps(image, **maps)


def scored(folder: Path, threshold: float = 0.5, **maps: Any) -> tuple[ScoredSlices, list[dict[str, str]], Any]:
    slices = held_out()

    def explain(batch: ScoredBatch) -> tuple[Explanation, Maps]:
        return told(batch, **{name: make(len(batch.rows)) for name, make in maps.items()})

    evaluate(slices, explain, threshold, RAW, folder)
    with (folder / "slices.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return slices, rows, np.load(folder / "examples.npz", allow_pickle=False)


def test_where_each_image_has_a_level_of_its_own_masks_are_read_at_that_level(tmp_path: Path) -> None:
    levels = np.where(np.arange(10) < 5, 0.99, 0.01).astype(np.float32)
    _, rows, examples = scored(tmp_path, 0.5, levels=lambda count: levels)
    assert [int(row["mask_px"]) for row in rows] == [0] * 5 + [4 * SIDE] * 5
    known = {row["case"]: int(row["mask_px"]) for row in rows}
    assert [mask.sum() for mask in examples["mask"]] == [known[name] for name in examples["name"].tolist()]
    assert np.array_equal(examples["sure"] > 0.5, examples["mask"])  # a pixel at its level is as sure as not
    _, rows, _ = scored(tmp_path / "shared", 0.5)
    bright = held_out().store.images[held_out().rows].max((1, 2, 3)) > 0.5
    assert [int(row["mask_px"]) > 0 for row in rows] == bright.tolist()


def test_a_row_has_the_values_of_its_own_slice(tmp_path: Path) -> None:
    slices, rows, _ = scored(tmp_path)
    index = slices.store.index
    assert [row["case"] for row in rows] == index["case"][slices.rows].tolist()
    assert [int(row["label"]) for row in rows] == index["label"][slices.rows].tolist()
    f = slices.store.images[slices.rows].max((1, 2, 3))
    np.testing.assert_allclose([float(row["f"]) for row in rows], f, atol=6e-5)
    assert {float(row["f_counterfactual"]) for row in rows} == {0.125}
    # The truth of normal images is known, that of abnormal ones without a mask is not.
    assert [row["truth_px"] for row in rows] == ["" if row["label"] == "1" else "0" for row in rows]


@pytest.mark.parametrize("student", [False, True])
def test_pictures_show_the_map_the_masks_are_of_and_of_a_student_the_difference_beside_it(tmp_path: Path, student: bool) -> None:
    more = {"image_score": lambda count: np.full(count, 0.9, np.float32)} if student else {}
    _, _, examples = scored(tmp_path, **more)
    shown = examples["image"] / 4 if student else examples["image"]
    np.testing.assert_allclose(examples["difference"], shown, atol=1e-3)
    assert not examples["counterfactual"].any()
    assert set(examples["after"].tolist()) == {0.125}
    np.testing.assert_allclose(examples["before"], examples["image"].max((1, 2)), atol=1e-3)


def test_explanations_are_of_the_members_that_are_asked_for_in_their_order() -> None:
    slices, members = held_out(), np.array([7, 2, 5])
    found = explain_all(slices, told, lambda done, total: None, members)
    assert found.rows.tolist() == slices.rows[members].tolist()
    np.testing.assert_allclose(found.image, slices.store.images[found.rows], atol=1e-6)
    np.testing.assert_allclose(found.saliency, found.image[:, 0] / 4, atol=1e-6)
    assert found.label.tolist() == slices.store.index["label"][found.rows].tolist()


# --- pictures -----------------------------------------------------------------------------------------------------------


def ranked() -> tuple[Explained, np.ndarray]:
    """Sixteen abnormal slices, of whose ten pixels of truth number i has i marked at most, and four normal ones."""
    truth, predicted = np.zeros((20, 10, 10), bool), np.zeros((20, 10, 10), bool)
    truth[:16, 0] = True
    for i in range(16):
        predicted[i, 0, : (i + 1) // 2] = True
        predicted[i, 1, : i % 2] = True
    label, image, nothing = (np.arange(20) < 16).astype(int), np.zeros((20, 1, 10, 10)), np.zeros((20, 10, 10))
    before = np.where(label == 1, 0.9, 0.1)
    before[[3, 17]] = 0.2, 0.8
    return Explained(np.arange(20), label, before, image, nothing, nothing, truth, np.ones(20, bool)), predicted


def test_best_pictures_are_of_the_highest_dice_and_worst_ones_of_the_lowest() -> None:
    found, predicted = ranked()
    dice = 2 * (predicted & found.truth).sum((1, 2))[:16] / (predicted.sum((1, 2)) + found.truth.sum((1, 2)))[:16]
    groups: dict[str, list[int]] = {}
    for group, i in choose_examples(found, predicted):
        groups.setdefault(group, []).append(i)
    order = np.argsort(dice, kind="stable").tolist()
    assert groups["best"] == order[::-1][:4]
    assert groups["worst"] == order[:4]
    assert groups["median"] == order[6:10]
    assert dice[groups["best"]].min() > dice[groups["median"]].max() >= dice[groups["median"]].min() > dice[groups["worst"]].max()
    assert groups["normal"] == [16, 17, 18, 19]
    assert (groups["missed"], groups["alarm"]) == ([3], [17])


def test_without_masks_pictures_are_of_abnormal_slices_at_even_distances_and_without_labels_of_the_highest_f() -> None:
    found, predicted = ranked()
    blind = replace(found, known=np.zeros(20, bool))
    assert [i for group, i in choose_examples(blind, predicted) if group == "abnormal"] == [0, 2, 4, 6, 8, 10, 12, 15]
    none = replace(blind, label=np.where(found.label == 1, -1, 0), before=np.linspace(0, 0.4, 20))
    assert [i for group, i in choose_examples(none, predicted) if group == "unknown"] == list(range(15, 7, -1))


def test_the_distance_from_the_middle_of_a_scan_by_hand() -> None:
    index = {"slice": np.array([0, 1, 2, 3, 4, 10, 11]), "series": np.array(["a"] * 5 + ["b"] * 2)}
    found = middle_distance(index, np.array([0, 1, 2, 4, 5, 6]))
    assert found is not None
    assert found.tolist() == [1, 0.5, 0, 1, 1, 1]
    assert middle_distance({"slice": np.zeros(3, int), "series": np.array(list("abc"))}, np.arange(3)) is None
