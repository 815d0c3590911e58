"""At least 60 kinds of bad input, each made and given to a command; `python tests/bad_inputs.py` writes docs/robustness.md from
them.

A row makes its input in an empty folder and returns the words of a command, which runs in that folder. `test_robustness`
holds the
document to what is said.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import pickle
import re
import shlex
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np
import tifffile
import torch
from PIL import Image
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import MPEG2MPML, JPEG2000Lossless
from safetensors.torch import load_file, save_file

from broken_layouts import ROWS, Refused
from coinseg.cli import main as cli
from coinseg.data.slices.trained_on import TrainedOn
from coinseg.review.kept.records import CaseRecord
from coinseg.review.kept.store import Store
from conftest import tiny_settings
from examples import EXAMPLES
from writers import (
    PLAIN,
    broken,
    header,
    make_run,
    make_scan,
    save_dicom,
    scan_of,
    slices_of,
    write_itk,
    write_nifti,
    write_series,
    zipped,
)

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "robustness.md"
HINT = "`python tests/bad_inputs.py` writes docs/robustness.md anew; read what changed before you commit it"
Words = list[str]


@dataclass(frozen=True)
class Bad:
    """One kind of bad input.

    Args:
        section: of the document.
        what: is wrong, in words.
        make: makes it in the folder that is given and returns the words of a command.
        varies: a library's words stand in brackets in the line; they are left out, as they change with its versions.
    """

    section: str
    what: str
    make: Callable[[Path], Words]
    varies: bool = False


class Evil:
    """Unpickling it writes a file."""

    def __reduce__(self) -> tuple[object, ...]:
        return (open, ("PWNED", "w"))


# --- How bad inputs are made --------------------------------------------------------------------------------------


def segment(file: str, model: str = "model") -> Words:
    return [
        "segment",
        "-i",
        file,
        "-o",
        f"mask{'.png' if file.endswith(('.png', '.tif', '.jpg', '.bmp')) else '.nii.gz'}",
        "--model",
        model,
    ]


def given(name: str, content: bytes, kind: str = "hu") -> Callable[[Path], Words]:
    """A file with this content, to be segmented."""

    def make(root: Path) -> Words:
        make_run(root / "model", kind=kind)
        (root / name).write_bytes(content)
        return segment(name)

    return make


def nifti(change: Callable[[bytearray], object], suffix: str = ".nii", behind: int = 0) -> Callable[[Path], Words]:
    """A NIfTI file whose bytes are changed."""

    def make(root: Path) -> Words:
        content = bytearray(nib.Nifti1Image(scan_of((8, 8, 8)), PLAIN).to_bytes())
        change(content)
        content += bytes(behind)
        return given(f"scan{suffix}", gzip.compress(bytes(content)) if suffix.endswith(".gz") else bytes(content))(root)

    return make


def foreign(voxels: np.ndarray, trained_on: TrainedOn | None = None) -> Callable[[Path], Words]:
    """An intact scan of another kind than what the run was trained on."""

    def make(root: Path) -> Words:
        make_run(root / "model", kind="percentile" if trained_on else "hu", trained_on=trained_on)
        nib.save(nib.Nifti1Image(voxels, PLAIN), root / "scan.nii")
        return segment("scan.nii")

    return make


def put(offset: int, kind: str, *values: float) -> Callable[[bytearray], object]:
    return lambda content: struct.pack_into(kind, content, offset, *values)


def spoilt(kind: str) -> Callable[[Path], Words]:
    """x.nii.gz as `writers.broken` makes it."""

    def make(root: Path) -> Words:
        make_run(root / "model")
        broken(root, kind)
        return segment("x.nii.gz")

    return make


def itk(suffix: str, old: bytes, new: bytes) -> Callable[[Path], Words]:
    """An NRRD or MetaImage file with other words in its header."""

    def make(root: Path) -> Words:
        make_run(root / "model")
        path = write_itk(root / f"scan{suffix}", scan_of(), PLAIN)
        content = path.read_bytes()
        assert old in content
        path.write_bytes(content.replace(old, new, 1))
        return segment(path.name)

    return make


def beyond(suffix: str) -> Callable[[Path], Words]:
    """Finite numbers in double precision that are none in single precision."""

    def make(root: Path) -> Words:
        make_run(root / "model")
        array = np.full((6, 5, 4), 1e300)
        (write_nifti if suffix == ".nii" else write_itk)(root / f"scan{suffix}", array, PLAIN)
        return segment(f"scan{suffix}")

    return make


NRRD = b"NRRD0004\ntype: uint8\ndimension: 3\nsizes: 4 3 2\nspace: left-posterior-superior\nspace directions: (1,0,0) (0,1,0) (0,0,1)\n"


def series(edit: Callable[[list], object] | None = None, words: str = "series", **changes: object) -> Callable[[Path], Words]:
    """A DICOM series with other tags."""

    def make(root: Path) -> Words:
        make_run(root / "model")
        write_series(root / "series", scan_of((6, 5, 6)), edit=edit, **changes)  # type: ignore[arg-type]
        return segment(words)

    return make


def each(**values: object) -> Callable[[list], object]:
    return lambda found: [setattr(ds, name, value) for ds in found for name, value in values.items()]


def with_comma(root: Path) -> Words:
    """A slope as it is written in half of Europe."""
    words = series(each(RescaleSlope="1.5"))(root)
    for path in (root / "series").iterdir():
        path.write_bytes(path.read_bytes().replace(b"1.5 ", b"1,5 "))
    return words


def shifted(found: list) -> None:
    """12 bits in the upper part of every word."""
    for ds in found:
        ds.PixelData, ds.BitsStored = (np.frombuffer(ds.PixelData, "<u2") << 4).astype("<u2").tobytes(), 12


def lost(name: str) -> Callable[[list], object]:
    return lambda found: [delattr(ds, name) for ds in found]


def picture(kind: str = "percentile", **changes: object) -> Callable[[Path], Words]:
    """An X-ray, which lies nowhere in the patient."""

    def make(root: Path) -> Words:
        make_run(root / "model", kind=kind)
        image = header(
            Modality="DX", SOPClassUID="1.2.840.10008.5.1.4.1.1.1.1", Rows=6, Columns=5, PixelData=bytes(60), **changes
        )
        save_dicom(image, root / "x.dcm")
        return ["segment", "-i", "x.dcm", "-o", "mask.png", "--model", "model"]

    return make


def another_frame(root: Path) -> Words:
    """A compressed frame that says it is larger than the tags do."""
    make_run(root / "model")
    path = sorted(write_series(root / "series", scan_of((64, 64, 1)), syntax=JPEG2000Lossless).iterdir())[0]
    content = bytearray(path.read_bytes())
    struct.pack_into(">2I", content, content.index(b"\xff\x4f\xff\x51") + 8, 60_000, 60_000)
    path.write_bytes(content)
    return segment("series")


def undecodable(root: Path) -> Words:
    """Pixels as a film, which stands here for every compression that there is no decoder for."""
    make_run(root / "model")
    ds = slices_of(scan_of((6, 5, 1)), PLAIN)[0]
    ds.add_new("PixelData", "OB", encapsulate([b"film"]))
    ds["PixelData"].is_undefined_length = True
    path = root / "series" / "a.dcm"
    path.parent.mkdir()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = MPEG2MPML
    ds.save_as(path, enforce_file_format=True)
    return segment("series")


def deflated(root: Path) -> Words:
    make_run(root / "model")
    path = save_dicom(slices_of(scan_of((6, 5, 1)), PLAIN)[0], root / "series" / "a.dcm")
    path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99", 1))
    return segment("series")


def archive(change: Callable[[zipfile.ZipFile], object]) -> Callable[[Path], Words]:
    def make(root: Path) -> Words:
        make_run(root / "model")
        zipped(write_series(root / "series", scan_of()), root / "scan.zip")
        with zipfile.ZipFile(root / "scan.zip", "a", zipfile.ZIP_DEFLATED) as file:
            change(file)
        return segment("scan.zip")

    return make


def huge_member(file: zipfile.ZipFile) -> None:
    with file.open("slice.dcm", "w", force_zip64=True) as member:
        for _ in range(300):
            member.write(bytes(2**20))


def flagged(root: Path) -> Words:
    words = archive(lambda file: None)(root)
    content = bytearray((root / "scan.zip").read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    (root / "scan.zip").write_bytes(content)
    return words


def png(width: int, height: int, *chunks: bytes, depth: int = 8, kind: int = 0) -> bytes:
    """A PNG whose header claims a size, bits a sample and a kind of colour."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">2I5B", width, height, depth, kind, 0, 0, 0))
    return start + b"".join(chunk(c[:4], c[4:]) for c in chunks) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


def saved(name: str, pixels: np.ndarray, **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format=name, **options)  # type: ignore[arg-type]
    return file.getvalue()


def tiff(**changes: int) -> bytes:
    """A TIFF whose tags claim other numbers (of type LONG, as they are looked for)."""
    content = bytearray(saved("TIFF", np.zeros((9, 8, 3) if "samples" in changes else (9, 8), np.uint8)))
    (start,) = struct.unpack_from("<I", content, 4)
    (entries,) = struct.unpack_from("<H", content, start)
    for i in range(entries):
        at = start + 2 + 12 * i
        (tag,) = struct.unpack_from("<H", content, at)
        name = {256: "width", 257: "length", 277: "samples"}.get(tag)
        if name in changes:
            struct.pack_into("<HII", content, at + 2, 4, 1, changes[name])
    return bytes(content)


def separated(samples: int) -> bytes:
    """A TIFF of 16 bits with the inks of a printer, or with more samples than a colour has."""
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 60000, (9, 8, samples), dtype=np.uint16)
    tifffile.imwrite(file, pixels, photometric="separated" if samples == 4 else "minisblack", planarconfig="contig")
    return file.getvalue()


def rgb_volume(root: Path) -> Words:
    make_run(root / "model")
    voxels = np.zeros((8, 8, 8), np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))
    nib.save(nib.Nifti1Image(voxels, PLAIN), root / "scan.nii")
    return segment("scan.nii")


def two_names(root: Path) -> Words:
    """A label map whose value 1 has two names."""
    for folder in ("images", "masks"):
        (root / "data" / folder).mkdir(parents=True)
        for i in range(4):
            Image.fromarray(np.full((9, 9), i % 2, np.uint8)).save(root / "data" / folder / f"{i}.png")
    (root / "data" / "classes.json").write_text('{"scratch": 1, "dent": 1}')
    return ["run", "data", "-o", "out", "--data.classes", "scratch", "dent"]


def of_classes(*words: str) -> Callable[[Path], Words]:
    """A table of two classes, and folders of classes one of whose names is there twice."""

    def make(root: Path) -> Words:
        rows = ["file,crack,dent"]
        for folder in ("good", "a/crack", "b/crack"):
            (root / "data" / folder).mkdir(parents=True)
            for i in range(3):
                pixels = np.random.default_rng(len(rows)).integers(0, 255, (9, 9), dtype=np.uint8)
                Image.fromarray(pixels).save(root / "data" / folder / f"{i}.png")
                rows.append(f"{folder}/{i}.png,{int(folder[0] == 'a')},{int(folder[0] == 'b')}")
        if "--data.classes" not in words:
            (root / "data" / "labels.csv").write_text("\n".join(rows) + "\n")
        return ["run", "data", "-o", "out", "--data.size", "16", *words]

    return make


def channels(*words: str, missing: bool = False, size: int = 9) -> Callable[[Path], Words]:
    """A table of cases with two images each."""

    def make(root: Path) -> Words:
        rows = ["file,file_2,label"]
        for i in range(4):
            for folder, side in (("images", 9), ("second", size)):
                (root / "data" / folder).mkdir(parents=True, exist_ok=True)
                pixels = np.random.default_rng(i).integers(0, 255, (side, 9), dtype=np.uint8)
                Image.fromarray(pixels).save(root / "data" / folder / f"{i}.png")
            second = "" if missing and i == 2 else f"second/{i}.png"
            rows.append(f"images/{i}.png,{second},{i % 2}")
        (root / "data" / "labels.csv").write_text("\n".join(rows) + "\n")
        return ["run", "data", "-o", "out", "--data.size", "16", *words]

    return make


def of_two_channels(*words: str) -> Callable[[Path], Words]:
    """A model of cases with two images each, which is given something else."""

    def make(root: Path) -> Words:
        channels()(root)
        make_run(root / "model", kind="percentile", channels=("file", "file_2"))
        return [*words, "--model", "model"]

    return make


def two_sequences(*words: str) -> Callable[[Path], Words]:
    """Scans of two sequences each, with masks of the first."""

    def make(root: Path) -> Words:
        for i in range(4):
            (root / "scans" / f"s{i}").mkdir(parents=True)
            (root / "masks" / f"s{i}").mkdir(parents=True)
            for name in ("flair", "t2"):
                write_nifti(root / "scans" / f"s{i}" / f"s{i}_{name}.nii.gz", scan_of((8, 8, 4), i), PLAIN)
            write_nifti(root / "masks" / f"s{i}" / f"s{i}_flair.nii.gz", np.ones((8, 8, 4), np.uint8), PLAIN)
        (root / "scans" / "labels.csv").write_text("case,label\n" + "".join(f"s{i},{i % 2}\n" for i in range(4)))
        return list(words)

    return make


def two_grids(root: Path) -> Words:
    """The second sequence of every scan is 1 mm thicker."""
    words = two_sequences("run", "scans", "-o", "out", "--data.size", "16")(root)
    for i in range(4):
        path = root / "scans" / f"s{i}" / f"s{i}_t2.nii.gz"
        write_nifti(path, scan_of((8, 8, 4), i), PLAIN + np.diag([0, 0, 1.0, 0]))
    return words


def pages() -> bytes:
    file = io.BytesIO()
    Image.new("L", (9, 9)).save(file, format="TIFF", save_all=True, append_images=[Image.new("L", (9, 9))])
    return file.getvalue()


def model(change: Callable[[Path], object]) -> Callable[[Path], Words]:
    """A model folder in which something is changed, and a good scan."""

    def make(root: Path) -> Words:
        change(make_run(root / "model"))
        nib.save(nib.Nifti1Image(scan_of((8, 8, 8)), PLAIN), root / "scan.nii.gz")
        return segment("scan.nii.gz")

    return make


def said_in_model(**changes: object) -> Callable[[Path], Words]:
    """model.json with other values; a dotted name is one of the settings."""

    def change(root: Path) -> None:
        content = json.loads((root / "model.json").read_text())
        for name, value in changes.items():
            place = content
            *parents, last = ("settings", *name.split("__")) if "__" in name else (name,)
            for parent in parents:
                place = place[parent]
            place[last] = value
        (root / "model.json").write_text(json.dumps(content))

    return model(change)


def overwritten(name: str, content: bytes) -> Callable[[Path], Words]:
    return model(lambda root: (root / name).write_bytes(content))


def removed(root: Path) -> None:
    content = json.loads((root / "model.json").read_text())
    del content["threshold"]
    (root / "model.json").write_text(json.dumps(content))


def piped(root: Path) -> None:
    (root / "model.json").unlink()
    os.mkfifo(root / "model.json")


def not_numbers(root: Path) -> None:
    path = root / "classifier" / "model.safetensors"
    save_file({name: value * float("nan") for name, value in load_file(path).items()}, path)


def wider(root: Path) -> None:
    settings = tiny_settings()
    make_run(root / "other", replace(settings, coin=replace(settings.coin, width=6)))
    (root / "other/coin/generator.safetensors").rename(root / "coin/generator.safetensors")


def config(content: str | bytes, *more: str) -> Callable[[Path], Words]:
    """A file of settings for a run on good data."""

    def make(root: Path) -> Words:
        EXAMPLES["folders"].make(root / "data")
        (root / "my.yaml").write_bytes(content.encode() if isinstance(content, str) else content)
        return ["run", "data", "-o", "out", "--config", "my.yaml", *more]

    return make


def command(*words: str) -> Callable[[Path], Words]:
    """A command on good data."""
    return lambda root: (EXAMPLES["folders"].make(root / "data"), list(words))[1]


def reviewed(
    *words: str, digest: str | None = None, case: str = "elsewhere", shape: tuple[int, int, int] = (1, 4, 4), pixels: str = ""
) -> Callable[[Path], Words]:
    """A run on good data with a review of a case of 4 x 4 pixels; with a digest it is of a mask that `segment` made."""

    def make(root: Path) -> Words:
        EXAMPLES["folders"].make(root / "data")
        store = Store(root / "reviews")
        store.list_cases([CaseRecord(case, case, f"{case}.png", False, numbers={"sha256": digest} if digest else {})])
        store.keep_draft(case, np.zeros(shape, bool), pixels)
        store.decide(case, "ann", "rejected", None)
        store.close()
        return ["run", "data", "-o", "out", "--student.reviewed", "reviews", *words]

    return make


def stored(content: str) -> Callable[[Path], Words]:
    """The settings.yaml of somebody's run folder."""

    def make(root: Path) -> Words:
        (root / "out").mkdir()
        (root / "out" / "settings.yaml").write_text(content)
        return ["report", "out"]

    return make


def own(name: str) -> Callable[[Path], Words]:
    """A run with a classifier from elsewhere."""

    def make(root: Path) -> Words:
        EXAMPLES["folders"].make(root / "data")
        return ["run", "data", "-o", "out", "--dry-run", "--data.size", "32", "--coin.depth", "2", "--coin.skips", "1",
            "--classifier.name", name]  # fmt: skip

    return make


def pretrained(root: Path) -> Words:
    EXAMPLES["folders"].make(root / "data")
    torch.save(Evil(), root / "weights.pth")
    words = ["--data.size", "32", "--coin.depth", "2", "--coin.skips", "1", "--classifier.name", "resnet18"]
    return ["run", "data", "-o", "out", "--dry-run", *words, "--classifier.weights", "weights.pth"]


def inception(root: Path) -> Words:
    torch.save(Evil(), root / "fid.pth")
    EXAMPLES["folders"].make(root / "data")
    return ["reproduce", "table2", "--data", "data", "-o", "out", "--data.size", "32", "--fid", "fid.pth"]


def table(content: str, name: str = "labels.csv", encoding: str = "utf-8") -> Callable[[Path], Words]:
    """A table of files beside good images."""

    def make(root: Path) -> Words:
        EXAMPLES["csv"].make(root / "data")
        Image.new("L", (9, 9)).save(root / "secret.png")
        (root / "data" / name).write_text(content, encoding=encoding)
        return ["run", "data/labels.csv", "-o", "out"]

    return make


def beside_scans(name: str, content: str) -> Callable[[Path], Words]:
    """A table beside scans in the layout of TotalSegmentator."""

    def make(root: Path) -> Words:
        EXAMPLES["totalsegmentator"].make(root / "data")
        (root / "data" / name).write_text(content)
        return ["run", "data", "-o", "out", "--data.organ", "kidney_left"]

    return make


def described(old: str, new: str) -> Callable[[Path], Words]:
    """dataset.json of the Decathlon with other words."""

    def make(root: Path) -> Words:
        path = EXAMPLES["decathlon"].make(root / "data") / "dataset.json"
        path.write_text(path.read_text().replace(old, new) if old else new)
        return ["run", "data", "-o", "out", *EXAMPLES["decathlon"].words()]

    return make


def taken(root: Path) -> Words:
    EXAMPLES["folders"].make(root / "data")
    (root / "out").mkdir()
    (root / "out" / "thesis.docx").write_text("mine")
    return ["run", "data", "-o", "out"]


def seg(
    mask: str = "mask.nii.gz", out: str = "mask.dcm", edit: Callable[[list], object] | None = None, folder: str = "series"
) -> Callable[[Path], Words]:
    """A mask and the series it belongs to."""

    def make(root: Path) -> Words:
        ids = {"FrameOfReferenceUID": "1.2.9"}
        write_series(root / "series", scan_of(), edit=lambda f: (each(**ids)(f), edit and edit(f)), signed=True)
        nib.save(nib.Nifti1Image(np.ones((6, 5, 4), np.uint8), PLAIN), root / "mask.nii.gz")
        nib.save(
            nib.Nifti1Image(np.ones((6, 5, 4), np.uint8), PLAIN + np.eye(4)[:, [3] * 4] * 0 + np.diag([0.3, 0, 0, 0])),
            root / "other.nii.gz",
        )
        (root / "nothing").mkdir()
        return ["export-seg", mask, "--dicom", folder, "-o", out]

    return make


def mask_elsewhere(root: Path) -> Words:
    make_run(root / "model")
    nib.save(nib.Nifti1Image(scan_of((8, 8, 8)), PLAIN), root / "scan.nii.gz")
    return [*segment("scan.nii.gz")[:4], "mask.exe", "--model", "model"]


def layout_rows() -> Iterator[Bad]:
    """The rows of `test_broken_layouts` whose data are refused as a whole."""
    for layout, how, act, data, expected in ROWS:
        if isinstance(expected, Refused):

            def make(root: Path, layout=layout, act=act, data=data) -> Words:  # type: ignore[no-untyped-def]
                act(EXAMPLES[layout].make(root / "data"))
                settings = {**EXAMPLES[layout].data, **data}
                words = [
                    word for name, value in settings.items() if value not in (None, [])
                    for word in (f"--data.{name}", *([value] if isinstance(value, str) else value))
                ]  # fmt: skip
                return ["run", "data", "-o", "out", "--data.size", "16", *words]

            yield Bad(f"Layout {layout}", how, make, varies="cut off" in how or "another code" in how)


VOLUMES, DICOM, IMAGES, MODELS = "Volumes", "DICOM and archives", "Images", "Model folders and weights"
SETTINGS, TABLES, PLACES = "Settings and commands", "Tables and dataset.json", "Inputs and outputs"
COLOUR = "Colour, channels and classes"
BOMB = "a: &a [1,1,1,1,1,1,1,1,1]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(9)
)
DEEP = "[" * 5000 + "]" * 5000
FILES = "file,label\nmade/normal/i00.png,0\n"

CASES: list[Bad] = [
    Bad(VOLUMES, "a missing file", lambda r: (make_run(r / "model"), segment("no.nii.gz"))[1]),
    Bad(VOLUMES, "an empty file", spoilt("empty"), True),
    Bad(VOLUMES, "text by the name of a volume", given("scan.nii", b"This is no scan.\n" * 60), True),
    Bad(VOLUMES, "no gzip", spoilt("no gzip"), True),
    Bad(VOLUMES, "cut in half", spoilt("half"), True),
    Bad(VOLUMES, "a wrong checksum", spoilt("checksum"), True),
    Bad(VOLUMES, "a header that claims 50 TiB", spoilt("huge")),
    Bad(VOLUMES, "a header that claims more than the file can hold", nifti(put(42, "<3h", 900, 900, 900))),
    Bad(VOLUMES, "the same, compressed", nifti(put(42, "<3h", 900, 900, 900), ".nii.gz"), True),
    Bad(VOLUMES, "a negative side", nifti(put(42, "<3h", 8, -8, 8)), True),
    Bad(VOLUMES, "a side of 0", nifti(put(42, "<3h", 8, 0, 8)), True),
    Bad(VOLUMES, "four dimensions", spoilt("4-D")),
    Bad(VOLUMES, "two dimensions", spoilt("2-D")),
    Bad(VOLUMES, "complex voxels", spoilt("complex")),
    Bad(VOLUMES, "NaN voxels", spoilt("nan")),
    Bad(VOLUMES, "infinite voxels", spoilt("inf")),
    Bad(VOLUMES, "CT stored with +1024 for a run on Hounsfield units", foreign(scan_of((8, 8, 8)) + np.int16(1024))),
    Bad(VOLUMES, "CT scaled to 0..1 for a run on Hounsfield units", foreign(np.linspace(0, 1, 512, dtype=np.float32).reshape(8, 8, 8))),
    Bad(VOLUMES, "a volume for a run on plain images", foreign(scan_of((8, 8, 8)), TrainedOn(["image"], [], False))),
    Bad(VOLUMES, "DICOM MR for a run on CT", series(Modality="MR")),
    Bad(VOLUMES, "bright MR with negative values for a run on CT", foreign(np.abs(scan_of((8, 8, 8))) * np.int16(2) - np.int16(300))),
    Bad(VOLUMES, "voxels of 1e300, beyond single precision", beyond(".nii")),
    Bad(VOLUMES, "NRRD: voxels of 1e300", beyond(".nrrd")),
    Bad(VOLUMES, "an infinite slope", nifti(put(112, "<f", float("inf")))),
    Bad(VOLUMES, "a slope of 1e38", nifti(put(112, "<f", 1e38))),
    Bad(VOLUMES, "NaN in the affine", nifti(put(280, "<f", float("nan")))),
    Bad(VOLUMES, "an affine without inverse", spoilt("no axis")),
    Bad(VOLUMES, "voxels that begin behind 1 GB", nifti(put(108, "<f", 1e9))),
    Bad(VOLUMES, "compressed zeros behind the last voxel", nifti(lambda content: None, ".nii.gz", behind=40 * 2**20)),
    Bad(VOLUMES, "NRRD: no header", given("scan.nrrd", b"hello")),
    Bad(VOLUMES, "NRRD: voxels in another file (/etc/passwd)", given("scan.nrrd",
        NRRD + b"encoding: raw\ndata file: /etc/passwd\n\n")),
    Bad(VOLUMES, "NRRD: a header alone (.nhdr)", given("scan.nhdr", NRRD + b"encoding: raw\ndata file: x.raw\n\n")),
    Bad(VOLUMES, "NRRD: a header that claims 180 TiB", given("scan.nrrd", NRRD.replace(b"4 3 2",
        b"60000 50000 60000") + b"encoding: gzip\n\n")),
    Bad(VOLUMES, "NRRD: a line that ends ITK", given("scan.nrrd",
        NRRD + b"kinds: domain do" + b"9" * 5000 + b"\nencoding: raw\n\n" + bytes(24))),
    Bad(VOLUMES, "NRRD: more voxels than the header claims", given("scan.nrrd",
        NRRD + b"encoding: gzip\n\n" + gzip.compress(bytes(40 * 2**20)))),
    Bad(VOLUMES, "NRRD: compressed voxels cut off", given("scan.nrrd",
        NRRD + b"encoding: gzip\n\n" + gzip.compress(bytes(24))[:-6])),
    Bad(VOLUMES, "NRRD: NaN in the axes", given("scan.nrrd", NRRD.replace(b"(1,0,0)",
        b"(nan,0,0)") + b"encoding: raw\n\n" + bytes(24)), True),
    Bad(VOLUMES, "MetaImage: no header", given("scan.mha", b"hello")),
    Bad(VOLUMES, "MetaImage: voxels in another folder", itk(".mhd", b"ElementDataFile = scan.raw",
        b"ElementDataFile = ../scan.raw")),
    Bad(VOLUMES, "MetaImage: voxels in /etc/passwd", itk(".mhd", b"ElementDataFile = scan.raw",
        b"ElementDataFile = /etc/passwd")),
    Bad(VOLUMES, "MetaImage: voxels in a file by a name no disk can hold", itk(".mhd", b"ElementDataFile = scan.raw",
        b"ElementDataFile = " + b"x" * 300)),
    Bad(VOLUMES, "MetaImage: a list of files", itk(".mha", b"ElementDataFile = LOCAL", b"ElementDataFile = LIST")),
    Bad(VOLUMES, "MetaImage: a slope that ITK does not apply", itk(".mha", b"ElementDataFile = LOCAL",
        b"ElementToIntensityFunctionSlope = 2\nElementDataFile = LOCAL")),
    Bad(VOLUMES, "MetaImage: a side of -6", itk(".mha", b"DimSize = 6", b"DimSize = -6")),
    Bad(VOLUMES, "MetaImage: voxels cut off", itk(".mhd", b"DimSize = 6 5 4", b"DimSize = 6 5 5")),
    Bad(VOLUMES, "MetaImage: a header that claims 220 TiB", itk(".mha", b"DimSize = 6 5 4", b"DimSize = 60000 50000 40000")),
    Bad(VOLUMES, "MetaImage: more voxels claimed than the file can hold", itk(".mha", b"DimSize = 6 5 4",
        b"DimSize = 600 500 400")),
    Bad(VOLUMES, "MetaImage: a list that MetaIO would write past its end", itk(".mha", b"ElementSpacing = ",
        b"ElementSpacing = 1 1 1 1 ")),
    Bad(DICOM, "a folder without DICOM", lambda r: (make_run(r / "model"), (r / "series").mkdir(),
        (r / "series/a.txt").write_text("x"), segment("series"))[-1]),
    Bad(DICOM, "garbage by the name of a slice", lambda r: (make_run(r / "model"), (r / "series").mkdir(),
        (r / "series/a.dcm").write_bytes(b"x" * 300), segment("series"))[-1]),
    Bad(DICOM, "deflated tags, which could unpack to any size", deflated),
    Bad(DICOM, "two series", lambda r: (series()(r), write_series(r / "series/more", scan_of(), series="1.9", number=8),
        segment("series"))[-1]),
    Bad(DICOM, "the key of a series that is not there", series(words="series#9")),
    Bad(DICOM, "a slice missing", series(lambda found: found.pop(2))),
    Bad(DICOM, "a slice twice", series(lambda found: setattr(found[2], "ImagePositionPatient", found[1].ImagePositionPatient))),
    Bad(DICOM, "slices of two sizes", series(lambda found: (setattr(found[1], "Rows", 4), setattr(found[1], "PixelData",
        found[1].PixelData[:48])))),
    Bad(DICOM, "no position", series(lost("ImagePositionPatient"))),
    Bad(DICOM, "no intercept", series(lost("RescaleIntercept"))),
    Bad(DICOM, "a pixel spacing of 0", series(each(PixelSpacing=[0, 1]))),
    Bad(DICOM, "a slope of 0", series(each(RescaleSlope=0))),
    Bad(DICOM, "a slope of 1e300", series(each(RescaleSlope="1e300"))),
    Bad(DICOM, "a slope with a comma", with_comma),
    Bad(DICOM, "an intercept of -1e9", series(each(RescaleIntercept="-1e9"))),
    Bad(DICOM, "a mosaic", series(each(ImageType=["ORIGINAL", "PRIMARY", "M", "MOSAIC"]))),
    Bad(DICOM, "values shifted by the bits that are not stored (HighBit 15 for 12 bits)", series(shifted)),
    Bad(DICOM, "slices of two modalities", series(lambda found: setattr(found[2], "Modality", "PT"))),
    Bad(DICOM, "MR with white low in one slice", series(lambda found: (each(Modality="MR")(found), setattr(found[2],
        "PhotometricInterpretation", "MONOCHROME1")))),
    Bad(DICOM, "electron densities of dual-energy CT for a run on CT", series(RescaleType="EDW")),
    Bad(DICOM, "an ultrasound with several frames", picture(NumberOfFrames=3)),
    Bad(DICOM, "an X-ray with a slope of 0", picture(RescaleSlope=0, RescaleIntercept=0)),
    Bad(DICOM, "an X-ray for a model of CT", picture("hu")),
    Bad(DICOM, "only a localizer", series(each(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]))),
    Bad(DICOM, "colour", series(each(SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=0))),
    Bad(DICOM, "a slice of 65535 x 65535", series(each(Rows=65535, Columns=65535))),
    Bad(DICOM, "pixels cut off", series(lambda found: setattr(found[1], "PixelData", found[1].PixelData[:20]))),
    Bad(DICOM, "a compressed frame that claims 60000 x 60000", another_frame),
    Bad(DICOM, "a compression that no decoder is there for (JPEG of 12 bits, JPEG XL, a film)", undecodable),
    Bad(DICOM, "an archive with a name that leads out of it", archive(lambda file: file.writestr("../../x.dcm", b"x"))),
    Bad(DICOM, "an archive with an absolute name", archive(lambda file: file.writestr("/etc/x.dcm", b"x"))),
    Bad(DICOM, "an archive with a file without a name", archive(lambda file: file.writestr(zipfile.ZipInfo("\0"), b"x"))),
    Bad(DICOM, "an archive that unpacks to 1000 times its size", archive(huge_member), True),
    Bad(DICOM, "a locked archive", flagged),
    Bad(DICOM, "a broken archive", given("scan.zip", b"PK\x03\x04" + bytes(200))),
    Bad(DICOM, "an archive of something else", lambda r: (make_run(r / "model"), zipfile.ZipFile(r / "scan.zip",
        "w").writestr("x.txt", "x"), segment("scan.zip"))[-1]),
    Bad(IMAGES, "text by the name of an image", given("x.png", b"hello", "percentile"), True),
    Bad(IMAGES, "cut in half", given("x.png", saved("PNG", np.random.default_rng(0).integers(0, 255, (30,
        30)).astype(np.uint8))[:500], "percentile"), True),
    Bad(IMAGES, "a PNG that claims 60000 x 60000 pixels", given("x.png", png(60_000, 60_000), "percentile"), True),
    Bad(IMAGES, "a PNG of no pixels", given("x.png", png(0, 0), "percentile"), True),
    Bad(IMAGES, "a PNG whose text unpacks to 100 MB", given("x.png", png(8, 8, b"zTXta\0\0" + zlib.compress(bytes(10**8))),
        "percentile"), True),
    Bad(IMAGES, "PostScript by the name of a PNG (Pillow would start Ghostscript)", given("x.png",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n", "percentile"), True),
    Bad(IMAGES, "a TIFF that claims 60000 x 60000 pixels", given("x.tif", tiff(width=60_000, length=60_000), "percentile")),
    Bad(IMAGES, "a TIFF of 65535 samples a pixel", given("x.tif", tiff(samples=65535), "percentile"), True),
    Bad(IMAGES, "a TIFF whose strips are not all there", given("x.tif", tiff(length=900), "percentile")),
    Bad(IMAGES, "a TIFF of two pages", given("x.tif", pages(), "percentile")),
    Bad(IMAGES, "NaN pixels", given("x.tif", saved("TIFF", np.full((9, 8), np.nan, np.float32)), "percentile")),
    Bad(IMAGES, "an image for a model of Hounsfield units", given("x.png", saved("PNG", np.zeros((9, 8), np.uint8)))),
    Bad(MODELS, "no model", lambda r: ((r / "model").mkdir(), broken(r, "4-D"), segment("x.nii.gz"))[-1]),
    Bad(MODELS, "model.json is no JSON", overwritten("model.json", b"{"), True),
    Bad(MODELS, "model.json is nested 5000 times", overwritten("model.json", DEEP.encode())),
    Bad(MODELS, "model.json lacks a key", model(removed)),
    Bad(MODELS, "model.json has NaN", overwritten("model.json", b'{"threshold": NaN}')),
    Bad(MODELS, "a window from high to low", said_in_model(window=[240, -160])),
    Bad(MODELS, "a threshold of 1e300", said_in_model(threshold=1e300)),
    Bad(MODELS, "a threshold that somebody, or a bad disk, has changed", said_in_model(threshold=0.06)),
    Bad(MODELS, "model.json of a later version", said_in_model(schema=99)),
    Bad(MODELS, "model.json that is a pipe", model(piped)),
    Bad(MODELS, "slices of 4096 pixels", said_in_model(data__size=4096)),
    Bad(MODELS, "an opening of 1023 pixels", said_in_model(masks__opening=1023)),
    Bad(MODELS, "a setting nobody knows", said_in_model(coin__wdth=4)),
    Bad(MODELS, "a setting of another type", said_in_model(coin__width="wide")),
    Bad(MODELS, "a network of 10^9 channels", said_in_model(coin__width=10**9)),
    Bad(MODELS, "a network of 4 million channels that the weights do not have", said_in_model(coin__width=1024, coin__depth=12,
        coin__skips=1)),
    Bad(MODELS, "it names a module to run", said_in_model(classifier__name="antigravity:fly")),
    Bad(MODELS, "it names a classifier there is none of", said_in_model(classifier__name="zzzzzzzz")),
    Bad(MODELS, "another classifier than its weights are of", said_in_model(classifier__name="small"), True),
    Bad(MODELS, "weights missing", model(lambda r: (r / "classifier/model.safetensors").unlink())),
    Bad(MODELS, "weights that are a pickle which runs code", overwritten("classifier/model.safetensors", pickle.dumps(Evil())),
        True),
    Bad(MODELS, "weights whose header claims 2^60 bytes", overwritten("classifier/model.safetensors", struct.pack("<Q",
        2**60) + b"{}"), True),
    Bad(MODELS, "weights of a wider network", model(wider), True),
    Bad(MODELS, "weights that are NaN", model(not_numbers)),
    Bad(MODELS, "pretrained weights that are a pickle which runs code", pretrained),
    Bad(MODELS, "weights for FID that are a pickle which runs code", inception),
    Bad(SETTINGS, "a time without a number", command("run", "data", "-o", "out", "--budget", "soon")),
    Bad(SETTINGS, "a time and a size", command("run", "data", "-o", "out", "--budget", "20m", "--data.size", "64")),
    Bad(SETTINGS, "YAML that makes an object (runs code)", config("method: !!python/object/apply:os.system ['touch PWNED']\n"),
        True),
    Bad(SETTINGS, "YAML nested 60,000 times", config("data: " + "[" * 60_000)),
    Bad(SETTINGS, "YAML of 80 KB", config("seed: 1\n" * 10_000)),
    Bad(SETTINGS, "YAML with aliases (a billion laughs)", config(BOMB + "method: *j\n")),
    Bad(SETTINGS, "the same for one group of settings", lambda r: (config(BOMB)(r), ["run", "data", "-o", "out", "--data",
        "my.yaml"])[1]),
    Bad(SETTINGS, "the same by an option cut short", lambda r: (config(BOMB)(r), ["run", "data", "-o", "out",
        "--conf=my.yaml"])[1]),
    Bad(SETTINGS, "the same on the command line", command("run", "data", "-o", "out", "--config", BOMB)),
    Bad(SETTINGS, "YAML nested 5000 times", config(f"method: {DEEP}\n")),
    Bad(SETTINGS, "YAML that is none", config("method: [\n"), True),
    Bad(SETTINGS, "YAML of 1 MB", config("#" * 10**6)),
    Bad(SETTINGS, "YAML that is no mapping", config("- 1\n- 2\n")),
    Bad(SETTINGS, "YAML in another code", config("method: späť\n".encode("utf-16")), True),
    Bad(SETTINGS, "a setting nobody knows", config("coin: {widht: 3}\n")),
    Bad(SETTINGS, "a YAML that names a module to run", config("classifier: {name: 'antigravity:fly'}\n")),
    Bad(SETTINGS, "a run folder that names a module to run",
        stored("data: data\nsettings: {classifier: {name: 'antigravity:fly'}}\n")),
    Bad(SETTINGS, "a run folder whose settings.yaml makes an object",
        stored("data: !!python/object:os.system x\nsettings: {}\n"), True),
    Bad(SETTINGS, "a run folder whose settings.yaml has no settings", stored("data: x\n")),
    Bad(SETTINGS, "a module that is not there", command("run", "data", "-o", "out", "--data.size", "32", "--coin.depth", "2",
        "--coin.skips", "1", "--dry-run", "--classifier.name", "no_such_module:make")),
    Bad(SETTINGS, "a factory that gives no network", own("collections:OrderedDict")),
    Bad(SETTINGS, "a factory that does not run", own("torch.nn:Linear"), True),
    Bad(SETTINGS, "a factory that ends the program", own("sys:exit")),
    Bad(SETTINGS, "a network without weights", own("torch.nn:Flatten")),
    Bad(SETTINGS, "a timm model of images of another size", own("vit_tiny_patch16_224"), True),
    Bad(SETTINGS, "a file of weights beside a classifier that reads none", command("run", "data", "-o", "out", "--data.size",
        "32", "--coin.depth", "2", "--coin.skips", "1", "--dry-run", "--classifier.name", "imagenet", "--classifier.weights",
            "weights.pth")),
    Bad(SETTINGS, "an option nobody knows", command("run", "data", "-o", "out", "--coin.witdh", "8")),
    Bad(SETTINGS, "a command nobody knows", command("rum")),
    Bad(SETTINGS, "reviewed masks that are nowhere", command("run", "data", "-o", "out", "--student.reviewed", "reviews")),
    Bad(SETTINGS, "reviewed masks and no student", reviewed("--student.steps", "0")),
    Bad(SETTINGS, "reviewed masks of other data", reviewed()),
    Bad(SETTINGS, "masks of `segment` that were reviewed, and other scans", reviewed(digest="0" * 64)),
    Bad(SETTINGS, "reviewed masks of other data, and a dry run", reviewed("--dry-run")),
    Bad(SETTINGS, "reviewed masks of smaller images of the same names", reviewed(case="abnormal__i01")),
    Bad(SETTINGS, "reviewed masks of other images of the same names and sizes",
        reviewed(case="abnormal__i01", shape=(1, 40, 44), pixels="0" * 32)),
    Bad(SETTINGS, "a preset nobody knows", command("run", "data", "-o", "out", "--preset", "thesys")),
    Bad(SETTINGS, "a method nobody knows", command("run", "data", "-o", "out", "--method", "layercm")),
    Bad(SETTINGS, "a word for a number", command("run", "data", "-o", "out", "--coin.steps", "many")),
    Bad(SETTINGS, "a batch of 0", command("run", "data", "-o", "out", "--coin.batch", "0")),
    Bad(SETTINGS, "a negative side", command("run", "data", "-o", "out", "--data.size=-32")),
    Bad(SETTINGS, "a learning rate of 1e999", command("run", "data", "-o", "out", "--coin.lr", "1e999")),
    Bad(SETTINGS, "a negative seed", command("run", "data", "-o", "out", "--seed=-1")),
    Bad(SETTINGS, "a side that cannot be halved so often", command("run", "data", "-o", "out", "--data.size", "50")),
    Bad(SETTINGS, "more skip connections than levels", command("run", "data", "-o", "out", "--data.size", "64", "--coin.skips",
        "7")),
    Bad(SETTINGS, "a threshold of 2, which was asked after the trainings once", command("run", "data", "-o", "out",
        "--masks.threshold", "2")),
    Bad(SETTINGS, "tiles of an organ's crop", command("run", "data", "-o", "out", "--data.tile", "64", "--data.roi", "organ")),
    Bad(SETTINGS, "tiles with injected anomalies", command("run", "data", "-o", "out", "--data.tile", "64", "--anomaly.kind", "blob")),
    Bad(SETTINGS, "a tile of a word nobody knows", command("run", "data", "-o", "out", "--data.tile", "big")),
    Bad(SETTINGS, "thousands of tiles of one image", command("prepare", "data", "-o", "out", "--data.size", "32", "--data.tile",
        "1")),
    Bad(SETTINGS, "a student without mirror images", command("run", "data", "-o", "out", "--masks.hflip", "false")),
    Bad(SETTINGS, "three faults at once", command("run", "data", "-o", "out", "--coin.width", "0", "--data.size", "50", "--sed",
        "1")),
    Bad(SETTINGS, "a YAML that names a class to import", config("coin: {class_path: antigravity.Coin}\n")),
    Bad(SETTINGS, "a YAML that names one for an argument of the command", config("out: {class_path: antigravity.Path}\n")),
    Bad(SETTINGS, "a YAML that is not there", command("run", "data", "-o", "out", "--config", "nowhere.yaml")),
    Bad(TABLES, "a file outside of the folder of the table (../)", table(FILES + "../secret.png,1\n")),
    Bad(TABLES, "a file by an absolute path outside", table(FILES + "/etc/passwd,1\n")),
    Bad(TABLES, "a mask outside of the folder of the table",
        table("file,label,mask\nmade/normal/i00.png,0,\nmade/abnormal/i01.png,1,../secret.png\n")),
    Bad(TABLES, "a name of 300 letters", table(FILES + "x" * 300 + ",1\n")),
    Bad(TABLES, "a column of a class by 300 letters", table(f"file,rust,{'x' * 300}\nmade/normal/i00.png,0,1\nmade/abnormal/i01.png,1,0\n")),
    Bad(TABLES, "escape sequences for the terminal", table(FILES + "\x1b[2J\x1b]0;owned\x07.png,1\n")),
    Bad(TABLES, "a cell of 200 kB", table(FILES + "x" * 200_000 + ",1\n"), True),
    Bad(TABLES, "a slice number of 5000 digits", beside_scans("labels.csv", "image_id,slice,label\ns0," + "9" * 5000 + ",1\n")),
    Bad(TABLES, "a negative slice number", beside_scans("labels.csv", "image_id,slice,label\ns0,-1,1\n")),
    Bad(TABLES, "dataset.json nested 5000 times", described("", '{"training": ' + DEEP + "}"), True),
    Bad(TABLES, "dataset.json is a list", described("", "[]")),
    Bad(TABLES, "dataset.json names an image outside of the data", described("./imagesTr/liver_1.nii.gz", "../../etc/x.nii.gz")),
    Bad(TABLES, "dataset.json names an image by 300 letters", described("./imagesTr/liver_1.nii.gz", "x" * 300 + ".nii.gz")),
    Bad(TABLES, "dataset.json has a label of 10^20", described('"1": "liver"', '"100000000000000000000": "liver"')),
    Bad(TABLES, "dataset.json has a file ending nobody reads", described('"name": "Liver"', '"file_ending": ".exe"')),
    Bad(PLACES, "data that are not there", command("run", "nowhere", "-o", "out")),
    Bad(PLACES, "data by a name no disk can hold", command("run", "x" * 300, "-o", "out")),
    Bad(PLACES, "masks by a name no disk can hold", command("run", "data", "-o", "out", "--data.masks", "x" * 300)),
    Bad(PLACES, "an empty word for a path, as an unset variable of a shell leaves it", lambda r: (make_run(r / "model"),
        segment(""))[1]),
    Bad(PLACES, "an export to the folder it runs in", lambda r: (make_run(r / "model"), ["export", "model", "-o", "."])[1]),
    Bad(PLACES, "an empty folder", lambda r: ((r / "data").mkdir(), ["run", "data", "-o", "out"])[1]),
    Bad(PLACES, "an output inside the data", command("run", "data", "-o", "data/out")),
    Bad(PLACES, "an output inside the data that a table lists", lambda r: (command()(r), (r / "data" / "t.csv").write_text(
        "file,label\n"), ["run", "data/t.csv", "-o", "data/out"])[-1]),
    Bad(PLACES, "masks inside a run", lambda r: (command()(r), make_run(r / "model"), ["segment", "-i", "data", "-o",
        "model/masks", "--model", "model"])[-1]),
    Bad(PLACES, "masks into a folder with a table of somebody", lambda r: (make_scan(r / "data" / "a.nii.gz"), make_run(r /
        "model"), (r / "out").mkdir(), (r / "out" / "index.csv").write_text("mine"), ["segment", "-i", "data", "-o", "out",
        "--model", "model"])[-1]),
    Bad(PLACES, "two maps to one file", lambda r: (make_scan(r / "a.nii.gz"), make_run(r / "model"), ["segment", "-i", "a.nii.gz",
        "-o", "m.nii.gz", "--counterfactual", "x.nii.gz", "--difference", "x.nii.gz", "--model", "model"])[-1]),
    Bad(PLACES, "an export to a link", lambda r: (make_run(r / "model"), (r / "out").symlink_to("elsewhere"), ["export",
        "model", "-o", "out"])[-1]),
    Bad(PLACES, "links that lead in a circle", lambda r: (command()(r), (r / "out").symlink_to("out"), ["run", "data", "-o",
        "out"])[-1]),
    Bad(PLACES, "data that a run folder of somebody names", lambda r: (command()(r), stored("data: data\nsettings: {}\n")(r))[-1]),
    Bad(PLACES, "an output that holds something else", taken),
    Bad(PLACES, "an output that is a file", lambda r: (command()(r), (r / "out").write_text("x"), ["run", "data", "-o",
        "out"])[-1]),
    Bad(PLACES, "a run that is none", command("evaluate", "data")),
    Bad(PLACES, "a mask by an ending nobody writes", mask_elsewhere),
    Bad(PLACES, "an export of no run", command("export", "data", "-o", "out")),
    Bad(PLACES, "nnU-Net data of no run", command("export-nnunet", "data", "-o", "out")),
    Bad(PLACES, "DICOM SEG: a folder without DICOM", seg(folder="nothing")),
    Bad(PLACES, "DICOM SEG: no folder", seg(folder="nowhere")),
    Bad(PLACES, "DICOM SEG: a mask on another grid", seg("other.nii.gz")),
    Bad(PLACES, "DICOM SEG: an output by another ending", seg(out="mask.nii")),
    Bad(PLACES, "DICOM SEG: a series without its study", seg(edit=lost("StudyInstanceUID"))),
    Bad(COLOUR, "16-bit grey with alpha", given("x.png", png(8, 8, depth=16, kind=4), "percentile"), True),
    Bad(COLOUR, "16-bit CMYK", given("x.tif", separated(4), "percentile"), True),
    Bad(COLOUR, "five samples a pixel", given("x.tif", separated(5), "percentile"), True),
    Bad(COLOUR, "volumes that are to be in colour", two_sequences("run", "scans", "-o", "out", "--data.channels", "rgb")),
    Bad(COLOUR, "a volume with red, green and blue", rgb_volume, True),
    Bad(COLOUR, "two images of a case that are to be in colour", channels("--data.channels", "rgb")),
    Bad(COLOUR, "a case without its second image", channels(missing=True)),
    Bad(COLOUR, "two classes of one label value", two_names),
    Bad(COLOUR, "one image for two channels of a case", lambda r: (channels()(r), (r / "data" / "labels.csv").write_text(
        "file,file_2,label\nimages/0.png,second/0.png,0\nimages/1.png,images/1.png,1\n"), ["run", "data", "-o", "out"])[-1]),
    Bad(COLOUR, "second images of another size", channels(size=12)),
    Bad(COLOUR, "two sequences of every scan on two grids", two_grids),
    Bad(COLOUR, "one image for a run on two of a case", of_two_channels("segment", "-i", "data/images/0.png", "-o", "mask.png")),
    Bad(COLOUR, "single images for a run on two of a case", of_two_channels("segment", "-i", "data/images", "-o", "masks")),
    Bad(COLOUR, "a name for the channel of two", two_sequences("export-nnunet", "scans", "--masks", "masks", "-o", "out",
        "--channel", "MR")),
    Bad(COLOUR, "a list of classes that takes the data", command("run", "-o", "out", "--data.classes", "crack", "dent", "data")),
    Bad(COLOUR, "two classes and bins of Singla et al., which are conditions too", of_classes("--coin.conditions", "2")),
    Bad(COLOUR, "two folders of one name that are to be classes", of_classes("--data.classes", "a/crack", "b/crack")),
    *layout_rows(),
]  # fmt: skip


# --- What is said -------------------------------------------------------------------------------------------------


def said(bad: Bad, folder: Path) -> tuple[int, str, str, Words]:
    """Give a bad input to its command in an empty folder: exit code, standard output, standard error without progress, words."""
    here, out, err = Path.cwd(), io.StringIO(), io.StringIO()
    os.chdir(folder)
    try:
        words = bad.make(Path("."))
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = cli.main(words)
    finally:
        os.chdir(here)
    progress = re.compile(r"^preparing slices: .*\n", re.MULTILINE)
    return code, out.getvalue(), progress.sub("", err.getvalue()), words


def shown(bad: Bad, line: str, folder: Path) -> str:
    """The line without what depends on the machine, the numbers DICOM draws, and, where it varies, a library's words."""
    line = line.strip().removeprefix("coinseg: error: ")
    for place in (str(folder.resolve()), str(folder)):
        line = line.replace(f"{place}/", "").replace(place, ".")
    line = re.sub(r"\bIM\d+\.dcm", "IM0.dcm", line)
    if bad.varies:
        line = re.sub(r"\(.*\)|'.*'|: .*?(?=; required)|from \d+ to \d+", "...", line, count=1)
    return line if len(line) <= 330 else f"{line[:200]} ... {line[-110:]}"


def row(bad: Bad, folder: Path, words: Words, err: str) -> str:
    """The row of the document."""
    command = " ".join(shlex.join(words).split())
    cells = (bad.what, f"`{command if len(command) < 90 else command[:80] + ' ...'}`", shown(bad, err, folder))
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def document(rows: dict[str, str]) -> str:
    """docs/robustness.md of the rows by `name_of`."""
    count = len(rows)
    text = f"""# What is said of bad input

Generated by `python tests/bad_inputs.py`; `tests/house/test_robustness.py` fails where it differs from what is said. {count} kinds of bad
input: every one ends with exit code 2 and this one line on standard error (after `coinseg: error: `), no traceback, nothing written,
and without using more memory than a good file of its size. `...` stands for words of a library, which change with its versions.
`SECURITY.md` says what is promised, `docs/research/fuzz.md` what random input found.
"""
    for section in dict.fromkeys(bad.section for bad in CASES):
        lines = [rows[name_of(bad)] for bad in CASES if bad.section == section]
        text += f"\n## {section}\n\n| what is wrong | command | the line |\n|---|---|---|\n" + "\n".join(lines) + "\n"
    return text


def name_of(bad: Bad) -> str:
    """Of a row."""
    return f"{bad.section}: {bad.what}"


if __name__ == "__main__":
    made: dict[str, str] = {}
    for bad in CASES:
        with tempfile.TemporaryDirectory() as folder:
            _, _, err, words = said(bad, Path(folder))
            made[name_of(bad)] = row(bad, Path(folder), words, err)
    DOCUMENT.write_text(document(made), encoding="utf-8")
