"""A run on CT that is scaled by percentiles, asked about the same scans as people store them: which are named?

    python studies/grey_values.py WORK

Made scans: a body of 40 HU in air with a square of 150 HU more. Prints a row for each way of storing them; the results are in
docs/research/grey-values.md.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import nibabel as nib
import numpy as np

from coinseg.cli import main as cli

SHAPE, AFFINE = (6, 40, 44), np.diag([-0.8, -0.8, 2.5, 1.0])
SHORT = [
    "--data.size", "32", "--classifier.steps", "80", "--classifier.batch", "8", "--coin.width", "8", "--coin.depth", "3",
    "--coin.skips", "1", "--coin.steps", "40", "--coin.batch", "4", "--student.steps", "0", "--engine.accelerator", "cpu",
]  # fmt: skip
STORED = {
    "HU": lambda hu: hu, "HU + 1024": lambda hu: hu + 1024, "HU cut to -160..240": lambda hu: np.clip(hu, -160, 240),
    "8 bits of -1024..300": lambda hu: bytes_of(hu, -1024, 300), "8 bits of -160..240": lambda hu: bytes_of(hu, -160, 240),
    "8 bits of -1350..150": lambda hu: bytes_of(hu, -1350, 150), "8 bits of -450..1050": lambda hu: bytes_of(hu, -450, 1050),
    "the same of -160..240, inverted": lambda hu: 255 - bytes_of(hu, -160, 240),
    "0..1 of -160..240": lambda hu: (np.clip(hu, -160, 240) + 160) / np.float32(400),
}  # fmt: skip


def bytes_of(hu: np.ndarray, low: int, high: int) -> np.ndarray:
    """A window as 8 bits."""
    return np.interp(hu, (low, high), (0, 255)).astype(np.uint8)


def scan(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """HU (slices, rows, columns), and which slices are abnormal."""
    rng = np.random.default_rng([7, seed])
    _, y, x = np.indices(SHAPE)
    body = ((y - SHAPE[1] / 2) / (SHAPE[1] * 0.42)) ** 2 + ((x - SHAPE[2] / 2) / (SHAPE[2] * 0.42)) ** 2 < 1
    hu = np.where(body, rng.normal(40, 12, SHAPE), rng.normal(-1000, 8, SHAPE))
    row, column = rng.integers(12, SHAPE[1] - 22), rng.integers(12, SHAPE[2] - 22)
    hu[2:4, row : row + 10, column : column + 10] += 150
    return hu.round().astype(np.int16), np.isin(np.arange(SHAPE[0]), (2, 3))


def save(path: Path, values: np.ndarray) -> None:
    """A canonical scan as NIfTI."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.ascontiguousarray(values.T), AFFINE), path)


def main(work: Path) -> None:
    """Train, segment, print."""
    rows = ["file,label,patient,slice"]
    for i in range(12):
        hu, abnormal = scan(i)
        save(work / "data" / f"c{i}.nii.gz", hu)
        rows += [f"c{i}.nii.gz,{int(label)},p{i},{z}" for z, label in enumerate(abnormal)]
    (work / "data" / "labels.csv").write_text("\n".join(rows) + "\n")
    cli.main(["run", str(work / "data"), "-o", str(work / "run"), "--data.intensity", "percentile", *SHORT])
    for i in (50, 51):
        for name, stored in STORED.items():
            save(work / "new" / f"{name} {i}.nii.gz", stored(scan(i)[0]))
    cli.main(["segment", "-i", str(work / "new"), "-o", str(work / "masks"), "--model", str(work / "run")])
    with (work / "masks" / "index.csv").open() as file:
        for row in csv.DictReader(file):
            print(f"| {row['case'].removesuffix('.nii.gz')} | {row['distance']} | {row['doubts'] or 'nothing'} |")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
