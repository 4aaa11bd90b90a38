"""Measures of the whole ranking, in blocks of queries: one sort of each row, and no array of images x images.

The exact squared distance (`utilities.exact`) is an integer in units of 2**-48 and below 2**51, which leaves
room in an int64 for what an image contributes: the number of shared labels and whether it is relevant. One
sort of these keys, without indices, yields the ranked gains. Images at exactly the same distance but with
different gains must be in the order of their indices; rows that have such ties are sorted again, stably.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from utilities.errors import UserError
from utilities.exact import STEPS, on_grid, squared_distances, squared_lengths
from utilities.label_sets import GalleryFacts, distinct, ideal_gain
from utilities.labels import overlap
from utilities.metrics import SHARE, Metric, Relevance
from utilities.neighbours import BLOCK_BYTES

_DISTANCE_BITS = 51
_BYTES_A_PAIR = 56  # float64 distances, int64 codes and keys, float64 gains, sums and their product, masks
_SELF = torch.iinfo(torch.int64).max  # sorts last, and is cut to no gain


def whole_ranking_values(
    queries: Tensor,
    gallery: Tensor,
    query_labels: Tensor,
    gallery_labels: Tensor,
    *,
    metrics: Sequence[Metric],
    relevance: Relevance,
    facts: GalleryFacts,
    query_rows: Tensor | None,
    block_bytes: int = BLOCK_BYTES,
    progress: Callable[[int], object] | None = None,
) -> dict[Metric, Tensor]:
    """Value of every whole-ranking metric for every query, (Q,) float64 on the CPU; NaN where nothing is
    relevant.

    queries (Q, D), gallery (N, D) unit rows on one device; labels multi-hot; query_rows as in
    `neighbours.search`; facts about these queries (`label_sets.gallery_facts`) for `relevance` and SHARE.
    Memory: block_bytes and the gallery, whatever Q is.
    """
    device = gallery.device
    ranker = _Ranker(gallery, gallery_labels, relevance)
    left, rows = on_grid(queries.to(device), "query embeddings"), _rows_of(query_rows, len(queries), device)
    relevant, sharing = (facts.relevant[rule][facts.kind].to(device) for rule in (relevance, SHARE))
    wanted = {metric.name for metric in metrics}
    ideal = ideal_gain(facts.gains, None)[facts.kind].to(device) if "ndcg" in wanted else sharing
    values = {metric: torch.empty(len(queries), dtype=torch.float64) for metric in metrics}
    labels = query_labels.to(device)
    step = max(1, block_bytes // (len(gallery) * _BYTES_A_PAIR))
    for start in range(0, len(queries), step):
        part = slice(start, start + step)
        codes = ranker.ranked_codes(left[part], labels[part], rows[part])
        found = _measure(codes, wanted, relevant[part], sharing[part], ideal[part], ranker.width)
        for metric in metrics:
            values[metric][part] = found[metric.name].cpu()
        if progress is not None:
            progress(len(codes))
    return values


def _rows_of(query_rows: Tensor | None, count: int, device: torch.device) -> Tensor:
    return torch.full((count,), -1, device=device) if query_rows is None else query_rows.to(device)


class _Ranker:
    """Sorts a gallery for blocks of queries. A code is twice the number of shared labels, plus 1 if relevant."""

    def __init__(self, gallery: Tensor, gallery_labels: Tensor, relevance: Relevance) -> None:
        self.gallery, self.relevance = on_grid(gallery, "gallery embeddings"), relevance
        self.lengths = squared_lengths(self.gallery)
        self.width = gallery_labels.shape[1]
        self.bits = (2 * self.width + 1).bit_length()
        if self.bits + _DISTANCE_BITS > 63:
            raise UserError(f"measures of the whole ranking take up to 2047 labels, {self.width} are given")
        sets = distinct(gallery_labels)
        self.sets, self.set_of_image = sets.sets.to(gallery.device), sets.of_image.to(gallery.device)
        self.sizes = self.sets.sum(1)

    def ranked_codes(self, queries: Tensor, labels: Tensor, own: Tensor) -> Tensor:
        """Codes of the gallery in the order of (distance, index), (b, N) int64; the query's own image last, as 0."""
        shared = overlap(labels, self.sets).long()
        relevant = self.relevance(shared, labels.sum(1, keepdim=True), self.sizes)
        codes = (2 * shared + relevant)[:, self.set_of_image]
        squared = squared_distances(queries, self.gallery, squared_lengths(queries), self.lengths)
        keys = squared.mul_(STEPS * STEPS).long().bitwise_left_shift_(self.bits).add_(codes)
        inside = (own >= 0).nonzero().flatten()
        keys[inside, own[inside]] = _SELF
        plain = None if len(inside) == 0 else own
        ranked = _sort_rows(keys)
        tied = self._tied(ranked)
        ranked &= (1 << self.bits) - 1
        if len(inside):
            ranked[inside, -1] = 0
        if len(tied):
            ranked[tied] = self._sort_again(queries[tied], codes[tied], None if plain is None else plain[tied])
        return ranked

    def _tied(self, ranked: Tensor) -> Tensor:
        """Rows in which two neighbouring images have the same distance but different codes."""
        differing = ranked[:, 1:] ^ ranked[:, :-1]
        return ((differing > 0) & (differing < 1 << self.bits)).any(1).nonzero().flatten()

    def _sort_again(self, queries: Tensor, codes: Tensor, own: Tensor | None) -> Tensor:
        """As `ranked_codes`, by a stable sort of the distances."""
        squared = squared_distances(queries, self.gallery, squared_lengths(queries), self.lengths)
        if own is not None:
            inside = (own >= 0).nonzero().flatten()
            squared[inside, own[inside]] = torch.inf
            codes[inside, own[inside]] = 0
        return codes.gather(1, squared.sort(dim=1, stable=True).indices)


def _sort_rows(keys: Tensor) -> Tensor:
    """Every row sorted. On a CPU by numpy, whose sort without indices is the faster one, a thread a share of rows."""
    if keys.device.type != "cpu":
        return keys.sort(dim=1).values
    rows = keys.numpy()
    threads = torch.get_num_threads()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda first: rows[first::threads].sort(axis=1), range(threads)))
    return keys


def _measure(
    codes: Tensor, wanted: set[str], relevant: Tensor, sharing: Tensor, ideal: Tensor, width: int
) -> dict[str, Tensor]:
    """Values of the wanted measures from ranked codes (b, N) and the totals of each query (b,)."""
    ranks = torch.arange(1, codes.shape[1] + 1, dtype=torch.float64, device=codes.device)
    found: dict[str, Tensor] = {}
    if wanted & {"r_precision", "map_at_r", "map"}:
        hits = (codes & 1).double()
        precisions = hits.cumsum(1)
        total = relevant.masked_fill(relevant == 0, torch.nan)
        found["r_precision"] = _at_rank(precisions, relevant) / total
        precisions.mul_(hits).div_(ranks)
        found["map"] = precisions.sum(1) / total
        if "map_at_r" in wanted:
            found["map_at_r"] = precisions.masked_fill_(ranks > relevant[:, None], 0).sum(1) / total
    if wanted & {"ndcg", "wap", "acg"}:
        gains = codes >> 1
        total = sharing.masked_fill(sharing == 0, torch.nan)
        if "ndcg" in wanted:
            worth = torch.exp2(torch.arange(width + 1, dtype=torch.float64, device=codes.device)) - 1
            found["ndcg"] = worth[gains] @ (1 / torch.log2(1 + ranks)) / ideal.masked_fill(ideal == 0, torch.nan)
        if wanted & {"wap", "acg"}:
            summed = gains.double().cumsum(1)
            found["acg"] = _at_rank(summed, sharing) / total
            found["wap"] = summed.mul_(gains > 0).div_(ranks).sum(1) / total
    return found


def _at_rank(sums: Tensor, rank: Tensor) -> Tensor:
    """Column rank - 1 of every row."""
    return sums.gather(1, (rank.long() - 1).clamp(min=0)[:, None]).squeeze(1)
