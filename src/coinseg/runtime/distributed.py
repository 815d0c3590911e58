"""Training by several processes: each sees its part of every batch, and what comes out is what one process makes of all of it.

    part        every n-th image of the batch; random draws are those of the whole batch, by all alike
    forward     batch normalisation takes its statistics over the whole batch (`batch_norm`)
    backward    gradients are averaged over the processes, one sum for each network and step (`average`)
    state       weights, optimisers, moving averages and spectral norms follow from these, so they are alike everywhere; the
                first process writes checkpoints, pictures and logs (`engine.Stage`)

Every loss is a mean over its batch, so parts of equal size and plain averages are exact: what differs from one process is the
order of sums. Not PyTorch's DistributedDataParallel: generator and discriminator are called several times a step, inside the
losses, with and without gradients, and nothing here depends on which. Not its SyncBatchNorm: it needs a GPU. With one
process nothing in this file does anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn
from torch.overrides import TorchFunctionMode

from coinseg.errors import UserError

from .process_group import current, told

T = TypeVar("T", bound=Callable[..., Tensor])
STEP = timedelta(minutes=15)
"""How long processes on GPUs wait for each other within a step: the first one also draws pictures and writes checkpoints."""


def require_parts(batch: int, setting: str) -> None:
    """`UserError` unless a batch has an equal part for every process."""
    count = current().here.count
    if batch % count:
        raise UserError(f"{setting} is {batch} and there are {count} processes", f"a multiple of {count}", f"change {setting}")


# --- sums over all processes --------------------------------------------------------------------------------------


@cache
def _between_gpus() -> Any:
    """NCCL where every process has a GPU of its own, else None: gloo, which also takes tensors on GPUs."""
    own = current().here.local < torch.cuda.device_count()
    if distributed.is_nccl_available() and all(current().all_gather(own)):
        return distributed.new_group(backend="nccl", timeout=STEP)
    return None


def _summed(values: Tensor) -> Tensor:
    """A tensor, summed in place over all processes."""
    with told():
        distributed.all_reduce(values, group=_between_gpus() if values.is_cuda else None)
    return values


class _Sum(torch.autograd.Function):
    """The sum over all processes, from which every process goes on: its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return _summed(values.clone())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _summed(gradients[0].clone(memory_format=torch.contiguous_format))


def average(parameters: Iterable[nn.Parameter]) -> None:
    """Replace the gradients of parameters by their mean over all processes, in one sum."""
    gradients = [p.grad for p in parameters if p.grad is not None] if current().here.count > 1 else []
    if gradients:
        total = _summed(torch.cat([g.flatten() for g in gradients])) / current().here.count
        for gradient, part in zip(gradients, total.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))


def means(values: Mapping[str, float]) -> dict[str, float]:
    """Losses of the parts -> those of the whole batch."""
    count = current().here.count
    if count == 1:
        return dict(values)
    total = _summed(torch.tensor(list(values.values()), dtype=torch.float64)) / count
    return dict(zip(values, total.tolist(), strict=True))


# --- batch normalisation ------------------------------------------------------------------------------------------


def batch_norm(
    x: Tensor, running_mean: Tensor | None, running_var: Tensor | None, weight: Tensor | None = None, bias: Tensor | None = None,
    training: bool = False, momentum: float = 0.1, eps: float = 1e-5,
) -> Tensor:  # fmt: skip
    """`torch.nn.functional.batch_norm` with the statistics of the parts of all processes together, which are of equal size.

    Args:
        x: this process's part, (B, C, ...).
        running_mean, running_var: (C,), updated in place; alike in all processes afterwards.
        weight, bias: (C,).
        training: False normalises by the running statistics, and nothing passes between processes.
        momentum: share of the new statistics in the running ones.
        eps: added to the variance.
    """
    if not training:
        return F.batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps)
    here = current().here
    exact = x.to(torch.promote_types(x.dtype, torch.float32))  # statistics of bfloat16 images too
    own = torch.stack(torch.var_mean(exact, [0, *range(2, x.ndim)], correction=0))
    # A table with a row for each process, so that the variance of the whole is exact however far apart their means lie.
    table = cast(Tensor, _Sum.apply(torch.stack([own if rank == here.rank else own * 0 for rank in range(here.count)])))
    var, mean = table[:, 0].mean(0) + table[:, 1].var(0, correction=0), table[:, 1].mean(0)
    with torch.no_grad():
        values = here.count * x.numel() / x.shape[1]
        if running_mean is not None and running_var is not None:
            running_mean.lerp_(mean, momentum)
            running_var.lerp_(var * values / (values - 1), momentum)
    scale = torch.rsqrt(var + eps) if weight is None else torch.rsqrt(var + eps) * weight
    shift = -mean * scale if bias is None else bias - mean * scale
    shape = (1, -1, *[1] * (x.ndim - 2))
    return torch.addcmul(shift.view(shape), exact, scale.view(shape)).to(x.dtype)


class _OverAll(TorchFunctionMode):
    """Within it every module's batch normalisation is `batch_norm`: those of coinseg, of timm and of a user's classifier."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return (batch_norm if func is F.batch_norm else func)(*args, **(kwargs or {}))


def over_whole_batch(network: T) -> T:
    """A network to train that normalises over the whole batch; itself with one process."""
    if current().here.count == 1:
        return network

    def called(*given: Any) -> Tensor:
        with _OverAll():
            return network(*given)

    return cast(T, called)


# --- random draws -------------------------------------------------------------------------------------------------


def augmented(augment: nn.Module, images: Tensor) -> Tensor:
    """Kornia's augmentations of this process's part (B, C, H, W), as drawn for the whole batch.

    Args:
        augment: augmentations in a row; every one draws for each image on its own.
        images: the part that `Place.share` gives.
    """
    here = current().here
    if here.count == 1:
        return augment(images)
    for step in cast(Iterable[Any], augment.children()):
        whole = torch.Size((len(images) * here.count, *images.shape[1:]))
        drawn = {k: v if k == "forward_input_shape" else here.share(v) for k, v in step.forward_parameters(whole).items()}
        images = step(images, params=drawn)
    return images


def rand_like(part: Tensor) -> Tensor:
    """`torch.rand_like` for this process's part (B,) of a batch: the numbers one process would draw for it."""
    here = current().here
    return torch.rand_like(part) if here.count == 1 else here.share(torch.rand_like(part.repeat(here.count)))
