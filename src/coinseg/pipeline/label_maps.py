"""Masks of several classes as one label map of each case: where classes overlap, the surest one counts."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from PIL import Image

from coinseg.data.readers.image import read_image
from coinseg.data.readers.volume import is_volume, read_volume, write_scan
from coinseg.runtime.files import new_file, write_json

LABELS = "labels.json"


def surest(masks: np.ndarray, confidences: np.ndarray) -> np.ndarray:
    """Labels of masks (K, ...) bool with confidences (K, ...): 0 outside of all, else 1 + the class inside that is surest.

    Of equally sure classes the first counts.
    """
    sure = np.where(masks, confidences.astype(np.int16) + 1, 0)
    return np.where(masks.any(0), sure.argmax(0) + 1, 0).astype(np.uint8)


def palette(classes: int) -> list[int]:
    """Red, green and blue of 256 values: black, then a colour for each class that colour-blind readers can tell."""
    colours = [
        (0, 0, 0),
        *(tuple(round(255 * part) for part in colormaps["tab10"](number % 10)[:3]) for number in range(classes)),
    ]
    return [part for colour in colours for part in colour] + [0] * (768 - 3 * len(colours))


def names_of(folders: Mapping[str, Path]) -> list[str]:
    """Names of the masks that any class has, below its folder `masks`, sorted."""
    masks = [folder / "masks" for folder in folders.values()]
    return sorted({path.relative_to(of).as_posix() for of in masks for path in of.rglob("*") if _is_mask(path)})


def write_label_maps(folders: Mapping[str, Path], out: Path) -> list[Path]:
    """Write a label map into `out` for every mask that a class has, and labels.json, which names the values.

    Args:
        folders: of each class in order, with `masks` and `confidence` below; a mask of one name is of one case.
        out: receives NIfTI on the grid of the masks, or palette PNG.
    """
    names = names_of(folders)
    out.mkdir(parents=True, exist_ok=True)
    for name in names:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        _write(name, folders, out)
    values = {"background": 0} | {name: number for number, name in enumerate(folders, 1)}
    write_json(out / LABELS, {"labels": values, "overlap": "the class with the highest confidence of the pixel"})
    return [out / name for name in names]


def _is_mask(path: Path) -> bool:
    return path.suffix.lower() == ".png" or path.name.lower().endswith(".nii.gz")


def _write(name: str, folders: Mapping[str, Path], out: Path) -> None:
    places = [(folder / "masks" / name, folder / "confidence" / name) for folder in folders.values()]
    there = next(mask for mask, _ in places if mask.exists())
    volume = is_volume(there)
    like = read_volume(there) if volume else None
    shape = like.scan.shape if like else read_image(there).shape
    masks, confidences = np.zeros((len(places), *shape), bool), np.zeros((len(places), *shape), np.uint8)
    for number, (mask, confidence) in enumerate(places):
        if mask.exists():
            masks[number] = (read_volume(mask).scan if volume else read_image(mask)) > 0
            confidences[number] = read_volume(confidence).scan if volume else read_image(confidence)
    labels = surest(masks, confidences)
    if like:
        write_scan(out / name, labels, like.geometry, overwrite=True)
        return
    picture = Image.fromarray(labels, mode="P")
    picture.putpalette(palette(len(places)))
    with new_file(out / name, overwrite=True) as part:
        picture.save(part, format="PNG")
