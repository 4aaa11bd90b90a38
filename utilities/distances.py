"""The one pairwise distance of the project, and the cosine it comes from."""

from __future__ import annotations

import torch
from torch import Tensor

from utilities.float32 import at_least_float32


def pairwise_distances(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean distances between unit rows, (M, D) and (N, D) -> (M, N) float32 in [0, 2].

    d = sqrt(2 - 2 <a, b>), computed in float32 whatever autocast says (bf16 loses everything near 0). The
    floor of 1e-8 inside the root keeps the gradient finite for duplicates, whose distance is 1e-4.
    """
    with torch.autocast(a.device.type, enabled=False):
        a, b = at_least_float32(a), at_least_float32(b)
        squared = torch.addmm(a.new_full((), 2.0), a, b.T, alpha=-2)
        return squared.clamp(min=1e-8).sqrt()


def cosines(a: Tensor, b: Tensor) -> Tensor:
    """Inner products of unit rows, (M, D) and (N, D) -> (M, N) float32 in [-1, 1], whatever autocast says."""
    with torch.autocast(a.device.type, enabled=False):
        return at_least_float32(a) @ at_least_float32(b).T
