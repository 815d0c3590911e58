"""The golden run: small cases computed by a fixed earlier commit and by this work tree, and everything written is compared.

    python studies/golden.py                 all cases, a few minutes for each side; the reference is kept in out/golden
    python studies/golden.py --short         the cases of tests/test_golden.py
    python studies/golden.py --case student --keep

Nothing is imported from coinseg: both sides are driven by the command line, with the setting names of the reference. The reference is
that commit and the defects that were mended on purpose since, `golden_mends/*.patch`, each as small as possible. What may differ on
purpose is named in the constants below; weights under other names are reported, and are no difference.
"""

from __future__ import annotations

import argparse
import base64
import csv
import gzip
import hashlib
import inspect
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from golden_cases import CASES, PHANTOMS, SHORT, images, labels_of_scans

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = "7c4cd9d"
RENAMED: dict[str, str] = {}
"""Keys of JSON, columns of tables, files and folders: name in the reference -> name now."""
REWORDED: dict[str, str] = {}
"""Pieces of text in JSON and tables: words of the reference -> words now."""
LEFT_OUT = {
    "key", "contents", "seconds", "time", "timings_s", "training_s", "scoring_s", "created", "trained", "trained_with", "coinseg",
    "version", "versions", "command", "path", "source", "data_path", "model",
}  # fmt: skip
"""Keys of JSON that are hashes of settings, times, versions or places; of a model the hashes of its files."""
FILES_LEFT_OUT = {"key.txt", "confidence.json", "threads.json", "checkpoint.pt", "seconds.json"}
LIBRARIES = ("torch", "numpy", "scipy", "timm", "monai", "kornia")
SOFT = "~"
"""How an item begins that is reported where it differs, and is no difference: names of tensors, settings."""
Items = dict[str, Any]


def digest(*parts: Any) -> str:
    """A short hash of bytes and of anything else as text."""
    found = hashlib.sha256()
    for part in parts:
        found.update(part if isinstance(part, bytes) else str(part).encode())
    return found.hexdigest()[:16]


# --- what a file says ------------------------------------------------------------------------------------------------------


def weights(path: Path, renamed: dict[str, str]) -> Items:
    """Tensors as a sorted multiset of shape, type and bytes; their names apart."""
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    header.pop("__metadata__", None)
    tensors = [(t["shape"], t["dtype"], digest(content[start:][slice(*t["data_offsets"])])) for t in header.values()]
    return {"tensors": digest(sorted(map(str, tensors))), f"{SOFT}names": digest(sorted(header))}


def volume(path: Path, renamed: dict[str, str]) -> Items:
    """Voxels and grid of a NIfTI file; its description is left out."""
    content = gzip.decompress(path.read_bytes())
    start = int(np.frombuffer(content, "<f4", 1, 108)[0])
    return {"grid": digest(content[:148], content[228:348]), "voxels": digest(content[start:])}


def picture(content: bytes) -> str:
    """Size and pixels of a PNG, however well it was compressed."""
    chunks, at = defaultdict(bytes), 8
    while at < len(content):
        size, name = int.from_bytes(content[at : at + 4], "big"), content[at + 4 : at + 8]
        chunks[name] += content[at + 8 : at + 8 + size]
        at += 12 + size
    return digest(chunks[b"IHDR"], zlib.decompress(chunks[b"IDAT"]))


def arrays(path: Path, renamed: dict[str, str]) -> Items:
    """Arrays of an .npz file, which notes the hour in its own bytes."""
    with zipfile.ZipFile(path) as file:
        return {renamed.get(name[:-4], name[:-4]): digest(file.read(name)) for name in file.namelist()}


def flat(value: Any, renamed: dict[str, str], at: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested JSON by their place, without what is left out."""
    if not isinstance(value, dict | list):
        if isinstance(value, str) and renamed is RENAMED:
            for old, new in REWORDED.items():
                value = value.replace(old, new)
        yield at, value
        return
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        if key == "settings":
            yield f"{SOFT}settings", digest(json.dumps(inner))
        elif key not in LEFT_OUT:
            yield from flat(inner, renamed, f"{at}.{renamed.get(key, key)}".lstrip("."))


def table(path: Path, renamed: dict[str, str]) -> Items:
    """The cells of a CSV file by line and column, and the order of its columns."""
    header, *rows = csv.reader(io.StringIO(path.read_text(encoding="utf-8")))
    header = [renamed.get(name, name) for name in header]
    cells = [{name: cell for name, cell in zip(header, row, strict=True) if name not in LEFT_OUT} for row in rows]
    return dict(flat(cells, renamed)) | {"columns": ",".join(name for name in header if name not in LEFT_OUT)}


def report(path: Path, renamed: dict[str, str]) -> Items:
    """The pictures of a report; its words are those of the files beside it."""
    found = re.findall(r"data:image/png;base64,([\w+/=]+)", path.read_text(encoding="utf-8"))
    return {f"picture {i}": picture(base64.b64decode(one)) for i, one in enumerate(found)}


READERS: dict[str, Callable[[Path, dict[str, str]], Items]] = {
    ".safetensors": weights,
    ".nii.gz": volume,
    ".png": lambda path, renamed: {"pixels": picture(path.read_bytes())},
    ".npz": arrays,
    ".json": lambda path, renamed: dict(flat(json.loads(path.read_text(encoding="utf-8")), renamed)),
    ".jsonl": lambda path, renamed: dict(flat([json.loads(line) for line in path.read_text().splitlines()], renamed)),
    ".csv": table,
    ".html": report,
    ".yaml": lambda path, renamed: {f"{SOFT}settings": digest(path.read_bytes())},
}


def contents(folder: Path, renamed: dict[str, str]) -> dict[str, Items]:
    """What every file below a folder says, by its path."""
    found: dict[str, Items] = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.name not in FILES_LEFT_OUT):
        place = "/".join(renamed.get(part, part) for part in path.relative_to(folder).parts)
        read = next((reader for ending, reader in READERS.items() if path.name.endswith(ending)), None)
        found[place] = read(path, renamed) if read else {"bytes": digest(path.read_bytes())}
    return found


# --- running the two sides -------------------------------------------------------------------------------------------------


def coinseg(code: Path, words: str, folder: Path, places: dict[str, Path]) -> None:
    """One command of `code`, in `folder`; `> NAME` at its end keeps what it prints. `RuntimeError` where it fails."""
    line, _, kept = words.partition(" > ")
    given = [word.format(**places) for word in line.split()]
    environment = os.environ | {"PYTHONPATH": str(code / "src"), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    environment |= {"CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "coinseg", *given]
    done = subprocess.run(command, cwd=folder, env=environment, text=True, capture_output=True)
    if done.returncode:
        raise RuntimeError(f"coinseg {' '.join(given)}\nended with {done.returncode}\n{done.stderr[-2000:]}")
    if kept:
        (folder / kept).write_text(done.stdout, encoding="utf-8")


def once(folder: Path, make: Callable[[Path], None]) -> Path:
    """A folder that is made when it is not there, whole or not at all."""
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=".part-", dir=folder.parent))
        try:
            make(part)
            part.rename(folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return folder


def git(*words: str) -> bytes:
    return subprocess.run(["git", *words], cwd=ROOT, check=True, capture_output=True).stdout


def checkout(commit: str, patches: list[Path]) -> Callable[[Path], None]:
    """Makes a folder of the sources of a commit, with patches applied."""

    def make(folder: Path) -> None:
        subprocess.run(["tar", "-x", "-C", str(folder)], input=git("archive", commit, "src"), check=True)
        for patch in patches:
            git("apply", f"--directory={folder.relative_to(ROOT)}", str(patch))

    return make


def make_data(code: Path) -> Callable[[Path], None]:
    """Makes the data sets of all cases, with the phantom of `code`."""

    def make(folder: Path) -> None:
        for name, words in PHANTOMS.items():
            coinseg(code, f"phantom {name} --processes 1 {words}", folder, {})
        labels_of_scans(folder / "scans")
        images(folder / "images", folder / "fresh_images")

    return make


def run_case(name: str, code: Path, data: Path, reference: Path | None) -> Callable[[Path], None]:
    """Makes the results of a case; models of the reference are read from its results, or from these where they are its own."""

    def make(folder: Path) -> None:
        began = time.perf_counter()
        for words in CASES[name]:
            coinseg(code, words, folder, {"data": data, "reference": reference or folder})
        (folder / "seconds.json").write_text(json.dumps({"seconds": round(time.perf_counter() - began, 1)}))

    return make


def require_own(code: Path) -> None:
    """`SystemExit` where Python would find another coinseg than that of `code`."""
    words = [sys.executable, "-c", "import importlib.util as u; print(u.find_spec('coinseg').origin)"]
    found = subprocess.run(words, env=os.environ | {"PYTHONPATH": str(code / "src")}, text=True, capture_output=True, check=True)
    if not Path(found.stdout.strip()).is_relative_to(code):
        raise SystemExit(f"coinseg would be taken from {found.stdout.strip()}, not from {code}")


# --- comparing -------------------------------------------------------------------------------------------------------------


def compare(case: str, reference: dict[str, Items], now: dict[str, Items]) -> bool:
    """Print one line for each folder that was written, and what differs in it; whether nothing does."""
    folders: dict[str, list[str]] = defaultdict(list)
    for place in sorted(reference.keys() | now.keys()):
        folders[place.rpartition("/")[0] or "."].append(place)
    equal = True
    for folder, places in folders.items():
        differing, soft = [], set()
        for place in places:
            if place not in reference or place not in now:
                differing.append(f"{place}: only {'now' if place in now else 'in the reference'}")
                continue
            old, new = reference[place], now[place]
            items = [item for item in old.keys() | new.keys() if old.get(item, SOFT) != new.get(item, SOFT)]
            soft |= {f"{place.rpartition('/')[2]}: {item[1:]} differ" for item in items if item.startswith(SOFT)}
            hard = sorted(item for item in items if not item.startswith(SOFT))
            said = [f"{item} {old.get(item, 'missing')} -> {new.get(item, 'missing')}" for item in hard[:3]]
            differing += [f"{place}: {'; '.join(said)}{f' and {len(hard) - 3} more' if len(hard) > 3 else ''}"] if hard else []
        print(f"{case:<12} {folder:<44} {len(places):>4} files  {'DIFFERS' if differing else 'equal'}")
        for line in [*differing[:8], *sorted(soft)]:
            print(f"{'':<12}   {line}")
        equal &= not differing
    return equal


def main() -> int:
    """Compare the cases that are asked for; 0 where nothing differs, 1 where something does."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", action="append", choices=list(CASES), help="this case only; may be given again")
    parser.add_argument("--short", action="store_true", help=f"only {', '.join(SHORT)}")
    parser.add_argument("--keep", action="store_true", help="leave what the work tree wrote in out/golden/now")
    parser.add_argument("--against", default=REFERENCE, help="commit of the reference; mends are applied to the default alone")
    options = parser.parse_args()
    patches = sorted((ROOT / "studies" / "golden_mends").glob("*.patch")) if options.against == REFERENCE else []
    commit = git("rev-parse", "--short=12", f"{options.against}^{{commit}}").decode().strip()
    cache = ROOT / "out" / "golden" / (commit + (f"-{digest(*(p.read_bytes() for p in patches))}" if patches else ""))
    code = once(cache / "code", checkout(commit, patches))
    for side in (code, ROOT):
        require_own(side)
    made_of = digest(PHANTOMS, inspect.getsource(images), inspect.getsource(labels_of_scans))
    data = once(cache / f"data-{made_of}", make_data(code))
    libraries = [version(name) for name in LIBRARIES]
    equal = True
    for name in options.case or (SHORT if options.short else CASES):
        reference = once(cache / f"{name}-{digest(made_of, CASES[name], libraries)}", run_case(name, code, data, None))
        kept = ROOT / "out" / "golden" / "now" / name
        shutil.rmtree(kept, ignore_errors=True)
        try:
            once(kept, run_case(name, ROOT, data, reference))
        except RuntimeError as error:
            print(f"{name:<12} FAILED: {error}")
            equal = False
            continue
        equal &= compare(name, contents(reference, RENAMED), contents(kept, {}))
        took = [json.loads((folder / "seconds.json").read_text())["seconds"] for folder in (reference, kept)]
        print(f"{name:<12} took {took[0]} s in the reference, {took[1]} s now", flush=True)
        if not options.keep:
            shutil.rmtree(kept)
    print("nothing differs" if equal else "something DIFFERS")
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main())
