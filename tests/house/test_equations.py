"""The map from the thesis to the code leads somewhere."""

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
def test_the_function_is_there_and_names_its_section(section: str, name: str) -> None:
    module, _, attribute = name.rpartition(".")
    function = getattr(import_module(module), attribute)
    said = (function.__doc__ or "") + (import_module(module).__doc__ or "")
    assert re.search(rf"\b{re.escape(section)}\b", said) or re.search(rf"\b{re.escape(section.rsplit('.', 1)[0])}\b", said)
