"""Keeping parts of an embedding different: by adversarial regressors (DiVA, A-BIER) or directly (BIER)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from criteria.base import CRITERIA
from utilities.errors import UserError
from utilities.tensors.float32 import at_least_float32

NORM_AXES = ("output", "input")
NORM_REDUCTIONS = ("sum", "mean")
BELOW_ZERO = {
    "bier": "adversarial: minus what regressors can tell of one group of the embedding from another, times lambda_div "
    "(Eqs. 7-11). Regressors push it down and, through reversed gradients, the embedding up: near zero the groups hold "
    "different things",
    "diva": "nce_to_disc, shared_to_disc, intra_to_disc: minus rho times what a regressor can tell of one embedding "
    "from another (Eqs. 7-8). Regressors push it down and, through reversed gradients, the embeddings up: near zero "
    "they hold different things",
}
"""What figures say of the terms that are below zero."""


class _Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        return rows.view_as(rows)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return -gradient


def reverse_gradient(rows: Tensor) -> Tensor:
    """Identity forward, minus one backward: what descends beyond it ascends before it (Ganin et al.)."""
    return _Reverse.apply(rows)


def regressor(source: int, hidden: int, target: int) -> nn.Sequential:
    """R^source -> R^target through one hidden layer of rectifiers."""
    return nn.Sequential(nn.Linear(source, hidden), nn.ReLU(), nn.Linear(hidden, target))


def similarity(target: Tensor, prediction: Tensor) -> Tensor:
    """mean_{batch, dimensions} (target * prediction)^2, (B, d) and (B, d) -> (); 0 with a graph for B = 0."""
    return (target * prediction).square().sum() / max(1, target.numel())


class Direction(NamedTuple):
    """The regressor from one embedding (source) to another (target), and the weight rho of its term."""

    source: str
    target: str
    rho: float


@CRITERIA.register("adversarial", prefix="diva_adversarial")
class AdversarialSeparation(nn.Module):
    """A regressor tries to predict one embedding from another, which both learn to prevent.

    For a direction source -> target with regressor psi, R the gradient reversal, n the normalisation:

        L = - rho * mean_{batch, dimensions} ( n(R(target)) * n(psi(n(R(source)))) )^2

    Descent raises the similarity for psi and, through R, lowers it for the embeddings.

    widths      name -> dimension of every embedding
    directions  which terms there are; no direction is filled in or dropped silently
    hidden      units of the hidden layer (512)

    Source: Milbich et al., DiVA, ECCV 2020, eq. 7-8; normalisation and means as in the authors' code (the
    paper's c is a sum over dimensions).
    """

    def __init__(self, *, widths: Mapping[str, int], directions: Sequence[Direction], hidden: int) -> None:
        super().__init__()
        for source, target, _ in directions:
            for name in (source, target):
                if name not in widths:
                    raise UserError(
                        f"decorrelation {source} -> {target}: no embedding {name!r}; choices: {', '.join(widths)}"
                    )
        self.directions = tuple(directions)
        self.regressors = nn.ModuleList(
            regressor(widths[source], hidden, widths[target]) for source, target, _ in directions
        )

    def forward(self, embeddings: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """name -> (B, d) -> "source_to_target" -> () float32, each weighted by its rho."""
        terms = {}
        for (source, target, rho), regress in zip(self.directions, self.regressors, strict=True):
            with torch.autocast(embeddings[source].device.type, enabled=False):
                reversed_source = F.normalize(reverse_gradient(at_least_float32(embeddings[source])))
                reversed_target = F.normalize(reverse_gradient(at_least_float32(embeddings[target])))
                prediction = F.normalize(regress(reversed_source))
                terms[f"{source}_to_{target}"] = -rho * similarity(reversed_target, prediction)
        return terms


class ABierTerms(NamedTuple):
    """adversarial  () float32, minus the summed similarities, weighted by lambda_div
    norms        () float32, penalty on weights off the unit sphere and on long biases, weighted
    """

    adversarial: Tensor
    norms: Tensor


@CRITERIA.register("abier", prefix="bier")
class ABierRegulariser(nn.Module):
    """Adversarial decorrelation of BIER's groups, reaching the embedding layer and nothing below it.

    With h the features, detached, f_m = W_m h (no bias, not normalised) and, for every pair of groups, a
    regressor g from the larger group j to the smaller group i (of equal ones, from the later to the earlier):

        L = lambda_div * ( - sum_{i<j} mean( (R(f_i) * g_{j->i}(R(f_j)))^2 )  +  lambda_weight * P )
        P = sum over the regressors' biases b of [b'b - 1]_+
          + sum over the regressors' and the embedding's matrices W of sum_rows (||w||^2 - 1)^2

    lambda_div stands outside, so that regressors learn as slowly as it says. Regressors start from Glorot's
    uniform distribution with zero biases.

    sizes           d_m of the groups; equal sizes are fine
    hidden          units of a regressor's hidden layer (512)
    lambda_div      5e-5 in the authors' recipe
    lambda_weight   1e5 there, with norm_reduction "mean"
    norm_axis       vectors of unit length: "output", the weights of one output unit (a row of
                    nn.Linear.weight), or "input", those of one input (as the released code has it for this
                    loss)
    norm_reduction  "sum" over the vectors of a matrix (eq. 9), or their "mean" (released code)

    Source: Opitz et al., arXiv 1801.04815, eq. 7-11 and the released code.
    """

    def __init__(
        self,
        *,
        features: int,
        sizes: Sequence[int],
        hidden: int,
        lambda_div: float,
        lambda_weight: float,
        norm_axis: str,
        norm_reduction: str,
    ) -> None:
        super().__init__()
        _check_choice("norm_axis", norm_axis, NORM_AXES)
        _check_choice("norm_reduction", norm_reduction, NORM_REDUCTIONS)
        self.features = features
        self.sizes = tuple(sizes)
        self.lambda_div = lambda_div
        self.lambda_weight = lambda_weight
        self.norm_axis = norm_axis
        self.norm_reduction = norm_reduction
        self.pairs = [(i, j) if sizes[i] <= sizes[j] else (j, i) for i, j in combinations(range(len(sizes)), 2)]
        self.regressors = nn.ModuleList(regressor(sizes[j], hidden, sizes[i]) for i, j in self.pairs)
        for layer in self._layers():
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor, weights: Sequence[Tensor]) -> ABierTerms:
        """features (B, F); weights: the embedding layer's (d_m, F) of each group, without biases."""
        shapes = [tuple(weight.shape) for weight in weights]
        if shapes != [(size, self.features) for size in self.sizes]:
            raise ValueError(f"weights of shapes {shapes} for groups of {self.sizes} over {self.features} features")
        with torch.autocast(features.device.type, enabled=False):
            stopped = at_least_float32(features).detach()
            groups = [reverse_gradient(F.linear(stopped, weight)) for weight in weights]
            similarities = [
                similarity(groups[i], regress(groups[j]))
                for (i, j), regress in zip(self.pairs, self.regressors, strict=True)
            ]
            adversarial = torch.stack(similarities).sum() if similarities else groups[0].sum() * 0
            return ABierTerms(
                -self.lambda_div * adversarial, self.lambda_div * self.lambda_weight * self.norms(weights)
            )

    def norms(self, weights: Sequence[Tensor]) -> Tensor:
        """P: how far weights are from unit length and biases beyond it, () float32."""
        matrices = [*weights, *(layer.weight for layer in self._layers())]
        off_sphere = sum(unit_length_penalty(w, axis=self.norm_axis, reduction=self.norm_reduction) for w in matrices)
        long_biases = sum((layer.bias.square().sum() - 1).relu() for layer in self._layers())
        return torch.as_tensor(off_sphere + long_biases)

    def _layers(self) -> list[nn.Linear]:
        return [module for module in self.regressors.modules() if isinstance(module, nn.Linear)]


def unit_length_penalty(weight: Tensor, *, axis: str, reduction: str) -> Tensor:
    """Sum or mean of (||w||^2 - 1)^2 over rows (axis "output") or columns ("input") w of (out, in) -> ()."""
    lengths = weight.square().sum(1 if axis == "output" else 0)
    deviation = (lengths - 1).square()
    return deviation.sum() if reduction == "sum" else deviation.mean()


def activation_loss(
    features: Tensor, weights: Sequence[Tensor], *, lambda_weight: float, norm_axis: str, norm_reduction: str
) -> Tensor:
    """Pairwise products of activations of different groups, to start BIER's embedding layer from independent
    groups:

        sum_{i<j} mean_{batch, k, l} (f_i,k f_j,l)^2  +  lambda_weight * sum_i unit_length_penalty(W_i)

    features (B, F), through which no gradient flows; weights (d_m, F) each -> () float32. The mean over all
    (k, l) is a product of two means, so no (B, d_i, d_j) array is needed. Source: arXiv 1801.04815, eq. 4-6.
    """
    _check_choice("norm_axis", norm_axis, NORM_AXES)
    _check_choice("norm_reduction", norm_reduction, NORM_REDUCTIONS)
    with torch.autocast(features.device.type, enabled=False):
        stopped = at_least_float32(features).detach()
        energies = torch.stack([F.linear(stopped, weight).square().mean(1) for weight in weights])  # (M, B)
        products = torch.triu(energies @ energies.T, diagonal=1).sum() / max(1, len(features))
        norms = [unit_length_penalty(weight, axis=norm_axis, reduction=norm_reduction) for weight in weights]
        return products + lambda_weight * torch.stack(norms).sum()


def decorrelated_start(
    features: Tensor,
    weights: Sequence[Tensor],
    *,
    steps: int,
    lr: float,
    batch_size: int,
    generator: torch.Generator,
    lambda_weight: float,
    norm_axis: str,
    norm_reduction: str,
) -> list[Tensor]:
    """Embedding weights that minimise `activation_loss`, from the given ones: `steps` of Adam on random rows.

    features (N, F); weights (d_m, F) each, left as they are; generator on the CPU -> (d_m, F) each.
    """
    fitted = [weight.detach().clone().requires_grad_() for weight in weights]
    optimizer = torch.optim.Adam(fitted, lr=lr)
    penalty = {"norm_axis": norm_axis, "norm_reduction": norm_reduction}
    for _ in range(steps):
        rows = torch.randint(len(features), (batch_size,), generator=generator).to(features.device)
        optimizer.zero_grad()
        activation_loss(features[rows], fitted, lambda_weight=lambda_weight, **penalty).backward()
        optimizer.step()
    return [weight.detach() for weight in fitted]


def _check_choice(name: str, given: str, choices: Sequence[str]) -> None:
    if given not in choices:
        raise UserError(f"unknown --bier_{name} {given!r}; choices: {', '.join(choices)}")
