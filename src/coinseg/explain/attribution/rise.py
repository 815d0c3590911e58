"""RISE (Petsiuk et al. 2018; thesis 2.2.2, 3.5): S = 1 / (N p) * sum_i f(X . m_i) m_i, m_i N random masks with mean p."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coinseg.config.schema import AttributionSettings
from coinseg.errors import UserError
from coinseg.runtime.threads import cpu_batch

from .cam import HIDDEN, masked, normalised
from .layers import still


def random_grids(settings: AttributionSettings, size: tuple[int, int], seed: int) -> tuple[Tensor, Tensor]:
    """Return grids (N, grid, grid) bool, True for visible, and shifts (N, 2) in pixels, rows and columns, drawn on the CPU.

    Args:
        settings: masks N, grid and probability.
        size: (H, W) of the images.
        seed: gives the same on every device.
    """
    generator = torch.Generator().manual_seed(seed)
    grids = torch.rand(settings.masks, settings.grid, settings.grid, generator=generator) < settings.probability
    shifts = [torch.randint(cell_side(side, settings.grid), (settings.masks,), generator=generator) for side in size]
    return grids, torch.stack(shifts, 1)


def cell_side(side: int, grid: int) -> int:
    """The side of a cell in pixels; upsampling then scales it by (grid + 1) / grid."""
    return math.ceil(side / grid)


def _stretch(side: int, grid: int, like: Tensor) -> Tensor:
    """The matrix ((grid + 1) * cell, grid) of linear upsampling along one axis, to (grid + 1) * cell pixels."""
    cells = torch.eye(grid, dtype=like.dtype, device=like.device)[None]
    return F.interpolate(cells, size=(grid + 1) * cell_side(side, grid), mode="linear", align_corners=False)[0].T


def masks_of(grids: Tensor, shifts: Tensor, size: tuple[int, int], like: Tensor) -> Tensor:
    """Return masks (n, H, W) in [0, 1]: grids, upsampled bilinearly and cropped at their shifts, as R G C^T of `_stretch`.

    Args:
        grids: (n, grid, grid) bool.
        shifts: (n, 2), rows and columns.
        size: (H, W).
        like: a tensor with the type and device of the masks.
    """
    rows, columns = (
        _stretch(side, grids.shape[-1], like)[shifts[:, axis, None].to(like.device) + torch.arange(side, device=like.device)]
        for axis, side in enumerate(size)
    )
    return rows @ grids.to(like) @ columns.mT


def estimate(
    f: nn.Module, x: Tensor, grids: Tensor, shifts: Tensor, probability: float, batch: int, hidden: float = -1.0
) -> Tensor:
    """Return 1 / (N p) * sum_i f(X . m_i) m_i, (B, H, W), at least 0, with the same masks for every image.

    Args:
        f: images (B, C, H, W) in [-1, 1] -> logits (B,).
        x: images (B, C, H, W) in [-1, 1].
        grids, shifts: see `random_grids`.
        probability: p.
        batch: masks, and so images per forward pass, that are in memory together; the result does not depend on it.
        hidden: the value of a hidden pixel.
    """
    total = torch.zeros(len(x), *x.shape[-2:], dtype=torch.float64, device=x.device)
    with torch.no_grad(), still(f):
        for some_grids, some_shifts in zip(grids.split(batch), shifts.split(batch), strict=True):
            masks = masks_of(some_grids, some_shifts, (x.shape[-2], x.shape[-1]), x)
            scores = torch.stack([f(masked(image, masks[:, None], hidden)).sigmoid() for image in x])
            total += torch.einsum("bn,nhw->bhw", scores.double(), masks.double())
    return (total / (len(grids) * probability)).to(x.dtype)


def rise_scores(f: nn.Module, x: Tensor, settings: AttributionSettings, seed: int) -> Tensor:
    """Return RISE without scaling, (B, H, W), at least 0, comparable between images; arguments as `rise`."""
    if settings.masks < 1 or settings.grid < 1 or not 0 < settings.probability <= 1:
        got = f"attribution has masks={settings.masks}, grid={settings.grid}, probability={settings.probability}"
        raise UserError(got, "at least one mask and one cell, and a probability in (0, 1]", "mend the setting")
    grids, shifts = random_grids(settings, (x.shape[-2], x.shape[-1]), seed)
    return estimate(f, x, grids, shifts, settings.probability, cpu_batch(x, settings.batch), HIDDEN[settings.hidden])


def rise(f: nn.Module, x: Tensor, settings: AttributionSettings, seed: int) -> Tensor:
    """Return RISE scaled to [0, 1] in each image, (B, H, W); arguments as in `attribution.saliency`."""
    return normalised(rise_scores(f, x, settings, seed))
