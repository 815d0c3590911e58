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
    "locks": {"errors", "storage"},
    "run_folder": {"config", "errors", "settings", "storage"},
    "interruption": {"errors"},
    "data": BASE | {"data", "locks", "processes"},
    "blocks": set(),
    "pretrained": {"errors"},
    "classifier": BASE | {"blocks", "pretrained"},
    "counterfactual": {"config", "types", "blocks", "counterfactual", "distributed"},
    "augmentation": {"config"},
    "attribution": {"config", "errors", "attribution", "threads"},
    "masks": BASE,
    "confidence": {"metrics"},
    "contrast": {"masks"},
    "metrics": set(),
    "realism": {"errors"},
    "threads": {"processes", "storage"},
    "engine": BASE | {"interruption", "processes", "threads"},
    "memory": {"engine", "errors"},
    "health": BASE | {"data", "counterfactual", "engine"},
    "distributed": {"errors", "processes"},
    "training": BASE
    | {
        "augmentation",
        "data",
        "classifier",
        "counterfactual",
        "distributed",
        "engine",
        "health",
        "memory",
        "metrics",
        "attribution",
        "methods",
        "processes",
    },
    "methods": BASE | {"classifier", "counterfactual", "attribution"},
    "witnesses": BASE | {"data", "engine", "processes", "training"},
    "protocols": BASE | {"confidence", "masks", "metrics"},
    "student": {"classifier", "config", "masks", "pretrained"},
    "drawn_lesions": {"data", "engine"},
    "teaching": BASE | {"data", "drawn_lesions", "engine", "masks", "student"},
    "flip": set(),
    "audit": {"flip", "metrics", "protocols"},
    "evaluation": BASE | {"audit", "confidence", "data", "engine", "masks", "metrics", "protocols", "student"},
    "native_maps": BASE | {"confidence", "data"},
    "posterior": BASE | {"data"},
    "neighbours": {"data"},
    "novelty": BASE | {"classifier", "data", "engine", "memory", "pretrained", "processes"},
    "inference": BASE
    | {
        "classifier",
        "confidence",
        "counterfactual",
        "data",
        "engine",
        "flip",
        "masks",
        "memory",
        "methods",
        "neighbours",
        "novelty",
        "student",
        "threads",
    },
    "runs": BASE | {"confidence", "data", "engine", "inference", "masks", "native_maps", "scan_table"},
    "saved": BASE
    | {
        "classifier",
        "counterfactual",
        "data",
        "engine",
        "methods",
        "neighbours",
        "novelty",
        "posterior",
        "run_folder",
        "runs",
        "settings",
        "student",
    },
    "mask_files": BASE | {"confidence", "data", "engine", "processes", "runs", "scan_table"},
    "scan_table": BASE | {"confidence", "data"},
    "processes": {"errors"},
    "batch": BASE | {"confidence", "data", "engine", "locks", "manifest", "processes", "runs", "saved", "scan_table"},
    "committee": BASE
    | {
        "posterior",
        "classifier",
        "confidence",
        "contrast",
        "counterfactual",
        "data",
        "engine",
        "masks",
        "processes",
        "run_folder",
        "inference",
        "training",
    },
    "pipeline": BASE
    | {
        "committee",
        "neighbours",
        "novelty",
        "posterior",
        "run_folder",
        "confidence",
        "teaching",
        "settings",
        "data",
        "classifier",
        "counterfactual",
        "distributed",
        "engine",
        "masks",
        "mask_files",
        "training",
        "evaluation",
        "runs",
        "saved",
        "methods",
        "processes",
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
    "export": BASE | {"locks", "settings", "data", "masks", "posterior", "run_folder", "runs", "saved", "batch", "export"},
    "commands": BASE
    | {
        "locks",
        "run_folder",
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
    "dryrun": BASE
    | {"data", "classifier", "counterfactual", "engine", "inspection", "pipeline", "posterior", "student", "witnesses"},
    "manifest": BASE | {"data", "pipeline", "posterior", "run_folder"},
    "pictures": set(),
    "report": BASE | {"confidence", "engine", "metrics", "pictures"},
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


NEVER_IMPORTED = {
    "pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "subprocess", "tarfile", "xml", "lxml", "socket", "http",
    "ftplib", "requests", "httpx", "urllib.request", "code", "codeop", "runpy", "ctypes",
}  # fmt: skip
"""What unpickles, starts programs, unpacks, parses XML or opens connections; libraries that need such things do them themselves."""
NEVER_CALLED = {
    "eval", "exec", "compile", "__import__", "input", "os.system", "os.popen", "os.execv", "os.spawnl", "yaml.load", "yaml.load_all",
    "yaml.unsafe_load", "yaml.full_load", "yaml.safe_load_all", "torch.jit.load", "torch.hub.load", "torch.hub.download_url_to_file",
    "torch.package", "tempfile.mktemp", "pd.read_pickle", "np.fromregex", "sitk.ReadImage",
}  # fmt: skip
ONLY_WITH = {
    "torch.load": {"weights_only=True"}, "torch.hub.load_state_dict_from_url": {"weights_only=True"}, "np.load": {"allow_pickle=False"},
    "Image.open": {"formats=_DECODERS"},
}  # fmt: skip
"""Calls that are safe with one argument and not without."""
ONLY_IN = {
    "yaml.safe_load": {"storage.py"}, "json.loads": {"storage.py", "dataset_json.py", "batch.py", "engine.py"},
    "json.load": set(), "nib.load": {"phantom.py"}, "nibabel.load": set(), "dcmread": {"dicom.py"}, "pydicom.dcmread": set(), "zipfile.ZipFile": {"scan_files.py"},
    "import_module": {"__init__.py", "to_onnx.py"}, "importlib.import_module": {"classifier.py"},
    "timm.create_model": {"classifier.py", "pretrained.py"}, "FrechetInceptionDistance": {"realism.py"},
}  # fmt: skip
"""Calls that need a check before them, and the one place where it is."""


def _calls(path: Path) -> list[ast.Call]:
    return [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]


def unsafe(path: Path) -> list[str]:
    """What a file does that would let data or weights run code, or lead out of where they lie."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
        found += [f"{node.lineno}: import {n}" for n in names if {n, n.split(".")[0]} & NEVER_IMPORTED]  # type: ignore[attr-defined]
    for call in _calls(path):
        name, given = ast.unparse(call.func), {ast.unparse(k) for k in call.keywords}
        wrong = name in NEVER_CALLED or not ONLY_WITH.get(name, given) <= given
        wrong |= path.name not in ONLY_IN.get(name, {path.name})
        wrong |= (
            name.split(".")[-1] in ("extract", "extractall", "loadlib") or "shell=True" in given or "allow_pickle=True" in given
        )
        wrong |= name == "timm.create_model" and "'file'" in ast.unparse(call)
        found += [f"{call.lineno}: {name}"] if wrong else []
    return found


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_no_code_runs_from_data_or_weights(path: Path) -> None:
    assert unsafe(path) == []


@pytest.mark.parametrize(
    "line",
    [
        "import pickle", "from joblib import load", "import xml.etree.ElementTree", "from urllib.request import urlopen", "eval('1')",
        "torch.load(f)", "torch.load(f, weights_only=False)", "np.load(f)", "np.load(f, allow_pickle=True)", "yaml.load(f, Loader=L)",
        "torch.jit.load(f)", "archive.extractall(x)", "run(x, shell=True)", "tempfile.mktemp()", "Image.open(f)", "json.load(f)",
        "timm.create_model(n, pretrained_cfg_overlay={'file': f})", "importlib.import_module(n)", "nib.load(f)", "os.system(x)",
    ],
)  # fmt: skip
def test_unsafe_lines_are_found(tmp_path: Path, line: str) -> None:
    (tmp_path / "x.py").write_text(line)
    assert len(unsafe(tmp_path / "x.py")) == 1
