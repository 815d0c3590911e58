"""The thesis' synthetic anomaly: a deformed Gaussian blob added inside the organ (thesis 3.6.3)."""

import numpy as np
from scipy import ndimage

from coinseg.config.schema import AnomalySettings
from coinseg.types import SliceMask

SCALE, STRETCH, ROTATION = (0.75, 1.0), 0.2, np.pi / 2
COMPONENTS = 2


def blob(settings: AnomalySettings, rng: np.random.Generator) -> np.ndarray:
    """Draw a blob of unit height, (template, template) in [0, 1], scaled, stretched by half-axis and turned, in closed form."""
    axis = np.linspace(-1, 1, settings.template, dtype=np.float32)
    y, x = np.meshgrid(axis, axis, indexing="ij")
    angle = rng.uniform(-ROTATION, ROTATION)
    scale = rng.uniform(*SCALE)
    left, right, up, down = scale * (1 + rng.uniform(-STRETCH, STRETCH, 4))
    u, v = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
    u, v = u / np.where(u < 0, left, right), v / np.where(v < 0, up, down)
    return np.exp(-(u**2 + v**2) / (2 * settings.sigma**2)).astype(np.float32)


def centre(organ: SliceMask, rng: np.random.Generator) -> tuple[int, int]:
    """Draw a pixel of one of the two largest connected components of the organ, both components equally likely."""
    components, count = ndimage.label(organ)
    sizes = np.bincount(components.ravel())[1:]
    chosen = 1 + np.argsort(-sizes, kind="stable")[rng.integers(min(count, COMPONENTS))]
    rows, columns = np.nonzero(components == chosen)
    pick = rng.integers(len(rows))
    return int(rows[pick]), int(columns[pick])


def inject(
    image: np.ndarray, organ: SliceMask, settings: AnomalySettings, rng: np.random.Generator
) -> tuple[np.ndarray, SliceMask]:
    """With a probability, add a blob inside the organ (thesis 3.6.3); return the image, and the mask of the blob or an empty one.

    Args:
        image: (C, H, W) or (H, W) in [0, 1]; not modified. The blob is added to all channels.
        organ: where the centre may lie; where it is empty nothing is injected.
        settings: probability, template, sigma, alpha and level are read.
        rng: generator of the slice and epoch.
    """
    mask = np.zeros(image.shape[-2:], dtype=bool)
    if rng.random() >= settings.probability or not organ.any():
        return image, mask
    row, column = centre(organ, rng)
    drawn = blob(settings, rng)
    top, left = row - settings.template // 2, column - settings.template // 2
    rows = slice(max(top, 0), min(top + settings.template, image.shape[-2]))
    columns = slice(max(left, 0), min(left + settings.template, image.shape[-1]))
    part = drawn[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    image = image.copy()
    image[..., rows, columns] = np.clip(image[..., rows, columns] + settings.alpha * part, 0, 1)
    mask[rows, columns] = part > settings.level
    return image, mask
