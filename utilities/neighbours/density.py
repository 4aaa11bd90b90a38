"""How far apart images lie that share labels, and images that do not: densities of pair distances.

Counted in blocks on the device from exact distances, so no N x N array exists and the counts are the same on every
device. A block is small enough for a core's cache: most of the time goes into its product in float64.

Of more than MOST_PAIRS pairs a share is counted: the images are put into a random order, the same in every run, and
block i is compared with blocks i + d (modulo their number) for every m-th d, so that every image is in equally many
pairs. How far the overlap is off is estimated from eight parts of the blocks.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from utilities.neighbours.exact import beside, on_grid, squared_lengths
from utilities.parallel.distributed import gather_uneven, rank, world_size
from utilities.seeding import generator
from utilities.tensors.labels import overlap

BINS = 200
MOST_PAIRS = 10**8
_PARTS = 8


class Densities(NamedTuple):
    """Pairs of images by distance and by the number of labels they share; every pair counts once.

    edges    (bins + 1,) float64 from 0 to 2; the last bin holds 2 itself
    counts   (L + 1, bins) int64, row g: pairs that share g labels
    means    (L + 1,) float64, their mean distance; NaN where there is none
    share    of all pairs that were counted
    error    standard error of `overlap`; 0 where all pairs were counted
    """

    edges: Tensor
    counts: Tensor
    means: Tensor
    share: float = 1.0
    error: float = 0.0

    @property
    def intra(self) -> Tensor:
        """(bins,) pairs that share a label."""
        return self.counts[1:].sum(0)

    @property
    def inter(self) -> Tensor:
        """(bins,) pairs that share none."""
        return self.counts[0]

    def overlap(self) -> float:
        """Area that the normalised histograms of intra and inter distances have in common: 0 apart, 1 alike.

        NaN where all pairs share a label, or none does.
        """
        return float(_overlap(self.counts))


def _overlap(counts: Tensor) -> Tensor:
    """(..., L + 1, bins) -> (...) float64."""
    inter, intra = counts[..., 0, :].double(), counts[..., 1:, :].sum(-2).double()
    return torch.minimum(intra / intra.sum(-1, keepdim=True), inter / inter.sum(-1, keepdim=True)).sum(-1)


def distance_densities(
    embeddings: Tensor,
    labels: Tensor,
    *,
    gallery: tuple[Tensor, Tensor] | None = None,
    query_rows: Tensor | None = None,
    device: torch.device | str = "cpu",
    bins: int = BINS,
    most_pairs: int = MOST_PAIRS,
    block: int = 512,
) -> Densities:
    """Count pairs of images, embeddings (N, D) unit rows and labels (N, L) multi-hot; result on the CPU.

    With a gallery, as (embeddings, labels), the pairs are each image with each of the gallery but itself, which lies in
    the row of query_rows (N,) there, -1 where it is not in it. Images without labels are left out: they can be neither
    alike nor different. With a process group every rank counts its share of the blocks and gets the whole. All pairs
    are counted up to about `most_pairs`, and then a share of them.
    """
    own = torch.full((len(labels),), -1) if query_rows is None else query_rows
    held = bool((own >= 0).any())
    sides = [_labelled(embeddings, labels, own, device)]
    sides.append(sides[0] if gallery is None else _labelled(*gallery, torch.arange(len(gallery[1])), device))
    count, others = (len(side.rows) for side in sides)
    every = max(1, -(-_pairs(count, others, gallery is None) // most_pairs))
    if every > 1:
        sides = [side.shuffled() for side in sides] if gallery is not None else [sides[0].shuffled()] * 2
    width = labels.shape[1] + 1
    counts = torch.zeros(_PARTS, width * bins, dtype=torch.int64, device=device)
    sums = torch.zeros(width * bins, dtype=torch.float64, device=device)
    kind = torch.int16 if width * bins <= torch.iinfo(torch.int16).max else torch.int32
    for i, j in _blocks(-(-count // block), -(-others // block), every, gallery is None)[rank() :: world_size()]:
        left, right = sides[0].part(i, block), sides[1].part(j, block)
        distances = torch.mm(
            beside(-2 * left.rows, None, left.lengths), beside(right.rows, right.lengths, None).T
        ).sqrt_()
        place = (distances * (bins / 2)).to(kind).clamp_(max=bins - 1)
        place += overlap(left.labels, right.labels).to(kind).mul_(bins)
        if gallery is None and i == j:  # each pair once
            once = torch.ones_like(place, dtype=torch.bool).tril_(-1)
            distances, place = distances[once], place[once]
        if held:
            apart = left.numbers[:, None] != right.numbers
            distances, place = distances[apart], place[apart]
        counts[i % _PARTS] += torch.bincount(place.flatten(), minlength=width * bins)
        sums += torch.bincount(place.flatten(), distances.flatten(), minlength=width * bins)
    sums = sums.view(width, bins).sum(1)
    if world_size() > 1:
        counts, sums = gather_uneven(counts[None]).sum(0), gather_uneven(sums[None]).sum(0)
    parts = counts.cpu().view(_PARTS, width, bins)
    table = parts.sum(0)
    share, error = 1.0, 0.0
    if every > 1:
        share = int(table.sum()) / _pairs(count, others, gallery is None)
        error = float(_overlap(parts).std() * ((1 - share) / _PARTS) ** 0.5)
    edges = torch.linspace(0, 2, bins + 1, dtype=torch.float64)
    return Densities(edges, table, sums.cpu() / table.sum(1), share, error)


def _pairs(count: int, others: int, among_themselves: bool) -> int:
    return count * (count - 1) // 2 if among_themselves else count * others


def _blocks(count: int, others: int, every: int, among_themselves: bool) -> list[tuple[int, int]]:
    """Pairs (i, j) of blocks, j at one of every so many distances from i on a circle; each pair once."""
    if not others:
        return []
    distances = range(every // 2, others // 2 + 1 if among_themselves else others, every) or [0]
    return [
        (i, (i + d) % others)
        for i in range(count)
        for d in distances
        if not (among_themselves and 2 * d == others and i >= d)
    ]


class _Side(NamedTuple):
    """Images with labels: embeddings on the grid, labels as float32, squared lengths, and rows in the gallery."""

    rows: Tensor
    labels: Tensor
    lengths: Tensor
    numbers: Tensor

    def shuffled(self) -> _Side:
        order = torch.randperm(len(self.rows), generator=generator("cpu", 0, "densities")).to(self.rows.device)
        return _Side(*(column[order] for column in self))

    def part(self, number: int, block: int) -> _Side:
        return _Side(*(column[number * block : (number + 1) * block] for column in self))


def _labelled(embeddings: Tensor, labels: Tensor, numbers: Tensor, device: torch.device | str) -> _Side:
    carried = labels.to(device)
    labelled = carried.bool().any(1)
    rows = on_grid(embeddings.to(device)[labelled])
    return _Side(rows, carried[labelled].float(), squared_lengths(rows), numbers.to(device)[labelled])
