"""Synthetic lesions: further examples for the student, drawn into normal images, so that their border is known.

A pseudo-mask is often only the brightest part of a large lesion, and its student learns to leave out the rest. A synthetic lesion
is patchy, fainter or brighter, and all of it is learnt. Measured in docs/research/student.md, study 22.
"""

import numpy as np
import torch
from scipy import ndimage

from coinseg.config.schema import Settings
from coinseg.data.slices.student_data import Examples, PseudoMasks
from coinseg.runtime.devices import CHUNK
from coinseg.runtime.streams import Stream, random_stream

from .base import Learning, Part

TRIES = 2400  # lesions drawn at most; f may call few of them abnormal
ENOUGH = 1000  # kept lesions after which no more are drawn
LEAST_PIXELS = 9  # of a lesion that is kept; at the edge of the body little of one may be left
AREA = (-0.5, 1.0)  # range of the logarithm of its area over that of the pseudo-mask
STRENGTH = (0.3, 1.2)  # range of its contrast over that of the pseudo-mask, uniform on a logarithmic scale
SHIFT = 1 / 16  # standard deviation of its distance from the pseudo-mask, as a share of the side
MARGIN = 1 / 32  # distance of a lesion from the air around the body, as a share of the side


class SyntheticLesions(Part):
    """Examples for the student as a part of the recipe; it is used while the student is trained and not afterwards."""

    name, folder = "synthetic_lesions", "synthetic_lesions"

    @classmethod
    def asked_for(cls, settings: Settings) -> bool:
        """`student.synthetic_lesions` above 0, and a second network that learns from them."""
        return settings.student.synthetic_lesions > 0 and settings.student.networks > 1

    @classmethod
    def examples(cls, learning: Learning, pseudo_masks: PseudoMasks) -> Examples:
        """Lesions after the pseudo-masks in normal images; only those that make f call such an image abnormal are kept.

        There are at most a few more than `ENOUGH`, and the same ones for the same seed.
        """
        slices, level = learning.slices, learning.settings.classifier.threshold
        rng = random_stream(Stream.SYNTHETIC_LESIONS, learning.settings.seed)
        indices, masks = pseudo_masks.indices, pseudo_masks.targets == 1
        rises: list[np.ndarray] = []
        for start in range(0, len(indices), CHUNK):
            marked = slices.batch(indices[start : start + CHUNK]).image.numpy()
            rises += map(rise_of, marked, masks[start : start + CHUNK])
        images = [torch.zeros(0, len(slices.store.channels), slices.store.size, slices.store.size)]
        shapes = [np.zeros((0, *masks.shape[1:]), bool)]
        for start in range(0, TRIES, CHUNK):
            chosen = rng.choice(pseudo_masks.normals, min(CHUNK, TRIES - start))
            empty = slices.batch(chosen).image
            places = zip(empty.numpy(), slices.body(chosen), rng.integers(len(indices), size=len(empty)), strict=True)
            pairs = [synthetic_lesion(image, body, masks[i], rises[i], rng) for image, body, i in places]
            drawn, shape = torch.from_numpy(np.stack([p[0] for p in pairs])), np.stack([p[1] for p in pairs])
            kept = (learning.probability(drawn) >= level) & (learning.probability(empty) < level)
            kept &= shape.sum((1, 2)) >= LEAST_PIXELS
            images.append(drawn[kept])
            shapes.append(shape[kept])
            learning.report("drawn lesions", min(start + CHUNK, TRIES), TRIES, {})
            if sum(map(len, shapes)) >= ENOUGH:
                break
        return Examples(torch.cat(images), np.concatenate(shapes))


def rise_of(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """How much brighter a lesion is than what surrounds it, (C,): medians of mask and ring around it, (C, S, S) in [-1, 1]."""
    width = max(2, round(0.5 * np.sqrt(mask.sum() / np.pi)))
    near = ndimage.binary_dilation(mask)
    ring = ndimage.binary_dilation(near, iterations=width) & ~near
    around = ring if ring.any() else np.ones_like(ring)
    return np.array([float(np.median(channel[mask]) - np.median(channel[around])) for channel in image])


def synthetic_lesion(
    image: np.ndarray, body: np.ndarray, mask: np.ndarray, rise: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw a lesion into an image, near the place of a pseudo-mask.

    An ellipse with a wavy border (up to 0.45 of smooth noise on one radius), cut off at the air around the body:

        X' = clip(X + w t (blur(X) - X) + w s p, -1, 1)

    w is the shape with a soft border, t how much of the texture is lost (0 to 0.6), s the rise times `STRENGTH`, p the patches
    (mean 1, 0.25 to 1.8).

    Args:
        image: (C, S, S) in [-1, 1]; not modified.
        body: (S, S) bool, see `SliceStore.body`; its holes are filled, nothing is drawn outside or close to its border.
        mask: (S, S) bool, the pseudo-mask.
        rise: contrast of the pseudo-mask in each channel, (C,), see `rise_of`.
        rng: draws everything.

    Returns:
        The image in [-1, 1], (C, S, S) float32, and the lesion's mask (S, S) bool, in one piece; empty where it has no place.
    """
    side = len(mask)
    radius = max(np.sqrt(mask.sum() * np.exp(rng.uniform(*AREA)) / np.pi), 1.0)
    place = np.array(ndimage.center_of_mass(mask)) + rng.normal(0, SHIFT * side, 2)
    rows, columns = np.indices(mask.shape) - place[:, None, None]
    angle, longer = rng.uniform(0, np.pi), np.exp(rng.uniform(0, 0.5))
    along = (rows * np.cos(angle) + columns * np.sin(angle)) / longer
    across = (columns * np.cos(angle) - rows * np.sin(angle)) * longer
    distance = np.hypot(along, across) / radius - 0.45 * rng.random() * _waves(rng, side, max(0.5 * radius, 1))
    inside = ndimage.binary_erosion(ndimage.binary_fill_holes(body), iterations=max(1, round(MARGIN * side)))
    parts, count = ndimage.label((distance < 1) & inside)
    if not count:
        return image.astype(np.float32), np.zeros(mask.shape, bool)
    shape = parts == 1 + np.bincount(parts[parts > 0] - 1).argmax()
    patches = np.clip(1 + rng.uniform(0, 0.6) * _waves(rng, side, max(0.4 * radius, 1)), 0.25, 1.8)
    strength = rise[:, None, None] * np.exp(rng.uniform(*np.log(STRENGTH)))
    weight = ndimage.gaussian_filter(shape.astype(np.float32), rng.uniform(0.4, 1.2))
    flattened = image + weight * rng.uniform(0, 0.6) * (ndimage.gaussian_filter(image, (0, 2.0, 2.0)) - image)
    return np.clip(flattened + weight * strength * patches, -1, 1).astype(np.float32), shape


def _waves(rng: np.random.Generator, side: int, width: float) -> np.ndarray:
    """Smooth noise of unit standard deviation, (side, side)."""
    noise = ndimage.gaussian_filter(rng.standard_normal((side, side)), width, mode="wrap")
    return noise / noise.std()
