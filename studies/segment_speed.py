"""How fast `coinseg segment` is with a student, against commit 7c4cd9d in the same run: CPU seconds, one thread, masks compared.

    python studies/segment_speed.py                   makes the model with the code of the commit, some minutes the first time
    python studies/segment_speed.py --turns 5

Two times are taken of each code, in turns: of the whole command, and of the segmentation alone in a process that has loaded the
model. The scans are new ones of the phantom; the model has a student, an ImageNet classifier, a slice HMM and, where it is kept,
PatchCore.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from golden import CACHE, MENDS, REFERENCE, ROOT, checkout, coinseg, digest, environment, git, once
from golden_contents import NOW, volume

TRAINED = "--patients 10 --slices 24 --size 192 --lesions masses --seed 3"
FRESH = "--patients 2 --slices 40 --size 192 --lesions masses --seed 77"
RUN = (
    "run {data} -o {out} --data.lesion kidney_tumor --data.size 96 --classifier.steps 300 --coin.steps 60 --student.steps 40 "
    "--student.trust 0 --student.opinion 40 --student.batch 8 --engine.threads 1 "
    "--engine.accelerator cpu --engine.logger none"
)
SPEED_ONLY = ("0006", "0007")  # mends that make masks sooner; they change the last bits, or the first weights of a training
ALONE = """
import sys, time, torch
torch.set_num_threads(1)
import coinseg
run = coinseg.load(sys.argv[1], accelerator="cpu")
run.segment(sys.argv[2])
times = []
for _ in range(3):
    began = time.process_time()
    run.segment(sys.argv[2])
    times.append(time.process_time() - began)
print(min(times))
"""


def whole(code: Path, scan: Path, model: Path, out: Path) -> float:
    """CPU seconds of the command."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    coinseg(code, f"segment -i {scan} -o {out} --model {model} --accelerator cpu --overwrite", out.parent, {})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def alone(code: Path, scan: Path, model: Path) -> float:
    """CPU seconds of the segmentation in a process that has loaded the model."""
    words = [sys.executable, "-c", ALONE, str(model), str(scan)]
    done = subprocess.run(words, env=environment(code), text=True, capture_output=True, check=True)
    return float(done.stdout.split()[-1])


def main() -> None:
    """Print the medians of both codes and their ratio for each scan."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--turns", type=int, default=3)
    turns = parser.parse_args().turns
    commit = git("rev-parse", "--short=12", f"{REFERENCE}^{{commit}}").decode().strip()
    patches = [patch for patch in sorted(MENDS.glob("*.patch")) if not patch.name.startswith(SPEED_ONLY)]
    then = once(CACHE / f"speed-{commit}" / "code", lambda folder: checkout(folder, commit, patches))
    place = CACHE / f"speed-{commit}" / digest(TRAINED, FRESH, RUN)
    for name, words in (("trained", TRAINED), ("fresh", FRESH)):
        once(place / name, lambda folder, words=words: coinseg(then, f"phantom {folder} --processes 1 {words}", place, {}))
    model = once(place / "model", lambda folder: coinseg(then, RUN, place, {"data": place / "trained", "out": folder}))
    for scan in sorted((place / "fresh").glob("s*/ct.nii.gz")):
        with tempfile.TemporaryDirectory() as folder:
            masks = [Path(folder) / f"{side}.nii.gz" for side in ("then", "now")]
            commands = [
                [whole(code, scan, model, out) for code, out in zip((then, ROOT), masks, strict=True)] for _ in range(turns)
            ]
            bare = [[alone(code, scan, model) for code in (then, ROOT)] for _ in range(turns)]
            first, second = (volume(mask.read_bytes(), NOW) for mask in masks)
        for what, times in (("command", commands), ("segmentation alone", bare)):
            old, new = (median(column) for column in zip(*times, strict=True))
            ratio = median(a / b for a, b in times)
            masks_are = "equal" if first == second else "DIFFERENT"
            print(f"{scan.parent.name} {what:<20} {old:7.2f} s -> {new:7.2f} s   {ratio:.2f} x   masks {masks_are}")


if __name__ == "__main__":
    main()
