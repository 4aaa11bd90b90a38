"""Relations between label sets: similarities, and the positive / negative / ignore pairs built on them.

Every function takes multi-hot rows and returns a (M, N) float32 matrix on their device. With n_i the
number of labels of image i, O = Y Y^T the shared counts and L the number of labels in all:

    overlap O | jaccard O / (n_i + n_j - O) | cosine O / sqrt(n_i n_j) | hamming 1 - (n_i + n_j - 2 O) / L

An image without labels is related to nothing: its similarities are 0 (hamming excepted, where two empty
sets agree in every label). On one-hot labels all but hamming reduce to [y_i == y_j].
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


def overlap(a: Tensor, b: Tensor) -> Tensor:
    """Number of shared labels. a (M, L), b (N, L) -> (M, N); exact, since counts stay far below 2**24."""
    first = a.float()
    second = first if a is b else b.float()
    with torch.autocast(a.device.type, enabled=False):
        return first @ second.T


def jaccard(a: Tensor, b: Tensor) -> Tensor:
    """Shared labels over labels of either, in [0, 1]. (M, L), (N, L) -> (M, N)."""
    return _over_union(overlap(a, b), a.sum(1, dtype=torch.float32)[:, None], b.sum(1, dtype=torch.float32))


def jaccard_of_counts(shared: Tensor, of_query: Tensor, of_image: Tensor) -> Tensor:
    """|L_q & L_j| / |L_q | L_j|; 0 for two empty sets. Counts -> float64.

    >>> jaccard_of_counts(torch.tensor([1]), torch.tensor([2]), torch.tensor([3])).item()
    0.25
    """
    return _over_union(shared.double(), of_query, of_image)


def _over_union(shared: Tensor, of_one: Tensor, of_other: Tensor) -> Tensor:
    return shared / (of_one + of_other - shared).clamp(min=1)


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosine of the multi-hot vectors, in [0, 1]. (M, L), (N, L) -> (M, N)."""
    scale = a.sum(1, dtype=torch.float32)[:, None] * b.sum(1, dtype=torch.float32)
    return overlap(a, b) / scale.clamp(min=1).sqrt()


def hamming(a: Tensor, b: Tensor) -> Tensor:
    """Share of the L labels on which both agree, in [0, 1]. (M, L), (N, L) -> (M, N)."""
    sizes_a, sizes_b = a.sum(1, dtype=torch.float32)[:, None], b.sum(1, dtype=torch.float32)
    differing = overlap(a, b).mul_(-2).add_(sizes_a).add_(sizes_b)
    return differing.div_(-a.shape[1]).add_(1)


class Pairs(NamedTuple):
    """Two disjoint (B, B) bool masks; what is in neither is ignored. The diagonal is in neither."""

    positive: Tensor
    negative: Tensor


class PairRule(NamedTuple):
    """Which pairs of images are positive, which negative, and which say nothing.

    relation  "jaccard":   positive from a Jaccard similarity of `positive_threshold` on, negative up to
                           `negative_threshold` (0: no shared label), the pairs between them ignored
              "any_share": positive with any shared label, negative without
              "identical": positive with equal label sets, negative without a shared label

    The same image twice, and an image without labels, form no pair at all. On one-hot labels every relation
    is the single-label definition.
    """

    relation: str
    positive_threshold: float = 0.5
    negative_threshold: float = 0.0

    def pairs(self, labels: Tensor, indices: Tensor | None = None) -> Pairs:
        """labels (B, L) bool; indices (B,) int64 rows in the data set, to leave out same-image pairs."""
        if self.relation not in RELATIONS:
            raise ValueError(f"label relation {self.relation!r} is unknown; choices: {', '.join(RELATIONS)}")
        # Not a number compares false, so what may form no pair is in neither mask. In place and few: at a batch of
        # 120 these are calls of microseconds, and their number is what they cost.
        shared = overlap(labels, labels)
        sizes = shared.diagonal().clone()
        sizes.masked_fill_(sizes == 0, torch.nan)
        union = (sizes[:, None] + sizes).sub_(shared)
        if indices is None:
            union.fill_diagonal_(torch.nan)
        else:
            union.masked_fill_(indices[:, None] == indices, torch.nan)
        similarity = shared.div_(union)
        if self.relation == "jaccard":
            return Pairs(similarity >= self.positive_threshold, similarity <= self.negative_threshold)
        if self.relation == "any_share":
            return Pairs(similarity > 0, similarity == 0)
        return Pairs(similarity == 1, similarity == 0)


RELATIONS = ("jaccard", "any_share", "identical")
