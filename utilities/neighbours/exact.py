"""Arithmetic on embeddings whose result does not depend on who computes it.

Embeddings are rounded to multiples of 2**-24 (`on_grid`), which is what float32 resolves just below 1.
Squares and products of such unit rows are multiples of 2**-48 and their sums stay below 2**5, so float64 adds
them without any rounding and in any order: a distance is one number, whatever the device, library or block
size, and duplicates tie exactly.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from utilities.errors import UserError

STEPS = 2.0**24  # grid steps per unit
UNIT_ROUNDOFF = 2.0**-24  # of float32
_LENGTH_TOLERANCE = 1e-2  # how far a row may be off unit length; sums stay exact far beyond it
CHUNK = 8192  # rows turned into float64 at a time
_RESCORE_ROWS = 2048  # candidates measured at a time on a CPU: what stays in a core's cache
_RESCORE_ROWS_GPU = 2**16


class Neighbours(NamedTuple):
    """The k nearest gallery images of every query, sorted by (distance, index).

    indices    (Q, k) int64, rows of the gallery, never the query's own row
    distances  (Q, k) float64, Euclidean between unit rows: in [0, 2]
    """

    indices: Tensor
    distances: Tensor


@contextmanager
def full_float32() -> Iterator[None]:
    """float32 products in float32: no TF32, no bfloat16, no autocast, whatever training allowed."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast("cuda", enabled=False), torch.autocast("cpu", enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def on_grid(embeddings: Tensor, what: str = "embeddings") -> Tensor:
    """Unit rows rounded to multiples of 2**-24, (N, D) float32.

    Rounding moves a component by at most 3e-8, less than a float32 product of two such rows is off. Rows with
    NaN or infinite values and zero rows are a `UserError` that counts and names them; rows that are not of
    unit length (1 %) are a ValueError: they were not made by a network's normalised head.
    """
    rows = embeddings.detach().float()
    lengths = torch.linalg.vector_norm(rows, dim=1)
    finite = torch.isfinite(lengths)
    if not finite.all():
        raise UserError(_complaint(what, ~finite, "hold NaN or infinite values: the network has diverged"))
    if (lengths == 0).any():
        raise UserError(_complaint(what, lengths == 0, "are zero and have no direction: the network has collapsed"))
    off = (lengths - 1).abs() > _LENGTH_TOLERANCE
    if off.any():
        raise ValueError(_complaint(what, off, "are not of unit length: normalise them first"))
    return (rows * STEPS).round_().div_(STEPS)


def _complaint(what: str, bad: Tensor, wrong: str) -> str:
    rows = bad.nonzero().flatten().tolist()
    shown = ", ".join(map(str, rows[:5])) + (", ..." if len(rows) > 5 else "")
    return f"{len(rows)} of {len(bad)} {what} {wrong} (rows {shown})"


def squared_lengths(grid: Tensor) -> Tensor:
    """Rows on the grid (N, D) -> (N,) float64, exact."""
    return torch.cat([block.double().square().sum(1) for block in grid.split(CHUNK)])


def squared_distances(a: Tensor, b: Tensor, lengths_a: Tensor, lengths_b: Tensor) -> Tensor:
    """Exact squared Euclidean distances, (M, D) and (N, D) rows on the grid -> (M, N) float64.

    |a|^2 + |b|^2 - 2 <a, b>: cancellation is harmless where nothing was rounded. lengths_* are the squared
    lengths.
    """
    result = torch.empty(len(a), len(b), dtype=torch.float64, device=a.device)
    left = a.double().mul_(-2)
    for start in range(0, len(b), CHUNK):
        part = slice(start, start + CHUNK)
        torch.mm(left, b[part].double().T, out=result[:, part])
    return result.add_(lengths_a[:, None]).add_(lengths_b)


def beside(rows: Tensor, *columns: Tensor | None) -> Tensor:
    """(N, D) and columns (N,), None for ones -> (N, D + columns) float64.

    The product of (-2 a, 1, |a|^2) and (b, |b|^2, 1) is the squared distance, exact on the grid: without another pass
    over what it writes.
    """
    count, width = rows.shape
    result = torch.ones(count, width + len(columns), dtype=torch.float64, device=rows.device)
    result[:, :width] = rows
    for place, column in enumerate(columns):
        if column is not None:
            result[:, width + place] = column
    return result


def float32_error(dimension: int, longest_a: float, longest_b: float) -> float:
    """Rigorous bound on |float32 - exact| of a squared distance, however its sums were ordered.

    An inner product of D terms is off by at most gamma_D |a| |b|, gamma_n = n u / (1 - n u) (Higham, Accuracy
    and Stability of Numerical Algorithms, section 3.1); so |a|^2 + |b|^2 - 2 <a, b> by gamma_{D+8} (|a| +
    |b|)^2.
    """
    n = dimension + 8
    return n * UNIT_ROUNDOFF / (1 - n * UNIT_ROUNDOFF) * (longest_a + longest_b) ** 2


class Job:
    """Both sides of a search on the grid, with their exact squared lengths."""

    def __init__(self, queries: Tensor, rows: Tensor, gallery: Tensor, k: int) -> None:
        self.queries, self.rows, self.gallery, self.k = queries, rows, gallery, k
        everyone = torch.arange(len(rows), device=rows.device)
        self.mirrored = queries is gallery and bool(((rows == everyone) | (rows < 0)).all())
        self.gallery_lengths = squared_lengths(gallery)
        self.query_lengths = self.gallery_lengths if queries is gallery else squared_lengths(queries)
        longest = float(self.query_lengths.max().sqrt()) if len(queries) else 0.0
        self.error = float32_error(gallery.shape[1], longest, float(self.gallery_lengths.max().sqrt()))


def measure(job: Job, rows: Tensor, proposed: Tensor) -> Tensor:
    """Exact squared distances of queries (b,) int64 to the proposed images, (b, c) int64 -> (b, c) float64."""
    exact = torch.empty(proposed.shape, dtype=torch.float64, device=proposed.device)
    step = max(1, measured_together(proposed.device) // proposed.shape[1])
    for start in range(0, len(proposed), step):
        few = slice(start, start + step)
        images = job.gallery[proposed[few]].double()
        products = torch.bmm(images, job.queries[rows[few]].double().unsqueeze(2)).squeeze(2)
        exact[few] = job.query_lengths[rows[few], None] + job.gallery_lengths[proposed[few]] - 2 * products
    return exact


def measured_together(device: torch.device) -> int:
    """How many candidates are measured at a time."""
    return _RESCORE_ROWS if device.type == "cpu" else _RESCORE_ROWS_GPU
