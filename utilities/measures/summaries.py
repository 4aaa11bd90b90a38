"""What one mean hides: how sure it is, and how it differs from label to label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from utilities.neighbours.statistics import NeighbourStatistics
from utilities.seeding import generator

_BLOCK_LABELS = 2**22  # label entries, or drawn queries, held together


def bootstrap_intervals(
    per_query: Mapping[str, Tensor], *, seed: int, draws: int = 1000, level: float = 0.95
) -> dict[str, tuple[float, float]]:
    """Percentile intervals of the mean over queries drawn anew (Efron 1979): name -> (low, high).

    per_query (Q,) a metric, NaN where a query is left out. All metrics see the same draws, so differences
    between them can be read. It says how much the score depends on which queries were asked, not on the
    training seed.
    """
    names = list(per_query)
    if not names:
        return {}
    values = torch.stack([per_query[name].double() for name in names], dim=1)
    counted = (~values.isnan()).double()
    both = torch.cat([values.nan_to_num(0), counted], dim=1)
    count = len(values)
    draw = generator("cpu", seed, "bootstrap")
    step = max(1, _BLOCK_LABELS // max(1, count))
    means = []
    for start in range(0, draws, step):
        rows = min(step, draws - start)
        places = torch.randint(count, (rows, count), generator=draw) + count * torch.arange(rows)[:, None]
        weights = torch.bincount(places.flatten(), minlength=rows * count).view(rows, count).double()
        sums = weights @ both
        means.append(sums[:, : len(names)] / sums[:, len(names) :])
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = torch.cat(means).nanquantile(tails, dim=0).tolist()
    return {name: (low[column], high[column]) for column, name in enumerate(names)}


class LabelTable(NamedTuple):
    """How well each label is found again; every tensor (L,) float64, NaN for a label that no query carries.

    nearest        K: the neighbours of each query that are looked at
    support        queries that carry the label
    recall         share of those queries with the label among the K nearest
    precision      mean share of their K nearest that carry it
    chance         share of the gallery that carries it: the precision of a random order
    recall_chance  the recall of a random order: of K images drawn from the gallery one or more carry it. A frequent
                   label is found by nearly every query whatever the network has learned
    means          per metric, its mean over those queries
    """

    nearest: int
    support: Tensor
    recall: Tensor
    precision: Tensor
    chance: Tensor
    recall_chance: Tensor
    means: dict[str, Tensor]

    def macro(self) -> dict[str, float]:
        """Means over the labels: every label counts alike."""
        return {"recall": float(self.recall.nanmean()), "precision": float(self.precision.nanmean())}

    def micro(self) -> dict[str, float]:
        """Means over the (query, label) pairs: every label counts by its support."""
        weights = self.support / self.support.sum()
        return {
            "recall": float((weights * self.recall.nan_to_num(0)).sum()),
            "precision": float((weights * self.precision.nan_to_num(0)).sum()),
        }

    def report(self, label_names: Sequence[str]) -> dict[str, Any]:
        """Plain values for `scores.json`, a line a label; NaN where no query carries it."""
        columns = {
            "recall": self.recall,
            "recall_chance": self.recall_chance,
            "precision": self.precision,
            "chance": self.chance,
            **self.means,
        }
        lines = [
            {"label": name, "support": int(self.support[label])}
            | {column: float(values[label]) for column, values in columns.items()}
            for label, name in enumerate(label_names)
        ]
        return {"nearest": self.nearest, "macro": self.macro(), "micro": self.micro(), "table": lines}


def label_table(
    indices: Tensor,
    query_labels: Tensor,
    gallery_labels: Tensor,
    *,
    per_query: Mapping[str, Tensor],
    inside: bool | Tensor = False,
) -> LabelTable:
    """indices (Q, K) of the neighbours, labels (Q, L) and (N, L) multi-hot, per_query (Q,) a metric.

    inside  the queries, or those where (Q,) is true, are images of the gallery: a query that carries a label is not
            among those that it may find
    """
    asked, gallery = query_labels.double(), gallery_labels.float()
    found = torch.zeros(asked.shape[1], dtype=torch.float64)
    carried = torch.zeros(asked.shape[1], dtype=torch.float64)
    k = indices.shape[1]
    step = max(1, _BLOCK_LABELS // max(1, k * asked.shape[1]))
    for start in range(0, len(indices), step):
        part = slice(start, start + step)
        times = gallery[indices[part]].sum(1).double() * asked[part]
        found += (times > 0).sum(0)
        carried += times.sum(0)
    support = asked.sum(0)
    present = support.masked_fill(support == 0, torch.nan)
    means = {name: _mean_by_label(values, asked) for name, values in per_query.items()}
    carriers, images = gallery_labels.double().sum(0), len(gallery_labels)
    others = (carriers - 1).clamp(min=0)
    within = torch.as_tensor(inside).double().expand(len(asked)) @ asked / support.clamp(min=1)  # share of those asked
    within = torch.where(support == 0, float(torch.as_tensor(inside).all()), within)
    chance = torch.lerp(carriers / max(1, images), others / max(1, images - 1), within)
    recall_chance = 1 - torch.lerp(_none_of(k, carriers, images), _none_of(k, others, images - 1), within)
    return LabelTable(k, support, found / present, carried / present / k, chance, recall_chance, means)


def _none_of(draws: int, carriers: Tensor, images: int) -> Tensor:
    """Probability that none of `draws` images, drawn without replacement, is one of the carriers (L,)."""
    without = torch.ones_like(carriers)
    for drawn in range(min(draws, images)):
        without = without * ((images - carriers - drawn).clamp(min=0) / (images - drawn))
    return without


def _mean_by_label(values: Tensor, asked: Tensor) -> Tensor:
    """Mean of (Q,) values over the queries that carry each label, those left out apart: (L,)."""
    counted = (~values.isnan()).double() @ asked
    return values.nan_to_num(0) @ asked / counted.masked_fill(counted == 0, torch.nan)


class Details(NamedTuple):
    """What stands beside the scores of an evaluation: intervals by metric, labels, and the neighbours on disk."""

    intervals: dict[str, tuple[float, float]]
    labels: LabelTable
    neighbours: NeighbourStatistics
