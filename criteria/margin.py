"""The margin loss."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from criteria.base import CRITERIA
from utilities.batch import Triplets
from utilities.errors import UserError
from utilities.tensors.distances import pairwise_distances

COUNTED = ("terms", "triplets")


@CRITERIA.register("margin")
class MarginLoss(nn.Module):
    """Positives inside, negatives outside a boundary beta, each by a margin gamma. For T triplets:

        L = sum_t [d_ap - beta_t + gamma]_+ + [beta_t - d_an + gamma]_+  +  nu sum_t |beta_t|
            ---------------------------------------------------------------------------------
                                      number of non-zero terms

    Both terms of a triplet are counted (`counted`). With no non-zero term, or no triplet, L is 0 with a graph; the
    regulariser is skipped then, as in the authors' code and in pytorch-metric-learning.

    gamma        half the width of the band between positives and negatives (Wu et al.: 0.2)
    beta         initial boundary, a Euclidean distance between unit vectors (1.2)
    nu           weight of the regulariser (0)
    per_class    one boundary per class instead of one in all
    learn_beta   boundaries are parameters, otherwise a buffer
    counted      "terms", or "triplets" with any non-zero term, by which the releases of DiVA and D&C divide: their sum
                 of two masks is a disjunction
    num_classes  L, used with per_class

    Source: Wu et al., Sampling Matters in Deep Embedding Learning, ICCV 2017, eq. 4 and section 4.2.
    """

    beta: Tensor  # (num_classes,) with per_class, else (1,)

    def __init__(
        self,
        *,
        gamma: float,
        beta: float,
        nu: float,
        per_class: bool,
        learn_beta: bool,
        counted: str,
        num_classes: int,
    ) -> None:
        super().__init__()
        if per_class and num_classes < 1:
            raise UserError(
                f"a margin loss with one boundary per class needs classes, but num_classes is {num_classes}"
            )
        if counted not in COUNTED:
            raise UserError(f"unknown --margin_counted {counted!r}; choices: {', '.join(COUNTED)}")
        self.gamma, self.counted = gamma, counted
        self.nu = nu
        self.per_class = per_class
        boundaries = torch.full((num_classes if per_class else 1,), float(beta))
        if learn_beta:
            self.beta = nn.Parameter(boundaries)
        else:
            self.register_buffer("beta", boundaries)

    def boundaries(self, triplets: Triplets, labels: Tensor) -> Tensor:
        """beta of each triplet, (T,) float32: that of its class or, where cls is -1, the mean over the
        anchor's labels. labels (B, L) bool."""
        if not self.per_class:
            return self.beta.expand(triplets.count)
        of_class = self.beta[triplets.cls.clamp(min=0)]
        carried = labels.bool()
        # An elementwise product: autocast would turn a matrix product into bf16.
        mean = (carried * self.beta).sum(1) / carried.sum(1).clamp(min=1)
        return torch.where(triplets.cls >= 0, of_class, mean[triplets.anchor])

    def forward(self, embeddings: Tensor, triplets: Triplets, labels: Tensor) -> Tensor:
        """embeddings (B, D) unit rows; labels (B, L) bool -> () float32."""
        # The whole matrix: memory O(B^2), whereas gathered rows would take O(T D).
        distances = pairwise_distances(embeddings, embeddings)
        boundary = self.boundaries(triplets, labels)
        positive = (distances[triplets.anchor, triplets.positive] - boundary + self.gamma).relu()
        negative = (boundary - distances[triplets.anchor, triplets.negative] + self.gamma).relu()
        inside, outside = positive > 0, negative > 0
        active = (inside | outside).sum() if self.counted == "triplets" else inside.sum() + outside.sum()
        regulariser = self.nu * boundary.abs().sum() * (active > 0)
        return (positive.sum() + negative.sum() + regulariser) / active.clamp(min=1)
