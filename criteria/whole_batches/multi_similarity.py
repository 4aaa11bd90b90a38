"""The multi-similarity loss, which mines and weights the pairs of a batch by their cosines."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from criteria.base import CRITERIA
from utilities.errors import UserError
from utilities.tensors.distances import cosines
from utilities.tensors.labels import PairRule


@CRITERIA.register("multi_similarity")
class MultiSimilarityLoss(nn.Module):
    """Of every anchor i of the batch, its hard positives P_i and hard negatives N_i, by their cosines S:

        L = 1/B sum_i  1/alpha log(1 + sum_{k in P_i} exp(-alpha (S_ik - lambda)))
                     + 1/beta  log(1 + sum_{k in N_i} exp( beta  (S_ik - lambda)))

        P_i = positives with S_ik < max over negatives S_ij + epsilon
        N_i = negatives with S_ik > min over positives S_ij - epsilon

    An anchor without a positive or without a negative has empty P_i and N_i; it adds 0 and counts in B.

    relation  which pairs are positive, which negative (`PairRule`); on one-hot labels that of the paper
    alpha     sharpness of the weights among positives (2)
    beta      sharpness of the weights among negatives (50)
    base      lambda, the cosine around which pairs weigh (0.5 in the released code, 1 in the paper's text)
    epsilon   how far behind the hardest pair of the other kind a pair still counts (0.1)

    Source: Wang et al., Multi-Similarity Loss with General Pair Weighting, CVPR 2019, eqs. 10, 11 and 15.
    """

    def __init__(self, *, relation: PairRule, alpha: float, beta: float, base: float, epsilon: float) -> None:
        super().__init__()
        if alpha <= 0 or beta <= 0:
            raise UserError(f"--multi_similarity_alpha {alpha} and --multi_similarity_beta {beta} must be positive")
        self.relation = relation
        self.alpha, self.beta = alpha, beta
        self.base, self.epsilon = base, epsilon

    def forward(self, embeddings: Tensor, labels: Tensor, indices: Tensor) -> Tensor:
        """embeddings (B, D) unit rows; labels (B, L) bool; indices (B,) int64 image ids -> () float32."""
        with torch.autocast(embeddings.device.type, enabled=False):
            similarity = cosines(embeddings, embeddings)
            positive, negative = self.mine(similarity.detach(), labels, indices)
            scores = similarity - self.base
            loss = _log_one_plus(-self.alpha * scores, positive) / self.alpha
            loss = loss + _log_one_plus(self.beta * scores, negative) / self.beta
            return loss.sum() / max(1, len(loss))

    def mine(self, similarity: Tensor, labels: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
        """P and N as (B, B) bool."""
        positive, negative = self.relation.pairs(labels, indices)
        hardest_negative = similarity.masked_fill(~negative, -torch.inf).amax(1, keepdim=True)
        hardest_positive = similarity.masked_fill(~positive, torch.inf).amin(1, keepdim=True)
        return (
            positive & (similarity < hardest_negative + self.epsilon),
            negative & (similarity > hardest_positive - self.epsilon),
        )


def _log_one_plus(exponents: Tensor, counted: Tensor) -> Tensor:
    """log(1 + sum over what is counted of exp), (B, B), (B, B) bool -> (B,)."""
    one = exponents.new_zeros(len(exponents), 1)
    return torch.cat([exponents.masked_fill(~counted, -torch.inf), one], 1).logsumexp(1)
