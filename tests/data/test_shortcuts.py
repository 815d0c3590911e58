"""What tells the label of an image beside its content is said by inspect and by a run: f could learn that."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from coinseg.cli.inspect import inspect
from coinseg.config.parsing import settings_from
from coinseg.data.layouts.registry import read_layout
from coinseg.data.slices.shortcuts import shortcuts
from coinseg.data.slices.store import prepare
from coinseg.types import Case

PIXELS = np.random.default_rng(0)
SETTINGS = settings_from({"data": {"size": 16}})


def picture(path: Path, size: tuple[int, int] = (24, 20), colour: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(PIXELS.integers(20, 230, size + ((3,) if colour else ()), dtype=np.uint8)).save(path)


def said(root: Path, out: Path) -> list[str]:
    """What is said of shortcuts, by a run as by inspect."""
    found = prepare(read_layout(root, SETTINGS.data), SETTINGS, out).meta["problems"]
    assert set(found) == set(inspect(root, SETTINGS)["problems"])
    return [line for line in found if "f may learn" in line]


def test_sizes_and_endings_that_tell_the_label(tmp_path: Path) -> None:
    for i in range(4):
        picture(tmp_path / f"data/normal/n{i}.png", (32, 32))
        picture(tmp_path / f"data/abnormal/a{i}.jpg")
    assert said(tmp_path / "data", tmp_path / "first") == [
        "normal images have 32 x 32 pixels (H x W) and abnormal ones 24 x 20: f may learn that",
        "normal images are .png and abnormal ones .jpg: f may learn how they were saved",
    ]
    picture(tmp_path / "data/normal/n9.jpg", (24, 20))
    assert said(tmp_path / "data", tmp_path / "second") == []


@pytest.mark.parametrize("normal", [False, True])
def test_colour_that_tells_the_label(tmp_path: Path, normal: bool) -> None:
    for i in range(4):
        picture(tmp_path / f"data/normal/n{i}.png", colour=normal)
        picture(tmp_path / f"data/abnormal/a{i}.png", colour=not normal)
    which = "normal" if normal else "abnormal"
    (line,) = said(tmp_path / "data", tmp_path / "first")
    assert line.startswith(f"4 of 8 images that were asked are in colour (those are the {which} ones: f may learn that); all")
    for i in range(2):
        picture(tmp_path / f"data/{which}/c{i}.png", colour=True)
    (line,) = said(tmp_path / "data", tmp_path / "second")
    assert f"4 of 10 that were asked are grey, their channels are equal (those in colour are the {which} ones" in line
    picture(tmp_path / f"data/{which}/g.png")
    assert said(tmp_path / "data", tmp_path / "third") == []


def cases(normal: int, abnormal: int) -> list[Case]:
    return [Case(f"{i}", f"{i}", Path(f"{i}.png"), False, int(i >= normal)) for i in range(normal + abnormal)]


def test_areas_that_do_not_overlap_count_from_eight_images_of_each_label_on() -> None:
    for count, lines in ((7, 0), (8, 1)):
        some = cases(count, count)
        sizes = {case.image: (10 + i, 10) for i, case in enumerate(some)}
        assert len(shortcuts(sizes, some)) == lines
    assert shortcuts(sizes, some) == [
        "normal images have 10 x 10 to 17 x 10 pixels (H x W) and abnormal ones 18 x 10 to 25 x 10: f may learn that"
    ]
    assert shortcuts(sizes | {some[0].image: (30, 10)}, some) == []
    assert shortcuts(dict.fromkeys(sizes, (9, 9)), some) == []


def test_few_images_tell_nothing() -> None:
    some = cases(2, 9)
    assert shortcuts({case.image: (9, 9) if case.label else (5, 5) for case in some}, some) == []
