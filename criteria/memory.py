"""A memory of every training image's embedding."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utilities.errors import UserError
from utilities.parallel.distributed import gather_rows


class MemoryBank(nn.Module):
    """One unit row an image, moved towards its embedding after every step in which the image was seen:

        v_i <- normalise(m v_i + (1 - m) e_i)

    Written in two halves, since a forward pass must not change what the same step's backward pass reads, and
    a step that fails must not leave a trace: `stage` in forward, `commit` after the optimizer step. Row i
    belongs to image i of the training split (`Batch.indices`).

    size        N, images in the training split
    width       d, dimensions of an embedding
    momenta     m of each stage of the schedule, ascending in time (.5, .8, .9)
    boundaries  the epochs from which the 2nd, 3rd, ... momentum holds (80, 120)

    Source: the authors' released code of SNCA and SNDL; here rows are unit from the start and written after
    the step rather than inside backward.
    """

    rows: Tensor  # (N, d) float32, unit
    written: Tensor  # (N,) bool, whether an embedding of the image has come in
    momentum: Tensor  # () float32, m of the current epoch

    def __init__(self, *, size: int, width: int, momenta: Sequence[float], boundaries: Sequence[int]) -> None:
        super().__init__()
        if len(momenta) != len(boundaries) + 1 or list(boundaries) != sorted(set(boundaries)):
            raise UserError(
                f"memory momenta {list(momenta)} with boundaries {list(boundaries)}: --sndl_momentum_epochs must be "
                "ascending epochs, one fewer than there are --sndl_momenta"
            )
        if not all(0 <= momentum <= 1 for momentum in momenta):
            raise UserError(f"memory momenta {list(momenta)} (--sndl_momenta) must lie in [0, 1]")
        self.momenta = tuple(momenta)
        self.boundaries = tuple(boundaries)
        self.register_buffer("rows", F.normalize(torch.rand(size, width) * 2 - 1))
        self.register_buffer("written", torch.zeros(size, dtype=torch.bool))
        self.register_buffer("momentum", torch.tensor(float(momenta[0])))
        self._staged: tuple[Tensor, Tensor] | None = None

    def set_epoch(self, epoch: int) -> None:
        """Take the momentum of an epoch, counted from 0."""
        self.momentum.fill_(self.momenta[bisect_right(self.boundaries, epoch)])

    def coverage(self) -> Tensor:
        """Share of the rows that hold more than their random start, () float32."""
        return self.written.float().mean()

    def stage(self, embeddings: Tensor, indices: Tensor) -> None:
        """Keep this rank's embeddings (B, d) and their images (B,) int64 for `commit`, without gradient."""
        self._staged = (embeddings.detach().to(self.rows.dtype), indices)

    @torch.no_grad()
    def commit(self) -> None:
        """Write what was staged on all ranks, in rank order, so that their banks stay equal.

        Of an image that occurs more than once, the last occurrence counts.
        """
        if self._staged is None:
            return
        embeddings, indices = (gather_rows(part) for part in self._staged)
        self._staged = None
        if len(indices) == 0:
            return
        embeddings = embeddings[_last_occurrence(indices)]
        mixed = self.momentum * self.rows[indices] + (1 - self.momentum) * embeddings
        opposite = mixed.norm(dim=1, keepdim=True) < 1e-6  # to the row before: nothing is left of the two
        self.rows.index_copy_(0, indices, F.normalize(torch.where(opposite, embeddings, mixed)))
        self.written.index_fill_(0, indices, True)

    @torch.no_grad()
    def fill(self, embeddings: Tensor) -> None:
        """Replace the random start by embeddings (N, d) of the whole training split, in row order.

        Rows of zeros, which stand for images that could not be read, keep their start.
        """
        embeddings = embeddings.to(self.rows)
        embedded = embeddings.any(1)
        self.rows.copy_(torch.where(embedded[:, None], F.normalize(embeddings), self.rows))
        self.written.copy_(embedded)


def _last_occurrence(indices: Tensor) -> Tensor:
    """Position of the last element equal to each, (B,) -> (B,), so that equal rows are written equally."""
    positions = torch.arange(len(indices), device=indices.device)
    return ((indices[:, None] == indices) * positions).amax(1)
