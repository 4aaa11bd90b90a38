"""Searching the embeddings of a split, and measuring what is found: what validation and `evaluate_model.py` share."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from utilities.errors import UserError
from utilities.measures.formulae import Metric, Relevance, expand_metrics
from utilities.measures.label_sets import GalleryFacts
from utilities.measures.ranking import whole_ranking_values
from utilities.measures.scoring import Scores, facts_for, score
from utilities.neighbours.codes import Codes, search_either
from utilities.neighbours.search import Neighbours
from utilities.parallel.distributed import communication_device, gather_uneven, is_active, rank, world_size


class Evaluation(NamedTuple):
    """Scores of a split with the neighbours they came from; `report()` is what `scores.json` holds."""

    scores: Scores
    neighbours: Neighbours
    seconds: dict[str, float]

    def report(self) -> dict[str, Any]:
        protocol = {**self.scores.protocol, "seconds": {what: round(s, 4) for what, s in self.seconds.items()}}
        return {"scores": self.scores.scores, "chance": self.scores.chance, "protocol": protocol}


def evaluate(
    embeddings: Tensor | Codes,
    labels: Tensor,
    *,
    metrics: Sequence[str],
    ks: Sequence[int],
    relevance: Relevance,
    backend: str = "auto",
    gallery: tuple[Tensor | Codes, Tensor] | None = None,
    query_rows: Tensor | None = None,
    device: torch.device | str = "cpu",
    block_bytes: int | None = None,
    progress: Callable[[int], object] | None = None,
) -> Evaluation:
    """Search every query and score what was found.

    embeddings (Q, D) unit rows and labels (Q, L) of the queries, which are also the gallery unless another
    one is given as (embeddings, labels); then query_rows (Q,) are the rows in which it holds the queries themselves, to
    be left out, -1 for those that it does not hold. Binary codes on both sides in place of embeddings are searched by
    their Hamming distance. metrics are names as
    `formulae.expand_metrics` takes them, with ks the cut-offs of names without one. The search runs on
    `device`; with a process group, each rank searches its share of the queries and every rank returns the
    whole.
    """
    wanted = expand_metrics(list(metrics), list(ks))
    others, other_labels = (embeddings, labels) if gallery is None else gallery
    rows = torch.arange(len(embeddings)) if gallery is None else query_rows
    if rows is not None and (rows < 0).all():
        rows = None
    if labels.shape[1] != other_labels.shape[1]:
        raise UserError(f"queries carry {labels.shape[1]} labels and the gallery {other_labels.shape[1]}")
    deepest = max((k for _, k in wanted if k is not None), default=1)

    images = others.to(device)
    queries = images if gallery is None else embeddings.to(device)
    started = time.perf_counter()
    found = _search_shares(queries, images, deepest, rows, backend, block_bytes, progress)
    searched = time.perf_counter()
    facts = facts_for(labels.cpu(), other_labels.cpu(), rows, wanted, relevance)
    whole_metrics = [metric for metric in wanted if metric.k is None]
    ranker = partial(
        whole_ranking_values, metrics=whole_metrics, relevance=relevance, block_bytes=block_bytes, progress=progress
    )
    whole = _rank_shares(ranker, queries, images, labels, other_labels, rows, facts) if whole_metrics else {}
    ranked = time.perf_counter()
    scores = score(
        found.indices,
        labels,
        other_labels,
        metrics=wanted,
        relevance=relevance,
        query_rows=rows,
        whole=whole,
        facts=facts,
    )
    done = time.perf_counter()
    seconds = {"search": searched - started, "whole_ranking": ranked - searched, "score": done - ranked}
    return Evaluation(scores, found, seconds)


def _share(count: int) -> slice:
    """This rank's consecutive share of the queries."""
    return slice(count * rank() // world_size(), count * (rank() + 1) // world_size())


def _search_shares(
    queries: Tensor | Codes,
    gallery: Tensor | Codes,
    k: int,
    rows: Tensor | None,
    backend: str,
    block_bytes: int | None,
    progress: Callable[[int], object] | None,
) -> Neighbours:
    """`search_either`, each rank for its share of the queries; the whole on the CPU."""
    share = _share(len(queries))
    found = search_either(
        queries[share],
        gallery,
        k,
        query_rows=None if rows is None else rows[share],
        backend=backend,
        block_bytes=block_bytes,
        progress=progress,
    )
    if not is_active():
        return Neighbours(found.indices.cpu(), found.distances.cpu())
    device = communication_device()
    return Neighbours(gather_uneven(found.indices.to(device)).cpu(), gather_uneven(found.distances.to(device)).cpu())


def _rank_shares(
    ranker: Callable[..., dict[Metric, Tensor]],
    queries: Tensor | Codes,
    gallery: Tensor | Codes,
    labels: Tensor,
    gallery_labels: Tensor,
    rows: Tensor | None,
    facts: GalleryFacts,
) -> dict[Metric, Tensor]:
    """`whole_ranking_values`, each rank for its share of the queries; the whole on the CPU."""
    share = _share(len(queries))
    values = ranker(
        queries[share],
        gallery,
        labels[share],
        gallery_labels,
        facts=facts._replace(kind=facts.kind[share]),
        query_rows=None if rows is None else rows[share],
    )
    if not is_active():
        return values
    return {metric: gather_uneven(value.to(gallery.device)).cpu() for metric, value in values.items()}
