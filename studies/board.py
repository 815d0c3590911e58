"""The board: the default recipe on eight sets, beside what anybody could do without it, as docs/research/board.md has it.

    python studies/board.py data DATA WORK                    the sets that have to be made
    python studies/board.py score DATA WORK SET SEED...       trains, and reads the validation fifth
    python studies/board.py final DATA WORK SET SEED...       the same runs, read on the test fifth; once, at the end
    python studies/board.py floors DATA WORK SET...           the rows that need no training, validation fifth
    python studies/board.py ceiling DATA WORK SET SEED...     the student's network taught the true masks, validation fifth
    python studies/board.py table WORK FILE                   everything that is there, as JSON and on the screen

Only size (or tile) is chosen for a set. Groups of patients, leaves, rails or tiles are split by a hash. No mask is read before
scoring, but for the rows "oracle" and "ceiling".
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recipe import ceilings, data
from runs import batches_of, evidence, without_student, workspace

from coinseg import Workspace
from coinseg.config.schema import Settings
from coinseg.data.slices.dataset import ScoredSlices, TrainingSlices
from coinseg.data.slices.split import VALIDATION
from coinseg.evaluation.evaluate import evaluate
from coinseg.inference.predictor import Predictor
from coinseg.metrics.overlap import classification_scores, mean_dice, pooled_iou
from coinseg.parts.base import Learning
from coinseg.parts.patchcore import IMAGES, PatchCore, memory_bank
from coinseg.pipeline.run import Run, job_of, prepare_slices, train_classes
from coinseg.runtime.files import read_json, write_json
from coinseg.runtime.stage import silent
from coinseg.runtime.streams import Stream, random_stream

BOARD = ("lgg96", "liver", "phantom", "tiles", "soy", "kits", "rails", "steel")
KEPT = ("iou_mask_free", "iou_oracle", "dice_per_image", "false_positive_area", "normals_marked", "auroc", "confidence_rank")
LEVELS = np.linspace(0.02, 0.98, 49)  # of the oracles


def sides(space: Workspace, fifth: str) -> Iterator[tuple[str, ScoredSlices]]:
    """The slices of a fifth with their masks, as each class sees them; prepared beside the run where it is not the test fifth."""
    if fifth != "test":
        data_ = replace(space.settings.data, held_out="validation")
        space = replace(space, root=space.root / fifth, settings=replace(space.settings, data=data_))
    store = prepare_slices(space)  # which tiles of labelled images are trained on does not matter here
    for name, view in zip(store.classes or ("",), store.views, strict=True):
        yield name, ScoredSlices(view, space.settings.anomaly, space.settings.seed, VALIDATION)


def scored(run: Predictor, slices: ScoredSlices, folder: Path) -> dict[str, Any]:
    """The scores of a predictor, kept in its folder."""
    file = folder / "scores.json"
    if not file.exists():
        settings = replace(run.settings, masks=run.segmenter.cleaning)
        ask: Callable[[np.ndarray], np.ndarray] = lambda unit: run.probability(torch.from_numpy(unit * 2 - 1)).numpy()
        write_json(file, evaluate(slices, evidence(run, slices), run.segmenter.level, settings, folder, ask=ask))
    return {key: read_json(file).get(key) for key in KEPT}


def best_cut(maps: np.ndarray, truth: np.ndarray) -> float:
    """Oracle: the best pooled IoU of maps (n, S, S) cut at one level for all, from either side."""
    low, high = float(maps.min()), float(maps.max())
    cuts = [low + share * (high - low) for share in LEVELS]
    return max(max(pooled_iou(maps > cut, truth) or 0.0, pooled_iou(maps < cut, truth) or 0.0) for cut in cuts)


def floors(slices: ScoredSlices) -> dict[str, dict[str, float]]:
    """What needs no training, at its best for the true masks: a cut through the grey values, and one mean place for all."""
    batches, truth, labels = batches_of(slices)
    grey = np.concatenate([batch.image.numpy().mean(1) for batch in batches])[labels == 1]
    place = np.broadcast_to(truth[labels == 1].mean(0), grey.shape)
    return {
        "grey cut (oracle)": {"iou_oracle": best_cut(grey, truth[labels == 1])},
        "one place (oracle)": {"iou_oracle": best_cut(place, truth[labels == 1])},
    }


def normals_only(training: TrainingSlices, slices: ScoredSlices) -> dict[str, Any]:
    """PatchCore alone: a memory bank of normal training images, pixels above the limit of its own patches."""
    labels, patients = training.labels(), training.store.index["patient"][training.rows]
    normals = np.flatnonzero(labels == 0)
    if len(set(patients[normals].tolist())) < 2:
        return {}
    settings = Settings()
    rng = random_stream(Stream.PATCHCORE, settings.seed)
    normals = rng.permutation(normals)[:IMAGES]
    unused: Any = None
    learning = Learning(training, settings, "", None, silent, unused, unused, unused)
    bank = memory_bank(learning, normals, patients[normals], rng, len(normals))
    part = PatchCore(bank, len(training.store.channels)).eval()
    batches, truth, given = batches_of(slices)
    with torch.no_grad():
        maps = np.concatenate([part(image).numpy() for batch in batches for image in batch.image.split(8)])
    marked, abnormal = maps > 1, given == 1
    return {
        "iou_mask_free": pooled_iou(marked[abnormal], truth[abnormal]), "iou_oracle": best_cut(maps[abnormal], truth[abnormal]),
        "dice_per_image": mean_dice(marked[abnormal], truth[abnormal]), "false_positive_area": float(marked[~abnormal].mean()),
        "normals_marked": float(marked[~abnormal].any((1, 2)).mean()),
        "auroc": classification_scores(maps.max((1, 2)), given, 1.0)["auroc"],
    }  # fmt: skip


def score(source: Path, work: Path, name: str, seed: int, fifth: str) -> None:
    """Train a set with one seed, and write the rows of each of its classes."""
    space = workspace(source, work, name, seed, "test")
    space.start()
    begun = time.process_time()
    runs = train_classes(space)
    seconds = kept_seconds(space.root, time.process_time() - begun)
    for of_class, slices in sides(space, fifth):
        run, folder = runs[of_class], space.root / fifth / of_class
        training = TrainingSlices(run.store, space.settings.anomaly, seed)
        rows: dict[str, dict[str, Any]] = {"coinseg": scored(run.predictor, slices, folder / "coinseg") | {"cpu_s": seconds}}
        rows["COIN, refined"] = scored(without_student(run.predictor), slices, folder / "coin")
        rows |= {"PatchCore, normals only": normals_only(training, slices)} | floors(slices)
        keep(folder, rows)
        show(name, of_class, seed, fifth, rows)


def untrained(source: Path, work: Path, name: str) -> None:
    """The rows of a set that need no training."""
    space = workspace(source, work, name, 0, "test")
    trained_on = dict(zip(job_of(space).store.classes or ("",), job_of(space).store.views, strict=True))
    for of_class, slices in sides(space, "validation"):
        training = TrainingSlices(trained_on[of_class], space.settings.anomaly, 0)
        rows = {"PatchCore, normals only": normals_only(training, slices)} | floors(slices)
        keep(space.root / "validation" / of_class, rows)
        show(name, of_class, 0, "validation", rows)


def ceiling(source: Path, work: Path, name: str, seed: int) -> None:
    """The supervised ceiling of each class, and its row."""
    space = workspace(source, work, name, seed, "test")
    runs = train_classes(space)
    for of_class, slices in sides(space, "validation"):
        run: Run = runs[of_class]
        folder = space.root / "validation" / of_class
        rows = {step: scored(one, slices, folder / step) for step, one in ceilings(run).items()}
        keep(folder, rows)
        show(name, of_class, seed, "validation", rows)


def kept_seconds(root: Path, seconds: float) -> float:
    """The CPU seconds of a training, added up over the commands it took."""
    file = root / "cpu.json"
    total = (read_json(file)["seconds"] if file.exists() else 0.0) + seconds
    write_json(file, {"seconds": total})
    return round(total)


def keep(folder: Path, rows: dict[str, dict[str, Any]]) -> None:
    """Add rows to those of a class."""
    file = folder / "rows.json"
    write_json(file, (read_json(file) if file.exists() else {}) | rows)


def show(name: str, of_class: str, seed: int, fifth: str, rows: dict[str, dict[str, Any]]) -> None:
    """Print rows of the table in docs."""
    for method, row in rows.items():
        cells = ["" if row.get(key) is None else f"{row[key]:.3f}" for key in KEPT]
        minutes = f"{row['cpu_s'] / 60:.0f}" if "cpu_s" in row else ""
        print("|", " | ".join([f"{name} {of_class}".strip(), str(seed), fifth, method, *cells, minutes]), "|", flush=True)


def table(work: Path, out: Path) -> None:
    """Every row that is there."""
    rows = []
    for file in sorted(work.glob("*-*/*/**/rows.json")):
        run, fifth, *of_class = file.parent.relative_to(work).parts
        name, seed = run.rsplit("-", 1)
        found = read_json(file)
        show(name, "".join(of_class), int(seed), fifth, found)
        rows.append({"set": name, "class": "".join(of_class), "seed": int(seed), "fifth": fifth, "rows": found})
    write_json(out, rows)


if __name__ == "__main__":
    command, source, work, *rest = sys.argv[1:]
    if command == "data":
        data(Path(source), Path(work))
    elif command == "table":
        table(Path(source), Path(work))
    elif command == "floors":
        for name in rest:
            untrained(Path(source), Path(work), name)
    else:
        if rest[0] not in BOARD:
            raise SystemExit(f"no set {rest[0]}; there are {', '.join(BOARD)}")
        for number in map(int, rest[1:]):
            if command == "ceiling":
                ceiling(Path(source), Path(work), rest[0], number)
            else:
                score(Path(source), Path(work), rest[0], number, "validation" if command == "score" else "test")
