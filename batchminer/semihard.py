"""Semi-hard mining as in FaceNet."""

from __future__ import annotations

import torch
from torch import Tensor

from batchminer.base import MINERS, Miner, draw, shared_class
from utilities.batch import Triplets
from utilities.errors import UserError
from utilities.tensors.distances import pairwise_distances
from utilities.tensors.labels import PairRule

CHUNK_ELEMENTS = 2**20  # candidate triplets looked at together: about 10 MB of temporaries


@MINERS.register("semihard")
class SemiHard(Miner):
    """Every positive pair (a, p) with one of its semi-hard negatives, drawn uniformly:

        d_ap < d_an <= d_ap + margin

    A pair without semi-hard negative is left out. The candidates are those of pytorch-metric-learning's
    TripletMarginMiner(margin, "semihard"), which returns all of them.

    margin  width of the band, a Euclidean distance between unit vectors (FaceNet: 0.2, on squared distances)

    With P positive pairs, O(P B) work, chunked over the pairs.

    Source: Schroff et al., FaceNet, CVPR 2015, section 3.2, eq. 4.
    """

    def __init__(self, *, relation: PairRule, margin: float) -> None:
        if not margin > 0:
            raise UserError(f"semi-hard margin {margin} is not positive; it is the width of the band, e.g. 0.2")
        self.relation = relation
        self.margin = margin

    def mine(
        self, embeddings: Tensor, labels: Tensor, indices: Tensor | None, generator: torch.Generator | None
    ) -> Triplets:
        positive, negative = self.relation.pairs(labels, indices)
        distances = pairwise_distances(embeddings, embeddings)
        pairs = positive.nonzero()
        step = max(1, CHUNK_ELEMENTS // len(labels))
        chunks = [self._draw_negatives(distances, negative, part, generator) for part in pairs.split(step)]
        found, valid = (torch.cat(parts) for parts in zip(*chunks, strict=True))
        kept = valid.nonzero().squeeze(1)
        anchor, other = pairs[kept].unbind(1)
        return Triplets(anchor, other, found[kept], shared_class(labels, anchor, other, generator))

    def _draw_negatives(
        self, distances: Tensor, negative: Tensor, pairs: Tensor, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """A semi-hard negative of each (a, p) in pairs (P, 2), and whether there is one; (P,) each."""
        anchor, positive = pairs.unbind(1)
        farther = distances.index_select(0, anchor) - distances[anchor, positive][:, None]
        semihard = negative.index_select(0, anchor).logical_and_(farther > 0).logical_and_(farther <= self.margin)
        return draw(semihard, generator)
