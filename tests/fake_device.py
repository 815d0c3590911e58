"""A GPU that is not there: tensors compute on the CPU, and say and demand that they lie on the device "cuda:0".

What is moved there, or made there, is copied and its storage remembered. An operation between both sides raises what CUDA raises,
and so does a tensor of the device that is taken for an array: a forgotten `.to(device)` or `.cpu()` ends a test without a GPU.
FakeTensor does not do for a whole training: it has no values, and thresholds, keys and files are made of values.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
from lightning_fabric import Fabric
from lightning_fabric.accelerators import CPUAccelerator
from lightning_fabric.strategies import SingleDeviceStrategy
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_iter, tree_map

GPU = torch.device("cuda", 0)
TO, CPU, GRAD, DEVICE = Tensor.to, Tensor.cpu, Tensor.grad.__get__, Tensor.device.__get__
ARRAYS = {Tensor.numpy, Tensor.__array__}
ACROSS = {torch._has_compatible_shallow_copy_type, Tensor.copy_, Tensor.data.__set__}
"""What may have its tensors on both sides."""


class FakeGPU(TorchFunctionMode):
    """While it is on, "cuda:0" is a device; `seen` counts the operations there."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def __contains__(self, tensor: Tensor) -> bool:
        with torch._C.DisableTorchFunction():
            return getattr(tensor.untyped_storage(), "on_fake_gpu", False)

    def put(self, value: Any) -> Any:
        """Everything in it lies on the device from now on."""
        for tensor in tree_iter(value):
            if isinstance(tensor, Tensor):
                tensor.untyped_storage().on_fake_gpu = True  # type: ignore[attr-defined]
        return value

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func == DEVICE:
            return GPU if args[0] in self else func(*args)
        if func == GRAD:  # what the backward pass made lies beside its weight
            return self.put(func(*args)) if args[0] in self and func(*args) is not None else func(*args)
        if func is torch._C._nn._parse_to:  # of Module.to, which then moves each tensor
            return func(*args, **kwargs)
        if func is Tensor.__deepcopy__:  # its second argument has everything that was copied so far
            return self.put(func(*args)) if args[0] in self else func(*args)
        if func in (TO, CPU):
            return self._moved(func, args, kwargs)
        tensors = [value for value in tree_iter((args, kwargs)) if isinstance(value, Tensor)]
        there = [value for value in tensors if value in self]
        if func in ARRAYS and there:
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu()")
        if func not in ACROSS:
            self._require_together(func, args, tensors, there)
        asked = kwargs.get("device")
        if asked is not None and torch.device(asked).type == "cuda":
            if kwargs.get("generator") is not None:
                raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
            there, kwargs["device"] = [*there, torch.empty(0)], "cpu"
        elif asked is not None:
            there = []
        found = func(*args, **kwargs)
        if not there or func in ACROSS:
            return found
        self.seen += 1
        return self.put(found)

    def _moved(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """`to` and `cpu`: a copy on the other side, or where it lies."""
        tensor, given = args[0], [*args[1:], *kwargs.values()]
        places = [_place(value, self) for value in given]
        there = next((place for place in places if place is not None), None)
        there = False if func is CPU else (tensor in self) if there is None else there

        def plain(value: Any) -> Any:
            if isinstance(value, Tensor):
                return value.dtype
            return torch.device("cpu") if isinstance(value, str | torch.device) and torch.device(value).type == "cuda" else value

        found = func(tensor, *tree_map(plain, args[1:]), **{name: plain(value) for name, value in kwargs.items()})
        if there != (tensor in self) and found.untyped_storage()._cdata == tensor.untyped_storage()._cdata:
            found = found.clone(memory_format=torch.preserve_format)
        return self.put(found) if there else found

    def _require_together(self, func: Any, args: Any, tensors: list[Tensor], there: list[Tensor]) -> None:
        """Raise `RuntimeError` for tensors on both sides; single numbers of the CPU, and its indices, may meet the others."""
        if not there:
            return
        if func in (Tensor.__getitem__, Tensor.__setitem__):
            if args[0] in self:
                tensors = tensors[:1] + ([args[2]] if len(args) > 2 and isinstance(args[2], Tensor) else [])
            name = "indices should be either on cpu or on the same device as the indexed tensor (cpu)"
        else:
            name = "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!"
        apart = [value for value in tensors if value not in self and value.ndim and value.numel()]
        if apart and any(value.ndim or value.numel() for value in there):
            raise RuntimeError(
                f"{name} ({getattr(func, '__name__', func)}, {[(tuple(value.shape), value in self) for value in tensors]})"
            )


def _place(value: Any, gpu: FakeGPU) -> bool | None:
    """Whether an argument of `to` names the device; None where it names none."""
    if isinstance(value, Tensor):
        return value in gpu
    return torch.device(value).type == "cuda" if isinstance(value, str | torch.device) else None


class _Accelerator(CPUAccelerator):
    def setup_device(self, device: torch.device) -> None:
        pass


def fake_gpu() -> Iterator[FakeGPU]:
    """The body of a fixture: coinseg chooses the device, and Fabric trains on it."""
    rooms = [module for name, module in sys.modules.items() if name.startswith("coinseg.")]
    with mock.patch.multiple("torch.cuda", current_device=lambda: 0), FakeGPU() as gpu:
        patches = [mock.patch.object(room, "choose_device", return_value=GPU) for room in rooms if hasattr(room, "choose_device")]
        patches += [mock.patch.object(room, "make_fabric", _fabric) for room in rooms if hasattr(room, "make_fabric")]
        for patch in patches:
            patch.start()
        try:
            yield gpu
        finally:
            for patch in patches:
                patch.stop()


def _fabric(*ignored: Any) -> Fabric:
    return Fabric(strategy=SingleDeviceStrategy(GPU, accelerator=_Accelerator()))
