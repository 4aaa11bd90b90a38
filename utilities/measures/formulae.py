"""Measures of multi-label retrieval over the top K, as pure functions, and the names they go by.

Letters: Q queries, K ranks, L labels. `shared` is the number of labels a retrieved image has in common with
the query, `of_query` and `of_image` are the sizes of their label sets, `relevant` says which images count.
Every measure returns one float64 value a query; its mean over the queries is the score. Chance levels:
`utilities.measures.chance`. Measures of the whole ranking: `utilities.measures.ranking`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from utilities.errors import UserError
from utilities.tensors.labels import jaccard_of_counts

KS = (1, 2, 4, 8)
"""What name@K stands for."""
USUAL = ("recall@K", "r_precision@K", "map@K", "label_jaccard@K")
"""What an evaluation measures unless told otherwise."""
RELEVANCE_RULES = ("subset", "superset", "share", "jaccard", "identical")


class Relevance(NamedTuple):
    """Which retrieved images count as relevant to a query; an image without labels never does.

    rule  "subset": no label the query lacks (CV4RS's rule; asymmetric)
          "superset": every label of the query, whatever else
          "share": at least one label in common
          "jaccard": Jaccard similarity of the label sets of at least `threshold`
          "identical": the same label set
    """

    rule: str = "subset"
    threshold: float = 0.5

    def __call__(self, shared: Tensor, of_query: Tensor, of_image: Tensor) -> Tensor:
        """Counts of equal or broadcastable shape -> bool."""
        if self.rule == "subset":
            return (shared == of_image) & (shared > 0)
        if self.rule == "superset":
            return (shared == of_query) & (shared > 0)
        if self.rule == "share":
            return shared > 0
        if self.rule == "jaccard":
            return (jaccard_of_counts(shared, of_query, of_image) >= self.threshold) & (shared > 0)
        if self.rule == "identical":
            return (shared == of_query) & (shared == of_image) & (shared > 0)
        raise UserError(f"unknown --relevance {self.rule!r}; choices: {', '.join(RELEVANCE_RULES)}")

    def __str__(self) -> str:
        return f"jaccard>={self.threshold:g}" if self.rule == "jaccard" else self.rule


SUBSET = Relevance("subset")
SHARE = Relevance("share")


# --- the three measures of CV4RS, under its names -----------------------------------------------------------


def recall(found: Tensor, of_query: Tensor) -> Tensor:
    """recall@K: |L_q & (L_1 | ... | L_K)| / |L_q|, the query's labels found in the union of the K label sets.

    found (Q,) is that numerator -> (Q,). Best 1; rises with K; superfluous labels cost nothing, so chance is high
    (0.72 at K = 8 on MLRSNet). A query without labels counts 0. Not the "Recall@K" of single-label metric learning,
    which is `hit`.

    >>> recall(torch.tensor([1]), torch.tensor([2])).item()
    0.5
    """
    return found.double() / of_query.clamp(min=1)


def precision(relevant: Tensor) -> Tensor:
    """precision@K: share of the K that are relevant. (Q, K) bool -> (Q,). Best 1; chance R / (N - 1).

    0 for a query without relevant image (R = 0), as in hit and ap_found; the measures that divide by R leave it out.
    Under subset relevance this is what CV4RS calls r_precision@K (R plays no part in it).

    >>> precision(torch.tensor([[True, False, False]])).item()
    0.3333333333333333
    """
    return relevant.double().mean(1)


def precision_sum(relevant: Tensor) -> Tensor:
    """sum over j <= K of rel_j * precision@j: the numerator of every average precision. (Q, K) -> (Q,)."""
    hits = relevant.double()
    ranks = torch.arange(1, hits.shape[1] + 1, dtype=torch.float64, device=hits.device)
    return (hits * hits.cumsum(1) / ranks).sum(1)


def average_precision_over_k(relevant: Tensor) -> Tensor:
    """(1 / K) sum over j <= K of rel_j * precision@j. (Q, K) -> (Q,). Best 1, only if all K are relevant.

    Under subset relevance the map@K of CV4RS. It divides by K, not by the number of relevant images.

    >>> average_precision_over_k(torch.tensor([[True, False, True]])).item()
    0.5555555555555555
    """
    return precision_sum(relevant) / relevant.shape[1]


# --- standard measures under their standard names -----------------------------------------------------------


def hit(relevant: Tensor) -> Tensor:
    """hit@K: 1 if any of the K is relevant ("Recall@K" in metric learning, CMC@K). (Q, K) -> (Q,). Best 1.

    0 for a query without relevant image, which pytorch-metric-learning leaves out.

    >>> hit(torch.tensor([[False, True], [False, False]])).tolist()
    [1.0, 0.0]
    """
    return relevant.any(1).double()


def average_precision(relevant: Tensor, total: Tensor) -> Tensor:
    """ap@K: sum of rel_j * precision@j over min(R, K). (Q, K), total (Q,) -> (Q,). Best 1.

    total is R, the relevant images of the gallery; NaN where it is 0.

    >>> average_precision(torch.tensor([[True, False, True]]), torch.tensor([2])).item()
    0.8333333333333333
    """
    return precision_sum(relevant) / total.double().clamp(max=relevant.shape[1]).masked_fill(total == 0, torch.nan)


def average_precision_found(relevant: Tensor) -> Tensor:
    """ap_found@K: the same sum over the relevant images among the K (hashing literature); 0 if none.

    Best 1, reached by a single relevant image at rank 1, so it rewards finding little.

    >>> average_precision_found(torch.tensor([[True, False, False]])).item()
    1.0
    """
    return precision_sum(relevant) / relevant.sum(1).clamp(min=1)


def average_cumulative_gain(gains: Tensor) -> Tensor:
    """acg@K: mean gain r_j of the K (Järvelin, Kekäläinen 2002). (Q, K) -> (Q,).

    r_j is the number of labels shared with the query, or the Jaccard similarity in acg_jaccard@K, which makes
    it label_jaccard@K. Best: the mean of the K largest gains of the gallery, 1 for Jaccard if K equal label
    sets are there; chance: the mean gain of the gallery.

    >>> average_cumulative_gain(torch.tensor([[1, 2, 1]])).item()
    1.3333333333333333
    """
    return gains.double().mean(1)


def discounted_cumulative_gain(gains: Tensor) -> Tensor:
    """DCG@K: sum over j <= K of (2^r_j - 1) / log2(1 + j), r_j shared labels or Jaccard. (Q, K) -> (Q,).

    >>> round(discounted_cumulative_gain(torch.tensor([[1, 2, 1]])).item(), 6)
    3.392789
    """
    ranks = torch.arange(1, gains.shape[1] + 1, dtype=torch.float64, device=gains.device)
    return ((torch.exp2(gains.double()) - 1) / torch.log2(1 + ranks)).sum(1)


def normalised_gain(gains: Tensor, ideal: Tensor) -> Tensor:
    """ndcg@K, ndcg_jaccard@K: DCG@K over `ideal` (Q,), that of the best order of the gallery. (Q, K) -> (Q,).

    Best 1; NaN where ideal is 0. Chance: the mean of 2^r - 1 over the gallery at every rank, over ideal.

    >>> round(normalised_gain(torch.tensor([[1, 2, 1]]), torch.tensor([4.130930])).item(), 6)
    0.821314
    """
    return discounted_cumulative_gain(gains) / ideal.masked_fill(ideal == 0, torch.nan)


def weighted_average_precision(gains: Tensor) -> Tensor:
    """wap@K, wap_jaccard@K: sum over j <= K of [r_j > 0] ACG@j over the number of r_j > 0 among the K; 0 if none.

    (Q, K) -> (Q,). Zhao et al. 2015 (deep semantic ranking hashing), as commonly coded. With gains of 0 or 1 it
    is ap_found@K; chance: that of ap_found@K times the mean gain of an image that shares a label.

    >>> round(weighted_average_precision(torch.tensor([[1, 2, 1]])).item(), 6)
    1.277778
    """
    summed = gains.double().cumsum(1)
    ranks = torch.arange(1, gains.shape[1] + 1, dtype=torch.float64, device=gains.device)
    found = gains > 0
    return (found * summed / ranks).sum(1) / found.sum(1).clamp(min=1)


# --- labels told by the neighbours --------------------------------------------------------------------------


def knn_f1(votes: Tensor, asked: Tensor, k: int) -> Tensor:
    """knn_f1@K: sample F1 of the labels P that more than half of the K nearest carry, 2 |L_q & P| / (|L_q| + |P|).

    votes (Q, L): how many of the K carry a label; asked (Q, L) bool: L_q -> (Q,). Best 1; two empty sets score
    0. The majority vote of a nearest-neighbour classifier (scikit-learn's KNeighborsClassifier), under
    f1_score(average="samples"). Chance has no closed form and is drawn. It says whether a gallery can label images,
    not how well it is ranked.

    >>> knn_f1(torch.tensor([[3, 2, 1]]), torch.tensor([[True, False, True]]), 3).item()
    0.5
    """
    predicted = 2 * votes > k
    shared = (predicted & asked).sum(1)
    return 2 * shared.double() / (predicted.sum(1) + asked.sum(1)).clamp(min=1)


# --- label-wise comparison of a query with one image; averaged over the K and over the queries --------------


def _label_precision(shared: Tensor, of_query: Tensor, of_image: Tensor, labels: int) -> Tensor:
    return shared.double() / of_image.clamp(min=1)


def _label_recall(shared: Tensor, of_query: Tensor, of_image: Tensor, labels: int) -> Tensor:
    return shared.double() / of_query.clamp(min=1)


def _label_f1(shared: Tensor, of_query: Tensor, of_image: Tensor, labels: int) -> Tensor:
    return 2 * shared.double() / (of_query + of_image).clamp(min=1)


def _label_jaccard(shared: Tensor, of_query: Tensor, of_image: Tensor, labels: int) -> Tensor:
    return jaccard_of_counts(shared, of_query, of_image)


def _label_hamming(shared: Tensor, of_query: Tensor, of_image: Tensor, labels: int) -> Tensor:
    return (of_query + of_image - 2 * shared).double() / labels


PairMeasure = Callable[[Tensor, Tensor, Tensor, int], Tensor]
PAIR_MEASURES: dict[str, PairMeasure] = {
    "label_precision": _label_precision,
    "label_recall": _label_recall,
    "label_f1": _label_f1,
    "label_jaccard": _label_jaccard,
    "label_hamming": _label_hamming,
}
"""Chaudhuri et al. 2018 style: value of one pair; 0 where the denominator is; hamming is a loss, best 0."""


# --- names --------------------------------------------------------------------------------------------------


class Measure(NamedTuple):
    """What a name means.

    uses        what it is computed from: the "union" of labels, "relevance" under the given rule, "subset"
                relevance whatever rule is given, graded "gain" (`Metric.graded`), "votes" of the K, or
                label-wise "pairs"
    normalised  by what the gallery holds: a query without a relevant image has no value and is left out
    """

    meaning: str
    uses: str
    normalised: bool = False


TOP_K_MEASURES: dict[str, Measure] = {
    "recall": Measure("share of the query's labels in the union of the labels of the K nearest", "union"),
    "r_precision": Measure("share of the K nearest whose labels are a non-empty subset of the query's", "subset"),
    "map": Measure("(1/K) sum over j <= K of rel_j * precision@j, subset relevance", "subset"),
    "hit": Measure("share of all queries with a relevant image among the K nearest", "relevance"),
    "precision": Measure("share of the K nearest that are relevant; 0 where no image is", "relevance"),
    "ap": Measure("sum over j <= K of rel_j * precision@j, over min(R, K)", "relevance", True),
    "ap_found": Measure("sum over j <= K of rel_j * precision@j, over the relevant images among the K", "relevance"),
    "acg": Measure("average cumulative gain: mean number of shared labels", "gain"),
    "ndcg": Measure("discounted cumulative gain of shared labels over that of the best order", "gain", normalised=True),
    "wap": Measure("weighted average precision of shared labels", "gain", True),
    "acg_jaccard": Measure("average cumulative gain: mean Jaccard similarity", "gain"),
    "ndcg_jaccard": Measure(
        "discounted cumulative gain of Jaccard similarity over that of the best order", "gain", True
    ),
    "wap_jaccard": Measure("weighted average precision of Jaccard similarity", "gain", True),
    "knn_f1": Measure(
        "F1 of the labels that more than half of the K nearest carry; chance: mean of 2,000 draws", "votes"
    ),
    "label_precision": Measure("shared labels over those of the retrieved image, mean of pairs", "pairs"),
    "label_recall": Measure("shared labels over those of the query, mean of pairs", "pairs"),
    "label_f1": Measure("F1 of the two label sets, mean of pairs", "pairs"),
    "label_jaccard": Measure("Jaccard similarity of the two label sets, mean of pairs", "pairs"),
    "label_hamming": Measure("Hamming loss of the two label sets, mean of pairs; lower is better", "pairs"),
}
WHOLE_MEASURES: dict[str, Measure] = {
    "r_precision": Measure("share of the first R that are relevant, R relevant images in all", "relevance", True),
    "map_at_r": Measure("(1/R) sum over j <= R of rel_j * precision@j", "relevance", True),
    "map": Measure("(1/R) sum over all ranks of rel_j * precision@j", "relevance", True),
    "ndcg": Measure("discounted cumulative gain of shared labels over that of the best order", "gain", True),
    "wap": Measure("(1/R) sum over all ranks of [r_j > 0] ACG@j, R images that share a label", "gain", True),
    "acg": Measure("mean number of shared labels down to rank R, R images that share a label", "gain", True),
    "ndcg_jaccard": Measure(
        "discounted cumulative gain of Jaccard similarity over that of the best order", "gain", True
    ),
    "wap_jaccard": Measure("(1/R) sum over all ranks of [J_j > 0] mean Jaccard similarity down to j", "gain", True),
    "acg_jaccard": Measure("mean Jaccard similarity down to rank R, R images that share a label", "gain", True),
}
LOWER_IS_BETTER = ("label_hamming",)
UNBOUNDED = ("acg", "wap")  # they count shared labels
SYMBOLS = {
    "rel_j": "1 where the image at rank j is relevant, else 0",
    "precision@j": "share of the first j images that are relevant",
    "r_j": "labels that the image at rank j shares with the query",
    "J_j": "Jaccard similarity of the labels of query and image at rank j",
    "ACG@j": "mean of r_1 to r_j",
    "R": "images of the gallery that are relevant, or share a label where a measure says so",
}


class Metric(NamedTuple):
    """A measure and its cut-off; k is None for the whole ranking."""

    name: str
    k: int | None

    def __str__(self) -> str:
        return self.name if self.k is None else f"{self.name}@{self.k}"

    @property
    def graded(self) -> tuple[str, str]:
        """The measure and its gain: ("ndcg", "jaccard") of ndcg_jaccard, ("ndcg", "shared") of ndcg."""
        base = self.name.removesuffix("_jaccard")
        return base, "shared" if base == self.name else "jaccard"


def measure(metric: Metric) -> Measure:
    return (WHOLE_MEASURES if metric.k is None else TOP_K_MEASURES)[metric.name]


def rule_of(metric: Metric, relevance: Relevance) -> Relevance:
    """The relevance that a metric goes by: its own where its definition fixes one, else the given one."""
    return {"subset": SUBSET, "gain": SHARE}.get(measure(metric).uses, relevance)


def metric_names() -> list[str]:
    """Every name that `parse_metric` takes, K standing for a number."""
    return [f"{name}@K" for name in TOP_K_MEASURES] + list(WHOLE_MEASURES)


def parse_metric(text: str) -> Metric:
    """Metric("recall", 1) from recall@1, Metric("map", None) from map; `UserError` listing the choices."""
    name, at, cut = text.partition("@")
    if not at and name in WHOLE_MEASURES:
        return Metric(name, None)
    if at and name in TOP_K_MEASURES and cut.isascii() and cut.isdigit() and int(cut) > 0:
        return Metric(name, int(cut))
    raise UserError(
        f"unknown metric {text!r} (--eval_metric); choices: {', '.join(metric_names())}, with K a positive number"
    )


def expand_metrics(names: list[str] | tuple[str, ...], ks: list[int] | tuple[int, ...]) -> list[Metric]:
    """Names with or without cut-off -> metrics, each once, in order.

    A name of a top-K measure without one ("recall"), and NAME@K spelled so, stand for all of ks; "map" and
    the like, which are measures of the whole ranking too, mean those.
    """
    metrics: list[Metric] = []
    for name in names:
        bare = name.removesuffix("@K")
        if bare in TOP_K_MEASURES and (name.endswith("@K") or bare not in WHOLE_MEASURES):
            metrics += [parse_metric(f"{bare}@{k}") for k in ks]
        else:
            metrics.append(parse_metric(name))
    return list(dict.fromkeys(metrics))


def shortened(names: Sequence[str]) -> list[str]:
    """Names of metrics, those of all KS as one: what `expand_metrics` makes the same set of."""
    whole = [bare for bare in TOP_K_MEASURES if all(f"{bare}@{k}" in names for k in KS)]
    of_whole = {f"{bare}@{k}": f"{bare}@K" for bare in whole for k in KS}
    return list(dict.fromkeys(of_whole.get(name, name) for name in names))
