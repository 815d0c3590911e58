"""The mutants that once survived are still changes of the source: their text stands there once, and their tests are there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NAMED = json.loads((ROOT / "studies" / "mutation-named.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("row", NAMED, ids=[row["name"] for row in NAMED])
def test_a_named_mutant_can_be_made_and_its_tests_exist(row: dict[str, str]) -> None:
    source = (ROOT / "src" / "coinseg" / row["file"]).read_text(encoding="utf-8")
    assert source.count(row["old"]) == 1
    assert row["old"] != row["new"]
    for name in row["tests"].split():
        path, _, function = name.partition("::")
        assert (ROOT / path).exists()
        assert not function or f"def {function.split('[')[0]}(" in (ROOT / path).read_text(encoding="utf-8")
