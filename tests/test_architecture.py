"""Who may import whom: data flows one way (docs/decisions/0001-rooms.md)."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import coinseg

ROOT = Path(coinseg.__file__).parent
BASE = {"errors", "types", "config", "storage"}
MAY_IMPORT = {
    "errors": set(),
    "types": set(),
    "config": set(),
    "settings": {"config", "errors"},
    "storage": {"errors"},
    "data": BASE | {"data"},
    "blocks": set(),
    "classifier": BASE | {"blocks"},
    "counterfactual": {"config", "types", "blocks", "counterfactual"},
    "attribution": {"config", "errors", "attribution", "threads"},
    "masks": BASE,
    "metrics": set(),
    "realism": {"errors"},
    "threads": {"storage"},
    "engine": BASE | {"processes", "threads"},
    "health": BASE | {"data", "counterfactual", "engine"},
    "training": BASE | {"data", "classifier", "counterfactual", "engine", "health", "metrics", "attribution", "methods"},
    "methods": BASE | {"classifier", "counterfactual", "attribution"},
    "witnesses": BASE | {"data", "engine", "training"},
    "protocols": BASE | {"masks", "metrics"},
    "evaluation": BASE | {"data", "engine", "masks", "metrics", "protocols"},
    "native_maps": BASE | {"data"},
    "runs": BASE | {"native_maps", "threads", "settings", "data", "classifier", "counterfactual", "engine", "masks", "methods"},
    "scan_table": BASE | {"data"},
    "processes": {"errors"},
    "batch": BASE | {"data", "engine", "manifest", "processes", "runs", "scan_table"},
    "pipeline": BASE
    | {
        "settings",
        "data",
        "classifier",
        "counterfactual",
        "engine",
        "masks",
        "training",
        "evaluation",
        "runs",
        "methods",
        "scan_table",
        "threads",
        "witnesses",
    },
    "experiments": {"config", "settings"},
    "results": {"experiments", "figures", "tables"},
    "reproduce": BASE
    | {
        "attribution",
        "counterfactual",
        "data",
        "engine",
        "evaluation",
        "experiments",
        "figures",
        "masks",
        "methods",
        "protocols",
        "realism",
        "results",
        "runs",
        "tables",
        "training",
        "witnesses",
    },
    "inspection": BASE | {"data"},
    "info": {"config", "data", "methods", "settings"},
    "export": BASE | {"settings", "data", "masks", "runs", "batch", "export"},
    "commands": BASE
    | {
        "settings",
        "data",
        "inspection",
        "info",
        "export",
        "batch",
        "pipeline",
        "processes",
        "progress",
        "dryrun",
        "engine",
        "manifest",
        "report",
        "reproduce",
    },
    "dryrun": BASE | {"data", "classifier", "counterfactual", "engine", "inspection", "pipeline", "witnesses"},
    "manifest": BASE | {"data", "pipeline"},
    "pictures": set(),
    "report": BASE | {"engine", "metrics", "pictures"},
    "tables": {"errors", "storage"},
    "figures": {"errors", "storage", "pictures"},
    "progress": {"errors"},
}


def room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Rooms of coinseg that a file imports, also inside functions."""
    found = set()
    package = ("coinseg", *path.relative_to(ROOT).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            names = [node.module] if node.module else [alias.name for alias in node.names]
            found |= {(*base, *name.split("."))[1] for name in names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("coinseg."):
            found.add((node.module or "").split(".")[1])
    return found


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_import_directions(path: Path) -> None:
    name = room(path)
    if name in ("__init__", "__main__", "cli"):
        return
    assert name in MAY_IMPORT, f"a new room: say in MAY_IMPORT what {name} may import"
    assert imported(path) <= MAY_IMPORT[name], f"{name} may not import {sorted(imported(path) - MAY_IMPORT[name])}"


def test_nothing_imports_the_command_line() -> None:
    users = [p for p in ROOT.rglob("*.py") if "cli" in imported(p)]
    assert [p.name for p in users] == ["__main__.py"]


def test_weights_are_never_unpickled() -> None:
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("torch.load", "np.load", "yaml.load", "pickle.load"):
                safe = {ast.unparse(k) for k in node.keywords}
                assert safe & {"weights_only=True", "allow_pickle=False"}, f"{path.name}:{node.lineno}"
