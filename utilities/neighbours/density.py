"""How far apart images lie that share labels, and images that do not: densities of pair distances.

Counted in blocks on the device from exact distances, so no N x N array exists and the counts are the same for
every block size and device. A block is small enough for a core's cache: most of the time goes into its product.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from utilities.neighbours.exact import beside, on_grid, squared_lengths
from utilities.neighbours.search import default_block_bytes
from utilities.parallel.distributed import gather_uneven, rank, world_size
from utilities.tensors.labels import overlap

BINS = 200
_BYTES_A_PAIR = 32  # float64 distances and their bins, float32 and integer numbers of shared labels, places
_TILE, _TILE_GPU = (256, 2048), (8192, 8192)  # rows and columns of a block


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
    sums = torch.zeros(width * bins, dtype=torch.float64, device=device)
    places = torch.int16 if width * bins <= torch.iinfo(torch.int16).max else torch.int32
    high, wide = _tile(torch.device(device), block_bytes)
    room = torch.empty(high * wide, dtype=torch.float64, device=device)
    for column in range(rank() * wide, len(others), world_size() * wide):
        of_others = slice(column, column + wide)
        images = beside(others[of_others], lengths_there[of_others], None)
        for row in range(column if gallery is None else 0, len(rows), high):
            part = slice(row, row + high)
            used = images if gallery else images[: row + high - column]
            queries = beside(-2 * rows[part], None, lengths[part])
            distances = torch.mm(queries, used.T, out=room[: len(queries) * len(used)].view(len(queries), -1)).sqrt_()
            shared = overlap(carried[part], carried_there[of_others][: len(used)]).to(places)
            place = (distances * (bins / 2)).to(places).clamp_(max=bins - 1).add_(shared.mul_(bins))
            if gallery is None and row < column + wide:  # each pair once
                once = torch.ones_like(place, dtype=torch.bool).tril_(row - column - 1)
                distances, place = distances[once], place[once]
            counts += torch.bincount(place.flatten(), minlength=width * bins)
            sums += torch.bincount(place.flatten(), distances.flatten(), minlength=width * bins)
    sums = sums.view(width, bins).sum(1)
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


def _tile(device: torch.device, block_bytes: int | None) -> tuple[int, int]:
    """Rows and columns of a block."""
    high, wide = _TILE if device.type == "cpu" else _TILE_GPU
    pairs = (block_bytes or default_block_bytes(device)) // _BYTES_A_PAIR
    wide = max(1, min(wide, pairs // high))
    return max(1, min(high, pairs // wide)), wide


def intra_inter_overlap(embeddings: Tensor, labels: Tensor, *, device: torch.device | str = "cpu") -> float:
    """Overlap of the distance densities of pairs that share a label and pairs that do not, in [0, 1]."""
    return distance_densities(embeddings, labels, device=device).overlap()
