"""What a random order of the gallery scores, in closed form: the level a measure has to be read against.

M images can be found, R of them are relevant, and the first K of a uniformly random order are looked at.
Every function returns one float64 value a kind of query (`utilities.measures.label_sets`), NaN where the measure
leaves it out.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from utilities.measures.formulae import PAIR_MEASURES, SHARE, Metric, Relevance, knn_f1, measure, rule_of
from utilities.measures.label_sets import Gains, GalleryFacts, distinct, ideal_gain

_DRAWN_ENTRIES = 2**22  # (draw, query) or (draw, image, label) entries held together


def miss_probability(images: Tensor, relevant: Tensor, k: int) -> Tensor:
    """P(none of the first k is relevant) = C(M - R, k) / C(M, k), as a product of k factors."""
    miss = torch.ones_like(relevant)
    for drawn in range(k):
        miss = miss * ((images - relevant - drawn) / (images - drawn)).clamp(min=0)
    return miss


def expected_precision_sum(images: Tensor, relevant: Tensor, k: int | Tensor) -> Tensor:
    """E[sum over j <= k of rel_j * precision@j] = p H_k + p q (k - H_k), H_k the k-th harmonic number.

    rel_j is 1 with p = R / M; given that, each of the j - 1 images before it is with q = (R - 1) / (M - 1):
    E[rel_j * precision@j] = (p + (j - 1) p q) / j.
    """
    p = relevant / images
    q = (relevant - 1).clamp(min=0) / (images - 1).clamp(min=1)
    cut = torch.as_tensor(k, dtype=torch.float64)
    harmonic = torch.digamma(cut + 1) + 0.57721566490153286061
    return p * harmonic + p * q * (cut - harmonic)


def expected_ap_found(images: Tensor, relevant: Tensor, k: int) -> Tensor:
    """E[ap_found@k]: f of the k are relevant, hypergeometric; given f, any places are equally likely."""
    found = torch.arange(k + 1, dtype=torch.float64)
    given = expected_precision_sum(torch.tensor(float(k)).double(), found, k) / found.clamp(min=1)
    return _hypergeometric(images, relevant, k) @ given


def _hypergeometric(images: Tensor, relevant: Tensor, k: int) -> Tensor:
    """P(f of the first k are relevant), (U,) -> (U, k + 1)."""
    found = torch.arange(k + 1, dtype=torch.float64)
    m, r = images[:, None], relevant[:, None]
    possible = (found <= r) & (k - found <= m - r)
    log = _log_choose(r, found) + _log_choose(m - r, k - found) - _log_choose(m, torch.tensor(float(k)).double())
    return torch.where(possible, log.exp(), 0.0)


def _log_choose(n: Tensor, r: Tensor) -> Tensor:
    """log C(n, r); callers mask what is impossible."""
    return torch.lgamma(n + 1) - torch.lgamma(r + 1) - torch.lgamma((n - r).clamp(min=0) + 1)


def union_recall(query_labels: Tensor, label_counts: Tensor, inside: Tensor, images: Tensor, k: int) -> Tensor:
    """Chance of recall@K: a label is in the union unless all K miss the images that carry it.

    query_labels (U, L) bool, label_counts (L,) images that carry a label, inside (U,) whether the query is
    one of them, images (U,) -> (U,).
    """
    carried = label_counts.double() - inside.double()[:, None]
    missed = miss_probability(images[:, None].expand_as(carried), carried.clamp(min=0), k)
    wanted = query_labels.double()
    return (wanted * (1 - missed)).sum(1) / wanted.sum(1).clamp(min=1)


def drawn_knn_f1(
    query_labels: Tensor, gallery_labels: Tensor, inside: Tensor, k: int, *, draws: int = 2000, seed: int = 0
) -> Tensor:
    """Chance of knn_f1@K: its mean over random choices of K images, the same ones for every query.

    query_labels (U, L) bool, gallery_labels (N, L) bool, inside (U,) bool: the query is in the gallery -> (U,).
    Standard error at most 0.5 / sqrt(draws). Some image of the same labels stands for a query inside; a choice that
    holds it takes one more image instead of it.
    """
    count, kinds = len(gallery_labels), len(query_labels)
    draw = np.random.default_rng(seed)
    wide = min(count, k + 1)
    chosen = torch.from_numpy(np.stack([draw.choice(count, wide, replace=False) for _ in range(draws)]))
    carried, asked = gallery_labels.float(), query_labels.float()
    kind_of = _stand_ins(query_labels, gallery_labels, inside)
    total = torch.zeros(kinds, dtype=torch.float64)
    for few in chosen.split(max(1, _DRAWN_ENTRIES // max(kinds, k * carried.shape[1]))):
        votes = torch.nn.functional.embedding_bag(few[:, :k], carried, mode="sum")
        predicted = (2 * votes > k).float()
        both = predicted.sum(1, keepdim=True) + asked.sum(1)
        total += (2 * (predicted @ asked.T).double() / both.clamp(min=1)).sum(0)
        row, place = (kind_of[few[:, :k]] >= 0).nonzero(as_tuple=True)
        itself, other = few[row, place], few[row, wide - 1]
        kind = kind_of[itself]
        right = knn_f1(votes[row] - carried[itself] + carried[other], query_labels[kind], k)
        total.index_add_(0, kind, right - knn_f1(votes[row], query_labels[kind], k))
    return total / draws


def _stand_ins(query_labels: Tensor, gallery_labels: Tensor, inside: Tensor) -> Tensor:
    """(N,) int64: of which kind of query inside the gallery an image is the stand-in, or -1."""
    sets = distinct(torch.cat([query_labels[inside], gallery_labels]))
    own, others = sets.of_image.split([int(inside.sum()), len(gallery_labels)])
    row = torch.empty(len(sets.sets), dtype=torch.int64)
    row[others] = torch.arange(len(gallery_labels))
    kind_of = torch.full((len(gallery_labels),), -1)
    kind_of[row[own]] = inside.nonzero().flatten()
    return kind_of


def chance_level(metric: Metric, facts: GalleryFacts, gallery_labels: Tensor, relevance: Relevance) -> Tensor:
    """Expected value of a metric, (U,); the facts must count its rule or its pair measure."""
    if metric.k is None:
        return _whole_chance(metric, facts, relevance)
    k = min(metric.k, int(facts.images.min()))
    if metric.name in PAIR_MEASURES:
        return facts.pair_means[metric.name]
    if metric.name == "recall":
        inside = len(gallery_labels) - facts.images
        return union_recall(facts.labels, gallery_labels.sum(0), inside, facts.images, k)
    if metric.name == "knn_f1":
        return drawn_knn_f1(facts.labels, gallery_labels, facts.images < len(gallery_labels), k)
    if measure(metric).uses == "gain":
        name, kind = metric.graded
        return _graded_chance(name, facts.gains[kind], facts, k)
    images, relevant = facts.images, facts.relevant[rule_of(metric, relevance)]
    if metric.name in ("precision", "r_precision"):
        return relevant / images
    if metric.name == "hit":
        return 1 - miss_probability(images, relevant, k)
    if metric.name == "ap_found":
        return expected_ap_found(images, relevant, k)
    expected = expected_precision_sum(images, relevant, k)
    if metric.name == "map":
        return expected / k
    return expected / relevant.clamp(max=k).masked_fill(relevant == 0, torch.nan)  # ap


def _graded_chance(name: str, gains: Gains, facts: GalleryFacts, k: int) -> Tensor:
    """acg: mean gain; ndcg: mean 2^r - 1 at every rank; wap: mean gain of a sharing image * E[ap_found]."""
    if name == "acg":
        return gains.total() / facts.images
    if name == "ndcg":
        return _summed_worth(gains) / facts.images * _discounts(k).sum() / _ideal(gains, k)
    sharing = facts.relevant[SHARE]
    mean = gains.total() / sharing.masked_fill(sharing == 0, torch.nan)
    return mean * expected_ap_found(facts.images, sharing, k)


def _whole_chance(metric: Metric, facts: GalleryFacts, relevance: Relevance) -> Tensor:
    """The same for the whole ranking: k is R or M, and the mean gain at every rank is that of the gallery."""
    images, relevant = facts.images, facts.relevant[rule_of(metric, relevance)]
    total = relevant.masked_fill(relevant == 0, torch.nan)
    if metric.name == "r_precision":
        return total / images
    if metric.name == "map_at_r":
        return expected_precision_sum(images, relevant, relevant) / total
    if metric.name == "map":
        return expected_precision_sum(images, relevant, images) / total
    name, kind = metric.graded
    gains = facts.gains[kind]
    if name == "acg":
        return gains.total() / images + 0 * total
    if name == "wap":
        return gains.total() / total * expected_precision_sum(images, relevant, images) / total
    discounts = _discounts(int(images.max())).cumsum(0)[images.long() - 1]
    return _summed_worth(gains) / images * discounts / _ideal(gains, None)


def _summed_worth(gains: Gains) -> Tensor:
    """Sum of 2^r - 1 over the gallery."""
    return gains.counts @ (torch.exp2(gains.levels) - 1)


def _discounts(k: int) -> Tensor:
    return 1 / torch.log2(1 + torch.arange(1, k + 1, dtype=torch.float64))


def _ideal(gains: Gains, k: int | None) -> Tensor:
    """NaN where the gallery yields no gain."""
    ideal = ideal_gain(gains, k)
    return ideal.masked_fill(ideal == 0, torch.nan)
