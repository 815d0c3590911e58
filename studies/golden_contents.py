"""What the files of a run say, without what may differ on purpose: the golden run compares this.

Names and words that are changed on purpose go into `RENAMED` and `REWORDED`; what is never the same twice is left out.
"""

from __future__ import annotations

import base64
import csv
import gzip
import hashlib
import io
import json
import re
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

RENAMED: dict[str, str] = {}
"""Keys of JSON, columns of tables, arrays of .npz, files, folders, whole places of files: name in the reference -> name now."""
REWORDED: dict[str, str] = {"masks.flips is off": "masks.hflip is off"}
"""Pieces of text in JSON and tables: words of the reference -> words now."""
LEFT_OUT = re.compile(
    "key|contents|seconds.*|time|timings_s|training_s|scoring_s|created|trained|trained_with|coinseg|versions?|command|path|"
    "source|model|accuracy_threshold|trained_on|distribution|distance|doubtful|doubts|out_of_distribution|iou_all_images|"
    "format|(abnormals|normals)_marked|scans_(ab)?normal|verdict|mask_table_sha256|warnings|null_because|sha256|channels|classes|twins|feet_first|"
    "images_per_s|memory_gb|proposals|reviewed"
)
"""Keys and columns that are hashes of settings, times, versions or places; of a model the hashes of its files.
The threshold that an accuracy was computed with stands beside it since the key of f leaves it out. `trained_on` and what follows:
what is said of a run and of its inputs since the faults of issue "nothing wrong without a word" were mended. The last ones: speed
and memory, which the log has, and the reviewed masks of a manifest, which there were none of."""
FILES_LEFT_OUT = {
    "checksums.json", "key.txt", "confidence.json", "threads.json", "checkpoint.pt", "took.txt", "outputs.sha256",
    "cases.html", "review.csv", "MODEL_CARD.md",
}  # fmt: skip
SOFT = "~"
"""How an item begins that is reported where it differs, and is no difference: names of tensors, and settings."""
Items = dict[str, Any]


@dataclass(frozen=True)
class Words:
    """How names and words of one side are read.

    Args:
        renamed: see `RENAMED`.
        reworded: see `REWORDED`.
    """

    renamed: dict[str, str]
    reworded: dict[str, str]

    def name(self, name: str) -> str:
        return self.renamed.get(name, name)

    def text(self, text: str) -> str:
        for old, new in self.reworded.items():
            text = text.replace(old, new)
        return text


THEN, NOW = Words(RENAMED, REWORDED), Words({}, {})
"""The reference, and the work tree."""


def digest(*parts: Any) -> str:
    """A short hash of bytes, and of anything else as text."""
    found = hashlib.sha256()
    for part in parts:
        found.update(part if isinstance(part, bytes) else str(part).encode())
    return found.hexdigest()[:16]


def weights(content: bytes, words: Words) -> Items:
    """Tensors as a sorted multiset of shape, type and bytes; their names apart."""
    start = 8 + int.from_bytes(content[:8], "little")
    header, body = json.loads(content[8:start]), content[start:]
    header.pop("__metadata__", None)
    tensors = [f"{t['shape']} {t['dtype']} {digest(body[slice(*t['data_offsets'])])}" for t in header.values()]
    return {"tensors": digest(sorted(tensors)), f"{SOFT}names": digest(sorted(header))}


def volume(content: bytes, words: Words) -> Items:
    """Voxels and grid of a .nii.gz; its description is left out."""
    content = gzip.decompress(content)
    start = int(np.frombuffer(content, "<f4", 1, 108)[0])
    return {"grid": digest(content[:148], content[228:348]), "voxels": digest(content[start:])}


def picture(content: bytes, words: Words = NOW) -> Items:
    """Size and pixels of a PNG, however well they are compressed."""
    chunks, at = defaultdict(bytes), 8
    while at < len(content):
        size, name = int.from_bytes(content[at : at + 4], "big"), content[at + 4 : at + 8]
        chunks[name] += content[at + 8 : at + 8 + size]
        at += 12 + size
    return {"pixels": digest(chunks[b"IHDR"], zlib.decompress(chunks[b"IDAT"]))}


def arrays(content: bytes, words: Words) -> Items:
    """The arrays of an .npz, whose own bytes have the hour."""
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        return {words.name(name.removesuffix(".npy")): digest(file.read(name)) for name in file.namelist()}


def leaves(value: Any, words: Words, at: str = "") -> Iterator[tuple[str, Any]]:
    """What nested JSON holds, by its place."""
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            if key == "settings":
                yield f"{SOFT}{at}settings", digest(json.dumps(inner))
            elif not LEFT_OUT.fullmatch(str(key)):
                yield from leaves(inner, words, f"{at}{words.name(str(key))}.")
    else:
        yield at.removesuffix("."), words.text(value) if isinstance(value, str) else value


def record(content: bytes, words: Words) -> Items:
    return dict(leaves(json.loads(content), words))


def model(content: bytes, words: Words) -> Items:
    """model.json; in schema 1 the parts of the recipe were keys of their own."""
    found = json.loads(content)
    if found.pop("schema") == 1:
        opinion, novelty, steps = (found.pop(name) for name in ("opinion", "novelty", "steps"))
        parts = [("imagenet_classifier", {}, opinion), ("slice_hmm", {"transitions": steps}, steps), ("patchcore", {}, novelty)]
        found["parts"] = {name: state for name, state, there in parts if there}
    return dict(leaves(found, words)) | {"parts": sorted(found["parts"])}


def log(content: bytes, words: Words) -> Items:
    return dict(leaves([json.loads(line) for line in content.splitlines()], words))


def table(content: bytes, words: Words) -> Items:
    """The cells of a CSV by line and column, and the order of its columns."""
    header, *rows = csv.reader(io.StringIO(content.decode("utf-8-sig")))
    cells = dict(leaves([dict(zip(header, row, strict=True)) for row in rows], words))
    return cells | {"columns": ",".join(words.name(name) for name in header if not LEFT_OUT.fullmatch(name))}


def report(content: bytes, words: Words) -> Items:
    """The pictures of a report; its numbers are those of the files beside it."""
    found = re.findall(rb"data:image/png;base64,([\w+/=]+)", content)
    return {f"picture {i}": picture(base64.b64decode(one))["pixels"] for i, one in enumerate(found)}


def text(content: bytes, words: Words) -> Items:
    """Lines; which numbers are in bold is left out: no 0 of a row that marks nothing is the best since."""
    plain = re.sub(r"\*\*([^*]+)\*\*|\\textbf\{([^}]*)\}", r"\1\2", content.decode())
    return {f"line {i}": words.text(line) for i, line in enumerate(plain.splitlines())}


def anything(content: bytes, words: Words) -> Items:
    return {"bytes": digest(content)}


READERS: dict[str, tuple[str, Callable[[bytes, Words], Items]]] = {
    "model.json": ("records", model),
    ".safetensors": ("weights", weights),
    ".nii.gz": ("volumes", volume),
    ".png": ("pictures", picture),
    ".npz": ("arrays", arrays),
    ".bin": ("arrays", anything),
    ".json": ("records", record),
    ".jsonl": ("logs", log),
    ".csv": ("tables", table),
    ".html": ("reports", report),
    ".yaml": ("settings", lambda content, words: {f"{SOFT}settings": digest(content)}),
    ".md": ("texts", text),
    ".tex": ("texts", text),
    "": ("others", anything),
}
"""How a file name ends -> what such files are called, and what they say."""


def kind_of(place: str) -> tuple[str, Callable[[bytes, Words], Items]]:
    return next(found for ending, found in READERS.items() if place.endswith(ending))


def said_by(path: Path, words: Words) -> Items:
    return kind_of(path.name)[1](path.read_bytes(), words)


def contents(folder: Path, words: Words) -> dict[str, Items]:
    """What every file below a folder says, by its place."""
    found: dict[str, Items] = {}
    for path in sorted(
        p for p in folder.rglob("*") if p.is_file() and p.name not in FILES_LEFT_OUT and p.parent.name != "distribution"
    ):
        place = words.name("/".join(map(words.name, path.relative_to(folder).parts)))
        items = said_by(path, words)
        # Which slices a report shows, and how, has changed on purpose; what is shown stands in the tables and masks.
        # Captions of figures may shift by a pixel; what the figures show stands in the arrays beside them.
        found[place] = (
            {f"{SOFT}{name}": value for name, value in items.items()}
            if {"figures", "report.html", "examples.npz"} & {*path.parts}
            else items
        )
    return found
