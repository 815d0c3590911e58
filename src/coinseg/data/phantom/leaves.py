"""Procedural pictures of leaves in colour with two diseases, to try several classes without anybody's data.

Rust is orange spots, mildew white patches; a leaf may have both, either or none. Veins and light spots are in all.
"""

from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from coinseg.runtime.files import directory_written_aside

SIDE, COUNT, EACH = 64, 160, 4  # pixels, pictures, and pictures of one plant
CLASSES = ("rust", "mildew")
SHARE = 0.5  # of the pictures that have a disease, each by itself
COLOURS = {"rust": (0.85, 0.45, 0.1), "mildew": (0.9, 0.92, 0.88)}


def _smooth(rng: np.random.Generator, width: float) -> np.ndarray:
    """Smooth noise of unit standard deviation, (SIDE, SIDE)."""
    noise = ndimage.gaussian_filter(rng.standard_normal((SIDE, SIDE)), width, mode="wrap")
    return np.asarray(noise / noise.std())


def leaf(rng: np.random.Generator) -> np.ndarray:
    """Draw a healthy leaf, (SIDE, SIDE, 3) in [0, 1]: green of varying shade, veins, light spots and grain."""
    rows, columns = np.indices((SIDE, SIDE)) / SIDE
    shade = 1 + 0.12 * _smooth(rng, 12) + 0.05 * rng.standard_normal((SIDE, SIDE))
    angle = rng.uniform(0, np.pi)
    along = rows * np.cos(angle) + columns * np.sin(angle)
    veins = np.abs(np.sin(np.pi * (4 * along + 0.2 * _smooth(rng, 10)))) < 0.12
    green = np.array([0.22, 0.48, 0.17]) * rng.uniform(0.8, 1.15) * shade[..., None]
    green[veins] *= 1.25
    green[_smooth(rng, 2) > 2.6] *= 1.35
    return green.clip(0, 1)


def spots(rng: np.random.Generator, kind: str) -> np.ndarray:
    """Draw the mask of one disease, (SIDE, SIDE) bool: a few round spots of rust, or one patch of mildew."""
    rows, columns = np.indices((SIDE, SIDE))
    mask = np.zeros((SIDE, SIDE), bool)
    for _ in range(int(rng.integers(1, 4)) if kind == "rust" else 1):
        top, left = rng.uniform(8, SIDE - 8, 2)
        radius = rng.uniform(5, 8) if kind == "rust" else rng.uniform(8, 13)
        ragged = 0.1 if kind == "rust" else 0.3
        mask |= np.hypot(rows - top, columns - left) / radius + ragged * _smooth(rng, 3) < 1
    return mask


def write_leaves(out: Path, seed: int = 0, count: int = COUNT) -> Path:
    """Write pictures, masks for scoring and labels.csv (a column for each class) to a new folder; return it.

    A folder that is there already is kept as it is.
    """
    if (out / "labels.csv").is_file():
        return out
    rng, rows = np.random.default_rng(seed), ["file,patient," + ",".join(CLASSES)]
    with directory_written_aside(out) as part:
        for folder in ("images", *(f"masks_{name}" for name in CLASSES)):
            (part / folder).mkdir(parents=True)
        for number in range(count):
            picture, has = leaf(rng), rng.random(len(CLASSES)) < SHARE
            for name, ill in zip(CLASSES, has, strict=True):
                if ill:
                    mask = spots(rng, name)
                    soft = ndimage.gaussian_filter(mask.astype(float), 0.7)[..., None] * rng.uniform(0.7, 0.95)
                    picture = (1 - soft) * picture + soft * np.array(COLOURS[name]) * (1 + 0.06 * _smooth(rng, 1))[..., None]
                    Image.fromarray(mask).save(part / f"masks_{name}" / f"{number:03d}.png")
            Image.fromarray(np.rint(picture.clip(0, 1) * 255).astype(np.uint8)).save(part / "images" / f"{number:03d}.png")
            rows.append(f"images/{number:03d}.png,plant{number // EACH:02d},{int(has[0])},{int(has[1])}")
        (part / "labels.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return out
