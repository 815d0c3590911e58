"""Images in colour and of several sequences: what they are read as, and that one grey channel stays what it was."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from coinseg.data.layouts.registry import read_layout
from coinseg.data.readers.image import is_coloured, read_image
from coinseg.data.slices.case import encoder, limits_of, load_case
from coinseg.data.slices.channels import GREY, RGB, as_bytes, channels_of
from coinseg.data.slices.store import SliceStore, prepare
from coinseg.errors import UserError
from coinseg.types import Case, Cohort
from conftest import tiny_settings, write_images
from writers import write_nifti


def settings(channels: str = "auto"):  # type: ignore[no-untyped-def]
    base = tiny_settings()
    return replace(base, data=replace(base.data, channels=channels))


def coloured(root: Path, tint: tuple[float, float, float] = (1.0, 0.6, 0.2)) -> Path:
    """The grey images of `write_images`, tinted; their masks stay."""
    for path in [*(root / "normal").glob("*.png"), *(root / "abnormal").glob("*.png")]:
        grey = np.asarray(Image.open(path).convert("L"), float)
        Image.fromarray((grey[..., None] * tint).astype(np.uint8)).save(path)
    return root


def stored(root: Path, out: Path, channels: str = "auto") -> SliceStore:
    chosen = settings(channels)
    return prepare(read_layout(root, chosen.data), chosen, out)


def test_colour_is_kept_and_grey_is_its_luminance(tmp_path: Path) -> None:
    pixels = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [10, 10, 10]]], np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert (read_image(tmp_path / "a.png", colour=True) == pixels).all()
    assert read_image(tmp_path / "a.png").ravel() == pytest.approx([76.245, 149.685, 29.07, 10])
    Image.fromarray(pixels[..., 0]).save(tmp_path / "b.png")
    assert (read_image(tmp_path / "b.png", colour=True) == pixels[..., :1]).all()


def test_jpeg_noise_of_a_grey_picture_is_no_colour(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    grey = np.repeat(rng.integers(0, 255, (64, 64, 1), np.uint8), 3, 2)
    Image.fromarray(grey).save(tmp_path / "grey.jpg", quality=75)
    tinted = grey.copy()
    tinted[:16, :16, 2] = 255
    Image.fromarray(tinted).save(tmp_path / "tinted.jpg", quality=75)
    assert not is_coloured(tmp_path / "grey.jpg")
    assert is_coloured(tmp_path / "tinted.jpg")


def test_a_cohort_in_colour_is_read_in_colour_and_says_so(tmp_path: Path) -> None:
    store = stored(coloured(write_images(tmp_path / "data")), tmp_path / "slices")
    assert store.channels == RGB
    assert store.unit(np.arange(4)).shape == (4, 3, 32, 32)
    assert any("read in colour" in line for line in store.meta["problems"])
    assert stored(tmp_path / "data", tmp_path / "grey", "grey").channels == GREY


def test_grey_images_read_as_colour_have_equal_channels_which_are_the_grey_one(tmp_path: Path) -> None:
    root = write_images(tmp_path / "data")
    grey, colour = stored(root, tmp_path / "grey"), stored(root, tmp_path / "rgb", "rgb")
    rows = np.arange(len(grey))
    assert grey.channels == GREY
    assert any("none of the images that were asked is in colour" in line for line in colour.meta["problems"])
    for channel in range(3):
        # The percentiles of three equal channels are interpolated between other neighbours.
        np.testing.assert_allclose(colour.unit(rows)[:, channel], grey.unit(rows)[:, 0], atol=0.01)
    assert (colour.truth() == grey.truth()).all()


def test_the_percentiles_of_a_colour_are_those_of_all_its_channels_and_of_sequences_their_own() -> None:
    scan = np.stack([np.full((1, 8, 8), 10.0), np.linspace(0, 100, 64).reshape(1, 8, 8)], axis=-1)
    (low, high), (other_low, other_high) = limits_of(scan, "percentile", ("flair", "t2"))
    assert (low, high) == (10, 10)
    assert other_low < 1
    assert other_high > 99
    assert len(limits_of(np.concatenate([scan, scan[..., :1]], -1), "percentile", RGB)) == 1
    codes = encoder(scan, "percentile", ("flair", "t2"))(scan[0])
    assert codes.shape == (8, 8, 2)
    assert codes[..., 1].max() == 65535


def test_sequences_are_channels_on_one_grid(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    first, second = (rng.integers(1, 200, (6, 5, 4)).astype(np.int16) for _ in range(2))
    one, two = write_nifti(tmp_path / "f.nii.gz", first), write_nifti(tmp_path / "t.nii.gz", second)
    case = Case("a", "a", one, True, 1, others=(two,))
    loaded = load_case(case, channels=("flair", "t2"))
    assert loaded.scan.shape == (4, 5, 6, 2)
    assert (loaded.scan[..., 1] == load_case(replace(case, image=two, others=())).scan).all()
    assert load_case(case).scan.shape == (4, 5, 6)  # the first alone where one channel is asked for
    small = write_nifti(tmp_path / "small.nii.gz", second[:-1])
    with pytest.raises(UserError, match=r"channel .*small.nii.gz has \(4, 5, 5\).*the same grid.*resample the channel"):
        load_case(replace(case, others=(small,)), channels=("flair", "t2"))


def cohort(*cases: Case, sequences: tuple[str, ...] = ()) -> Cohort:
    return Cohort("csv", cases, "", (), sequences)


def test_cases_without_all_channels_are_named() -> None:
    a, b = Case("a", "a", Path("a.png"), False, others=(Path("b.png"),)), Case("b", "b", Path("c.png"), False)
    data = settings().data
    assert channels_of(cohort(a, sequences=("t1", "t2")), data)[0] == ("t1", "t2")
    assert channels_of(cohort(a, sequences=("t1", "t2")), settings("grey").data)[0] == GREY
    with pytest.raises(UserError, match="1 of 2 cases have not all of the images t1, t2: b; required: the same channels"):
        channels_of(cohort(a, b, sequences=("t1", "t2")), data)


def test_volumes_have_no_colour() -> None:
    with pytest.raises(UserError, match=r"data\.channels is rgb and the data are volumes; required: plain images in colour"):
        channels_of(cohort(Case("a", "a", Path("a.nii.gz"), True)), settings("rgb").data)


def test_bytes_of_a_picture() -> None:
    image = np.array([[[0.0, 1.0]], [[0.5, 2.0]], [[-1.0, 0.25]]])
    assert as_bytes(image).tolist() == [[[0, 128, 0], [255, 255, 64]]]
    assert as_bytes(image[:1]).tolist() == [[0, 255]]
