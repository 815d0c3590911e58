"""The documentation site: its diagrams are true and need no script, its FAQ quotes what is said, its notebook runs.

`make docs` builds it; links are checked there and by `test_links.py`.
"""

from __future__ import annotations

import json
import re
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

import layout_pages

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "docs" / "site"))
from diagrams import svg  # noqa: E402


def test_a_diagram_has_everybody_above_those_it_points_to_and_a_bend_for_every_floor_it_passes() -> None:
    drawn = svg("flowchart TD\n    a --> b.c\n    b.c --> d\n    a --> d\n")
    boxes = dict(re.findall(r'<rect [^>]*y="(\d+)"[^>]*/><text [^>]*>([\w.]+)</text>', drawn))
    assert list(boxes.values()) == ["a", "b.c", "d"]
    heights = list(map(int, boxes))
    assert heights == sorted(heights)
    assert {low - high for high, low in pairwise(heights)} == {72}
    bends = [path.count("C") for path in re.findall(r'<path d="(M[^"]+)"/>', drawn) if "C" in path]
    assert sorted(bends) == [1, 1, 2]
    assert "<script" not in drawn


@pytest.mark.parametrize("source", ["flowchart LR\n a --> b", "flowchart TD\n a -.-> b", "flowchart TD\n a --> b\n b --> a"])
def test_other_diagrams_are_refused(source: str) -> None:
    with pytest.raises(ValueError, match=r"a diagram of other lines|circle"):
        svg(source)


def test_the_lines_of_the_faq_are_those_that_are_said() -> None:
    page = (ROOT / "docs/guide/faq.md").read_text(encoding="utf-8")
    said = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "src/coinseg").rglob("*.py"))
    rows = re.findall(r"^\| (`.+?`) \|", page.partition("| the line has |")[2], re.MULTILINE)
    pieces = [piece.strip() for row in rows for quoted in re.findall("`([^`]+)`", row) for piece in quoted.split("...")]
    assert len(rows) > 15
    assert [piece for piece in pieces if piece not in said] == []


def test_every_page_of_the_repository_has_its_place_and_nothing_comes_from_elsewhere() -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    site = yaml.safe_load(text)
    pages = re.findall(r"[\w./-]+\.md\b", text.partition("nav:")[2])
    there = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    generated = {"guide/all-settings.md", "guide/notebook.md", "README.md"}
    assert there | generated == {page for page in pages if not page.startswith("project/")}
    assert len(pages) == len(set(pages))
    assert site["theme"]["font"] is False
    assert not re.search(r"https?://", text)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_notebook_runs_and_shows_pictures() -> None:
    pytest.importorskip("nbclient")
    from run_notebook import NOTEBOOK, executed

    cells = [cell for cell in executed(NOTEBOOK).cells if cell.cell_type == "code"]
    said = "".join(output.get("text", "") for cell in cells for output in cell.outputs)
    assert float(said.partition("IoU ")[2][:4]) > 0.5
    assert cells[-1].outputs[0].data["text/html"].count("<img") == 16
    kept = [cell for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    assert [len(cell["outputs"]) for cell in kept] == [len(cell.outputs) for cell in cells]


def test_the_pages_of_the_layouts_say_what_inspect_says() -> None:
    kept = {path.name: path.read_text(encoding="utf-8") for path in layout_pages.PAGES.glob("*.md")}
    assert {*layout_pages.TITLES} == {*layout_pages.EXAMPLES}
    assert layout_pages.pages() == kept, "python tests/layout_pages.py writes them anew"


def test_what_is_inside_of_a_list_is_indented_by_fours() -> None:
    """The site's Markdown ends a list at a paragraph that is indented by two or three, where GitHub's goes on."""
    wrong = []
    for path in sorted((ROOT / "docs").rglob("*.md")):
        fenced, before = False, ""
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            fenced ^= line.strip().startswith("```")
            indent = len(line) - len(line.lstrip(" "))
            if not fenced and before == "" and line.strip() and indent % 4:
                wrong.append(f"{path.name}:{number}")
            before = line
    assert wrong == []


def test_an_item_after_a_paragraph_of_a_list_has_an_empty_line_before_it() -> None:
    """Without one the site's Markdown takes it for the rest of that paragraph."""
    wrong = []
    for path in sorted((ROOT / "docs").rglob("*.md")):
        fenced, before, first = False, "", ""
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            fenced ^= line.strip().startswith("```")
            first = line if not before.strip() else first  # of its paragraph
            if not fenced and re.match(r"(\d+\.|-) ", line) and before.strip() and first.startswith("    "):
                wrong.append(f"{path.name}:{number}")
            before = line
    assert wrong == []
