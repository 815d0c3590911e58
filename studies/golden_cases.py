"""The cases of the golden run: their data, and the commands of each."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np

PHANTOMS = {
    "healthy": "--patients 5 --slices 6 --size 64",
    "masses": "--patients 10 --slices 20 --size 96 --lesions masses --seed 3",
    "scans": "--patients 8 --slices 8 --size 64 --lesions masses --seed 1",
}
"""Cohorts of `coinseg phantom`; the labels of "scans" are made labels of whole scans."""
SMALL = (
    "--coin.width 4 --coin.depth 3 --coin.skips 2 --coin.discriminator_width 4 --coin.discriminator_depth 3 --coin.batch 4 "
    "--classifier.batch 8 --engine.threads 1 --engine.accelerator cpu --engine.tensorboard false"
)
NEW = "{data}/healthy/s0001"
BLOB = f"run {{data}}/healthy -o run --data.organ kidney_left kidney_right --data.roi each --anomaly.kind blob --data.size 32 {SMALL} "
CASES: dict[str, list[str]] = {
    "phantom": [
        "phantom made --patients 2 --slices 6 --size 48 --lesions masses --seed 7 --processes 1",
        "inspect {data}/masses --json --data.organ kidney_left --data.lesion kidney_tumor > inspect.json",
    ],
    "blob": [BLOB + "--classifier.steps 60 --coin.steps 40 --student.steps 0"],
    "images": [
        f"run {{data}}/images -o run --data.size 32 {SMALL} --classifier.steps 60 --coin.steps 40 --student.steps 0",
        "segment -i {data}/fresh_images -o segmented --model {reference}/run --confidence sure",
    ],
}
SHORT = ("phantom", "images")


def write_png(path: Path, pixels: np.ndarray) -> None:
    """A grey picture (rows, columns) uint8."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return len(content).to_bytes(4, "big") + name + content + zlib.crc32(name + content).to_bytes(4, "big")

    rows, columns = pixels.shape
    lines = np.concatenate([np.zeros((rows, 1), np.uint8), pixels], 1).tobytes()
    header = columns.to_bytes(4, "big") + rows.to_bytes(4, "big") + bytes([8, 0, 0, 0, 0])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b""))


def images(folder: Path, fresh: Path) -> None:
    """Noise, every second one with a bright square and its mask, in folders by class; and six more in one folder."""
    rng = np.random.default_rng(0)
    for i in range(54):
        image, mask, new = rng.normal(90, 12, (40, 44)), np.zeros((40, 44), np.uint8), i >= 48
        if i % 2:
            row, column = rng.integers(2, 26, 2)
            side = rng.integers(6, 13)
            mask[row : row + side, column : column + side] = 255
            image += mask * 0.4
            if not new:
                write_png(folder / "masks" / f"i{i:02d}.png", mask)
        place = fresh if new else folder / ("abnormal" if i % 2 else "normal")
        write_png(place / f"i{i:02d}.png", np.clip(image, 0, 255).astype(np.uint8))


def labels_of_scans(folder: Path) -> None:
    """Put one label for each scan in the place of those by slice."""
    lines = (folder / "labels.csv").read_text().splitlines()[1:]
    label: dict[str, int] = {}
    for case, _, own in (line.split(",") for line in lines):
        label[case] = max(label.get(case, 0), int(own))
    (folder / "labels.csv").write_text("image_id,label\n" + "".join(f"{case},{own}\n" for case, own in label.items()))
