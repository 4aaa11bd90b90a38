"""Measures of whole rankings, from ranked codes of gain: of a block at once, or of one while a cache holds it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from utilities.measures.ranked_codes import Levels

OF_RELEVANCE = frozenset({"r_precision", "map_at_r", "map"})


class Scale:
    """What all rankings need: ranks 1 to N, their inverses and discounts; the gain and worth 2**r - 1 of a code."""

    def __init__(self, images: int, levels: Levels) -> None:
        device = levels.gains["shared"].device
        self.ranks = torch.arange(1, images + 1, dtype=torch.float64, device=device)
        self.inverse, self.discount = 1 / self.ranks, 1 / torch.log2(1 + self.ranks)
        self.gain = {kind: gains.repeat_interleave(2) for kind, gains in levels.gains.items()}
        # one by one: torch's exp2 of a vector depends, in its last bit, on the place of a number in it
        self.worth = {
            kind: torch.tensor([2.0**g - 1 for g in gain.tolist()], dtype=torch.float64).to(device)
            for kind, gain in self.gain.items()
        }
        self.counted = levels.place is None  # a level is the number of shared labels

    def gains(self, codes: Tensor, kind: str) -> Tensor:
        """Codes (b, N) -> their gains, float64."""
        return (codes >> 1).double() if self.counted else self.gain[kind][codes]


class Expected(NamedTuple):
    """Of every query, (Q,) each: relevant images, images that share a label, and by kind of gain the DCG of the best
    order, where it is wanted.
    """

    relevant: Tensor
    sharing: Tensor
    ideal: dict[str, Tensor]

    def of(self, block: Tensor) -> Expected:
        """The same of some queries."""
        return Expected(self.relevant[block], self.sharing[block], {k: best[block] for k, best in self.ideal.items()})


def of_kind(measure: str, kind: str) -> str:
    """The name of a graded measure with this gain: "ndcg", "jaccard" -> "ndcg_jaccard"."""
    return measure if kind == "shared" else f"{measure}_{kind}"


def measure_block(codes: Tensor, wanted: Collection[str], expected: Expected, scale: Scale) -> dict[str, Tensor]:
    """Ranked codes (b, N) -> values (b,) of the wanted measures by name, NaN where nothing is relevant."""
    relevant, sharing, ideal = expected
    found: dict[str, Tensor] = {}
    if OF_RELEVANCE & set(wanted):
        total = relevant.masked_fill(relevant == 0, torch.nan)
        hits = (codes & 1).double()
        summed = hits.cumsum(1)
        found["r_precision"] = _at_rank(summed, relevant) / total
        summed.mul_(hits)
        found["map"] = summed @ scale.inverse / total
        if "map_at_r" in wanted:
            found["map_at_r"] = summed.masked_fill_(scale.ranks > relevant[:, None], 0) @ scale.inverse / total
    for kind in scale.gain:
        if kind in ideal:
            best = ideal[kind].masked_fill(ideal[kind] == 0, torch.nan)
            found[of_kind("ndcg", kind)] = scale.worth[kind][codes] @ scale.discount / best
        acg, wap = of_kind("acg", kind), of_kind("wap", kind)
        if {acg, wap} & set(wanted):
            total = sharing.masked_fill(sharing == 0, torch.nan)
            summed = scale.gains(codes, kind).cumsum(1)
            found[acg] = _at_rank(summed, sharing) / total
            found[wap] = summed.masked_fill_(codes < 2, 0) @ scale.inverse / total
    return found


def _at_rank(sums: Tensor, rank: Tensor) -> Tensor:
    """Column rank - 1 of every row."""
    return sums.gather(1, (rank.long() - 1).clamp(min=0)[:, None]).squeeze(1)


class RowMeasures:
    """As `measure_block` of one query on a CPU, in a third of the time: only ranks of images that count are looked at.

    The k-th relevant image at rank p adds k / p to the average precision, so no sum of hits is needed. numpy leaves
    the other cores to the threads that call this (its einsum, unlike a product, starts none).
    """

    def __init__(self, wanted: Collection[str], scale: Scale, *, same: bool) -> None:
        """same: relevant are the images that share a label."""
        self.wanted, self.same = set(wanted), same
        self.ranks, self.inverse, self.discount = (
            part.numpy() for part in (scale.ranks, scale.inverse, scale.discount)
        )
        self.gain = {kind: gains.numpy() for kind, gains in scale.gain.items()}
        self.worth = {kind: worth.numpy() for kind, worth in scale.worth.items()}

    def __call__(
        self, codes: np.ndarray, relevant: float, sharing: float, ideal: Mapping[str, float]
    ) -> dict[str, float]:
        """Ranked codes (N,) int64 -> the wanted measures by name, NaN where nothing is relevant."""
        found: dict[str, float] = {}
        of_relevance = bool(OF_RELEVANCE & self.wanted)
        graded = [kind for kind in self.gain if {of_kind("acg", kind), of_kind("wap", kind)} & self.wanted]
        if graded or (of_relevance and self.same):
            places = np.flatnonzero(codes > 1)
            inverse = self.inverse.take(places)
        for kind in graded:
            gains = torch.from_numpy(self.gain[kind].take(codes.take(places)))
            summed = torch.cumsum(gains, 0, out=gains).numpy()  # in a quarter of the time of numpy's
            first = int(places.searchsorted(sharing))
            found[of_kind("acg", kind)] = _share(summed[first - 1] if first else 0.0, sharing)
            found[of_kind("wap", kind)] = _share(_dot(summed, inverse), sharing)
        for kind, best in ideal.items():
            found[of_kind("ndcg", kind)] = _share(_dot(self.worth[kind].take(codes), self.discount), best)
        if of_relevance:
            if not self.same:
                places = np.flatnonzero(codes & 1)
                inverse = self.inverse.take(places)
            first = int(places.searchsorted(relevant))  # those within the first R ranks
            found["r_precision"] = _share(first, relevant)
            found["map"] = _share(_dot(self.ranks[: len(places)], inverse), relevant)
            found["map_at_r"] = _share(_dot(self.ranks[:first], inverse[:first]), relevant)
        return found


class Visitor:
    """Writes the measures of one ranking after the other into `found`, (b,) each by name."""

    def __init__(self, measures: RowMeasures, expected: Expected) -> None:
        self.measures = measures
        self.relevant, self.sharing = expected.relevant.tolist(), expected.sharing.tolist()
        self.ideal = {kind: best.tolist() for kind, best in expected.ideal.items()}
        self.found = {name: torch.empty(len(self.relevant), dtype=torch.float64) for name in measures.wanted}
        self._into = {name: values.numpy() for name, values in self.found.items()}

    def __call__(self, row: int, codes: np.ndarray) -> None:
        ideal = {kind: best[row] for kind, best in self.ideal.items()}
        values = self.measures(codes, self.relevant[row], self.sharing[row], ideal)
        for name, into in self._into.items():
            into[row] = values[name]


def _share(value: float, of: float) -> float:
    return value / of if of else float("nan")


def _dot(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.einsum("i,i", a, b))
