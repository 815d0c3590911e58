"""Settings with a new name: the old one is read wherever settings are, and keys stay what they were."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from coinseg.cli.setting_words import split
from coinseg.config import renamed
from coinseg.config.parsing import setting_names, settings_from, stored_settings
from coinseg.config.reading import read
from coinseg.config.schema import CoinSettings, MaskSettings, Settings, StudentSettings
from coinseg.pipeline.run_folder import changes
from coinseg.runtime.files import key_of

OLD: dict[str, Any] = {
    "student": {"contrast": 0.5, "opinion": 7, "drawn": 0.25, "neighbours": False, "novelty": 0.5, "members": 3},
    "masks": {"flips": False, "threshold": "flip"},
}
NEW: dict[str, Any] = {
    "student": {
        "border_weight": 0.5, "imagenet_steps": 7, "synthetic_lesions": 0.25, "slice_hmm": False, "patchcore_quantile": 0.5,
        "networks": 3,
    },
    "masks": {"hflip": False, "threshold": "decision_flip"},
}  # fmt: skip


@pytest.fixture(autouse=True)
def nothing_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renamed, "_told", set())


def test_the_table_leads_from_names_that_are_gone_to_names_there_are() -> None:
    assert set(renamed.RENAMED.values()) <= set(setting_names())
    assert not set(renamed.RENAMED) & set(setting_names())


def test_old_names_are_read_with_one_line_that_names_the_new_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert stored_settings(OLD) == stored_settings(NEW) != Settings()
    assert capsys.readouterr().err == ""  # coinseg wrote these names itself: nobody has to mend them
    assert read(OLD, Settings()) == read(NEW, Settings())  # as a user gives them
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(
        "coinseg: old names of settings, read until the next release: student.contrast is now student.border_weight, "
    )
    assert err.endswith("masks.flips is now masks.hflip, masks.threshold flip is now masks.threshold decision_flip\n")
    read(OLD, Settings())
    assert capsys.readouterr().err == ""  # once is enough


def test_a_name_that_is_gone_changes_nothing_and_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert not set(renamed.GONE) & set(setting_names())
    assert stored_settings({"student": {"parts": "evidence"}}) == Settings()
    assert capsys.readouterr().err == ""
    assert read({"student": {"parts": "evidence", "steps": 7}}, Settings()) == read({"student": {"steps": 7}}, Settings())
    assert capsys.readouterr().err == "coinseg: old names of settings, read until the next release: student.parts is gone\n"


def test_new_names_are_read_in_silence(capsys: pytest.CaptureFixture[str]) -> None:
    assert stored_settings(stored_settings(NEW).as_dict()) == stored_settings(NEW)
    assert capsys.readouterr().err == ""


def test_where_old_and_new_stand_together_the_new_one_counts() -> None:
    assert settings_from({"student": {"members": 3, "networks": 4}}).student.networks == 4
    assert settings_from({"student": {"networks": 4, "members": 3}}).student.networks == 4


def test_a_wrong_value_is_told_by_the_new_name() -> None:
    with pytest.raises(Exception, match=r"^student\.networks is 99; required: 1 to 16"):
        settings_from({"student": {"members": 99}})


def test_old_names_on_the_command_line_and_in_files(tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text("student: {members: 3}\nstudent.opinion: 7\n")
    words = ["--config", str(tmp_path / "my.yaml"), "--student.drawn", "0.25", "--masks.flips=false", "--student", "{novelty: 0}"]
    found = split([*words, "--student.members", "4", "--masks.threshold", "flip"], Settings(), ())
    assert found.values == {
        "student": {"networks": "4", "imagenet_steps": 7, "synthetic_lesions": "0.25", "patchcore_quantile": 0},
        "masks": {"hflip": "false", "threshold": "decision_flip"},
    }
    assert (found.rest, found.faults) == ([], [])


def test_a_run_folder_of_old_names_goes_on(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(yaml.safe_dump({"data": "d", "settings": OLD}))
    assert changes(file, None, stored_settings(NEW)) == []


def test_keys_are_those_of_the_first_run_folders() -> None:
    assert key_of(renamed.hashed(StudentSettings())) == "fdced037a7e53381"
    of_then = MaskSettings(opening=3, keep="largest")
    assert key_of(renamed.hashed(of_then)) == "a1807c2cf5d99d05"
    flipped = replace(of_then, threshold="decision_flip", hflip=False)
    assert key_of(renamed.hashed(flipped)) == "191e53fb0d55339c"
    assert "contrast" not in renamed.hashed(CoinSettings())
