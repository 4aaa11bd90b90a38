"""Paired differences over queries and seeds: against textbook tests where one applies, and in simulation."""

from __future__ import annotations

import math
import statistics

import pytest
import scipy.stats
import torch

from utilities.measures import paired


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_of_one_run_each_it_is_the_paired_t_test_over_queries() -> None:
    one, other = normal(1, 200) / 5 + 0.03, normal(1, 200, seed=1) / 5
    found = paired.compare(one, other)
    expected = scipy.stats.ttest_rel(one[0].numpy(), other[0].numpy())
    low, high = expected.confidence_interval()
    assert found.difference == pytest.approx(float((one - other).mean()))
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.p == pytest.approx(expected.pvalue)


def test_where_all_queries_answer_alike_it_is_welchs_t_test_over_seeds() -> None:
    one, other = normal(3, 1) + 1.5, normal(5, 1, seed=1) / 3
    found = paired.compare(one.expand(3, 40), other.expand(5, 40))
    expected = scipy.stats.ttest_ind(one[:, 0].numpy(), other[:, 0].numpy(), equal_var=False)
    low, high = expected.confidence_interval()
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.p == pytest.approx(expected.pvalue)


def spread(values: torch.Tensor) -> torch.Tensor:
    """(S, Q) runs moved away from their mean: drawn from as many they then vary as much as new ones would."""
    return values.mean(0) + (values - values.mean(0)) * math.sqrt(len(values) / max(1, len(values) - 1))


def bootstrap(one: torch.Tensor, other: torch.Tensor, draws: int, seed: int = 0) -> torch.Tensor:
    """Differences of means over queries, the same for both, and seeds drawn anew, (draws,)."""
    draw = torch.Generator().manual_seed(seed)
    asked = torch.randint(one.shape[1], (draws, 1, one.shape[1]), generator=draw)
    seeds = [torch.randint(len(runs), (draws, len(runs), 1), generator=draw) for runs in (one, other)]
    return one[seeds[0], asked].mean((1, 2)) - other[seeds[1], asked].mean((1, 2))


def test_its_error_is_that_of_queries_and_seeds_drawn_anew() -> None:
    """Of 6 seeds and 30 queries with an interaction, against one run; half the interval is t times the error."""
    one = normal(6, 1) / 4 + normal(30, seed=1) + normal(6, 30, seed=2)
    other = normal(30, seed=1)[None] + normal(1, 30, seed=3) / 2
    quick = paired.compare(one, other)
    by_seed = float(one.mean(1).var()) / 6
    drawn = float(bootstrap(spread(one), other, 6000).std())
    error = math.sqrt(drawn**2 + float((one.mean(0) - other[0]).var()) / 30 / 30)  # queries, too, vary too little
    degrees = error**4 / (by_seed**2 / 5 + (error**2 - by_seed) ** 2 / 29)
    half = float(scipy.stats.t(degrees).ppf(0.975)) * error
    assert (quick.high - quick.low) / 2 == pytest.approx(half, rel=0.03)


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """Three seeds each that differ more than the queries do: there, quantiles of the draws hold it too rarely."""
    held = by_quantiles = 0
    trials = 300
    for trial in range(trials):
        queries = normal(30, seed=trial)
        one = queries + 0.3 * normal(3, 1, seed=1000 + trial) + 0.02 * normal(30, seed=4000 + trial)
        other = queries + 0.3 * normal(3, 1, seed=7000 + trial)
        found = paired.compare(one, other)
        held += found.low <= 0 <= found.high
        drawn = bootstrap(spread(one), spread(other), 200, trial)
        by_quantiles += bool(drawn.quantile(0.025) <= 0 <= drawn.quantile(0.975))
    assert 0.92 < held / trials < 0.985
    assert by_quantiles / trials < 0.92


def test_twenty_seeds_beside_three_are_told_apart_a_little_too_often() -> None:
    """As Welch's test does, where seeds differ more than queries; three beside three are on the safe side there."""

    def told_apart(first: int, trials: int = 1500) -> float:
        one, other = normal(trials, first, 1), normal(trials, 3, 1, seed=1)
        noise = normal(trials, 1, 20, seed=2) / 100
        return (
            sum(paired.compare(a + n, b.expand(3, 20)).p < 0.05 for a, b, n in zip(one, other, noise, strict=True))
            / trials
        )

    assert 0.055 < told_apart(20) < 0.11
    assert told_apart(3) < 0.05


def test_effect_sizes_in_closed_form() -> None:
    one, other = torch.tensor([[0.5, 0.5, 1.0, 0.0], [0.7, 0.5, 1.0, 0.2]]), torch.tensor([[0.1, 0.5, 0.5, 0.6]])
    found = paired.compare(one, other)
    by_query = [0.5, 0.0, 0.5, -0.5]
    assert found.effect == pytest.approx(statistics.mean(by_query) / statistics.stdev(by_query))
    assert found.won == (2 + 0.5) / 4
    assert found.runs_won == 1
    assert (found.queries, found.seeds) == (4, (2, 1))


def test_queries_that_one_of_them_leaves_out_count_for_neither() -> None:
    one, other = normal(2, 9), normal(2, 9, seed=1)
    one[0, 2] = other[1, 5] = torch.nan
    kept = [0, 1, 3, 4, 6, 7, 8]
    assert paired.compare(one, other) == paired.compare(one[:, kept], other[:, kept])


def test_nothing_to_tell_apart_and_nothing_to_tell_it_by() -> None:
    same = normal(3, 20)
    assert paired.compare(same[:1], same[:1])[:5] == (0, 0, 0, 1, 0)
    nothing = paired.compare(torch.full((2, 3), torch.nan), same[:, :3])
    assert math.isnan(nothing.difference)
    assert math.isnan(nothing.p)


def test_holm_step_by_step() -> None:
    p_values = [0.04, 0.001, math.nan, 0.03, 0.5]
    adjusted = paired.holm(p_values)
    for level in (0.004, 0.0041, 0.08, 0.091, 0.12, 0.6):
        rejected, left = set(), sorted((p, i) for i, p in enumerate(p_values) if p == p)
        for number, (p, place) in enumerate(left):
            if p > level / (len(left) - number):
                break
            rejected.add(place)
        assert {place for place, p in enumerate(adjusted) if p <= level} == rejected
    assert math.isnan(adjusted[2])
