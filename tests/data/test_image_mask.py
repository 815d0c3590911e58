"""Masks of plain images are labels: what is stored says what is inside, whatever it looks like."""

from __future__ import annotations

import io
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from scipy import ndimage

from coinseg.data.readers.image import image_size, is_turned, read_image
from coinseg.data.readers.image_mask import INVERTED, PICTURE, _distinct, labels_of_image, read_image_region
from coinseg.errors import UserError

SHAPE = (48, 44)
LESION = np.zeros(SHAPE, bool)
LESION[20:32, 10:22] = True
LEFT, RIGHT = LESION & (np.indices(SHAPE)[1] < 14), LESION & (np.indices(SHAPE)[1] >= 18)
MIDDLE = LESION & ~LEFT & ~RIGHT
Make = Callable[[Path], object]


def read_image_mask(path: Path, shape: tuple[int, int], values: tuple[int, ...] = ()) -> np.ndarray:
    """The mask alone."""
    return read_image_region(path, shape, values)[0]


def levels(ground: int, *lesions: int, dtype: type = np.uint8) -> np.ndarray:
    """A mask of one number for each third of the lesion."""
    pixels = np.full(SHAPE, ground, dtype)
    for part, level in zip((LEFT, MIDDLE, RIGHT), lesions * (3 // len(lesions)), strict=True):
        pixels[part] = level
    return pixels


def colours(ground: tuple[int, ...], *lesions: tuple[int, ...]) -> np.ndarray:
    return np.stack([levels(*each) for each in zip(ground, *lesions, strict=True)], -1)


def palette(pixels: np.ndarray, *entries: tuple[int, int, int], **options: object) -> Make:
    def make(path: Path) -> None:
        image = Image.fromarray(pixels).convert("L")
        image = Image.frombytes("P", image.size, pixels.tobytes())
        image.putpalette([part for entry in entries for part in entry])
        image.save(path, **options)  # type: ignore[arg-type]

    return make


def of(pixels: np.ndarray, **options: object) -> Make:
    return lambda path: Image.fromarray(pixels).save(path, **options)  # type: ignore[arg-type]


def tiff(pixels: np.ndarray, **options: object) -> Make:
    return lambda path: tifffile.imwrite(path, pixels, **options)  # type: ignore[arg-type]


def of_bits(bits: int) -> Make:
    """A grey PNG of 2 or 4 bits, as Pillow cannot write it: the pixels 0, 1, 2, 3 where the lesion is."""

    def make(path: Path) -> None:
        def chunk(kind: bytes, content: bytes) -> bytes:
            return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

        pixels, each = levels(0, 1, 2, 3), 8 // bits
        packed = sum(pixels[:, i::each].astype(int) << (8 - bits * (i + 1)) for i in range(each)).astype(np.uint8)  # type: ignore[union-attr]
        rows = np.pad(packed, ((0, 0), (1, 0))).tobytes()
        header = struct.pack(">2I5B", SHAPE[1], SHAPE[0], bits, 0, 0, 0, 0)
        content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)

    return make


def again(pixels: np.ndarray, quality: int = 80) -> np.ndarray:
    """What a JPEG makes of it, kept without loss: the noise stays."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="JPEG", quality=quality)
    return np.asarray(Image.open(file))


def alpha(colour: np.ndarray, opaque: np.ndarray) -> np.ndarray:
    return np.concatenate([colour.reshape(*SHAPE, -1), opaque[..., None]], -1).astype(np.uint8)


RED, YELLOW, GREEN, BLUE, WHITE, BLACK = (255, 0, 0), (255, 255, 0), (0, 128, 0), (0, 0, 255), (255,) * 3, (0,) * 3
SIZED = np.random.default_rng(0).integers(0, 255, (*SHAPE, 3))
KINDS: dict[str, tuple[str, Make]] = {
    "0 and 255": ("png", of(levels(0, 255))),
    "0 and 1": ("png", of(levels(0, 1))),
    "classes 1, 2, 3": ("png", of(levels(0, 1, 2, 3))),
    "greys 100, 255, 30": ("png", of(levels(0, 100, 255, 30))),
    "classes of 16 bits": ("png", of(levels(0, 1, 300, 65535, dtype=np.uint16))),
    "classes of 16 bits, TIFF": ("tif", tiff(levels(0, 1, 300, 65535, dtype=np.uint16))),
    "floats": ("tif", tiff(levels(0, 1).astype(np.float32))),
    "below 0 is nothing": ("tif", tiff(np.where(LESION, 1, np.where(np.arange(44) < 5, -1, 0)).astype(np.float32))),
    "1 bit": ("png", of(LESION)),
    "1 bit, BMP": ("bmp", of(LESION)),
    "1 bit, TIFF": ("tif", of(LESION)),
    "1 bit, TIFF, fax": ("tif", of(LESION, compression="group4")),
    "2 bits": ("png", of_bits(2)),
    "4 bits": ("png", of_bits(4)),
    "0 is white, and the ground": ("tif", tiff(levels(0, 255), photometric="miniswhite")),
    "0 is white, and the lesion": ("tif", tiff(levels(255, 0), photometric="miniswhite")),
    "0 is white, 16 bits": ("tif", tiff(levels(0, 7, dtype=np.uint16), photometric="miniswhite")),
    "palette of dark colours": ("png", palette(levels(0, 1, 2, 3), BLACK, (40, 0, 0), (0, 20, 0), (1, 1, 1))),
    "palette of VOC": ("png", palette(levels(0, 1, 2, 1), BLACK, (128, 0, 0), GREEN)),
    "palette of one colour": ("png", palette(levels(0, 1, 2, 3), *[BLACK] * 4)),
    "palette, white first": ("png", palette(levels(1, 0), WHITE, BLACK)),
    "palette, red on white": ("png", palette(levels(0, 1), WHITE, RED)),
    "palette, red on white, red first": ("png", palette(levels(1, 0), RED, WHITE)),
    "palette, a transparent ground": ("png", palette(levels(1, 0, 2, 0), WHITE, RED, BLACK, transparency=1)),
    "palette, BMP": ("bmp", palette(levels(0, 1, 2, 3), BLACK, RED, GREEN, BLUE)),
    "red and yellow": ("png", of(colours(BLACK, RED, YELLOW, RED))),
    "blue, red and green": ("png", of(colours(BLACK, BLUE, RED, GREEN))),
    "red on white": ("png", of(colours(WHITE, RED))),
    "colours on grey": ("png", of(colours((90, 90, 90), RED, (91, 90, 90), BLUE))),
    "colours of 16 bits": ("tif", tiff(colours(BLACK, RED, YELLOW, RED).astype(np.uint16) * 200, photometric="rgb")),
    "black in alpha": ("png", of(alpha(np.zeros((*SHAPE, 3)), levels(0, 255)))),
    "white in alpha": ("png", of(alpha(np.full((*SHAPE, 3), 255), levels(0, 255)))),
    "grey with alpha": ("png", of(alpha(np.full(SHAPE, 255), levels(0, 255)))),
    "anything in alpha": ("tif", tiff(alpha(np.full((*SHAPE, 3), 7), levels(0, 1)), photometric="rgb",
        extrasamples=["unassalpha"])),
    "colour with alpha": ("png", of(alpha(colours(BLACK, RED, BLUE, RED), levels(0, 255)))),
    "colours below nothing": ("png", of(alpha(np.where(LESION[..., None], 200, SIZED), levels(0, 255)))),
    "opaque": ("png", of(alpha(colours(WHITE, RED), levels(255, 255)))),
    "transparent throughout": ("png", of(alpha(colours(BLACK, WHITE), levels(0, 0)))),
    "a hole in white": ("png", of(alpha(np.full((*SHAPE, 3), 255), levels(255, 0)))),
    "inverted": ("png", of(levels(255, 0))),
    "inverted, 1 bit": ("png", of(~LESION)),
    "classes from 1": ("png", of(levels(1, 2, 3, 2))),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_stored_says_what_is_inside(tmp_path: Path, kind: str) -> None:
    suffix, make = KINDS[kind]
    make(tmp_path / f"m.{suffix}")
    assert np.array_equal(read_image_mask(tmp_path / f"m.{suffix}", SHAPE), LESION)


ABOUT: dict[str, tuple[str, Make]] = {
    "JPEG": ("jpg", of(levels(0, 255), quality=60)),
    "JPEG of a lower level": ("jpg", of(levels(0, 100), quality=85)),
    "JPEG, inverted": ("jpg", of(levels(255, 0), quality=75)),
    "JPEG, red on white": ("jpg", of(colours(WHITE, RED), quality=80)),
    "JPEG, red on black": ("jpg", of(colours(BLACK, RED), quality=80)),
    "PNG of a JPEG": ("png", of(again(levels(0, 255)))),
    "PNG of a good JPEG": ("png", of(again(levels(0, 250), 95))),
    "PNG of a JPEG in colours": ("png", of(again(colours(WHITE, BLUE)))),
    "soft edges": ("png", lambda path: Image.fromarray(levels(0, 255)).resize((22, 24)).resize(SHAPE[::-1], 2).save(path)),
}  # fmt: skip


@pytest.mark.parametrize("kind", ABOUT)
def test_what_is_stored_with_loss_is_found_within_a_pixel(tmp_path: Path, kind: str) -> None:
    suffix, make = ABOUT[kind]
    make(tmp_path / f"m.{suffix}")
    mask = read_image_mask(tmp_path / f"m.{suffix}", SHAPE)
    square = np.ones((3, 3), bool)
    assert (mask | ~ndimage.binary_erosion(LESION, square)).all()
    assert (~mask | ndimage.binary_dilation(LESION, square)).all()


@pytest.mark.parametrize("how", ["jpg", "png", "soft"])
def test_a_lower_class_with_soft_edges_is_a_class(tmp_path: Path, how: str) -> None:
    pixels = np.zeros((96, 88), np.uint8)
    pixels[8:40, 8:40], pixels[48:80, 40:80] = 90, 255
    image = Image.fromarray(pixels)
    (image.resize((44, 48), 2).resize((88, 96), 2) if how == "soft" else image).save(
        tmp_path / "m.jpg" if how == "jpg" else tmp_path / "m.png"
    )
    mask = read_image_mask(tmp_path / ("m.jpg" if how == "jpg" else "m.png"), (96, 88))
    assert (mask != (pixels > 0)).sum() < 150
    assert mask[12:36, 12:36].all()


def test_of_a_map_of_probabilities_the_upper_half_counts(tmp_path: Path) -> None:
    row, column = np.indices((300, 300)) - 150
    for wide in (5, 20, 40):
        pixels = (255 * np.exp(-(row**2 + column**2) / 2 / wide**2)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "m.png")
        assert np.array_equal(read_image_mask(tmp_path / "m.png", (300, 300)), pixels > 127)


def test_instances_are_all_inside(tmp_path: Path) -> None:
    pixels = np.zeros((90, 90), np.uint16)
    for i in range(81):
        pixels[10 * (i // 9) : 10 * (i // 9) + 1 + i % 8, 10 * (i % 9) : 10 * (i % 9) + 6] = i + 1
    Image.fromarray(pixels).save(tmp_path / "m.png")
    assert np.array_equal(read_image_mask(tmp_path / "m.png", (90, 90)), pixels > 0)


def test_a_lesion_at_the_border_is_not_taken_for_the_ground(tmp_path: Path) -> None:
    large = np.zeros(SHAPE, bool)
    large[:, 4:] = True  # nine tenths of the border
    for name, pixels in {
        "a": large,
        "b": large * np.uint8(255),
        "c": np.where(large[..., None], RED, BLACK).astype(np.uint8),
    }.items():
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
        assert np.array_equal(read_image_mask(tmp_path / f"{name}.png", SHAPE), large)
    Image.fromarray(np.where(LESION.T[:44, :44], 255, 255).astype(np.uint8)).save(tmp_path / "all.png")
    assert read_image_mask(tmp_path / "all.png", (44, 44)).all()
    red = np.full((*SHAPE, 3), 255, np.uint8)
    red[:30, :8] = RED
    Image.fromarray(red).save(tmp_path / "red.png")
    assert read_image_mask(tmp_path / "red.png", SHAPE).sum() == 240


def test_thin_lesions_of_a_lower_class_are_kept(tmp_path: Path) -> None:
    pixels = levels(0, 255)
    pixels[5, :] = 100
    Image.fromarray(pixels).save(tmp_path / "m.png")
    assert read_image_mask(tmp_path / "m.png", SHAPE).sum() == LESION.sum() + 44


def test_what_is_dark_on_light_is_noted(tmp_path: Path) -> None:
    for name, pixels, notes in (
        ("a", levels(255, 0), {INVERTED}),
        ("b", levels(0, 255), set()),
        ("c", colours(WHITE, RED), set()),
    ):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
        assert read_image_region(tmp_path / f"{name}.png", SHAPE)[1] == notes


@pytest.mark.parametrize(
    ("kind", "values", "inside", "has"),
    [
        ("classes 1, 2, 3", (1, 3, 9), LEFT | RIGHT, {"1", "3"}),
        ("2 bits", (2,), MIDDLE, {"2"}),
        ("4 bits", (3,), RIGHT, {"3"}),
        ("1 bit", (1,), LESION, {"1"}),
        ("1 bit, TIFF, fax", (1,), LESION, {"1"}),
        ("0 and 255", (1,), LESION & False, set()),
        ("0 and 255", (0,), ~LESION, {"0"}),
        ("0 is white, 16 bits", (7,), LESION, {"7"}),
        ("palette of dark colours", (1, 2), LEFT | MIDDLE, {"1", "2"}),
        ("palette, white first", (0,), LESION, {"0"}),
        ("black in alpha", (255,), LESION, {"255"}),
        ("red on white", (0,), LESION, {"0"}),
        ("opaque", (0,), LESION, {"0"}),
    ],
)
def test_values_are_those_that_are_stored(
    tmp_path: Path, kind: str, values: tuple[int, ...], inside: np.ndarray, has: set[str]
) -> None:
    suffix, make = KINDS[kind]
    make(tmp_path / f"m.{suffix}")
    mask, notes = read_image_region(tmp_path / f"m.{suffix}", SHAPE, values)
    assert np.array_equal(mask, inside)
    assert notes == has


def test_values_of_jpegs_are_those_nearby_and_colours_have_none(tmp_path: Path) -> None:
    Image.fromarray(levels(0, 255)).save(tmp_path / "m.jpg", quality=70)
    mask, notes = read_image_region(tmp_path / "m.jpg", SHAPE, (255,))
    assert notes == {"255"}
    assert (mask != LESION).sum() < 30
    assert read_image_region(tmp_path / "m.jpg", SHAPE, (1,))[1] == {"1"}  # nothing can tell 1 from 0 here
    Image.fromarray(colours(BLACK, RED, YELLOW, RED)).save(tmp_path / "m.png")
    with pytest.raises(UserError, match=r"is in colours; required: numbers, .*; name none"):
        read_image_mask(tmp_path / "m.png", SHAPE, (1,))


def test_labels_are_listed(tmp_path: Path) -> None:
    Image.fromarray(levels(0, 1, 2, 200)).save(tmp_path / "m.png")
    assert labels_of_image(tmp_path / "m.png") == [0, 1, 2, 200]


# --- orientation


def turned(pixels: np.ndarray, code: int) -> np.ndarray:
    """How a camera stores what is to be shown as `pixels`."""
    flips: dict[int, Callable[[np.ndarray], np.ndarray]] = {
        1: lambda a: a, 2: np.fliplr, 3: lambda a: a[::-1, ::-1], 4: np.flipud, 5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, 1), 7: lambda a: a[::-1, ::-1].swapaxes(0, 1), 8: lambda a: np.rot90(a, -1),
    }  # fmt: skip
    return np.ascontiguousarray(flips[code](pixels))


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "lzw.tif", "P.png"])
@pytest.mark.parametrize("code", range(1, 9))
def test_images_and_masks_are_read_as_they_are_shown(tmp_path: Path, suffix: str, code: int) -> None:
    path, pixels = tmp_path / f"x.{suffix}", turned(levels(0, 255), code)
    if suffix == "tif":
        tifffile.imwrite(path, pixels, extratags=[(274, "H", 1, code, True)])
    else:
        exif = Image.Exif()
        exif[274] = code
        image = Image.fromarray(pixels)
        options: dict[str, object] = {"compression": "tiff_lzw"} if "lzw" in suffix else {}
        (image.convert("P") if "P" in suffix else image).save(path, exif=exif, **options)  # type: ignore[arg-type]
    assert image_size(path) == SHAPE
    assert is_turned(path) == (code != 1)
    assert np.abs(read_image(path) - levels(0, 255)).max() < 40
    assert np.array_equal(read_image_mask(path, SHAPE), LESION)


def test_a_broken_orientation_turns_nothing(tmp_path: Path) -> None:
    for number, content in enumerate((b"Exif\0\0nonsense", b"Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\x2a\0\0\0\0\0\0")):
        Image.fromarray(levels(0, 255)).save(tmp_path / f"{number}.jpg", exif=content)
        assert not is_turned(tmp_path / f"{number}.jpg")
        assert read_image(tmp_path / f"{number}.jpg").shape == SHAPE


def test_a_tiff_without_pixels_is_refused(tmp_path: Path) -> None:
    """Its header claims samples of 4104 bits, of which a decoder makes an array without rows and columns."""
    path = tmp_path / "m.tif"
    Image.fromarray(LESION.astype(np.uint8)).save(path)
    with tifffile.TiffFile(path, mode="r+") as file:
        file.pages.first.tags["BitsPerSample"].overwrite(4104)
    with pytest.raises(UserError, match=r"m\.tif cannot be read \(pixels of shape \(0,\)\)"):
        read_image_region(path, SHAPE)


def test_the_ground_of_a_very_long_image_is_found_at_once() -> None:
    """NumPy takes a minute for the distinct rows of four million."""
    rng = np.random.default_rng(0)
    for shape in ((500, 1), (500, 3), (500, 4)):
        colours = rng.integers(0, 3, shape).astype(np.float32)
        for found, expected in zip(_distinct(colours), np.unique(colours, axis=0, return_counts=True), strict=True):
            assert np.array_equal(found, expected)
    began = time.process_time()
    _distinct(np.zeros((2**21, 1), np.float32))
    assert time.process_time() - began < 5


def test_a_photograph_by_the_name_of_a_mask_is_noted(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 255, (60, 50), dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / "photo.png")
    Image.fromarray(np.stack([values] * 3, -1)).save(tmp_path / "photo.jpg")
    for name in ("photo.png", "photo.jpg"):
        assert PICTURE in read_image_region(tmp_path / name, (60, 50))[1]
    row, column = np.indices((60, 50)) - 28
    soft = (255 * np.exp(-(row**2 + column**2) / 2 / 9**2)).astype(np.uint8)
    instances = np.zeros((60, 50), np.uint16)
    instances[5:50, 10:20] = np.arange(450).reshape(45, 10)
    for mask in (soft, instances, (values > 20).astype(np.uint8) * 255):
        Image.fromarray(mask).save(tmp_path / "m.png")
        assert PICTURE not in read_image_region(tmp_path / "m.png", (60, 50))[1]
