"""What a query may expect of a gallery, counted through distinct label sets instead of pairs of images.

Archives repeat their label sets (2,886 among the 109,161 images of MLRSNet), so the number of relevant
images, the histogram of shared labels and mean similarities come from sets x sets, never from images x
images.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from utilities.measures.formulae import PAIR_MEASURES, Relevance
from utilities.tensors.labels import jaccard_of_counts, overlap

_BLOCK_PAIRS = 2**22  # pairs of label sets looked at together


class LabelSets(NamedTuple):
    """sets (U, L) bool, the distinct rows; of_image (N,) int64, the set of each image; counts (U,) int64."""

    sets: Tensor
    of_image: Tensor
    counts: Tensor


def distinct(labels: Tensor) -> LabelSets:
    """Distinct rows of a multi-hot matrix (N, L)."""
    packed = np.packbits(labels.cpu().numpy().astype(bool), axis=1)
    keys = np.ascontiguousarray(packed).view(np.dtype((np.void, packed.shape[1]))).ravel()
    _, first, inverse, counts = np.unique(keys, return_index=True, return_inverse=True, return_counts=True)
    return LabelSets(
        labels[torch.from_numpy(first)].bool(),
        torch.from_numpy(inverse.reshape(-1)),
        torch.from_numpy(counts),
    )


class PackedLabels:
    """Label sets as bits, so that comparing two images costs a few machine words instead of L multiplications."""

    def __init__(self, labels: Tensor) -> None:
        """labels (N, L) multi-hot."""
        packed = np.packbits(labels.cpu().numpy().astype(bool), axis=1)
        missing = -packed.shape[1] % 8
        self.words = np.ascontiguousarray(np.pad(packed, ((0, 0), (0, missing)))).view(np.uint64)  # (N, W)
        self.sizes = _count_bits(self.words)

    def shared(self, rows: slice, images: Tensor, gallery: PackedLabels) -> tuple[Tensor, Tensor]:
        """Labels that queries share with images (b, K), and with the union of the first 1 to K: both (b, K) int64."""
        asked = self.words[rows, None]
        both = gallery.words[images.numpy()] & asked
        return _count_bits(both), _count_bits(np.bitwise_or.accumulate(both, axis=1))


def _count_bits(words: np.ndarray) -> Tensor:
    """Bits set in (..., W) uint64 -> (...) int64."""
    if hasattr(np, "bitwise_count"):
        return torch.from_numpy(np.bitwise_count(words).sum(-1, dtype=np.int64))
    return torch.from_numpy(_BITS[words.view(np.uint16)].sum(-1, dtype=np.int64))  # numpy before 2.0


_BITS = np.unpackbits(np.arange(2**16, dtype=np.uint16).view(np.uint8)).reshape(-1, 16).sum(1).astype(np.uint8)


class Gains(NamedTuple):
    """levels (V,) float64, the gains that occur, rising from 0; counts (U, V) float64, images that yield each."""

    levels: Tensor
    counts: Tensor

    def total(self) -> Tensor:
        """Sum over all images, (U,)."""
        return self.counts @ self.levels


class GalleryFacts(NamedTuple):
    """Per kind of query (a label set, inside the gallery or not), with the query itself left out.

    kind       (Q,) int64, the kind of each query; the other tensors have one row a kind
    labels     (U, L) bool
    images     (U,) float64, images that can be found
    gains      how many of them share 0, 1, ... labels with the query ("shared"), or are how similar ("jaccard")
    relevant   one (U,) float64 a relevance rule: how many are relevant
    pair_means one (U,) float64 a label-wise measure: its mean over the gallery
    """

    kind: Tensor
    labels: Tensor
    images: Tensor
    gains: dict[str, Gains]
    relevant: dict[Relevance, Tensor]
    pair_means: dict[str, Tensor]


def gallery_facts(
    query_labels: Tensor,
    gallery_labels: Tensor,
    inside: Tensor,
    relevances: Collection[Relevance],
    pair_measures: Collection[str] = (),
    gain_kinds: Collection[str] = ("shared",),
) -> GalleryFacts:
    """Count the gallery (N, L) as each query (Q, L) sees it; inside (Q,) bool: the query is part of it."""
    inside = inside.bool()
    kinds = distinct(torch.cat([query_labels.bool(), inside[:, None]], dim=1))
    labels, itself = kinds.sets[:, :-1], kinds.sets[:, -1].double()
    gallery = distinct(gallery_labels)
    weights, sizes = gallery.counts.double(), gallery.sets.sum(1)
    kind_count, width = labels.shape

    levels = {kind: gain_levels(kind, labels.sum(1), sizes, width) for kind in gain_kinds}
    gains = {kind: Gains(of, torch.zeros(kind_count, len(of), dtype=torch.float64)) for kind, of in levels.items()}
    relevant = {rule: torch.zeros(kind_count, dtype=torch.float64) for rule in relevances}
    pair_sums = {name: torch.zeros(kind_count, dtype=torch.float64) for name in pair_measures}
    step = max(1, _BLOCK_PAIRS // len(weights))
    for start in range(0, kind_count, step):
        part = slice(start, start + step)
        shared = overlap(labels[part], gallery.sets).long()
        of_query = labels[part].sum(1, keepdim=True)
        for kind, (of, counts) in gains.items():
            counts[part] = _weighted_histogram(_level(kind, of, shared, of_query, sizes), weights, len(of))
        for rule, count in relevant.items():
            count[part] = rule(shared, of_query, sizes).double() @ weights
        for name, total in pair_sums.items():
            total[part] = PAIR_MEASURES[name](shared, of_query, sizes, width) @ weights

    own = labels.sum(1)
    held = itself.nonzero().squeeze(1)  # the others' sets need not be among the gallery's, nor their gain a level
    for kind, (of, counts) in gains.items():
        counts[held, _level(kind, of, own[held], own[held], own[held])] -= 1
    for rule, count in relevant.items():
        count -= itself * rule(own, own, own)
    images = len(gallery_labels) - itself
    for name, total in pair_sums.items():
        total -= itself * PAIR_MEASURES[name](own, own, own, width)
        total /= images
    return GalleryFacts(kinds.of_image, labels, images, gains, relevant, pair_sums)


def gain_levels(kind: str, of_query: Tensor, of_image: Tensor, width: int) -> Tensor:
    """Every gain that label sets of these sizes, out of `width` labels, can have: (V,) float64, rising from 0."""
    if kind == "shared":  # no more than some pair can share: 2**1024 is no float64, and there are thousands of tags
        return torch.arange(1 + int(min(of_query.max(), of_image.max())), dtype=torch.float64)
    queries, images = of_query.unique()[:, None, None], of_image.unique()[None, :, None]
    shared = torch.arange(1 + int(min(queries.max(), images.max())))
    possible = (shared <= torch.minimum(queries, images)) & (queries + images - shared <= width)
    return torch.cat([torch.zeros(1).double(), jaccard_of_counts(shared, queries, images)[possible]]).unique()


def _level(kind: str, levels: Tensor, shared: Tensor, of_query: Tensor, of_image: Tensor) -> Tensor:
    """Place of each pair's gain among the levels; quotients of equal value are equal numbers in float64."""
    return shared if kind == "shared" else torch.searchsorted(levels, jaccard_of_counts(shared, of_query, of_image))


def _weighted_histogram(values: Tensor, weights: Tensor, bins: int) -> Tensor:
    """Weight of the columns that hold each value, row by row: (b, V) int64, (V,) -> (b, bins) float64."""
    rows = torch.arange(len(values))[:, None] * bins
    flat = torch.bincount((values + rows).flatten(), weights.expand_as(values).flatten(), len(values) * bins)
    return flat.view(len(values), bins)


def ideal_gain(gains: Gains, k: int | None) -> Tensor:
    """DCG@K of the best order: the images of most gain first. Gains of U kinds of queries -> (U,) float64.

    With D(n) the sum of the first n discounts, images of gain g fill the ranks from S_{>g} to S_{>=g}, the numbers of
    images of more, and of at least that gain: sum over g of (2^g - 1) (D(min(S_{>=g}, K)) - D(min(S_{>g}, K))).
    """
    at_least = gains.counts.flip(1).cumsum(1).flip(1)
    most = int(at_least[:, 0].max()) if k is None else k
    ends = at_least.clamp(max=most).long()
    discounts = 1 / torch.log2(1 + torch.arange(1, most + 1, dtype=torch.float64))
    filled = torch.cat([torch.zeros(1, dtype=torch.float64), discounts.cumsum(0)])[ends]
    above = torch.cat([filled[:, 1:], torch.zeros(len(filled), 1)], dim=1)
    return ((filled - above) * (torch.exp2(gains.levels) - 1)).sum(1)
