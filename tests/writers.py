"""What tests write: scans in every format, DICOM series with a patient in them, broken files, a run nobody trained."""

from __future__ import annotations

import gzip
import itertools
import struct
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK as sitk
import torch
from PIL import Image
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, generate_uid
from pydicom.valuerep import DSfloat
from safetensors.torch import save_file

from coinseg.config.schema import Settings
from coinseg.data.slices.channels import GREY
from coinseg.data.slices.intensity import Window
from coinseg.data.slices.trained_on import TrainedOn
from coinseg.explain.counterfactual.generator import build_generator
from coinseg.inference.checkpoint import save
from coinseg.inference.classes import ClassPredictors
from coinseg.inference.explainer import Explainer
from coinseg.inference.predictor import Predictor, Preparation
from coinseg.networks.classes import generator_of, logit_of
from coinseg.networks.classifier import build
from coinseg.runtime.devices import choose_device
from conftest import tiny_settings

ORIENTATIONS = list(itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)))
TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def affine_of(order: tuple[int, ...], flips: tuple[int, ...], spacing: tuple[float, ...], angle: float = 0.0) -> np.ndarray:
    """Axes permuted and flipped (left-handed too), then turned about two axes by `angle`."""
    axes = np.zeros((3, 3))
    for i, world in enumerate(order):
        axes[world, i] = flips[i] * spacing[i]
    c, s = np.cos(angle), np.sin(angle)
    turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = turn @ axes, (5.0, -7.0, 11.0)
    return affine


PLAIN = affine_of((0, 1, 2), (1, 1, 1), (0.8, 0.7, 2.5))


def scan_of(shape: tuple[int, int, int] = (6, 5, 4), seed: int = 0) -> np.ndarray:
    """Random HU (columns, rows, slices), half of those above -500 below 300 as in CT."""
    return np.random.default_rng(seed).integers(-1024, 500, shape).astype(np.int16)


def numbers(values: Any) -> list[DSfloat]:
    return [DSfloat(float(value), auto_format=True) for value in values]


def header(series: str = "1.2.3.4", number: int = 3, **changes: Any) -> Dataset:
    """The tags every object here has, the patient's among them."""
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, generate_uid()
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.StudyDate = "SECRETNAME^ANNA", "ID-998877", "19620304", "20130405"
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SeriesNumber = "1.2.3", series, number
    ds.SeriesDescription, ds.Modality = "Abdomen venous", "CT"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 0
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 16, 15
    for name, value in changes.items():
        setattr(ds, name, value)
    return ds


def save_dicom(ds: Dataset, path: Path, syntax: UID = ExplicitVRLittleEndian) -> Path:
    """Write an object; a compressed syntax is encoded from little endian."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian if syntax.is_compressed else syntax
    if syntax.is_compressed:
        ds.compress(syntax, generate_instance_uid=False)
    ds.save_as(path, enforce_file_format=True)
    return path


def slices_of(array: np.ndarray, affine: np.ndarray, signed: bool = False, **changes: Any) -> list[Dataset]:
    """One object for each slice of (columns, rows, slices) HU on a RAS+ affine with orthogonal axes."""
    lps = TO_LPS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    found = []
    for z in range(array.shape[2]):
        ds = header(**changes)
        ds.Columns, ds.Rows = array.shape[:2]
        ds.ImageOrientationPatient = numbers((lps[:3, :2] / spacing[:2]).T.ravel())
        ds.ImagePositionPatient = numbers(lps[:3, 3] + z * lps[:3, 2])
        ds.PixelSpacing, ds.SliceThickness = numbers(spacing[[1, 0]]), DSfloat(float(spacing[2]), auto_format=True)
        ds.RescaleSlope, ds.RescaleIntercept = 1, 0 if signed else -1024
        ds.PixelRepresentation = int(signed)
        pixels = array[:, :, z].T.astype(np.int64) - (0 if signed else -1024)
        ds.PixelData = pixels.astype("<i2" if signed else "<u2").tobytes()
        found.append(ds)
    return found


def write_series(
    folder: Path, array: np.ndarray, affine: np.ndarray = PLAIN, syntax: UID = ExplicitVRLittleEndian,
    edit: Callable[[list[Dataset]], object] | None = None, suffix: str = ".dcm", **changes: Any,
) -> Path:  # fmt: skip
    """Write a series with shuffled names."""
    found = slices_of(array, affine, **changes)
    if edit:
        edit(found)
    names = np.random.default_rng(1).permutation(1000)[: len(found)]
    for name, ds in zip(names, found, strict=True):
        save_dicom(ds, folder / f"IM{name}{suffix}", syntax)
    return folder


def write_itk(path: Path, array: np.ndarray, affine: np.ndarray) -> Path:
    lps = TO_LPS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.T))
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    sitk.WriteImage(image, str(path), useCompression=path.suffix != ".mhd")
    return path


def write_nifti(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> Path:
    nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
    return path


def write_as(folder: Path, suffix: str, array: np.ndarray, affine: np.ndarray) -> Path:
    """The same scan in one of the formats."""
    if suffix == "dicom":
        return write_series(folder / f"series{len(list(folder.iterdir()))}", array, affine)
    path = folder / f"scan{suffix}"
    return write_nifti(path, array, affine) if suffix.startswith(".nii") else write_itk(path, array, affine)


def zipped(folder: Path, archive: Path) -> Path:
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in sorted(folder.rglob("*")):
            file.write(path, f"{folder.name}/{path.relative_to(folder).as_posix()}")
    return archive


def broken(folder: Path, kind: str) -> Path:
    """x.nii.gz in a folder, wrong in one way (see `test_volume`)."""
    path = folder / "x.nii.gz"
    array = np.random.default_rng(0).integers(-500, 500, (20, 20, 20)).astype(np.int16)
    plain = bytearray(nib.Nifti1Image(array, np.eye(4)).to_bytes())
    packed = gzip.compress(bytes(plain))
    huge = nib.Nifti1Header()
    huge.set_data_dtype(np.int16)
    huge.set_data_shape((30000, 30000, 30000))
    huge["vox_offset"] = 352
    flat = plain.copy()
    flat[280:296] = struct.pack("<4f", 0, 0, 0, 0)
    steep = plain.copy()
    steep[284:288] = struct.pack("<f", 1e30)
    content = {
        "half": packed[: len(packed) // 2],
        "empty": b"",
        "no gzip": b"hello" * 200,
        "huge": gzip.compress(huge.binaryblock + b"\0" * 100),
        "no axis": gzip.compress(bytes(flat)),
        "lost axis": gzip.compress(bytes(steep)),
        "checksum": packed[:-8] + bytes([packed[-8] ^ 255]) + packed[-7:],
        "tail": packed[:-4],
    }
    arrays: dict[str, np.ndarray] = {
        "4-D": np.zeros((3, 3, 3, 2), np.int16),
        "2-D": np.zeros((3, 3), np.int16),
        "nan": np.full((3, 3, 3), np.nan, np.float32),
        "inf": np.full((3, 3, 3), np.inf, np.float32),
        "complex": np.zeros((3, 3, 3), np.complex64),
    }
    if kind in content:
        path.write_bytes(content[kind])
    elif kind in arrays:
        write_nifti(path, arrays[kind])
    return path


def make_run(
    root: Path, settings: Settings | None = None, kind: str = "hu", trained_on: TrainedOn | None = None,
    classes: Sequence[str] = ("",), channels: Sequence[str] = GREY,
) -> Path:  # fmt: skip
    """A run folder as training leaves it, with networks that nobody trained: f calls everything abnormal."""
    settings, many = settings or tiny_settings(), len(classes)
    torch.manual_seed(0)
    f = build(replace(settings.classifier, weights=None), len(channels), many)
    generator = build_generator(settings.coin, len(channels), many)
    torch.nn.init.normal_(generator.head[-1].weight, std=0.2)
    f.network.head.bias.data.fill_(3.0)
    window = Window(-160.0, 240.0) if kind == "hu" else Window(0.0, 65535.0)
    for embedding in (module for module in generator.modules() if isinstance(module, torch.nn.Embedding)):
        torch.nn.init.normal_(embedding.weight, 1.0, 0.5)  # each class paints something else

    def of_class(number: int) -> Predictor:
        networks = logit_of(f, number, many), generator_of(generator, number, many)
        explainer = Explainer(settings, *networks, choose_device(settings.engine), channels=len(channels))
        return Predictor.of(explainer, Preparation(kind, window, False, trained_on, tuple(channels)), 0.05)

    for name, module in (("classifier/model", f), ("coin/generator", generator)):
        (root / name).parent.mkdir(parents=True)
        save_file({k: v.contiguous() for k, v in module.state_dict().items()}, root / f"{name}.safetensors")
    save(ClassPredictors({name: of_class(i) for i, name in enumerate(classes)}) if many > 1 else of_class(0), root)
    return root


def make_scan(path: Path, shape: tuple[int, int, int] = (40, 44, 3), seed: int = 0) -> Path:
    """A CT volume on an oblique, flipped grid."""
    hu = np.random.default_rng(seed).normal(40, 60, shape).astype(np.int16)
    turn = np.cos(0.2), np.sin(0.2)
    affine = np.array([[-0.7 * turn[0], 0, 0.2, 30], [0, 0.7, 0, -20], [0.14, 0, 2.5 * turn[0], 7], [0, 0, 0, 1]])
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(hu, affine), path)
    return path


_PIXELS = np.random.default_rng(0)


def photo(path: Path) -> Path:
    """Write a grey image (24, 20) of noise, another one every time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(_PIXELS.integers(20, 230, (24, 20), dtype=np.uint8)).save(path)
    return path


def mask_of(path: Path, empty: bool = False) -> Path:
    """Write a mask (24, 20) of 0 and 255 with a rectangle in it, or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((24, 20), np.uint8)
    pixels[4:9, 5:11] = 0 if empty else 255
    Image.fromarray(pixels).save(path)
    return path
