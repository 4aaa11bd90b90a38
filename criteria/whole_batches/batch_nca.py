"""Neighbourhood component analysis within a batch, graded by shared labels."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from criteria.base import CRITERIA
from criteria.nca import WEIGHTINGS, tells_apart
from utilities.errors import UserError
from utilities.tensors.float32 import at_least_float32


@CRITERIA.register("batch_nca")
class BatchNeighbourhoodLoss(nn.Module):
    """How likely a related image of the batch is picked, when image j is picked with probability
    softmax_j <e_i, e_j> / T among the others:

        L = -1/B sum_i log ( sum_{j != i} w_ij exp(<e_i, e_j> / T) / sum_{j != i} exp(<e_i, e_j> / T) )

    It needs no miner: every pair counts, by as much as it shares. Gradients reach both images of a pair. Rows of
    one image are no pair; an image related to no other adds 0 and counts in B.

    weighting    w in [0, 1], similarity of two label sets, as `nca` takes it; on one-hot labels "jaccard", "cosine"
                 and "overlap" are [y_i = y_j]
    temperature  T (0.1)

    Source: Goldberger et al., Neighbourhood Components Analysis, NIPS 2004, with cosines for distances; on one-hot
    labels also L_in of Khosla et al., Supervised Contrastive Learning, NeurIPS 2020, eq. 3, without its constant.
    """

    needs: ClassVar[str] = "image that is more similar to one than to another by --batch_nca_weighting"

    def __init__(self, *, weighting: str, temperature: float) -> None:
        super().__init__()
        if weighting not in WEIGHTINGS:
            raise UserError(f"unknown --batch_nca_weighting {weighting!r}; choices: {', '.join(WEIGHTINGS)}")
        if temperature <= 0:
            raise UserError(f"--batch_nca_temperature {temperature} must be positive")
        self.similarity = WEIGHTINGS[weighting]
        self.temperature = temperature

    def teaches(self, labels: Tensor) -> bool:
        """Whether a batch of labels (B, L) holds what the loss `needs`."""
        return tells_apart(self.similarity(labels, labels))

    def forward(self, embeddings: Tensor, labels: Tensor, indices: Tensor) -> Tensor:
        """embeddings (B, D) unit rows; labels (B, L) bool; indices (B,) int64 image ids -> () float32."""
        with torch.autocast(embeddings.device.type, enabled=False):
            rows = at_least_float32(embeddings)
            same = indices[:, None] == indices
            weights = self.similarity(labels, labels).to(rows.dtype).masked_fill(same, 0)
            related = (weights > 0).any(1, keepdim=True)
            logits = (rows @ rows.T / self.temperature).masked_fill(same, -torch.inf)
            logits = logits.where(related, 0)  # a sum over nothing has no gradient
            log_p = (logits + weights.where(related, 1).log()).logsumexp(1) - logits.logsumexp(1)
            return -log_p.sum() / max(1, len(rows))
