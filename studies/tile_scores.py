"""Tiles against one shrunk square, on the grid of the images: masks of held-out images by run folders of the same data.

    coinseg run labels.csv -o tiled --data.size 80 --data.tile 80 --data.split_by hash ...
    coinseg run labels.csv -o shrunk --data.size 80 --data.split_by hash ...
    python studies/tile_scores.py labels.csv tiled shrunk

Every image of the validation fifth is segmented as `coinseg segment` does it, its label unknown, and compared with its mask at
native size: pooled IoU and mean Dice over abnormal images, the share of normal images that are marked, AUROC of the highest f.
`--silent` also joins the tiles without those that are called normal, which else count as "outside".
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import coinseg
from coinseg.data.layouts.registry import read_layout
from coinseg.data.slices.case import load_case
from coinseg.data.slices.split import VALIDATION, hashed_side
from coinseg.inference import maps
from coinseg.metrics import overlap as metrics
from coinseg.pipeline.run_folder import SETTINGS
from coinseg.runtime.files import read_json


def scores_of(folder: Path, table: Path) -> dict[str, Any]:
    """The scores of a run on the validation fifth of its data."""
    predictor, began = coinseg.load(folder), time.process_time()
    cases = [
        case for case in read_layout(table, predictor.settings.data).cases
        if hashed_side(case.patient, "validation") == VALIDATION
    ]  # fmt: skip
    both = union = touched = 0
    dices, marked, label, highest = [], [], [], []
    for case in cases:
        loaded = load_case(case)
        found = predictor.segment_cases([replace(loaded, case=replace(case, label=None, slice_labels={}))])[0]
        label.append(case.label)
        highest.append(float(np.nanmax(found.probability)))
        if case.label == 0:
            marked.append(bool(found.mask.any()))
        elif loaded.lesion is not None:
            both += int((found.mask & loaded.lesion).sum())
            union += int((found.mask | loaded.lesion).sum())
            touched += bool((found.mask & loaded.lesion).any())
            dices.append(metrics.dice(found.mask, loaded.lesion) or 0.0)
    return {
        "abnormal": len(dices), "normal": len(marked), "iou": both / union if union else None, "dice": float(np.mean(dices)),
        "touched": touched / len(dices), "normals_marked": float(np.mean(marked)),
        "auroc": metrics.classification_scores(np.array(highest), np.array(label))["auroc"],
        "segment_cpu_s": round(time.process_time() - began, 1), "timings_s": read_json(folder / "manifest.json")["timings_s"],
    }  # fmt: skip


def silence() -> None:
    """Leave out tiles that are called normal where another one speaks."""

    def add(self: maps.ConfidenceMap, cut: Any, sure: np.ndarray) -> None:
        if sure.any():
            self._painted[cut.index].append((replace(cut, organ=None), sure.astype(np.float16)))

    maps.ConfidenceMap.add = add  # type: ignore[method-assign]


def main() -> None:
    """Print the scores of each folder."""
    table, *folders = (Path(word) for word in sys.argv[1:] if not word.startswith("--"))
    assert all((folder / SETTINGS).exists() for folder in folders)
    found = {folder.name: scores_of(folder, table) for folder in folders}
    if "--silent" in sys.argv:
        silence()
        found |= {f"{folder.name}, normal tiles silent": scores_of(folder, table) for folder in folders}
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
