"""What strangers' bytes can reach: every reader, with valid files to start from. Used by `test_fuzz` and `benchmarks/fuzz.py`.

A target reads one file of a folder. It may answer, or raise `UserError`; anything else is a defect.
"""

from __future__ import annotations

import io
import json
import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image
from pydicom.uid import UID, ExplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless, RLELossless

from coinseg.cli import main as cli
from coinseg.config.parsing import PRESETS, settings_from
from coinseg.data.layouts.dataset_json import values_by_class
from coinseg.data.layouts.registry import read_layout
from coinseg.data.readers.dicom import read_series
from coinseg.data.readers.image import image_size, is_image, read_image
from coinseg.data.readers.image_mask import read_image_region
from coinseg.data.readers.paths import sha256_of
from coinseg.data.readers.volume import read_volume
from coinseg.errors import UserError
from coinseg.export.folder import excerpt
from coinseg.inference.checkpoint import load
from coinseg.networks.classifier import _pretrained
from coinseg.pipeline.run_folder import as_yaml
from coinseg.report import examples
from coinseg.runtime.files import read_yaml
from coinseg.runtime.stage import load_checkpoint, read_stats
from examples import EXAMPLES
from fuzz_folders import OWN
from writers import PLAIN, header, make_run, save_dicom, scan_of, write_as, write_series, zipped

SMALL = scan_of((4, 3, 2))


@dataclass(frozen=True)
class Target:
    """A file that is mutated, and what reads it.

    Args:
        make: makes the folder and returns the file in it.
        read: is given the file.
    """

    make: Callable[[Path], Path]
    read: Callable[[Path], object]


def _volume(suffix: str) -> Target:
    return Target(lambda folder: write_as(folder, suffix, SMALL, PLAIN), lambda path: read_volume(path).scan.sum())


def _raw_volume() -> Target:
    return Target(lambda f: (write_as(f, ".mhd", SMALL, PLAIN), f / "scan.raw")[1], lambda p: read_volume(p.with_suffix(".mhd")))


def _dicom(syntax: object = None) -> Target:
    def make(folder: Path) -> Path:
        options = {} if syntax is None else {"syntax": syntax}
        return sorted(write_series(folder / "series", scan_of((64, 64, 1)), **options).iterdir())[0]  # type: ignore[arg-type]

    def read(path: Path) -> None:
        try:
            read_volume(path)
        finally:
            read_series(path.parent)

    return Target(make, read)


def _xray(syntax: UID = ExplicitVRLittleEndian) -> Target:
    def make(folder: Path) -> Path:
        pixels = np.random.default_rng(0).integers(0, 4000, (64, 64)).astype("<u2")
        ds = header(Modality="DX", SOPClassUID="1.2.840.10008.5.1.4.1.1.1.1", Rows=64, Columns=64, PixelData=pixels.tobytes())
        ds.PhotometricInterpretation, ds.PixelPaddingValue, ds.RescaleSlope, ds.RescaleIntercept = "MONOCHROME1", 7, 1, 0
        return save_dicom(ds, folder / "x.dcm", syntax)

    return Target(make, lambda path: (image_size(path), read_image(path)) if is_image(path) else read_volume(path))


def _archive(folder: Path) -> Path:
    return zipped(write_series(folder / "series", SMALL), folder / "scan.zip")


def _image(suffix: str, **options: object) -> Target:
    def make(folder: Path) -> Path:
        pixels = np.random.default_rng(0).integers(0, 255, (9, 8, 3) if suffix == ".jpg" else (9, 8)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"x{suffix}", **options)  # type: ignore[arg-type]
        return folder / f"x{suffix}"

    return Target(make, lambda path: (read_image(path), read_image_region(path, image_size(path))))


def _mask(suffix: str, mode: str, values: tuple[int, ...] = ()) -> Target:
    """A mask whose labels are read as they are stored."""

    def make(folder: Path) -> Path:
        pixels = np.random.default_rng(0).integers(0, 3, (9, 8)).astype(np.uint8)
        Image.fromarray(pixels).convert(mode).save(folder / f"x{suffix}")
        return folder / f"x{suffix}"

    return Target(make, lambda path: read_image_region(path, image_size(path), values))


def _palette() -> Target:
    def make(folder: Path) -> Path:
        pixels = np.random.default_rng(0).integers(0, 3, (9, 8)).astype(np.uint8)
        Image.fromarray(pixels).convert("P").save(folder / "x.png", transparency=1)
        return folder / "x.png"

    return Target(make, lambda path: read_image_region(path, image_size(path)))


def _layout(layout: str, name: str, encoding: str = "", first: str = "") -> Target:
    settings = EXAMPLES[layout].settings(layout=layout).data

    def make(folder: Path) -> Path:
        path = EXAMPLES[layout].make(folder / "data") / name
        if encoding:
            path.write_text(first + path.read_text(), encoding=encoding)
        return path

    return Target(make, lambda path: read_layout(path.parent, settings))


def _table_of_classes(folder: Path) -> Path:
    path = EXAMPLES["csv"].make(folder / "data") / "labels.csv"
    rows = [line.split(",") for line in path.read_text().splitlines()[1:]]
    lines = [f"{row[0]},{row[1]},{i % 2},p{i}" for i, row in enumerate(rows)]
    path.write_text("\n".join(["file,edema,mass,patient", *lines]) + "\n")
    return path


def _classes_json(folder: Path) -> Path:
    (folder / "classes.json").write_text(json.dumps({"edema": 1, "mass": [2, 3], "cyst": "4"}))
    return folder / "classes.json"


def _run(name: str, read: Callable[[Path], object]) -> Target:
    return Target(lambda folder: make_run(folder / "run") / name, read)


def _settings(folder: Path) -> Path:
    path = folder / "settings.yaml"
    path.write_text(yaml.safe_dump(as_yaml(PRESETS["thesis"].as_dict())))
    return path


def _saved(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def _manifest(folder: Path) -> Path:
    (folder / "manifest.json").write_text(json.dumps({"data": {"cases": 3, "label_source": "x"}, "version": "1", "scores": {}}))
    return folder / "manifest.json"


def _examples(folder: Path) -> Path:
    content = {name: np.zeros((1, 4, 4)) for name in examples.FIELDS}
    np.savez_compressed(folder / "examples.npz", **content | {"group": np.array(["best"]), "name": np.array(["x"])})
    return folder / "examples.npz"


def _arguments(path: Path) -> None:
    """The words of a command line, one a line; only commands that tell are called."""
    words = path.read_bytes().decode("utf-8", "replace").split("\n")
    with suppress(SystemExit):  # --help, --version, --print_config
        cli.main([word for word in words if word not in ("-o", "--out", "--print_shtab")])


def _command(folder: Path) -> Path:
    words = [
        "inspect", "nowhere", "--data.size", "64", "--coin.steps=5", "--data.organ", "a", "b", "--masks.threshold", "0.5",
            "--json",
        "--data.axis", "coronal", "--seed", "1", "--classifier.lr", "1e-3", "--data.normal=['a']", "--engine.logger",
            "none",
    ]  # fmt: skip
    (folder / "words").write_text("\n".join(words))
    return folder / "words"


def _a_png(folder: Path) -> Path:
    file = io.BytesIO()
    Image.new("I;16", (6, 5)).save(file, format="PNG")
    (folder / "x.png").write_bytes(file.getvalue())
    return folder / "x.png"


WEIGHTS = {"weight": torch.zeros(2, 3), "bias": torch.zeros(2)}
TARGETS: dict[str, Target] = {
    **{suffix: _volume(suffix) for suffix in (".nii", ".nii.gz", ".nrrd", ".mha", ".mhd")},
    "raw of .mhd": _raw_volume(),
    "dicom": _dicom(), "dicom, RLE": _dicom(RLELossless), "dicom, JPEG 2000": _dicom(JPEG2000Lossless),
    "dicom, JPEG-LS": _dicom(JPEGLSLossless), "X-ray": _xray(), "X-ray, RLE": _xray(RLELossless),
    ".zip": Target(_archive, lambda path: (sha256_of(path), read_volume(path))),
    **{suffix: _image(suffix) for suffix in (".png", ".jpg", ".bmp", ".tif")}, "palette": _palette(),
    ".tif, deflated": _image(".tif", compression="tiff_deflate"), ".tif, LZW": _image(".tif", compression="tiff_lzw"),
    "mask with alpha": _mask(".png", "RGBA"), "mask of labels": _mask(".png", "L", (1, 2)),
    "mask, .tif": _mask(".tif", "L", (2,)), "mask of bits": _mask(".tif", "1"),
    "mask, DICOM": Target(_xray().make, lambda path: read_image_region(path, (64, 64), (7,))),
    ".png, 16 bits": Target(_a_png, read_image),
    "table of files": _layout("csv", "labels.csv"), "table in UTF-16": _layout("csv", "labels.csv", "utf-16", "# comment\n"),
    "table of classes": Target(_table_of_classes, lambda path: read_layout(path.parent, EXAMPLES["csv"].settings().data)),
    "classes.json": Target(_classes_json, lambda path: values_by_class(path.parent, ("edema", "mass"))),
    "table of slices": _layout("totalsegmentator", "labels.csv"),
    "meta.csv": _layout("totalsegmentator", "meta.csv"), "table of DICOM": _layout("dicom", "labels.csv"),
    "dataset.json, nnU-Net": _layout("nnunet", "dataset.json"), "dataset.json, Decathlon": _layout("decathlon", "dataset.json"),
    "settings": Target(_settings, lambda path: settings_from(read_yaml(path))),
    "model.json": _run("model.json", lambda path: load(path.parent)),
    "weights of f": _run("classifier/model.safetensors", lambda path: load(path.parents[1])),
    "weights of the generator": _run("coin/generator.safetensors", lambda path: load(path.parents[1])),
    "manifest of an export": Target(_manifest, lambda path: excerpt(path.parent)),
    "pretrained weights": Target(lambda f: _saved(f / "w.pth", WEIGHTS), _pretrained),
    "checkpoint": Target(lambda f: _saved(f / "c.pt", {"key": "x", "step": 1, "seconds": 1, "model": WEIGHTS}), load_checkpoint),
    "examples": Target(_examples, examples.load_examples),
    "log": Target(lambda f: (f / "s.jsonl", (f / "s.jsonl").write_text('{"step": 1, "loss": 0.5}\n' * 3))[0], read_stats),
    **{name: Target(*made) for name, made in OWN.items()},
    "command line": Target(_command, _arguments),
}  # fmt: skip
ODD = (
    b"\0", b"\xff", b"\x7f", b"\x80", b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\x80", b"nan", b"inf", b"1e999", b"-1",
        b"0", b"..",
    b"/", b"9" * 20, b"9" * 5000, b"\r\n", b"\n", b",", b'"', b"{", b"[" * 500, b"null", b"true", b"&a", b"*a",
        b"!!python/object:os.system ",
    b"--", b"=", b"\x1b[2J", b"\xed\xa0\x80", b":", b"#", b"'", b"[]", b"{}", b"-", b" ",
)  # fmt: skip
"""What breaks readers: extremes of numbers, what is no number, and words of the formats."""


def mutated(content: bytes, seed: int, edits: int) -> bytes:
    """The content with a few changes: bytes flipped, odd things put in or over others, parts cut, doubled or moved."""
    draw, changed = random.Random(seed), bytearray(content)
    for _ in range(edits):
        at, kind = draw.randrange(len(changed) + 1), draw.randrange(7)
        # Headers are where it hurts.
        at = draw.randrange(min(len(changed), 400) + 1) if draw.random() < 0.4 else at
        length = draw.choice((1, 2, 4, 8, 32, 200))
        if kind == 0 and at < len(changed):
            changed[at] ^= 1 << draw.randrange(8)
        elif kind == 1:
            odd = draw.choice(ODD)
            changed[at : at + len(odd)] = odd
        elif kind == 2:
            changed[at:at] = draw.choice(ODD)
        elif kind == 3:
            del changed[at : at + length]
        elif kind == 4:
            changed[at:at] = changed[at : at + length]
        elif kind == 5:
            changed[at : at + length] = draw.randbytes(min(length, 8))
        elif draw.random() < 0.2:
            del changed[at:]
    return bytes(changed)


def attempt(target: Target, path: Path, content: bytes) -> str:
    """Read `content` in the place of the file; returns what was said, empty when it was read. Raises what is a defect."""
    path.write_bytes(content)
    try:
        target.read(path)
    except UserError as error:
        said = str(error)
    else:
        return ""
    assert said.isprintable()
    assert len(said) < 7000
    return said
