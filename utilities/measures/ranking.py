"""Measures of the whole ranking, in blocks of queries, from ranked codes of gain: no array of images x images."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from utilities.measures.formulae import SHARE, WHOLE_MEASURES, Metric, Relevance
from utilities.measures.label_sets import GalleryFacts, ideal_gain
from utilities.measures.ranked_codes import Levels, Ranker
from utilities.measures.ranked_measures import Expected, RowMeasures, Scale, Visitor, measure_block
from utilities.neighbours.codes import Codes
from utilities.neighbours.exact import on_grid
from utilities.neighbours.search import default_block_bytes

_BYTES_A_PAIR = {"cpu": 10, "cuda": 56}  # one array of keys; elsewhere also codes, sorted keys and differences
_MOST_QUERIES = 1024  # a block on a CPU: enough for a fast product, and few new pages of memory


def whole_ranking_values(
    queries: Tensor | Codes,
    gallery: Tensor | Codes,
    query_labels: Tensor,
    gallery_labels: Tensor,
    *,
    metrics: Sequence[Metric],
    relevance: Relevance,
    facts: GalleryFacts,
    query_rows: Tensor | None,
    block_bytes: int | None = None,
    progress: Callable[[int], object] | None = None,
) -> dict[Metric, Tensor]:
    """Value of every whole-ranking metric for every query, (Q,) float64 on the CPU; NaN where nothing is
    relevant.

    queries (Q, D), gallery (N, D) unit rows on one device, or binary codes of both; labels multi-hot; query_rows as in
    `neighbours.search`; facts about these queries (`label_sets.gallery_facts`) for `relevance` and SHARE.
    Memory: block_bytes and the gallery, whatever Q is.
    """
    device, on_cpu = gallery.device, gallery.device.type == "cpu"
    graded = [metric.graded for metric in metrics if WHOLE_MEASURES[metric.name].uses == "gain"]
    labels = query_labels.to(device)
    levels = Levels(labels.sum(1), gallery_labels.to(device).sum(1), labels.shape[1], {kind for _, kind in graded})
    ranker = Ranker(gallery, gallery_labels, relevance, levels)
    left: Tensor | Codes = queries.to(device)
    if isinstance(left, Tensor):
        left = on_grid(left, "query embeddings")
    own = torch.full((len(queries),), -1, device=device) if query_rows is None else query_rows.to(device)
    relevant, sharing = (facts.relevant[rule][facts.kind].to(device) for rule in (relevance, SHARE))
    expected = Expected(
        relevant,
        sharing,
        {kind: ideal_gain(facts.gains[kind], None)[facts.kind].to(device) for name, kind in graded if name == "ndcg"},
    )
    wanted, scale = {metric.name for metric in metrics}, Scale(len(gallery), levels)
    values = {metric: torch.empty(len(queries), dtype=torch.float64) for metric in metrics}
    step = max(1, (block_bytes or default_block_bytes(device)) // (len(gallery) * _BYTES_A_PAIR.get(device.type, 56)))
    order = torch.arange(len(queries))
    if on_cpu:  # queries of one label set after each other: they give every image the same code
        order, step = facts.kind.argsort(stable=True), min(step, _MOST_QUERIES)
        measures = RowMeasures(wanted, scale, same=relevance == SHARE)
    for start in range(0, len(order), step):
        block = order[start : start + step]
        few = block.to(device)
        if on_cpu:
            occurring, kind = facts.kind[block].unique_consecutive(return_inverse=True)
            visitor = Visitor(measures, expected.of(block))
            ranker.visit_rows(left[block], facts.labels[occurring], kind, own[block], visitor)
            found = visitor.found
        else:
            codes = ranker.ranked_codes(left[few], labels[few], own[few])
            found = measure_block(codes, wanted, expected.of(few), scale)
        for metric in metrics:
            values[metric][block] = found[metric.name].cpu()
        if progress is not None:
            progress(len(block))
    return values
