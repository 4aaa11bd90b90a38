"""Soft-hard mining: what the DiVA authors' code calls "semihard"."""

from __future__ import annotations

import torch
from torch import Tensor

from batchminer.base import MINERS, Miner, draw, one_per_anchor
from utilities.batch import Triplets
from utilities.tensors.distances import cosines
from utilities.tensors.labels import PairRule


@MINERS.register("softhard")
class SoftHard(Miner):
    """One triplet per anchor a, drawn uniformly from its hard positives and its hard negatives:

        P'(a) = {p : d_ap > min_n d_an}    a positive farther than the nearest negative
        N'(a) = {n : d_an < max_p d_ap}    a negative nearer than the farthest positive

    P' and N' are empty together; then p and n are drawn from all positives and negatives. An anchor without
    positive or without negative is left out.

    Source: `semihard.py` of Confusezius/ECCV2020_DiVA_MultiFeature_DML, named "softhardsampling" by the same
    author earlier. It is not the semi-hard mining of FaceNet, which is `semihard` here.
    """

    def __init__(self, *, relation: PairRule) -> None:
        self.relation = relation

    def mine(
        self, embeddings: Tensor, labels: Tensor, indices: Tensor | None, generator: torch.Generator | None
    ) -> Triplets:
        positive, negative = self.relation.pairs(labels, indices)
        closeness = cosines(embeddings, embeddings)  # falls with the distance, without a root
        near = closeness.where(negative, -torch.inf)
        far = closeness.where(positive, torch.inf)
        nearest_negative, farthest_positive = near.amax(1, keepdim=True), far.amin(1, keepdim=True)
        any_hard = farthest_positive < nearest_negative
        # Without a hard pair every bound is met: -inf < c < inf. What is no candidate meets none.
        hard = torch.empty(2, *closeness.shape, dtype=torch.bool, device=closeness.device)
        torch.lt(far, nearest_negative.where(any_hard, torch.inf), out=hard[0])
        torch.gt(near, farthest_positive.where(any_hard, -torch.inf), out=hard[1])
        columns, has = draw(hard.flatten(0, 1), generator)  # one call draws both
        other, found = columns.chunk(2)
        return one_per_anchor(has.view(2, -1).all(0), other, found, labels, generator)
