"""Keys: what is changed without need trains nothing again, and weights of another algorithm are never taken."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from coinseg.config.schema import MaskSettings, Settings, StudentSettings
from coinseg.data.layouts.registry import read_layout
from coinseg.data.slices.store import SliceStore, prepare
from coinseg.runtime.files import read_json
from coinseg.runtime.records import write_record
from coinseg.training import classifier, keys
from coinseg.training.classifier import train_classifier
from conftest import tiny_settings

STORE = cast(SliceStore, SimpleNamespace(meta={"contents": "c"}, views=(None,)))


def test_another_threshold_scores_f_again_and_does_not_train_it(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tiny_settings()
    store = prepare(read_layout(images, base.data), base, tmp_path / "slices")
    settings = [replace(base, classifier=replace(base.classifier, steps=4, threshold=t)) for t in (0.5, 1.0)]
    for number, each in enumerate(settings):
        train_classifier(store, each, tmp_path / f"fresh{number}")
    scores = [read_json(tmp_path / f"fresh{i}" / "stage.json")["scores"] for i in range(2)]
    assert scores[0]["accuracy"] != scores[1]["accuracy"]
    weights = tmp_path / "fresh0" / "model.safetensors"
    time = weights.stat().st_mtime_ns
    monkeypatch.setattr(classifier, "fit", lambda *_: pytest.fail("trained again"))
    for number in (0, 1, 0):
        train_classifier(store, settings[number], tmp_path / "fresh0")
        assert read_json(tmp_path / "fresh0" / "stage.json")["scores"] == scores[number]
    assert weights.stat().st_mtime_ns == time
    # A folder of before does not say at which threshold it was scored: it was the default.
    made = read_json(file := tmp_path / "fresh0" / "stage.json")
    del made["accuracy_threshold"]
    write_record(file, made)
    monkeypatch.setattr(classifier, "score_classifier", lambda *_: pytest.fail("scored again"))
    train_classifier(store, settings[0], tmp_path / "fresh0")


def test_keys_of_version_1_are_those_of_older_run_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    """The digests are what commit 7c4cd9d gives for its default settings; the student has had another schedule since."""
    assert keys.classifier_key(STORE, Settings()) == "942310a512ef1aca"
    of_then = Settings(masks=MaskSettings(opening=3, keep="largest"), student=StudentSettings(parts="masks"))
    assert keys.student_key(of_then, "t") != "dfe9f3c2121ed18a"
    monkeypatch.setitem(keys.STAGES, "student", replace(keys.STAGES["student"], version=1))
    assert keys.student_key(of_then, "t") == "dfe9f3c2121ed18a"


@pytest.mark.parametrize("stage", list(keys.STAGES))
def test_another_version_has_another_key(monkeypatch: pytest.MonkeyPatch, stage: str) -> None:
    given: dict[str, Any] = dict.fromkeys(("contents", "f", "teacher", "quantile", "fold_steps", "rounds"), "x")
    before = keys.stage_key(stage, Settings(), **given)
    monkeypatch.setitem(keys.STAGES, stage, replace(keys.STAGES[stage], version=keys.STAGES[stage].version + 1))
    assert keys.stage_key(stage, Settings(), **given) != before


def test_an_anomaly_counts_where_it_is_injected_and_with_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    base = Settings()
    faint = replace(base, anomaly=replace(base.anomaly, alpha=0.1))
    injected, faint_injected = (replace(s, anomaly=replace(s.anomaly, kind="blob")) for s in (base, faint))
    assert keys.classifier_key(STORE, base) == keys.classifier_key(STORE, faint)
    assert len({keys.classifier_key(STORE, s) for s in (base, injected, faint_injected)}) == 3
    before = keys.classifier_key(STORE, base), keys.classifier_key(STORE, injected)
    monkeypatch.setattr(keys, "ANOMALY_VERSION", 3)
    assert keys.classifier_key(STORE, base) == before[0]
    assert keys.classifier_key(STORE, injected) != before[1]


def test_what_only_makes_masks_trains_no_student_again() -> None:
    base = Settings()
    for change in ({"gate": 0.9}, {"patchcore_quantile": 0.0}, {"imagenet_steps": 0}, {"slice_hmm": False}):
        other = replace(base, student=replace(base.student, **change))  # type: ignore[arg-type]
        assert keys.student_key(other, "t") == keys.student_key(base, "t")
    assert keys.student_key(replace(base, student=replace(base.student, band=3)), "t") != keys.student_key(base, "t")
