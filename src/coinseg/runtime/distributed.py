"""Data-parallel training: each process has a part of every batch, and the result is that of one process with the whole batch.

Every loss is a mean over its batch, so with parts of equal size plain averages are exact; only the order of sums differs.
DistributedDataParallel does not suit losses that call a network several times a step, and SyncBatchNorm needs a GPU.
"""

from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn
from torch.overrides import TorchFunctionMode

from coinseg.errors import UserError

from .process_group import current, one_line_errors

T = TypeVar("T", bound=Callable[..., Tensor])
STEP = timedelta(minutes=15)
"""Timeout between GPUs within a step, in which the main process also draws pictures and writes checkpoints."""


def require_parts(batch: int, setting: str) -> None:
    """Raise `UserError` unless `batch` images, set by `setting`, are equal parts for all processes."""
    count = current().here.count
    if batch % count:
        raise UserError(f"{setting} is {batch} and there are {count} processes", f"a multiple of {count}", f"change {setting}")


@cache
def _between_gpus() -> Any:
    """Return an NCCL group when every process has its own GPU, else None for gloo, which also takes tensors on GPUs."""
    has_gpu = current().here.local < torch.cuda.device_count()
    if distributed.is_nccl_available() and all(current().all_gather(has_gpu)):
        return distributed.new_group(backend="nccl", timeout=STEP)
    return None


def _summed(values: Tensor) -> Tensor:
    """Sum a tensor in place over all processes."""
    with one_line_errors():
        distributed.all_reduce(values, group=_between_gpus() if values.is_cuda else None)
    return values


class _Sum(torch.autograd.Function):
    """Differentiable sum over all processes; its gradient is the sum of their gradients."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return _summed(values.clone())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _summed(gradients[0].clone(memory_format=torch.contiguous_format))


def average(parameters: Iterable[nn.Parameter]) -> None:
    """Replace the gradients of parameters by their mean over all processes, with one sum."""
    gradients = [p.grad for p in parameters if p.grad is not None] if current().here.count > 1 else []
    if gradients:
        total = _summed(torch.cat([g.flatten() for g in gradients])) / current().here.count
        for gradient, part in zip(gradients, total.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))


def means(values: Mapping[str, float]) -> dict[str, float]:
    """Return the mean of every value over all processes: losses of the parts become those of the whole batch."""
    count = current().here.count
    if count == 1:
        return dict(values)
    total = _summed(torch.tensor(list(values.values()), dtype=torch.float64)) / count
    return dict(zip(values, total.tolist(), strict=True))


def batch_norm(
    x: Tensor, running_mean: Tensor | None, running_var: Tensor | None, weight: Tensor | None = None, bias: Tensor | None = None,
    training: bool = False, momentum: float = 0.1, eps: float = 1e-5,
) -> Tensor:  # fmt: skip
    """Compute `torch.nn.functional.batch_norm` with the statistics of the whole batch; all parts have equal size.

    Args:
        x: the part of this process, (B, C, ...).
        running_mean, running_var: (C,), updated in place, equal in all processes afterwards.
        weight, bias: (C,).
        training: False normalises by the running statistics without communication.
        momentum: share of the new statistics in the running ones.
        eps: added to the variance.
    """
    if not training:
        return F.batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps)
    here = current().here
    exact = x.to(torch.promote_types(x.dtype, torch.float32))  # statistics of bfloat16 images too
    local = torch.stack(torch.var_mean(exact, [0, *range(2, x.ndim)], correction=0))
    # One row for each process keeps the variance of the whole exact, however far apart the means lie.
    table = cast(Tensor, _Sum.apply(torch.stack([local if rank == here.rank else local * 0 for rank in range(here.count)])))
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
    """Replaces the batch normalisation of every module by `batch_norm`, also in networks of timm and of users."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return (batch_norm if func is F.batch_norm else func)(*args, **(kwargs or {}))


def over_whole_batch(network: T) -> T:
    """Return the network with batch normalisation over the whole batch; the network itself with one process."""
    if current().here.count == 1:
        return network

    def normalised(*inputs: Any) -> Tensor:
        with _OverAll():
            return network(*inputs)

    return cast(T, normalised)


def augmented(augment: nn.Module, images: Tensor) -> Tensor:
    """Apply Kornia's augmentations to the part (B, C, H, W) of this process, with the random parameters of the whole batch."""
    here = current().here
    if here.count == 1:
        return augment(images)
    for step in cast(Iterable[Any], augment.children()):
        whole = torch.Size((len(images) * here.count, *images.shape[1:]))
        drawn = {k: v if k == "forward_input_shape" else here.share(v) for k, v in step.forward_parameters(whole).items()}
        images = step(images, params=drawn)
    return images


def rand_like(part: Tensor) -> Tensor:
    """Draw `torch.rand_like` for the part (B,) of this process: the numbers that one process would draw for these images."""
    here = current().here
    return torch.rand_like(part) if here.count == 1 else here.share(torch.rand_like(part.repeat(here.count)))
