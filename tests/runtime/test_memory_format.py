"""Networks are channels last, but for those on a CPU whose kernels outweigh their maps."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from coinseg.runtime.devices import WIDEST, to_device

CPU = torch.device("cpu")


def is_channels_last(module: nn.Conv2d) -> bool:
    return module.weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("outputs", "kernel", "device", "wanted"),
    [(512, 3, CPU, True), (513, 3, CPU, False), (513, 1, CPU, True), (513, 3, torch.device("meta"), True)],
)
def test_the_widest_kernel_decides(outputs: int, kernel: int, device: torch.device, wanted: bool) -> None:
    assert WIDEST == 512 * 512
    narrow, wide = nn.Conv2d(2, 2, 3), nn.Conv2d(512, outputs, kernel, bias=False)
    to_device(nn.ModuleList([narrow, wide]), device)
    assert is_channels_last(narrow) == wanted
    assert is_channels_last(wide) == (wanted or kernel == 1)
