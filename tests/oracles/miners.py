"""Literal twins of the miners: candidate sets and probabilities, straight from the definitions.

Images are 0..B-1. `labels` is a list of label sets, `images` a list of image ids, `d` the distances as a list
of lists of floats, `related` the list of (positives, negatives) sets of each anchor.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

Related = list[tuple[set[int], set[int]]]


def label_sets(labels: Tensor) -> list[set[int]]:
    return [set(row.nonzero().flatten().tolist()) for row in labels]


def distances(embeddings: Tensor) -> list[list[float]]:
    rows = embeddings.double()
    return (rows[:, None] - rows).square().sum(2).sqrt().tolist()


def related(labels: list[set[int]], images: list[int], relation: str, threshold: float = 0.5) -> Related:
    """Positives and negatives of each anchor under a label relation."""
    result: Related = []
    for a, own in enumerate(labels):
        positives, negatives = set(), set()
        for b, other in enumerate(labels):
            if images[a] == images[b] or not own or not other:
                continue
            positive = {
                "jaccard": len(own & other) / len(own | other) >= threshold,
                "any_share": bool(own & other),
                "identical": own == other,
            }[relation]
            if positive:
                positives.add(b)
            elif not own & other:
                negatives.add(b)
        result.append((positives, negatives))
    return result


def related_by_class(classes: list[int]) -> Related:
    """The single-label definition: same class, other class."""
    everyone = range(len(classes))
    return [
        (
            {b for b in everyone if b != a and classes[b] == classes[a]},
            {b for b in everyone if classes[b] != classes[a]},
        )
        for a in everyone
    ]


def softhard(d: list[list[float]], related: Related) -> dict[int, tuple[set[int], set[int]]]:
    """Anchor -> the positives and the negatives that are drawn from."""
    result = {}
    for a, (positives, negatives) in enumerate(related):
        if not positives or not negatives:
            continue
        farthest, nearest = max(d[a][p] for p in positives), min(d[a][n] for n in negatives)
        hard_positives = {p for p in positives if d[a][p] > nearest}
        hard_negatives = {n for n in negatives if d[a][n] < farthest}
        result[a] = (hard_positives or positives, hard_negatives or negatives)
    return result


def semihard(d: list[list[float]], related: Related, margin: float) -> dict[tuple[int, int], set[int]]:
    """(anchor, positive) -> its semi-hard negatives, where there are any."""
    result = {}
    for a, (positives, negatives) in enumerate(related):
        for p in positives:
            found = {n for n in negatives if 0 < d[a][n] - d[a][p] <= margin}
            if found:
                result[a, p] = found
    return result


def distance_probabilities(d: dict[int, float], dim: int, lower: float, upper: float) -> dict[int, float]:
    """Candidate -> distance turned into candidate -> probability; empty where none is below `upper`."""
    log_weights = {}
    for n, distance in d.items():
        if distance < upper:
            x = max(distance, lower)
            log_weights[n] = (2 - dim) * math.log(x) - (dim - 3) / 2 * math.log(1 - x * x / 4)
    highest = max(log_weights.values(), default=0.0)
    weights = {n: math.exp(w - highest) for n, w in log_weights.items()}
    return {n: w / sum(weights.values()) for n, w in weights.items()}


def multilabel_semihard(
    d: list[list[float]], labels: list[set[int]], images: list[int]
) -> tuple[set[tuple[int, int, int]], set[tuple[int, int, int]]]:
    """All fine and all coarse triplets, without cap and without draws."""
    fine, coarse = set(), set()
    everyone = range(len(labels))
    for a in everyone:
        for p in everyone:
            for n in everyone:
                if images[a] in (images[p], images[n]) or not labels[n]:
                    continue
                o_ap, o_an = len(labels[a] & labels[p]), len(labels[a] & labels[n])
                if o_an < o_ap and d[a][n] < d[a][p]:
                    (fine if o_an else coarse).add((a, p, n))
    return fine, coarse


def shared(labels: list[set[int]], images: list[int]) -> set[tuple[int, int, int]]:
    """All triples of labelled images whose label sets are pairwise disjoint."""

    def disjoint(i: int, j: int) -> bool:
        return bool(labels[i]) and bool(labels[j]) and images[i] != images[j] and not labels[i] & labels[j]

    everyone = range(len(labels))
    return {
        (a, p, n)
        for a in everyone
        for p in everyone
        for n in everyone
        if disjoint(a, p) and disjoint(a, n) and disjoint(p, n)
    }


def intra(labels: list[set[int]]) -> set[tuple[int, int, int, int]]:
    """All (a, p, n, class) of three different images that carry the class."""
    everyone = range(len(labels))
    return {
        (a, p, n, c)
        for a in everyone
        for p in everyone
        for n in everyone
        for c in labels[a] & labels[p] & labels[n]
        if len({a, p, n}) == 3
    }


def nearest_beyond(d: list[list[float]], related: Related, lower: float) -> set[tuple[int, int, int]]:
    """Each anchor's m positives, farthest first, with its m nearest negatives from `lower` on; where none is that far,
    with its farthest."""
    result = set()
    for a, (positives, negatives) in enumerate(related):
        far = sorted(positives, key=lambda p: -d[a][p])
        near = sorted((n for n in negatives if d[a][n] >= lower), key=lambda n: d[a][n])
        near = near or sorted(negatives, key=lambda n: -d[a][n])
        result |= {(a, p, n) for p, n in zip(far, near, strict=False)}
    return result


def triples(triplets: tuple[Tensor, ...]) -> list[tuple[int, int, int]]:
    """Triplets, or any record that begins with anchor, positive, negative, as a list of Python triples."""
    return [tuple(row) for row in torch.stack(tuple(triplets)[:3], 1).tolist()]
