"""Training time of the default recipe, against that of an earlier commit: CPU seconds a step of every training, times its steps.

    python -m benchmarks.recipe_time DATA --side 64 [--commit 7c4cd9d] [--turns 2]

Both codes are driven in turn, each in a process of its own with one thread, on the same data; a training counts by its
steps alone (reading, scoring, pseudo-masks and synthetic lesions are left out). Pseudo-masks are what is bright.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
STEPS = {"f": 3000, "COIN": 1000, "student": 600, "ImageNet classifier": 600}
"""Of the default recipe, in both codes."""
TIMES = {"f": 2, "COIN": 2, "student": 1, "ImageNet classifier": 1}
"""How often each is trained."""
MEASURED = 60
"""Steps of which the time is taken between the 10th and the last."""

INSIDE = """
import json, sys, time
from dataclasses import replace
from pathlib import Path
import numpy as np
import torch
torch.set_num_threads(1)
folder, steps = Path(sys.argv[1]), int(sys.argv[2])
try:
    from coinseg.data.slices.dataset import TrainingSlices
    from coinseg.data.slices.store import SliceStore
    from coinseg.training.classifier import train_classifier
    from coinseg.training.coin import train_coin
    from coinseg.training.student import Lesson, train_student
    from coinseg.config.parsing import opinion_settings
    from coinseg.config.schema import Settings
    today = True
except ImportError:
    from coinseg.data.sampling import TrainingSlices
    from coinseg.data.slices import SliceStore
    from coinseg.training import train_classifier, train_coin
    from coinseg.teaching import train_student
    from coinseg.posterior import opinion_settings
    from coinseg.config import Settings
    today = False

def stamps():
    kept = {}
    def report(name, done, total, values):
        kept[done] = time.process_time()
    return kept, report

def each(kept, first, last):
    return (kept[last] - kept[first]) / (last - first)

def masks(images):
    found = images[:, 0].numpy() > 0.5
    found[:, :4, :4] = True
    return found, np.ones(len(images))

store = SliceStore(folder / "slices")
base = Settings()
settings = replace(
    base,
    data=replace(base.data, size=store.size),
    classifier=replace(base.classifier, steps=steps),
    coin=replace(base.coin, steps=steps),
    student=replace(base.student, steps=steps),
)
result = {}
kept, report = stamps()
f = train_classifier(store, settings, folder / "f", report)
result["f"] = each(kept, 10, steps)
kept, report = stamps()
train_coin(store, f, settings, folder / "coin", report)
result["COIN"] = each(kept, 10, steps)
kept, report = stamps()
asked = opinion_settings(settings)
train_classifier(store, replace(asked, classifier=replace(asked.classifier, steps=steps)), folder / "opinion", report)
result["ImageNet classifier"] = each(kept, 10, steps)
kept, report = stamps()
slices = TrainingSlices(store, settings.anomaly, 0)
if today:
    train_student([Lesson(slices, masks)], settings, "t", folder / "student", report)
    first = round(2 / 3 * steps)
    result["student"] = 2 / 3 * each(kept, 10, first) + 1 / 3 * each(kept, first, steps)
else:
    settings = replace(settings, student=replace(settings.student, drawn=0.0))
    train_student(slices, masks, lambda images: np.ones(len(images)), settings, "t", folder / "student", report)
    result["student"] = each(kept, 10, steps)
print(json.dumps(result))
"""


def archived(commit: str, folder: Path) -> Path:
    """The sources of a commit."""
    packed = subprocess.run(["git", "archive", commit, "src"], cwd=ROOT, check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as file:
        file.extractall(folder, filter="data")
    return folder


def seconds(code: Path, data: Path, side: int, folder: Path) -> dict[str, float]:
    """CPU seconds of a step of each training by one code."""
    env = os.environ | {"PYTHONPATH": str(code / "src"), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    python = [sys.executable]
    if not (folder / "slices").exists():
        words = ["prepare", str(data), "-o", str(folder), "--data.size", str(side)]
        subprocess.run([*python, "-m", "coinseg", *words], env=env, check=True, capture_output=True)
    with tempfile.TemporaryDirectory(dir=folder) as turn:
        (Path(turn) / "slices").symlink_to(folder / "slices")
        words = [*python, "-c", INSIDE, turn, str(MEASURED)]
        done = subprocess.run(words, env=env, text=True, capture_output=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """The table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--commit", default="7c4cd9d")
    parser.add_argument("--turns", type=int, default=2)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        codes = {"then": archived(given.commit, folder / "code"), "now": ROOT}
        turns: dict[str, list[dict[str, float]]] = {name: [] for name in codes}
        for _ in range(given.turns):
            for name, code in codes.items():
                turns[name].append(seconds(code, given.data.resolve(), given.side, folder / name))
    print(
        f"| training, {given.side} x {given.side} | {given.commit}, ms a step | now | of a run: {given.commit}, s | now | ratio |"
    )
    print("|---|---|---|---|---|---|")
    total = dict.fromkeys(codes, 0.0)
    for part, steps in STEPS.items():
        step = {name: min(turn[part] for turn in found) for name, found in turns.items()}
        whole = {name: step[name] * steps * TIMES[part] for name in codes}
        total = {name: total[name] + whole[name] for name in codes}
        cells = f"{1000 * step['then']:.0f} | {1000 * step['now']:.0f} | {whole['then']:.0f} | {whole['now']:.0f}"
        print(f"| {part}, {TIMES[part]} x {steps} steps | {cells} | {whole['then'] / whole['now']:.2f} |")
    print(f"| together | | | {total['then']:.0f} | {total['now']:.0f} | **{total['then'] / total['now']:.2f}** |")


if __name__ == "__main__":
    main()
