"""Which words of a command line are settings, and what they say."""

from __future__ import annotations

import builtins
import io
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import yaml

from coinseg.cli import main as cli
from coinseg.cli.setting_words import given, split
from coinseg.config.parsing import settings_from
from coinseg.config.schema import Settings

OWN = ("data_path", "out", "overwrite", "dry_run", "preset")


def values(*words: str) -> dict[str, Any]:
    found = split(words, Settings(), OWN)
    assert not found.faults
    return found.values


def test_settings_are_parted_from_the_rest() -> None:
    found = split(["data", "-o", "out", "--coin.width", "3", "--overwrite", "--seed=-1", "--dry-run"], Settings(), OWN)
    assert found.rest == ["data", "-o", "out", "--overwrite", "--dry-run"]
    assert found.values == {"coin": {"width": "3"}, "seed": "-1"}


@pytest.mark.parametrize("words", ["--data.organ|a|2", "--data.organ|a,2", "--data.organ=[a, 2]", "--data.organ|[a, 2]"])
def test_lists(words: str) -> None:
    assert settings_from(values(*words.split("|"), "--seed", "3")).data.organ == ("a", "2")


def test_words_are_what_their_setting_is() -> None:
    words = ["--coin.lr", "1e-3", "--masks.threshold", "1", "--classifier.flip", "no", "--classifier.weights", "null"]
    found = settings_from(values(*words, "--data.study_type", "12", "--coin.width", "3"))
    assert (found.coin.lr, found.masks.threshold, found.classifier.flip, found.classifier.weights) == (1e-3, 1.0, False, None)
    assert (found.data.study_type, found.coin.width) == ("12", 3)


def test_later_ones_win_wherever_they_come_from(tmp_path: Path) -> None:
    (tmp_path / "all.yaml").write_text("coin: {width: 1, lr: 1e-3}\ndata.size: 32\nout: there\n")
    (tmp_path / "coin.yaml").write_text("width: 2")
    words = [
        "--coin.width",
        "5",
        "--config",
        str(tmp_path / "all.yaml"),
        "--coin",
        str(tmp_path / "coin.yaml"),
        "--coin.depth",
        "2",
    ]
    found = split(words, Settings(), OWN)
    assert found.values == {"coin": {"width": 2, "lr": "1e-3", "depth": "2"}, "data": {"size": 32}}
    assert found.rest == ['--config={"out": "there"}']
    assert values("--coin", '{"width": 3}', "--conf={coin: {depth: 3}}") == {"coin": {"width": 3, "depth": 3}}


def test_an_option_may_be_cut_short_where_it_is_one_alone() -> None:
    assert values("--coin.wid", "3") == {"coin": {"width": "3"}}
    assert split(["--over"], Settings(), OWN).rest == ["--over"]
    found = split(["--coin.d", "3", "--coin.widht", "3", "--seed"], Settings(), OWN)
    assert [fault.got for fault in found.faults] == [
        "unknown setting 'coin.d'", "unknown setting 'coin.widht'", "argument --seed: expected one argument",
    ]  # fmt: skip
    assert "did you mean 'coin.width'?" in found.faults[1].do


def test_what_an_option_is_given() -> None:
    assert given(["-o", "a", "--out=b"], "-o", "--out") == "a"
    assert given(["--preset=thesis"], "--preset") == "thesis"
    assert given(["--preset"], "--preset") is None


def test_the_configuration_is_printed_and_can_be_read_again(tmp_path: Path) -> None:
    printed = io.StringIO()
    with pytest.raises(SystemExit), redirect_stdout(printed):
        cli.main(["run", "d", "-o", "o", "--preset=thesis", "--coin.width", "3", "--print_config"])
    told = yaml.safe_load(printed.getvalue())
    assert (told["out"], told["coin"]["width"], told["coin"]["depth"]) == ("o", 3, 5)
    (tmp_path / "my.yaml").write_text(printed.getvalue())
    assert settings_from(split(["--config", str(tmp_path / "my.yaml")], Settings(), OWN).values).coin.width == 3


@pytest.mark.parametrize(
    "content",
    [
        "class_path: antigravity.Thing", "coin: {class_path: antigravity.Thing}", "out: {class_path: antigravity.Thing}",
        "seed: {class_path: antigravity.Thing, init_args: {}}", "engine: {class_path: coinseg.config.schema.EngineSettings}",
        "coin: {__default__: antigravity}",
    ],
)  # fmt: skip
def test_no_file_of_settings_names_a_class_to_import(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, imported = builtins.__import__, []

    def spy(name: str, *rest: Any) -> Any:
        imported.append(name)
        return plain(name, *rest)

    (tmp_path / "my.yaml").write_text(content)
    monkeypatch.setattr(builtins, "__import__", spy)
    assert cli.main(["run", "data", "-o", str(tmp_path / "out"), "--config", str(tmp_path / "my.yaml")]) == 2
    monkeypatch.undo()
    assert capsys.readouterr().err.count("; required: ") >= 1
    assert not [name for name in imported if "antigravity" in name]
