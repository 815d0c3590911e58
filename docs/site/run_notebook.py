"""Run docs/guide/notebook.ipynb and keep what its cells print: python docs/site/run_notebook.py"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).resolve().parents[1] / "guide" / "notebook.ipynb"


def executed(path: Path) -> Any:
    """A notebook with the outputs of its cells, run in an empty folder; an error of a cell is an exception."""
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(
            notebook, timeout=600, startup_timeout=600, coalesce_streams=True, resources={"metadata": {"path": folder}}
        ).execute()
        if left := os.listdir(folder):
            raise AssertionError(f"the notebook left {left}")
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times
    return notebook


if __name__ == "__main__":
    found = executed(NOTEBOOK)
    nbformat.write(found, NOTEBOOK)
