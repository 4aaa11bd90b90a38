"""Losses are computed in float32 whatever autocast says, and in float64 when given that."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_float32(rows: Tensor) -> Tensor:
    """float16 and bfloat16 -> float32; float32 and float64 as they are. Differentiable."""
    return rows.to(torch.promote_types(rows.dtype, torch.float32))
