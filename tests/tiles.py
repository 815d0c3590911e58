"""Images that are larger than a tile, and settings that cut them."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from coinseg.config.schema import Settings
from coinseg.data.layouts.registry import read_layout
from coinseg.data.slices.store import SliceStore, prepare
from conftest import tiny_settings


def images(folder: Path, patients: int = 6, shape: tuple[int, int] = (40, 50), each: int = 2) -> Path:
    """A table of images, `each` of a patient; every second one is abnormal, with a lesion of 6 x 6 pixels at its lower right."""
    folder.mkdir(parents=True)
    with (folder / "labels.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file", "label", "patient", "mask"])
        for number in range(each * patients):
            rng, lesion = np.random.default_rng(number), np.zeros(shape, np.uint8)
            pixels = rng.integers(60, 120, shape).astype(np.uint8)
            if number % 2:
                lesion[-10:-4, -10:-4] = 255
                pixels[lesion > 0] += 80
                Image.fromarray(lesion).save(folder / f"mask{number}.png")
            Image.fromarray(pixels).save(folder / f"{number}.png")
            table.writerow([f"{number}.png", number % 2, f"p{number // each}", f"mask{number}.png" if number % 2 else ""])
    return folder / "labels.csv"


def tiled(**data: object) -> Settings:
    """Tiny settings with tiles of the side of a square."""
    tiny = tiny_settings()
    return replace(tiny, data=replace(tiny.data, **{"size": 32, "tile": 32, **data}))  # type: ignore[arg-type]


def prepared(table: Path, out: Path, asked: Settings) -> SliceStore:
    """The store of a table."""
    return prepare(read_layout(table, asked.data), asked, out)
