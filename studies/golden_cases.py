"""The cases of the golden run: their data, and the commands of each."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np

PHANTOMS = {
    "healthy": "--patients 5 --slices 6 --size 64",
    "masses": "--patients 8 --slices 16 --size 96 --lesions masses --seed 11",
    "scans": "--patients 8 --slices 10 --size 96 --lesions masses --seed 5",
}
"""Cohorts of `coinseg phantom`; the labels of "scans" are made labels of whole scans."""
SMALL = (
    "--coin.width 4 --coin.depth 3 --coin.skips 2 --coin.discriminator_width 4 --coin.discriminator_depth 3 --coin.batch 4 "
    "--classifier.batch 8 --masks.quantile 0.9 --engine.threads 1 --engine.accelerator cpu --engine.tensorboard false"
)
KIDNEYS = "--data.organ kidney_left kidney_right"
ALONE = "--student.steps 0"
BLOBS = (
    f"run {{data}}/healthy -o run {KIDNEYS} --data.roi each --anomaly.kind blob --data.size 32 --coin.steps 40 {ALONE} {SMALL}"
)
FRESH = (
    "segment -i {data}/scans/s0002/ct.nii.gz --organ {data}/scans/s0002/segmentations/kidney_left.nii.gz "
    "{data}/scans/s0002/segmentations/kidney_right.nii.gz"
)


def fresh(model: str, name: str) -> str:
    """A scan that the model has not seen, with all maps there are of it."""
    maps = " ".join(f"--{kind} {name}-{kind}.nii.gz" for kind in ("confidence", "counterfactual", "difference"))
    return f"{FRESH} -o {name}.nii.gz {maps} --model {model}"


CASES: dict[str, list[str]] = {
    "phantom": [
        "phantom made --patients 2 --slices 6 --size 48 --lesions masses --seed 7 --processes 1",
        "inspect {data}/images/labelled --json > inspect.json",
    ],
    # Folders of images: a committee and a student that is taught drawn lesions; a folder is segmented.
    "images": [
        f"run {{data}}/images/labelled -o run --data.size 32 --classifier.steps 50 --classifier.lr 4e-3 --coin.steps 30 "
        "--coin.lr 3e-3 --masks.peak 0.7 --student.steps 4 --student.lr 5e-3 --student.batch 6 --student.trust 0.1 "
        f"--student.opinion 2 --student.novelty 0 {SMALL}",
        "segment -i {data}/images/fresh -o segmented --model {reference}/run --confidence sure",
    ],
    # The thesis' anomaly: COIN alone, its counterfactual of a new scan, its export.
    "blob": [
        f"{BLOBS} --classifier.steps 60",
        fresh("run", "own"),
        "export run -o model",
        fresh("{reference}/model", "exported"),
    ],
    # Labels by slice: committee, student, opinion, novelty, neighbouring slices.
    "student": [
        f"run {{data}}/masses -o run {KIDNEYS} --data.lesion kidney_tumor --data.roi organ --data.size 40 "
        "--data.min_organ_px 8 --seed 1 --classifier.steps 200 --classifier.lr 4e-3 --classifier.threshold 0.4 --coin.steps 60 "
        "--masks.peak 0.7 --student.steps 24 --student.lr 3e-3 --student.batch 4 --student.trust 0 --student.opinion 6 "
        f"--student.drawn 0 --student.novelty 0.9 --student.gate 0.2 {SMALL}",
        "export run -o model",
        fresh("model", "exported"),
        fresh("{reference}/run", "read"),
        "export-nnunet run -o Dataset001_lesion",
    ],
    # Labels of whole scans, in coronal slices of a given spacing: witnesses.
    "scans": [
        f"run {{data}}/scans -o run {KIDNEYS} --data.roi organ --data.axis coronal --data.size 40 --data.spacing 7 "
        "--data.lesion kidney_tumor --classifier.steps 60 --coin.steps 20 --masks.min_ml 1 --masks.keep_3d largest "
        f"{ALONE} {SMALL}",
    ],
    "layercam": [
        f"run {{data}}/images/labelled -o run --method layercam --attribution.layer best --data.size 32 "
        f"--classifier.steps 60 {SMALL}",
    ],
    "singla": [
        f"{BLOBS} --classifier.steps 60 --coin.conditions 2 --coin.regions organ --coin.fusion tanh --coin.cycle 1 --coin.ema 0 "
        "--masks.threshold flip",
    ],
    # ScoreCAM, LayerCAM, RISE, Singla et al. and COIN in both protocols, with figures.
    "tables": [
        "reproduce table2 --data {data}/images/labelled -o tables --seeds 1 --data.size 32 --classifier.steps 60 --coin.steps 20 "
        f"--attribution.masks 40 --attribution.grid 4 {SMALL}",
    ],
}
SHORT = ("phantom", "images")
EXERCISED = {
    "images": [("run/model.json", "student"), ("run/model.json", "parts"), ("run/student/stage.json", "drawn")],
    "student": [
        (f"run/{file}", item)
        for file, item in (("model.json", "student"), ("model.json", "parts"), ("model.json", "parts.slice_hmm.transitions.0.0"))
    ],
    "scans": [("run/witnesses/witnesses.json", "kept")],
    "layercam": [("run/model.json", "layer")],
}
"""What a case is there for: files of the reference and items of them, by its own names, that are not nothing then."""


def write_png(path: Path, pixels: np.ndarray) -> None:
    """A grey picture (rows, columns) uint8."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return len(content).to_bytes(4, "big") + name + content + zlib.crc32(name + content).to_bytes(4, "big")

    rows, columns = pixels.shape
    lines = np.concatenate([np.zeros((rows, 1), np.uint8), pixels], 1).tobytes()
    header = columns.to_bytes(4, "big") + rows.to_bytes(4, "big") + bytes([8, 0, 0, 0, 0])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b""))


def draw_images(folder: Path) -> None:
    """Noise below a bright bar, every second image with a square and its mask, in folders by class; six more in one folder."""
    rng = np.random.default_rng(0)
    for i in range(66):
        image, mask, name = rng.normal(90, 12, (40, 44)), np.zeros((40, 44), np.uint8), f"i{i:02d}.png"
        image[:4] += 140
        place = folder / "labelled" if i < 60 else folder / "fresh"
        if i % 2:
            row, column = rng.integers(6, 26, 2)
            side = rng.integers(6, 13)
            mask[row : row + side, column : column + side] = 255
            image += mask * 0.4
        if i < 60 and i % 2:
            write_png(place / "masks" / name, mask)
        place = place / ("abnormal" if i % 2 else "normal") if i < 60 else place
        write_png(place / name, np.clip(image, 0, 255).astype(np.uint8))


def label_scans(folder: Path) -> None:
    """Put one label for each scan in the place of those by slice."""
    lines = (folder / "labels.csv").read_text().splitlines()[1:]
    label: dict[str, int] = {}
    for case, _, own in (line.split(",") for line in lines):
        label[case] = max(label.get(case, 0), int(own))
    (folder / "labels.csv").write_text("image_id,label\n" + "".join(f"{case},{own}\n" for case, own in label.items()))
