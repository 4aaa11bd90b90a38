"""Supervised contrast label by label."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from criteria.base import CRITERIA
from utilities.errors import UserError
from utilities.tensors.float32 import at_least_float32


@CRITERIA.register("mulsupcon")
class MultiLabelContrast(nn.Module):
    """Supervised contrast, once for each label that an image has. With A_i all images of the batch but image i, and
    P_ic those of them that have label c too:

        L_ic = -1/|P_ic| sum_{p in P_ic} log ( exp(<e_i, e_p> / T) / sum_{a in A_i} exp(<e_i, e_a> / T) )
        L    = sum_i sum_{c in Y_i} L_ic  /  number of terms

    so that an image attracts another the more, the more labels they share and the rarer these are in the batch, and
    an image weighs by its number of labels. A term whose P_ic is empty does not count: without the queue of the
    paper, in which an image's own key is always among its positives, nothing can be said of that label.

    temperature  T (0.1)

    Source: Zhang and Wu, Multi-Label Supervised Contrastive Learning, AAAI 2024, in the form of the released code:
    the mean over all terms of a batch. On one-hot labels L_out of Khosla et al., Supervised Contrastive Learning,
    NeurIPS 2020, eq. 2, as a mean over anchors.
    """

    needs: ClassVar[str] = "two images that share a label"

    def __init__(self, *, temperature: float) -> None:
        super().__init__()
        if temperature <= 0:
            raise UserError(f"--mulsupcon_temperature {temperature} must be positive")
        self.temperature = temperature

    def teaches(self, labels: Tensor) -> bool:
        """Whether a batch of labels (B, L) holds what the loss `needs`."""
        return bool((labels.sum(0) > 1).any())

    def forward(self, embeddings: Tensor, labels: Tensor, indices: Tensor) -> Tensor:
        """embeddings (B, D) unit rows; labels (B, L) bool; indices (B,) int64 image ids -> () float32."""
        with torch.autocast(embeddings.device.type, enabled=False):
            rows = at_least_float32(embeddings)
            carried = labels.to(rows.dtype)
            other = indices[:, None] != indices
            positives = other.to(rows.dtype) @ carried  # (B, L), |P_ic|
            shares = carried / positives.clamp(min=1)
            weights = (shares @ carried.T) * other  # (B, B), sum over shared labels of 1 / |P_ic|
            terms = ((positives > 0) & labels.bool()).sum()
            logits = rows @ rows.T / self.temperature
            # A sum over nothing has no gradient.
            among = logits.masked_fill(~other, -torch.inf).where(other.any(1, keepdim=True), 0)
            loss = weights.sum(1) * among.logsumexp(1) - (weights * logits).sum(1)
            return loss.sum() / terms.clamp(min=1)
