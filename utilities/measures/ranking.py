"""Measures of the whole ranking, in blocks of queries, from ranked codes of gain: no array of images x images."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from utilities.measures.formulae import SHARE, WHOLE_MEASURES, Metric, Relevance
from utilities.measures.label_sets import GalleryFacts, ideal_gain
from utilities.measures.ranked_codes import Levels, Ranker
from utilities.neighbours.codes import Codes
from utilities.neighbours.exact import on_grid
from utilities.neighbours.search import default_block_bytes

_BYTES_A_PAIR = {"cpu": 10, "cuda": 56}  # one array of keys; elsewhere also codes, sorted keys and differences
_MOST_QUERIES = 1024  # a block on a CPU: enough for a fast product, and few new pages of memory
_CHUNK_BYTES = 4 * 2**20  # of float64 measured together on a CPU: what its cache holds


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
    device = gallery.device
    graded = {metric: metric.graded for metric in metrics if WHOLE_MEASURES[metric.name].uses == "gain"}
    kinds = {kind for _, kind in graded.values()}
    labels = query_labels.to(device)
    levels = Levels(labels.sum(1), gallery_labels.to(device).sum(1), labels.shape[1], kinds)
    ranker = Ranker(gallery, gallery_labels, relevance, levels)
    left: Tensor | Codes = queries.to(device)
    if isinstance(left, Tensor):
        left = on_grid(left, "query embeddings")
    rows = _rows_of(query_rows, len(queries), device)
    relevant, sharing = (facts.relevant[rule][facts.kind].to(device) for rule in (relevance, SHARE))
    wanted = {metric.name for metric in metrics}
    ideal = {
        kind: ideal_gain(facts.gains[kind], None)[facts.kind].to(device)
        for name, kind in graded.values()
        if name == "ndcg"
    }
    values = {metric: torch.empty(len(queries), dtype=torch.float64) for metric in metrics}
    block_bytes = block_bytes or default_block_bytes(device)
    step = max(1, block_bytes // (len(gallery) * _BYTES_A_PAIR.get(device.type, 56)))
    chunk = step
    if device.type == "cpu":
        step, chunk = min(step, _MOST_QUERIES), max(1, _CHUNK_BYTES // (len(gallery) * 8))
    scale = _Scale(len(gallery), levels)
    for start in range(0, len(queries), step):
        block = slice(start, start + step)
        codes = ranker.ranked_codes(left[block], labels[block], rows[block])
        for first in range(0, len(codes), chunk):
            few = codes[first : first + chunk]
            part = slice(start + first, start + first + len(few))
            found = _measure(few, wanted, relevant[part], scale)
            for kind in kinds:
                best = ideal[kind][part] if kind in ideal else None
                found |= _measure_gains(few, kind, wanted, sharing[part], best, scale)
            for metric in metrics:
                values[metric][part] = found[metric.name].cpu()
        if progress is not None:
            progress(len(codes))
    return values


def _rows_of(query_rows: Tensor | None, count: int, device: torch.device) -> Tensor:
    return torch.full((count,), -1, device=device) if query_rows is None else query_rows.to(device)


class _Scale:
    """What every block needs: ranks 1 to N, their inverses and discounts, and the gain and worth 2**r - 1 of a code."""

    def __init__(self, images: int, levels: Levels) -> None:
        device = levels.gains["shared"].device
        self.ranks = torch.arange(1, images + 1, dtype=torch.float64, device=device)
        self.inverse, self.discount = 1 / self.ranks, 1 / torch.log2(1 + self.ranks)
        self.gain = {kind: gains.repeat_interleave(2) for kind, gains in levels.gains.items()}
        self.worth = {kind: torch.exp2(gain) - 1 for kind, gain in self.gain.items()}
        self.counted = levels.place is None  # a level is the number of shared labels

    def gains(self, codes: Tensor, kind: str) -> Tensor:
        """Codes (b, N) -> their gains, float64."""
        return (codes >> 1).double() if self.counted else self.gain[kind][codes]


def _measure(codes: Tensor, wanted: set[str], relevant: Tensor, scale: _Scale) -> dict[str, Tensor]:
    """Values of the measures of relevance from ranked codes (b, N) and the relevant images of each query (b,)."""
    found: dict[str, Tensor] = {}
    if wanted & {"r_precision", "map_at_r", "map"}:
        total = relevant.masked_fill(relevant == 0, torch.nan)
        hits = (codes & 1).double()
        summed = hits.cumsum(1)
        found["r_precision"] = _at_rank(summed, relevant) / total
        summed.mul_(hits)
        found["map"] = summed @ scale.inverse / total
        if "map_at_r" in wanted:
            found["map_at_r"] = summed.masked_fill_(scale.ranks > relevant[:, None], 0) @ scale.inverse / total
    return found


def _measure_gains(
    codes: Tensor, kind: str, wanted: set[str], sharing: Tensor, ideal: Tensor | None, scale: _Scale
) -> dict[str, Tensor]:
    """Values of the graded measures of one kind of gain, by name; sharing (b,) images that share a label."""
    ndcg, wap, acg = (name if kind == "shared" else f"{name}_{kind}" for name in ("ndcg", "wap", "acg"))
    found: dict[str, Tensor] = {}
    if ideal is not None:
        found[ndcg] = scale.worth[kind][codes] @ scale.discount / ideal.masked_fill(ideal == 0, torch.nan)
    if wanted & {wap, acg}:
        total = sharing.masked_fill(sharing == 0, torch.nan)
        summed = scale.gains(codes, kind).cumsum(1)
        found[acg] = _at_rank(summed, sharing) / total
        found[wap] = summed.masked_fill_(codes < 2, 0) @ scale.inverse / total
    return found


def _at_rank(sums: Tensor, rank: Tensor) -> Tensor:
    """Column rank - 1 of every row."""
    return sums.gather(1, (rank.long() - 1).clamp(min=0)[:, None]).squeeze(1)
