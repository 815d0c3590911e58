"""How well `--dry-run` foretells a run: its estimate against what happens, both in CPU seconds of one thread.

    OMP_NUM_THREADS=1 python studies/estimate.py OUT.json [SIZE/CLASSIFIER/COIN/STUDENT ...]

CPU seconds, so that what else the machine does counts for neither. The runs are small and differ in what takes their time.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
import timeit
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from coinseg.cli import dry_run
from coinseg.config.parsing import settings_from
from coinseg.pipeline.run import Workspace, evaluate, train, write_masks

RUNS = ("32/40/20/0", "48/20/10/0", "32/20/10/20", "96/20/8/0", "64/60/20/20")


def write_images(root: Path, size: int, count: int = 60) -> Path:
    """Noise, and in every other image a bright square."""
    rng = np.random.default_rng(0)
    for i in range(count):
        image = rng.normal(90, 12, (size, size))
        row, column = rng.integers(2, size - size // 3, 2)
        image[row : row + size // 4, column : column + size // 4] += 110 * (i % 2)
        path = root / ("normal", "abnormal")[i % 2] / f"p{i // 2}_{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.clip(image, 0, 255).astype(np.uint8)).save(path)
    return root


def one(words: str, folder: Path) -> dict[str, float | str]:
    """The estimate and the CPU seconds of one run; those of a stage are from its first report, after ten steps, to its last."""
    size, classifier, coin, student = map(int, words.split("/"))
    settings = settings_from({
        "data": {"size": size}, "classifier": {"steps": classifier}, "coin": {"steps": coin},
        "student": {"steps": student, "teachers": 1, "imagenet_steps": 0, "patchcore_quantile": 0.0, "trust": 0.0},
        "engine": {"threads": 1, "accelerator": "cpu", "logger": "none"},
    })  # fmt: skip
    seen: dict[str, list[float]] = {}

    def report(stage: str, done: int, total: int, values: Mapping[str, float]) -> None:
        seen.setdefault(stage, []).append(time.process_time())

    work = Workspace(write_images(folder / "data", size), folder / "out", settings, report)
    foretold = dry_run.estimate(work).training
    began = time.process_time()
    work.start()
    run = train(work)
    trained = time.process_time()
    evaluate(run)
    write_masks(run)
    ended = time.process_time()
    took, trainings = ended - began, {name: seen[name] for name in ("classifier", "coin", "student") if name in seen}
    return {
        "run": words, "foretold s": round(foretold, 1), "took s": round(took, 1), "factor": round(foretold / took, 2),
        "training s": round(trained - began, 1), **{f"{name} s": round(t[-1] - t[0], 1) for name, t in trainings.items()},
    }  # fmt: skip


def main() -> None:
    """See the top of this file."""
    dry_run.timeit.repeat = partial(timeit.repeat, timer=time.process_time)  # type: ignore[attr-defined]
    rows = []
    for words in sys.argv[2:] or RUNS:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(one(words, Path(folder)))
        print(rows[-1], flush=True)
        Path(sys.argv[1]).write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
