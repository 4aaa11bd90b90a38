"""Boosted binomial deviance: the metric loss of BIER and A-BIER."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from criteria.base import CRITERIA
from utilities.errors import UserError
from utilities.tensors.float32 import at_least_float32
from utilities.tensors.labels import PairRule, Pairs

BOOSTING = ("eta", "additive")
ADDITIVE_START = 0.5  # ensemble activation before the first learner, in the released recipe
ADDITIVE_NEGATIVE_FACTOR = 2.0  # its negatives are boosted twice as much


class BoostedTerms(NamedTuple):
    """losses             (M,) float32, one a learner; their sum is what is minimised
    positive_weights   (M,) float32 without gradient, mean boosting weight over the positive pairs; falls as
                       the learners before have solved them (1 for the first learner, 0 without such pairs)
    negative_weights   the same over the negative pairs
    """

    losses: Tensor
    positive_weights: Tensor
    negative_weights: Tensor


@CRITERIA.register("binomial", prefix="bier")
class BoostedBinomialDeviance(nn.Module):
    """M learners, each weighted by what the ensemble of those before it gets wrong.

    With s_m the cosine of a pair under learner m, direction c = 1 for a positive and -C for a negative pair,
    activation a_m = beta1 (s_m - beta2) c and pair masses v = 1 / n_pos or 1 / n_neg (so positives and
    negatives weigh the same; ignored pairs 0):

        L_m = 1/M sum_pairs v w_m log(1 + exp(-a_m)),    w_1 = 1,    w_{m+1} = sigmoid(-A_m) without gradient

    where w_{m+1} is minus the derivative of the deviance by the activation A_m of the ensemble so far:

        boosting "eta"       A_m = (1 - eta_m) A_{m-1} + eta_m a_m, eta_m = 2 / (m + 1)          (Algorithm 1)
        boosting "additive"  A_m = A_{m-1} + shrinkage a_m, A_0 = 0.5, negatives' w doubled   (released
                             recipe)

    The constants are fixed: none is a parameter.

    relation          which pairs are positive, negative, ignored
    beta1, beta2      scale and boundary of the deviance (2 and 0.5)
    negative_cost     C (25)
    shrinkage         of the additive recursion (0.06)
    include_diagonal  count the B pairs of an image with itself in n_pos, as the released code does; they
                      never enter the sum

    Source: Opitz et al., Deep Metric Learning with BIER, TPAMI 2018 (arXiv 1801.04815), Algorithm 1, eq. 2.
    """

    def __init__(
        self,
        *,
        relation: PairRule,
        beta1: float,
        beta2: float,
        negative_cost: float,
        boosting: str,
        shrinkage: float,
        include_diagonal: bool,
    ) -> None:
        super().__init__()
        if boosting not in BOOSTING:
            raise UserError(f"unknown --bier_boosting {boosting!r}; choices: {', '.join(BOOSTING)}")
        self.relation = relation
        self.beta1 = beta1
        self.beta2 = beta2
        self.negative_cost = negative_cost
        self.boosting = boosting
        self.shrinkage = shrinkage
        self.include_diagonal = include_diagonal

    def forward(self, groups: Sequence[Tensor], labels: Tensor, indices: Tensor | None = None) -> BoostedTerms:
        """groups: M times (B, d_m) unit rows, in boosting order; labels (B, L) bool; indices (B,) int64 image
        ids.

        With several processes the rows are those of all ranks, since pairs cross ranks. A batch without
        positive or negative pairs gives 0 for that part, with a graph.
        """
        pairs = self.relation.pairs(labels, indices)
        mass = self.pair_mass(pairs)
        direction = 1.0 - (1.0 + self.negative_cost) * pairs.negative.float()
        weights = torch.ones_like(mass)
        ensemble = torch.full_like(mass, ADDITIVE_START)
        losses, positive, negative = [], [], []
        with torch.autocast(labels.device.type, enabled=False):
            for learner, group in enumerate(groups, start=1):
                rows = at_least_float32(group)
                activation = self.beta1 * (rows @ rows.T - self.beta2) * direction
                losses.append((F.softplus(-activation) * weights * mass).sum() / len(groups))
                positive.append(_mean_over(weights, pairs.positive))
                negative.append(_mean_over(weights, pairs.negative))
                ensemble = self.boost(ensemble, activation.detach(), learner)
                weights = self.boosting_weights(ensemble, pairs.negative)
        return BoostedTerms(torch.stack(losses), torch.stack(positive), torch.stack(negative))

    def pair_mass(self, pairs: Pairs) -> Tensor:
        """Weight of each pair before boosting, (B, B) float32: 1 / n_pos, 1 / n_neg, or 0 where ignored."""
        diagonal = len(pairs.positive) if self.include_diagonal else 0
        positives = (pairs.positive.sum() + diagonal).clamp(min=1)
        negatives = pairs.negative.sum().clamp(min=1)
        return pairs.positive / positives + pairs.negative / negatives

    def boost(self, ensemble: Tensor, activation: Tensor, learner: int) -> Tensor:
        """The ensemble's activations A_m after learner m = 1 ... M, (B, B)."""
        if self.boosting == "additive":
            return ensemble + self.shrinkage * activation
        eta = 2 / (learner + 1)
        return (1 - eta) * ensemble + eta * activation

    def boosting_weights(self, ensemble: Tensor, negative: Tensor) -> Tensor:
        """w of the next learner, (B, B) without gradient."""
        weights = torch.sigmoid(-ensemble)
        if self.boosting == "additive":
            weights = weights * (1 + (ADDITIVE_NEGATIVE_FACTOR - 1) * negative.float())
        return weights


def _mean_over(weights: Tensor, mask: Tensor) -> Tensor:
    return (weights * mask).sum() / mask.sum().clamp(min=1)


def learner_weights(count: int) -> Tensor:
    """alpha_m of the M learners in the ensemble score s = sum_m alpha_m s_m, (M,) float32 of sum 1.

    eta_m = 2 / (m + 1) in alpha_m = eta_m prod_{n>m} (1 - eta_n) gives 2 m / (M (M + 1)). Embeddings whose
    inner product is that score weight their unit-length groups by sqrt(alpha_m).
    """
    return torch.arange(1, count + 1) * (2 / (count * (count + 1)))


def group_sizes(width: int, count: int) -> list[int]:
    """Dimensions of M groups in proportion to `learner_weights`, of sum `width`: 512, 3 -> 85, 171, 256."""
    exact = [width * 2 * m / (count * (count + 1)) for m in range(1, count + 1)]
    sizes = [math.floor(size) for size in exact]
    by_remainder = sorted(range(count), key=lambda m: sizes[m] - exact[m])
    for m in by_remainder[: width - sum(sizes)]:
        sizes[m] += 1
    if min(sizes) < 1:
        raise UserError(
            f"an embedding of {width} dimensions cannot be split into {count} growing groups; "
            f"give --sz_embedding of at least {count * (count + 1) // 2} or fewer groups"
        )
    return sizes
