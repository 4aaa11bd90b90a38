"""The one pairwise distance of the project."""

from __future__ import annotations

import torch
from torch import Tensor


def pairwise_distances(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean distances between unit rows, (M, D) and (N, D) -> (M, N) float32 in [0, 2].

    d = sqrt(2 - 2 <a, b>), computed in float32 whatever autocast says (bf16 loses everything near 0). The
    1e-8 inside the root keeps the gradient finite for duplicates, as the authors of the margin loss do.
    """
    with torch.autocast(a.device.type, enabled=False):
        squared = torch.addmm(a.new_full((), 2.0, dtype=torch.float32), a.float(), b.float().T, alpha=-2)
        return (squared.clamp(min=0) + 1e-8).sqrt()


def paired_distances(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean distances between corresponding rows, (T, D) and (T, D) -> (T,) float32."""
    with torch.autocast(a.device.type, enabled=False):
        return (a.float() - b.float()).square().sum(1).add(1e-8).sqrt()
