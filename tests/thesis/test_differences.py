"""docs/research/differences.md: every setting in which preset, default and docs/tuh.yaml differ, with the values the code has."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from coinseg.config.declare import declarations
from coinseg.config.parsing import PRESETS, settings_from

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "research" / "differences.md").read_text(encoding="utf-8")
ROWS = {cells[0]: cells[1:] for cells in re.findall(r"^\| `([\w.]+)` \|" + r" (.+?) \|" * 6 + "$", PAGE, re.MULTILINE)}


def test_every_setting_that_differs_is_a_row_with_its_values() -> None:
    columns = [{each.name: each.value for each in declarations(PRESETS[name])} for name in ("thesis", "default")]
    differing = {name for name, value in columns[0].items() if value != columns[1][name]}
    assert differing <= ROWS.keys() <= columns[0].keys()
    assert {name: [yaml.safe_load(cell) for cell in row[-2:]] for name, row in ROWS.items()} == {
        name: [column[name] for column in columns] for name in ROWS
    }


def test_the_column_of_tuh_is_what_its_file_sets() -> None:
    text = yaml.safe_load((DOCS / "tuh.yaml").read_text(encoding="utf-8"))
    given = {f"{group}.{name}": value for group in ("classifier", "coin") for name, value in text[group].items()}
    told = {"classifier.steps", "coin.steps"}  # in epochs and checkpoints, which no file sets
    assert {name: yaml.safe_load(row[3]) for name, row in ROWS.items() if row[3] != "-" and name not in told} == given
    settings = settings_from(text, PRESETS["thesis"])
    assert (settings.data.min_organ_px, settings.data.min_lesion_px, settings.data.stratify) == (100, 1000, "lesion_area")
    assert settings.coin.spectral  # `use_snconv` of their TUH configuration is about the shortcuts of E alone
