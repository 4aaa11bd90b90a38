"""Distance-weighted mining."""

from __future__ import annotations

import torch
from torch import Tensor

from batchminer.base import MINERS, Miner, draw, draw_weighted, one_per_anchor
from utilities.batch import Triplets
from utilities.tensors.distances import check_cutoffs, log_inverse_density, pairwise_distances
from utilities.tensors.labels import PairRule


def distance_log_weights(distances: Tensor, dim: int, lower_cutoff: float, upper_cutoff: float) -> Tensor:
    """log 1/q(d) on the unit sphere in R^dim, with d clamped from below, which bounds the variance of the gradient, and
    -inf from the upper cut-off on, where the margin loss is zero. Any shape, float32 -> the same shape.
    """
    log_weights = log_inverse_density(distances.clamp(min=lower_cutoff), dim)
    return log_weights.masked_fill(distances >= upper_cutoff, -torch.inf)


@MINERS.register("distance")
class DistanceWeighted(Miner):
    """One triplet per anchor: a uniform positive, and a negative with probability proportional to 1/q(d_an).

    lower_cutoff  distances below count as this one (Wu et al.: 0.5)
    upper_cutoff  negatives from here on are not drawn (Wu et al.: 1.4); above 2 for none, as in the DiVA
                  authors' code, where far negatives then beat medium ones: 1/q grows again beyond sqrt(2)

    An anchor whose negatives all lie beyond the upper cut-off is left out, as in pytorch-metric-learning: its
    negative term in the margin loss would be zero. (The first implementation draws from the whole batch then,
    positives included.)

    Source: Wu et al., Sampling Matters in Deep Embedding Learning, ICCV 2017, section 4.1.
    """

    def __init__(self, *, relation: PairRule, lower_cutoff: float, upper_cutoff: float) -> None:
        check_cutoffs("distance", lower_cutoff, upper_cutoff)
        self.relation = relation
        self.lower_cutoff = lower_cutoff
        self.upper_cutoff = upper_cutoff

    def mine(
        self, embeddings: Tensor, labels: Tensor, indices: Tensor | None, generator: torch.Generator | None
    ) -> Triplets:
        positive, negative = self.relation.pairs(labels, indices)
        distances = pairwise_distances(embeddings, embeddings)
        weights = distance_log_weights(distances, embeddings.shape[1], self.lower_cutoff, self.upper_cutoff)
        weights = weights.where(negative, -torch.inf)
        other, has_positive = draw(positive, generator)
        found, has_negative = draw_weighted(weights, generator)
        return one_per_anchor(has_positive & has_negative, other, found, labels, generator)
