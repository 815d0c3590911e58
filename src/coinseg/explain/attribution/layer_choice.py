"""Choice of the layer of a class activation map without lesion masks, by deletion and insertion (Petsiuk et al. 2018)."""

import torch
from torch import Tensor, nn

from .cam import cam
from .layers import candidate_layers, still

BLUR = 0.1  # standard deviation of the strong blur as a share of the longer side
STEPS = 10  # number of steps of a deletion or insertion curve


def blurred(x: Tensor) -> Tensor:
    """Images (B, 1, H, W) after a Gaussian blur of `BLUR` times the longer side, edges repeated."""
    from kornia.filters import gaussian_blur2d

    sigma = BLUR * max(x.shape[-2:])
    return gaussian_blur2d(x, 2 * max(1, round(3 * sigma)) + 1, (sigma, sigma), "replicate")


def ranks(saliency: Tensor) -> Tensor:
    """Ranks 0 ... H * W - 1 of pixels by falling saliency, (B, H, W) -> (B, H, W); ties (zeros of ReLU) in a random order."""
    flat = saliency.flatten(1)
    shuffle = torch.randperm(flat.shape[1], generator=torch.Generator().manual_seed(0)).to(flat.device)
    order = shuffle[flat[:, shuffle].argsort(dim=1, descending=True, stable=True)]
    positions = torch.arange(flat.shape[1], device=flat.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, positions).reshape(saliency.shape)


def deletion_insertion(f: nn.Module, x: Tensor, saliency: Tensor, steps: int = STEPS) -> tuple[Tensor, Tensor]:
    """Return the areas (B,) in [0, 1] under the deletion and the insertion curve (Petsiuk et al. 2018).

    Deletion replaces the share k / steps of most salient pixels by those of the blurred image, insertion puts them into the
    blurred image; the curve is the probability of "abnormal" over k = 0 ... steps.

    Args:
        f: images (B, C, H, W) in [-1, 1] -> logits (B,).
        x: images (B, C, H, W) in [-1, 1].
        saliency: (B, H, W), any scale; only its order counts.
        steps: at least 1.
    """
    blur, rank = blurred(x), ranks(saliency)[:, None]
    deletion, insertion = [], []
    with torch.no_grad(), still(f):
        for k in range(steps + 1):
            salient = rank < round(k * saliency[0].numel() / steps)
            deletion.append(f(torch.where(salient, blur, x)).sigmoid())
            insertion.append(f(torch.where(salient, x, blur)).sigmoid())
    return (torch.trapezoid(torch.stack(deletion, 1), dx=1 / steps), torch.trapezoid(torch.stack(insertion, 1), dx=1 / steps))


def best_layer(kind: str, f: nn.Module, x: Tensor, batch: int) -> tuple[str, dict[str, float]]:
    """Return the candidate layer with the largest mean of insertion minus deletion area, and this score of every candidate.

    Arguments as in `cam.cam`; x are training images labelled abnormal.
    """
    scores = {}
    for name in candidate_layers(f, x):
        maps = cam(kind, f, x, name, batch)
        areas = [deletion_insertion(f, *pair) for pair in zip(x.split(batch), maps.split(batch), strict=True)]
        # Rounded: the last bits, which depend on the machine, decide nothing.
        scores[name] = round(torch.cat([insertion - deletion for deletion, insertion in areas]).mean().item(), 6)
    return max(reversed(scores), key=lambda name: scores[name]), scores
