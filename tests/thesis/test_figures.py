"""Figures are written, right to the pixel where it can be said by hand, and the same each time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from coinseg.errors import UserError
from coinseg.report.pictures import (
    COLOURS,
    FALSE_NEGATIVE,
    FALSE_POSITIVE,
    TRUE_POSITIVE,
    WHITE,
    Row,
    Sheet,
    confusion,
    contour,
    draw,
    grey,
)
from coinseg.thesis.figures import Examples, both_directions, compare, figure5, figure9, figure10, load_examples, save_examples

SIDE = 32


def examples(n: int = 2, attribution: bool = False, seed: int = 0, height: int = SIDE) -> Examples:
    """Noise with a bright square that is half found."""
    rng = np.random.default_rng(seed)
    image = rng.random((n, height, SIDE)).astype(np.float32) / 2
    truth = np.zeros(image.shape, bool)
    truth[:, 8:14, 10:16] = True
    mask = np.roll(truth, 3, axis=2)
    return Examples(
        name=np.array([f"phantom_{i}, slice ${i}$" for i in range(n)]),
        image=image + truth.astype(np.float32) / 2,
        truth=truth,
        saliency=mask.astype(np.float32) * 0.3,
        mask_replica=mask,
        mask_honest=truth,
        before=np.full(n, 0.9, np.float32),
        counterfactual=None if attribution else image,
        after=None if attribution else np.full(n, 0.1, np.float32),
    )


FIGURES: dict[str, Callable[[Path], Path]] = {
    "figure5": lambda path: figure5(path, examples(6).image, examples(6).truth),
    "compare": lambda path: compare(path, [("COIN", examples()), ("RISE", examples(attribution=True))], "Figure 8", "honest"),
    "figure9": lambda path: figure9(path, [("RISE", examples(attribution=True)), ("COIN", examples(seed=1))], "replica"),
    "figure10": lambda path: figure10(path, examples(height=20)),
    "both": lambda path: both_directions(path, "a $slice", examples(3).image, (0.5, 0.1, 0.9)),
}


@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_written_and_the_same_each_time(name: str, tmp_path: Path) -> None:
    one, two = (FIGURES[name](tmp_path / folder / "figure.png") for folder in "ab")
    assert one.read_bytes() == two.read_bytes()
    assert [p.name for p in one.parent.iterdir()] == ["figure.png"]
    assert one.stat().st_size < 300_000
    with Image.open(one) as picture:
        picture.load()
        assert picture.format == "PNG"
        assert 480 <= picture.width <= 2000
        assert 250 <= picture.height <= 2000
        # White all around: nothing is cut off at an edge.
        pixels = np.asarray(picture.convert("RGB"))
    for edge in (pixels[:4], pixels[-4:], pixels[:, :4], pixels[:, -4:]):
        assert (edge == 255).all()


@pytest.mark.parametrize("attribution", [False, True])
def test_examples_are_read_back(tmp_path: Path, attribution: bool) -> None:
    given = examples(attribution=attribution)
    # A name without .npz stays the name.
    for name in ("examples.npz", "examples"):
        save_examples(tmp_path / name, given)
        found = load_examples(tmp_path / name)
        for field in fields(Examples):
            value, other = getattr(given, field.name), getattr(found, field.name)
            assert (value is None) == (other is None), field.name
            if value is not None:
                assert value.dtype == other.dtype
                np.testing.assert_array_equal(value, other)
    assert (tmp_path / "examples.npz").read_bytes() == (tmp_path / "examples").read_bytes()
    assert len(list(tmp_path.iterdir())) == 2


def test_broken_examples_are_said(tmp_path: Path) -> None:
    path = tmp_path / "examples.npz"
    save_examples(path, examples())
    whole = path.read_bytes()
    for broken in (b"", b"no archive", whole[: len(whole) // 2]):
        path.write_bytes(broken)
        with pytest.raises(UserError, match="cannot be read as examples"):
            load_examples(path)
    with path.open("wb") as file:
        np.savez(file, name=np.array(["a"]))
    with pytest.raises(UserError, match="cannot be read as examples"):
        load_examples(path)
    with pytest.raises(UserError, match="cannot be read as examples"):
        load_examples(tmp_path / "absent.npz")


def test_shapes_are_checked() -> None:
    with pytest.raises(ValueError, match="truth has the shape"):
        replace(examples(), truth=np.zeros((1, SIDE, SIDE), bool))
    with pytest.raises(ValueError, match="after has the shape"):
        replace(examples(), after=np.zeros(3))
    with pytest.raises(ValueError, match="not \\(n,\\) and \\(n, H, W\\)"):
        examples(0)


def test_what_cannot_be_drawn_is_said(tmp_path: Path) -> None:
    path, other = tmp_path / "f.png", replace(examples(), name=np.array(["a", "b"]))
    for draws in (compare, figure9):
        rest = ("title", "replica") if draws is compare else ("replica",)
        with pytest.raises(UserError, match="examples of A and B are of different slices"):
            draws(path, [("A", examples()), ("B", other)], *rest)
        with pytest.raises(UserError, match="no method to draw"):
            draws(path, [], *rest)
    with pytest.raises(UserError, match="'oracle'; required: one of replica, honest"):
        figure10(path, examples(), "oracle")
    with pytest.raises(UserError, match="examples of an attribution"):
        figure10(path, examples(attribution=True))
    with pytest.raises(UserError, match="no image to draw"):
        figure5(path, examples().image[:0], examples().truth[:0])
    assert not list(tmp_path.iterdir())


def test_the_protocol_chooses_the_mask(tmp_path: Path) -> None:
    """Red is marked in the replica's mask only; the honest one is the truth itself."""
    for protocol, red in {"replica": True, "honest": False}.items():
        path = figure9(tmp_path / f"{protocol}.png", [("COIN", examples())], protocol)
        pixels = np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3)
        # The square of the legend has 100 pixels; masks are far larger.
        assert ((pixels == FALSE_POSITIVE).all(axis=1).sum() > 150) == red
        assert (pixels == TRUE_POSITIVE).all(axis=1).sum() > 150


def test_every_slice_may_lack_a_truth(tmp_path: Path) -> None:
    none = replace(examples(), truth=np.zeros((2, SIDE, SIDE), bool))
    assert figure9(tmp_path / "nine.png", [("COIN", none)], "honest").exists()
    corner = np.zeros((2, SIDE, SIDE), bool)
    corner[:, :3, -3:] = True
    assert figure9(tmp_path / "corner.png", [("COIN", replace(none, truth=corner))], "honest").exists()


def test_confusion_and_contour_by_hand() -> None:
    mask, truth = np.array([[1, 1], [0, 0]], bool), np.array([[1, 0], [1, 0]], bool)
    expected = [[TRUE_POSITIVE, FALSE_POSITIVE], [FALSE_NEGATIVE, (0, 0, 0)]]
    np.testing.assert_array_equal(confusion(mask, truth), expected)
    np.testing.assert_array_equal(confusion(None, truth), [[WHITE, (0, 0, 0)], [WHITE, (0, 0, 0)]])
    image, dot = np.full((5, 5), 0.4), np.zeros((5, 5), bool)
    dot[2, 2] = True
    found = contour(image, dot)
    around = np.abs(np.arange(5) - 2)[:, None] + np.abs(np.arange(5) - 2) == 1
    assert (found[around] == FALSE_POSITIVE).all()
    assert (found[~around] == 102).all(), "nothing of the lesion is hidden"


def test_pictures_are_enlarged_by_whole_pixels(tmp_path: Path) -> None:
    """Each pixel of a slice becomes one square of one colour."""
    picture = grey(np.random.default_rng(0).random((40, 40)))
    sheet = Sheet("t", (("", ("a", "b")),), (Row("r", (picture, picture)),), ((COLOURS[0], "found"),))
    draw(sheet).savefig(tmp_path / "sheet.png")
    pixels = np.asarray(Image.open(tmp_path / "sheet.png").convert("RGB"))
    large = picture.repeat(5, axis=0).repeat(5, axis=1)
    found = [y for y in range(pixels.shape[0] - 200) if np.array_equal(pixels[y : y + 200, 30:230], large)]
    assert len(found) == 1
    assert np.array_equal(pixels[found[0] : found[0] + 200, 234:434], large)
