"""Exact nearest neighbours: the same answer from every backend, block size, device and number of processes.

A backend only proposes candidates from approximate distances whose error is bounded. They are measured again exactly
(`utilities.neighbours.exact`), sorted by (distance, index), and a row is accepted when no image that was not proposed
can belong to it. "torch" keeps every image that the bound allows (`utilities.neighbours.candidates`), from products in
bfloat16 where the processor is fast at it, and in float32 for the rows that this leaves open; faiss proposes k + margin
images, which must reach beyond the k-th by what float32 may have been off. Rows that stay open (more ties than room,
a collapsed embedding) are searched again over the whole gallery in float64.

faiss is imported here and nowhere else, on first use and after torch (the other order is known to crash).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from utilities.errors import UserError
from utilities.neighbours.candidates import Progress, search_by_products
from utilities.neighbours.exact import Job, Neighbours, full_float32, measure, on_grid, squared_distances
from utilities.neighbours.products import fastest_kind, products_in

BACKENDS = ("auto", "faiss", "faiss-gpu", "torch")
FAISS_MAX_K = 2048  # the most faiss returns on a GPU
_MOST_QUERIES = 16384  # a block; large enough for faiss, small enough for a progress bar
_MARGIN = 4  # candidates of faiss beyond the k: float32 is off by far less than their spread
_MOST_K = 256  # and an eighth of the gallery; beyond it candidates are no fewer than what they are chosen from


def faiss_module() -> ModuleType:
    """The faiss module; `UserError` saying what to install where there is none."""
    try:
        return importlib.import_module("faiss")
    except ImportError as error:
        raise UserError(
            f"faiss cannot be imported ({error}): `pip install faiss-gpu` (Linux x86_64, also without "
            "a GPU) or `pip install faiss-cpu`, or use --backend torch, whose results are the same"
        ) from None


def resolve_backend(backend: str, k: int) -> str:
    """Which of "faiss", "faiss-gpu" and "torch" searches for k candidates; "auto" is torch, the fastest everywhere.

    A backend asked for by name that is not there is a `UserError`.
    """
    if backend not in BACKENDS:
        raise UserError(f"unknown --backend {backend!r}; choices: {', '.join(BACKENDS)}")
    if backend == "auto":
        return "torch"
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
    chosen = resolve_backend(backend, candidates)
    block_bytes = block_bytes or default_block_bytes(device)
    images = on_grid(gallery, "gallery embeddings")
    asked = images if _same(queries, gallery) else on_grid(queries.to(device), "query embeddings")
    job = Job(asked, rows.to(device), images, k)
    result = Neighbours(
        torch.empty(len(queries), k, dtype=torch.int64, device=device),
        torch.empty(len(queries), k, dtype=torch.float64, device=device),
    )
    if chosen == "torch":
        _search_torch(job, result, block_bytes, progress)
    else:
        _search_faiss(job, result, candidates, block_bytes, progress, gpu=chosen == "faiss-gpu")
    return Neighbours(result.indices, result.distances.sqrt())


def findable(k: int, count: int, *, inside: bool) -> int:
    """k, cut to what a query finds in a gallery of `count` images that it may itself be `inside`. Raises UserError."""
    others = count - inside
    if k < 1 or others < 1:
        raise UserError(f"{k} neighbours asked for in a gallery of {count} images, {max(others, 0)} to be found")
    return min(k, others)


def _same(a: Tensor, b: Tensor) -> bool:
    return a.data_ptr() == b.data_ptr() and a.shape == b.shape and a.stride() == b.stride() and a.dtype == b.dtype


def _block_rows(block_bytes: int, columns: int, bytes_each: int) -> int:
    return max(1, block_bytes // (columns * bytes_each))


def _search_torch(job: Job, result: Neighbours, block_bytes: int, progress: Progress) -> None:
    """Writes indices and squared distances of every query into `result`."""
    kind = fastest_kind(job.gallery.device)
    kinds = [kind] if kind == torch.float32 else [kind, torch.float32]
    if job.k > min(_MOST_K, len(job.gallery) // 8):
        kinds = []
    open_rows = torch.arange(len(job.queries), device=job.gallery.device)
    for kind in kinds:
        with products_in(kind):
            open_rows = search_by_products(job, open_rows, kind, result, block_bytes, progress)
        progress = None
    _search_again(job, open_rows, result, block_bytes, progress)


def _search_faiss(
    job: Job, result: Neighbours, candidates: int, block_bytes: int, progress: Progress, *, gpu: bool
) -> None:
    """Writes indices and squared distances of every query into `result`."""
    propose = _faiss_search(job.gallery.cpu().numpy(), gpu=gpu)
    step = min(_MOST_QUERIES, _block_rows(block_bytes, candidates, bytes_each=16))
    for start in range(0, len(job.queries), step):
        part = slice(start, start + step)
        with full_float32():
            squared, indices = propose(job.queries[part].cpu().numpy(), candidates)
        proposed, approximate = (torch.from_numpy(found).to(job.gallery.device) for found in (indices, squared))
        asked = torch.arange(start, start + len(proposed), device=proposed.device)
        safe = _accept_most(job, asked, proposed, approximate, result)
        _search_again(job, asked[~safe], result, block_bytes, None)
        if progress is not None:
            progress(len(safe))


def _faiss_search(gallery: np.ndarray, *, gpu: bool) -> Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]:
    """From queries (b, D) and a number c to squared distances and indices (b, c) of what faiss finds in (N, D)."""
    faiss = faiss_module()
    if not gpu:
        return lambda queries, count: faiss.knn(queries, gallery, count)
    resources = faiss.StandardGpuResources()  # gigabytes of work space: once for all blocks
    return lambda queries, count: faiss.knn_gpu(resources, queries, gallery, count)


def _accept_most(job: Job, rows: Tensor, proposed: Tensor, approximate: Tensor, result: Neighbours) -> Tensor:
    """Exact k nearest of the queries `rows` (b,) among the proposed (b, c), into `result`; proven (b,) bool.

    Proven: every image not proposed has a float32 distance of at least the worst proposed, hence an exact
    distance of at least that minus `job.error`. Rows whose float32 distances break the bound are not believed
    either.
    """
    proposed, order = proposed.sort(dim=1)
    exact = measure(job, rows, proposed)
    believed = ((exact - approximate.gather(1, order)).abs() <= job.error).all(1)
    exact = exact.masked_fill(proposed == job.rows[rows, None], torch.inf)
    nearest = exact.sort(dim=1, stable=True)  # stable over rising indices: ties by (distance, index)
    indices, squared = proposed.gather(1, nearest.indices[:, : job.k]), nearest.values[:, : job.k]
    result.indices[rows], result.distances[rows] = indices, squared
    complete = proposed.shape[1] == len(job.gallery)
    return believed & (squared[:, -1] + job.error < approximate.amax(1)) | complete


def _search_again(job: Job, unsafe: Tensor, result: Neighbours, block_bytes: int, progress: Progress) -> None:
    """Search the given queries over the whole gallery in float64; writes indices and squared distances."""
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
        result.indices[rows], result.distances[rows] = columns.gather(1, nearest.indices), nearest.values
        if progress is not None:
            progress(len(rows))
