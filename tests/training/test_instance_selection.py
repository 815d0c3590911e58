"""Labels per scan: which labels are those of scans, which slices are witnesses, and how held-out scans are scored."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from coinseg.cli import main as cli
from coinseg.config.schema import Settings
from coinseg.data.layouts.registry import read_layout
from coinseg.data.slices.case import labelled_per_scan
from coinseg.data.slices.dataset import UNKNOWN, ScoredSlices, TrainingSlices
from coinseg.data.slices.split import LEFT_OUT, TRAINING, VALIDATION
from coinseg.data.slices.store import SliceStore, prepare
from coinseg.metrics.overlap import classification_scores, scan_scores
from coinseg.pipeline.recipe import train_pair
from coinseg.pipeline.run import Workspace, counts, job_of, prepare_slices, train, warnings
from coinseg.runtime.records import write_record
from coinseg.training import instance_selection as witnesses
from coinseg.training.instance_selection import find_instances, select_instances, two_folds
from coinseg.types import Case
from conftest import tiny_settings
from examples import SLICES, scans


def prepared(data: Path, out: Path, settings: Settings) -> SliceStore:
    return prepare(read_layout(data, settings.data), settings, out)


# --- whose label is it? -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("label", "by_slice", "volume", "used", "level", "expected"),
    [
        (1, {}, True, 5, "auto", True),
        (1, {}, True, 1, "auto", False),  # the only slice is the scan
        (1, {2: 0}, True, 5, "auto", False),  # somebody looked at slices
        (1, {2: 0}, True, 5, "scan", True),
        (1, {}, True, 5, "slice", False),
        (0, {}, True, 5, "scan", False),  # a normal scan has normal slices
        (None, {2: 1}, True, 5, "scan", False),
        (1, {}, False, 1, "scan", False),
    ],
)
def test_whose_label(label: int | None, by_slice: dict[int, int], volume: bool, used: int, level: str, expected: bool) -> None:
    case = Case("a", "a", Path("a"), volume, label, by_slice)
    assert labelled_per_scan(case, level, used) is expected


def test_weak_slices_of_a_store(tmp_path: Path) -> None:
    data, settings = scans(tmp_path / "data", 4), tiny_settings()
    store = prepared(data, tmp_path / "slices", settings)
    assert np.array_equal(store.index["weak"], store.index["label"])
    assert (store.index["weak"] == 1).sum() == 2 * SLICES
    inherited = replace(settings, data=replace(settings.data, label_level="slice"))
    assert not prepared(data, tmp_path / "other", inherited).index["weak"].any()


# --- which slices are witnesses? ----------------------------------------------------------------------------------


def test_witnesses_by_hand() -> None:
    normal, a, b = [0.1, 0.2, 0.3, 0.4, 0.5], [0.6, 0.45, 0.1], [0.05, 0.3, 0.2]
    probability = np.array(normal + a + b)
    scan, label = np.array(["n"] * 5 + ["a"] * 3 + ["b"] * 3), np.array([0] * 5 + [1] * 6)
    # The median of the normal slices is 0.3: two of scan a exceed it, none of scan b, whose highest (0.3) is kept all the same.
    assert np.flatnonzero(find_instances(probability, scan, label, 0.5)).tolist() == [5, 6, 9]
    # Above all normal slices: one of each abnormal scan.
    assert np.flatnonzero(find_instances(probability, scan, label, 1.0)).tolist() == [5, 9]


@pytest.mark.parametrize("seed", range(5))
def test_laws_of_witnesses(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scan, probability = np.repeat(np.arange(10), 6), rng.random(60)
    label = (scan < 4).astype(int)
    found = {q: find_instances(probability, scan, label, q) for q in (0.5, 0.9, 1.0)}
    for of in found.values():
        assert not of[label == 0].any()
        assert set(scan[of]) == {0, 1, 2, 3}
    assert (found[1.0] <= found[0.9]).all()
    assert (found[0.9] <= found[0.5]).all()
    order = rng.permutation(60)
    assert np.array_equal(find_instances(probability[order], scan[order], label[order], 0.9), found[0.9][order])


def test_folds_are_by_patient_with_both_classes_or_none_at_all() -> None:
    patients = np.repeat([f"p{i}" for i in range(9)], 3)
    label = np.repeat([1, 0, 0, 1, 0, 1, 0, 0, 1], 3)
    fold = two_folds(patients, label, 0)
    assert fold is not None
    assert np.array_equal(fold, two_folds(patients, label, 0))
    assert all(len(set(fold[patients == name])) == 1 for name in patients)
    assert all(set(label[fold == i]) == {0, 1} for i in (0, 1))
    assert two_folds(patients[:6], label[:6], 0) is None
    assert two_folds(patients[:3], label[:3], 0) is None


# --- the stage ----------------------------------------------------------------------------------------------------


def test_training_is_left_with_witnesses_found_without_masks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = replace(tiny_settings(), classifier=replace(tiny_settings().classifier, steps=60))
    store = prepared(scans(tmp_path / "data", 10, masks=True), tmp_path / "slices", settings)
    (tmp_path / "slices" / "truth.bin").unlink()
    lesion_px = store.index.pop("lesion_px")
    told: list[tuple[str, int, int]] = []
    chosen = select_instances(
        store, settings, tmp_path / "witnesses", lambda stage, done, total, values: told.append((stage, done, total))
    )
    before, after = store.index["split"], chosen.index["split"]
    changed = before != after
    assert set(after[changed]) == {LEFT_OUT}
    assert (before[changed] == TRAINING).all()
    assert (store.index["weak"][changed] == 1).all()
    kept = (after == TRAINING) & (store.index["weak"] == 1)
    assert set(store.index["case"][kept]) == set(store.index["case"][(before == TRAINING) & (store.index["weak"] == 1)])
    assert (lesion_px[kept] > 0).mean() > 0.6  # 0.4 of the slices of an abnormal scan show the square
    assert told[-1] == ("witnesses", 120, 120)
    assert chosen.meta["contents"] != store.meta["contents"]
    assert store.index["split"] is before
    made = json.loads((tmp_path / "witnesses" / "witnesses.json").read_text())
    assert (made["kept"], made["weak"]) == (kept.sum(), (store.index["weak"][before == TRAINING]).sum())
    assert sum(len(slices) for slices in made["slices"].values()) == kept.sum()
    # Done is done: the same question is answered from the file, another one is asked anew.
    monkeypatch.setattr(witnesses, "train_classifier", lambda *_: pytest.fail("trained again"))
    again = select_instances(store, settings, tmp_path / "witnesses")
    assert again.meta == chosen.meta
    with pytest.raises(pytest.fail.Exception):
        select_instances(store, replace(settings, seed=1), tmp_path / "witnesses")


def test_without_weak_slices_nothing_is_searched(tmp_path: Path) -> None:
    settings = tiny_settings()
    settings = replace(settings, data=replace(settings.data, label_level="slice"))
    store = prepared(scans(tmp_path / "data", 4), tmp_path / "slices", settings)
    assert select_instances(store, settings, tmp_path / "witnesses") is store
    assert not (tmp_path / "witnesses").exists()


# --- held-out scans -----------------------------------------------------------------------------------------------


def test_unknown_labels_are_not_counted() -> None:
    scores = classification_scores(np.array([0.9, 0.2, 0.1]), np.array([1, 0, UNKNOWN]))
    assert scores == classification_scores(np.array([0.9, 0.2]), np.array([1, 0]))
    assert set(classification_scores(np.array([0.9, 0.2]), np.array([UNKNOWN, 0])).values()) == {None}


def test_a_scan_is_as_abnormal_as_its_highest_slice() -> None:
    scan, label = np.array(["a", "a", "b", "b", "c"]), np.array([1, 1, 0, 0, 0])
    assert scan_scores(np.array([0.1, 0.6, 0.5, 0.5, 0.2]), label, scan) == {"auroc_scans": 1.0}
    assert scan_scores(np.array([0.1, 0.4, 0.3, 0.5, 0.2]), label, scan) == {"auroc_scans": 0.5}
    assert scan_scores(np.array([0.1, 0.4]), np.array([0, 0]), np.array(["a", "a"])) == {"auroc_scans": None}
    assert scan_scores(np.array([0.1, 0.4]), np.array([0, 1]), np.array(["a", "b"])) == {"auroc_scans": None}


def test_masks_decide_what_a_held_out_slice_is_and_only_there(tmp_path: Path) -> None:
    settings = tiny_settings()
    for masks in (True, False):
        store = prepared(scans(tmp_path / f"data{masks}", 8, masks), tmp_path / f"slices{masks}", settings)
        held = ScoredSlices(store, settings.anomaly, 0, VALIDATION)
        batch = held.scored(np.arange(len(held)))
        weak = held.weak()
        assert weak.any()
        expected = (store.index["lesion_px"][held.rows[weak]] > 0) if masks else np.full(weak.sum(), UNKNOWN)
        assert np.array_equal(batch.label[weak], expected)
        assert not batch.label[~weak].any()
        training = TrainingSlices(store, settings.anomaly, 0)
        assert np.array_equal(training.batch(np.arange(len(training))).label.numpy(), training.labels())


# --- the whole path -----------------------------------------------------------------------------------------------

TINY = [f"--{name}={value}" for name, value in {
    "data.size": 32, "data.validation": 0.4, "classifier.steps": 20, "classifier.batch": 8, "coin.width": 4, "coin.depth": 2,
    "coin.skips": 1, "coin.steps": 4, "coin.batch": 4, "coin.discriminator_width": 4, "coin.discriminator_depth": 2,
    "engine.threads": 1, "engine.logger": "none",
}.items()]  # fmt: skip


def test_one_label_per_study_and_no_masks_gives_masks_and_a_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = scans(tmp_path / "data", 10), tmp_path / "out"
    options = [str(data), *TINY]
    assert cli.main(["inspect", str(data)]) == 0
    assert "5 abnormal scans have no labels by slice" in capsys.readouterr().out
    assert cli.main(["inspect", str(data), "--json", "--data.label_level", "slice"]) == 0
    assert json.loads(capsys.readouterr().out)["labels"]["abnormal_per_scan"] == 0
    assert cli.main(["run", *options, "-o", str(out), "--dry-run"]) == 0
    assert "looking for witnesses" in capsys.readouterr().out
    assert cli.main(["prepare", *options, "-o", str(out)]) == 0
    assert not (out / "witnesses").exists()
    assert cli.main(["run", *options, "-o", str(out)]) == 0
    assert "auroc_scans" in capsys.readouterr().out
    manifest = json.loads((out / "manifest.json").read_text())
    scores, because = manifest["scores"], manifest["scores"]["null_because"]
    assert 0 <= scores["auroc_scans"] <= 1
    assert scores["auroc"] is scores["accuracy"] is scores["iou_mask_free"] is None
    assert because["auroc"] == because["accuracy"] == "abnormal scans have no labels by slice"
    assert (scores["slices_abnormal"], scores["slices_unknown"], scores["slices_normal"]) == (0, 2 * SLICES, 2 * SLICES)
    found = manifest["data"]["labels_per_scan"]
    assert (found["rule"], found["abnormal_scans"], found["slices"]) == ("witnesses", 3, 3 * SLICES)
    assert manifest["data"]["abnormal"] == found["kept"]
    assert manifest["timings_s"]["witnesses"] > 0
    assert len(list((out / "masks").glob("*.nii.gz"))) == 5
    page = (out / "report.html").read_text()
    assert "Only the scan is labelled abnormal" in page
    assert f"{2 * SLICES} more are of" in page
    with (out / "evaluation" / "slices.csv").open() as file:
        assert {row["label"] for row in csv.DictReader(file)} == {"", "0"}
    # The same command again changes nothing.
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*.safetensors")}
    assert cli.main(["evaluate", str(out), *TINY]) == 0
    assert before == {p: p.stat().st_mtime_ns for p in out.rglob("*.safetensors")}


def test_too_few_scans_to_search_in_inherit_their_label_and_the_report_says_so(tmp_path: Path) -> None:
    work = Workspace(scans(tmp_path / "data", 4), tmp_path / "out", tiny_settings())
    work.start()
    assert (job_of(work).store.index["split"] == prepare_slices(work).index["split"]).all()
    run = train(work)
    assert counts(run)["labels_per_scan"]["rule"] == "inherited"
    assert witnesses.INHERITED in warnings(run)


def test_a_weak_classifier_is_told_by_its_scans(tmp_path: Path) -> None:
    settings = tiny_settings()
    settings = replace(settings, method="layercam", classifier=replace(settings.classifier, steps=2, lr=1e-9))
    work = Workspace(
        scans(tmp_path / "data", 10), tmp_path / "out", replace(settings, data=replace(settings.data, validation=0.4))
    )
    work.start()
    train_pair(job_of(work), until="classifier")
    file = work.root / "classifier" / "stage.json"
    made = json.loads(file.read_text())
    assert made["scores"]["auroc"] is None
    write_record(file, made | {"scores": made["scores"] | {"auroc_scans": 0.6}})
    assert any("the classifier is weak (AUROC 0.60 on held-out scans)" in line for line in warnings(train(work)))
