"""What a cohort costs as it grows: listing, preparing, opening, splitting, drawing batches, witnesses, scoring.

    python benchmarks/cohort_scale.py WORK [--cases 10 100 1000 10000] [--slices 100000 1000000] [--scored 500 1000 2000]

Cases are links to one small CT volume, stores of many slices have an index and no images, scored slices are random. Every line is
measured in a process of its own: seconds of one core, and the most memory it held beyond that of Python with PyTorch.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from coinseg.config.schema import Settings

PATIENT_SLICES = 100
"""Used slices of a patient of an index that is made up."""


def timed(work: Callable[[], object], repeat: int = 1) -> float:
    """Seconds of the processor for one call: what else the machine does adds little to them."""
    began = time.process_time()
    for _ in range(repeat):
        work()
    return (time.process_time() - began) / repeat


def settings_of() -> Settings:
    """Small slices, two classes."""
    base = Settings()
    return replace(base, data=replace(base.data, size=64), engine=replace(base.engine, accelerator="cpu", threads=1))


def make_cases(root: Path, count: int) -> Path:
    """`count` links to a volume of 64 x 64 x 10 and a table of labels by scan."""
    import nibabel as nib

    if (root / "labels.csv").exists():
        return root
    root.mkdir(parents=True)
    source = root.parent / "volume.nii.gz"
    nib.save(
        nib.Nifti1Image(np.random.default_rng(0).normal(40, 60, (64, 64, 10)).astype(np.int16), np.diag([1, 1, 3, 1])), source
    )
    lines = ["file,label,patient"]
    for i in range(count):
        (root / f"ct{i:06d}.nii.gz").symlink_to(source)
        lines.append(f"ct{i:06d}.nii.gz,{i % 2},p{i:06d}")
    (root / "labels.csv").write_text("\n".join(lines) + "\n")
    return root


def cohort(work: Path, count: int) -> dict[str, float]:
    """Listing, the key, the checks before a run, and preparing."""
    from coinseg.data.layouts.registry import read_layout
    from coinseg.data.slices.store import SliceStore, bytes_needed, prepare, store_key

    settings, data = settings_of(), make_cases(work / f"cases{count}", count)
    found = {"list": timed(lambda: read_layout(data, settings.data))}
    listed = read_layout(data, settings.data)
    found["key"] = timed(lambda: store_key(listed, settings))
    found["headers"] = timed(lambda: bytes_needed(listed, settings))
    out = work / f"store{count}"
    found["prepare"] = timed(lambda: prepare(listed, settings, out))
    found["open"] = timed(lambda: SliceStore(out))
    return {f"{name}, ms a case": 1e3 * value / count for name, value in found.items()}


def make_rows(slices: int) -> list[dict[str, object]]:
    """Rows of an index: patients of `PATIENT_SLICES`, half of them abnormal as scans."""
    rows = []
    for i in range(slices):
        patient, number = divmod(i, PATIENT_SLICES)
        rows.append({
            "case": f"case{patient:06d}", "patient": f"patient{patient:06d}", "slice": number, "region": 0, "label": patient % 2,
            "weak": patient % 2, "lesion_px": -1, "truth": 0, "top": 0.0, "left": 0.0, "height": 512.0, "width": 512.0,
        })  # fmt: skip
    return rows


def split(work: Path, slices: int) -> dict[str, float]:
    """Splitting the rows of a cohort, three ways; leaves the index for `index`."""
    from coinseg.data.slices.split import split_rows
    from coinseg.data.slices.store import COLUMNS

    rows, settings, found = make_rows(slices), settings_of(), {}
    for way in ("patient", "hash", "slice"):
        of_way = replace(settings, data=replace(settings.data, split_by=way))
        found[f"split by {way}, s"] = timed(lambda chosen=of_way: split_rows(rows, chosen))
    folder = work / f"index{slices}"
    folder.mkdir(parents=True, exist_ok=True)
    sides = split_rows(rows, settings)
    with (folder / "index.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows({**row, "split": int(side)} for row, side in zip(rows, sides, strict=True))
    (folder / "store.json").write_text(json.dumps({"window": [0, 1], "size": 64, "key": "made up"}))
    return found


def index(work: Path, slices: int) -> dict[str, float]:
    """Opening a store, drawing batches (a step of 16, both ways), and choosing witnesses."""
    from coinseg.config.schema import AnomalySettings
    from coinseg.data.slices.dataset import TrainingSlices
    from coinseg.data.slices.store import SliceStore
    from coinseg.training.instance_selection import find_instances

    place = work / f"index{slices}"
    found = {"open, s": timed(lambda: SliceStore(place))}
    store = SliceStore(place)
    training = TrainingSlices(store, AnomalySettings(), 0)
    for balanced, name in ((True, "balanced"), (False, "shuffled")):
        steps = iter(range(10_000))
        found[f"{name} batch, ms"] = 1e3 * timed(lambda b=balanced, s=steps: training.members_of_step(next(s), 16, b), 200)
    p = np.random.default_rng(0).random(len(store))
    found["witnesses, s"] = timed(lambda: find_instances(p, store.index["case"], store.index["label"]))
    found["another split, s"] = timed(lambda: store.with_sides(store.index["split"]))
    return found


def scored(work: Path, slices: int) -> dict[str, float]:
    """Scoring slices of 128 x 128, half of them with a lesion, without the time of explaining them."""
    import torch

    from coinseg.data.slices.dataset import ScoredBatch
    from coinseg.evaluation.evaluate import evaluate
    from coinseg.types import Explanation

    side, rng = 128, np.random.default_rng(0)
    truth = np.zeros((side, side), bool)
    truth[40:60, 40:60] = True

    names = np.array([f"case{i // 10}" for i in range(slices)])
    index = {"case": names, "patient": names, "slice": np.arange(slices) % 10, "region": np.zeros(slices, int)}
    index["label"] = np.arange(slices) % 2

    class Slices:
        store = SimpleNamespace(size=side, index=index)

        def __len__(self) -> int:
            return slices

        def scored(self, members: np.ndarray) -> ScoredBatch:
            image = torch.from_numpy(rng.random((len(members), 1, side, side), np.float32) * 2 - 1)
            label = members % 2
            return ScoredBatch(members, image, label, truth & (label == 1)[:, None, None], np.ones(len(members), bool))

    def explain(batch: ScoredBatch) -> tuple[Explanation, np.ndarray]:
        p = torch.from_numpy(rng.random(len(batch.rows), np.float32))
        refined = rng.random((len(p), side, side)) * 0.2 + 0.5 * batch.truth
        return Explanation(p, torch.from_numpy(refined.astype(np.float32)), batch.image, p), refined

    folder = work / f"scored{slices}"
    return {"scoring, ms a slice": 1e3 * timed(lambda: evaluate(Slices(), explain, 0.2, settings_of(), folder)) / slices}


class Held:
    """The most memory this process holds while it works, in 10^6 bytes: without files that are mapped into it (Linux)."""

    def __init__(self) -> None:
        self.before = self.peak = self.now()
        self.done = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while not self.done.wait(0.01):
            self.peak = max(self.peak, self.now())

    @staticmethod
    def now() -> float:
        status = Path("/proc/self/status").read_text()
        return int(re.search(r"RssAnon:\s+(\d+)", status)[1]) * 1024 / 1e6


PARTS = {"cohort": cohort, "split": split, "index": index, "scored": scored}


def main() -> None:
    """One line for each part and size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--cases", type=int, nargs="*", default=(10, 100, 1000, 10000))
    parser.add_argument("--slices", type=int, nargs="*", default=(100_000, 1_000_000))
    parser.add_argument("--scored", type=int, nargs="*", default=(500, 1000, 2000))
    parser.add_argument("--part", nargs=2, default=None, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.part:
        import coinseg.pipeline.run  # noqa: F401  # what it holds is not of the cohort

        held = Held()
        found = PARTS[given.part[0]](given.work, int(given.part[1]))
        held.done.set()
        print(
            f"{given.part[0]} {given.part[1]}: {held.peak - held.before:.0f} MB more; "
            + "; ".join(f"{k} {v:.3g}" for k, v in found.items()),
            flush=True,
        )
        return
    sizes = {"cohort": given.cases, "split": given.slices, "index": given.slices, "scored": given.scored}
    for part, size in ((part, size) for part, counts in sizes.items() for size in counts):
        subprocess.run([sys.executable, __file__, str(given.work), "--part", part, str(size)], check=True)


if __name__ == "__main__":
    main()
