"""Multi-label mining by the number of shared labels."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from batchminer.base import MINERS, Miner, draw_below, shared_class
from utilities.batch import Triplets
from utilities.errors import UserError
from utilities.tensors.distances import pairwise_distances
from utilities.tensors.labels import PairRule, overlap

CHUNK_ELEMENTS = 2**20  # candidate triplets looked at together: about 10 MB of temporaries


class _Batch(NamedTuple):
    """What is known of all pairs of images, each (B, B)."""

    distance: Tensor  # float32
    shared: Tensor  # float32, number of shared labels
    related: Tensor  # bool, different images that share a label
    unrelated: Tensor  # bool, different images that share none


class _Positives(NamedTuple):
    """Up to P positives of each anchor, farthest first, with what decides on their negatives."""

    image: Tensor  # (B, P) int64
    distance: Tensor  # (B, P) float32, -inf where there is no further positive
    shared: Tensor  # (B, P) float32, labels shared with the anchor
    coarse: Tensor  # (B, P, K) int64, drawn coarse negatives; the anchor itself where there is none to draw


@MINERS.register("multilabel_semihard")
class MultiLabelSemiHard(Miner):
    """Misordered triplets: the negative is nearer than the positive and shares fewer labels with the anchor.

    With O the shared labels, for an anchor a and every p with O_ap > 0:

        fine    all n with 0 < O_an < O_ap and d_an < d_ap
        coarse  of the n with O_an = 0 and d_an < d_ap, `coarse_draws` drawn with repetition (a repeat
                counts once; the authors draw no more than there are, and count it twice)

    Each anchor keeps at most `max_triplets`, those of its farthest positives; at the positive where the cap
    is reached, a uniformly drawn part. (The authors test their cap only now and then, and exceed it.) On
    one-hot labels there are no fine triplets.

    The negative of a fine triplet is related to the anchor, so a loss that compares (`criteria.triplet`)
    suits it; the margin loss pushes it as far away as an unrelated image.

    A positive that yields any triplet yields at least one, so no anchor needs more than its `max_triplets`
    farthest ones: O(B^2 max_triplets) work, chunked over anchors, and never the full (B, B, B) mask.

    Source: abarthakur/multilabel-deep-metric, `src/utils.py`.
    """

    def __init__(self, *, max_triplets: int, coarse_draws: int) -> None:
        if max_triplets < 1 or coarse_draws < 0:
            raise UserError(
                f"max_triplets {max_triplets} per anchor and coarse_draws {coarse_draws} per positive:"
                " at least 1 and at least 0 are needed; the authors begin with 100 and 3"
            )
        self.relation = PairRule("any_share")
        self.max_triplets = max_triplets
        self.coarse_draws = coarse_draws

    def mine(
        self, embeddings: Tensor, labels: Tensor, indices: Tensor | None, generator: torch.Generator | None
    ) -> Triplets:
        # Negatives are kept in column order, so a shuffled batch makes the kept part of them a random one.
        shuffle = torch.randperm(len(labels), generator=generator, device=labels.device)
        embeddings, labels = embeddings[shuffle], labels[shuffle]
        batch = _Batch(
            pairwise_distances(embeddings, embeddings),
            overlap(labels, labels),
            *self.relation.pairs(labels, None if indices is None else indices[shuffle]),
        )
        positives = self._positives(batch, labels.shape[1], generator)

        step = max(1, CHUNK_ELEMENTS // (positives.image.shape[1] * len(labels)))
        chunks = [self._keep(batch, positives, i, i + step) for i in range(0, len(labels), step)]
        slot, negative, valid = (torch.cat(parts) for parts in zip(*chunks, strict=True))
        anchor, kept = valid.nonzero().unbind(1)
        positive, negative = positives.image[anchor, slot[anchor, kept]], negative[anchor, kept]
        cls = shared_class(labels, anchor, positive, generator)
        return Triplets(shuffle[anchor], shuffle[positive], shuffle[negative], cls)

    def _positives(self, batch: _Batch, classes: int, generator: torch.Generator | None) -> _Positives:
        """The farthest positives that yield a triplet, at most max_triplets, and their coarse draws."""
        ascending, order = batch.distance.where(batch.unrelated, torch.inf).sort(1)
        yields = batch.distance > nearest_with_fewer_labels(batch, classes)
        if self.coarse_draws:
            yields |= batch.distance > ascending[:, :1]
        yields &= batch.related
        most = int(yields.sum(1).amax())  # waits for the device, which costs less than rows of padding
        candidates = batch.distance.where(yields, -torch.inf)
        distance, image = candidates.topk(max(1, min(self.max_triplets, most)), dim=1)

        nearer = torch.searchsorted(ascending, distance)[:, :, None]  # number of unrelated images nearer than p
        places = draw_below(nearer.expand(-1, -1, self.coarse_draws), generator)
        anchors = torch.arange(len(order), device=order.device)[:, None, None]
        coarse = order.gather(1, places.flatten(1)).view_as(places).where(nearer > 0, anchors)
        return _Positives(image, distance, batch.shared.gather(1, image), coarse)

    def _keep(self, batch: _Batch, positives: _Positives, start: int, stop: int) -> tuple[Tensor, Tensor, Tensor]:
        """The first `max_triplets` of C anchors from start to stop: slot of positive, negative, valid."""
        _, positive_distance, positive_shared, coarse = (part[start:stop] for part in positives)
        related_distance = batch.distance[start:stop].where(batch.related[start:stop], torch.inf)
        chosen = related_distance[:, None] < positive_distance[:, :, None]
        chosen &= batch.shared[start:stop, None] < positive_shared[:, :, None]
        chosen.scatter_(2, coarse, True)
        anchors = torch.arange(start, start + len(chosen), device=chosen.device)[:, None, None]
        chosen.scatter_(2, anchors.expand(-1, chosen.shape[1], 1), False)

        # Rank of each chosen triplet of an anchor: within its positive, then over the positives before it.
        rank = chosen.cumsum(2, dtype=torch.int32)
        total = rank[:, :, -1].cumsum(1, dtype=torch.int32)
        rank[:, 1:] += total[:, :-1, None]
        wanted = torch.arange(1, self.max_triplets + 1, dtype=torch.int32, device=chosen.device)
        wanted = wanted[: rank[0].numel()].expand(len(rank), -1).contiguous()
        place = torch.searchsorted(rank.flatten(1), wanted).clamp_(max=rank[0].numel() - 1)
        images = chosen.shape[2]
        return place // images, place % images, wanted <= total[:, -1:]


def nearest_with_fewer_labels(batch: _Batch, classes: int) -> Tensor:
    """Distance from a to its nearest n with 0 < O_an < O_ap, for each (a, p); inf without one."""
    shared = batch.shared.long()
    nearest = batch.distance.new_full((len(shared), classes + 1), torch.inf)
    related_distance = batch.distance.where(batch.related, torch.inf)
    nearest = nearest.scatter_reduce(1, shared, related_distance, "amin").cummin(1).values
    return nearest.gather(1, (shared - 1).clamp_(min=0))
