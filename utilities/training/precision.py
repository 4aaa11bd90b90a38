"""Number formats: which one a device computes fast in, and the context that asks for it."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager

import torch

from utilities.errors import UserError

CHOICES = ("auto", "bf16", "fp32")


def has_fast_bf16(device: torch.device) -> bool:
    """Whether the device has bfloat16 matrix instructions (Ampere and later; AVX512-BF16 or AMX)."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return False


def resolve(precision: str, device: torch.device) -> str:
    """`auto` -> "bf16" where the device has it, else "fp32"."""
    if precision not in CHOICES:
        raise UserError(f"unknown --precision {precision!r}; choices: {', '.join(CHOICES)}")
    if precision == "auto":
        return "bf16" if has_fast_bf16(device) else "fp32"
    return precision


def full_convolutions() -> None:
    """Let float32 convolutions on a GPU be float32: torch computes them in TF32 unless told, as it does no product."""
    torch.backends.cudnn.allow_tf32 = False


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """bf16 autocast (float32 weights, no loss scaling needed), or nothing for plain float32."""
    if resolve(precision, device) == "bf16":
        return torch.autocast(device.type, torch.bfloat16)
    return contextlib.nullcontext()
