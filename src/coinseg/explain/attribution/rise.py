"""RISE (Petsiuk et al. 2018; thesis 2.2.2, 3.5): hide random parts of the image and see where f misses them.

The estimate is S = 1 / (N p) * sum_i f(X . m_i) m_i over random masks m_i in [0, 1] with mean p, f(X) the probability of
"abnormal". X . m dims X on [0, 1], so that hidden pixels are black, -1 (`cams.masked`). f is asked N times for each image.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coinseg.config.schema import AttributionSettings
from coinseg.errors import UserError
from coinseg.runtime.threads import cpu_batch

from .cam import masked, normalised
from .layers import still


def random_grids(settings: AttributionSettings, size: tuple[int, int], seed: int) -> tuple[Tensor, Tensor]:
    """All there is to N random masks for images of size (H, W), on the CPU, the same for a seed wherever f computes.

    Returns:
        The grids (N, grid, grid), True with the probability that a cell is visible, and the shifts (N, 2), rows and columns
        in pixels, from 0 to below the side of a cell.
    """
    generator = torch.Generator().manual_seed(seed)
    grids = torch.rand(settings.masks, settings.grid, settings.grid, generator=generator) < settings.probability
    shifts = [torch.randint(cell_side(side, settings.grid), (settings.masks,), generator=generator) for side in size]
    return grids, torch.stack(shifts, 1)


def cell_side(side: int, grid: int) -> int:
    """Pixels of a cell before it is stretched to (grid + 1) / grid times its side."""
    return math.ceil(side / grid)


def _stretch(side: int, grid: int, like: Tensor) -> Tensor:
    """The linear map from the grid's cells to (grid + 1) * cell pixels along one axis, ((grid + 1) * cell, grid)."""
    cells = torch.eye(grid, dtype=like.dtype, device=like.device)[None]
    return F.interpolate(cells, size=(grid + 1) * cell_side(side, grid), mode="linear", align_corners=False)[0].T


def masks_of(grids: Tensor, shifts: Tensor, size: tuple[int, int], like: Tensor) -> Tensor:
    """Masks (n, H, W) in [0, 1]: each grid upsampled bilinearly to (grid + 1) * cell pixels and cut at its shift.

    Bilinear upsampling works along one axis at a time, so a cut is R G C^T with the shifted rows of the two stretches.

    Args:
        grids: (n, grid, grid).
        shifts: (n, 2), rows and columns.
        size: (H, W).
        like: a tensor of the type and on the device of the masks.
    """
    rows, columns = (
        _stretch(side, grids.shape[-1], like)[shifts[:, axis, None].to(like.device) + torch.arange(side, device=like.device)]
        for axis, side in enumerate(size)
    )
    return rows @ grids.to(like) @ columns.mT


def estimate(f: nn.Module, x: Tensor, grids: Tensor, shifts: Tensor, probability: float, batch: int) -> Tensor:
    """1 / (N p) * sum_i f(X . m_i) m_i for given masks, the same for every image.

    At full size there are never more than `batch` masks and as many masked images. Sums are in double precision, so that the
    result does not depend on `batch`.

    Args:
        f: images (B, 1, H, W) in [-1, 1] -> logits (B,).
        x: images (B, 1, H, W) in [-1, 1].
        grids: (N, grid, grid).
        shifts: (N, 2).
        probability: p, that a cell is visible.
        batch: images per forward pass.

    Returns:
        (B, H, W), at least 0; about the mean of f where a pixel says nothing.
    """
    total = torch.zeros(len(x), *x.shape[-2:], dtype=torch.float64, device=x.device)
    with torch.no_grad(), still(f):
        for some_grids, some_shifts in zip(grids.split(batch), shifts.split(batch), strict=True):
            masks = masks_of(some_grids, some_shifts, (x.shape[-2], x.shape[-1]), x)
            scores = torch.stack([f(masked(image, masks[:, None])).sigmoid() for image in x])
            total += torch.einsum("bn,nhw->bhw", scores.double(), masks.double())
    return (total / (len(grids) * probability)).to(x.dtype)


def rise_scores(f: nn.Module, x: Tensor, settings: AttributionSettings, seed: int) -> Tensor:
    """The raw estimate of RISE, (B, H, W), at least 0: comparable between images.

    Raises:
        UserError: no masks, no cells, or a probability that is none.
    """
    if settings.masks < 1 or settings.grid < 1 or not 0 < settings.probability <= 1:
        raise UserError(
            f"attribution has masks={settings.masks}, grid={settings.grid}, probability={settings.probability}",
            "at least one mask and one cell, and a probability in (0, 1]",
            "mend the setting",
        )
    grids, shifts = random_grids(settings, (x.shape[-2], x.shape[-1]), seed)
    return estimate(f, x, grids, shifts, settings.probability, cpu_batch(x, settings.batch))


def rise(f: nn.Module, x: Tensor, settings: AttributionSettings, seed: int) -> Tensor:
    """RISE with each image's map stretched to [0, 1], (B, H, W); zeros where it is constant.

    Args:
        f: images (B, 1, H, W) in [-1, 1] -> logits (B,); used in evaluation mode and left as it was.
        x: images (B, 1, H, W) in [-1, 1].
        settings: masks, grid, probability and batch.
        seed: of the masks; a seed and a size always give the same ones.
    """
    return normalised(rise_scores(f, x, settings, seed))
