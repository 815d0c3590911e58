"""The made pictures of leaves: labels and masks say the same, and the same seed draws the same pictures."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from PIL import Image

from coinseg.data.layouts.registry import read_layout
from coinseg.data.phantom.leaves import CLASSES, COLOURS, write_leaves
from conftest import tiny_settings


def test_labels_masks_and_pictures_agree(tmp_path: Path) -> None:
    out = write_leaves(tmp_path / "leaves", seed=1, count=24)
    rows = list(csv.DictReader((out / "labels.csv").open()))
    assert len(rows) == 24
    assert {row["patient"] for row in rows} == {f"plant{i:02d}" for i in range(6)}
    for row in rows:
        picture = np.asarray(Image.open(out / row["file"])).astype(float) / 255
        for name in CLASSES:
            mask = out / f"masks_{name}" / Path(row["file"]).name
            assert mask.exists() == (row[name] == "1")
            others = [out / f"masks_{other}" / mask.name for other in CLASSES if other != name]
            if mask.exists() and not any(other.exists() for other in others):
                inside = picture[np.asarray(Image.open(mask))].mean(0)
                assert np.abs(inside - COLOURS[name]).max() < 0.2
    assert {tuple(row[name] for name in CLASSES) for row in rows} == {("0", "0"), ("0", "1"), ("1", "0"), ("1", "1")}


def test_the_same_seed_draws_the_same_and_what_is_there_is_kept(tmp_path: Path) -> None:
    one, two = (write_leaves(tmp_path / name, seed=3, count=8) for name in ("one", "two"))
    assert (one / "images" / "005.png").read_bytes() == (two / "images" / "005.png").read_bytes()
    (one / "labels.csv").write_text("mine\n")
    assert write_leaves(one, seed=4, count=8) == one
    assert (one / "labels.csv").read_text() == "mine\n"


def test_they_are_read_as_two_classes(tmp_path: Path) -> None:
    cohort = read_layout(write_leaves(tmp_path / "leaves", count=24), tiny_settings().data)
    assert cohort.classes == CLASSES
    assert len(cohort.cases) == 24
