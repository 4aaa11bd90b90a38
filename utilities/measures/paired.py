"""Whether one method is better than another, judged from the values that their runs give the same queries.

A method is its runs, each trained from another seed, as an array (S, Q) of one value a query; NaN where the measure
leaves a query out. Two methods answer the same Q queries, so that a hard query is hard for both: differences are taken
query by query. Their seeds have nothing in common but the number, so that seeds are drawn for each method by itself.

`compare` judges by the standard error of a hierarchical bootstrap, which draws queries (the same for both) and seeds
(of each) anew together: it varies what a repetition of the study would vary, other pictures and other trainings. An
interval over queries alone calls a lucky seed a better method; one over seeds alone takes these pictures for all there
are. Against a mixed model it needs no assumption on how the values, of which many are exactly 0 or 1, are distributed.
What changes from seed to seed query by query counts with both: intervals are rather too wide than too narrow (Owen
2007, pigeonhole bootstrap). That error has a closed form: nothing is drawn, and no draw decides on a p near the level.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor


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


def compare(one: Tensor, other: Tensor, *, level: float = 0.95) -> Difference:
    """`one` less `other`, (S, Q) and (S', Q) values of the same queries; queries that either leaves out are left out.

    Interval and p come from Student's t with the standard error of the hierarchical bootstrap and Satterthwaite's
    degrees of freedom: of three seeds each that differ more than queries do, quantiles of its draws hold the true
    difference in some 87 % of cases instead of 95. With one run each it is the paired t-test over queries; where all
    queries answer alike, Welch's t-test over seeds.
    """
    counted = ~(one.isnan().any(0) | other.isnan().any(0))
    a, b = one[:, counted].double(), other[:, counted].double()
    queries = a.shape[1]
    by_query = a.mean(0) - b.mean(0)
    if queries < 2:
        nothing = (math.nan,) * 6
        return Difference(float(by_query.mean()), *nothing, queries, (len(a), len(b)))
    by_seed, within = zip(*map(_of_seeds, (a, b)), strict=True)
    of_queries = float(by_query.var()) / queries + sum(within)
    variances = [*zip(by_seed, (len(a) - 1, len(b) - 1), strict=True), (of_queries, queries - 1)]
    error = math.sqrt(sum(by_seed) + of_queries)
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


def _of_seeds(values: Tensor) -> tuple[float, float]:
    """What S seeds add to the variance of the mean of values (S, Q): by their own means, and by what they change query
    by query.

    The mean over seeds u and queries w drawn anew is u'Vw, independent of each other: its variance is that of u'V1/Q,
    that of 1'Vw/S, and the trace of V Cov(w) V' Cov(u). Q or S drawn from as many vary too little, by (Q - 1) / Q and
    (S - 1) / S, which is made up for: so variances are those of samples.
    """
    seeds, queries = values.shape
    if seeds == 1:
        return 0.0, 0.0
    of_means = float(values.mean(1).var()) / seeds
    of_values = float(values.var(0).mean()) / seeds
    return of_means, max(0.0, of_values - of_means) / (queries - 1)


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
