"""Plain images: every kind becomes one grey channel, masks follow one rule, and bad files are refused in one line."""

from __future__ import annotations

import struct
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from coinseg.data.readers.image import image_size, read_image, write_image_mask
from coinseg.data.readers.image_mask import read_image_region
from coinseg.errors import UserError

NOISE = np.random.default_rng(0).integers(0, 255, (64, 48), dtype=np.uint8)


def read_image_mask(path: Path, shape: tuple[int, int], values: tuple[int, ...] = ()) -> np.ndarray:
    """The mask alone."""
    return read_image_region(path, shape, values)[0]


def refusal(path: Path) -> str:
    """What is said about an image that cannot be read: one line with its path."""
    with pytest.raises(UserError) as caught:
        read_image(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


def saved(path: Path, *levels: int) -> Path:
    """An 8-bit image of one row."""
    Image.fromarray(np.array([levels], np.uint8)).save(path)
    return path


# --- pixels


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [
        *[(mode, "png") for mode in ("L", "1", "LA", "P", "RGB", "RGBA", "I;16")],
        *[(mode, "tif") for mode in ("L", "RGB", "F", "I;16")],
        *[(mode, "bmp") for mode in ("L", "RGB", "P")],
        *[(mode, "jpg") for mode in ("L", "RGB", "CMYK")],
        ("L", "JPEG"),
        ("L", "TIFF"),
    ],
)
def test_every_kind_of_image_becomes_grey(tmp_path: Path, mode: str, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.new("L", (7, 5), 255).convert(mode).save(path)
    grey = read_image(path)
    assert grey.shape == image_size(path) == (5, 7)
    assert grey.dtype == np.float32
    assert grey == pytest.approx(np.full((5, 7), 255.0 if mode != "1" else grey.max()), abs=1)
    assert grey.min() > 0


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_levels_stay_as_stored(tmp_path: Path, suffix: str, dtype: type) -> None:
    levels = np.array([[0, 1, 200], [3, np.iinfo(dtype).max, 77]], dtype)
    Image.fromarray(levels).save(tmp_path / f"a.{suffix}")
    assert np.array_equal(read_image(tmp_path / f"a.{suffix}"), levels.astype(np.float32))


def test_float_tiff_stays_as_stored(tmp_path: Path) -> None:
    levels = np.array([[-1000.5, 0.25], [3000.0, 1e-3]], np.float32)
    tifffile.imwrite(tmp_path / "a.tif", levels)
    assert np.array_equal(read_image(tmp_path / "a.tif"), levels)


def test_colour_is_weighted_and_grey_in_colour_is_exact(tmp_path: Path) -> None:
    colours = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]]], np.uint8)
    Image.fromarray(colours).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png")[0] == pytest.approx(255 * np.array([0.299, 0.587, 0.114]))
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    Image.fromarray(np.stack([ramp] * 3, -1)).save(tmp_path / "b.png")
    assert np.array_equal(read_image(tmp_path / "b.png"), ramp.astype(np.float32))


def test_palettes_are_looked_up_and_alpha_is_ignored(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 10, 10, 90, 90, 90])
    image.putdata([1, 0])
    image.save(tmp_path / "p.png")
    assert read_image(tmp_path / "p.png").tolist() == [[90, 10]]
    Image.fromarray(np.array([[[7, 7, 7, 0], [9, 9, 9, 255]]], np.uint8)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").tolist() == [[7, 9]]


# --- refusals


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "bmp"])
def test_truncated_images_are_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(NOISE).save(path)
    whole = path.read_bytes()
    for length in (0, 3, 20, len(whole) // 2):
        path.write_bytes(whole[:length])
        assert "cannot be read" in refusal(path)


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "bmp"])
def test_flipped_bytes_raise_nothing_but_user_errors(tmp_path: Path, suffix: str, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(NOISE[:8, :8]).save(path)
    whole = path.read_bytes()
    for place in range(0, min(len(whole), 400), 4):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 64]) + whole[place + 1 :])
        with suppress(UserError):
            read_image(path)
    assert capfd.readouterr().err == ""


def test_files_that_are_no_images(tmp_path: Path) -> None:
    assert "missing" in refusal(tmp_path / "no.png")
    (tmp_path / "folder.png").mkdir()
    assert "missing or no file" in refusal(tmp_path / "folder.png")
    (tmp_path / "a.gif").write_bytes(b"GIF89a")
    assert ".png" in refusal(tmp_path / "a.gif")
    (tmp_path / "text.png").write_text("not a picture")
    assert "cannot be read" in refusal(tmp_path / "text.png")


def test_several_pages_and_nan_are_refused(tmp_path: Path) -> None:
    page = Image.new("L", (4, 4))
    page.save(tmp_path / "pages.tif", save_all=True, append_images=[page])
    assert "several pages" in refusal(tmp_path / "pages.tif")
    for value in (np.nan, np.inf):
        Image.fromarray(np.full((4, 4), value, np.float32)).save(tmp_path / "a.tif")
        assert "NaN or inf" in refusal(tmp_path / "a.tif")


def test_a_header_that_claims_too_much_is_refused(tmp_path: Path) -> None:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">2I5B", 100_000, 100_000, 8, 0, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(10_000))) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(content)
    assert "cannot be read" in refusal(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "a.tif", NOISE)
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+") as file:
        for name in ("ImageWidth", "ImageLength"):
            file.pages.first.tags[name].overwrite(100_000)
    assert "100000 x 100000" in refusal(tmp_path / "a.tif")


# --- masks


@pytest.mark.parametrize(
    ("stored", "inside"),
    [([0, 1], [0, 1]), ([0, 255], [0, 1]), ([4, 251, 120], [0, 1, 0]), ([0, 0], [0, 0]), ([255, 255], [1, 1])],
)
def test_mask_rule(tmp_path: Path, stored: list[int], inside: list[int]) -> None:
    mask = read_image_mask(saved(tmp_path / "m.png", *stored), (1, len(stored)))
    assert mask.dtype == bool
    assert mask.tolist() == [[bool(pixel) for pixel in inside]]


def test_mask_kept_as_jpeg(tmp_path: Path) -> None:
    mask = np.zeros((64, 64), bool)
    mask[17:43, 9:51] = True
    Image.fromarray(mask.astype(np.uint8) * 255).save(tmp_path / "m.jpg", quality=75)
    assert len(np.unique(read_image(tmp_path / "m.jpg"))) > 2  # edges are soft
    assert np.array_equal(read_image_mask(tmp_path / "m.jpg", (64, 64)), mask)


@pytest.mark.parametrize(
    ("values", "inside"),
    [((1,), [0, 1, 0, 0]), ((1, 2), [0, 1, 1, 0]), ((200,), [0, 0, 0, 1]), ((0,), [1, 0, 0, 0]), ((9,), [0] * 4)],
)
def test_label_values_count_exactly(tmp_path: Path, values: tuple[int, ...], inside: list[int]) -> None:
    mask = read_image_mask(saved(tmp_path / "m.png", 0, 1, 2, 200), (1, 4), values)
    assert mask.dtype == bool
    assert mask.tolist() == [[bool(pixel) for pixel in inside]]


def test_label_values_of_16_bits(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 300, 65535]], np.uint16)).save(tmp_path / "m.png")
    assert read_image_mask(tmp_path / "m.png", (1, 3), (65535,)).tolist() == [[False, False, True]]


def test_mask_of_another_shape_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.png", 0, 1, 1)
    with pytest.raises(UserError, match=r"1 x 3 pixels \(H x W\) and its image 3 x 1") as caught:
        read_image_mask(path, (3, 1))
    assert str(path) in str(caught.value)


def test_mask_round_trip(tmp_path: Path) -> None:
    mask, path = np.eye(5, 6, dtype=bool), tmp_path / "new" / "m.png"
    write_image_mask(path, mask)
    assert np.array_equal(read_image_mask(path, (5, 6)), mask)
    assert set(np.unique(read_image(path))) == {0.0, 255.0}
    with pytest.raises(UserError, match="already exists"):
        write_image_mask(path, ~mask)
    assert np.array_equal(read_image_mask(path, (5, 6)), mask)
    write_image_mask(path, ~mask, overwrite=True)
    assert np.array_equal(read_image_mask(path, (5, 6)), ~mask)
    with pytest.raises(UserError, match=r"\.png"):
        write_image_mask(tmp_path / "m.jpg", mask)
    assert sorted(p.name for p in path.parent.iterdir()) == ["m.png"]


@pytest.mark.parametrize("parts", [{"rowsperstrip": 8}, {"tile": (16, 16)}], ids=["strips", "tiles"])
@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("fault", ["no bytes", "no place", "not named"])
def test_parts_of_a_tiff_that_are_not_there_are_no_black_pixels(
    tmp_path: Path, parts: dict[str, Any], compression: str | None, fault: str
) -> None:
    path, kind = tmp_path / "a.tif", "Strip" if "rowsperstrip" in parts else "Tile"
    tifffile.imwrite(path, NOISE + 1, compression=compression, photometric="minisblack", **parts)
    assert (read_image(path) == NOISE + 1).all()
    with tifffile.TiffFile(path, mode="r+") as file:
        for name in (f"{kind}Offsets", f"{kind}ByteCounts"):
            tag = file.pages.first.tags[name]
            if fault == "not named":
                tag.overwrite(tag.value[:-1])
            elif (fault == "no place") == (name == f"{kind}Offsets"):
                tag.overwrite((*tag.value[:-1], 0))
    count = 8 if kind == "Strip" else 12
    assert f"(1 of the {count} parts of its pixels are not there)" in refusal(path)
    with pytest.raises(UserError, match="are not there"):
        read_image_mask(path, (64, 48))
