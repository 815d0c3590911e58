"""Intensities: the fingerprint by hand, the window there and back, percentiles."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from coinseg.data.layouts.registry import read_layout
from coinseg.data.readers.image import read_image
from coinseg.data.slices.case import encoder
from coinseg.data.slices.channels import RGB
from coinseg.data.slices.crop import Box
from coinseg.data.slices.intensity import (
    CODE_WINDOW,
    CODES,
    HU_MAX,
    HU_MIN,
    Window,
    encode_percentiles,
    fingerprint,
    foreground_histogram,
    percentiles,
    signed,
)
from coinseg.data.slices.scale import kind_of_intensity
from coinseg.data.slices.store import prepare
from coinseg.errors import UserError
from coinseg.inference.checkpoint import load
from coinseg.types import LUMINANCE
from conftest import tiny_settings, write_images
from writers import make_run

BINS = HU_MAX - HU_MIN + 1


def histogram(counts: dict[int, int]) -> np.ndarray:
    found = np.zeros(BINS, np.int64)
    for hu, count in counts.items():
        found[hu - HU_MIN] = count
    return found


def test_fingerprint_by_hand() -> None:
    # One voxel of each of 0..999: 0.5 % are 5 voxels, reached at 4; 99.5 % are 995, reached at 994.
    assert fingerprint(histogram(dict.fromkeys(range(1000), 1))) == Window(4.0, 994.0)
    assert fingerprint(histogram(dict.fromkeys(range(-100, 100), 1))) == Window(-100.0, 98.0)


def test_fingerprint_leaves_out_the_tails() -> None:
    # 4 of 1000 in metal and 4 in air are less than half a percent.
    assert fingerprint(histogram({-1000: 4, 0: 500, 100: 492, 3000: 4})) == Window(0.0, 100.0)
    assert fingerprint(histogram({-1000: 5, 0: 500, 100: 489, 3000: 6})) == Window(-1000.0, 3000.0)


def test_fingerprint_does_not_depend_on_the_number_of_voxels() -> None:
    counts = histogram({hu: 1 + hu % 7 for hu in range(-80, 300)})
    assert fingerprint(counts) == fingerprint(counts * 1_000_000)


def test_fingerprint_of_one_value_has_a_width() -> None:
    assert fingerprint(histogram({40: 100})) == Window(40.0, 41.0)
    assert fingerprint(histogram({HU_MAX: 1})) == Window(HU_MAX, HU_MAX + 1)


def test_fingerprint_agrees_with_the_percentiles_of_the_voxels() -> None:
    values = np.random.default_rng(0).normal(60, 40, 40_000).round().astype(np.int16)
    found = fingerprint(foreground_histogram(values, np.ones(values.shape, bool)))
    assert abs(found.low - np.percentile(values, 0.5)) <= 1
    assert abs(found.high - np.percentile(values, 99.5)) <= 1


def test_fingerprints_of_patients_add_up() -> None:
    rng = np.random.default_rng(1)
    scans = [rng.integers(-200, 400, (3, 5, 5)).astype(np.int16) for _ in range(3)]
    together = np.stack(scans)
    added = sum(foreground_histogram(s, None) for s in scans)
    assert np.array_equal(added, foreground_histogram(together, None))


def test_foreground_is_the_mask() -> None:
    scan = np.array([[[-1000.0, -500, -499, 10, 10, 200]]])
    mask = np.array([[[True, False, False, True, True, False]]])
    found = foreground_histogram(scan, mask)
    assert found.shape == (BINS,)
    assert np.array_equal(found, histogram({-1000: 1, 10: 2}))


def test_foreground_without_a_mask_is_the_body() -> None:
    # -500 itself is not above -500.
    scan = np.array([[[-1000.0, -500, -499, 10, 10, 200]]])
    assert np.array_equal(foreground_histogram(scan, None), histogram({-499: 1, 10: 2, 200: 1}))


def test_foreground_is_rounded_and_kept_in_range() -> None:
    scan = np.array([[[-3000.0, -1024.4, 9.6, 10.4, 9000, 3071.2]]])
    everything = np.ones(scan.shape, bool)
    assert np.array_equal(foreground_histogram(scan, everything), histogram({-1024: 2, 10: 2, 3071: 2}))


def test_nothing_in_the_mask() -> None:
    assert foreground_histogram(np.zeros((1, 2, 2)), np.zeros((1, 2, 2), bool)).sum() == 0


def test_unit_by_hand() -> None:
    found = Window(-100.0, 300.0).unit(np.array([-1000, -100, 0, 100, 300, 3000], np.int16))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [0, 0, 0.25, 0.5, 1, 1], atol=1e-7)


@pytest.mark.parametrize("kind", [np.int16, np.uint16, np.float32, np.float64])
def test_there_and_back(kind: type) -> None:
    window, values = Window(10.0, 250.0), np.arange(10, 251).astype(kind)
    np.testing.assert_allclose(window.source(window.unit(values)), values, atol=1e-4)
    units = np.linspace(0, 1, 33, dtype=np.float32)
    np.testing.assert_allclose(window.unit(window.source(units)), units, atol=1e-6)


def test_outside_the_window_is_clipped_and_not_wrapped() -> None:
    window = Window(-50.0, 50.0)
    assert window.unit(np.array([-32768, 32767], np.int16)).tolist() == [0, 1]
    assert CODE_WINDOW.unit(np.array([0, CODES], np.uint16)).tolist() == [0, 1]
    assert window.source(window.unit(np.array([400], np.int16))).tolist() == [50]


def test_unit_does_not_change_its_input() -> None:
    values = np.array([1.0, 400.0], np.float32)
    Window(0.0, 100.0).unit(values)
    assert values.tolist() == [1, 400]


def test_signed() -> None:
    assert signed(np.array([0, 0.25, 0.5, 1])).tolist() == [-1, -0.5, 0, 1]


def test_percentiles_by_hand() -> None:
    # Of 0..1000 the 0.5 and 99.5 percentiles are 5 and 995.
    found = encode_percentiles(np.arange(1001, dtype=np.float64).reshape(7, 143))
    flat = found.ravel()
    assert flat[:6].tolist() == [0] * 6
    assert flat[995:].tolist() == [CODES] * 6
    assert flat[500] == np.rint(0.5 * CODES)
    assert flat[104] == np.rint(0.1 * CODES)


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.uint16, np.float32])
@pytest.mark.parametrize("value", [0, 7, 200])
def test_constant_image_becomes_zeros(kind: type, value: int) -> None:
    found = encode_percentiles(np.full((4, 5), value, kind))
    assert found.shape == (4, 5)
    assert (found == 0).all()


def test_rare_bright_pixels_are_not_lost() -> None:
    # Both percentiles are 3; the range is then that of the image.
    image = np.full((50, 50), 3, np.uint8)
    image[10, 10], image[11, 11] = 5, 7
    found = encode_percentiles(image)
    assert found[0, 0] == 0
    assert found[11, 11] == CODES
    assert found[10, 10] == np.rint(CODES / 2)


@pytest.mark.parametrize("kind", [np.int8, np.int16, np.uint16, np.float32])
def test_an_image_may_use_the_whole_range_of_its_type(kind: type) -> None:
    ends = np.finfo(np.float16) if kind == np.float32 else np.iinfo(kind)
    image = np.full((50, 50), ends.max // 2 + ends.min // 2, kind)
    image[0, 0], image[1, 1] = ends.min, ends.max
    found = encode_percentiles(image)
    assert (found[0, 0], found[1, 1]) == (0, CODES)
    assert found[5, 5] == pytest.approx(CODES / 2, abs=CODES / 100)
    assert percentiles(image) == (ends.min, ends.max)


def test_limits_that_are_given_are_used() -> None:
    found = encode_percentiles(np.array([[0.0, 1, 2, 3, 4]]), (1.0, 3.0))
    assert found.tolist() == [[0, 0, np.rint(CODES / 2), CODES, CODES]]


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.float32])
def test_percentiles_keep_the_order(kind: type) -> None:
    image = np.random.default_rng(2).integers(0, 120, (20, 20)).astype(kind)
    found = encode_percentiles(image)
    order = np.argsort(image, axis=None)
    assert (np.diff(found.ravel()[order]) >= 0).all()
    assert found.min() == 0
    assert found.max() == CODES
    assert np.array_equal(found, np.rint(found))


def test_percentiles_do_not_depend_on_the_unit() -> None:
    image = np.random.default_rng(3).normal(size=(20, 20))
    np.testing.assert_allclose(encode_percentiles(image * 37 - 1000), encode_percentiles(image), atol=1)


def with_lesion(lesion: bool) -> np.ndarray:
    """The same background, (1, 32, 32), with or without a bright lesion on it."""
    scan = np.random.default_rng(0).integers(20, 120, (1, 32, 32)).astype(np.float32)
    scan[0, 10:15, 10:15] = 250 if lesion else scan[0, 10:15, 10:15]
    return scan


def test_the_background_of_an_8_bit_image_does_not_depend_on_its_lesion() -> None:
    """By its own percentiles it does: what is beside the lesion is darker than in a normal image."""
    beside = np.ones((32, 32), bool)
    beside[10:15, 10:15] = False
    codes = {}
    for kind in ("8bit", "percentile"):
        codes[kind] = [encoder(with_lesion(lesion), kind)(with_lesion(lesion)[0])[beside] for lesion in (False, True)]
    assert np.array_equal(*codes["8bit"])
    normal, abnormal = codes["percentile"]
    assert abnormal.mean() < 0.6 * normal.mean()
    with pytest.raises(UserError, match=r"values from 0 to 256, and data.intensity is 8bit; required: values from 0 to 255"):
        encoder(np.array([[[0.0, 256.0]]]), "8bit")


def test_a_run_on_8_bit_images_scales_new_ones_alike(tmp_path: Path) -> None:
    settings = replace(tiny_settings(), data=replace(tiny_settings().data, intensity="8bit"))
    cohort = read_layout(write_images(tmp_path / "data"), settings.data)
    store = prepare(cohort, settings, tmp_path / "store")
    assert (store.meta["kind"], store.meta["window"], store.meta["dtype"]) == ("8bit", [0.0, 65535.0], "uint16")
    row = store.index["case"].tolist().index("normal__i00")
    index = {name: store.index[name][row] for name in ("top", "left", "height", "width")}
    image = read_image(tmp_path / "data" / "normal" / "i00.png")
    np.testing.assert_allclose(store.unit(np.array([row]))[0, 0] * 255, Box(**index).resize(image, 32), atol=1)
    run = load(make_run(tmp_path / "run", settings, kind="8bit"))
    run.segment(cohort.cases[0].image)
    deep = tmp_path / "deep.png"
    Image.fromarray(np.full((40, 44), 4000, np.uint16)).save(deep)
    with pytest.raises(UserError, match=r"data.intensity is 8bit; required: values from 0 to 255"):
        run.segment(deep)
    volumes = replace(cohort, cases=tuple(replace(case, volume=True) for case in cohort.cases))
    with pytest.raises(UserError, match=r"data.intensity is 8bit and the data are volumes"):
        kind_of_intensity(volumes, settings.data)


def test_images_in_0_to_1_are_not_black_bytes() -> None:
    unit = np.random.default_rng(0).random((1, 6, 6), np.float32)
    with pytest.raises(
        UserError, match=r"values from 0\.\d+ to 0\.\d+, and data.intensity is 8bit; required: values from 0 to 255"
    ):
        encoder(unit, "8bit")
    with pytest.raises(UserError, match=r"data.intensity is 8bit"):
        encoder(np.stack([unit] * 3, -1), "8bit", RGB)
    black = np.random.default_rng(0).integers(0, 2, (1, 20, 20, 3)).astype(np.float32) @ np.array(LUMINANCE, np.float32)
    assert encoder(black, "8bit")(black[0]).max() <= 257  # nearly black pictures in colour, read as grey
