"""What a release needs, checked: `python tests/release.py` (make release) builds dist/ and uploads nothing; see RELEASING.md."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import licences

ROOT = Path(__file__).resolve().parents[1]


def versions(root: Path = ROOT) -> dict[str, str]:
    """The version that each file says; of the changelog that of its first heading."""
    read = lambda name: (root / name).read_text(encoding="utf-8")
    found = {"pyproject.toml": str(tomllib.loads(read("pyproject.toml"))["project"]["version"])}
    for name, pattern in (("CITATION.cff", r"(?m)^version: *(\S+)$"), ("CHANGELOG.md", r"(?m)^## (\S+)")):
        match = re.search(pattern, read(name))
        found[name] = match[1] if match else "none"
    return found


def faults(root: Path = ROOT) -> list[str]:
    """What is not ready, a line each."""
    said, lines = versions(root), []
    if len(set(said.values())) > 1:
        lines.append("versions differ: " + ", ".join(f"{name} {version}" for name, version in said.items()))
    heading = re.search(r"(?m)^## .*$", (root / "CHANGELOG.md").read_text(encoding="utf-8"))
    if heading and not re.search(r"\(\d{4}-\d\d-\d\d\)$", heading[0]):
        lines.append(f"CHANGELOG.md begins with '{heading[0]}': give the date of the release")
    strong = [name for name, each in licences.runtime().items() if licences.STRONG.search(licences.licence_of(each))]
    lines += [f"the licence of {name} reaches further than itself" for name in strong]
    if licences.document() != licences.DOCUMENT.read_text(encoding="utf-8"):
        lines.append(f"docs/licences.md is not up to date: {licences.HINT}")
    return lines


def run(*words: str) -> str:
    """The output of a command; ends with it where it fails."""
    done = subprocess.run(words, cwd=ROOT, text=True, capture_output=True)
    if done.returncode:
        sys.exit(f"{' '.join(words)}:\n{done.stdout}{done.stderr}")
    return done.stdout


def main() -> None:
    """Check, build, list."""
    lines = faults()
    lines += [f"not committed: {line}" for line in run("git", "status", "--porcelain").splitlines()]
    shutil.rmtree(ROOT / "dist", ignore_errors=True)
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", "dist", ".")
    built = sorted((ROOT / "dist").iterdir())
    print(run(sys.executable, "-m", "twine", "check", "--strict", *map(str, built)))
    for path in built:
        print(f"{path.name}: {path.stat().st_size / 1e6:.2f} MB")
        if path.suffix == ".whl":
            with zipfile.ZipFile(path) as file:
                print("\n".join(f"  {info.file_size:8d} {info.filename}" for info in file.infolist()))
    print("\n".join(lines) or f"ready: tag v{versions()['pyproject.toml']} and upload dist/ by hand (RELEASING.md)")
    sys.exit(bool(lines))


if __name__ == "__main__":
    main()
