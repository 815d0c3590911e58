"""The figures of better.md: every set, three seeds, the default recipe of `coinseg run`; only the image size is chosen per set.

    python docs/results/better.py data DATA WORK              the tables of the magnetic tiles, tile by tile, and the phantom
    python docs/results/better.py train DATA WORK SET SEED... f and COIN
    python docs/results/better.py score DATA WORK SET SEED... student, ceiling, and scores on the validation fifth
    python docs/results/better.py final DATA WORK SET SEED... the same runs, read on the test fifth

DATA has the folders lgg-flair-2d, msd-liver-ct-2d and magnetic-tile, WORK receives everything. A run that was killed goes on.
"""

from __future__ import annotations

import csv
import re
import subprocess
import sys
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

from coinseg import Settings, Workspace
from coinseg.settings import settings_from

DEFECTS = ("Blowhole", "Break", "Crack", "Fray")
SETS: dict[str, dict[str, Any]] = {
    "lgg": {"data": {"size": 64}},
    "liver": {"data": {"size": 64, "roi": "organ"}, "anomaly": {"kind": "blob"}},
    "phantom": {"data": {"size": 64, "roi": "organ", "organ": ["kidney_left", "kidney_right"], "lesion": ["kidney_tumor"]}},
    **{name: {"data": {"size": 96}} for name in ("tiles", *DEFECTS)},
    "lgg96": {"data": {"size": 96}},
}  # fmt: skip
FOLDERS = {"lgg": "lgg-flair-2d", "lgg96": "lgg-flair-2d", "liver": "msd-liver-ct-2d"}


def tiles(source: Path, out: Path, classes: tuple[str, ...]) -> None:
    """A table of the tiles in which the photographs of one tile are one patient: their numbers lie within 100 of each other."""
    rows: list[list[str]] = [["file", "label", "patient", "mask"]]
    for kind in ("Free", *classes):
        files = sorted((source / "images" / kind).glob("*.jpg"), key=lambda p: (_number(p), p.name))
        tile, last = -1, -1000
        for file in files:
            tile, last = tile + (_number(file) - last > 100), _number(file)
            mask = "" if kind == "Free" else f"masks/{kind}/{file.stem}.png"
            rows.append([f"images/{kind}/{file.name}", str(int(kind != "Free")), f"{kind}-{tile}", mask])
    out.mkdir(parents=True, exist_ok=True)
    for part in ("images", "masks"):
        if not (out / part).exists():
            (out / part).symlink_to((source / part).resolve())
    with (out / "labels.csv").open("w", newline="") as file_:
        csv.writer(file_).writerows(rows)


def _number(file: Path) -> int:
    return int(re.findall(r"num_(\d+)", file.name)[0])


def data(source: Path, work: Path) -> None:
    """Everything that is not in DATA already."""
    tiles(source / "magnetic-tile", work / "data" / "tiles", DEFECTS)
    for kind in DEFECTS:
        tiles(source / "magnetic-tile", work / "data" / kind, (kind,))
    phantom = work / "data" / "phantom"
    if not phantom.exists():
        subprocess.run(
            [sys.executable, "-m", "coinseg", "phantom", str(phantom), "--patients", "300", "--slices", "20", "--size", "192",
             "--lesions", "masses"], check=True,
        )  # fmt: skip


def workspace(source: Path, work: Path, name: str, seed: int, held_out: str = "validation") -> Workspace:
    """A run of a set, in the folder of its name, seed and fifth."""
    values: dict[str, Any] = defaultdict(dict, {key: dict(value) for key, value in SETS[name].items()})
    values["data"] |= {"split_by": "hash", "held_out": held_out}
    settings = replace(settings_from(dict(values)), seed=seed)
    settings = replace(settings, engine=replace(settings.engine, threads=1, tensorboard=False))
    folder = source / FOLDERS[name] if name in FOLDERS else work / "data" / name
    return Workspace(folder, work / f"{name}-{seed}", settings)


def main() -> None:
    """See the top of this file."""
    command, source, work = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    if command == "data":
        return data(source, work)
    for seed in map(int, sys.argv[5:]):
        space = workspace(source, work, sys.argv[4], seed, "test")
        if command == "train":
            space.start()
            space.train("train-coin")


if __name__ == "__main__":
    main()
