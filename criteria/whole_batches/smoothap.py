"""Average precision of a batch, smooth and graded by shared labels."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from criteria.base import CRITERIA
from criteria.nca import WEIGHTINGS, tells_apart
from utilities.errors import UserError
from utilities.tensors.distances import cosines


@CRITERIA.register("smoothap")
class SmoothAveragePrecision(nn.Module):
    """One minus the average precision with which the images of a batch find each other. For query i, with grades
    r_j in [0, 1], the similarity of the label sets of i and j, and scores s_j = <e_i, e_j>:

        AP_i = 1 / (sum_k r_k)  sum_{k: r_k > 0}  (r_k + sum_{j != k} min(r_k, r_j) G(s_j - s_k))
                                                  -----------------------------------------------
                                                          1 + sum_{j != k} G(s_j - s_k)
        L    = 1 - mean over queries that have a related image of AP_i,      G(x) = 1 / (1 + exp(-x / T))

    With a step in place of G this is the graded average precision H-AP of Ramzi et al.; with grades 0 and 1, so on
    one-hot labels, it is AP, and L is that of Brown et al. Images that share nothing are only passed on the way.

    weighting      grades r, as `batch_nca` takes them; on one-hot labels "jaccard", "cosine" and "overlap" are
                   [y_i = y_j]
    temperature    T of the sigmoid (0.01)
    include_query  the query is retrieved as well, first and fully relevant, as in the released code; otherwise it
                   is not, as in evaluation. Other rows of the query's image never are

    Source: Brown et al., Smooth-AP, ECCV 2020, eqs. 3 and 4; grades: Ramzi et al., Hierarchical Average Precision
    Training for Pertinent Image Retrieval, ECCV 2022, eqs. 1 and 2.
    """

    needs: ClassVar[str] = "image that is more similar to one than to another by --smoothap_weighting"

    def __init__(self, *, weighting: str, temperature: float, include_query: bool) -> None:
        super().__init__()
        if weighting not in WEIGHTINGS:
            raise UserError(f"unknown --smoothap_weighting {weighting!r}; choices: {', '.join(WEIGHTINGS)}")
        if temperature <= 0:
            raise UserError(f"--smoothap_temperature {temperature} must be positive")
        self.similarity = WEIGHTINGS[weighting]
        self.temperature = temperature
        self.include_query = include_query

    def teaches(self, labels: Tensor) -> bool:
        """Whether a batch of labels (B, L) holds what the loss `needs`."""
        return tells_apart(self.similarity(labels, labels))

    def forward(self, embeddings: Tensor, labels: Tensor, indices: Tensor) -> Tensor:
        """embeddings (B, D) unit rows; labels (B, L) bool; indices (B,) int64 image ids -> () float32."""
        with torch.autocast(embeddings.device.type, enabled=False):
            scores = cosines(embeddings, embeddings)
            found = indices[:, None] != indices
            grades = self.similarity(labels, labels).to(scores.dtype) * found
            asked = (grades > 0).any(1)
            if self.include_query:
                grades = grades + torch.diag(asked.to(grades.dtype))
                found = found | torch.eye(len(found), dtype=torch.bool, device=found.device)
            precision = _SmoothPrecision.apply(scores, grades, found, self.temperature)
            return (asked.to(precision.dtype) - precision).sum() / asked.sum().clamp(min=1)


class _SmoothPrecision(torch.autograd.Function):
    """AP of queries, (B,), 0 without a related image. scores, grades and found (what is retrieved) (B, B).

    Memory is bounded by blocks of queries. A block is all that its part of the gradient needs, which is therefore
    summed up with it: with M_kj the derivative of AP_i by s_j - s_k, that by s_j is sum_k M_kj - sum_k M_jk.
    """

    # what fits a cache; what is worth a call
    block_elements: ClassVar[dict[bool, int]] = {True: 1 << 16, False: 1 << 24}

    @staticmethod
    def forward(ctx: Any, scores: Tensor, grades: Tensor, found: Tensor, temperature: float) -> Tensor:
        gradient, precision = torch.empty_like(scores), scores.new_empty(len(scores))
        rows = max(1, _SmoothPrecision.block_elements[scores.device.type == "cpu"] // len(scores) ** 2)
        for start in range(0, len(scores), rows):
            part = slice(start, start + rows)
            s, r = scores[part], grades[part]
            before = (s[:, None, :] - s[:, :, None]).div_(temperature).sigmoid_()  # [i, k, j]: G(s_j - s_k)
            before.mul_(found[part, None, :]).diagonal(dim1=1, dim2=2).zero_()
            gains = torch.minimum(r[:, None, :], r[:, :, None])
            rank = 1 + before.sum(2)
            share = (r + torch.einsum("ikj,ikj->ik", gains, before)) / rank
            weight = (r > 0) / r.sum(1, keepdim=True).clamp(min=torch.finfo(r.dtype).tiny)
            precision[part] = (weight * share).sum(1)
            slopes = before.addcmul_(before, before, value=-1).div_(temperature)
            by_difference = gains.sub_(share[:, :, None]).mul_(slopes).mul_((weight / rank)[:, :, None])
            gradient[part] = by_difference.sum(1) - by_difference.sum(2)
        ctx.save_for_backward(gradient)
        return precision

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_precision: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return of_precision[:, None] * gradient, None, None, None
