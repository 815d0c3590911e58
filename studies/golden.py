"""The golden run: small cases computed by a fixed earlier commit and by this work tree, and all that is written compared.

    python studies/golden.py                      all cases: about three minutes on one core, the first time twice that
    python studies/golden.py --short              the cases of tests/house/test_golden.py
    python studies/golden.py --case student --keep

Nothing of coinseg is imported: both sides are driven by the command line, with the names of settings that the reference
knows, so that everything may be moved and renamed. The reference is that commit with the defects mended that were mended on
purpose since, one `golden_mends/*.patch` each, as small as possible. What it computed is kept in out/golden. The cases are in
`golden_cases.py`, what is compared and what is left out in `golden_contents.py`. All is computed in one thread; another machine
may round otherwise, which is why no digest is stored with the code.
"""

from __future__ import annotations

import argparse
import inspect
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import golden_cases
from golden_cases import CASES, EXERCISED, PHANTOMS, SHORT
from golden_contents import NOW, SOFT, THEN, Items, contents, digest, kind_of, said_by

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / "out" / "golden"
MENDS = ROOT / "studies" / "golden_mends"
REFERENCE = "7c4cd9d"
LIBRARIES = ("torch", "numpy", "scipy", "scikit-image", "timm", "monai", "kornia", "pillow", "matplotlib")
"""What was computed with other versions of these is not kept."""
AS_THEN = "--masks.keep largest --masks.opening 3"
"""Settings of a later method that the reference does not know, as it computed."""
SHOWN = 8
"""Differing files that are named, of each kind."""


def environment(code: Path) -> dict[str, str]:
    one = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    return os.environ | one | {"PYTHONPATH": str(code / "src"), "CUDA_VISIBLE_DEVICES": ""}


def coinseg(code: Path, line: str, folder: Path, places: dict[str, Path]) -> None:
    """One command of `code`, in `folder`; with `> NAME` at its end what it prints is kept. `RuntimeError` where it fails."""
    line, _, kept = line.partition(" > ")
    words = [word.format(**places) for word in line.split()]
    command = [sys.executable, "-m", "coinseg", *words]
    done = subprocess.run(command, cwd=folder, env=environment(code), text=True, capture_output=True)
    if done.returncode:
        raise RuntimeError(f"coinseg {' '.join(words)}\nended with {done.returncode}: {done.stderr[-2000:]}")
    if kept:
        (folder / kept).write_text(done.stdout, encoding="utf-8")


def require_own(code: Path) -> None:
    """`SystemExit` where Python would take another coinseg than that of `code`."""
    words = [sys.executable, "-c", "import importlib.util as u; print(u.find_spec('coinseg').origin)"]
    found = subprocess.run(words, env=environment(code), text=True, capture_output=True, check=True).stdout.strip()
    if not Path(found).is_relative_to(code):
        raise SystemExit(f"coinseg would be taken from {found}, not from {code}")


def git(*words: str) -> bytes:
    return subprocess.run(["git", *words], cwd=ROOT, check=True, capture_output=True).stdout


def once(folder: Path, make: Callable[[Path], None]) -> Path:
    """A folder that is made where it is not there, whole or not at all."""
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".part-", dir=folder.parent) as part:
            make(whole := Path(part) / folder.name)
            if not folder.exists():  # somebody else may have made it meanwhile
                whole.rename(folder)
    return folder


def checkout(folder: Path, commit: str, patches: list[Path]) -> None:
    """The sources of a commit, with patches applied."""
    with tarfile.open(fileobj=io.BytesIO(git("archive", commit, "src"))) as file:
        file.extractall(folder, filter="data")
    for patch in patches:
        git("apply", f"--directory={folder.relative_to(ROOT).as_posix()}", str(patch))


def make_data(folder: Path, code: Path) -> None:
    """The data set with the name of the folder, of the phantom of `code`, or drawn here."""
    if folder.name == "images":
        golden_cases.draw_images(folder)
    else:
        coinseg(code, f"phantom {folder.name} --processes 1 {PHANTOMS[folder.name]}", folder.parent, {})
    if folder.name == "scans":
        golden_cases.label_scans(folder)


def run_case(folder: Path, name: str, code: Path, data: Path, reference: Path | None) -> None:
    """The results of a case by `code`; `reference` has those of the reference, None where these are they."""
    began = time.perf_counter()
    folder.mkdir()
    for line in CASES[name]:
        line = line if reference is None or not line.startswith("run ") else f"{line} {AS_THEN}"
        coinseg(code, line, folder, {"data": data, "reference": reference or folder})
    (folder / "took.txt").write_text(f"{time.perf_counter() - began:.0f} s")


def differences(then: Items, now: Items) -> tuple[list[str], list[str]]:
    """What differs between what two files say, in words; and what is only reported."""
    missing = object()
    items = sorted(item for item in then.keys() | now.keys() if then.get(item, missing) != now.get(item, missing))
    hard = [item for item in items if not item.startswith(SOFT)]
    said = [f"{item} {then.get(item, 'missing')} -> {now.get(item, 'missing')}" for item in hard[:3]]
    return said + ([f"{len(hard) - 3} more"] if len(hard) > 3 else []), [item[1:] for item in items if item.startswith(SOFT)]


def compare(case: str, then: dict[str, Items], now: dict[str, Items]) -> bool:
    """Print one line for each kind of file, and below it what differs; whether nothing does."""
    kinds: dict[str, list[str]] = defaultdict(list)
    for place in sorted(then.keys() | now.keys()):
        kinds[kind_of(place)[0]].append(place)
    equal = True
    for kind, places in sorted(kinds.items()):
        wrong: list[str] = []
        soft: list[str] = []
        for place in places:
            if place not in then or place not in now:
                wrong.append(f"{place} is only {'here' if place in now else 'in the reference'}")
                continue
            hard, reported = differences(then[place], now[place])
            wrong += [f"{place}: {'; '.join(hard)}"] if hard else []
            soft += [f"{place}: {', '.join(reported)} differ, which is no difference"] if reported else []
        print(f"{case:<10} {kind:<10} {len(places):>4} files  {f'{len(wrong)} DIFFER' if wrong else 'equal'}")
        for line in (wrong[:SHOWN], soft[:SHOWN]):
            print("".join(f"{'':<21} {words}\n" for words in line), end="")
        equal &= not wrong
    return equal


def check(name: str, code: Path, data: Path, keep: bool) -> bool:
    """Whether a case has the same results in the work tree as in the reference."""
    for source in (*PHANTOMS, "images"):
        if any(f"{{data}}/{source}" in line for line in CASES[name]):
            once(data / source, lambda folder: make_data(folder, code))
    libraries = [f"{library} {version(library)}" for library in LIBRARIES]
    made = data.parent / f"{name}-{digest(data.name, CASES[name], libraries)}"
    reference = once(made, lambda folder: run_case(folder, name, code, data, None))
    then = contents(reference, THEN)
    for place, item in EXERCISED.get(name, ()):
        if not said_by(reference / place, NOW).get(item):
            print(f"{name:<10} {item} of {place} is nothing in the reference: here the case does not exercise what it should")
    with tempfile.TemporaryDirectory(prefix=".now-", dir=CACHE) as place:
        folder = Path(place) / name
        try:
            run_case(folder, name, ROOT, data, reference)
        except RuntimeError as error:
            print(f"{name:<10} FAILED: {error}", flush=True)
            return False
        equal = compare(name, then, contents(folder, NOW))
        took = [(each / "took.txt").read_text() for each in (reference, folder)]
        print(f"{name:<10} {'equal' if equal else 'DIFFERS'}; {took[0]} in the reference, {took[1]} here", flush=True)
        if keep:
            shutil.rmtree(CACHE / "now" / name, ignore_errors=True)
            shutil.copytree(folder, CACHE / "now" / name)
    return equal


def main() -> int:
    """Check the cases that are asked for; 0 where nothing differs, 1 where something does."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--case", action="append", choices=list(CASES), help="this case only; may be given again")
    parser.add_argument("--short", action="store_true", help=f"only {', '.join(SHORT)}")
    parser.add_argument("--keep", action="store_true", help="leave what the work tree wrote in out/golden/now")
    parser.add_argument("--against", default=REFERENCE, help="another reference, as it is: mends are those of the default")
    options = parser.parse_args()
    patches = sorted(MENDS.glob("*.patch")) if options.against == REFERENCE else []
    commit = git("rev-parse", "--short=12", f"{options.against}^{{commit}}").decode().strip()
    place = CACHE / "-".join([commit, *([digest(*(patch.read_bytes() for patch in patches))] if patches else [])])
    code = once(place / "code", lambda folder: checkout(folder, commit, patches))
    for side in (code, ROOT):
        require_own(side)
    makers = [inspect.getsource(maker) for maker in (golden_cases.draw_images, golden_cases.label_scans)]
    data = place / f"data-{digest(PHANTOMS, makers)}"
    equal = [check(name, code, data, options.keep) for name in options.case or (SHORT if options.short else CASES)]
    print("nothing differs" if all(equal) else f"{len(equal) - sum(equal)} of {len(equal)} cases DIFFER")
    return 0 if all(equal) else 1


if __name__ == "__main__":
    sys.exit(main())
