"""How much training time the default recipe needs: the same recipe with fewer steps, read on the validation fifth.

    python studies/faster.py DATA WORK SET SEED VARIANT...      trains what is not there; WORK/VARIANT/SET-SEED has everything
    python studies/faster.py table WORK FILE                    all rows as JSON, and on the screen

DATA and SET are those of `studies/recipe.py`, whose command `data` has made WORK/data. No lesion mask is read in training.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from runs import evidence, held_out, without_student, workspace

from coinseg import Workspace
from coinseg.evaluation.evaluate import evaluate
from coinseg.pipeline.run import train
from coinseg.runtime.files import read_json, write_json

VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "default": {},
    "third": {"classifier": {"steps": 1000}, "coin": {"steps": 500}, "student": {"steps": 250, "imagenet_steps": 200}},
}
"""What a variant changes of the default settings, by group."""
KEPT = ("iou_mask_free", "iou_oracle", "dice_per_image", "false_positive_area", "auroc")


def varied(space: Workspace, work: Path, variant: str) -> Workspace:
    """The same run with the settings of a variant, in the folder of the variant."""
    groups = {name: replace(getattr(space.settings, name), **values) for name, values in VARIANTS[variant].items()}
    return replace(space, root=work / variant / space.root.name, settings=replace(space.settings, **groups))


def measure(source: Path, work: Path, name: str, seed: int, variant: str) -> None:
    """Train a variant, score it on the validation fifth, and say how many CPU seconds the training took."""
    space = varied(workspace(source, work, name, seed, "test"), work, variant)
    file = space.root / "validation" / "row.json"
    if file.exists():
        return
    space.start()
    begun = time.process_time()
    run, seconds = train(space), time.process_time() - begun
    slices, row = held_out(source, work, name, seed, "validation"), dict[str, Any]()
    steps = {"COIN, refined": without_student(run.predictor), "student": run.predictor}
    for step, one in steps.items():
        settings = replace(one.settings, masks=one.segmenter.cleaning)
        folder = space.root / "validation" / step
        scores = evaluate(slices, evidence(one, slices), one.segmenter.level, settings, folder)
        row[step] = {key: scores[key] for key in KEPT}
        print(name, seed, variant, step, row[step], f"{seconds:.0f} CPU s", flush=True)
    write_json(file, {"set": name, "seed": seed, "variant": variant, "cpu_seconds": seconds, "scores": row})


def table(work: Path, out: Path) -> None:
    """Every row that is there."""
    rows = [read_json(file) for file in sorted(work.glob("*/*/validation/row.json"))]
    for row in rows:
        student = row["scores"]["student"]
        print(row["set"], row["seed"], row["variant"], *(f"{student[key]:.3f}" for key in KEPT), f"{row['cpu_seconds']:.0f} s")
    write_json(out, rows)


if __name__ == "__main__":
    if sys.argv[1] == "table":
        table(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        source, work, name, seed, *variants = sys.argv[1:]
        for variant in variants:
            measure(Path(source), Path(work), name, int(seed), variant)
