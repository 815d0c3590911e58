"""A tiny valid data set in every layout, each with both classes and four patients or more."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image

from coinseg.config.parsing import settings_from
from coinseg.config.schema import Settings
from conftest import write_images
from writers import write_series

LPS = np.diag([-0.8, -0.8, 2.5, 1.0])
"""The affine of an array stored as (column, row, slice), as a radiologist sees it."""
SHAPE = (4, 16, 18)
CASES = 4


def labelled(lesion: bool = True) -> np.ndarray:
    """A label map (slices, rows, columns): the organ, 1, in every slice, and in slices 1 and 2 a lesion, 2."""
    found = np.zeros(SHAPE, np.uint8)
    found[:, 4:12, 4:14] = 1
    if lesion:
        found[1:3, 6:10, 6:10] = 2
    return found


def hounsfield(labels: np.ndarray, seed: int = 0) -> np.ndarray:
    """A scan (slices, rows, columns) in HU of which the labels are true."""
    noise = np.random.default_rng(seed).normal(0, 10, labels.shape)
    return (noise + np.choose(labels, (-160, 40, 140))).astype(np.int16)


def save(path: Path, slices: np.ndarray, affine: np.ndarray = LPS) -> Path:
    """Canonical (slices, rows, columns) as a file whose array is (column, row, slice)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(slices.T, affine), path)
    return path


def text(path: Path, content: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(content.encode(encoding))
    return path


def totalsegmentator(root: Path) -> Path:
    for i in range(CASES):
        labels, folder = labelled(), root / f"s{i}"
        save(folder / "ct.nii.gz", hounsfield(labels, i))
        save(folder / "segmentations/kidney_left.nii.gz", (labels > 0).astype(np.uint8))
        save(folder / "segmentations/tumor.nii.gz", (labels == 2).astype(np.uint8))
        text(folder / "segmentations/statistics.json", "{}")
    rows = "".join(f"s{i};61;m;ct abdomen-pelvis\r\n" for i in range(CASES))
    text(root / "meta.csv", f"image_id;age;gender;study_type\r\n{rows}", "utf-8-sig")
    rows = "".join(f"s{i},{z},{int(z in (1, 2))}\n" for i in range(CASES) for z in range(SHAPE[0]))
    text(root / "labels.csv", f"image_id,slice,label\n{rows}")
    return root


def nnunet(root: Path) -> Path:
    for i in range(CASES):
        save(root / f"imagesTr/c{i}_0000.nii.gz", hounsfield(labelled(), i))
        save(root / f"labelsTr/c{i}.nii.gz", labelled())
    about = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "kidney": 1, "malignant": 2}}
    text(root / "dataset.json", json.dumps(about | {"numTraining": CASES, "file_ending": ".nii.gz"}))
    return root


def decathlon(root: Path) -> Path:
    """As Task03_Liver: labels stored as floats, and what macOS leaves beside the files."""
    for i in range(CASES):
        save(root / f"imagesTr/liver_{i}.nii.gz", hounsfield(labelled(), i))
        save(root / f"labelsTr/liver_{i}.nii.gz", labelled().astype(np.float32))
        (root / f"imagesTr/._liver_{i}.nii.gz").write_bytes(b"\0\5\x16\7")
    save(root / "imagesTs/liver_9.nii.gz", hounsfield(labelled()))
    listed = [{"image": f"./imagesTr/liver_{i}.nii.gz", "label": f"./labelsTr/liver_{i}.nii.gz"} for i in range(CASES)]
    about = {"name": "Liver", "tensorImageSize": "3D", "modality": {"0": "CT"}, "numTraining": CASES, "numTest": 1}
    about |= {
        "labels": {"0": "background", "1": "liver", "2": "cancer"},
        "training": listed,
        "test": ["./imagesTs/liver_9.nii.gz"],
    }
    text(root / "dataset.json", json.dumps(about))
    return root


def kits(root: Path) -> Path:
    """Stored as (slice, row, column) from the top, as the challenges do."""
    affine = np.array([[0, 0, -0.8, 0], [0, -0.8, 0, 0], [-2.5, 0, 0, 0], [0, 0, 0, 1]])
    for i in range(CASES):
        folder = root / f"case_{i:05}"
        save(folder / "imaging.nii.gz", hounsfield(labelled(), i)[::-1].T, affine)
        save(folder / "segmentation.nii.gz", labelled()[::-1].T, affine)
    return root


def table(root: Path) -> Path:
    """A CSV of images of two sizes, two of each patient, with masks beside it."""
    images = write_images(root / "made", patients=4, each=2)
    for path in sorted(images.glob("*/i0[2-3].png")):
        Image.open(path).crop((0, 0, 40, 40)).save(path)
    rows = [f"{path.relative_to(root).as_posix()},{int(path.parent.name == 'abnormal')},p{int(path.stem[1:]) // 2}" for path in
            sorted([*images.glob("normal/*"), *images.glob("abnormal/*")])]  # fmt: skip
    text(root / "labels.csv", "\n".join(["file,label,patient", *rows]) + "\n")
    (images / "masks").rename(root / "masks")
    (root / "masks" / "made").mkdir()
    (root / "masks" / "made" / "abnormal").mkdir()
    for path in sorted((root / "masks").glob("*.png")):
        path.rename(root / "masks" / "made" / "abnormal" / path.name)
    return root


def folders(root: Path) -> Path:
    return write_images(root, patients=2)


def dicom(root: Path) -> Path:
    """One label for each study, in a folder of its own."""
    for i in range(CASES):
        name, number = f"p{i}", f"ID-{i}998877"
        scan = hounsfield(labelled(i % 2 == 1), i).T
        write_series(root / name, scan, LPS, series=f"1.2.3.{i}", StudyInstanceUID=f"1.2.826.0.1.{i}", PatientID=number)
    save(root / "masks/p1.nii.gz", (labelled() == 2).astype(np.uint8))
    save(root / "masks/p3.nii.gz", (labelled() == 2).astype(np.uint8))
    text(root / "labels.csv", "case,label\n" + "".join(f"p{i},{i % 2}\n" for i in range(CASES)))
    return root


def sequences(root: Path) -> Path:
    """A folder for each scan, as BraTS has them."""
    for i in range(CASES):
        scan = hounsfield(labelled(), i)
        save(root / f"p{i}/p{i}_flair.nii.gz", scan)
        save(root / f"p{i}/p{i}_t1.nii.gz", (2 * scan).astype(np.int16))
        save(root / f"p{i}/p{i}_seg.nii.gz", (labelled() == 2).astype(np.uint8))
    return root


@dataclass(frozen=True)
class Example:
    """How a data set is made, and the settings of `data` that it is read with."""

    make: Callable[[Path], Path]
    data: Mapping[str, list[str]]

    def settings(self, **changes: object) -> Settings:
        return settings_from({"data": {"size": 16, **self.data, **changes}})

    def words(self) -> list[str]:
        """The settings as words of a command."""
        return [word for name, values in self.data.items() for word in (f"--data.{name}", *values)]


EXAMPLES = {
    "totalsegmentator": Example(totalsegmentator, {"organ": ["kidney_left"], "lesion": ["tumor"]}),
    "nnunet": Example(nnunet, {"organ": ["kidney+malignant"], "lesion": ["malignant"]}),
    "decathlon": Example(decathlon, {"organ": ["liver+cancer"], "lesion": ["cancer"]}),
    "kits": Example(kits, {"organ": ["kidney+tumor"], "lesion": ["tumor"]}),
    "csv": Example(table, {}),
    "folders": Example(folders, {}),
    "dicom": Example(dicom, {}),
    "sequences": Example(sequences, {"lesion": ["ncr"]}),
}


SLICES = 5
LESION = (1, 2)
"""Slices of an abnormal scan that show a bright square."""


def scans(root: Path, patients: int = 8, masks: bool = False) -> Path:
    """CT volumes as NIfTI and labels.csv with one label per scan; every other patient is abnormal."""
    rng = np.random.default_rng(0)
    root.mkdir(parents=True)
    lines = ["file,label,patient" + (",mask" if masks else "")]
    for i in range(patients):
        scan = rng.normal(40, 10, (36, 36, SLICES))
        scan[0, 0] = -1000  # air
        mask = np.zeros(scan.shape, np.uint8)
        if i % 2:
            mask[10:22, 12:24, list(LESION)] = 1
        nib.save(nib.Nifti1Image((scan + 150 * mask).astype(np.int16), np.diag([1, 1, 3, 1])), root / f"ct{i}.nii.gz")
        nib.save(nib.Nifti1Image(mask, np.diag([1, 1, 3, 1])), root / f"m{i}.nii.gz")
        lines.append(f"ct{i}.nii.gz,{i % 2},p{i}" + (f",m{i}.nii.gz" if masks else ""))
    (root / "labels.csv").write_text("\n".join(lines) + "\n")
    return root
