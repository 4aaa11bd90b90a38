"""Losses pair by pair in Python floats, as the papers and the authors' released code define them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

Row = Sequence[float]


def dot(a: Row, b: Row) -> float:
    return math.fsum(x * y for x, y in zip(a, b, strict=True))


def boosted_binomial(
    groups: Sequence[Sequence[Row]],
    relation: Callable[[int, int], int],
    *,
    beta1: float,
    beta2: float,
    cost: float,
    boosting: str,
    shrinkage: float,
    include_diagonal: bool,
) -> list[float]:
    """Loss of each learner. relation(i, j) is 1 for a positive, -1 for a negative and 0 for an ignored pair.

    "eta" works on the ensemble's similarity, as Algorithm 1 is written; "additive" on activations.
    """
    size = len(groups[0])
    pairs = [(i, j) for i in range(size) for j in range(size) if i != j and relation(i, j)]
    positives = sum(relation(i, j) == 1 for i, j in pairs) + (size if include_diagonal else 0)
    negatives = sum(relation(i, j) == -1 for i, j in pairs)
    losses = [0.0] * len(groups)
    for i, j in pairs:
        sign = relation(i, j)
        direction = 1.0 if sign == 1 else -cost
        mass = 1 / positives if sign == 1 else 1 / negatives
        weight, ensemble, added = 1.0, 0.0, 0.5
        for m, group in enumerate(groups, start=1):
            score = dot(group[i], group[j])
            activation = beta1 * (score - beta2) * direction
            losses[m - 1] += mass * weight * math.log1p(math.exp(-activation)) / len(groups)
            if boosting == "eta":
                eta = 2 / (m + 1)
                ensemble = (1 - eta) * ensemble + eta * score
                weight = 1 / (1 + math.exp(beta1 * (ensemble - beta2) * direction))
            else:
                added += shrinkage * activation
                weight = (1 if sign == 1 else 2) / (1 + math.exp(added))
    return losses


def nca(
    embeddings: Sequence[Row],
    indices: Sequence[int],
    memory: Sequence[Row],
    weight: Callable[[int, int], float],
    *,
    temperature: float,
    margin: float,
) -> float:
    """-1/B sum log of p e^-m / (Z - p + p e^-m), p = 0 left out of the sum; m = margin / temperature."""
    total = 0.0
    for embedding, i in zip(embeddings, indices, strict=True):
        exponentials = {j: math.exp(dot(embedding, memory[j]) / temperature) for j in range(len(memory)) if j != i}
        related = math.fsum(weight(i, j) * value for j, value in exponentials.items())
        everything = math.fsum(exponentials.values())
        if related:
            shrunk = related / math.exp(margin / temperature)
            total -= math.log(shrunk / (everything - related + shrunk))
    return total / len(embeddings)


def hamming(a: Sequence[int], b: Sequence[int]) -> float:
    """(y_a . y_b + L) / 2 L for labels in {-1, +1}, as in the released SNDL."""
    signed = [(2 * x - 1) * (2 * y - 1) for x, y in zip(a, b, strict=True)]
    return (sum(signed) + len(a)) / (2 * len(a))


def jaccard(a: Sequence[int], b: Sequence[int]) -> float:
    one, other = {c for c, x in enumerate(a) if x}, {c for c, x in enumerate(b) if x}
    return len(one & other) / len(one | other) if one | other else 0.0


def cosine(a: Sequence[int], b: Sequence[int]) -> float:
    return dot(a, b) / math.sqrt(sum(a) * sum(b)) if sum(a) * sum(b) else 0.0


def overlap_share(a: Sequence[int], b: Sequence[int]) -> float:
    return dot(a, b) / sum(a) if sum(a) else 0.0


def dance_weight(distance: float, width: int, lower: float) -> float:
    """1 / q(d), q the density of distances between random points of the sphere in R^width."""
    d = max(distance, lower)
    return 1 / (d ** (width - 2) * (1 - d * d / 4) ** ((width - 3) / 2))


def dance(
    queries: Sequence[Row],
    keys: Sequence[Row],
    queue: Sequence[Row],
    *,
    temperature: float,
    lower: float,
    upper: float,
    normalise: str,
) -> float:
    """Mean cross-entropy of each query's own key against the queue, weights in the logits."""
    distances = [[math.sqrt(max(0.0, 2 - 2 * dot(q, n))) for n in queue] for q in queries]
    width = len(queries[0])
    weights = [[dance_weight(d, width, lower) if d <= upper else 0.0 for d in row] for row in distances]
    if normalise == "row":
        weights = [[w / sum(row) if sum(row) else 1 / len(row) for w in row] for row in weights]
    elif normalise == "batch":
        sums = [sum(column) for column in zip(*weights, strict=True)]
        weights = [[w / s if s else 1 / len(queries) for w, s in zip(row, sums, strict=True)] for row in weights]
    else:
        weights = [[w / max(row) if max(row) else 1.0 for w in row] for row in weights]
    total = 0.0
    for q, k, row in zip(queries, keys, weights, strict=True):
        own = dot(q, k) / temperature
        others = [w * dot(q, n) / temperature for w, n in zip(row, queue, strict=True)]
        total -= own - math.log(math.fsum(math.exp(value) for value in [own, *others]))
    return total / len(queries)


def unit_length_penalty(matrix: Sequence[Row], *, axis: str, reduction: str) -> float:
    """(||w||^2 - 1)^2 over the rows ("output") or columns ("input") of an (out, in) matrix."""
    vectors = matrix if axis == "output" else list(zip(*matrix, strict=True))
    deviations = [(dot(w, w) - 1) ** 2 for w in vectors]
    return sum(deviations) / (len(deviations) if reduction == "mean" else 1)


def activation_products(groups: Sequence[Sequence[Row]]) -> float:
    """sum_{i<j} mean over images, k and l of (f_i,k f_j,l)^2; groups of (B, d_m) activations."""
    total = 0.0
    for j in range(len(groups)):
        for i in range(j):
            products = [(x * y) ** 2 for a, b in zip(groups[i], groups[j], strict=True) for x in a for y in b]
            total += sum(products) / len(products)
    return total


def multi_similarity(
    rows: Sequence[Row],
    relation: Callable[[int, int], int],
    *,
    alpha: float,
    beta: float,
    base: float,
    epsilon: float,
) -> float:
    """1/B sum of 1/alpha log(1 + sum e^-alpha(S - base)) + 1/beta log(1 + sum e^beta(S - base)) over mined pairs.

    relation(i, j) is 1 for a positive, -1 for a negative and 0 for an ignored pair.
    """
    total = 0.0
    for i, row in enumerate(rows):
        positives = [dot(row, other) for j, other in enumerate(rows) if relation(i, j) == 1]
        negatives = [dot(row, other) for j, other in enumerate(rows) if relation(i, j) == -1]
        hard_positives = [s for s in positives if negatives and s < max(negatives) + epsilon]
        hard_negatives = [s for s in negatives if positives and s > min(positives) - epsilon]
        total += math.log(1 + sum(math.exp(-alpha * (s - base)) for s in hard_positives)) / alpha
        total += math.log(1 + sum(math.exp(beta * (s - base)) for s in hard_negatives)) / beta
    return total / len(rows)


def cosine_bce(
    rows: Sequence[Row], labels: Sequence[Sequence[bool]], vectors: Sequence[Row], biases: Row, *, temperature: float
) -> float:
    """Mean binary cross-entropy over images and labels; a logit is a cosine over the temperature, and a bias."""
    terms = []
    for row, carried in zip(rows, labels, strict=True):
        for vector, bias, is_carried in zip(vectors, biases, carried, strict=True):
            logit = dot(row, vector) / math.sqrt(dot(vector, vector)) / temperature + bias
            probability = 1 / (1 + math.exp(-logit))
            terms.append(-math.log(probability if is_carried else 1 - probability))
    return sum(terms) / len(terms)


def mulsupcon(
    rows: Sequence[Row], label_sets: Sequence[set[int]], images: Sequence[int], *, temperature: float
) -> float:
    """Mean over (image, label) of the supervised contrast whose positives have that label too, where there are any."""
    terms = []
    for i, row in enumerate(rows):
        exponentials = {
            a: math.exp(dot(row, other) / temperature) for a, other in enumerate(rows) if images[a] != images[i]
        }
        for label in label_sets[i]:
            positives = [p for p in exponentials if label in label_sets[p]]
            if positives:
                likelihoods = [math.log(exponentials[p] / sum(exponentials.values())) for p in positives]
                terms.append(-sum(likelihoods) / len(positives))
    return sum(terms) / len(terms)


def smooth_ap(
    rows: Sequence[Row],
    grade: Callable[[int, int], float],
    images: Sequence[int],
    *,
    temperature: float,
    include_query: bool,
) -> float:
    """1 - mean over queries with a related image of graded AP, ranks counted by sigmoids."""
    precisions = []
    for i, row in enumerate(rows):
        gallery = {j: grade(i, j) for j in range(len(rows)) if images[j] != images[i]}
        if not any(gallery.values()):
            continue
        if include_query:
            gallery[i] = 1.0
        score = {j: dot(row, rows[j]) for j in gallery}
        total = 0.0
        for k, own in gallery.items():
            if own:
                before = {j: 1 / (1 + math.exp((score[k] - score[j]) / temperature)) for j in gallery if j != k}
                total += (own + sum(min(own, gallery[j]) * g for j, g in before.items())) / (1 + sum(before.values()))
        precisions.append(total / sum(gallery.values()))
    return 1 - sum(precisions) / len(precisions)
