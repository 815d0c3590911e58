"""A page for every layout: how a small example lies on the disk, the command, and what `inspect` says of it.

python tests/layout_pages.py        writes docs/guide/layouts/*.md; tests/house/test_site.py fails where they differ
"""

from __future__ import annotations

import ast
import contextlib
import io
import re
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from coinseg.cli import main as cli
from examples import EXAMPLES

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "docs" / "guide" / "layouts"
TITLES = {
    "folders": "Folders of images", "csv": "A CSV table", "dicom": "DICOM studies", "totalsegmentator": "TotalSegmentator",
    "nnunet": "nnU-Net raw data", "decathlon": "Medical Segmentation Decathlon", "kits": "KiTS", "sequences": "Sequences of MR",
}  # fmt: skip
MODULES = {"dicom": "dicom_studies"}
MOST = 3
"""Names of a folder that are shown."""


def tree(folder: Path, indent: str = "    ") -> list[str]:
    """The names in a folder, of many like ones the first."""
    lines = []
    entries = sorted(folder.iterdir(), key=lambda path: (path.is_dir(), path.name))
    for files in ([e for e in entries if e.is_file()], [e for e in entries if e.is_dir()]):
        for number, entry in enumerate(files):
            if number == MOST:
                lines.append(f"{indent}... {len(files) - MOST} more")
                break
            lines.append(f"{indent}{entry.name}{'/' if entry.is_dir() else ''}")
            if entry.is_dir() and number < 2:
                lines += tree(entry, indent + "    ")
    return lines


def table(path: Path) -> list[str]:
    """The first lines of a table."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [f"`{path.name}` begins with", "", *(f"    {line}" for line in lines[:4]), ""]


def page(name: str, folder: Path) -> str:
    """The Markdown of one layout, whose example is made in `folder`."""
    example, source = EXAMPLES[name], ROOT / f"src/coinseg/data/layouts/{MODULES.get(name, name)}.py"
    data = example.make(folder / "DATA")
    about = (ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) or "").partition("\n\n")[0].replace("\n", " ")
    about = re.sub(r",? ?\(?see `[^`]+`\)?", "", about)
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        code = cli.main(["inspect", str(data), *example.words()])
    assert code == 0, name
    words = " ".join(["DATA" if data.is_dir() else f"DATA/{data.name}", "-o OUT", *example.words()])
    lines = [f"# {TITLES[name]}", "", about, "", "## On the disk", "", "    DATA/", *tree(folder / "DATA", "        "), ""]
    for found in sorted((folder / "DATA").rglob("*.csv"))[:1]:
        lines += table(found)
    lines += [
        "## The command",
        "",
        f"    coinseg run {words}",
        "",
        f"## What `coinseg inspect {words.replace(' -o OUT', '')}` says",
        "",
    ]
    shown = said.getvalue().replace(str(folder) + "/", "").splitlines()
    lines += [f"    {line}".rstrip() for line in shown]
    return (
        "\n".join(
            [*lines, "", "[Labels, masks, channels](../your-data.md). This page is made by `python tests/layout_pages.py`."]
        )
        + "\n"
    )


def pages() -> dict[str, str]:
    """The text of every page by its file name."""
    found = {}
    for name in EXAMPLES:
        with tempfile.TemporaryDirectory() as folder:
            found[f"{name}.md"] = page(name, Path(folder))
    return found


if __name__ == "__main__":
    PAGES.mkdir(exist_ok=True)
    for name, text in pages().items():
        (PAGES / name).write_text(text, encoding="utf-8")
