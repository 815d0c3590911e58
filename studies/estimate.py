"""How well `--dry-run` foretells a run: its estimate against what happens, both in CPU seconds of one thread.

    OMP_NUM_THREADS=1 python studies/estimate.py OUT.json [NAME ...]

CPU seconds, so that what else the machine does counts for neither. What
is said during the run (`Countdown`) is compared with what was left when a quarter, a half and three quarters had passed.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from PIL import Image

from coinseg.cli.case_pages import write_pages
from coinseg.config.parsing import settings_from
from coinseg.data.phantom.leaves import write_leaves
from coinseg.data.slices.prepare import readers
from coinseg.pipeline import classes, forecast
from coinseg.pipeline.countdown import Countdown
from coinseg.pipeline.run import Workspace, train_classes


def images(root: Path, side: int, count: int = 80) -> Path:
    """Noise, and in every other image a bright square."""
    rng = np.random.default_rng(0)
    for i in range(count):
        image = rng.normal(90, 12, (side, side))
        row, column = rng.integers(2, side - side // 3, 2)
        image[row : row + side // 4, column : column + side // 4] += 110 * (i % 2)
        path = root / ("normal", "abnormal")[i % 2] / f"p{i // 2}_{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.clip(image, 0, 255).astype(np.uint8)).save(path)
    return root


def scans(root: Path, by_slice: bool, count: int = 16, shape: tuple[int, int, int] = (96, 96, 20)) -> Path:
    """Scans of noise, in every other one a bright ball; labels of every slice, or one of each scan."""
    rng, rows = np.random.default_rng(0), ["image,slice,label" if by_slice else "image,label"]
    root.mkdir(parents=True)
    for i in range(count):
        scan, place = rng.normal(40, 12, shape), np.array([40, 50, 10]).reshape(3, 1, 1, 1)
        ball = (((np.indices(shape) - place) / np.array([12, 12, 4]).reshape(3, 1, 1, 1)) ** 2).sum(0) < 1
        scan[ball] += 60 * (i % 2)
        nib.save(nib.Nifti1Image(scan.astype(np.int16), np.diag([1.0, 1.0, 3.0, 1.0])), root / f"s{i}.nii.gz")
        labelled = [(k, int(i % 2 and ball[..., k].any())) for k in range(shape[2])]
        rows += [f"s{i}.nii.gz,{k},{label}" for k, label in labelled] if by_slice else [f"s{i}.nii.gz,{i % 2}"]
    (root / "labels.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return root


def student(steps: int, imagenet: int) -> dict[str, Any]:
    """Settings of a short student, which learns whatever it is shown."""
    return {"student": {"steps": steps, "imagenet_steps": imagenet, "trust": 0.0}}


RUNS: dict[str, tuple[Callable[[Path], Path], dict[str, Any]]] = {
    "images, no student": (
        lambda root: images(root, 64),
        {"data": {"size": 64}, "classifier": {"steps": 400}, "coin": {"steps": 150}, "student": {"steps": 0}},
    ),
    "images, student": (
        lambda root: images(root, 64),
        {"data": {"size": 64}, "classifier": {"steps": 200}, "coin": {"steps": 150}, **student(60, 60)},
    ),
    "labelled slices, student": (
        lambda root: scans(root, by_slice=True),
        {"data": {"size": 48}, "classifier": {"steps": 100}, "coin": {"steps": 60}, **student(20, 15)},
    ),
    "labels per scan": (
        lambda root: scans(root, by_slice=False),
        {"data": {"size": 48}, "classifier": {"steps": 100}, "coin": {"steps": 100}, "student": {"steps": 0}},
    ),
    "colour, two classes, no student": (
        lambda root: write_leaves(root, count=120),
        {"data": {"size": 64}, "classifier": {"steps": 100}, "coin": {"steps": 100}, "student": {"steps": 0}},
    ),
    "colour, two classes, a student": (
        lambda root: write_leaves(root, count=120),
        {"data": {"size": 64}, "classifier": {"steps": 100}, "coin": {"steps": 60}, **student(15, 10)},
    ),
    "tiles": (
        lambda root: images(root, 160, 40),
        {"data": {"size": 64, "tile": 64}, "classifier": {"steps": 100}, "coin": {"steps": 60}, "student": {"steps": 0}},
    ),
}  # fmt: skip


def one(name: str, folder: Path) -> dict[str, Any]:
    """The estimate and the CPU seconds of one run, stage by stage, and what was said to be left at three moments."""
    write, values = RUNS[name]
    settings = settings_from(values | {"engine": {"threads": 1, "accelerator": "cpu", "logger": "none"}})
    data, began = write(folder / "data"), time.process_time()
    foretold = forecast.forecast(Workspace(data, folder / "out", settings), clock=time.process_time)
    foretold["prepare"] *= readers()  # several threads take as many CPU seconds together as one
    countdown, said = Countdown(foretold, time.process_time), list[tuple[float, float]]()
    measured = time.process_time() - began

    def report(stage: str, done: int, total: int, losses: Mapping[str, float]) -> None:
        if not stage.startswith("warning"):
            said.append((time.process_time(), countdown(stage, done, total)))

    work, began = Workspace(data, folder / "out", settings, report), time.process_time()
    work.start()
    runs = train_classes(work)
    manifests = classes.build_manifests(runs, classes.evaluate_all(runs), classes.write_all_masks(runs), "a study")
    classes.together(work.root, manifests, classes.moved(runs))
    write_pages(work, runs, report)
    ended = time.process_time()
    took, total = ended - began, sum(foretold.values())
    moments = {share: next(words for now, words in said if now >= began + share * took) for share in (0.25, 0.5, 0.75)}
    left = {f"left at {share:.0%}": [round(words, 1), round((1 - share) * took, 1)] for share, words in moments.items()}
    return {
        "run": name, "measured for s": round(measured, 1), "foretold s": round(total, 1), "took s": round(took, 1),
        "factor": round(total / took, 2), **left,
        "stages": {stage: [round(foretold.get(stage, 0), 1), round(s, 1)] for stage, s in countdown.finished(ended).items()},
        "student": all(run.predictor.has_student for run in runs.values()),
    }  # fmt: skip


def main() -> None:
    """See the top of this file."""
    rows = []
    for name in sys.argv[2:] or RUNS:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(one(name, Path(folder)))
        print(json.dumps(rows[-1]), flush=True)
        Path(sys.argv[1]).write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
