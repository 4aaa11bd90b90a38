"""Whether one method is better than another, judged from the values that their runs give the same queries.

A method is its runs, each trained from another seed, as an array (S, Q) of one value a query; NaN where the measure
leaves a query out. Two methods answer the same Q queries, so that a hard query is hard for both: differences are taken
query by query. Their seeds have nothing in common but the number, so that seeds are drawn for each method by itself.

`compare` draws queries (the same for both) and seeds (of each) anew together, a hierarchical bootstrap: it varies
what a repetition of the study would vary, other pictures and other trainings. An interval over queries alone calls a
lucky seed a better method; one over seeds alone takes these pictures for all there are. Against a mixed model it needs
no assumption on how the values, of which many are exactly 0 or 1, are distributed. What changes from seed to seed
query by query counts with both: intervals are rather too wide than too narrow (Owen 2007, pigeonhole bootstrap).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from utilities.seeding import generator

DRAWS = 2000
_BLOCK = 2**22  # drawn queries held together


class Difference(NamedTuple):
    """One method less another, of one measure.

    difference  of their means over seeds and queries, with its interval (low, high)
    p           of so large a difference in either direction where there is none
    effect      paired Cohen's d: mean over standard deviation of the queries' differences
    won         share of queries with the larger value, ties counted half
    runs_won    share of pairs of a run of each with the larger mean, ties counted half
    queries     that have a value in both
    seeds       runs of either; of a method with one, nothing is known about other seeds, and the interval is too narrow
    """

    difference: float
    low: float
    high: float
    p: float
    effect: float
    won: float
    runs_won: float
    queries: int
    seeds: tuple[int, int]


def compare(one: Tensor, other: Tensor, *, seed: int = 0, draws: int = DRAWS, level: float = 0.95) -> Difference:
    """`one` less `other`, (S, Q) and (S', Q) values of the same queries; queries that either leaves out are left out.

    The standard error is that of the hierarchical bootstrap. As few seeds drawn anew vary too little, by (S - 1) / S,
    they are first spread by the root of S / (S - 1) about their mean. Interval and p come from Student's t with this
    error and Satterthwaite's degrees of freedom: of three seeds each that differ more than queries do, quantiles of the
    draws themselves hold the true difference in some 87 % of cases instead of 95.
    """
    counted = ~(one.isnan().any(0) | other.isnan().any(0))
    a, b = one[:, counted].double(), other[:, counted].double()
    queries = a.shape[1]
    by_query = a.mean(0) - b.mean(0)
    if queries < 2:
        nothing = (math.nan,) * 6
        return Difference(float(by_query.mean()), *nothing, queries, (len(a), len(b)))
    error = float(_bootstrap(a, b, seed, draws).std())
    between = [float(x.mean(1).var()) / len(x) if len(x) > 1 else 0.0 for x in (a, b)]
    variances = [(v, len(x) - 1) for v, x in zip(between, (a, b), strict=True)]
    variances.append((max(0.0, error**2 - sum(between)), queries - 1))
    difference = float(by_query.mean())
    low, high, p = _student(difference, error, _degrees(variances), level)
    means_a, means_b = a.mean(1)[:, None], b.mean(1)
    deviation = float(by_query.std())
    return Difference(
        difference,
        low,
        high,
        p,
        difference / deviation if deviation else 0.0,
        _won(by_query),
        _won(means_a - means_b),
        queries,
        (len(a), len(b)),
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values that may each be held against the level, whatever their number (Holm 1979); NaN stays and counts not.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    known = sorted((p, place) for place, p in enumerate(p_values) if not math.isnan(p))
    adjusted, largest = [math.nan] * len(p_values), 0.0
    for rank, (p, place) in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - rank) * p))
        adjusted[place] = largest
    return adjusted


def _bootstrap(a: Tensor, b: Tensor, seed: int, draws: int) -> Tensor:
    """Differences of means over drawn seeds and queries, (draws,)."""
    draw = generator("cpu", seed, "paired bootstrap")
    a, b = _spread(a), _spread(b)
    queries = a.shape[1]
    step = max(1, _BLOCK // queries)
    found = []
    for start in range(0, draws, step):
        count = min(step, draws - start)
        weights = drawn_shares(count, queries, draw)
        means = [((weights @ x.T) * drawn_shares(count, len(x), draw)).sum(1) for x in (a, b)]
        found.append(means[0] - means[1])
    return torch.cat(found)


def _spread(values: Tensor) -> Tensor:
    """Runs (S, Q) moved away from their mean: drawn with replacement they then vary as much as new ones would."""
    mean, seeds = values.mean(0), len(values)
    return values if seeds == 1 else mean + (values - mean) * math.sqrt(seeds / (seeds - 1))


def drawn_shares(draws: int, count: int, draw: torch.Generator) -> Tensor:
    """How often each of `count` is drawn among as many, as shares: (draws, count) float64."""
    places = torch.randint(count, (draws, count), generator=draw) + count * torch.arange(draws)[:, None]
    return torch.bincount(places.flatten(), minlength=draws * count).view(draws, count).double() / count


def _degrees(variances: Sequence[tuple[float, int]]) -> float:
    """Degrees of freedom of a sum of independent estimates of variance, each with its own (Satterthwaite 1946)."""
    total = sum(variance for variance, _ in variances)
    parts = sum(variance**2 / degrees for variance, degrees in variances if variance > 0)
    return total**2 / parts if parts else math.inf


def _student(difference: float, error: float, degrees: float, level: float) -> tuple[float, float, float]:
    """Interval and two-sided p of a difference with this standard error."""
    from scipy.stats import norm, t  # a second that nothing before needs

    if error == 0:
        return difference, difference, float(difference == 0)
    law = norm if math.isinf(degrees) else t(degrees)
    half = float(law.ppf((1 + level) / 2)) * error
    return difference - half, difference + half, float(2 * law.sf(abs(difference) / error))


def _won(differences: Tensor) -> float:
    return float(((differences > 0).double() + (differences == 0).double() / 2).mean())
