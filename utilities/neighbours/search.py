"""Exact nearest neighbours: the same answer from every backend, block size, device and number of processes.

A backend only proposes k + margin candidates from its float32 distances. They are measured again exactly
(`utilities.neighbours.exact`), sorted by (distance, index), and a row is accepted when no image that was not proposed
can belong to it: its k-th distance plus what float32 may have been off is below the worst distance proposed.
The other rows (ties at the border, a collapsed embedding) are searched again over the whole gallery in
float64.

faiss is imported here and nowhere else, on first use and after torch (the other order is known to crash).
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

from utilities.errors import UserError
from utilities.neighbours.exact import float32_error, full_float32, on_grid, squared_distances, squared_lengths

BACKENDS = ("auto", "faiss", "faiss-gpu", "torch")
FAISS_MAX_K = 2048  # the most faiss returns on a GPU; beyond it torch is the faster one on a CPU too
_MOST_QUERIES = 16384  # a block; large enough for faiss, small enough for a progress bar
_MARGIN = 4  # candidates beyond the k: float32 is off by far less than their spread
_RESCORE_ROWS = 2048  # candidates measured at a time on a CPU: what stays in a core's cache
_RESCORE_ROWS_GPU = 2**16


class Neighbours(NamedTuple):
    """The k nearest gallery images of every query, sorted by (distance, index).

    indices    (Q, k) int64, rows of the gallery, never the query's own row
    distances  (Q, k) float64, Euclidean between unit rows: in [0, 2]
    """

    indices: Tensor
    distances: Tensor


def faiss_module() -> ModuleType:
    """The faiss module; `UserError` saying what to install where there is none."""
    try:
        return importlib.import_module("faiss")
    except ImportError as error:
        raise UserError(
            f"faiss cannot be imported ({error}): `pip install faiss-gpu` (Linux x86_64, also without "
            "a GPU) or `pip install faiss-cpu`, or use --backend torch, whose results are the same"
        ) from None


def resolve_backend(backend: str, device: torch.device, k: int) -> str:
    """Which of "faiss", "faiss-gpu" and "torch" searches for k candidates.

    "auto" is torch where the embeddings are on a GPU or k > 2048, else faiss, else torch with a warning.
    A backend asked for by name that is not there is a `UserError`.
    """
    if backend not in BACKENDS:
        raise UserError(f"unknown --backend {backend!r}; choices: {', '.join(BACKENDS)}")
    if backend == "auto":
        if device.type != "cpu" or k > FAISS_MAX_K:
            return "torch"
        try:
            faiss_module()
        except UserError:
            warnings.warn("faiss is not installed: searching with torch, whose results are the same", stacklevel=3)
            return "torch"
        return "faiss"
    if backend == "faiss":
        faiss_module()
    if backend == "faiss-gpu":
        faiss = faiss_module()
        if not hasattr(faiss, "knn_gpu") or faiss.get_num_gpus() == 0:
            raise UserError(
                "--backend faiss-gpu: faiss sees no GPU; use --backend faiss or torch, or install faiss-gpu "
                "on a machine with an NVIDIA GPU"
            )
        if k > FAISS_MAX_K:
            raise UserError(f"--backend faiss-gpu finds up to {FAISS_MAX_K} candidates, {k} are needed; use torch")
    return backend


def default_block_bytes(device: torch.device | str) -> int:
    """Memory of work arrays: 256 MiB on a CPU, a sixteenth of a GPU's own, which many small blocks would keep idle."""
    device = torch.device(device)
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory) // 16
    return 256 * 2**20


def search(
    queries: Tensor,
    gallery: Tensor,
    k: int,
    *,
    query_rows: Tensor | None = None,
    backend: str = "auto",
    block_bytes: int | None = None,
    progress: Callable[[int], object] | None = None,
) -> Neighbours:
    """The k nearest gallery images of every query; on the gallery's device.

    queries (Q, D) and gallery (N, D) are float32 unit rows. query_rows (Q,) int64 is the row of each query in
    the gallery, which is left out by that index, or -1 where the query is not in it; None: no query is. k is
    cut to the number of images a query can find, which the width of the result shows. Blocks of work arrays
    stay below block_bytes (None: `default_block_bytes`); progress is called with the number of queries finished since
    the last call.

    Raises UserError for NaN or zero embeddings, a backend that is not there and a gallery without another
    image.
    """
    device, count = gallery.device, len(gallery)
    k = findable(k, count, inside=query_rows is not None)
    rows = torch.full((len(queries),), -1) if query_rows is None else query_rows
    candidates = min(count, k + (query_rows is not None) + max(_MARGIN, k // 4))
    chosen = resolve_backend(backend, device, candidates)
    block_bytes = block_bytes or default_block_bytes(device)
    images = on_grid(gallery, "gallery embeddings")
    asked = images if _same(queries, gallery) else on_grid(queries.to(device), "query embeddings")
    job = _Job(asked, rows.to(device), images, k)
    propose = {"torch": _propose_torch, "faiss": _propose_faiss, "faiss-gpu": _propose_faiss_gpu}[chosen]

    indices = torch.empty(len(queries), k, dtype=torch.int64, device=device)
    squared = torch.empty(len(queries), k, dtype=torch.float64, device=device)
    step = min(_MOST_QUERIES, _block_rows(block_bytes, count if chosen == "torch" else candidates, bytes_each=16))
    for start in range(0, len(queries), step):
        part = slice(start, start + step)
        with full_float32():
            proposed, approximate = propose(job, part, candidates)
        indices[part], squared[part], safe = _accept(job, part, proposed, approximate)
        _search_again(job, (~safe).nonzero().flatten() + start, indices, squared, block_bytes)
        if progress is not None:
            progress(len(safe))
    return Neighbours(indices, squared.sqrt())


def findable(k: int, count: int, *, inside: bool) -> int:
    """k, cut to what a query finds in a gallery of `count` images that it may itself be `inside`. Raises UserError."""
    others = count - inside
    if k < 1 or others < 1:
        raise UserError(f"{k} neighbours asked for in a gallery of {count} images, {max(others, 0)} to be found")
    return min(k, others)


def _same(a: Tensor, b: Tensor) -> bool:
    return a.data_ptr() == b.data_ptr() and a.shape == b.shape and a.stride() == b.stride() and a.dtype == b.dtype


class _Job:
    """Both sides of a search on the grid, with their exact squared lengths."""

    def __init__(self, queries: Tensor, rows: Tensor, gallery: Tensor, k: int) -> None:
        self.queries, self.rows, self.gallery, self.k = queries, rows, gallery, k
        self.gallery_lengths = squared_lengths(gallery)
        self.query_lengths = self.gallery_lengths if queries is gallery else squared_lengths(queries)
        longest = float(self.query_lengths.max().sqrt()) if len(queries) else 0.0
        self.error = float32_error(gallery.shape[1], longest, float(self.gallery_lengths.max().sqrt()))


def _block_rows(block_bytes: int, columns: int, bytes_each: int) -> int:
    return max(1, block_bytes // (columns * bytes_each))


def _propose_torch(job: _Job, part: slice, candidates: int) -> tuple[Tensor, Tensor]:
    """(b, c) indices and float32 squared distances of the c nearest by one matrix product."""
    approximate = torch.addmm(job.gallery_lengths.float(), job.queries[part], job.gallery.T, alpha=-2)
    nearest = approximate.topk(candidates, largest=False, sorted=False)
    return nearest.indices, nearest.values + job.query_lengths[part, None].float()


def _propose_faiss(job: _Job, part: slice, candidates: int) -> tuple[Tensor, Tensor]:
    squared, indices = faiss_module().knn(job.queries[part].cpu().numpy(), job.gallery.cpu().numpy(), candidates)
    return torch.from_numpy(indices).to(job.gallery.device), torch.from_numpy(squared).to(job.gallery.device)


def _propose_faiss_gpu(job: _Job, part: slice, candidates: int) -> tuple[Tensor, Tensor]:
    faiss = faiss_module()
    resources = faiss.StandardGpuResources()
    queries, gallery = job.queries[part].cpu().numpy(), job.gallery.cpu().numpy()
    squared, indices = faiss.knn_gpu(resources, queries, gallery, candidates)
    return torch.from_numpy(indices).to(job.gallery.device), torch.from_numpy(squared).to(job.gallery.device)


def _accept(job: _Job, part: slice, proposed: Tensor, approximate: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Exact k nearest among the proposed (b, c): indices (b, k), squared distances (b, k), proven (b,) bool.

    Proven: every image not proposed has a float32 distance of at least the worst proposed, hence an exact
    distance of at least that minus `job.error`. Rows whose float32 distances break the bound are not believed
    either.
    """
    proposed, order = proposed.sort(dim=1)
    exact = _measure(job, part, proposed)
    believed = ((exact - approximate.gather(1, order)).abs() <= job.error).all(1)
    exact = exact.masked_fill(proposed == job.rows[part, None], torch.inf)
    nearest = exact.sort(dim=1, stable=True)  # stable over rising indices: ties by (distance, index)
    indices, squared = proposed.gather(1, nearest.indices[:, : job.k]), nearest.values[:, : job.k]
    complete = proposed.shape[1] == len(job.gallery)
    proven = believed & (squared[:, -1] + job.error < approximate.amax(1))
    return indices, squared, proven | complete


def _measure(job: _Job, part: slice, proposed: Tensor) -> Tensor:
    """Exact squared distances to the proposed images, (b, c) -> (b, c) float64."""
    queries, lengths = job.queries[part], job.query_lengths[part]
    exact = torch.empty(proposed.shape, dtype=torch.float64, device=proposed.device)
    together = _RESCORE_ROWS if proposed.device.type == "cpu" else _RESCORE_ROWS_GPU
    step = max(1, together // proposed.shape[1])
    for start in range(0, len(proposed), step):
        few = slice(start, start + step)
        images = job.gallery[proposed[few]].double()
        products = torch.bmm(images, queries[few].double().unsqueeze(2)).squeeze(2)
        exact[few] = lengths[few, None] + job.gallery_lengths[proposed[few]] - 2 * products
    return exact


def _search_again(job: _Job, unsafe: Tensor, indices: Tensor, squared: Tensor, block_bytes: int) -> None:
    """Search the given queries over the whole gallery in float64; writes into indices and squared."""
    for rows in unsafe.split(_block_rows(block_bytes, len(job.gallery), bytes_each=32)):
        if not len(rows):
            return
        exact = squared_distances(job.queries[rows], job.gallery, job.query_lengths[rows], job.gallery_lengths)
        own = job.rows[rows]
        exact[(own >= 0).nonzero().flatten(), own[own >= 0]] = torch.inf
        last = exact.topk(job.k, largest=False, sorted=False).values.amax(1, keepdim=True)
        tied = exact == last
        room = job.k - (exact < last).sum(1, keepdim=True)
        chosen = (exact < last) | (tied & (tied.cumsum(1) <= room))  # of the ties, the lowest indices
        columns = chosen.nonzero()[:, 1].view(len(rows), job.k)
        nearest = exact.gather(1, columns).sort(dim=1, stable=True)
        indices[rows], squared[rows] = columns.gather(1, nearest.indices), nearest.values
