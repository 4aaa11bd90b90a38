"""Measures of the whole ranking, in blocks of queries: one sort of each row, and no array of images x images.

The exact squared distance (`utilities.exact`) is an integer in units of 2**-48 and below 2**51, which leaves
room in an int64 for what an image contributes: its level of gain and whether it is relevant. One
sort of these keys, without indices, yields the ranked gains. Images at exactly the same distance but with
different gains must be in the order of their indices; rows that have such ties are sorted again, stably.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from utilities.errors import UserError
from utilities.exact import STEPS, on_grid, squared_lengths
from utilities.label_sets import GalleryFacts, distinct, ideal_gain
from utilities.labels import overlap
from utilities.metrics import SHARE, WHOLE_MEASURES, Metric, Relevance
from utilities.neighbours import BLOCK_BYTES

_DISTANCE_BITS = 51
_BYTES_A_PAIR = 40  # distances, keys, differences between them, codes, masks
_CHUNK_BYTES = 4 * 2**20  # of float64 measured together on a CPU: what its cache holds
_MOST_LEVELS = 2 ** (63 - _DISTANCE_BITS - 1)  # of gain, beside one bit for relevance
_SELF = torch.iinfo(torch.int64).max  # sorts last, and is given no gain


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
    graded = {metric: metric.graded for metric in metrics if WHOLE_MEASURES[metric.name].uses == "gain"}
    kinds = {kind for _, kind in graded.values()}
    labels = query_labels.to(device)
    levels = _Levels(labels.sum(1), gallery_labels.to(device).sum(1), labels.shape[1], kinds)
    ranker = _Ranker(gallery, gallery_labels, relevance, levels)
    left, rows = on_grid(queries.to(device), "query embeddings"), _rows_of(query_rows, len(queries), device)
    relevant, sharing = (facts.relevant[rule][facts.kind].to(device) for rule in (relevance, SHARE))
    wanted = {metric.name for metric in metrics}
    ideal = {
        kind: ideal_gain(facts.gains[kind], None)[facts.kind].to(device)
        for name, kind in graded.values()
        if name == "ndcg"
    }
    values = {metric: torch.empty(len(queries), dtype=torch.float64) for metric in metrics}
    step = max(1, block_bytes // (len(gallery) * _BYTES_A_PAIR))
    chunk = step if device.type != "cpu" else max(1, _CHUNK_BYTES // (len(gallery) * 8))
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


class _Levels:
    """The gains that an image can yield, as small numbers that a key has room for: 0 is no gain.

    The number of shared labels is its own level; with Jaccard similarities asked for, a level is a pair of a
    number of shared labels and one of labels of either image. gains: kind -> (V,) float64, the gain of each level.
    """

    def __init__(self, of_query: Tensor, of_image: Tensor, width: int, kinds: set[str]) -> None:
        """Sizes of the label sets of queries and gallery, out of `width` labels."""
        device = of_query.device
        self.place: Tensor | None = None
        self.gains = {"shared": torch.arange(width + 1, device=device).double()}
        if "jaccard" in kinds:
            queries, images = int(of_query.max()) if len(of_query) else 0, int(of_image.max())
            either = min(width, queries + images)
            shared = torch.arange(min(queries, images) + 1, device=device)[:, None]
            union = torch.arange(either + 1, device=device)
            possible = (shared > 0) & (shared <= union) & (shared + union <= queries + images)
            self.place = possible.flatten().cumsum(0).view(possible.shape) * possible
            pairs = possible.nonzero()
            none = torch.zeros(1, dtype=torch.float64, device=device)
            self.gains = {
                "shared": torch.cat([none, pairs[:, 0].double()]),
                "jaccard": torch.cat([none, pairs[:, 0].double() / pairs[:, 1]]),
            }
        if len(self) > _MOST_LEVELS:
            what = f"labels, {width} are given"
            if self.place is not None:
                what = (
                    f"numbers of shared labels and of labels of either image, {len(self) - 1} are given; leave out the "
                )
                what += "measures with _jaccard"
            raise UserError(f"measures of the whole ranking take up to {_MOST_LEVELS - 1} {what}")

    def __len__(self) -> int:
        return len(self.gains["shared"])

    def of(self, shared: Tensor, of_query: Tensor, of_image: Tensor) -> Tensor:
        """Level of each pair, int64."""
        return shared if self.place is None else self.place[shared, of_query + of_image - shared]


class _Ranker:
    """Sorts a gallery for blocks of queries. A code is twice the level of gain, plus 1 if relevant."""

    def __init__(self, gallery: Tensor, gallery_labels: Tensor, relevance: Relevance, levels: _Levels) -> None:
        self.relevance, self.levels = relevance, levels
        self.bits = (2 * len(levels) - 1).bit_length()
        grid = on_grid(gallery, "gallery embeddings")
        self.right = _beside(grid, squared_lengths(grid), torch.ones(len(grid), device=grid.device))
        sets = distinct(gallery_labels)
        self.sets, self.set_of_image = sets.sets.to(gallery.device), sets.of_image.to(gallery.device)
        self.sizes = self.sets.sum(1)

    def ranked_codes(self, queries: Tensor, labels: Tensor, own: Tensor) -> Tensor:
        """Codes of the gallery by (distance, index), (b, N) int64; the query's own image comes last, as 0."""
        shared = overlap(labels, self.sets).long()
        of_query = labels.sum(1, keepdim=True)
        relevant = self.relevance(shared, of_query, self.sizes)
        codes = (2 * self.levels.of(shared, of_query, self.sizes) + relevant).short()[:, self.set_of_image]
        squared = self._squared(queries)
        keys = torch.add(codes, squared.long(), alpha=1 << self.bits)
        inside = (own >= 0).nonzero().flatten()
        keys[inside, own[inside]] = _SELF
        ranked = _sort_rows(keys)
        tied = _tied_rows(ranked, self.bits)
        ranked &= (1 << self.bits) - 1
        ranked[inside, -1] = 0
        if len(tied):
            ranked[tied] = self._sort_again(squared[tied], codes[tied], own[tied])
        return ranked

    def _squared(self, queries: Tensor) -> Tensor:
        """Squared distances in units of 2**-48, (b, D) rows on the grid -> (b, N) float64 whole numbers.

        One product of (-2 q, 1, |q|^2) and (g, |g|^2, 1): every partial sum is a whole number below 2**53.
        """
        ones = torch.ones(len(queries), device=queries.device)
        return _beside(-2 * queries, ones, squared_lengths(queries)).mul_(STEPS * STEPS) @ self.right.T

    def _sort_again(self, squared: Tensor, codes: Tensor, own: Tensor) -> Tensor:
        """As `ranked_codes`, by a stable sort of the distances."""
        inside = (own >= 0).nonzero().flatten()
        squared[inside, own[inside]] = torch.inf
        codes[inside, own[inside]] = 0
        return codes.gather(1, squared.sort(dim=1, stable=True).indices).long()


def _beside(rows: Tensor, *columns: Tensor) -> Tensor:
    """(N, D) and columns (N,) -> (N, D + columns) float64."""
    count, width = rows.shape
    result = torch.empty(count, width + len(columns), dtype=torch.float64, device=rows.device)
    result[:, :width] = rows
    for place, column in enumerate(columns):
        result[:, width + place] = column
    return result


def _sort_rows(keys: Tensor) -> Tensor:
    """Every row sorted. On a CPU by numpy, whose sort without indices is the faster one, a thread a share of rows."""
    if keys.device.type != "cpu":
        return keys.sort(dim=1).values
    rows = keys.numpy()
    threads = torch.get_num_threads()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda first: rows[first::threads].sort(axis=1), range(threads)))
    return keys


def _tied_rows(ranked: Tensor, bits: int) -> Tensor:
    """Rows of sorted keys in which two neighbours have the same distance but different codes.

    Two such keys differ below 2**bits. (x - 1) >> bits is 0 for these differences, -1 for x = 0, and also 0 for
    x = 2**bits exactly, where the second sort changes nothing.
    """
    differing = ranked[:, 1:] ^ ranked[:, :-1]
    return (differing.sub_(1).bitwise_right_shift_(bits) == 0).any(1).nonzero().flatten()


class _Scale:
    """What every block needs: ranks 1 to N, their inverses and discounts, and the gain and worth 2**r - 1 of a code."""

    def __init__(self, images: int, levels: _Levels) -> None:
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
