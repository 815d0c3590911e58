"""Folders for tests of the desk: scans with drafts as `segment` leaves them, without a model; and a server of its own process."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from coinseg.data.readers.geometry import Geometry
from coinseg.data.readers.paths import sha256_of
from coinseg.data.readers.volume import read_geometry, write_mask, write_scan
from coinseg.inference.table import measure, told, write_table
from writers import PLAIN, write_nifti, write_series

SHAPE = (12, 40, 48)  # canonical
DICOM = np.diag([-0.8, -0.7, 2.5, 1.0])
FRAME = {"FrameOfReferenceUID": "1.2.3.9", "PatientSex": "F", "StudyTime": "101010", "StudyID": "7", "AccessionNumber": "A1"}


def made_scan(seed: int = 0, shape: tuple[int, int, int] = SHAPE) -> tuple[np.ndarray, np.ndarray]:
    """A soft body in air with a bright ball, int16 HU (slices, H, W), and the ball."""
    rng = np.random.default_rng(seed)
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    scan = np.where(x**2 / 0.8 + y**2 / 0.6 < 1, 40, -1000) + rng.normal(0, 8, shape)
    at = rng.uniform(-0.3, 0.3, 3)
    ball = (z - at[0]) ** 2 / 0.25 + (y - at[1]) ** 2 / 0.06 + (x - at[2]) ** 2 / 0.06 < 1
    return (scan + 70 * ball).astype(np.int16), ball


def stored(canonical: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """A canonical array in the order of a file with this affine."""
    shape = (canonical.shape[2], canonical.shape[1], canonical.shape[0])
    grid = Geometry(np.asarray(affine), shape, _header(shape, affine))
    return np.ascontiguousarray(grid.to_source(canonical))


def _header(shape: tuple[int, ...], affine: np.ndarray) -> bytes:
    import nibabel as nib

    return nib.Nifti1Image(np.zeros(shape, np.int16), affine).header.binaryblock


def masks_folder(
    root: Path, cases: int = 3, dicom: bool = False, images: int = 0, colour: bool = False, confidence: bool = True,
    shape: tuple[int, int, int] = SHAPE,
) -> Path:  # fmt: skip
    """Scans in root/scans, drafts in root/masks with index.json and manifest.json, confidences in root/confidence."""
    scans, masks, sure = (root / name for name in ("scans", "masks", "confidence"))
    for folder in (scans, masks, sure):
        folder.mkdir(parents=True)
    rows: list[dict[str, Any]] = []
    for i in range(cases):
        scan, ball = made_scan(i, shape)
        name = f"s{i:02d}"
        if dicom:
            image, case = write_series(scans / name, scan.transpose(2, 1, 0), DICOM, **FRAME), name
        else:
            image, case = write_nifti(scans / f"{name}.nii.gz", stored(scan, PLAIN), PLAIN), f"{name}.nii.gz"
        geometry, draft = read_geometry(image), ball.copy()
        draft[:, :, : shape[2] // 2] &= i % 2 == 0  # some drafts are half right
        write_mask(masks / f"{name}.nii.gz", draft, geometry)
        if confidence:
            write_scan(sure / f"{name}.nii.gz", np.where(draft, 80, np.where(ball, 45, 5)).astype(np.uint8), geometry)
        facts = told(0.9, None, round(0.3 + 0.2 * i, 2))
        rows.append({"case": case, "mask": f"{name}.nii.gz", "sha256": sha256_of(image)} | facts | measure(draft, geometry))
    for i in range(images):
        rng, name = np.random.default_rng(i), f"p{i:02d}"
        pixels = rng.integers(60, 120, (50, 64, 3) if colour else (50, 64)).astype(np.uint8)
        pixels[10:25, 20 : 40 + i] += 100
        Image.fromarray(pixels).save(scans / f"{name}.png")
        draft = np.zeros((50, 64), bool)
        draft[10:25, 20:40] = True
        Image.fromarray((draft * 255).astype(np.uint8)).save(masks / f"{name}.png")
        if confidence:
            Image.fromarray((draft * 80).astype(np.uint8)).save(sure / f"{name}.png")
        row = {"case": f"{name}.png", "mask": f"{name}.png", "sha256": sha256_of(scans / f"{name}.png")}
        rows.append(row | told(0.8, None, 0.7) | measure(draft[None], None))
    write_table(masks, rows)
    manifest = {"kind": "segment", "source": str(scans), "model": {"path": str(root / "model")}, "outputs": {}}
    (masks / "manifest.json").write_text(json.dumps(manifest))
    return masks


@dataclass
class Server:
    """`coinseg review` in a process of its own; `address` has the token."""

    process: subprocess.Popen[str]
    address: str

    @property
    def base(self) -> str:
        return self.address.split("#")[0].rstrip("/")

    @property
    def token(self) -> str:
        return self.address.split("token=")[1]


def start_server(folder: Path, *words: object, port: int = 0) -> Server:
    """Start it and wait until it has printed its address."""
    command = [sys.executable, "-m", "coinseg", "review", str(folder), "--no-browser", "--port", str(port), *map(str, words)]
    environ = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environ)
    assert process.stdout is not None
    for line in process.stdout:
        if found := re.search(r"http://\S+", line):
            time.sleep(0.2)
            return Server(process, found[0])
    raise AssertionError(f"the server ended with {process.wait()}")
