"""Distance-weighted mining on permuted labels: the DiVA authors' "shared" triplets."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from batchminer.base import MINERS
from batchminer.distance import DistanceWeighted
from utilities.batch import Triplets


@MINERS.register("random_distance", prefix="distance")
class RandomDistance(DistanceWeighted):
    """As `distance`, after the label rows were shuffled among the images of the batch.

    What anchor and positive then have in common is not a class, so cls is -1. Positive and negative may still
    share every true label with the anchor: `shared_distance` is what the paper describes.

    Source: `random_distance.py` of Confusezius/ECCV2020_DiVA_MultiFeature_DML (default of --diva_sharing).
    """

    related: ClassVar[bool] = False

    def mine(
        self, embeddings: Tensor, labels: Tensor, indices: Tensor | None, generator: torch.Generator | None
    ) -> Triplets:
        shuffle = torch.randperm(len(labels), generator=generator, device=labels.device)
        shuffled = labels[shuffle] & labels.any(1, keepdim=True)  # an image without labels stays without
        anchor, positive, negative, _ = super().mine(embeddings, shuffled, indices, generator)
        return Triplets(anchor, positive, negative, torch.full_like(anchor, -1))
