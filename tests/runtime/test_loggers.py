"""Where the log of a training goes: whole after an interruption, and refused where its library is not there."""

from __future__ import annotations

import csv
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from coinseg.config import rules
from coinseg.config.parsing import settings_from, stored_settings
from coinseg.config.reading import refuse
from coinseg.config.rules import of_extras
from coinseg.data.slices.arrays import Dataset
from coinseg.errors import UserError
from coinseg.runtime.stage import COST, Stage, read_stats
from coinseg.training.classifier import train_classifier
from conftest import tiny_settings


def interrupted(folder: Path, logger: str) -> None:
    """Twenty steps of which ten are kept, then thirty by a second process."""
    first = Stage(folder, "key", logger)
    first.resume()
    first.log(10, {"loss": 1.0})
    first.save(10, "lr", x=torch.zeros(1))
    first.log(20, {"loss": 99.0})
    second = Stage(folder, "key", logger)
    assert second.resume() is not None
    second.log(20, {"loss": 0.5})
    second.log(30, {"loss": 0.25, "probe": 0.75})
    second.finish(torch.nn.Linear(1, 1), "model.safetensors", "lr")


def test_a_csv_has_every_step_once_after_an_interruption(tmp_path: Path) -> None:
    interrupted(tmp_path / "coin", "csv")
    with (tmp_path / "coin/csv/metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["step"], row["loss"], row["probe"]) for row in rows] == [
        ("10", "1.0", ""),
        ("20", "0.5", ""),
        ("30", "0.25", "0.75"),
    ]
    Stage(tmp_path / "coin", "other").resume()
    assert not (tmp_path / "coin/csv").exists()  # that of another training


def test_event_files_are_read_by_tensorboard(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    interrupted(tmp_path / "coin", "auto")
    events = accumulator.EventAccumulator(str(tmp_path / "coin/tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(10, 1.0), (20, 0.5), (30, 0.25)]


def test_none_leaves_the_log_of_coinseg_alone(tmp_path: Path) -> None:
    interrupted(tmp_path / "coin", "none")
    assert {path.name for path in (tmp_path / "coin").iterdir()} == {
        "checksums.json",
        "stage.json",
        "stats.jsonl",
        "model.safetensors",
    }
    assert [line["loss"] for line in read_stats(tmp_path / "coin/stats.jsonl")] == [1.0, 0.5, 0.25]


def test_the_log_says_how_fast_it_goes_and_what_memory_it_takes(tmp_path: Path) -> None:
    images, labels = np.random.default_rng(0).random((16, 16, 16)), np.arange(16) % 2
    base = tiny_settings()
    settings = replace(base, classifier=replace(base.classifier, steps=20), engine=replace(base.engine, logger="csv"))
    train_classifier(Dataset(images, labels), settings, tmp_path / "classifier")
    lines = read_stats(tmp_path / "classifier/stats.jsonl")
    seconds = lines[1]["time"] - lines[0]["time"]
    assert [line["step"] for line in lines] == [10, 20]
    assert all(0.05 < line["memory_gb"] < 100 for line in lines)
    assert all(line["images_per_s"] > 0 for line in lines)
    # Ten steps of a batch; `time` has tenths of a second.
    assert lines[1]["images_per_s"] >= 0.5 * 10 * base.classifier.batch / (seconds + 0.2)
    with (tmp_path / "classifier/csv/metrics.csv").open() as file:
        assert {*COST, "loss", "step"} <= {*next(csv.reader(file))}


@pytest.mark.parametrize(
    ("name", "do"),
    [
        ("wandb", "pip install wandb, or"),
        ("mlflow", "pip install mlflow, or"),
        ("tensorboard", r"pip install 'coinseg\[tensorboard\]'"),
    ],
)
def test_a_logger_that_is_not_installed_is_refused_before_any_work(name: str, do: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "find_spec", lambda module: None)
    settings = settings_from({"engine": {"logger": name}})
    with pytest.raises(UserError, match=f"engine.logger is {name}; required: {name}, which is not installed; {do}"):
        refuse(of_extras(settings))
    refuse(of_extras(settings_from({"engine": {"logger": "csv"}})))


def test_old_settings_say_the_same() -> None:
    for old, new in ((True, "auto"), (False, "none"), ("true", "auto"), ("false", "none")):
        assert stored_settings({"engine": {"tensorboard": old}}).engine.logger == new


def test_wandb_and_mlflow_get_every_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of stand-ins that take what the libraries' own documents say; neither is installed here."""
    seen: list[Any] = []
    run = SimpleNamespace(
        log=lambda metrics, step: seen.append((step, metrics)), finish=lambda exit_code: seen.append(("end", exit_code))
    )
    wandb = SimpleNamespace(Settings=lambda **more: more, init=lambda **more: seen.append(more) or run)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    (tmp_path / "w").mkdir()
    stage = Stage(tmp_path / "w", "k" * 40, "wandb")
    stage.log(10, {"loss": 1.0})
    stage.finish(torch.nn.Linear(1, 1), "model.safetensors", "lr")
    assert (seen[0]["project"], seen[0]["name"], seen[0]["id"], seen[0]["resume"]) == ("coinseg", "w", "k" * 32, "allow")
    assert seen[1:] == [(10, {"loss": 1.0}), ("end", 0)]

    told: list[Any] = []
    client = SimpleNamespace(
        get_experiment_by_name=lambda name: None, create_experiment=lambda name: name,
        create_run=lambda experiment, run_name: SimpleNamespace(info=SimpleNamespace(run_id=f"{experiment}/{run_name}")),
        log_metric=lambda *given, step: told.append((*given, step)), set_terminated=lambda *given: told.append(given),
    )  # fmt: skip
    where: list[str] = []
    monkeypatch.setitem(
        sys.modules, "mlflow", SimpleNamespace(MlflowClient=lambda tracking_uri: where.append(tracking_uri) or client)
    )
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "m").mkdir()
    stage = Stage(tmp_path / "m", "key", "mlflow")
    stage.log(10, {"loss": 1.0})
    stage.finish(torch.nn.Linear(1, 1), "model.safetensors", "lr")
    assert where == [f"sqlite:///{tmp_path / 'm' / 'mlflow.db'}"]
    assert told == [("coinseg/m", "loss", 1.0, 10), ("coinseg/m", "FINISHED")]
