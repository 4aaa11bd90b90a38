"""The miner of the divide-and-conquer authors: every positive, the nearest negatives beyond a cut-off."""

from __future__ import annotations

import torch
from torch import Tensor

from batchminer.base import MINERS, Miner, shared_class
from utilities.batch import Triplets
from utilities.errors import UserError
from utilities.tensors.distances import pairwise_distances
from utilities.tensors.labels import PairRule


@MINERS.register("nearest_beyond")
class NearestBeyond(Miner):
    """All m positives of an anchor, with its m nearest negatives at a distance of at least `lower_cutoff`.

    The farthest positive is paired with the nearest negative, and so on; where the negatives run out, the
    nearest positives are left out. An anchor without any negative that far takes its farthest ones: collapsed
    embeddings get triplets that part them again. In a loss of separate positive and negative terms, as the margin loss,
    only which pairs occur matters. Nothing is random but `cls`.

    lower_cutoff  the authors use 0.5

    Source: `lib/loss/sampler.py` of CompVis/metric-learning-divide-and-conquer, which pairs in batch order
    and needs equally many images of every class.
    """

    def __init__(self, *, relation: PairRule, lower_cutoff: float) -> None:
        if not 0 <= lower_cutoff < 2:
            raise UserError(f"nearest-beyond cut-off {lower_cutoff} is not a distance in [0, 2); use e.g. 0.5")
        self.relation = relation
        self.lower_cutoff = lower_cutoff

    def mine(
        self, embeddings: Tensor, labels: Tensor, indices: Tensor | None, generator: torch.Generator | None
    ) -> Triplets:
        positive, negative = self.relation.pairs(labels, indices)
        distances = pairwise_distances(embeddings, embeddings)
        far_positives = distances.where(positive, -torch.inf).sort(1, descending=True)
        beyond = negative & (distances >= self.lower_cutoff)
        order = torch.where(beyond.any(1, keepdim=True), distances.where(beyond, torch.inf), -distances)
        near_negatives = order.where(negative, torch.inf).sort(1)
        paired = far_positives.values.isfinite() & near_negatives.values.isfinite()
        anchor, rank = paired.nonzero().unbind(1)
        other = far_positives.indices[anchor, rank]
        return Triplets(
            anchor,
            other,
            near_negatives.indices[anchor, rank],
            shared_class(labels, anchor, other, generator),
        )
