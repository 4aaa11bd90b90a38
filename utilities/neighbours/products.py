"""Fast approximate distances with a rigorous bound on how far each row's are off.

Rows are centred, which changes no distance and makes rounding errors small where all rows lie close together, and
rounded to what the product multiplies exactly: float32, or bfloat16 where the processor has matrix units for it
(AMX, tensor cores). What rounding took away is known row by row. bfloat16 values are held as float32: torch's precision
"medium" lets a library multiply in bfloat16, or TF32 on a GPU, and neither loses anything of such numbers; where it
multiplies in float32 all the same, the result is as good.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch
from torch import Tensor

from utilities.neighbours.exact import CHUNK, STEPS, UNIT_ROUNDOFF

PAD = 64  # rows are filled up to a multiple of it
_SETTING = {torch.float32: "highest", torch.bfloat16: "medium"}
# Matrix units may cut off what a sum does not hold instead of rounding it, and keep few bits more of what they add.
_SUM_ROUNDOFF = {torch.float32: UNIT_ROUNDOFF, torch.bfloat16: 4 * UNIT_ROUNDOFF}
_WORTH = 0.7  # bfloat16 takes more candidates: it must save this share of the product's time


@contextmanager
def products_in(kind: torch.dtype) -> Iterator[None]:
    """Products of float32 tensors by the fastest means that is exact for numbers of `kind`; no autocast."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(_SETTING[kind])
    try:
        with torch.autocast("cuda", enabled=False), torch.autocast("cpu", enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def fastest_kind(device: torch.device) -> torch.dtype:
    """bfloat16 where the device multiplies it much faster, else float32."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float32
    return _fastest_on_cpu(torch.get_num_threads()) if device.type == "cpu" else torch.float32


@cache
def _fastest_on_cpu(threads: int) -> torch.dtype:
    """Measured in some 30 ms: that a processor knows bfloat16 says not that it is fast at it."""
    rows = torch.ones(512, 512)
    seconds = dict.fromkeys(_SETTING, torch.inf)
    for _ in range(5):
        for kind in seconds:
            with products_in(kind):
                start = time.perf_counter()
                torch.mm(rows, rows.T)
                seconds[kind] = min(seconds[kind], time.perf_counter() - start)
    return torch.bfloat16 if seconds[torch.bfloat16] < _WORTH * seconds[torch.float32] else torch.float32


def centre_of(grid: Tensor) -> Tensor:
    """(D,) float64, the mean of rows on the grid, itself on the grid."""
    return (grid.mean(0, dtype=torch.float64) * STEPS).round() / STEPS


class RoundedRows:
    """Centred rows as the product takes them, filled up with rows that are infinitely far from everything.

    count    N, without the filling
    rows     (N', D) float32, of numbers that `kind` holds
    halves   (N',) float32, -|row|^2 / 2; -inf: filling
    lengths  (N,) float64, of the centred rows, of which `lost` (N,) were rounded away
    """

    def __init__(self, grid: Tensor, centre: Tensor, kind: torch.dtype) -> None:
        self.count, width = grid.shape
        full = -(-self.count // PAD) * PAD
        self.rows = torch.zeros(full, width, device=grid.device)
        self.halves = torch.full((full,), -torch.inf, device=grid.device)
        self.lengths = torch.empty(self.count, dtype=torch.float64, device=grid.device)
        self.lost = torch.empty_like(self.lengths)
        for start in range(0, self.count, CHUNK):
            part = slice(start, min(start + CHUNK, self.count))
            centred = grid[part].double() - centre
            self.rows[part] = centred.to(kind)
            squared = centred.square().sum(1)
            self.halves[part] = squared / -2
            self.lengths[part] = squared.sqrt()
            self.lost[part] = torch.linalg.vector_norm(centred - self.rows[part], dim=1)

    def scores(self, other: RoundedRows, part: slice, of_other: slice, out: Tensor) -> Tensor:
        """About -|a - b|^2 / 2 of two ranges of rows, in the flat array `out`; call within `products_in`."""
        left, right = self.rows[part], other.rows[of_other]
        scores = out[: len(left) * len(right)].view(len(left), len(right))
        torch.mm(left, right.T, out=scores)
        return scores.add_(other.halves[of_other]).add_(self.halves[part, None])


def score_error(rows: RoundedRows, others: RoundedRows, kind: torch.dtype) -> Tensor:
    """Bound on how far any score of a row is off, (N,) float64.

    a . b - a' . b' = (a - a') . b' + a . (b - b'), each at most the product of lengths; and the sum of D products and
    two halves is off by at most gamma_{D+8} (|a| + |b|)^2 / 2 (`exact.float32_error`).
    """
    longest, lost = others.lengths.max() + others.lost.max(), others.lost.max()
    n = (rows.rows.shape[1] + 8) * _SUM_ROUNDOFF[kind]
    summed = n / (1 - n) * (rows.lengths + rows.lost + longest).square() / 2
    return (rows.lost * longest + rows.lengths * lost + summed) * (1 + 1e-6)
