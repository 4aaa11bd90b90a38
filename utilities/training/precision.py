"""Number formats: which one a device computes fast in, and the context that asks for it."""

from __future__ import annotations

import contextlib
import functools
import time
from contextlib import AbstractContextManager

import torch
from torch import nn

from utilities.errors import UserError

CHOICES = ("auto", "bf16", "fp32")


def has_fast_bf16(device: torch.device) -> bool:
    """Whether the device is faster in bfloat16: Ampere and later; a CPU with AMX, or with AVX512-BF16 that is.

    Some processors multiply bfloat16 at half the pace of float32 (Intel's where a virtual machine hides AMX).
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        if torch.cpu._is_amx_tile_supported():
            return True
        return bool(torch.cpu._is_avx512_bf16_supported()) and _product_seconds(torch.bfloat16) < _product_seconds()
    return False


@functools.cache
def _product_seconds(dtype: torch.dtype = torch.float32) -> float:
    """CPU seconds of a product of 512 x 512 matrices, the best of some: others' work on the machine does not count."""
    square = torch.ones(512, 512, dtype=dtype)
    seconds = []
    for _ in range(5):
        start = time.process_time()
        square @ square
        seconds.append(time.process_time() - start)
    return min(seconds[1:])


def is_depthwise(network: nn.Module) -> bool:
    """Whether most of the network's convolutions over more than a pixel see one channel each (MobileNets)."""
    spatial = [m for m in network.modules() if isinstance(m, nn.Conv2d) and max(m.kernel_size) > 1]
    return 2 * sum(1 < m.groups == m.in_channels for m in spatial) > len(spatial)


def resolve(precision: str, device: torch.device, network: nn.Module | None = None) -> str:
    """`auto` -> "bf16" where the device is faster in it with this network, else "fp32".

    On CPUs depthwise convolutions are not (`python -m tests.benchmarks.backbones`).
    """
    if precision not in CHOICES:
        raise UserError(f"unknown --precision {precision!r}; choices: {', '.join(CHOICES)}")
    if precision == "auto":
        slow = device.type == "cpu" and network is not None and is_depthwise(network)
        return "bf16" if has_fast_bf16(device) and not slow else "fp32"
    return precision


def full_convolutions() -> None:
    """Let float32 convolutions on a GPU be float32: torch computes them in TF32 unless told, as it does no product."""
    torch.backends.cudnn.allow_tf32 = False


def autocast(precision: str, device: torch.device, network: nn.Module | None = None) -> AbstractContextManager[object]:
    """bf16 autocast (float32 weights, no loss scaling needed), or nothing for plain float32."""
    if resolve(precision, device, network) == "bf16":
        return torch.autocast(device.type, torch.bfloat16)
    return contextlib.nullcontext()
