"""How much training time the default recipe needs: the same recipe with fewer steps, read on the validation fifth.

    python studies/faster.py DATA WORK SET SEED VARIANT...      trains what is not there; WORK/VARIANT/SET-SEED has everything
    python studies/faster.py table WORK FILE                    all rows as JSON, and on the screen

DATA and SET are those of `studies/board.py`, whose command `data` has made WORK/data. No lesion mask is read in training. What a
variant shares with the default is copied where that was trained, so that they differ in nothing else.
"""

from __future__ import annotations

import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from board import scored, sides
from runs import without_student, workspace

from coinseg import Workspace
from coinseg.pipeline.run import train_classes
from coinseg.runtime.files import read_json, write_json

VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "default": {},
    "two-300": {"student": {"steps": 300}},
    "one-600": {"student": {"networks": 1}},
    "one-300": {"student": {"networks": 1, "steps": 300}},
    "one-pair": {"student": {"networks": 1, "steps": 300, "teachers": 1}},
    "third": {"classifier": {"steps": 1000}, "coin": {"steps": 500}, "student": {"steps": 250, "imagenet_steps": 200}},
}
"""What a variant changes of the default settings, by group."""
SHOWN = ("iou_mask_free", "iou_oracle", "dice_per_image", "false_positive_area", "auroc")


def varied(space: Workspace, work: Path, variant: str) -> Workspace:
    """The same run with the settings of a variant, in the folder of the variant."""
    groups = {name: replace(getattr(space.settings, name), **values) for name, values in VARIANTS[variant].items()}
    return replace(space, root=work / variant / space.root.name, settings=replace(space.settings, **groups))


def measure(source: Path, work: Path, name: str, seed: int, variant: str) -> None:
    """Train a variant, score it on the validation fifth, and say how many CPU seconds the training took."""
    space = varied(workspace(source, work, name, seed, "test"), work, variant)
    file, trained = space.root / "rows.json", work / "default" / space.root.name
    if file.exists():
        return
    if (trained / "rows.json").exists() and not space.root.exists():
        shutil.copytree(trained, space.root, ignore=shutil.ignore_patterns("student", "scores", "rows.json"))
    space.start()
    begun = time.process_time()
    runs, rows = train_classes(space), list[dict[str, Any]]()
    seconds = time.process_time() - begun
    for of_class, slices in sides(space, "validation"):
        one = runs[of_class].predictor
        for step, predictor in {"COIN, refined": without_student(one), "student": one}.items():
            scores = scored(predictor, slices, space.root / "scores" / of_class / step)
            row = {"set": name, "class": of_class, "seed": seed, "variant": variant, "step": step, "cpu_seconds": round(seconds)}
            rows.append(row | scores)
            print(row, *(f"{scores[key] or 0:.4f}" for key in SHOWN), flush=True)
    write_json(file, rows)


def table(work: Path, out: Path) -> None:
    """Every row that is there."""
    rows = [row for file in sorted(work.glob("*/*/rows.json")) for row in read_json(file)]
    for row in rows:
        names = [str(row[key]) for key in ("set", "class", "seed", "variant", "step", "cpu_seconds")]
        print("|", " | ".join([*names, *("" if row[key] is None else f"{row[key]:.3f}" for key in SHOWN)]), "|")
    write_json(out, rows)


if __name__ == "__main__":
    if sys.argv[1] == "table":
        table(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        source, work, name, seed, *variants = sys.argv[1:]
        for variant in variants:
            measure(Path(source), Path(work), name, int(seed), variant)
