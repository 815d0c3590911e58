"""docs/equations.md: every function exists and names its section of the thesis."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest

MAP = (Path(__file__).parents[2] / "docs" / "equations.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| ([\d.]+) \| .+ \| `([\w.]+)` \|$", MAP, re.MULTILINE)


def test_the_map_has_every_section_with_an_equation() -> None:
    sections = {section for section, _ in ROWS}
    assert {f"3.1.{i}" for i in range(1, 6)} | {f"3.2.{i}" for i in range(1, 4)} | {f"3.3.{i}" for i in range(1, 5)} <= sections
    assert {"3.7.1", "3.7.2", "3.7.3"} <= sections


@pytest.mark.parametrize(("section", "name"), ROWS, ids=[f"{s}-{n}" for s, n in ROWS])
def test_the_docstring_of_the_function_names_the_section(section: str, name: str) -> None:
    module, _, attribute = name.rpartition(".")
    docstring = getattr(import_module(module), attribute).__doc__
    # The section itself: 3.1 is not named by 3.1.2, nor by 13.1.
    assert re.search(rf"(?<![\d.]){re.escape(section)}(?!\.?\d)", docstring)
