"""Files that would fill the memory or never end are refused at once: a second is far more than each needs."""

from __future__ import annotations

import json
import os
import struct
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

import coinseg
from coinseg.cli import main as cli
from coinseg.config.schema import MaskSettings
from coinseg.data.readers import dicom_tags
from coinseg.data.readers.dicom import read_series
from coinseg.data.readers.image import read_image
from coinseg.data.readers.volume import read_volume
from coinseg.errors import UserError
from coinseg.masks.postprocess import clean
from coinseg.runtime.files import read_json, read_yaml
from coinseg.runtime.records import CHECKSUMS
from writers import make_run, scan_of, write_series

PIXELS = struct.pack("<HH", 0x7FE0, 0x0010)


@pytest.fixture(autouse=True)
def at_once() -> Iterator[None]:
    began = time.process_time()
    yield
    assert time.process_time() - began < 5


def tags(root: Path) -> tuple[bytes, bytes]:
    """A DICOM file in two: its tags, and its pixels."""
    content = next(write_series(root / "whole", scan_of((4, 4, 2))).iterdir()).read_bytes()
    return content[: content.index(PIXELS)], content[content.index(PIXELS) :]


@pytest.mark.parametrize("length", ["known", "unknown"])
def test_a_sequence_of_a_million_empty_items(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, length: str) -> None:
    """Of which a tenth is enough here; limits are what they are for the whole."""
    monkeypatch.setattr(dicom_tags, "MAX_ELEMENTS", 10_000)
    before, behind = tags(tmp_path)
    items, end = struct.pack("<HHI", 0xFFFE, 0xE000, 0) * 100_000, struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    head = struct.pack("<HH", 0x5200, 0x9230) + b"SQ\0\0"
    known = length == "known"
    sequence = head + struct.pack("<I", len(items) if known else 0xFFFFFFFF) + items + (b"" if known else end)
    (tmp_path / "a.dcm").write_bytes(before + sequence + behind)
    with pytest.raises(UserError, match=r"a\.dcm cannot be read \((ValueError|OSError)\)"):
        read_volume(tmp_path / "a.dcm")
    with pytest.raises(UserError, match=r"a\.dcm cannot be read \((ValueError|OSError)\)"):
        read_series(tmp_path / "a.dcm")


def test_zeros_behind_the_tags_of_a_member_of_an_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dicom_tags, "MAX_ELEMENTS", 10_000)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a.dcm", tags(tmp_path)[0] + bytes(20_000_000))
    with pytest.raises(UserError, match=r"a\.dcm cannot be read \((ValueError|OSError)\)"):
        read_volume(tmp_path / "a.zip")


def sparse_tiff(path: Path, side: int, tile: int) -> None:
    """A TIFF of tiles that are nowhere in the file, which a reader fills with zeros."""
    count = (side // tile) ** 2
    short = [(258, 8), (259, 1), (262, 1), (277, 1)]
    entries = [(256, 4, 1, side), (257, 4, 1, side), *((tag, 3, 1, value) for tag, value in short)]
    start = 8 + 2 + 12 * (len(entries) + 4) + 4
    entries += [(322, 4, 1, tile), (323, 4, 1, tile), (324, 4, count, start), (325, 4, count, start + 4 * count)]
    table = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    path.write_bytes(b"II*\0" + struct.pack("<IH", 8, len(entries)) + table + bytes(4 + 8 * count))


def test_images_of_far_more_pixels_than_bytes(tmp_path: Path) -> None:
    for tile in (256, 4096):
        sparse_tiff(tmp_path / "a.tif", 16384, tile)
        with pytest.raises(UserError, match="claims 16384 x 16384 pixels and it has 0 bytes of them"):
            read_image(tmp_path / "a.tif")
    Image.new("1", (16384, 8192)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"claims 16384 x 8192 pixels and it has \d+ bytes of them"):
        read_image(tmp_path / "a.png")
    Image.new("L", (2048, 2048)).save(tmp_path / "b.png")  # an empty mask is small
    assert read_image(tmp_path / "b.png").shape == (2048, 2048)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.nrrd", b"NRRD0004\n" + b"# a comment\n" * 5_000_000 + b"type: short\n\n"),
        ("a.mha", b"ObjectType = Image\nNDims = 3\n" + b"Comment = aaaa\n" * 4_000_000 + b"ElementDataFile = LOCAL\n"),
    ],
    ids=["nrrd", "mha"],
)
def test_headers_of_60_megabytes(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match="it has no "):
        read_volume(tmp_path / name)


@pytest.mark.parametrize("content", ["data: " + "[" * 60_000, "data:\n " + "- " * 30_000, "data: {a: " * 6000, "a: 1\n" * 50_000])
def test_settings_that_are_nested_or_long(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.yaml").write_text(content)
    with pytest.raises(UserError, match=r"cannot be read as settings \(nested too deeply|cannot be read as settings \(\d+ bytes"):
        read_yaml(tmp_path / "a.yaml")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        (("data", "size"), "auto", "data.size is auto; required: the number that was chosen"),
        (("data", "size"), 4096, "data.size is 4096; required: auto or 1 to 1024"),
        (("masks", "opening"), 1023, "masks.opening is 1023; required: 0 to 255"),
    ],
)
def test_settings_of_a_model_that_would_need_gigabytes(
    tmp_path: Path, name: tuple[str, str], value: int | str, said: str
) -> None:
    root = make_run(tmp_path / "run")
    model = json.loads((root / "model.json").read_text())
    model["settings"][name[0]][name[1]] = value
    (root / "model.json").write_text(json.dumps(model))
    with pytest.raises(UserError, match=said):
        coinseg.load(root)


def test_the_largest_opening_needs_little() -> None:
    """And the same comes out of two lines as of a square."""
    masks = np.random.default_rng(0).random((2, 40, 44)) < 0.8
    settings = MaskSettings(opening=3, closing=4, keep="all", min_px=0)
    opened = ndimage.binary_opening(masks, np.ones((1, 3, 3)))
    padded = np.pad(opened, ((0, 0), (4, 4), (4, 4)))
    assert np.array_equal(clean(masks, settings), ndimage.binary_closing(padded, np.ones((1, 4, 4)))[:, 4:-4, 4:-4])
    assert not clean(masks, MaskSettings(opening=255, closing=255)).any()


def piped(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def endless(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("become", [piped, endless], ids=["pipe", "device"])
@pytest.mark.parametrize("name", ["model.json", CHECKSUMS, "classifier/model.safetensors", "coin/generator.safetensors"])
def test_files_of_a_model_that_are_none(tmp_path: Path, name: str, become: Callable[[Path], None]) -> None:
    root = make_run(tmp_path / "run")
    become(root / name)
    with pytest.raises(UserError, match=f"{name} is a pipe, a device or a folder; required: a file; remove it"):
        coinseg.load(root)


@pytest.mark.parametrize("become", [piped, endless], ids=["pipe", "device"])
def test_settings_and_records_that_are_none(tmp_path: Path, become: Callable[[Path], None]) -> None:
    become(tmp_path / "a")
    for read in (read_json, read_yaml):
        with pytest.raises(UserError, match="is a pipe, a device or a folder"):
            read(tmp_path / "a")


@pytest.mark.parametrize("become", [piped, endless], ids=["pipe", "device"])
@pytest.mark.parametrize("name", ["a.csv", "a.nii.gz", "a"])
def test_an_input_that_is_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, become: Callable[[Path], None]
) -> None:
    root = make_run(tmp_path / "run")
    become(tmp_path / name)
    assert cli.main(["segment", "-i", str(tmp_path / name), "-o", str(tmp_path / "out"), "--model", str(root)]) == 2
    assert f"{name} is a pipe or a device; required: a volume, an image or a folder; mend -i" in capsys.readouterr().err


def test_weights_with_a_header_of_60_megabytes(tmp_path: Path) -> None:
    root = make_run(tmp_path / "run")
    (root / "coin" / "generator.safetensors").write_bytes(struct.pack("<Q", 60_000_000) + b" " * 60_000_000)
    with pytest.raises(UserError, match=r"generator\.safetensors is damaged \(its header claims 60000000 bytes\)"):
        coinseg.load(root)
