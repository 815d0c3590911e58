"""Every relative link of a document, and every path of the repository that it names, leads to a file; so do the paths in
docstrings and comments."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("src", "tests", "docs", "studies", "benchmarks")
FILES = [path.relative_to(ROOT) for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*")) if path.is_file()]
FILES += [path.relative_to(ROOT) for path in sorted(ROOT.iterdir()) if path.is_file()]
DOCUMENTS = [path for path in FILES if path.suffix == ".md"]
SOURCES = [
    path
    for path in FILES
    if path.suffix in (".py", ".yaml", ".toml", ".jinja") or path.name == "Makefile"
    if path.name != Path(__file__).name
]
LINK = re.compile(r"\]\(([^()\s]+)\)")
FROM_ROOT = re.compile(r"(?<![\w./-])(?:src|tests|docs|studies|benchmarks)/[\w./-]*\.(?:py|md|json|png|ya?ml|txt)\b")
"""A path of the repository, wherever it stands."""
NAMED = re.compile(r"`([\w./-]+\.(?:py|md))(?: [^`]*)?`")
"""A file of code or text in backticks: a path from the root or beside the document, or the name of a file somewhere in the
repository."""


def missing(document: Path, text: str) -> list[str]:
    """What a document names and the repository has not."""
    names = {path.name for path in FILES}

    def is_there(path: str, *bases: Path) -> bool:
        return any((base / path).exists() for base in bases)

    here = (ROOT / document).parent
    found = []
    for link in LINK.findall(text):
        target = link.partition("#")[0]
        if target and "://" not in link and not is_there(target, here):
            found.append(f"({link})")
    found += [path for path in FROM_ROOT.findall(text) if not is_there(path, ROOT)]
    found += [
        f"`{path}`" for path in NAMED.findall(text) if not is_there(path, ROOT, here) and not ("/" not in path and path in names)
    ]
    return found


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_what_a_document_names_is_there(document: Path) -> None:
    assert missing(document, (ROOT / document).read_text(encoding="utf-8")) == []


def test_what_sources_say_of_documents_is_there() -> None:
    said = {path: re.findall(r"(?<![\w./-])docs/[\w./-]*\w", (ROOT / path).read_text(encoding="utf-8")) for path in SOURCES}
    assert {str(path): lost for path, names in said.items() if (lost := [n for n in names if not (ROOT / n).exists()])} == {}


@pytest.mark.parametrize(
    "text",
    ["[a](none.md)", "`none.py`", "see docs/none.md", "`docs/none.md`", "[a](../none/x.png#y)", "`python studies/none.py X`"],
)
def test_what_is_missing_is_found(text: str) -> None:
    assert len(set(missing(Path("README.md"), text))) >= 1
    assert (
        missing(Path("README.md"), "[a](LICENSE) `coin.py` `tests/house/test_links.py` [b](https://a.b/c.md) `index.csv`") == []
    )
