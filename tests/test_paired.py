"""Paired differences over queries and seeds: against textbook tests where one applies, and in simulation."""

from __future__ import annotations

import math
import random
import statistics

import pytest
import scipy.stats
import torch

from utilities.measures import paired


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_of_one_run_each_it_is_the_paired_t_test_over_queries() -> None:
    one, other = normal(1, 200) / 5 + 0.03, normal(1, 200, seed=1) / 5
    found = paired.compare(one, other, draws=20_000)
    expected = scipy.stats.ttest_rel(one[0].numpy(), other[0].numpy())
    low, high = expected.confidence_interval()
    assert found.difference == pytest.approx(float((one - other).mean()))
    assert (found.low, found.high) == pytest.approx((low, high), abs=8e-4)
    assert found.p == pytest.approx(expected.pvalue, abs=0.01)


def test_where_all_queries_answer_alike_it_is_welchs_t_test_over_seeds() -> None:
    one, other = normal(3, 1) + 1.5, normal(5, 1, seed=1) / 3
    found = paired.compare(one.expand(3, 40), other.expand(5, 40), draws=20_000)
    expected = scipy.stats.ttest_ind(one[:, 0].numpy(), other[:, 0].numpy(), equal_var=False)
    low, high = expected.confidence_interval()
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.05)
    assert found.p == pytest.approx(expected.pvalue, abs=0.01)


def test_its_error_is_that_of_a_bootstrap_drawn_one_by_one() -> None:
    one, other = normal(4, 12), normal(2, 12, seed=1)
    draw = random.Random(0)
    found = []
    spread = [(x.mean(0) + (x - x.mean(0)) * math.sqrt(len(x) / (len(x) - 1))).tolist() for x in (one, other)]
    for _ in range(4000):
        queries = draw.choices(range(12), k=12)
        means = []
        for runs in spread:
            drawn = draw.choices(runs, k=len(runs))
            means.append(statistics.mean(run[query] for run in drawn for query in queries))
        found.append(means[0] - means[1])
    quick = paired._bootstrap(one, other, seed=1, draws=4000)
    assert float(quick.std()) == pytest.approx(statistics.stdev(found), rel=0.05)
    assert float(quick.mean()) == pytest.approx(statistics.mean(found), abs=0.03)


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """Three seeds each that differ more than the queries do: there, quantiles of the draws hold it too rarely."""
    held = by_quantiles = 0
    trials = 300
    for trial in range(trials):
        queries = normal(30, seed=trial)
        one = queries + 0.3 * normal(3, 1, seed=1000 + trial) + 0.02 * normal(30, seed=4000 + trial)
        other = queries + 0.3 * normal(3, 1, seed=7000 + trial)
        found = paired.compare(one, other, seed=trial, draws=200)
        held += found.low <= 0 <= found.high
        drawn = paired._bootstrap(one, other, trial, 200)
        by_quantiles += bool(drawn.quantile(0.025) <= 0 <= drawn.quantile(0.975))
    assert 0.92 < held / trials < 0.985
    assert by_quantiles / trials < 0.92


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


def test_the_same_seed_draws_the_same() -> None:
    one, other = normal(3, 20), normal(3, 20, seed=1)
    assert paired.compare(one, other) == paired.compare(one, other)
    assert paired.compare(one, other, seed=1).low != paired.compare(one, other).low


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
