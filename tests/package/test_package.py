"""What people install: the wheel and the source archive, built and looked into; `make package` builds them."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
import yaml

from coinseg.errors import EXTRAS, exit_code, one_line
from release import faults, versions

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
MOST_MB = 1.0
"""Of the wheel: code and text; no weights, no pictures, no data."""


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    done = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT)], text=True, capture_output=True
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return out


@pytest.mark.packaging
def test_twine_finds_nothing(dist: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "twine", "check", "--strict", *map(str, dist.iterdir())], text=True, capture_output=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.packaging
def test_the_wheel_has_the_package_and_nothing_else(dist: Path) -> None:
    wheel = next(dist.glob("*.whl"))
    assert wheel.stat().st_size < MOST_MB * 1e6
    with zipfile.ZipFile(wheel) as file:
        names = {name for name in file.namelist() if ".dist-info/" not in name}
        about = Parser().parsestr(file.read(next(n for n in file.namelist() if n.endswith("/METADATA"))).decode())
        assert any(name.endswith("licenses/LICENSE") for name in file.namelist())
    kinds = (".py", ".typed", ".json", ".jinja", ".yaml", ".css", ".js", ".html", ".svg")
    here = {f.relative_to(ROOT / "src").as_posix() for f in (ROOT / "src/coinseg").rglob("*") if f.name.endswith(kinds)}
    assert names == here
    assert about["License-Expression"] == "Apache-2.0"
    assert about["Requires-Python"] == ">=3.11"
    assert {*EXTRAS, "all", "dev"} <= {*(about.get_all("Provides-Extra") or [])}


@pytest.mark.packaging
def test_the_source_archive_builds_again(dist: Path) -> None:
    with tarfile.open(next(dist.glob("*.tar.gz"))) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", "src/coinseg/py.typed"} <= names
    assert not [name for name in names if name.startswith(("tests/", "studies/", "docs/", "out/", ".venv"))]


def test_extras_are_those_that_error_lines_name() -> None:
    extras = PROJECT["optional-dependencies"]
    assert {*extras} == {*EXTRAS, "all", "dev", "docs"}
    assert extras["all"] == [f"coinseg[{','.join(EXTRAS)}]"]
    lean = " ".join(PROJECT["dependencies"]).lower()
    heavy = (
        "pydicom",
        "highdicom",
        "simpleitk",
        "grad-cam",
        "opencv",
        "timm",
        "torchvision",
        "torch-fidelity",
        "tensorboard",
        "monai",
    )
    assert [name for name in heavy if name in lean] == []


@pytest.mark.parametrize(("extra", "module"), [(extra, module) for extra, (_, modules) in EXTRAS.items() for module in modules])
def test_a_missing_module_of_an_extra_is_one_line(extra: str, module: str) -> None:
    error = ModuleNotFoundError(f"No module named '{module}.x'", name=f"{module}.x")
    assert exit_code(error) == 2
    assert one_line(error).startswith(f"{module} is not installed; required: the extra {extra}, for ")
    assert one_line(error).endswith(f"; pip install 'coinseg[{extra}]'")
    assert exit_code(ModuleNotFoundError("No module named 'numpy'", name="numpy")) == 1


def test_every_file_says_the_same_version() -> None:
    assert len(set(versions().values())) == 1, versions()


def test_a_release_with_two_versions_or_no_date_is_not_ready(tmp_path: Path) -> None:
    for name in ("pyproject.toml", "CITATION.cff", "CHANGELOG.md"):
        (tmp_path / name).write_text((ROOT / name).read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / "CITATION.cff").write_text("version: 9.9.9\n")
    (tmp_path / "CHANGELOG.md").write_text("## 9.9.8 (unreleased)\n")
    said = "; ".join(faults(tmp_path))
    assert "CITATION.cff 9.9.9, CHANGELOG.md 9.9.8" in said
    assert "give the date of the release" in said


def test_the_forms_for_issues_are_forms_and_ask_for_no_patients() -> None:
    forms = [form for form in (ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml") if form.name != "config.yml"]
    assert len(forms) == 3
    for form in forms:
        content = yaml.safe_load(form.read_text(encoding="utf-8"))
        assert {"name", "description", "body"} <= content.keys()
        ids = [part["id"] for part in content["body"] if part["type"] != "markdown"]
        assert len(ids) == len(set(ids)) > 0
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors", "version", "license"} <= citation.keys()
