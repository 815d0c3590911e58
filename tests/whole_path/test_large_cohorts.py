"""What was made to cost the same for every slice of a large cohort, against the plain way, which costs more with every one."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from coinseg.config.schema import AnomalySettings, Settings
from coinseg.data.layouts.registry import read_layout
from coinseg.data.slices.dataset import TrainingSlices
from coinseg.data.slices.index import COLUMNS, read_index
from coinseg.data.slices.split import TRAINING, VALIDATION, groups, split
from coinseg.data.slices.store import prepare
from coinseg.evaluation import evaluate as evaluation
from coinseg.evaluation.explained import Explained
from coinseg.evaluation.protocols import mask_free
from coinseg.metrics import overlap as metrics
from coinseg.metrics.overlap import pixel_auprc
from coinseg.pipeline.run import Workspace, evaluate, train
from coinseg.training.instance_selection import find_instances
from conftest import tiny_settings

RNG = np.random.default_rng


def plain_split(patients: list[str], labels: np.ndarray, share: float, seed: int, area: np.ndarray | None) -> dict[str, int]:
    rng, names = RNG(seed), sorted(set(patients))
    members = {name: np.array([p == name for p in patients]) for name in names}
    values = {n: float((labels[of] == 1).mean() if area is None else area[of].sum()) for n, of in members.items()}
    order = sorted(rng.permutation(len(names)).tolist(), key=lambda i: values[names[i]])
    chosen = {names[int(rng.choice(run))] for run in np.array_split(np.array(order), max(1, round(share * len(names))))}
    return {name: VALIDATION if name in chosen else TRAINING for name in names}


@pytest.mark.parametrize("seed", range(5))
def test_a_split_holds_out_the_patients_it_always_did(seed: int) -> None:
    rng = RNG(seed)
    patients = [f"p{i}" for i in rng.integers(0, 40, 300)]
    labels, area = rng.integers(-1, 2, 300), rng.integers(0, 5000, 300)
    for given in (None, area):
        assert split(patients, labels, 0.3, seed, given) == plain_split(patients, labels, 0.3, seed, given)


def test_groups_are_where_each_name_is() -> None:
    names = np.array(["b", "a", "b", "c", "a", "b"])
    assert [found.tolist() for found in groups(names)] == [[1, 4], [0, 2, 5], [3]]
    assert groups(names[:0]) == []


def test_witnesses_are_those_of_scan_after_scan() -> None:
    rng = RNG(1)
    p, scan, label = rng.random(400), rng.permutation(np.repeat([f"s{i}" for i in range(40)], 10)), np.zeros(400, int)
    label[np.isin(scan, [f"s{i}" for i in range(0, 40, 2)])] = 1
    plain = (label == 1) & (p > np.quantile(p[label == 0], 0.95))
    for name in set(scan[label == 1]):
        of = np.flatnonzero(scan == name)
        plain[of[np.argmax(p[of])]] = True
    assert np.array_equal(find_instances(p, scan, label), plain)


@pytest.mark.parametrize("balanced", [True, False])
def test_batches_are_drawn_as_from_the_whole_list_at_every_step(balanced: bool) -> None:
    index = {"split": np.array([0, 0, 1, 0, 0, 0, 0, 2, 0]), "label": np.array([0, 1, 0, 0, 1, 1, 0, 1, 0])}
    slices = TrainingSlices(SimpleNamespace(index=index), AnomalySettings(), 3)  # type: ignore[arg-type]
    labels, n, size = index["label"][index["split"] == 0], 7, 4
    for step in [*range(12), 3, 30]:  # forwards, as training goes, and back
        members, epoch = slices.indices_of_step(step, size, balanced)
        if balanced:
            rng = RNG([3, step, 1])
            plain = np.concatenate([rng.choice(np.flatnonzero(labels == c), (size + c) // 2) for c in (0, 1)])
        else:
            orders = [RNG([3, e, 2]).permutation(n) for e in range(20)]
            plain = np.array([orders[i // n][i % n] for i in range(step * size, (step + 1) * size)])
        assert np.array_equal(members, plain)
        assert epoch == step * size // n


def test_labels_of_injected_anomalies_are_drawn_once_for_each_side(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tiny_settings()
    blob = replace(settings.anomaly, kind="blob", template=10)
    store = prepare(read_layout(images, settings.data, one_class=True), replace(settings, anomaly=blob), tmp_path / "slices")
    plain, drawn = TrainingSlices._draw, []
    monkeypatch.setattr(TrainingSlices, "_draw", lambda self, *rest: drawn.append(self.side) or plain(self, *rest))
    for view in (store, store, store.with_sides(VALIDATION - store.index["split"])):
        for side in (TRAINING, VALIDATION):
            slices = TrainingSlices(view, blob, 0, side)
            expected = plain(slices, np.arange(len(slices)), 0)[1]
            assert slices.labels().tolist() == expected.tolist()
    assert drawn == [TRAINING, VALIDATION] * 2  # another split is drawn anew


def test_an_index_is_read_block_by_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coinseg.data.slices.index.BLOCK", 2)
    rows = [dict.fromkeys(COLUMNS, 0) | {"case": f'a "scan", {"x" * i}', "top": i / 3, "slice": i} for i in range(5)]
    with (tmp_path / "index.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    found = read_index(tmp_path / "index.csv")
    assert list(found) == list(COLUMNS)
    assert found["case"].tolist() == [row["case"] for row in rows]
    assert found["top"].tolist() == [row["top"] for row in rows]
    assert found["slice"].dtype == np.int64
    assert found["slice"].tolist() == [0, 1, 2, 3, 4]


# --- scoring what does not fit into memory


def explained(n: int = 11, side: int = 24) -> Explained:
    rng = RNG(2)
    truth = np.zeros((n, side, side), bool)
    truth[::2, 5:12, 6:14] = True
    refined = np.clip(rng.normal(0.1, 0.1, truth.shape) + 0.4 * truth * (rng.random((n, 1, 1)) < 0.8), 0, 1)
    before, after = rng.random(n), rng.random(n)
    label = truth.any((1, 2)).astype(np.int64)
    image = refined[:, None]
    return Explained(np.arange(n), label, before, image, refined, refined, truth, rng.random(n) < 0.8, after, image)


def test_scores_are_the_same_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    found, settings = explained(), Settings()
    predicted = found.refined > 0.3
    whole = mask_free(found, predicted, 0.3, settings)
    scored = found.abnormal & found.known
    assert whole["iou_mask_free"] == metrics.pooled_iou(predicted[scored], found.truth[scored])
    assert whole["auprc"] == pixel_auprc(found.refined[scored], found.truth[scored])
    assert whole["false_positive_area"] == predicted[found.normal].mean()
    assert whole["lesions_touched"] == (predicted & found.truth)[scored].any((1, 2)).mean()
    monkeypatch.setattr(metrics, "BLOCK", 2)
    assert mask_free(found, predicted, 0.3, settings) == whole


@pytest.mark.parametrize("decimals", [1, 9])  # with and without equal saliencies
def test_average_precision_is_that_of_all_pixels_sorted_at_once(monkeypatch: pytest.MonkeyPatch, decimals: int) -> None:
    monkeypatch.setattr(metrics, "BLOCK", 3)
    found = explained()
    saliency, truth = found.refined.round(decimals), found.truth
    levels, hits = np.unique(saliency[truth], return_counts=True)
    true = hits[::-1].cumsum()[::-1]
    false = np.array([(saliency[~truth] >= level).sum() for level in levels])
    assert pixel_auprc(saliency, truth) == (hits * true / (true + false)).sum() / hits.sum()


def test_maps_lie_on_disk_while_they_are_scored_and_not_afterwards(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = Workspace(images, tmp_path / "run", tiny_settings())
    work.start()
    maps, seen = work.root / "evaluation" / "maps", []
    maps.mkdir(parents=True)
    (maps / "left").write_text("by a killed process")
    plain = evaluation.mask_free

    def watched(found: Explained, predicted: np.ndarray, *rest: object) -> dict[str, object]:
        seen.extend(sorted(path.name for path in maps.iterdir()))
        assert isinstance(found.refined, np.memmap)
        in_memory = Explained(*(None if a is None else np.array(a) for a in fields_of(found)))
        scores = plain(found, predicted, *rest)  # type: ignore[arg-type]
        assert scores == plain(in_memory, np.array(predicted), *rest)  # type: ignore[arg-type]
        return scores

    monkeypatch.setattr(evaluation, "mask_free", watched)
    evaluate(train(work))
    assert seen == [f"{name}.npy" for name in ("counterfactual", "image", "predicted", "refined", "saliency", "truth")]
    assert sorted(path.name for path in maps.parent.iterdir()) == [
        "audit.json",
        "checksums.json",
        "examples.npz",
        "scores.json",
        "slices.csv",
    ]


def fields_of(found: Explained) -> Iterator[np.ndarray | None]:
    for name in (
        "rows",
        "label",
        "before",
        "image",
        "saliency",
        "refined",
        "truth",
        "known",
        "after",
        "counterfactual",
        "agreement",
    ):
        yield getattr(found, name)
