"""DiVA's intra-class triplets: three images of one class."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from batchminer.base import MINERS, Miner, draw
from utilities.batch import Triplets


@MINERS.register("intra_random")
class IntraRandom(Miner):
    """B triplets: each a class, uniform over the classes with enough images, and three images that carry it.

    with_replacement  False: three different images, from classes of at least three. True: three independent
                      draws from any class present, as in the authors' code, so that images may coincide;
                      with two images per class at least two always do.

    Source: Milbich et al., DiVA, ECCV 2020, eq. 4; `intra_random.py` of the authors' code.
    """

    related: ClassVar[bool] = False

    def __init__(self, *, with_replacement: bool) -> None:
        self.with_replacement = with_replacement

    def mine(
        self, embeddings: Tensor, labels: Tensor, indices: Tensor | None, generator: torch.Generator | None
    ) -> Triplets:
        members = labels.T & first_of_image(labels, indices)
        enough = members.sum(1) >= (1 if self.with_replacement else 3)
        cls, found = draw(enough.expand(len(labels), -1), generator)
        candidates = members[cls]
        if self.with_replacement:
            drawn = torch.stack([draw(candidates, generator)[0] for _ in range(3)], 1)
        else:
            keys = torch.rand(candidates.shape, generator=generator, device=labels.device)
            drawn = keys.where(candidates, -1).topk(3, dim=1).indices
        kept = found.nonzero().squeeze(1)
        anchor, positive, negative = drawn[kept].unbind(1)
        return Triplets(anchor, positive, negative, cls[kept])


def first_of_image(labels: Tensor, indices: Tensor | None) -> Tensor:
    """(B,) bool: False for a row whose image stands in an earlier row too."""
    if indices is None:
        return torch.ones(len(labels), dtype=torch.bool, device=labels.device)
    return ~(indices[:, None] == indices).tril(-1).any(1)
