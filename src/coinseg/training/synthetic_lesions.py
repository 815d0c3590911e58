"""Lesions whose border is known, because they were drawn: into normal images, where the student's lessons have theirs.

The least change that turns f is often the brightest part of a large lesion, and a student of such lessons learns to leave the rest
out. A drawn lesion is patchy, fainter or brighter, of another shape, and all of it is taught. Whether it looks like one is f's to
say: only what f calls abnormal is kept (docs/decisions/0022-members.md).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from coinseg.data.slices.dataset import TrainingSlices
from coinseg.runtime.devices import CHUNK
from coinseg.runtime.stage import Report
from coinseg.runtime.streams import Stream, random_stream

TRIES = 2400
"""Lesions drawn at most, of which f may take few for lesions."""
ENOUGH = 1000
"""Kept ones after which no more are drawn."""
LEAST_PIXELS = 9
"""Of a lesion that is kept; what is left of one at the edge of the body may be less."""
AREA = (-0.5, 1.0)
"""Of a drawn lesion's area over that of the lesson it is drawn for: the logarithm lies between."""
STRENGTH = (0.3, 1.2)
"""Of its contrast to its surroundings over that of the lesson, evenly on a logarithmic scale."""
SHIFT = 1 / 16
"""How far from the place of the lesson, a standard deviation as a share of the side."""
BODY = -0.9
"""Pixels up to this are air around the body, where no lesion is."""
MARGIN = 1 / 32
"""Next to air none is drawn either, as a share of the side."""
Called = Callable[[Tensor], np.ndarray]
"""Images (B, 1, S, S) in [-1, 1] -> f(X), (B,) in [0, 1]."""


@dataclass(frozen=True)
class Drawn:
    """Images with a drawn lesion each.

    Args:
        images: (k, 1, S, S) in [-1, 1].
        masks: (k, S, S) bool.
    """

    images: Tensor
    masks: np.ndarray


def rise_of(image: np.ndarray, mask: np.ndarray) -> float:
    """How much brighter a lesion is than what surrounds it: the medians of mask and ring around it, (S, S) in [-1, 1]."""
    width = max(2, round(0.5 * np.sqrt(mask.sum() / np.pi)))
    near = ndimage.binary_dilation(mask)
    ring = ndimage.binary_dilation(near, iterations=width) & ~near
    return float(np.median(image[mask]) - np.median(image[ring] if ring.any() else image))


def drawn_lesion(image: np.ndarray, mask: np.ndarray, rise: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A lesion drawn into an image, near the place of a lesson's.

    An ellipse with a wavy border, cut off at the air around the body; brighter than the image (darker where `rise` is below 0) by
    `STRENGTH` of the lesson's contrast and by patches of it; some of the texture below it still shows:

        X' = clip(X + w t (blur(X) - X) + w s p, -1, 1)

    w is the shape with a soft border, t how much of the texture is lost (0 to 0.6), s the rise times `STRENGTH`, p the patches
    (mean 1, 0.25 to 1.8). In the places of the ellipse the distance from its centre is below one radius, less up to 0.45 of smooth noise.

    Args:
        image: (S, S) in [-1, 1]; not modified.
        mask: (S, S) bool, of the lesson.
        rise: of the lesson, see `rise_of`.
        rng: draws everything.

    Returns:
        The image in [-1, 1], float32, and the lesion's mask (S, S) bool, in one piece; empty where there is no place for it.
    """
    side = len(image)
    radius = max(np.sqrt(mask.sum() * np.exp(rng.uniform(*AREA)) / np.pi), 1.0)
    place = np.array(ndimage.center_of_mass(mask)) + rng.normal(0, SHIFT * side, 2)
    rows, columns = np.indices(image.shape) - place[:, None, None]
    angle, longer = rng.uniform(0, np.pi), np.exp(rng.uniform(0, 0.5))
    along = (rows * np.cos(angle) + columns * np.sin(angle)) / longer
    across = (columns * np.cos(angle) - rows * np.sin(angle)) * longer
    distance = np.hypot(along, across) / radius - 0.45 * rng.random() * _waves(rng, side, max(0.5 * radius, 1))
    body = ndimage.binary_erosion(ndimage.binary_fill_holes(image > BODY), iterations=max(1, round(MARGIN * side)))
    parts, count = ndimage.label((distance < 1) & body)
    if not count:
        return image.astype(np.float32), np.zeros(image.shape, bool)
    shape = parts == 1 + np.bincount(parts[parts > 0] - 1).argmax()
    patches = np.clip(1 + rng.uniform(0, 0.6) * _waves(rng, side, max(0.4 * radius, 1)), 0.25, 1.8)
    strength = rise * np.exp(rng.uniform(*np.log(STRENGTH)))
    weight = ndimage.gaussian_filter(shape.astype(np.float32), rng.uniform(0.4, 1.2))
    flattened = image + weight * rng.uniform(0, 0.6) * (ndimage.gaussian_filter(image, 2.0) - image)
    return np.clip(flattened + weight * strength * patches, -1, 1).astype(np.float32), shape


def _waves(rng: np.random.Generator, side: int, width: float) -> np.ndarray:
    """Smooth noise of unit standard deviation, (side, side)."""
    noise = ndimage.gaussian_filter(rng.standard_normal((side, side)), width, mode="wrap")
    return noise / noise.std()


def drawn_lesions(
    slices: TrainingSlices, members: np.ndarray, masks: np.ndarray, normals: np.ndarray, called: Called, level: float,
    seed: int, report: Report,
) -> Drawn:  # fmt: skip
    """Lesions drawn into normal images, each after a lesson, that f calls abnormal and their images without them not.

    Args:
        slices: of the training side; images only.
        members: positions of the lessons' images, (n,).
        masks: of the lessons, (n, S, S) bool.
        normals: positions of the images labelled normal.
        called: see `Called`.
        level: f(X) from which an image is abnormal.
        seed: of all draws.
        report: progress.

    Returns:
        Those that were kept, at most a few more than `ENOUGH`; the same for the same arguments.
    """
    rng = random_stream(Stream.SYNTHETIC_LESIONS, seed)
    rises = [
        rise_of(image, mask)
        for start in range(0, len(members), CHUNK)
        for image, mask in zip(
            slices.batch(members[start : start + CHUNK]).image[:, 0].numpy(), masks[start : start + CHUNK], strict=True
        )
    ]
    images, found = [torch.zeros(0, 1, slices.store.size, slices.store.size)], [np.zeros((0, *masks.shape[1:]), bool)]
    for start in range(0, TRIES, CHUNK):
        empty = slices.batch(rng.choice(normals, min(CHUNK, TRIES - start))).image
        after = rng.integers(len(members), size=len(empty))
        pairs = [drawn_lesion(e, masks[i], rises[i], rng) for e, i in zip(empty[:, 0].numpy(), after, strict=True)]
        made, shapes = torch.from_numpy(np.stack([p[0] for p in pairs]))[:, None], np.stack([p[1] for p in pairs])
        kept = (called(made) >= level) & (called(empty) < level) & (shapes.sum((1, 2)) >= LEAST_PIXELS)
        images.append(made[kept])
        found.append(shapes[kept])
        report("drawn lesions", min(start + CHUNK, TRIES), TRIES, {})
        if sum(map(len, found)) >= ENOUGH:
            break
    return Drawn(torch.cat(images), np.concatenate(found))
