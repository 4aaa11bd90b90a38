"""Neighbourhood component analysis against a memory of the training set, graded by shared labels: SNDL."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from criteria.base import CRITERIA
from utilities.errors import UserError
from utilities.tensors.float32 import at_least_float32
from utilities.tensors.labels import cosine, hamming, jaccard, overlap


def _overlap_share(a: Tensor, b: Tensor) -> Tensor:
    """Shared labels over those of a: a factor per row changes no gradient at margin 0, and probabilities stay <= 1."""
    return overlap(a, b) / a.sum(1, dtype=torch.float32).clamp(min=1)[:, None]


WEIGHTINGS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "hamming": hamming,
    "jaccard": jaccard,
    "overlap": _overlap_share,
    "cosine": cosine,
}


def tells_apart(weights: Tensor) -> bool:
    """Whether some image is more similar to one image than to another, (B, B) of a batch: else no gradient is left."""
    itself = torch.eye(len(weights), dtype=torch.bool, device=weights.device)
    least, most = weights.masked_fill(itself, torch.inf).amin(1), weights.masked_fill(itself, -torch.inf).amax(1)
    return bool((least < most).any())


@CRITERIA.register("nca", prefix="sndl")
class NeighbourhoodLoss(nn.Module):
    """How likely a related image is picked, when image j is picked with probability softmax_j <e_i, v_j> / T:

        p_i = sum_{j != i} w_ij exp(<e_i, v_j> / T) / sum_{j != i} exp(<e_i, v_j> / T)
        L   = -1/B sum_i log p_i

    over all N rows v of the memory, w in [0, 1] being the similarity of two label sets. With a margin m, the
    related part is first divided by exp(m / T). Computed as

        -log p_i = softplus(m / T + log sum_j (1 - w_ij) exp(<e_i, v_j> / T) - log sum_j w_ij exp(<e_i, v_j> / T))

    which is the same and subtracts no large numbers where p is close to 1. Rows without any related image add 0
    and count in B.

    Memory is bounded by blocks of (B, `block_size`): value and gradient come out of one pass over the memory,
    and nothing of size N x N, nor B x N, is ever held.

    weighting    "hamming" (authors): share of the L labels on which two images agree; even images that share
                 nothing keep w = 1 - (n_i + n_j) / L, so that on one-hot labels this is not SNCA
                 "jaccard", "cosine", "overlap" (shared labels over those of image i): on one-hot labels all
                 three are [y_i = y_j], which is SNCA
    temperature  T (0.05)
    margin       a cosine by which related images shall be nearer (0)
    labels       (N, L) bool of the training split; a buffer that is not saved

    Source: the authors' released code of Kang et al., Graph Relation Network, TGRS 2021; SNCA: Wu et al.,
    Improving Generalization via Scalable Neighborhood Component Analysis, ECCV 2018, eq. 3.
    """

    block_size: ClassVar[int] = 16384
    block_size_on_cpu: ClassVar[int] = 2048  # whose (B, n) a core's cache holds
    labels: Tensor

    def __init__(self, *, weighting: str, temperature: float, margin: float, labels: Tensor) -> None:
        super().__init__()
        if weighting not in WEIGHTINGS:
            raise UserError(f"unknown --sndl_weighting {weighting!r}; choices: {', '.join(WEIGHTINGS)}")
        if temperature <= 0 or margin < 0:
            raise UserError(
                f"--sndl_temperature {temperature} must be positive and --sndl_margin {margin} not negative"
            )
        self.similarity = WEIGHTINGS[weighting]
        self.temperature = temperature
        self.margin = margin
        self.register_buffer("labels", labels, persistent=False)

    def forward(self, embeddings: Tensor, indices: Tensor, memory: Tensor) -> Tensor:
        """embeddings (B, d) unit rows; indices (B,) int64, their rows in memory (N, d) -> () float32.

        No gradient reaches the memory. The self match is left out by index. 0 with a graph when nothing is
        related.
        """
        with torch.autocast(embeddings.device.type, enabled=False):
            queries = at_least_float32(embeddings)
            of_queries = self.labels[indices]
            on_cpu = queries.device.type == "cpu"
            block_size = min(self.block_size, self.block_size_on_cpu) if on_cpu else self.block_size
            log_related, log_unrelated = _LogSums.apply(
                queries,
                memory.detach().to(queries.dtype),
                indices,
                lambda block: self.similarity(of_queries, self.labels[block]),
                self.temperature,
                block_size,
            )
            related = log_related > -torch.inf
            log_odds = torch.where(related, log_related, 0) - log_unrelated
            losses = F.softplus(self.margin / self.temperature - log_odds)
            return torch.where(related, losses, 0).sum() / max(1, len(queries))


class _LogSums(torch.autograd.Function):
    """log sum_j w_ij exp(S_ij) and log sum_j (1 - w_ij) exp(S_ij) over j != i, S = queries memory^T / T, each (B,).

    The gradient of a log-sum-exp by a query is the mean memory row under its softmax, over T. That mean is
    summed up in the same pass, so that backward needs neither the blocks nor the memory.
    """

    @staticmethod
    def forward(
        ctx: Any,
        queries: Tensor,
        memory: Tensor,
        indices: Tensor,
        weights_of: Callable[[slice], Tensor],
        temperature: float,
        block_size: int,
    ) -> tuple[Tensor, Tensor]:
        related, unrelated = _RunningLogSum(queries), _RunningLogSum(queries)
        scaled = queries / temperature
        for start in range(0, len(memory), block_size):
            block = slice(start, start + block_size)
            rows = memory[block]
            logits = scaled @ rows.T
            place = (indices - start)[:, None]
            inside, place = (place >= 0) & (place < len(rows)), place.clamp(0, len(rows) - 1)
            logits.scatter_(1, place, torch.where(inside, -torch.inf, logits.gather(1, place)))
            weights = weights_of(block).clamp_(max=1).to(logits.dtype)  # a cosine may be rounded to beyond it
            unrelated.add(weights.neg().log1p_().add_(logits), rows)
            related.add(weights.log_().add_(logits), rows)
        ctx.temperature = temperature
        ctx.save_for_backward(related.mean_row(), unrelated.mean_row())
        return related.log_sum(), unrelated.log_sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_related: Tensor, of_unrelated: Tensor) -> tuple[Tensor | None, ...]:
        related, unrelated = ctx.saved_tensors
        gradient = (of_related[:, None] * related + of_unrelated[:, None] * unrelated) / ctx.temperature
        return gradient, None, None, None, None, None


class _RunningLogSum:
    """log sum_j exp(x_ij), and the mean of rows v_j under softmax_j(x_ij), over columns that come in blocks.

    Sums are kept relative to the largest logit so far; columns at -inf count for nothing.
    """

    def __init__(self, queries: Tensor) -> None:
        self.largest = queries.new_full((len(queries), 1), -math.inf)
        self.total = queries.new_zeros(len(queries), 1)
        self.rows = torch.zeros_like(queries)

    def add(self, logits: Tensor, rows: Tensor) -> None:
        """logits (B, n) of n columns, which are overwritten, and their rows (n, d)."""
        largest = torch.maximum(self.largest, logits.amax(1, keepdim=True))
        reference = _finite(largest)
        fading = (self.largest - reference).exp_()
        terms = logits.sub_(reference).exp_()
        self.total = self.total.mul_(fading).add_(terms.sum(1, keepdim=True))
        self.rows = self.rows.mul_(fading).addmm_(terms, rows)
        self.largest = largest

    def log_sum(self) -> Tensor:
        """(B,), -inf where nothing was added."""
        return (self.total.log() + _finite(self.largest)).squeeze(1)

    def mean_row(self) -> Tensor:
        """(B, d), zero where nothing was added."""
        return self.rows / torch.where(self.total > 0, self.total, 1)


def _finite(largest: Tensor) -> Tensor:
    return largest.masked_fill(largest == -math.inf, 0)
