"""The triplet loss."""

from __future__ import annotations

from torch import Tensor, nn

from criteria.base import CRITERIA
from utilities.batch import Triplets
from utilities.tensors.distances import pairwise_distances


@CRITERIA.register("triplet")
class TripletLoss(nn.Module):
    """The positive nearer than the negative by a margin: L = mean_t [d_ap - d_an + margin]_+, and 0 with a
    graph for T = 0.

    It compares and sets no absolute distance, so it suits triplets whose negative is itself related to the
    anchor (the fine triplets of `multilabel_semihard`, whose authors use it with margin 0).

    margin  in Euclidean distance between unit vectors

    Source: Schroff et al., FaceNet, CVPR 2015, eq. 3, with distances instead of their squares, as
    `torch.nn.TripletMarginLoss`.
    """

    def __init__(self, *, margin: float) -> None:
        super().__init__()
        self.margin = margin

    def forward(self, embeddings: Tensor, triplets: Triplets, labels: Tensor) -> Tensor:
        """embeddings (B, D) unit rows; labels (B, L) are not looked at -> () float32."""
        distances = pairwise_distances(embeddings, embeddings)
        positive = distances[triplets.anchor, triplets.positive]
        negative = distances[triplets.anchor, triplets.negative]
        return (positive - negative + self.margin).relu().sum() / max(1, triplets.count)
