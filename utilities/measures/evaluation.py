"""Embedding a split, and scoring its embeddings: what validation and `evaluate_model.py` share."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from utilities.batch import Batch
from utilities.errors import UserError
from utilities.measures.formulae import Metric, Relevance, expand_metrics
from utilities.measures.label_sets import GalleryFacts
from utilities.measures.ranking import whole_ranking_values
from utilities.measures.scoring import Scores, facts_for, score
from utilities.neighbours.codes import Codes, search_either
from utilities.neighbours.search import Neighbours
from utilities.parallel.distributed import communication_device, gather_uneven, is_active, rank, world_size

_GATHERED_ROWS = 2**15  # that each rank sends at a time


def embed_split(embed: Callable[[Tensor], Tensor], batches: Iterable[Batch], size: int) -> tuple[Tensor, Tensor]:
    """Embed the images of a split; every rank passes its own share of the batches and gets all embeddings.

    embed takes `Batch.images` and returns (B, D) rows. Returns embeddings (M, D) float32 and their rows in
    the split (M,) int64, rising, both on the CPU. M < size where broken images were skipped; a row embedded
    twice or outside [0, size) is a ValueError, since it would count twice in every score.
    """
    parts: list[Tensor] = []
    rows: list[Tensor] = []
    with torch.inference_mode():
        for batch in batches:
            if len(batch.indices):
                parts.append(embed(batch.images).float())
                rows.append(batch.indices)
    embeddings, indices = _gather(parts, rows)
    if not len(indices):
        raise UserError(f"none of the {size} images of this split could be embedded")
    order = indices.argsort()
    indices = indices[order]
    if indices[0] < 0 or indices[-1] >= size or (indices[1:] == indices[:-1]).any():
        raise ValueError(f"rows of a split of {size} images must be given once each and lie inside it")
    return embeddings[order], indices


def _gather(parts: list[Tensor], rows: list[Tensor]) -> tuple[Tensor, Tensor]:
    """All ranks' parts on the CPU, each row beside its number, in no order; a rank may have none."""
    own = torch.cat([part.cpu() for part in parts]) if parts else torch.empty(0, 0)
    own_rows = torch.cat(rows).cpu() if rows else torch.empty(0, dtype=torch.int64)
    if world_size() == 1:
        return own, own_rows
    device = communication_device()
    largest = torch.tensor([own.shape[1], len(own)], device=device)
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    width, longest = largest.tolist()
    own = own.reshape(len(own), width)
    # block by block: a GPU holds what it embeds, and never what all embed
    blocks = [slice(start, start + _GATHERED_ROWS) for start in range(0, longest, _GATHERED_ROWS)]
    return (
        torch.cat([gather_uneven(own[block].to(device)).cpu() for block in blocks] or [own]),
        torch.cat([gather_uneven(own_rows[block].to(device)).cpu() for block in blocks] or [own_rows]),
    )


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
    device: torch.device | str = "cpu",
    block_bytes: int | None = None,
    progress: Callable[[int], object] | None = None,
) -> Evaluation:
    """Search every query and score what was found.

    embeddings (Q, D) unit rows and labels (Q, L) of the queries, which are also the gallery unless another
    one is given as (embeddings, labels); then nothing is left out. Binary codes on both sides in place of embeddings
    are searched by their Hamming distance. metrics are names as
    `metrics.expand_metrics` takes them, with ks the cut-offs of names without one. The search runs on
    `device`; with a process group, each rank searches its share of the queries and every rank returns the
    whole.
    """
    wanted = expand_metrics(list(metrics), list(ks))
    others, other_labels = (embeddings, labels) if gallery is None else gallery
    rows = torch.arange(len(embeddings)) if gallery is None else None
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
