"""Every measure of retrieval as its definition reads: one query, sets and lists, no vectorisation."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

LabelSet = frozenset[int]
GRADED = ("acg", "ndcg", "wap", "acg_jaccard", "ndcg_jaccard", "wap_jaccard")


def relevant(query: LabelSet, image: LabelSet, rule: str, threshold: float = 0.5) -> bool:
    shared = len(query & image)
    if shared == 0:
        return False
    if rule == "subset":
        return image <= query
    if rule == "superset":
        return query <= image
    if rule == "share":
        return True
    if rule == "jaccard":
        return shared / len(query | image) >= threshold
    assert rule == "identical"
    return query == image


def recall(query: LabelSet, top: list[LabelSet]) -> float:
    return len(query & frozenset().union(*top)) / len(query) if query else 0.0


def precision_sum(hits: list[bool]) -> float:
    return sum(sum(hits[: j + 1]) / (j + 1) for j, hit in enumerate(hits) if hit)


def gain_of(name: str, query: LabelSet, image: LabelSet) -> float:
    """Labels shared, or Jaccard similarity in measures called so."""
    shared = len(query & image)
    return shared / len(query | image) if name.endswith("_jaccard") and shared else shared


def dcg(gains: list[float]) -> float:
    return sum((2**gain - 1) / math.log2(2 + j) for j, gain in enumerate(gains))


def wap(gains: list[float]) -> float:
    found = sum(gain > 0 for gain in gains)
    total = sum(sum(gains[: j + 1]) / (j + 1) for j, gain in enumerate(gains) if gain > 0)
    return total / found if found else 0.0


def knn_f1(query: LabelSet, top: list[LabelSet]) -> float:
    told = {label for label in frozenset().union(*top) if sum(label in image for image in top) > len(top) / 2}
    both = len(query) + len(told)
    return 2 * len(query & told) / both if both else 0.0


def pair(name: str, query: LabelSet, image: LabelSet, labels: int) -> float:
    shared = len(query & image)
    above, below = {
        "label_precision": (shared, len(image)),
        "label_recall": (shared, len(query)),
        "label_f1": (2 * shared, len(query) + len(image)),
        "label_jaccard": (shared, len(query | image)),
        "label_hamming": (len(query ^ image), labels),
    }[name]
    return above / below if below else 0.0


def top_k(
    name: str,
    k: int,
    query: LabelSet,
    ranking: list[LabelSet],
    labels: int,
    rule: str,
    threshold: float = 0.5,
) -> float:
    """NAME@k of one query; ranking is the whole gallery in order, without the query. NaN: left out."""
    top = ranking[:k]
    gains = [gain_of(name, query, image) for image in top]
    all_gains = sorted((gain_of(name, query, image) for image in ranking), reverse=True)
    if name in GRADED:
        name = name.removesuffix("_jaccard")
    if name in ("r_precision", "map"):
        rule = "subset"
    hits = [relevant(query, image, rule, threshold) for image in top]
    total = sum(relevant(query, image, rule, threshold) for image in ranking)
    if name == "recall":
        return recall(query, top)
    if name == "knn_f1":
        return knn_f1(query, top)
    if name in ("precision", "r_precision"):
        return sum(hits) / len(top)
    if name == "map":
        return precision_sum(hits) / len(top)
    if name == "hit":
        return float(any(hits))
    if name == "ap":
        return precision_sum(hits) / min(total, len(top)) if total else math.nan
    if name == "ap_found":
        return precision_sum(hits) / sum(hits) if any(hits) else 0.0
    if name == "acg":
        return sum(gains) / len(top)
    if name == "ndcg":
        ideal = dcg(all_gains[: len(top)])
        return dcg(gains) / ideal if ideal else math.nan
    if name == "wap":
        return wap(gains) if all_gains[0] else math.nan
    return sum(pair(name, query, image, labels) for image in top) / len(top)


def expected_top_k(
    name: str, k: int, query: LabelSet, gallery: list[LabelSet], labels: int, rule: str, threshold: float
) -> float:
    """Mean of NAME@k over every order of a (small) gallery: its chance level."""
    orders = list(itertools.permutations(gallery))
    return sum(top_k(name, k, query, list(order), labels, rule, threshold) for order in orders) / len(orders)


def nearest(queries: list[list[float]], gallery: list[list[float]], k: int, rows: list[int] | None) -> list[list[int]]:
    """Indices of the k nearest in rational arithmetic, by (distance, index), without the query's own row."""
    exact_gallery = [[Fraction(value) for value in image] for image in gallery]
    result = []
    for number, query in enumerate(queries):
        exact = [Fraction(value) for value in query]
        order = sorted(
            (sum((a - b) ** 2 for a, b in zip(exact, image, strict=True)), index)
            for index, image in enumerate(exact_gallery)
            if rows is None or index != rows[number]
        )
        result.append([index for _, index in order[:k]])
    return result


def whole(name: str, query: LabelSet, ranking: list[LabelSet], rule: str, threshold: float = 0.5) -> float:
    """A measure of the whole ranking for one query; NaN: left out."""
    gains = [gain_of(name, query, image) for image in ranking]
    if name in GRADED:
        name, rule = name.removesuffix("_jaccard"), "share"
    hits = [relevant(query, image, rule, threshold) for image in ranking]
    total = sum(hits)
    if not total:
        return math.nan
    if name == "r_precision":
        return sum(hits[:total]) / total
    if name == "map_at_r":
        return precision_sum(hits[:total]) / total
    if name == "map":
        return precision_sum(hits) / total
    if name == "ndcg":
        return dcg(gains) / dcg(sorted(gains, reverse=True))
    if name == "acg":
        return sum(gains[:total]) / total
    assert name == "wap"
    return wap(gains)
