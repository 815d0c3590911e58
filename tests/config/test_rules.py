"""Settings that do not fit one another: every rule alone, all together, and asked before any work."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from coinseg.cli import main as cli
from coinseg.config.parsing import PRESETS, settings_from, stored_settings
from coinseg.config.reading import Fault, refuse
from coinseg.config.rules import RULES, faults, of_classes, of_organs, of_tables, require_consistent
from coinseg.config.schema import METHODS, CoinSettings, Settings
from coinseg.errors import UserError
from coinseg.explain import registry
from coinseg.pipeline.run import Workspace
from coinseg.thesis.rows import SCALES

CONFLICTS: list[tuple[dict[str, Any], str]] = [
    ({"method": "layercm"}, f"method is 'layercm'; required: one of {', '.join(METHODS)}; did you mean layercam?"),
    (
        {"method": "rise", "masks": {"threshold": "decision_flip"}},
        "masks.threshold is decision_flip and method is rise; required: method counterfactual for it; "
        "leave masks.threshold as it is",
    ),
    (
        {"data": {"size": 50}},
        "data.size is 50 and coin.depth is 4; required: a side that is a multiple of 16; set data.size to 48 or lower coin.depth",
    ),
    ({"coin": {"skips": 4}}, "coin.skips is 4; required: 0 to coin.depth - 1 = 3; lower coin.skips"),
    (
        {"classifier": {"weights": "w.pth"}},
        "classifier.weights is w.pth and classifier.name is local, which does not read it; required: a timm model's name beside "
        "its weights, or imagenet for both; mend one of the two",
    ),
    (
        {"data": {"roi": "each"}},
        "data.roi is each and the labels are those of whole slices; required: labels that belong to the crop; "
        "set data.roi to organ",
    ),
    (
        {"data": {"tile": 64, "roi": "organ"}},
        "data.tile is 64 and data.roi is organ; required: whole slices to cut; set data.roi to none, or data.tile to 0",
    ),
    (
        {"masks": {"flips": False}},
        "masks.hflip is false and student.steps is 600; required: mirror images for a student, which learns only from masks that "
        "can be trusted; set masks.hflip to true, or student.steps to 0",
    ),
    (
        {"engine": {"precision": "bf16-true"}},
        "engine.precision is 'bf16-true'; required: weights and images in single precision; 32-true, bf16-mixed or 16-mixed",
    ),
    (
        {"engine": {"precision": "33"}},
        "engine.precision is '33'; required: a precision of Lightning Fabric; 32-true, bf16-mixed or 16-mixed",
    ),
]
FITTING: list[dict[str, Any]] = [
    {"data": {"roi": "each"}, "anomaly": {"kind": "blob"}},
    {"masks": {"flips": False}, "student": {"steps": 0}},
    {"masks": {"flips": False}, "method": "layercam"},
    {"classifier": {"name": "imagenet", "weights": "imagenet"}},
    {"classifier": {"name": "resnet18", "weights": "w.pth"}},
    {"masks": {"threshold": "decision_flip"}},
    {"masks": {"threshold": 1}},
    {"data": {"size": 48}, "coin": {"depth": 2, "skips": 0}},
]


@pytest.mark.parametrize(("values", "line"), CONFLICTS)
def test_what_does_not_fit_is_refused_in_one_line(values: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError) as caught:
        settings_from(values)
    assert str(caught.value) == line
    assert settings_from({}) == stored_settings({})  # nothing is kept of it
    with pytest.raises(UserError) as caught:
        require_consistent(stored_settings(values))  # a folder that has it can be read, and not trained
    assert str(caught.value) == line


@pytest.mark.parametrize("values", FITTING)
def test_what_fits_is_not(values: dict[str, Any]) -> None:
    assert settings_from(values) == stored_settings(values)


def test_every_rule_is_tried() -> None:
    broken = [stored_settings(values) for values, _ in CONFLICTS]
    assert all(any(list(rule(settings)) for settings in broken) for rule in RULES)


@pytest.mark.parametrize("settings", [*PRESETS.values(), *SCALES.values()])
def test_presets_are_without_fault(settings: Settings) -> None:
    assert faults(settings) == []


def test_the_methods_are_those_there_are() -> None:
    assert METHODS == registry.METHODS


def test_all_faults_come_together_and_none_follows_from_another() -> None:
    values = {
        "sed": 1, "coin": {"width": 0, "depth": "deep", "wdth": 3}, "data": {"size": 50}, "masks": {"threshold": 2},
        "classifier": {"weights": "w.pth"}, "student": 3,
    }  # fmt: skip
    with pytest.raises(UserError) as caught:
        settings_from(values)
    line = str(caught.value)
    assert "\n" not in line
    for words in (
        "7 settings are wrong: (1) unknown setting 'sed' (required: a name that --print_config shows; did you mean 'seed'?)",
        "coin.width is 0 (required: 1 to 2048; mend the setting)",
        "coin.depth is 'deep' (required: a whole number; mend the setting)",
        "unknown setting 'coin.wdth'",
        "masks.threshold is 2 (required: auto, normals, otsu, decision_flip or a number in (0, 1]; mend it)",
        "student is 3 (required: a mapping of settings; see --print_config)", "classifier.weights is w.pth and",
    ):  # fmt: skip
        assert words in line
    assert "data.size is 50" not in line  # whether it fits a depth that is none cannot be said


def test_settings_made_in_python_are_judged_like_those_of_a_file(tmp_path: Path) -> None:
    base = Settings()
    wrong = replace(base, masks=replace(base.masks, threshold=2.0), coin=replace(base.coin, width=0), seed=1.5)  # type: ignore
    assert [fault.names for fault in faults(wrong)] == [("seed",), ("coin.width",), ("masks.threshold",)]
    with pytest.raises(UserError, match="3 settings are wrong"):
        Workspace(tmp_path / "no data are read", tmp_path / "out", wrong).check()
    assert not (tmp_path / "out").exists()


def test_a_group_that_is_no_settings_is_refused_at_once() -> None:
    with pytest.raises(UserError, match=r"data is of type dict; required: DataSettings; or give coinseg.settings_from\(\{'data'"):
        Settings(data={"size": 64})  # type: ignore[arg-type]
    with pytest.raises(UserError, match="coin is of type DataSettings"):
        replace(Settings(), coin=Settings().data)  # type: ignore[arg-type]


def test_one_fault_keeps_its_own_words_and_the_same_one_is_said_once() -> None:
    fault = Fault(("seed",), "got", "needed", "do")
    with pytest.raises(UserError, match=r"^got; required: needed; do$"):
        refuse([fault, fault])
    refuse([])


@pytest.mark.parametrize(
    "words",
    [
        ["run", "data", "-o", "out"], ["prepare", "data", "-o", "out"], ["train-classifier", "out"], ["train-coin", "out"],
        ["evaluate", "out"], ["report", "out"], ["reproduce", "table2", "-o", "out"],
    ],
)  # fmt: skip
def test_every_command_refuses_before_it_looks_at_anything(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main([*words, "--masks.threshold", "2", "--coin.skips=9", "--coin.lr", "fast"]) == 2
    line = capsys.readouterr().err
    assert line.startswith("coinseg: error: 3 settings are wrong: ")
    assert line.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_inspect_asks_only_what_is_of_the_data(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["inspect", str(images), "--data.size", "50"]) == 0
    assert cli.main(["inspect", str(images), "--data.roi", "each"]) == 2
    assert "data.roi is each" in capsys.readouterr().err


def test_rules_of_single_places() -> None:
    assert not list(of_organs(CoinSettings(), has_organs=False))
    assert [f.got for f in of_organs(CoinSettings(regions="organ"), False)] == [
        "coin.regions is organ and the data have no organ masks"
    ]
    assert not list(of_tables(Settings()))
    assert list(of_tables(stored_settings({"masks": {"threshold": "decision_flip"}})))


@pytest.mark.parametrize(
    ("coin", "line"),
    [
        ({"informed": True}, "coin.informed is true and there are 2 classes"),
        ({"keep_normal": True}, "coin.keep_normal is true and there are 2 classes"),
        ({"conditions": 3}, "coin.conditions is 3 and there are 2 classes"),
    ],
)
def test_what_is_of_one_class_is_refused_of_several(coin: dict[str, Any], line: str) -> None:
    settings = stored_settings({"coin": coin})
    assert [fault.got for fault in of_classes(settings, 2)] == [line]
    assert not list(of_classes(settings, 1))
    assert not list(of_classes(replace(settings, method="rise"), 2))
    assert not list(of_classes(Settings(), 2))
