"""Measures, chance levels and names: worked examples, literal twins, libraries that define the same."""

from __future__ import annotations

import doctest
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.oracles import metrics as twin
from utilities.errors import UserError
from utilities.measures import formulae as metrics
from utilities.measures.chance import drawn_knn_f1
from utilities.measures.formulae import RELEVANCE_RULES, TOP_K_MEASURES, Metric, Relevance, expand_metrics, parse_metric
from utilities.measures.label_sets import PackedLabels, distinct, gallery_facts, ideal_gain
from utilities.measures.scoring import score
from utilities.measures.search_and_measure import evaluate
from utilities.neighbours.search import search

RULES = [Relevance(rule) for rule in RELEVANCE_RULES] + [Relevance("jaccard", 1 / 3)]
ALL = [Metric(name, k) for name in TOP_K_MEASURES for k in (1, 3, 8)]


def random_labels(count: int, width: int, seed: int, share: float = 0.35) -> Tensor:
    """Multi-hot rows, some of them empty, some repeated."""
    labels = torch.rand(count, width, generator=torch.Generator().manual_seed(seed)) < share
    labels[::11] = False
    labels[5:9] = labels[1]
    return labels


def sets(labels: Tensor) -> list[frozenset[int]]:
    return [frozenset(row.nonzero().flatten().tolist()) for row in labels]


def orders(count: int, seed: int) -> Tensor:
    """A random order of the other images for every image: (N, N - 1)."""
    keys = torch.rand(count, count, generator=torch.Generator().manual_seed(seed))
    return keys.fill_diagonal_(torch.inf).argsort(1)[:, :-1]


def worked_example() -> tuple[Tensor, Tensor, Tensor]:
    """The query 1100 and its top three 1000, 1110, 0101."""
    query = torch.tensor([[1, 1, 0, 0]]).bool()
    gallery = torch.tensor([[1, 0, 0, 0], [1, 1, 1, 0], [0, 1, 0, 1]]).bool()
    return torch.tensor([[0, 1, 2]]), query, gallery


def test_doctests() -> None:
    result = doctest.testmod(metrics, extraglobs={"torch": torch})
    assert result.attempted > 10
    assert result.failed == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("recall@3", 1),
        ("r_precision@3", 1 / 3),
        ("map@3", 1 / 3),
        ("ap_found@3", 1),
        ("ap@3", 1),
        ("hit@3", 1),
        ("precision@3", 1 / 3),
        ("acg@1", 1),
        ("acg@2", 1.5),
        ("acg@3", 4 / 3),
        ("ndcg@3", 3.392789 / 4.130930),
        ("wap@3", 1.277778),
        ("acg_jaccard@2", 7 / 12),
        ("wap_jaccard@3", (1 / 2 + 7 / 12 + 1 / 2) / 3),
        ("knn_f1@3", 1),
        ("knn_f1@2", 2 / 3),
        ("label_precision@3", 0.722222),
        ("label_recall@3", 0.666667),
        ("label_jaccard@3", 0.5),
        ("label_hamming@3", 0.333333),
        ("label_f1@3", 0.655556),
    ],
)
def test_worked_example(name: str, value: float) -> None:
    found, query, gallery = worked_example()
    result = score(found, query, gallery, metrics=[parse_metric(name)], relevance=Relevance(), query_rows=None)
    assert result.scores[name] == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("inside", [True, False], ids=["query in gallery", "separate gallery"])
def test_equal_to_literal_twins(rule: Relevance, inside: bool) -> None:
    gallery = random_labels(50, 7, seed=1)
    queries = gallery if inside else random_labels(20, 7, seed=2)
    ranking = orders(50, seed=3)
    if not inside:
        ranking = torch.stack([torch.randperm(50, generator=torch.Generator().manual_seed(i)) for i in range(20)])
    rows = torch.arange(50) if inside else None
    result = score(ranking[:, :8], queries, gallery, metrics=ALL, relevance=rule, query_rows=rows)
    images = sets(gallery)
    for metric in ALL:
        expected = [
            twin.top_k(metric.name, metric.k or 0, query, [images[i] for i in order], 7, rule.rule, rule.threshold)
            for query, order in zip(sets(queries), ranking.tolist(), strict=True)
        ]
        got = result.per_query[str(metric)]
        torch.testing.assert_close(got, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12, equal_nan=True)
        exact = [value for value in expected if not math.isnan(value)]
        assert result.scores[str(metric)] == pytest.approx(sum(exact) / len(exact), abs=1e-9)
        assert result.protocol["left_out"][str(metric)] == len(expected) - len(exact)


def test_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    labels, ranking = random_labels(50, 7, seed=1), orders(50, seed=3)[:, :8]
    arguments = {"metrics": ALL, "relevance": Relevance("share"), "query_rows": torch.arange(50)}
    whole = score(ranking, labels, labels, **arguments)  # type: ignore[arg-type]
    monkeypatch.setattr("utilities.measures.scoring._BLOCK_PAIRS", 1)
    monkeypatch.setattr("utilities.measures.label_sets._BLOCK_PAIRS", 1)
    small = score(ranking, labels, labels, **arguments)  # type: ignore[arg-type]
    assert small.scores == pytest.approx(whole.scores, abs=1e-12)
    assert small.chance == pytest.approx(whole.chance, abs=1e-12)


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("name", list(TOP_K_MEASURES))
def test_chance_is_the_mean_over_every_order(name: str, rule: Relevance) -> None:
    labels = torch.tensor([[1, 1, 0], [1, 0, 0], [1, 1, 0], [0, 1, 1], [0, 0, 0], [1, 1, 1]]).bool()
    for k in (1, 2, 4):
        metric = Metric(name, k)
        result = score(orders(6, seed=1), labels, labels, metrics=[metric], relevance=rule, query_rows=torch.arange(6))
        images = sets(labels)
        expected = [
            twin.expected_top_k(name, k, images[i], images[:i] + images[i + 1 :], 3, rule.rule, rule.threshold)
            for i in range(6)
        ]
        kept = [value for value in expected if not math.isnan(value)]
        error = 4 * 0.5 / 2000**0.5 if name == "knn_f1" else 1e-9  # it alone is drawn
        assert result.chance[str(metric)] == pytest.approx(sum(kept) / len(kept), abs=error)


def test_chance_of_a_separate_gallery() -> None:
    queries, gallery = random_labels(9, 5, seed=4), random_labels(40, 5, seed=5)
    draws = torch.stack([torch.rand(9, 40, generator=torch.Generator().manual_seed(i)).argsort(1) for i in range(150)])
    scores = [
        score(draw, queries, gallery, metrics=ALL, relevance=Relevance("share"), query_rows=None) for draw in draws
    ]
    for name, level in scores[0].chance.items():
        values = torch.tensor([result.scores[name] for result in scores])
        assert abs(values.mean() - level) < 5 * values.std() / 150**0.5 + 1e-9


def test_pytorch_metric_learning_defines_the_same_precision_at_1() -> None:
    calculator = pytest.importorskip("pytorch_metric_learning.utils.accuracy_calculator")
    labels = random_labels(60, 6, seed=6)
    labels[labels.sum(1) == 0, 0] = True
    rows = torch.nn.functional.normalize(torch.randn(60, 8, generator=torch.Generator().manual_seed(7)), dim=1)
    theirs = calculator.AccuracyCalculator(
        include=("precision_at_1",), k=None, device=torch.device("cpu"),
        label_comparison_fn=lambda a, b: (a * b).sum(-1) > 0,
    ).get_accuracy(rows, labels.long())  # fmt: skip
    found = search(rows, rows, 1, query_rows=torch.arange(60)).indices
    wanted = expand_metrics(["hit", "precision"], [1])
    ours = score(found, labels, labels, metrics=wanted, relevance=Relevance("share"), query_rows=torch.arange(60))
    assert ours.scores["hit@1"] == pytest.approx(theirs["precision_at_1"], abs=1e-9)
    assert ours.scores["precision@1"] == pytest.approx(theirs["precision_at_1"], abs=1e-9)


def test_scikit_learn_defines_the_same_pairs_and_gains() -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    labels = random_labels(40, 6, seed=8)
    order = orders(40, seed=9)
    wanted = expand_metrics(
        ["label_precision", "label_recall", "label_f1", "label_jaccard", "label_hamming", "ndcg@K"], [1, 5]
    )
    ours = score(order[:, :5], labels, labels, metrics=wanted, relevance=Relevance(), query_rows=torch.arange(40))
    first = labels[order[:, 0]].numpy()
    for name, theirs in {
        "label_precision@1": sklearn.precision_score(labels, first, average="samples", zero_division=0),
        "label_recall@1": sklearn.recall_score(labels, first, average="samples", zero_division=0),
        "label_f1@1": sklearn.f1_score(labels, first, average="samples", zero_division=0),
        "label_jaccard@1": sklearn.jaccard_score(labels, first, average="samples", zero_division=0),
        "label_hamming@1": sklearn.hamming_loss(labels, first),
    }.items():
        assert ours.scores[name] == pytest.approx(theirs, abs=1e-9)
    gains = 2.0 ** (labels.double() @ labels.double().T) - 1
    ranks = torch.arange(39, 0, -1).double().numpy()
    for row in range(40):
        if labels[row].any():
            theirs = sklearn.ndcg_score(gains[row, order[row]][None].numpy(), ranks[None], k=5, ignore_ties=True)
            assert ours.per_query["ndcg@5"][row] == pytest.approx(theirs, abs=1e-9)


def test_scikit_learn_predicts_the_same_labels() -> None:
    neighbors = pytest.importorskip("sklearn.neighbors")
    metrics = pytest.importorskip("sklearn.metrics")
    draw = torch.Generator().manual_seed(10)
    rows = torch.nn.functional.normalize(torch.randn(70, 8, generator=draw), dim=1)
    labels = random_labels(70, 6, seed=11, share=0.6)
    found = search(rows[:20], rows[20:], 10, backend="torch").indices
    wanted = expand_metrics(["knn_f1"], [1, 4, 5, 10])
    ours = score(found, labels[:20], labels[20:], metrics=wanted, relevance=Relevance(), query_rows=None)
    for k in (1, 4, 5, 10):
        classifier = neighbors.KNeighborsClassifier(k, algorithm="brute").fit(rows[20:].numpy(), labels[20:].numpy())
        told = classifier.predict(rows[:20].numpy())
        theirs = metrics.f1_score(labels[:20].numpy(), told, average="samples", zero_division=0)
        assert ours.scores[f"knn_f1@{k}"] == pytest.approx(theirs, abs=1e-9)


def test_chance_of_a_vote_leaves_the_query_out() -> None:
    """Every image has a label of its own: another image never carries it, and every other image is as likely."""
    labels = torch.eye(5).bool()
    level = drawn_knn_f1(labels, labels, torch.ones(5).bool(), 1)
    assert level.tolist() == [0] * 5
    level = drawn_knn_f1(labels, labels, torch.zeros(5).bool(), 1, draws=4000)
    assert torch.allclose(level, torch.full((5,), 0.2).double(), atol=4 * (0.2 * 0.8 / 4000) ** 0.5)
    everything = drawn_knn_f1(labels[:1], torch.ones(4, 5).bool(), torch.zeros(1).bool(), 4)  # no image to spare
    assert everything.item() == pytest.approx(2 / 6)


def test_perfect_order_scores_one_and_recall_never_falls() -> None:
    labels = random_labels(60, 5, seed=10)
    labels[labels.sum(1) == 0, 0] = True
    shared = labels.double() @ labels.double().T
    best = shared.fill_diagonal_(-1).argsort(dim=1, descending=True)[:, :-1]
    ks = [1, 2, 4, 8]
    wanted = expand_metrics(["ndcg@K", "recall"], ks)
    result = score(best, labels, labels, metrics=wanted, relevance=Relevance(), query_rows=torch.arange(60))
    for k in ks:
        assert result.scores[f"ndcg@{k}"] == pytest.approx(1, abs=1e-12)
    values = torch.stack([result.per_query[f"recall@{k}"] for k in ks])
    assert (values.diff(dim=0) >= 0).all()


def test_one_hot_labels_reduce_to_single_label_measures() -> None:
    labels = torch.nn.functional.one_hot(torch.arange(30) % 4).bool()
    order = orders(30, seed=11)
    wanted = expand_metrics(["recall", "hit", "precision", "r_precision@K", "acg@K", "label_f1"], [4])
    for rule in RULES:
        result = score(order, labels, labels, metrics=wanted, relevance=rule, query_rows=torch.arange(30)).scores
        assert result["recall@4"] == result["hit@4"]
        assert result["precision@4"] == result["r_precision@4"] == result["acg@4"] == result["label_f1@4"]


def test_relevance_is_asymmetric_under_subset_and_superset_only() -> None:
    few, many = torch.tensor([1]), torch.tensor([2])
    shared = torch.tensor([1])
    assert Relevance("subset")(shared, many, few).item()
    assert not Relevance("subset")(shared, few, many).item()
    assert Relevance("superset")(shared, few, many).item()
    assert not Relevance("superset")(shared, many, few).item()
    assert Relevance("jaccard", 0.5)(shared, few, many).item()
    assert Relevance("jaccard", 0.5)(shared, many, few).item()
    assert not Relevance("identical")(shared, few, many).item()
    with pytest.raises(UserError, match="choices: subset, superset, share, jaccard, identical"):
        Relevance("equal")(shared, few, many)


def test_queries_without_labels_or_relevant_images() -> None:
    labels = torch.tensor([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 1, 0]]).bool()
    order = torch.tensor([[1, 2, 3], [2, 3, 0], [3, 0, 1], [2, 0, 1]])
    wanted = expand_metrics(["recall", "hit", "precision", "ap", "ap_found", "ndcg@K", "wap@K", "acg@K"], [1])
    result = score(order, labels, labels, metrics=wanted, relevance=Relevance(), query_rows=torch.arange(4))
    for name in ("recall@1", "hit@1", "precision@1", "ap_found@1", "acg@1"):
        assert result.scores[name] == 0.5  # two of four: the others count 0
        assert result.protocol["left_out"][name] == 0
    for name in ("ap@1", "ndcg@1", "wap@1"):
        assert result.scores[name] == 1  # the two that have something to find
        assert result.protocol["left_out"][name] == 2
    assert result.protocol["queries_without_labels"] == 1
    assert result.protocol["queries_without_relevant"]["subset"] == 2


def test_nothing_relevant_anywhere_is_not_a_silent_number() -> None:
    labels = torch.eye(4).bool()
    wanted = expand_metrics(["ap", "ndcg@K", "hit"], [2])
    result = score(orders(4, 1), labels, labels, metrics=wanted, relevance=Relevance(), query_rows=torch.arange(4))
    assert math.isnan(result.scores["ap@2"])
    assert math.isnan(result.chance["ndcg@2"])
    assert result.scores["hit@2"] == 0
    assert result.protocol["left_out"]["ap@2"] == 4


def test_all_labels_equal_scores_one_everywhere() -> None:
    labels = torch.tensor([[1, 0, 1]]).bool().expand(10, 3)
    names = ["recall", "map@K", "hit", "ap", "ndcg@K", "ndcg_jaccard@K", "acg_jaccard@K", "wap_jaccard@K", "label_f1"]
    for rule in RULES:
        result = score(
            orders(10, 1),
            labels,
            labels,
            metrics=expand_metrics(names, [3]),
            relevance=rule,
            query_rows=torch.arange(10),
        )
        assert all(value == pytest.approx(1) for value in {**result.scores, **result.chance}.values())


def test_k_beyond_the_gallery_is_cut_and_said() -> None:
    labels = random_labels(4, 3, seed=12)
    result = score(orders(4, 1), labels, labels, metrics=ALL, relevance=Relevance("share"), query_rows=torch.arange(4))
    assert "K = 8 is cut to 3: a query finds no more images" in result.protocol["notes"]
    assert result.scores["precision@8"] == result.scores["precision@3"]
    assert result.chance["hit@8"] == result.chance["hit@3"]
    with pytest.raises(ValueError, match="K = 8 needs 3 neighbours a query, 2 given"):
        score(
            orders(4, 1)[:, :2],
            labels,
            labels,
            metrics=ALL,
            relevance=Relevance(),
            query_rows=torch.arange(4),
        )


@pytest.mark.parametrize("width", [3, 64, 65, 200])
@pytest.mark.parametrize("counted_by_numpy", [True, False])
def test_packed_labels(width: int, counted_by_numpy: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not counted_by_numpy:
        monkeypatch.delattr(np, "bitwise_count", raising=False)
    queries, gallery = random_labels(9, width, seed=1), random_labels(20, width, seed=2)
    images = torch.randint(20, (9, 5), generator=torch.Generator().manual_seed(3))
    shared, in_union = PackedLabels(queries).shared(slice(2, 7), images[2:7], PackedLabels(gallery))
    both = gallery[images[2:7]] & queries[2:7, None]
    assert torch.equal(shared, both.sum(2))
    assert torch.equal(in_union, (both.cumsum(1) > 0).sum(2))
    assert torch.equal(PackedLabels(gallery).sizes, gallery.sum(1))


def test_label_sets() -> None:
    labels = random_labels(50, 13, seed=13)
    found = distinct(labels)
    assert torch.equal(found.sets[found.of_image], labels)
    assert torch.equal(found.of_image.bincount(), found.counts)
    assert len(found.sets) == len({tuple(row) for row in labels.tolist()})


@pytest.mark.parametrize("kind", ["shared", "jaccard"])
def test_ideal_gain_of_the_whole_gallery(kind: str) -> None:
    labels = random_labels(30, 6, seed=14)
    facts = gallery_facts(labels, labels, torch.ones(30), [], gain_kinds=[kind])
    for k in (1, 7, None):
        ideal = ideal_gain(facts.gains[kind], k)[facts.kind]
        for row, query in enumerate(sets(labels)):
            others = [image for i, image in enumerate(sets(labels)) if i != row]
            gains = sorted((twin.gain_of(f"ndcg_{kind}", query, image) for image in others), reverse=True)
            assert ideal[row].item() == pytest.approx(twin.dcg(gains[:k]), abs=1e-9)


def test_jaccard_gains_reduce_to_shared_labels_on_one_hot_labels() -> None:
    labels = torch.nn.functional.one_hot(torch.arange(30) % 4).bool()
    wanted = expand_metrics([f"{name}{gain}@5" for name in ("acg", "ndcg", "wap") for gain in ("", "_jaccard")], [])
    result = score(orders(30, 1), labels, labels, metrics=wanted, relevance=Relevance(), query_rows=torch.arange(30))
    for name in ("acg", "ndcg", "wap"):
        assert result.scores[f"{name}_jaccard@5"] == pytest.approx(result.scores[f"{name}@5"], abs=1e-12)


GRADED = [f"{name}{gain}{cut}" for name in ("acg", "ndcg", "wap") for gain in ("", "_jaccard") for cut in ("@3", "")]


def test_labels_that_no_image_carries_change_no_gain() -> None:
    """Of thousands of labels, as tags are, few can be shared: 2**1024, the worth of as many, is no float64."""
    rows = torch.nn.functional.normalize(torch.randn(30, 6, generator=torch.Generator().manual_seed(15)))
    labels = random_labels(30, 9, seed=16)
    few, many = (
        evaluate(rows, of, metrics=GRADED, ks=(3,), relevance=Relevance())
        for of in (labels, torch.nn.functional.pad(labels, (0, 2500)))
    )
    assert not any(map(math.isnan, few.scores.scores.values()))
    assert many.scores.scores == pytest.approx(few.scores.scores, abs=1e-12)
    assert many.scores.chance == pytest.approx(few.scores.chance, abs=1e-12)


def test_queries_may_carry_more_labels_than_any_image_of_the_gallery() -> None:
    """Two labels a query, one an image: a Jaccard similarity is half the number of shared labels."""
    rows = torch.nn.functional.normalize(torch.randn(14, 6, generator=torch.Generator().manual_seed(17)))
    asked = torch.zeros(4, 5, dtype=torch.bool)
    asked[:, :2] = True
    carried = torch.nn.functional.one_hot(torch.arange(10) % 5, 5).bool()
    found = evaluate(rows[:4], asked, gallery=(rows[4:], carried), metrics=GRADED, ks=(3,), relevance=Relevance())
    for values in (found.scores.scores, found.scores.chance):
        for cut in ("@3", ""):
            assert values[f"acg_jaccard{cut}"] == pytest.approx(values[f"acg{cut}"] / 2, abs=1e-12)
            assert values[f"wap_jaccard{cut}"] == pytest.approx(values[f"wap{cut}"] / 2, abs=1e-12)
            assert values[f"ndcg_jaccard{cut}"] == pytest.approx(values[f"ndcg{cut}"], abs=1e-12)


def test_names() -> None:
    assert parse_metric("recall@1") == Metric("recall", 1)
    assert str(Metric("map", 8)) == "map@8"
    assert [str(metric) for metric in expand_metrics(["recall", "hit@3", "recall@1"], [1, 2])] == [
        "recall@1",
        "recall@2",
        "hit@3",
    ]


@pytest.mark.parametrize("text", ["recal@1", "recall@0", "recall@-1", "recall@x", "recall@", "@1", "", "recall@1.5"])
def test_unknown_names_list_the_choices(text: str) -> None:
    with pytest.raises(UserError, match=r"unknown metric .*choices: recall@K, r_precision@K, map@K, hit@K"):
        parse_metric(text)
