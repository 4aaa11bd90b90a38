"""From neighbours to scores: every requested metric, its chance level, and the protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from utilities.measures import formulae as m
from utilities.measures.chance import chance_level
from utilities.measures.formulae import (
    PAIR_MEASURES,
    SHARE,
    SUBSET,
    TOP_K_MEASURES,
    Metric,
    PairMeasure,
    Relevance,
    rule_of,
)
from utilities.measures.label_sets import GalleryFacts, PackedLabels, gallery_facts, ideal_gain
from utilities.tensors.labels import jaccard_of_counts

_BLOCK_PAIRS = 2**18  # pairs of images compared together
_SELF_MATCH = ("no query is part of the gallery: nothing is left out", "the query's own row is left out by index")


class Scores(NamedTuple):
    """scores and chance map a metric's name to its mean over the queries; NaN where no query can be scored.

    per_query (Q,) float64 a metric, NaN where the metric leaves a query out. protocol is plain JSON: what was
    compared with what, under which rules, and how many queries were left out.
    """

    scores: dict[str, float]
    chance: dict[str, float]
    per_query: dict[str, Tensor]
    protocol: dict[str, Any]


def score(
    indices: Tensor,
    query_labels: Tensor,
    gallery_labels: Tensor,
    *,
    metrics: Sequence[Metric],
    relevance: Relevance,
    query_rows: Tensor | None,
    whole: Mapping[Metric, Tensor] | None = None,
    facts: GalleryFacts | None = None,
) -> Scores:
    """Score what every query found.

    indices (Q, K) int64 rows of the gallery as `neighbours.search` returns them, query_labels (Q, L) and
    gallery_labels (N, L) multi-hot, query_rows (Q,) int64 as given to the search. A cut-off beyond the images
    found is cut to them, which the protocol notes. whole: values of the metrics of the whole ranking, which
    the top K cannot tell (`ranking.whole_ranking_values`); facts: of `facts_for`, where they are known
    already.
    """
    query_labels, gallery_labels, indices = (
        query_labels.bool().cpu(),
        gallery_labels.bool().cpu(),
        indices.cpu(),
    )
    inside = _inside(query_rows, len(query_labels))
    _check_width(indices, metrics, len(gallery_labels) - int(inside.any()))
    if facts is None:
        facts = facts_for(query_labels, gallery_labels, query_rows, metrics, relevance)
    top = [metric for metric in metrics if metric.k is not None]
    values_of = {**top_k_values(indices, query_labels, gallery_labels, top, relevance, facts), **(whole or {})}
    if lacking := [str(metric) for metric in metrics if metric not in values_of]:
        raise ValueError(f"{', '.join(lacking)}: measures of the whole ranking need their values in `whole`")
    per_query = {str(metric): values_of[metric] for metric in metrics}
    chance = {}
    for metric in metrics:
        values = chance_level(metric, facts, gallery_labels, relevance)[facts.kind]
        chance[str(metric)] = _mean(values.masked_fill(per_query[str(metric)].isnan(), torch.nan))
    protocol = _protocol(indices, query_labels, gallery_labels, inside, metrics, relevance, facts)
    protocol["left_out"] = {name: int(values.isnan().sum()) for name, values in per_query.items()}
    return Scores({name: _mean(values) for name, values in per_query.items()}, chance, per_query, protocol)


def facts_for(
    query_labels: Tensor,
    gallery_labels: Tensor,
    query_rows: Tensor | None,
    metrics: Sequence[Metric],
    relevance: Relevance,
) -> GalleryFacts:
    """What the gallery holds for these queries, as far as the metrics and their chance levels need it."""
    pairs = {metric.name for metric in metrics} & PAIR_MEASURES.keys()
    rules = list(dict.fromkeys([SUBSET, SHARE, relevance]))
    gains = {metric.graded[1] for metric in metrics if m.measure(metric).uses == "gain"}
    return gallery_facts(query_labels, gallery_labels, _inside(query_rows, len(query_labels)), rules, pairs, gains)


def _inside(query_rows: Tensor | None, count: int) -> Tensor:
    return torch.zeros(count, dtype=torch.bool) if query_rows is None else query_rows.cpu() >= 0


def top_k_values(
    indices: Tensor,
    query_labels: Tensor,
    gallery_labels: Tensor,
    metrics: Sequence[Metric],
    relevance: Relevance,
    facts: GalleryFacts,
) -> dict[Metric, Tensor]:
    """Value of every top-K metric for every query, (Q,) float64, in blocks of queries."""
    values = {metric: torch.empty(len(indices), dtype=torch.float64) for metric in metrics}
    best = {metric: _best(metric, relevance, facts) for metric in metrics}
    queries, gallery = PackedLabels(query_labels), PackedLabels(gallery_labels)
    voting = any(TOP_K_MEASURES[metric.name].uses == "votes" for metric in metrics)
    carried = gallery_labels.float() if voting else gallery_labels
    step = max(1, _BLOCK_PAIRS // max(1, indices.shape[1]))
    for start in range(0, len(indices), step):
        part = slice(start, start + step)
        top = _Top(queries, gallery, part, indices[part], query_labels[part], carried)
        for metric, value in values.items():
            value[part] = _value(metric, top, rule_of(metric, relevance), best[metric][part])
    for metric, value in values.items():
        if TOP_K_MEASURES[metric.name].normalised:
            value[facts.relevant[rule_of(metric, relevance)][facts.kind] == 0] = torch.nan
    return values


def _best(metric: Metric, relevance: Relevance, facts: GalleryFacts) -> Tensor:
    """What the gallery holds for each query, (Q,): the DCG of the best order for ndcg, else the relevant images."""
    name, kind = metric.graded
    if name == "ndcg":
        return ideal_gain(facts.gains[kind], metric.k)[facts.kind]
    return facts.relevant[rule_of(metric, relevance)][facts.kind]


def _value(metric: Metric, top: _Top, rule: Relevance, best: Tensor) -> Tensor:
    """One metric for a block of queries, (b,) float64."""
    uses, k = TOP_K_MEASURES[metric.name].uses, min(metric.k or 0, top.shared.shape[1])
    if uses == "union":
        return m.recall(top.in_union[:, k - 1], top.of_query[:, 0])
    if uses == "pairs":
        return top.pairs(PAIR_MEASURES[metric.name])[:, :k].mean(1)
    if uses == "votes":
        return m.knn_f1(top.votes(k), top.asked, k)
    name, kind = metric.graded
    if name == "ndcg":
        return m.normalised_gain(top.gains(kind)[:, :k], best)
    if uses == "gain":
        return _GAINS[name](top.gains(kind)[:, :k])
    relevant = top.relevant(rule)[:, :k]
    return m.average_precision(relevant, best) if name == "ap" else _HITS[name](relevant)


_GAINS = {"acg": m.average_cumulative_gain, "wap": m.weighted_average_precision}
_HITS = {
    "hit": m.hit,
    "precision": m.precision,
    "r_precision": m.precision,
    "map": m.average_precision_over_k,
    "ap_found": m.average_precision_found,
}


class _Top:
    """The retrieved images of a block of queries as counts, each (b, K) int64: shared labels, those found in the union
    of the first images, labels of each image; of_query (b, 1). asked (b, L): the labels of the queries."""

    def __init__(
        self,
        queries: PackedLabels,
        gallery: PackedLabels,
        part: slice,
        images: Tensor,
        asked: Tensor,
        carried: Tensor,
    ) -> None:
        self.shared, self.in_union = queries.shared(part, images, gallery)
        self.of_query, self.of_image = queries.sizes[part, None], gallery.sizes[images]
        self.images, self.asked, self.carried = images, asked, carried
        self._relevant: dict[Relevance, Tensor] = {}

    def relevant(self, rule: Relevance) -> Tensor:
        if rule not in self._relevant:
            self._relevant[rule] = rule(self.shared, self.of_query, self.of_image)
        return self._relevant[rule]

    def gains(self, kind: str) -> Tensor:
        return self.shared if kind == "shared" else jaccard_of_counts(self.shared, self.of_query, self.of_image)

    def pairs(self, measure: PairMeasure) -> Tensor:
        return measure(self.shared, self.of_query, self.of_image, self.asked.shape[1])

    def votes(self, k: int) -> Tensor:
        """How many of the first k carry each label, (b, L) float32."""
        return torch.nn.functional.embedding_bag(self.images[:, :k], self.carried, mode="sum")


def _check_width(indices: Tensor, metrics: Sequence[Metric], findable: int) -> None:
    widest = max((k for _, k in metrics if k is not None), default=0)
    if indices.shape[1] < min(widest, findable):
        raise ValueError(f"K = {widest} needs {min(widest, findable)} neighbours a query, {indices.shape[1]} given")


def _definition(metric: Metric, relevance: Relevance) -> str:
    """What a metric means, with the relevance in force where it goes by that."""
    meaning, uses, _ = m.measure(metric)
    return f"{meaning} (relevance {relevance})" if uses == "relevance" else meaning


def _mean(values: Tensor) -> float:
    """Mean of what is not NaN; NaN where nothing is left."""
    return float(values.nanmean())


def _protocol(
    indices: Tensor,
    query_labels: Tensor,
    gallery_labels: Tensor,
    inside: Tensor,
    metrics: Sequence[Metric],
    relevance: Relevance,
    facts: GalleryFacts,
) -> dict[str, Any]:
    width = indices.shape[1]
    cut = sorted({k for _, k in metrics if k is not None and k > width})
    notes = [f"K = {k} is cut to {width}: a query finds no more images" for k in cut]
    without = int((query_labels.sum(1) == 0).sum())
    if without:
        notes.append(f"{without} queries carry no label: 0 in recall@K, precision and hits, left out where normalised")
    return {
        "queries": len(query_labels),
        "gallery": len(gallery_labels),
        "labels": query_labels.shape[1],
        "query_in_gallery": int(inside.sum()),
        "self_match": _SELF_MATCH[int(inside.any())],
        "ties": "by (distance, index)",
        "relevance": str(relevance),
        "neighbours": width,
        "queries_without_labels": without,
        "queries_without_relevant": {str(r): int((c[facts.kind] == 0).sum()) for r, c in facts.relevant.items()},
        "definitions": {str(metric): _definition(metric, relevance) for metric in metrics},
        "notes": notes,
    }
