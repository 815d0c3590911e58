"""Hooks of MkDocs: pages of the root beside those of docs/, the notebook as a page, diagrams without a script."""

from __future__ import annotations

import json
import os
import posixpath
import re
import sys
from pathlib import Path
from typing import Any

from diagrams import svg
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
PLACES = {"README.md": "README.md", "LICENSE": "project/LICENSE.txt", "CITATION.cff": "project/CITATION.cff"} | {
    f"{name}.md": f"project/{name}.md" for name in ("AGENTS", "CHANGELOG", "CONTRIBUTING", "RELEASING", "SECURITY")
}
"""Files of the root that the site shows, and where."""
NOTEBOOK = "guide/notebook.ipynb"
LINK = re.compile(r"(\]\()([^()\s#]+)((?:#[^()\s]*)?\))")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Draw fences ```mermaid here."""
    config.mdx_configs["pymdownx.superfences"] = {"custom_fences": [{"name": "mermaid", "class": "flowchart", "format": draw}]}
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files of the root, and the notebook as a page."""
    for name, place in PLACES.items():
        files.append(File.generated(config, place, content=(ROOT / name).read_text(encoding="utf-8")))
    notebook = files.get_file_from_path(NOTEBOOK)
    assert notebook is not None
    page = page_of(json.loads((ROOT / "docs" / NOTEBOOK).read_text(encoding="utf-8")))
    files.append(File.generated(config, NOTEBOOK.replace(".ipynb", ".md"), content=page))
    files.append(File.generated(config, "guide/all-settings.md", content=all_settings()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let relative links, written for the repository, lead to where the site has the file."""
    here = page.file.src_uri
    source = {place: name for name, place in PLACES.items()}.get(here, f"docs/{here}")

    def moved(link: re.Match[str]) -> str:
        before, target, after = link.groups()
        if "://" in target or target.startswith(("mailto:", "/")):
            return link[0]
        wanted = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        place = PLACES.get(wanted, wanted.removeprefix("docs/"))
        return f"{before}{os.path.relpath(place, posixpath.dirname(here) or '.')}{after}"

    return LINK.sub(moved, markdown)


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Take the one script that the theme would load from elsewhere from here."""
    return _from_here(output, posixpath.dirname(page.file.dest_uri))


def on_post_template(output: str, template_name: str, config: MkDocsConfig) -> str:
    """The same for the page of lost links."""
    return _from_here(output, "")


def _from_here(output: str, folder: str) -> str:
    return output.replace("https://unpkg.com/iframe-worker/shim", os.path.relpath("site/iframe-worker.js", folder or "."))


def draw(source: str, language: str, css_class: str, options: dict[str, Any], md: Any, **more: Any) -> str:
    """A fence ```mermaid as SVG; see `diagrams`."""
    return svg(source)


def all_settings() -> str:
    """A table of every setting for each of their groups."""
    sys.path.insert(0, str(ROOT / "src"))
    from coinseg.config.declare import declarations
    from coinseg.config.schema import Settings

    lines, group = ["# Every setting", "", "As `coinseg info` prints them. [What is worth setting](settings.md)."], None
    for one in declarations(Settings()):
        own = one.name.rpartition(".")[0] or "the run"
        if own != group:
            lines += ["", f"## {own}", "", "| setting | default | meaning | range |", "|---|---|---|---|"]
            group = own
        about, limits = one.about.replace("|", "\\|"), one.range
        within = f"{limits} {limits.unit}".removesuffix("share") if limits else ""
        lines.append(f"| `{one.name}` | `{one.value}` | {about} | {within} |")
    return "\n".join(lines) + "\n"


def page_of(notebook: dict[str, Any]) -> str:
    """A notebook with its outputs as Markdown."""
    parts = []
    for cell in notebook["cells"]:
        text = "".join(cell["source"])
        parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "text/html" in data:
                parts.append(f'<div class="output">{"".join(data["text/html"])}</div>')
            elif "image/png" in data:
                parts.append(
                    f'<img class="output" alt="output" src="data:image/png;base64,{"".join(data["image/png"]).strip()}">'
                )
            elif text := "".join(output.get("text", data.get("text/plain", ""))).rstrip():
                parts.append(f"```text\n{text}\n```")
    return "\n\n".join(parts) + "\n"
