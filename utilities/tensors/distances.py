"""The one pairwise distance of the project, the cosine it comes from, and the density of it on the sphere."""

from __future__ import annotations

import torch
from torch import Tensor

from utilities.errors import UserError
from utilities.tensors.float32 import at_least_float32


def pairwise_distances(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean distances between unit rows, (M, D) and (N, D) -> (M, N) float32 in [0, 2].

    d = sqrt(2 - 2 <a, b>), computed in float32 whatever autocast says (bf16 loses everything near 0). The
    floor of 1e-8 inside the root keeps the gradient finite for duplicates, whose distance is 1e-4 to 1e-3, by rounding.
    """
    with torch.autocast(a.device.type, enabled=False):
        a, b = at_least_float32(a), at_least_float32(b)
        squared = torch.addmm(a.new_full((), 2.0), a, b.T, alpha=-2)
        return squared.clamp(min=1e-8).sqrt()


def cosines(a: Tensor, b: Tensor) -> Tensor:
    """Inner products of unit rows, (M, D) and (N, D) -> (M, N) float32 in [-1, 1], whatever autocast says."""
    with torch.autocast(a.device.type, enabled=False):
        return at_least_float32(a) @ at_least_float32(b).T


def log_inverse_density(distances: Tensor, width: int) -> Tensor:
    """log 1/q(d) up to a constant, q the density of distances between uniform points of the unit sphere in R^width:

        q(d) ~ d^(width-2) (1 - d^2/4)^((width-3)/2)

    distances in (0, 2], any shape -> the same shape, finite also at the antipode, where the density is 0.
    Source: Wu et al., Sampling Matters in Deep Embedding Learning, ICCV 2017, section 4.1.
    """
    d = distances.clamp(max=2 - 1e-4)
    half = d / 2
    # (1 - d/2)(1 + d/2), unlike 1 - d^2/4, does not cancel near 2
    return (2 - width) * d.log() - (width - 3) / 2 * ((1 - half) * (1 + half)).log()


def check_cutoffs(prefix: str, lower: float, upper: float) -> None:
    """Raise UserError unless 0 < lower < upper: distances from which and up to which `log_inverse_density` weighs.

    prefix  of the two flags: "distance", "diva_moco"
    """
    if not 0 < lower < upper:
        raise UserError(
            f"--{prefix}_lower_cutoff {lower} and --{prefix}_upper_cutoff {upper} do not satisfy 0 < lower < upper;"
            " Wu et al. use 0.5 and 1.4, and an upper cut-off above 2 cuts nothing off"
        )
