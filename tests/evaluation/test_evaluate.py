"""What evaluation leaves behind: masks at the level of each image, the order of its pictures, and whose values they show."""

from __future__ import annotations

import csv
from collections.abc import Callable
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
from coinseg.errors import UserError
from coinseg.evaluation import evaluate as room
from coinseg.evaluation.evaluate import apart, choose_examples, evaluate, middle_distance
from coinseg.evaluation.explained import Explained, explain_all
from coinseg.masks.refine import channel_changes
from coinseg.metrics.overlap import dice
from coinseg.runtime.files import read_json
from coinseg.types import Explanation, Maps

SIDE = 8
RAW = replace(Settings(), masks=MaskSettings(peak=0.0, refine="none", opening=0, closing=0, keep="all", min_px=0))


def dices(found: Explained, predicted: np.ndarray) -> Callable[[int], float | None]:
    """The Dice of each mask, by its position."""
    return lambda i: dice(predicted[i], found.truth[i])


def held_out(count: int = 20, labels: np.ndarray | None = None) -> ScoredSlices:
    """Images whose upper half is brighter the higher their number, half of them held out."""
    images = np.zeros((count, SIDE, SIDE), np.float32)
    images[:, :4] = np.linspace(0.2, 0.9, count)[:, None, None]
    return ScoredSlices(
        Dataset(images, np.arange(count) % 2 if labels is None else labels.astype(int), held_out=0.5),
        Settings().anomaly,
        0,
        VALIDATION,
    )


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


def test_what_is_unlike_the_training_is_doubtful_however_sure_f_is(tmp_path: Path) -> None:
    """As in the index of `segment`: half the confidence, and never among the trusted masks."""
    slices, found, shares = held_out(labels=np.arange(20) >= 10), {}, []
    for name, last in (("known", False), ("foreign", True)):
        more = {"agreement": np.ones(10, np.float32), "foreign": (np.arange(10) % 9 == 0) & last}  # the darkest, the brightest
        scores = evaluate(slices, lambda batch, more=more: told(batch, **more), 0.56, RAW, tmp_path / name)
        shares.append(scores["masks_doubtful"])
        with (tmp_path / name / "slices.csv").open(newline="") as file:
            found[name] = [(row["confidence"], row["doubtful"]) for row in csv.DictReader(file)]
    assert found["known"][1:9] == found["foreign"][1:9]
    assert [found[name][0] for name in found] == [("", ""), ("", "1")]
    (sure, doubt), (less, doubted) = (found[name][9] for name in found)
    assert (doubt, doubted, float(less)) == ("0", "1", pytest.approx(float(sure) / 2, abs=1e-4))
    assert shares == [0, 0.2]
    assert {path.name for path in (tmp_path / "known").iterdir()} == {"slices.csv", "examples.npz", "checksums.json"}


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
    for group, i in choose_examples(found, dices(found, predicted)):
        groups.setdefault(group, []).append(i)
    order = np.argsort(dice, kind="stable").tolist()
    assert groups["best"] == order[::-1][:4]
    assert groups["worst"] == order[:4]
    assert groups["median"] == order[6:10]
    assert dice[groups["best"]].min() > dice[groups["median"]].max() >= dice[groups["median"]].min() > dice[groups["worst"]].max()
    assert groups["normal"] == [16, 17, 18, 19]
    assert (groups["missed"], groups["alarm"]) == ([3], [17])


def test_pictures_are_of_different_patients_and_of_equal_ones_the_larger_lesion_is_worse() -> None:
    found, predicted = ranked()
    patients = np.array(["a"] * 12 + list("bcde") + ["n"] * 4)
    sure = np.full(20, np.nan)
    sure[[2, 3, 13, 15]] = 0.4, 0.1, 0.2, 0.9
    groups: dict[str, list[int]] = {}
    for group, i in choose_examples(found, dices(found, predicted), patients=patients, sure=sure):
        groups.setdefault(group, []).append(i)
    assert len(set(patients[groups["worst"]])) == 4
    assert len(set(patients[groups["best"]])) == 4
    assert groups["doubtful"] == [3, 13, 2], "the least sure first, a second one of a patient where there are no others"
    assert apart(np.array([5, 3, 8, 1, 9]), np.array(list("xaxbbcxxba"))).tolist() == [5, 3, 8, 1]
    predicted[:16] = False  # all Dice are 0
    found.truth[7] = True
    assert next(i for group, i in choose_examples(found, dices(found, predicted)) if group == "worst") == 7


def test_without_masks_pictures_are_of_abnormal_slices_at_even_distances_and_without_labels_of_the_highest_f() -> None:
    found, predicted = ranked()
    blind = replace(found, known=np.zeros(20, bool))
    assert [i for group, i in choose_examples(blind, dices(blind, predicted)) if group == "abnormal"] == [
        0,
        2,
        4,
        6,
        8,
        10,
        12,
        15,
    ]
    none = replace(blind, label=np.where(found.label == 1, -1, 0), before=np.linspace(0, 0.4, 20))
    assert [i for group, i in choose_examples(none, dices(none, predicted)) if group == "unknown"] == list(range(15, 7, -1))


def test_the_distance_from_the_middle_of_a_scan_by_hand() -> None:
    index = {"slice": np.array([0, 1, 2, 3, 4, 10, 11]), "series": np.array(["a"] * 5 + ["b"] * 2)}
    found = middle_distance(index, np.array([0, 1, 2, 4, 5, 6]))
    assert found is not None
    assert found.tolist() == [1, 0.5, 0, 1, 1, 1]
    assert middle_distance({"slice": np.zeros(3, int), "series": np.array(list("abc"))}, np.arange(3)) is None


# --- what is written --------------------------------------------------------------------------------------------------------


def scans() -> ScoredSlices:
    """Twelve held-out slices of three scans: of a and b only the scans are labelled, and a mask decides one slice of b."""
    data, settings = held_out(24).store, Settings()
    data.index["split"] = (np.arange(24) < 12).astype(int)
    data.index["series"] = np.array(list("aaaabbbbcccc") + [f"x{i}" for i in range(12)])
    data.index["slice"] = np.array([*range(4), *range(4), *range(4), *[0] * 12])
    data.index["region"] = np.array([*[1] * 4, *[-1] * 20])
    data.index["label"] = np.array([*[1] * 8, *[0] * 16])
    data.index["weak"] = np.array([*[1] * 8, *[0] * 16])
    data.index["truth"] = np.array([*[0] * 4, 1, 0, 0, 0, *[1] * 16])
    data.index["lesion_px"] = np.array([-1] * 4 + [5] + [-1] * 3 + [0] * 16)
    truth = np.zeros(data.organs.shape, np.uint8)
    truth[4, 0, :5] = 1
    data.truth = lambda: truth  # type: ignore[method-assign]
    return ScoredSlices(data, settings.anomaly, 0, VALIDATION)


def test_scans_keep_the_label_that_was_given_whatever_their_slices_are(tmp_path: Path) -> None:
    slices = scans()
    scores = evaluate(slices, told, 0.5, RAW, tmp_path)
    assert (scores["scans_abnormal"], scores["scans_normal"]) == (2, 1)
    assert scores["auroc_scans"] == 0.0  # the normal scan is the brightest
    assert (scores["slices_unknown"], scores["slices_scored"]) == (7, 1)
    with (tmp_path / "slices.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows] == [""] * 4 + ["1"] + [""] * 3 + ["0"] * 4
    assert [row["truth_px"] for row in rows] == [""] * 4 + ["5"] + [""] * 3 + ["0"] * 4
    assert [(row["slice"], row["region"]) for row in rows[3:6]] == [("3", "1"), ("0", "-1"), ("1", "-1")]
    names = np.load(tmp_path / "examples.npz", allow_pickle=False)["name"].tolist()
    assert names[0] == "image000004, slice 0"
    slices.store.index["truth"][:4], slices.store.index["lesion_px"][:4] = 1, 1
    slices.store.truth()[:4, 0, 0] = 1
    evaluate(slices, told, 0.5, RAW, tmp_path)
    assert "image000000, slice 0, region 1" in np.load(tmp_path / "examples.npz", allow_pickle=False)["name"].tolist()


@pytest.mark.parametrize(
    ("single", "reason"), [(True, "every image is a scan of its own"), (False, "only one class of scans is held out")]
)
def test_why_scans_have_no_auroc(tmp_path: Path, single: bool, reason: str) -> None:
    slices = held_out()
    if not single:
        slices.store.index["series"] = np.array(["a", "b"] * 10)
        slices.store.index["label"][:] = 0
        slices.store.index["truth"][:] = 1
    scores = evaluate(slices, told, 0.5, RAW, tmp_path)
    assert scores["auroc_scans"] is None
    assert scores["null_because"]["auroc_scans"] == reason
    assert scores["scans_normal"] == (int((slices.store.index["label"][slices.rows] == 0).sum()) if single else 2)


def test_no_map_stays_and_the_scores_are_left_to_be_written_once_with_their_key(tmp_path: Path) -> None:
    said: list[tuple[int, int]] = []
    scores = evaluate(held_out(), told, 0.5, RAW, tmp_path / "new" / "folder", lambda *done: said.append(done))
    assert scores["slices_scored"] == 0  # no abnormal image has a mask
    assert {p.name for p in (tmp_path / "new" / "folder").iterdir()} == {"slices.csv", "examples.npz", "checksums.json"}
    assert said == [(0, 10)]
    kinds = {name: array.dtype for name, array in np.load(tmp_path / "new" / "folder" / "examples.npz").items()}
    assert {name for name, kind in kinds.items() if kind == np.float16} == {"image", "counterfactual", "difference", "sure"}
    assert {name for name, kind in kinds.items() if kind.kind == "b"} == {"mask", "truth", "known"}


def test_in_batches_and_in_files_explanations_are_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    slices, said = held_out(), []  # type: ignore[var-annotated]

    def explain(batch: ScoredBatch) -> tuple[Explanation, Maps]:
        level = batch.rows.astype(np.float32)
        return told(batch, levels=level, agreement=level / 2, image_score=level / 4, foreign=batch.rows % 3 == 0)

    whole = explain_all(slices, explain, lambda *done: None)
    monkeypatch.setattr("coinseg.evaluation.explained.CHUNK", 3)
    parts = explain_all(slices, explain, lambda *done: said.append(done), folder=tmp_path / "maps")
    assert said == [(0, 10), (3, 10), (6, 10), (9, 10)]
    for name, value in vars(whole).items():
        assert np.array_equal(value, getattr(parts, name)), name
        assert isinstance(getattr(parts, name), np.memmap) is (value.ndim > 1), name
    assert whole.level is not None
    assert whole.agreement is not None
    assert whole.posterior is not None
    rows = whole.rows
    assert whole.is_foreign.tolist() == (rows % 3 == 0).tolist()
    assert (whole.level.tolist(), whole.agreement.tolist(), whole.posterior.tolist()) == (
        rows.tolist(),
        (rows / 2).tolist(),
        (rows / 4).tolist(),
    )
    assert whole.counterfactual is not None
    assert not whole.counterfactual.any()  # black, in [0, 1]


def test_an_attribution_has_no_counterfactual_in_its_files(tmp_path: Path) -> None:
    def explain(batch: ScoredBatch) -> tuple[Explanation, Maps]:
        explanation, maps = told(batch)
        return Explanation(explanation.probability, explanation.saliency), maps

    scores = evaluate(held_out(), explain, 0.5, RAW, tmp_path)
    assert scores["cv"] is scores["flip_rate"] is None
    examples = np.load(tmp_path / "examples.npz", allow_pickle=False)
    assert np.isnan(examples["counterfactual"]).all()
    assert np.isnan(examples["after"]).all()
    with (tmp_path / "slices.csv").open(newline="") as file:
        assert {(row["f_counterfactual"], row["posterior"]) for row in csv.DictReader(file)} == {("", "")}


@pytest.mark.parametrize("organs", [False, True])
def test_the_audit_is_given_masks_places_and_organs_of_the_slices(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, organs: bool
) -> None:
    given: list[Any] = []

    def spy(*words: Any) -> dict[str, Any]:
        given.append(words)
        return {"flips": {"mask_alone": 0.0, "flipped_images": 99.0}, "shortcuts": []}

    monkeypatch.setattr(room, "audit", spy)
    slices = scans()
    slices.store.meta["has_organs"] = organs
    settings = replace(RAW, classifier=replace(RAW.classifier, threshold=0.3))
    evaluate(slices, told, 0.5, settings, tmp_path, ask="f")  # type: ignore[arg-type]
    ((found, masks, position, seen, ask, level),) = given
    assert np.array_equal(masks, found.refined > 0.5)
    assert position.tolist() == pytest.approx([1, 1 / 3, 1 / 3, 1] * 3)
    assert (seen is slices.store.organs) if organs else (seen is None)
    assert (ask, level) == ("f", 0.3)
    assert read_json(tmp_path / "audit.json")["flips"] == {"mask_alone": 0.0, "flipped_images": 99.0}
    # No mask turns f: the run is not usable, and every mask of it is doubtful.
    with (tmp_path / "slices.csv").open(newline="") as file:
        assert {row["doubtful"] for row in csv.DictReader(file)} == {"1"}


def test_a_row_says_how_sure_its_mask_is(tmp_path: Path) -> None:
    agreement = np.linspace(0.0, 1.0, 10, dtype=np.float32)
    slices, rows, examples = scored(tmp_path, 0.5, agreement=lambda count: agreement)
    f = slices.store.images[slices.rows].max((1, 2, 3))
    for row, sure, bright in zip(rows, agreement * f, f > 0.5, strict=True):
        assert row["confidence"] == (f"{sure:.4f}" if bright else "")
        assert row["doubtful"] == (str(int(sure < 0.5)) if bright else "")
        assert row["posterior"] == ""
    assert {row["doubtful"] for row in rows} == {"0", "1", ""}
    by_name = {row["case"]: row["confidence"] for row in rows}
    shown = [f"{sure:.4f}" if np.isfinite(sure) else "" for sure in examples["confidence"]]
    assert shown == [by_name[name] for name in examples["name"].tolist()]
    assert examples["known"].tolist() == [
        next(row for row in rows if row["case"] == n)["truth_px"] != "" for n in examples["name"]
    ]


def test_pictures_of_normal_images_lie_at_even_distances_and_few_images_are_shown_once_each_kind() -> None:
    found, predicted = ranked()
    only = {group for group, _ in choose_examples(replace(found, label=np.ones(20, int)), dices(found, predicted))}
    assert only == {"best", "median", "worst", "missed"}
    many = replace(found, label=np.zeros(20, int), known=np.zeros(20, bool))
    assert [i for group, i in choose_examples(many, dices(many, predicted)) if group == "normal"] == [0, 6, 12, 19]
    # The threshold of f decides what is an error.
    assert [i for group, i in choose_examples(found, dices(found, predicted), 0.15) if group in ("missed", "alarm")] == [17]
    assert [i for group, i in choose_examples(found, dices(found, predicted), 0.95) if group == "missed"] == [3, 0, 1, 2]


# --- which channel changed


def test_the_change_of_each_channel_is_counted_inside_the_masks_alone() -> None:
    image = np.full((2, 2, 4, 4), 0.5, np.float32)
    painted = image.copy()
    painted[0, 0, :2], painted[0, 1, :2] = 0.3, 0.6
    painted[:, :, 2:] = 0.0  # outside of the mask
    masks = np.zeros((2, 4, 4), bool)
    masks[0, :2] = True
    np.testing.assert_allclose(channel_changes(image, painted, masks), [[0.2, 0.1], [np.nan, np.nan]], atol=1e-6)


@pytest.mark.parametrize("name", ["probability", "counterfactual_probability", "image_score"])
def test_an_image_that_a_classifier_gives_no_number_is_named(tmp_path: Path, name: str) -> None:
    slices = held_out()
    odd = slices.store.index["case"][slices.rows[3]]

    def explain(batch: ScoredBatch) -> tuple[Explanation, Maps]:
        explanation, maps = told(batch, image_score=np.full(len(batch.rows), 0.5, np.float32))
        (maps.image_score if name == "image_score" else getattr(explanation, name))[3] = float("nan")
        return explanation, maps

    with pytest.raises(UserError, match=f"NaN or infinity for 1 held-out images, such as {odd}"):
        evaluate(slices, explain, 0.5, RAW, tmp_path)
    assert not (tmp_path / "scores.json").exists()
