"""Peak memory and seconds of `coinseg segment` on one large scan, as a user starts it: a process of its own.

    python benchmarks/segment_memory.py WORK [--shape 512 512 600] [--options --masks...]

WORK is a folder for the scans and the run (about 3 GB, used again by the next call): a body with noise, so that it compresses
badly, as int16 .nii.gz and as float32 .nii (with fractions of HU), written slice by slice; and a tiny run, 64 x 64, a few
steps, whose f calls every slice abnormal and whose masks cover much of the body, the largest load possible: every slice is
inpainted and every mask has 3-D components. Every line is one process: its peak resident memory ("maximum resident set size" of
`/usr/bin/time -v`) in 10^6 bytes, its wall seconds, and the voxels of its mask.

Linux; needs nothing but coinseg.
"""

from __future__ import annotations

import argparse
import gzip
import os
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np

MAPS = {
    "mask": [],
    "mask, counterfactual": ["--counterfactual", "counterfactual.nii.gz"],
    "mask, difference": ["--difference", "difference.nii.gz"],
    "mask, both maps": ["--counterfactual", "counterfactual.nii.gz", "--difference", "difference.nii.gz"],
}


def make_scan(path: Path, shape: tuple[int, int, int], dtype: type) -> Path:
    """An elliptic body of 40 HU and noise in air, with bright balls, voxels of 0.75 x 0.75 x 1 mm, written slice by slice."""
    if path.exists():
        return path
    header = nib.Nifti1Header()
    header.set_data_dtype(dtype)
    header.set_data_shape(shape)
    affine = np.diag([-0.75, -0.75, 1.0, 1.0])
    header.set_sform(affine, 1)
    header.set_qform(affine, 1)
    header.set_xyzt_units("mm")
    header["vox_offset"], header["magic"] = 352, b"n+1"
    x, y = (np.linspace(-1, 1, side) for side in shape[:2])
    body = (x[:, None] / 0.9) ** 2 + (y[None] / 0.7) ** 2 < 1
    part = path.with_name(f"part-{path.name}")
    with gzip.open(part, "wb", 1) if path.name.endswith(".gz") else part.open("wb") as file:
        file.write(header.binaryblock + bytes(4))
        for z in range(shape[2]):
            rng = np.random.default_rng(z)
            ball = (x[:, None] - 0.3) ** 2 + (y[None] - 0.1) ** 2 + ((z % 100 - 50) / 250) ** 2 < 0.02
            slice_ = np.where(body, 40 + 150 * ball + rng.normal(0, 20, shape[:2]), -1000.0)
            file.write(np.asfortranarray(slice_.astype(dtype)).tobytes(order="F"))
    return part.rename(path)


def coinseg(*words: object) -> tuple[float, float]:
    """Run one command; returns its peak resident memory in 10^6 bytes and its wall seconds."""
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "coinseg", *map(str, words)], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"coinseg {' '.join(map(str, words))} failed")
    return usage.ru_maxrss * 1024 / 1e6, time.perf_counter() - began


def make_run(work: Path, options: list[str]) -> Path:
    """A run of a few steps on a made-up cohort."""
    cohort, run = work / "cohort", work / "run"
    coinseg("phantom", cohort, "--patients", 3, "--slices", 8, "--size", 64, "--processes", 1)
    settings = (
        "--data.size 64 --anomaly.kind blob --classifier.steps 20 --classifier.threshold 0 --coin.steps 20 --engine.threads 1"
    )
    settings += " --masks.threshold 0.005 --masks.peak 0 --masks.keep all --masks.min_ml 0.05 --engine.logger none"
    coinseg("run", cohort, "-o", run, *settings.split(), "--overwrite", *options)
    return run


def main() -> None:
    """Make what is missing, then one line for each scan and choice of maps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--shape", type=int, nargs=3, default=(512, 512, 600), metavar=("X", "Y", "SLICES"))
    parser.add_argument("--options", nargs=argparse.REMAINDER, default=[], help="options of `coinseg run` for the model")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    shape, work = tuple(given.shape), given.work
    name = "x".join(map(str, shape))
    scans = [
        make_scan(work / f"int16-{name}.nii.gz", shape, np.int16),
        make_scan(work / f"float32-{name}.nii", shape, np.float32),
    ]
    run = make_run(work, given.options)
    for scan in scans:
        for what, maps in MAPS.items():
            places = [str(work / word) if word.endswith(".nii.gz") else word for word in maps]
            peak, seconds = coinseg(
                "segment", "-i", scan, "-o", work / "mask.nii.gz", "--model", run, "--overwrite", "--accelerator", "cpu", *places
            )
            marked = np.count_nonzero(np.asarray(nib.load(work / "mask.nii.gz").dataobj))
            print(f"{scan.name}  {what}: {peak:.0f} MB, {seconds:.0f} s, {marked} voxels marked", flush=True)


if __name__ == "__main__":
    main()
