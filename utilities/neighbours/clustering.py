"""Clusters of embeddings: k-means, and clusters that keep their number from one clustering to the next."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from utilities import seeding
from utilities.errors import UserError
from utilities.neighbours.exact import full_float32
from utilities.neighbours.search import faiss_module, resolve_backend
from utilities.parallel.distributed import broadcast, is_main


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


def kmeans(features: Tensor, k: int, *, seed: int, iterations: int, redo: int, backend: str) -> Clusters:
    """k clusters of features (N, D) by Lloyd's algorithm, the best of `redo` starts, all rows used.

    backend: of `utilities.neighbours.search.BACKENDS`. Equal seeds give equal clusters on one backend and device.
    Clusters that lose all rows are started anew; with fewer than k different rows some stay empty. Both
    results are on the features' device.
    """
    rows = features.detach().float()
    if not 1 <= k <= len(rows):
        raise UserError(f"{k} clusters of {len(rows)} images; give between 1 and {len(rows)} clusters")
    if not torch.isfinite(rows).all():
        raise UserError("embeddings to be clustered hold NaN or infinite values; the network has diverged")
    backend = resolve_backend(backend, rows.device, 1)
    with full_float32():
        if backend == "torch":
            centroids = _lloyd_centroids(rows, k, seed, iterations, redo)
        else:
            centroids = _faiss_centroids(rows, k, seed, iterations, redo, gpu=backend == "faiss-gpu")
        return Clusters(_nearest(rows, centroids)[0], centroids)


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
    backend, seed
    """

    assignment: Tensor  # (N,) int64, cluster as k-means has it, renumbered; -1: not clustered
    centroids: Tensor  # (k, width) float32, by the same numbers; 0 for clusters without rows
    made_in: Tensor  # () int64, epoch of the clustering; -1 before the first
    changed: Tensor  # () float32, share of images that it moved to another cluster

    def __init__(self, *, size: int, k: int, width: int, iterations: int, redo: int, backend: str, seed: int) -> None:
        super().__init__()
        self.k, self.iterations, self.redo, self.backend, self.seed = k, iterations, redo, backend, seed
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
            found = kmeans(
                features, self.k, seed=seed, iterations=self.iterations, redo=self.redo, backend=self.backend
            )
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


def _faiss_centroids(rows: Tensor, k: int, seed: int, iterations: int, redo: int, *, gpu: bool) -> Tensor:
    faiss = faiss_module()
    algorithm = faiss.Kmeans(
        rows.shape[1],
        k,
        niter=iterations,
        nredo=redo,
        seed=seed % 2**31,
        gpu=gpu,
        max_points_per_centroid=len(rows),  # faiss draws 256 k rows otherwise
        min_points_per_centroid=1,  # and warns below 39 k
    )
    algorithm.train(rows.cpu().contiguous().numpy())
    return torch.from_numpy(algorithm.centroids).to(rows.device)


def _lloyd_centroids(rows: Tensor, k: int, seed: int, iterations: int, redo: int) -> Tensor:
    """The centroids of least summed squared distance over `redo` k-means++ starts."""
    best, least = rows[:k], torch.inf
    for attempt in range(redo):
        centroids = _lloyd(rows, _plus_plus(rows, k, seeding.generator("cpu", seed, "kmeans", attempt)), iterations)
        inertia = float(_nearest(rows, centroids)[1].sum(dtype=torch.float64))
        if inertia < least:
            best, least = centroids, inertia
    return best


def _plus_plus(rows: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """k rows drawn by squared distance to those drawn before (Arthur & Vassilvitskii, 2007), (k, D)."""
    uniform = torch.rand(k, generator=generator, dtype=torch.float64).tolist()
    chosen = [int(uniform[0] * len(rows))]
    closest = torch.full((len(rows),), torch.inf, device=rows.device)
    for draw in uniform[1:]:
        closest = torch.minimum(closest, (rows - rows[chosen[-1]]).square().sum(1))
        running = closest.double().cumsum(0)
        place = int(torch.searchsorted(running, draw * running[-1], right=True))
        chosen.append(min(place, len(rows) - 1))
    return rows[torch.tensor(chosen)]


def _lloyd(rows: Tensor, centroids: Tensor, iterations: int) -> Tensor:
    """Alternate nearest centroid and mean; an emptied cluster restarts from a row far from its centroid."""
    k = len(centroids)
    previous = None
    for _ in range(iterations):
        assignment, distances = _nearest(rows, centroids)
        if previous is not None and torch.equal(assignment, previous):
            break
        previous = assignment
        # a product with the indicator matrix: unlike index_add it sums in the same order on every run
        members = torch.nn.functional.one_hot(assignment, k).T.to(rows.dtype)
        sizes = members.sum(1, keepdim=True)
        centroids = (members @ rows) / sizes.clamp(min=1)
        empty = (sizes.squeeze(1) == 0).nonzero().squeeze(1)
        centroids[empty] = rows[distances.topk(len(empty)).indices]
    return centroids


def _nearest(rows: Tensor, centroids: Tensor, block: int = 65536) -> tuple[Tensor, Tensor]:
    """Nearest centroid of each row, (N,) int64, and its squared distance, (N,) float32."""
    lengths = centroids.square().sum(1)
    indices, distances = [], []
    for part in rows.split(block):
        relative, nearest = (lengths - 2 * part @ centroids.T).min(1)
        indices.append(nearest)
        distances.append((relative + part.square().sum(1)).clamp(min=0))
    return torch.cat(indices), torch.cat(distances)
