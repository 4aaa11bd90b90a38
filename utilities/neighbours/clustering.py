"""Clusters of embeddings: k-means, and clusters that keep their number from one clustering to the next."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from utilities import seeding
from utilities.errors import UserError
from utilities.neighbours.exact import full_float32
from utilities.parallel.distributed import broadcast, is_main

_ROWS = 4096  # that go through distances and means while they are in a cache


class Clusters(NamedTuple):
    """assignment  (N,) int64 in [0, k), the nearest centroid
    centroids   (k, D) float32
    """

    assignment: Tensor
    centroids: Tensor


def match_clusters(previous: Tensor, current: Tensor, k: int) -> Tensor:
    """`current` with its clusters renumbered to agree best with `previous`; each (N,) int64 in [0, k).

    Current cluster c and previous cluster p cost |members of c xor members of p|; the Hungarian algorithm
    finds the permutation of least cost, which takes c to p. Source: Sanakoyeu et al., Divide and Conquer the
    Embedding Space, CVPR 2019, section 3.3.
    """
    from scipy.optimize import linear_sum_assignment  # half a second that nothing before needs

    if previous.shape != current.shape:
        raise ValueError(f"assignments of {len(previous)} and {len(current)} images cannot be matched")
    common = torch.bincount(current * k + previous, minlength=k * k).reshape(k, k)
    cost = common.sum(1)[:, None] + common.sum(0) - 2 * common
    of_current, of_previous = linear_sum_assignment(cost.cpu().numpy())
    renumbered = torch.empty(k, dtype=torch.int64)
    renumbered[torch.from_numpy(of_current)] = torch.from_numpy(of_previous)
    return renumbered.to(current.device)[current]


def kmeans(features: Tensor, k: int, *, seed: int, iterations: int, redo: int) -> Clusters:
    """k clusters of features (N, D) by Lloyd's algorithm, the best of `redo` k-means++ starts, all rows used.

    Rows are centred first, which moves no cluster and lets float32 tell apart rows that lie close together. Equal
    seeds give equal clusters on one device. Clusters that lose all rows are started anew; with fewer than k different
    rows some stay empty. Both results are on the features' device.

    Not faiss's or scikit-learn's: all starts go through the rows together, a block at a time for distances and means
    alike, and the rows are what takes the time (`tests.benchmarks.clusters`).
    """
    rows = features.detach().float()
    if not 1 <= k <= len(rows):
        raise UserError(f"{k} clusters of {len(rows)} images; give between 1 and {len(rows)} clusters")
    if not torch.isfinite(rows).all():
        raise UserError("embeddings to be clustered hold NaN or infinite values; the network has diverged")
    with full_float32():
        centre = rows.mean(0, dtype=torch.float64).float()
        rows = rows - centre
        lengths = torch.linalg.vector_norm(rows, dim=1).square()
        generators = [seeding.generator("cpu", seed, "kmeans", attempt) for attempt in range(redo)]
        centroids = _lloyd(rows, lengths, _plus_plus(rows, lengths, k, generators), iterations)
        assignment, distances = _nearest(rows, lengths, centroids)
        best = int(distances.sum(1, dtype=torch.float64).argmin())
        return Clusters(assignment[best], centroids[best] + centre)


def merge_small(clusters: Clusters, minimum: int) -> Tensor:
    """(N,) assignment in which clusters of fewer than `minimum` rows have joined the one of nearest centroid.

    The smallest goes first, and the centroid it joins moves to the mean of both. Emptied clusters keep their
    number.
    """
    assignment, centroids = clusters.assignment.clone(), clusters.centroids.clone()
    sizes = torch.bincount(assignment, minlength=len(centroids))
    while (sizes > 0).sum() > 1:
        smallest = int(torch.where(sizes > 0, sizes, sizes.max() + 1).argmin())
        if sizes[smallest] >= minimum:
            break
        distances = (centroids - centroids[smallest]).square().sum(1)
        distances[sizes == 0] = torch.inf
        distances[smallest] = torch.inf
        nearest = int(distances.argmin())
        both = sizes[nearest] + sizes[smallest]
        centroids[nearest] = (sizes[nearest] * centroids[nearest] + sizes[smallest] * centroids[smallest]) / both
        assignment[assignment == smallest] = nearest
        sizes[nearest], sizes[smallest] = both, 0
    return assignment


class TrackedClusters(nn.Module):
    """Clusters of N images that are made anew every few epochs, each time numbered as those before.

    All of it is buffers: a resumed run goes on with the clusters that it had.

    size, k, width    N, the number of clusters, and the dimensions of what is clustered
    iterations, redo  of `kmeans`
    seed
    """

    assignment: Tensor  # (N,) int64, cluster as k-means has it, renumbered; -1: not clustered
    centroids: Tensor  # (k, width) float32, by the same numbers; 0 for clusters without rows
    made_in: Tensor  # () int64, epoch of the clustering; -1 before the first
    changed: Tensor  # () float32, share of images that it moved to another cluster

    def __init__(self, *, size: int, k: int, width: int, iterations: int, redo: int, seed: int) -> None:
        super().__init__()
        self.k, self.iterations, self.redo, self.seed = k, iterations, redo, seed
        self.register_buffer("assignment", torch.full((size,), -1))
        self.register_buffer("centroids", torch.zeros(k, width))
        self.register_buffer("made_in", torch.tensor(-1))
        self.register_buffer("changed", torch.tensor(1.0))

    def due(self, epoch: int, every: int) -> bool:
        """Whether an epoch begins with a clustering: every so many epochs, and not twice in one."""
        made_in = int(self.made_in)
        return made_in < 0 or (epoch % every == 0 and epoch != made_in)

    def divide(self, embeddings: Tensor, rows: Tensor, *, epoch: int) -> None:
        """Cluster the given rows (M,) int64 of embeddings (N, width).

        The main process does it, and the others take over what it found.
        """
        previous = self.assignment[rows]
        if is_main():
            features = embeddings[rows].to(self.assignment.device)
            seed = seeding.derive("clusters", self.seed, epoch)
            found = kmeans(features, self.k, seed=seed, iterations=self.iterations, redo=self.redo)
            kept = found.assignment
            if self.made_in >= 0:
                kept = match_clusters(previous, kept, self.k)
            self.assignment[rows] = kept
            self.centroids.zero_()
            self.centroids[kept] = found.centroids[found.assignment].to(self.centroids.dtype)
            self.changed.fill_((kept != previous).float().mean())
        self.made_in.fill_(epoch)
        for buffer in (self.assignment, self.centroids, self.changed):
            broadcast(buffer)

    def drawn_from(self, smallest: int) -> Tensor:
        """(N,) int64 on the CPU: `assignment` after clusters of fewer than `smallest` rows were merged.

        Not kept, since a resumed run may have larger batches; on the CPU, where every process finds the same.
        """
        merged = self.assignment.cpu().clone()
        clustered = merged >= 0
        merged[clustered] = merge_small(Clusters(merged[clustered], self.centroids.cpu()), smallest)
        return merged


def _plus_plus(rows: Tensor, lengths: Tensor, k: int, generators: list[torch.Generator]) -> Tensor:
    """(R, k, D): for each of R generators k rows drawn by squared distance to those drawn before.

    Source: Arthur & Vassilvitskii, k-means++, SODA 2007. lengths (N,) are the rows' squared lengths.
    """
    uniform = torch.stack([torch.rand(k, generator=generator, dtype=torch.float64) for generator in generators])
    starts = len(generators)
    chosen = (uniform[:, :1] * len(rows)).long().to(rows.device)
    closest = torch.full((len(rows), starts), torch.inf, device=rows.device)
    for draw in uniform[:, 1:].to(rows.device).T:
        last = chosen[:, -1]
        distances = torch.addmm(lengths[:, None] + lengths[last], rows, rows[last].T, alpha=-2).clamp_(min=0)
        closest = torch.minimum(closest, distances).scatter_(0, last[None], 0)
        running = closest.T.double().cumsum(1)
        place = torch.searchsorted(running, (draw * running[:, -1])[:, None], right=True)
        chosen = torch.cat([chosen, place.clamp(max=len(rows) - 1)], 1)
    return rows[chosen]


def _lloyd(rows: Tensor, lengths: Tensor, centroids: Tensor, iterations: int) -> Tensor:
    """Alternate nearest centroid and mean, for R starts (R, k, D); an emptied cluster restarts from a row far off."""
    centroids = centroids.clone()
    going = torch.arange(len(centroids), device=rows.device)
    previous = torch.full((len(centroids), len(rows)), -1, device=rows.device)
    for _ in range(iterations):
        assignment, distances, sums, sizes = _assign(rows, lengths, centroids[going])
        moved = (assignment != previous[going]).any(1)
        going, sizes, distances = going[moved], sizes[moved], distances[moved]
        if not len(going):
            break
        previous[going] = assignment[moved]
        means = sums[moved] / sizes.clamp(min=1)[:, :, None]
        for start, empty in enumerate(sizes == 0):
            means[start, empty] = rows[distances[start].topk(int(empty.sum())).indices]
        centroids[going] = means
    return centroids


def _assign(rows: Tensor, lengths: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """For R sets of k centroids (R, k, D): nearest one of each row (R, N) int64, its squared distance (R, N) float32,
    and the sums (R, k, D) and numbers (R, k) of the rows that are nearest to each.

    Sums are products with indicators: unlike index_add they are added in the same order on every run.
    """
    starts, k, width = centroids.shape
    flat = centroids.flatten(0, 1)
    halves = flat.square().sum(1) / 2
    first = torch.arange(0, starts * k, k, device=rows.device)
    sums, sizes = torch.zeros_like(flat), torch.zeros(starts * k, device=rows.device)
    assignment = torch.empty(len(rows), starts, dtype=torch.int64, device=rows.device)
    distances = torch.empty(len(rows), starts, device=rows.device)
    for start in range(0, len(rows), _ROWS):
        part = slice(start, start + _ROWS)
        block = rows[part]
        least, nearest = torch.addmm(halves, block, flat.T, alpha=-1).view(-1, starts, k).min(2)
        assignment[part], distances[part] = nearest, least
        members = torch.zeros(len(block), starts * k, device=rows.device).scatter_(1, nearest + first, 1)
        sums.addmm_(members.T, block)
        sizes += members.sum(0)
    distances = distances.mul_(2).add_(lengths[:, None]).clamp_(min=0)
    return assignment.T, distances.T, sums.view(starts, k, width), sizes.view(starts, k)


def _nearest(rows: Tensor, lengths: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """The first two of `_assign`."""
    return _assign(rows, lengths, centroids)[:2]
