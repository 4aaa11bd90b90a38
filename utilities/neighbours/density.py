"""How far apart images lie that share labels, and images that do not: densities of pair distances.

Counted in blocks on the device from exact distances, so no N x N array exists and the counts are the same for
every block size and device.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from utilities.neighbours.exact import on_grid, squared_distances, squared_lengths
from utilities.neighbours.search import default_block_bytes
from utilities.parallel.distributed import gather_uneven, rank, world_size
from utilities.tensors.labels import overlap

BINS = 200
_BYTES_A_PAIR = 48  # float64 squares, distances, float32 and int64 counts, int64 bins


class Densities(NamedTuple):
    """Pairs of images by distance and by the number of labels they share; every pair counts once.

    edges    (bins + 1,) float64 from 0 to 2; the last bin holds 2 itself
    counts   (L + 1, bins) int64, row g: pairs that share g labels
    means    (L + 1,) float64, their mean distance; NaN where there is none
    """

    edges: Tensor
    counts: Tensor
    means: Tensor

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
        intra, inter = self.intra.double(), self.inter.double()
        return float(torch.minimum(intra / intra.sum(), inter / inter.sum()).sum())


def distance_densities(
    embeddings: Tensor,
    labels: Tensor,
    *,
    gallery: tuple[Tensor, Tensor] | None = None,
    device: torch.device | str = "cpu",
    bins: int = BINS,
    block_bytes: int | None = None,
) -> Densities:
    """Count all pairs of images, embeddings (N, D) unit rows and labels (N, L) multi-hot; result on the CPU.

    With a gallery, as (embeddings, labels), the pairs are each image with each of the gallery. Images without
    labels are left out: they can be neither alike nor different. With a process group every rank counts its
    share of the blocks and gets the whole.
    """
    rows, carried, lengths = _labelled(embeddings, labels, device)
    others, carried_there, lengths_there = (rows, carried, lengths) if gallery is None else _labelled(*gallery, device)
    width = labels.shape[1] + 1
    counts = torch.zeros(width * bins, dtype=torch.int64, device=device)
    sums = torch.zeros(width, dtype=torch.float64, device=device)
    for start, stop in _shares(len(rows), len(others), block_bytes or default_block_bytes(device)):
        end = stop if gallery is None else len(others)
        squared = squared_distances(rows[start:stop], others[:end], lengths[start:stop], lengths_there[:end])
        counted = torch.ones_like(squared, dtype=torch.bool)
        if gallery is None:
            counted = counted.tril(start - 1)  # each pair once
        distances = squared[counted].clamp_(min=0).sqrt_()
        shared = overlap(carried[start:stop], carried_there[:end])[counted].long()
        places = (distances * (bins / 2)).long().clamp_(max=bins - 1).add_(shared * bins)
        counts += torch.bincount(places, minlength=width * bins)
        sums += torch.bincount(shared, distances, minlength=width)
    if world_size() > 1:
        counts, sums = gather_uneven(counts[None]).sum(0), gather_uneven(sums[None]).sum(0)
    table = counts.cpu().view(width, bins)
    return Densities(torch.linspace(0, 2, bins + 1, dtype=torch.float64), table, sums.cpu() / table.sum(1))


def _labelled(embeddings: Tensor, labels: Tensor, device: torch.device | str) -> tuple[Tensor, Tensor, Tensor]:
    """Of the images with labels: embeddings on the grid, labels as float32, squared lengths."""
    carried = labels.to(device)
    labelled = carried.bool().any(1)
    rows = on_grid(embeddings.to(device)[labelled])
    return rows, carried[labelled].float(), squared_lengths(rows)


def _shares(count: int, others: int, block_bytes: int) -> list[tuple[int, int]]:
    """This rank's blocks of rows; dealt in turn, since later ones look back at more images."""
    step = max(1, block_bytes // (max(others, 1) * _BYTES_A_PAIR))
    blocks = [(start, min(start + step, count)) for start in range(0, count, step)]
    return blocks[rank() :: world_size()]


def intra_inter_overlap(embeddings: Tensor, labels: Tensor, *, device: torch.device | str = "cpu") -> float:
    """Overlap of the distance densities of pairs that share a label and pairs that do not, in [0, 1]."""
    return distance_densities(embeddings, labels, device=device).overlap()
