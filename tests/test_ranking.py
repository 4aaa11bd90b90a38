"""Measures of the whole ranking: equal to literal twins and to pytorch-metric-learning, in any block size."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from tests.oracles import metrics as twin
from utilities.errors import UserError
from utilities.measures.formulae import RELEVANCE_RULES, WHOLE_MEASURES, Metric, Relevance
from utilities.measures.label_sets import ideal_gain
from utilities.measures.ranked_codes import Levels, Ranker
from utilities.measures.ranked_measures import Expected, Scale, measure_block
from utilities.measures.ranking import whole_ranking_values
from utilities.measures.scoring import facts_for
from utilities.measures.search_and_measure import evaluate
from utilities.neighbours.exact import on_grid
from utilities.neighbours.search import search

NAMES = list(WHOLE_MEASURES)
RULES = [Relevance(rule) for rule in RELEVANCE_RULES]


def embeddings(count: int, seed: int = 1, width: int = 6) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(count, width, generator=draw), dim=1)


def labels(count: int, seed: int = 2, width: int = 7) -> Tensor:
    rows = torch.rand(count, width, generator=torch.Generator().manual_seed(seed)) < 0.35
    rows[::11] = False
    return rows


def sets(rows: Tensor) -> list[frozenset[int]]:
    return [frozenset(row.nonzero().flatten().tolist()) for row in rows]


def assert_equal_to_twins(
    rows: Tensor, carried: Tensor, rule: Relevance, gallery: tuple[Tensor, Tensor] | None
) -> None:
    result = evaluate(rows, carried, metrics=NAMES, ks=(), relevance=rule, backend="torch", gallery=gallery).scores
    others, other_labels = (rows, carried) if gallery is None else gallery
    own = torch.arange(len(rows)) if gallery is None else None
    order = search(rows, others, len(others), query_rows=own, backend="torch").indices.tolist()
    images = sets(other_labels)
    for name in NAMES:
        expected = [
            twin.whole(name, query, [images[i] for i in ranking], rule.rule, rule.threshold)
            for query, ranking in zip(sets(carried), order, strict=True)
        ]
        wanted = torch.tensor(expected, dtype=torch.float64)
        torch.testing.assert_close(result.per_query[name], wanted, rtol=0, atol=1e-12, equal_nan=True)
        assert result.protocol["left_out"][name] == sum(map(math.isnan, expected))


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_equal_to_literal_twins(rule: Relevance) -> None:
    assert_equal_to_twins(embeddings(60), labels(60), rule, None)
    assert_equal_to_twins(embeddings(15), labels(15), rule, (embeddings(60, seed=3), labels(60, seed=4)))


def test_ties_are_broken_by_index_not_by_gain() -> None:
    rows = embeddings(60)
    rows[20:40] = rows[0]  # different labels at the same distance
    rows[40:46] = torch.eye(6)
    rows[46:52] = torch.eye(6)
    for rule in RULES:
        assert_equal_to_twins(rows, labels(60), rule, None)
        assert_equal_to_twins(rows[:15], labels(15), rule, (rows, labels(60)))


@pytest.mark.parametrize("rule", ["subset", "share"])
def test_rankings_one_by_one_and_in_blocks_measure_the_same(rule: str) -> None:
    """CPUs go row by row, other devices through blocks: equal codes, ties included, and equal values to rounding."""
    rows, carried, relevance = embeddings(60), labels(60), Relevance(rule)
    rows[20:40] = rows[0]
    metrics, own = [Metric(name, None) for name in NAMES], torch.arange(60)
    facts = facts_for(carried, carried, own, metrics, relevance)
    ours = whole_ranking_values(
        rows, rows, carried, carried, metrics=metrics, relevance=relevance, facts=facts, query_rows=own
    )
    levels = Levels(carried.sum(1), carried.sum(1), 7, {"shared", "jaccard"})
    ranker, row_by_row = Ranker(rows, carried, relevance, levels), torch.empty(60, 60, dtype=torch.int64)
    ranker.visit_rows(
        on_grid(rows), carried, own, own, lambda row, codes: row_by_row[row].copy_(torch.from_numpy(codes))
    )
    codes = ranker.ranked_codes(on_grid(rows), carried, own)
    assert torch.equal(codes, row_by_row)
    ideal = {kind: ideal_gain(facts.gains[kind], None)[facts.kind] for kind in ("shared", "jaccard")}
    expected = Expected(*(facts.relevant[r][facts.kind] for r in (relevance, Relevance("share"))), ideal)
    in_blocks = measure_block(codes, NAMES, expected, Scale(60, levels))
    for metric, values in ours.items():
        torch.testing.assert_close(in_blocks[metric.name], values, rtol=0, atol=1e-12, equal_nan=True)


def test_a_ranking_does_not_depend_on_what_is_ranked_with_it() -> None:
    """Each value is the same number in any order of the queries, in any block."""
    rows, carried = embeddings(80), labels(80)
    metrics, relevance = [Metric(name, None) for name in NAMES], Relevance("subset")

    def values(chosen: Tensor, block_bytes: int | None = None) -> dict[Metric, Tensor]:
        facts = facts_for(carried[chosen], carried, chosen, metrics, relevance)
        return whole_ranking_values(
            rows[chosen], rows, carried[chosen], carried, metrics=metrics, relevance=relevance, facts=facts,
            query_rows=chosen, block_bytes=block_bytes,
        )  # fmt: skip

    whole, shuffled = values(torch.arange(80)), torch.randperm(80, generator=torch.Generator().manual_seed(5))
    for metric, found in values(shuffled, 9_000).items():
        torch.testing.assert_close(found, whole[metric][shuffled], rtol=0, atol=0, equal_nan=True)


def test_no_queries_have_no_values() -> None:
    """As on a process that is left without a share."""
    metrics, none, carried = [Metric("map", None)], torch.arange(0), labels(20)
    facts = facts_for(carried, carried, torch.arange(20), metrics, Relevance())
    found = whole_ranking_values(
        embeddings(20)[:0], embeddings(20), carried[:0], carried, metrics=metrics, relevance=Relevance(),
        facts=facts._replace(kind=facts.kind[:0]), query_rows=none,
    )  # fmt: skip
    assert found[metrics[0]].shape == (0,)


def test_block_size_does_not_matter() -> None:
    rows, carried = embeddings(80), labels(80)
    arguments = {"metrics": NAMES, "ks": (), "relevance": Relevance("share"), "backend": "torch"}
    whole = evaluate(rows, carried, **arguments)  # type: ignore[arg-type]
    for block_bytes in (1, 30_000):
        small = evaluate(rows, carried, block_bytes=block_bytes, **arguments)  # type: ignore[arg-type]
        assert small.scores.scores == pytest.approx(whole.scores.scores, abs=1e-12)


def test_pytorch_metric_learning_defines_the_same() -> None:
    calculator = pytest.importorskip("pytorch_metric_learning.utils.accuracy_calculator")
    rows, carried = embeddings(150, width=12), labels(150)
    carried[carried.sum(1) == 0, 0] = True
    names = {"r_precision": "r_precision", "mean_average_precision_at_r": "map_at_r", "mean_average_precision": "map"}
    theirs = calculator.AccuracyCalculator(
        include=tuple(names), k=None, device=torch.device("cpu"),
        label_comparison_fn=lambda a, b: (a * b).sum(-1) > 0,
    ).get_accuracy(rows, carried.long())  # fmt: skip
    ours = evaluate(rows, carried, metrics=NAMES, ks=(), relevance=Relevance("share"), backend="torch").scores.scores
    for their_name, our_name in names.items():
        assert ours[our_name] == pytest.approx(theirs[their_name], abs=1e-9)


def test_scikit_learn_defines_the_same_average_precision() -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    rows, carried = embeddings(50), labels(50)
    ours = evaluate(rows, carried, metrics=["map"], ks=(), relevance=Relevance("share"), backend="torch").scores
    similarity = rows.double() @ rows.double().T
    shared = carried.double() @ carried.double().T
    for row in range(50):
        others = torch.arange(50) != row
        if (shared[row][others] > 0).any():
            theirs = sklearn.average_precision_score(shared[row][others] > 0, similarity[row][others])
            assert ours.per_query["map"][row] == pytest.approx(theirs, abs=1e-9)


def test_perfect_order_scores_one() -> None:
    carried = torch.nn.functional.one_hot(torch.arange(40) % 4).bool()
    rows = torch.eye(4)[torch.arange(40) % 4]
    for rule in RULES:
        result = evaluate(rows, carried, metrics=NAMES, ks=(), relevance=rule, backend="torch").scores
        assert result.scores == pytest.approx(dict.fromkeys(NAMES, 1.0), abs=1e-12)


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_chance_is_the_mean_over_every_order(rule: Relevance) -> None:
    carried = torch.tensor([[1, 1, 0], [1, 0, 0], [1, 1, 0], [0, 1, 1], [0, 0, 0], [1, 1, 1]]).bool()
    chance = evaluate(embeddings(6), carried, metrics=NAMES, ks=(), relevance=rule, backend="torch").scores.chance
    images = sets(carried)
    for name in NAMES:
        means = []
        for i, query in enumerate(images):
            orders = itertools.permutations(images[:i] + images[i + 1 :])
            values = [twin.whole(name, query, list(order), rule.rule) for order in orders]
            means.append(sum(values) / len(values))
        kept = [mean for mean in means if not math.isnan(mean)]
        assert chance[name] == pytest.approx(sum(kept) / len(kept), abs=1e-9)


def test_more_labels_than_a_key_holds() -> None:
    many = torch.ones(4, 2048).bool()
    with pytest.raises(UserError, match="share up to 1023 labels; here are some that may share 2048"):
        evaluate(embeddings(4), many, metrics=["map"], ks=(), relevance=Relevance(), backend="torch")
    with pytest.raises(UserError, match=r"up to 2047 numbers of shared labels .* leave out the measures with _jaccard"):
        evaluate(embeddings(4), many[:, :64], metrics=["wap_jaccard"], ks=(), relevance=Relevance(), backend="torch")
    fits = evaluate(embeddings(4), many[:, :63], metrics=["wap_jaccard"], ks=(), relevance=Relevance(), backend="torch")
    assert fits.scores.scores == {"wap_jaccard": 1}


def test_progress_counts_every_query() -> None:
    seen: list[int] = []
    rows, carried, own = embeddings(30), labels(30), torch.arange(30)
    metrics = [Metric("map", None)]
    facts = facts_for(carried, carried, own, metrics, Relevance())
    whole_ranking_values(
        rows, rows, carried, carried, metrics=metrics, relevance=Relevance(), facts=facts, query_rows=own,
        block_bytes=5_000, progress=seen.append,
    )  # fmt: skip
    assert sum(seen) == 30
    assert len(seen) > 1
