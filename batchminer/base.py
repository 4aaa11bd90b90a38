"""What a miner is, the registry of miners, and the ways to draw from masks and weights without a loop."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from utilities.batch import Triplets
from utilities.flags.registry import Registry
from utilities.tensors.labels import PairRule


class Miner:
    """Chooses triplets in a batch. Stateless but for its hyper-parameters; never carries gradient.

    Subclasses take their hyper-parameters as keyword-only arguments, among them `relation: PairRule` where it
    decides what is positive and negative, and implement `mine`. A miner

    * never pairs two rows of one image (but for `intra_random` with replacement), and never uses an image without
      labels;
    * works on the embeddings' device, and waits for it only to learn how many triplets there are;
    * draws from `generator` alone, so that equal generators give equal triplets.
    """

    related: ClassVar[bool] = True  # whether positives are more related to their anchors than negatives are
    relation: PairRule  # of a related miner: without both kinds of pairs by it, a batch has no triplet

    def __call__(
        self,
        embeddings: Tensor,
        labels: Tensor,
        indices: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Triplets:
        """embeddings (B, D) unit rows of any float type; labels (B, L) bool; indices (B,) int64 image ids, so
        that two rows of one image never form a pair; generator on the embeddings' device."""
        if len(embeddings) < 3:
            none = torch.empty(0, dtype=torch.int64, device=embeddings.device)
            return Triplets(none, none, none, none)
        with torch.no_grad():
            return self.mine(embeddings, labels.bool(), indices, generator)

    def mine(
        self, embeddings: Tensor, labels: Tensor, indices: Tensor | None, generator: torch.Generator | None
    ) -> Triplets:
        """As `__call__`, without gradient and with B >= 3."""
        raise NotImplementedError

    def advice(self, batches: list[Tensor]) -> str:
        """What makes triplets few in batches of labels, (B, L) each, and what to do; "" where they are not."""
        return ""


MINERS: Registry[Miner] = Registry("miner")


def related_miners() -> list[str]:
    """Names of the miners whose triplets say what shall be near and what far, as a metric loss reads them."""
    return [name for name in MINERS if MINERS[name].related]


def draw_below(count: Tensor, generator: torch.Generator | None) -> Tensor:
    """A uniform integer of [0, count) for each element of an integer tensor; 0 where count is 0."""
    # A float32 u < 1 times n < 2**24 rounds to less than n, so the bound needs no clamp.
    return (torch.rand(count.shape, generator=generator, device=count.device) * count).to(count.dtype)


def draw(mask: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """A uniformly drawn True column of each row, (R, N) bool -> (R,) int64; and whether it has any."""
    running = mask.cumsum(1, dtype=torch.int32)
    count = running[:, -1:]
    column = torch.searchsorted(running, draw_below(count, generator), right=True)
    return column.squeeze(1).clamp_(max=mask.shape[1] - 1), count.squeeze(1) > 0


def draw_weighted(log_weights: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """A column of each row with probability softmax(log_weights), (R, N) float32 -> (R,) int64; and whether
    any of its log-weights is finite.

    Gumbel-argmax: nothing is exponentiated, so weights hundreds of orders of magnitude apart are no
    difficulty.
    """
    uniform = torch.rand(log_weights.shape, generator=generator, device=log_weights.device)
    exponential = uniform.clamp_(min=2**-25).log_().neg_()
    score, column = (log_weights - exponential.log_()).max(1)
    return column, score > -torch.inf


def shared_class(labels: Tensor, anchor: Tensor, positive: Tensor, generator: torch.Generator | None) -> Tensor:
    """A class drawn uniformly among those that anchor and positive share, (T,) int64."""
    return draw(labels.index_select(0, anchor) & labels.index_select(0, positive), generator)[0]


def one_per_anchor(
    valid: Tensor, positive: Tensor, negative: Tensor, labels: Tensor, generator: torch.Generator | None
) -> Triplets:
    """Triplets of the valid anchors, formed through a shared class. All but labels (B, L) are (B,)."""
    anchor = valid.nonzero().squeeze(1)
    positive, negative = positive.index_select(0, anchor), negative.index_select(0, anchor)
    return Triplets(anchor, positive, negative, shared_class(labels, anchor, positive, generator))


def one_per_anchor_classless(valid: Tensor, positive: Tensor, negative: Tensor) -> Triplets:
    """As `one_per_anchor`, where anchor and positive share no class: cls is -1."""
    anchor = valid.nonzero().squeeze(1)
    return Triplets(anchor, positive[anchor], negative[anchor], torch.full_like(anchor, -1))
