"""Who may import whom: data flows one way (docs/decisions/0001-rooms.md)."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import coinseg

ROOT = Path(coinseg.__file__).parent
ROOMS = {
    "cli": "config data.layouts data.phantom data.readers data.slices errors export pipeline report review review.kept "
    "runtime thesis types",
    "config": "errors",
    "runtime": "config errors",
    "metrics": "errors",
    "data.readers": "config errors runtime types",
    "data.layouts": "config data.phantom data.readers errors types",
    "data.phantom": "errors runtime",
    "data.slices": "config data.layouts data.readers errors runtime types",
    "networks": "config errors runtime",
    "explain.counterfactual": "config networks runtime types",
    "explain.attribution": "config errors runtime",
    "explain": "config explain.attribution explain.counterfactual networks types",
    "masks": "config errors metrics",
    "training": "config data.slices errors explain explain.attribution explain.counterfactual masks metrics networks runtime",
    "parts": "config data.slices errors masks networks runtime",
    "inference": "config data.layouts data.readers data.slices errors explain explain.counterfactual masks networks parts "
    "runtime types",
    "evaluation": "config data.slices errors masks metrics runtime types",
    "pipeline": "config data.layouts data.readers data.slices errors evaluation explain inference masks metrics networks parts "
    "runtime training types",
    "report": "config errors evaluation masks metrics runtime types",
    "thesis": "config data.layouts data.phantom data.slices errors evaluation explain explain.attribution "
    "explain.counterfactual inference masks metrics report runtime training types",
    "export": "config data.layouts data.readers data.slices errors inference masks networks pipeline runtime types",
    "review.kept": "data.readers errors runtime types",
    "review": "config data.layouts data.readers data.slices errors export inference metrics pipeline review.kept runtime types",
    "errors": "",
    "types": "",
}
"""Every room and which others its files import: exactly these, so a permission that nobody uses fails as well."""
ENTRANCES = ("", "__main__", "data")
"""The face of the package, `python -m coinseg` and the folder of the data rooms; they are no rooms."""


def room(module: str) -> str:
    """The room of a module, by its name below `coinseg`; the innermost one counts."""
    return max((name for name in ROOMS if f"{module}.".startswith(f"{name}.")), key=len, default=module)


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix("__init__").removesuffix(".")


def imported(path: Path) -> set[str]:
    """Modules of coinseg that a file imports, also inside functions."""
    found = set()
    package = ("coinseg", *path.relative_to(ROOT).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = (
                [*package[: len(package) - node.level + 1], *filter(None, [node.module])] if node.level else [node.module or ""]
            )
            found |= {".".join([*base, alias.name]) for alias in node.names}
    return {name.removeprefix("coinseg.") for name in found if name.startswith("coinseg.")}


def arrows() -> dict[str, set[str]]:
    """What the files of every room import of other rooms."""
    found: dict[str, set[str]] = {}
    for path in sorted(ROOT.rglob("*.py")):
        if (module := module_of(path)) not in ENTRANCES:
            own = found.setdefault(room(module), set())
            own |= {room(name) for name in imported(path)} - {room(module)}
    return found


def test_every_room_imports_exactly_what_it_may() -> None:
    assert arrows() == {name: set(others.split()) for name, others in ROOMS.items()}


def test_no_room_leads_back_to_itself() -> None:
    floors = TopologicalSorter({name: set(others.split()) for name, others in ROOMS.items()})
    assert list(floors.static_order())[-1] == "cli"  # `CycleError` where there is a circle


def test_every_room_says_what_it_is_for() -> None:
    for name in set(ROOMS) - {"errors", "types"}:
        assert (
            len((ast.get_docstring(ast.parse((ROOT / name.replace(".", "/") / "__init__.py").read_text())) or "").strip()) > 20
        ), name


def test_nothing_imports_the_command_line() -> None:
    assert [name for name, others in arrows().items() if "cli" in others] == []


NEVER_IMPORTED = {
    "pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "subprocess", "tarfile", "xml", "lxml", "socket", "http",
    "ftplib", "requests", "httpx", "urllib.request", "code", "codeop", "runpy", "ctypes",
}  # fmt: skip
"""What unpickles, starts programs, unpacks, parses XML or opens connections; libraries that need it do it themselves."""
BUT = {("review", "serve.py"): {"socket"}}  # names the options of the socket that uvicorn binds, and opens none
NEVER_CALLED = {
    "eval", "exec", "compile", "__import__", "input", "os.system", "os.popen", "os.execv", "os.spawnl",
    "yaml.load", "yaml.load_all",
    "yaml.unsafe_load", "yaml.full_load", "yaml.safe_load_all", "torch.jit.load", "torch.hub.load",
    "torch.hub.download_url_to_file",
    "torch.package", "tempfile.mktemp", "pd.read_pickle", "np.fromregex", "sitk.ReadImage",
}  # fmt: skip
ONLY_WITH = {
    "torch.load": {"weights_only=True"}, "torch.hub.load_state_dict_from_url": {"weights_only=True"},
    "np.load": {"allow_pickle=False"},
    "Image.open": {"formats=_DECODERS"},
}  # fmt: skip
"""Calls that are safe with one argument and not without."""
ONLY_IN = {
    "yaml.safe_load": {"files.py"}, "json.loads": {"files.py", "dataset_json.py", "records.py"},
    "json.load": set(), "nib.load": {"cohort.py"}, "nibabel.load": set(), "dcmread": {"dicom_tags.py"}, "pydicom.dcmread": set(),
    "zipfile.ZipFile": {"paths.py"},
    "import_module": {"__init__.py", "to_onnx.py"}, "importlib.import_module": {"classifier.py"},
    "timm.create_model": {"classifier.py", "imagenet.py"}, "FrechetInceptionDistance": {"frechet.py"},
}  # fmt: skip
"""Calls that need a check before them, and the one place where it is."""


def _calls(path: Path) -> list[ast.Call]:
    return [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]


def unsafe(path: Path) -> list[str]:
    """What a file does that would let data or weights run code, or lead out of where they lie."""
    found, never = [], NEVER_IMPORTED - BUT.get((path.parent.name, path.name), set())
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
        found += [f"{node.lineno}: import {n}" for n in names if {n, n.split(".")[0]} & never]  # type: ignore
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
        "import pickle", "from joblib import load", "import xml.etree.ElementTree", "from urllib.request import urlopen",
        "eval('1')",
        "torch.load(f)", "torch.load(f, weights_only=False)", "np.load(f)", "np.load(f, allow_pickle=True)",
        "yaml.load(f, Loader=L)",
        "torch.jit.load(f)", "archive.extractall(x)", "run(x, shell=True)", "tempfile.mktemp()", "Image.open(f)", "json.load(f)",
        "timm.create_model(n, pretrained_cfg_overlay={'file': f})", "importlib.import_module(n)", "nib.load(f)", "os.system(x)",
    ],
)  # fmt: skip
def test_unsafe_lines_are_found(tmp_path: Path, line: str) -> None:
    (tmp_path / "x.py").write_text(line)
    assert len(unsafe(tmp_path / "x.py")) == 1
