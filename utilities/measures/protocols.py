"""Published protocols: which split searches which, and the measure of each paper to the letter (docs/protocols.md).

A measure is a function of means over the queries, `score`, of a few values a query, `parts`: so that those which are no
mean over queries, a harmonic mean of means or a precision over all labels at once, get their interval like the others,
from queries drawn anew.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from utilities.errors import UserError
from utilities.measures.formulae import SHARE, average_precision_found
from utilities.neighbours.search import Neighbours
from utilities.seeding import generator

DRAWS = 1000  # of the intervals
CHANCE_QUERIES, CHANCE_DRAWS = 200_000, (20, 500)  # with random neighbours in all; how often each, at least and most
_BLOCK = 2**22  # label entries, or drawn queries, held together


class Top(NamedTuple):
    """What a block of queries found: images (b, K) int64, distances (b, K) float64; labels of the queries, asked (b, L)
    bool, and of the whole gallery, carried (N, L) float64."""

    images: Tensor
    distances: Tensor
    asked: Tensor
    carried: Tensor


class Protocol(NamedTuple):
    """queries are searched in gallery, two splits; depth: K; parts: `Top` -> (b, m); score: (..., m) -> values by name.

    relevance and metrics are what `evaluate_model.py` measures beside it."""

    about: str
    queries: str
    gallery: str
    depth: int
    relevance: str
    metrics: tuple[str, ...]
    parts: Callable[[Top], Tensor]
    score: Callable[[Tensor], dict[str, Tensor]]


def _average_precision_found(top: Top) -> Tensor:
    shared = _shared(top)
    ones = torch.ones_like(shared)  # SHARE looks at shared labels alone
    return average_precision_found(SHARE(shared, ones, ones))[:, None]


def _shared(top: Top) -> Tensor:
    """Labels that each retrieved image shares with the query, (b, K) float64."""
    return torch.einsum("bkl,bl->bk", top.carried[top.images], top.asked.double())


def _precision_and_recall(top: Top) -> Tensor:
    """Means over the K of shared labels over those of the image, and over those of the query; 0 of an empty set."""
    shared, of_query = _shared(top), top.asked.sum(1).double().clamp(min=1)
    of_image = top.carried.sum(1)[top.images].clamp(min=1)
    return torch.stack([(shared / of_image).mean(1), shared.mean(1) / of_query], 1)


def _harmonic(means: Tensor) -> dict[str, Tensor]:
    precision, recall = means.unbind(-1)
    total = precision + recall
    f1 = (2 * precision * recall / total.masked_fill(total == 0, torch.nan)).nan_to_num(0)
    return {"label_f1_of_means@10": f1, "label_precision@10": precision, "label_recall@10": recall}


def _weighted_f1(top: Top) -> Tensor:
    """F1 of the labels that outweigh their absence among the K, weights 1 / distance; images at distance 0 alone count
    where there are any (scikit-learn's KNeighborsClassifier(weights="distance")). Two empty sets score 0."""
    same = top.distances == 0
    weights = torch.where(same.any(1, keepdim=True), same.double(), 1 / top.distances)
    votes = torch.nn.functional.embedding_bag(top.images, top.carried, mode="sum", per_sample_weights=weights)
    predicted = votes > weights.sum(1, keepdim=True) - votes
    found = (predicted & top.asked).sum(1).double()
    return (2 * found / (predicted.sum(1) + top.asked.sum(1)).clamp(min=1))[:, None]


def _votes(top: Top) -> Tensor:
    """How many of the L labels have v votes, v = 0 ... K, and how many of these the query carries: (b, 2K + 2)."""
    votes = torch.nn.functional.embedding_bag(top.images, top.carried, mode="sum").round()
    levels = [votes == v for v in range(top.images.shape[1] + 1)]
    counts = [level.sum(1).double() for level in levels]
    return torch.stack(counts + [(level & top.asked).sum(1).double() for level in levels], 1)


def _micro_average_precision(means: Tensor) -> dict[str, Tensor]:
    """Average precision of all (query, label) pairs ranked by votes, equal votes together (scikit-learn's, step by
    step)."""
    counts, hits = means.flip(-1).chunk(2, -1)[::-1]  # from K votes to none
    precision = hits.cumsum(-1) / counts.cumsum(-1).masked_fill(counts.cumsum(-1) == 0, torch.nan)
    total = hits.sum(-1, keepdim=True)
    shares = hits / total.masked_fill(total == 0, torch.nan)
    return {"knn_micro_map@5": (precision.nan_to_num(0) * shares).sum(-1)}


PROTOCOLS = {
    "prithvi": Protocol(
        "Blumenstiel et al. 2024 (arXiv 2403.02059): val searches test; average precision over the relevant images "
        "among the 20 nearest, relevant with one shared label",
        "val", "test", 20, "share", ("ap_found@20", "precision@20", "label_jaccard@8"),
        _average_precision_found, lambda means: {"ap_found@20": means[..., 0]},
    ),
    "grn": Protocol(
        "Kang et al., TGRS 2021, released code: test searches train; sample F1 of a classifier by the 10 nearest, "
        "weighted by 1 / distance",
        "test", "train", 10, "subset", ("knn_f1@10", "label_f1@10", "label_jaccard@8"),
        _weighted_f1, lambda means: {"knn_weighted_f1@10": means[..., 0]},
    ),
    "csmae": Protocol(
        "Hackstein et al. 2024 (CSMAE, arXiv 2401.07782), released code: val searches test; harmonic mean of the mean "
        "label precision and the mean label recall of the 10 nearest",
        "val", "test", 10, "subset", ("label_precision@10", "label_recall@10", "label_f1@10", "label_jaccard@8"),
        _precision_and_recall, _harmonic,
    ),
    "geobench": Protocol(
        "torchgeo-bench: test searches train; micro average precision over labels, scored by their share among the 5 "
        "nearest",
        "test", "train", 5, "subset", ("knn_f1@5", "label_jaccard@8"),
        _votes, _micro_average_precision,
    ),
}  # fmt: skip


def apply(name: str, given: dict[str, Any]) -> dict[str, Any]:
    """What `--protocol name` sets; UserError where a flag of those `given` says otherwise."""
    protocol = PROTOCOLS[name]
    fixed: dict[str, Any] = {
        "dataset_type": protocol.queries,
        "gallery_split": protocol.gallery,
        "relevance": protocol.relevance,
        "eval_metric": list(protocol.metrics),
    }
    for flag, value in fixed.items():
        if flag in given and given[flag] != value:
            said, own = (" ".join(v) if isinstance(v, list) else v for v in (given[flag], value))
            raise UserError(
                f"--protocol {name} means --{flag} {own}, and --{flag} {said} was given; leave one of them out"
            )
    return fixed


def measured(name: str, found: Neighbours, asked: Tensor, carried: Tensor, *, seed: int = 0) -> dict[str, Any]:
    """Scores of a protocol with 95 % intervals and chance levels, plain values by name, for `scores.json`.

    found: neighbours of at least `depth` where the gallery has them; asked (Q, L), carried (N, L) multi-hot. Chance:
    the mean over random choices of as many different images, all at one distance.
    """
    protocol = PROTOCOLS[name]
    images = found.indices[:, : protocol.depth]
    parts = _parts(protocol, images, found.distances[:, : protocol.depth], asked, carried)
    draw = generator("cpu", seed, "protocol")
    scores = {key: float(value) for key, value in protocol.score(parts.mean(0)).items()}
    step = max(1, _BLOCK // len(parts))
    blocks = [
        protocol.score(drawn_shares(min(step, DRAWS - start), len(parts), draw) @ parts)
        for start in range(0, DRAWS, step)
    ]
    tails = torch.tensor([0.025, 0.975], dtype=torch.float64)
    intervals = {key: torch.cat([block[key] for block in blocks]).quantile(tails).tolist() for key in scores}
    by_chance = []
    least, most = CHANCE_DRAWS
    for _ in range(min(most, max(least, CHANCE_QUERIES // max(1, len(asked))))):
        drawn = different(len(carried), len(asked), images.shape[1], draw)
        by_chance.append(protocol.score(_parts(protocol, drawn, torch.ones(images.shape), asked, carried).mean(0)))
    chance = {key: float(torch.stack([each[key] for each in by_chance]).mean()) for key in scores}
    return {"name": name, "about": protocol.about, "scores": scores, "interval": intervals, "chance": chance}


def different(count: int, queries: int, k: int, draw: torch.Generator) -> Tensor:
    """Rows of k different numbers below `count`, (queries, k) int64: every row of them is as likely."""
    drawn = torch.empty(queries, k, dtype=torch.int64)
    for place in range(k):  # the n-th of those that are left, counted past what was drawn, from the smallest on
        number = torch.randint(count - place, (queries,), generator=draw)
        for taken in drawn[:, :place].sort(1).values.T:
            number += taken <= number
        drawn[:, place] = number
    return drawn


def drawn_shares(draws: int, count: int, draw: torch.Generator) -> Tensor:
    """How often each of `count` is drawn among as many, as shares: (draws, count) float64."""
    places = torch.randint(count, (draws, count), generator=draw) + count * torch.arange(draws)[:, None]
    return torch.bincount(places.flatten(), minlength=draws * count).view(draws, count).double() / count


def _parts(protocol: Protocol, images: Tensor, distances: Tensor, asked: Tensor, carried: Tensor) -> Tensor:
    """(Q, m) in blocks of queries."""
    labels, asked = carried.double(), asked.bool()
    step = max(1, _BLOCK // max(1, images.shape[1] * labels.shape[1]))
    blocks = [slice(start, start + step) for start in range(0, len(images), step)]
    return torch.cat([protocol.parts(Top(images[b], distances[b].double(), asked[b], labels)) for b in blocks])


def lines(content: dict[str, Any]) -> list[str]:
    """The same as text."""
    rows = [
        f"protocol {content['name']}: {content['about']}",
        f"{'measure':<24}{'score':>8}{'95 % interval':>18}{'chance':>9}",
    ]
    for name, score in content["scores"].items():
        low, high = content["interval"][name]
        rows.append(f"{name:<24}{score:>8.4f}{f'{low:.4f} {high:.4f}':>18}{content['chance'][name]:>9.4f}")
    return [*rows, ""]
