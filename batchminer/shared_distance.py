"""DiVA's class-shared triplets: three images without a common label."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from batchminer.base import MINERS, Miner, draw, draw_weighted, one_per_anchor_classless
from batchminer.distance import distance_log_weights
from utilities.batch import Triplets
from utilities.errors import UserError
from utilities.tensors.distances import check_cutoffs, pairwise_distances
from utilities.tensors.labels import PairRule

POSITIVES = ("random", "distance")
FEW = 0.1  # triplets an image
WHY = (
    "few images find two others that share no label with them nor with each other. Raise --batch_size, permute labels "
    "as the released code does (--diva_shared_miner random_distance), or leave the loss out (--diva_alpha_shared 0)"
)


@MINERS.register("shared_distance", prefix="distance")
class SharedDistance(Miner):
    """One triplet per anchor whose label sets are pairwise disjoint: whatever makes p closer than n is shared
    across classes.

    The negative is drawn first, with distance weights among the images disjoint from the anchor; then the
    positive among those disjoint from both. An anchor left without either is left out.

    lower_cutoff, upper_cutoff  as in `distance`, of whatever is drawn by distance weights
    positive                    "random": uniform; "distance": with distance weights as well. Without the upper cut-off,
                                they would favour the farthest images, which have the least in common

    cls is -1, since no class is shared.

    Source: Milbich et al., DiVA, ECCV 2020, eq. 3; `shared_neg_distance` and `shared_full_distance` of the
    authors' code.
    """

    related: ClassVar[bool] = False

    def __init__(self, *, lower_cutoff: float, upper_cutoff: float, positive: str) -> None:
        check_cutoffs("distance", lower_cutoff, upper_cutoff)
        if positive not in POSITIVES:
            raise UserError(f"unknown choice of shared positives {positive!r}; choices: {', '.join(POSITIVES)}")
        self.lower_cutoff = lower_cutoff
        self.upper_cutoff = upper_cutoff
        self.positive = positive

    def expected(self, labels: Tensor) -> float:
        """Share of the images of a batch of labels (B, L) that may expect a triplet, of negatives drawn uniformly."""
        disjoint = PairRule("any_share").pairs(labels).negative.float()
        completed = disjoint * (disjoint @ disjoint > 0)  # by a third image without a label of either
        return float((completed.sum(1) / disjoint.sum(1).clamp(min=1)).mean())

    def advice(self, batches: list[Tensor]) -> str:
        found = sum(map(self.expected, batches)) / max(1, len(batches))
        return (
            ""
            if found >= FEW
            else f"the class-shared loss has triplets for {found:.1%} of the images of a batch: {WHY}"
        )

    def mine(
        self, embeddings: Tensor, labels: Tensor, indices: Tensor | None, generator: torch.Generator | None
    ) -> Triplets:
        disjoint = PairRule("any_share").pairs(labels, indices).negative
        distances = pairwise_distances(embeddings, embeddings)
        weights = distance_log_weights(distances, embeddings.shape[1], self.lower_cutoff, self.upper_cutoff)
        negative, has_negative = draw_weighted(weights.where(disjoint, -torch.inf), generator)
        candidates = disjoint & disjoint[negative]
        if self.positive == "distance":
            positive, has_positive = draw_weighted(weights.where(candidates, -torch.inf), generator)
        else:
            positive, has_positive = draw(candidates, generator)
        return one_per_anchor_classless(has_positive & has_negative, positive, negative)
