"""Which words of a command line are settings, and what they say."""

from __future__ import annotations

import builtins
import importlib
import io
import sys
from contextlib import redirect_stdout
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from coinseg.cli import main as cli
from coinseg.cli.setting_words import given, split
from coinseg.cli.typed import typed
from coinseg.config.parsing import settings_from
from coinseg.config.schema import Settings

OWN = ("data_path", "out", "overwrite", "dry_run", "preset", "budget")


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


@pytest.mark.parametrize("words", ["--data.classes 1 2 -o OUT DATA", "-o OUT --data.classes 1 2 --overwrite DATA",
                                   "--data.classes 1 2 -oOUT DATA", "DATA --data.classes 1 2 -o OUT"])  # fmt: skip
def test_a_list_ends_at_the_next_option_of_either_kind(words: str) -> None:
    found = split(words.split(), Settings(), OWN)
    assert found.values == {"data": {"classes": ["1", "2"]}}
    assert not found.faults
    assert "DATA" in found.rest
    assert "OUT" in "".join(found.rest)
    assert found.lists == ["--data.classes"]
    asked = split(["--data.classes", "-o", "OUT", "--seed", "-1"], Settings(), OWN)
    assert [fault.got for fault in asked.faults] == ["argument --data.classes: expected one argument"]
    assert asked.values == {"seed": "-1"}
    assert asked.rest == ["-o", "OUT"]


def test_the_data_stand_before_all_options_wherever_they_are_typed() -> None:
    words = typed(["run", "--data.classes", "1", "2", "-i", "DATA", "-o", "OUT"], cli.COMMANDS["run"])
    assert words == ["run", "DATA", "--data.classes", "1", "2", "-o", "OUT"]


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


GROUPS = [name for name, value in vars(Settings()).items() if is_dataclass(value)]
READING = {
    "run": ["data", "-o", "out"], "prepare": ["data", "-o", "out"], "train-classifier": ["out"], "train-coin": ["out"],
    "evaluate": ["out"], "report": ["out"], "reproduce": ["table3", "-o", "out"], "inspect": ["data"], "phantom": ["out"],
    "segment": ["-i", "scans", "-o", "masks", "--model", "run"],
}  # fmt: skip


def test_these_are_all_commands_that_read_settings() -> None:
    assert set(READING) == {name for name, each in cli.COMMANDS.items() if each.defaults is not None}


@pytest.mark.parametrize("name", READING)
def test_no_file_of_settings_names_a_class_to_import(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In no group, at no place, of no command; nor does a module beside the file run, or one a value of a setting names."""
    plain, by_name, imported, file = builtins.__import__, importlib.import_module, [], tmp_path / "my.yaml"

    def spy(name: str, *rest: Any) -> Any:
        imported.append(name)
        return plain(name, *rest)

    (tmp_path / "beside_it.py").write_text("raise SystemError('it ran')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(builtins, "__import__", spy)
    monkeypatch.setattr(importlib, "import_module", lambda name, *rest: (imported.append(name), by_name(name, *rest))[1])
    thing = "{class_path: beside_it.Thing, init_args: {}}"
    own = [options.get("dest", names[-1].lstrip("-").replace("-", "_")) for names, options in cli.COMMANDS[name].arguments()]
    contents = [f"{group}: {thing}" for group in [*GROUPS, "seed", "method", "patients", "lesions", *own, "help", "print_config"]]
    contents += [f"{argument}: [{thing}]" for argument in own]
    contents += [
        "config: other.yaml",
        "coin: other.yaml",
        f"coin: {{width: {{a: {{b: {thing}}}}}}}",
        f"{{run: {thing}, {name}: {thing}}}",
    ]
    (tmp_path / "other.yaml").write_text(f"coin: {thing}")
    contents += ["class_path: beside_it.Thing", "coin: {__default__: beside_it}", "classifier: {name: 'beside_it:Thing'}"]
    contents += [f"{group}: {{size: {thing}, name: {thing}, width: {thing}, kind: {thing}}}" for group in GROUPS]
    contents += ["!!python/object:beside_it.Thing {}", "coin: !!python/name:beside_it.Thing ''"]
    for content in contents:
        file.write_text(content)
        assert cli.main([name, *READING[name], "--config", "my.yaml"]) == 2, content
        assert capsys.readouterr().err.count("; required: ") >= 1
    for group in GROUPS if name != "phantom" else ():
        assert cli.main([name, *READING[name], f"--{group}", thing]) == 2, group
    for variable in ("COINSEG_CONFIG", f"COINSEG_{name.upper()}__CONFIG"):  # nor does one that the environment names
        monkeypatch.setenv("JSONARGPARSE_DEFAULT_ENV", "true")
        monkeypatch.setenv(variable, str(tmp_path / "other.yaml"))
    with pytest.raises(SystemExit):
        cli.main([name, *READING[name], "--print_config"])
    monkeypatch.undo()
    assert not [name for name in imported if "beside_it" in name]
    assert "beside_it" not in sys.modules
