"""What the saved neighbours look like by the number of labels they share with their query.

Counted from the table on disk (`utilities.neighbours.table`) without ever holding it: in batches of rows, or by vaex,
which uses every core and is imported here and nowhere else, on first use. Both give the same counts, and the same
means up to the order of summation.
"""

from __future__ import annotations

import importlib
import importlib.util
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from utilities.errors import UserError
from utilities.neighbours.density import BINS, Densities
from utilities.neighbours.table import count_rows, read_batches

ENGINES = ("auto", "batches", "vaex")
_VAEX_ROWS = 10**8  # from here on, "auto" takes vaex where it is installed: one thread counts 3e7 rows a second


class NeighbourStatistics(NamedTuple):
    """densities: (query, neighbour) pairs by distance and shared labels; similarities (L + 1,): their mean Jaccard."""

    densities: Densities
    similarities: Tensor

    def report(self) -> dict[str, Any]:
        """Plain values for `scores.json`: a line for every number of shared labels that occurs."""
        pairs, means = self.densities.counts.sum(1).tolist(), self.densities.means.tolist()
        lines = [
            {"shared_labels": shared, "pairs": count, "mean_distance": distance, "mean_jaccard": similarity}
            for shared, (count, distance, similarity) in enumerate(
                zip(pairs, means, self.similarities.tolist(), strict=True)
            )
            if count
        ]
        return {"pairs": sum(pairs), "intra_inter_overlap": self.densities.overlap(), "by_shared_labels": lines}


def why_rising(by_shared_labels: Sequence[Mapping[str, Any]], nearest: int) -> str:
    """Why neighbours that share more labels may lie farther away, of the lines of `report`; "" where none does."""
    pairs = itertools.pairwise(by_shared_labels)
    rising = [(a, b) for a, b in pairs if b["mean_distance"] > a["mean_distance"]]
    if not rising:
        return ""
    fewer, more = (line["shared_labels"] for line in rising[0])
    return (
        f"among the {nearest} nearest the mean distance rises from {fewer} to {more} shared labels"
        f"{' and elsewhere' if len(rising) > 1 else ''}: images that share few are there only where they lie near"
    )


def neighbour_statistics(
    folder: Path, *, labels: int, farthest: float = 2.0, engine: str = "auto", bins: int = BINS
) -> NeighbourStatistics:
    """Statistics of the table in `folder`, whose label sets are out of `labels` labels.

    farthest: the largest distance that there can be, of codes their number of bits.
    engine: "batches" reads the table in pieces; "vaex" needs it as parquet and vaex installed, else it is a
    `UserError`; "auto" takes vaex for more than 10**8 rows where it can.
    """
    if engine not in ENGINES:
        raise UserError(f"unknown engine {engine!r}; choices: {', '.join(ENGINES)}")
    path = folder / "neighbours.parquet"
    if engine == "auto":
        large = path.exists() and count_rows(folder) > _VAEX_ROWS
        engine = "vaex" if large and importlib.util.find_spec("vaex") is not None else "batches"
    counts, distances, similarities = (
        _by_vaex(path, labels + 1, bins, farthest)
        if engine == "vaex"
        else _by_batches(read_batches(folder), labels + 1, bins, farthest)
    )
    pairs = torch.from_numpy(counts).sum(1)
    edges = torch.linspace(0, farthest, bins + 1, dtype=torch.float64)
    densities = Densities(edges, torch.from_numpy(counts), torch.from_numpy(distances) / pairs)
    return NeighbourStatistics(densities, torch.from_numpy(similarities) / pairs)


def _by_batches(
    batches: Iterator[dict[str, np.ndarray]], width: int, bins: int, farthest: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs by shared labels and distance (width, bins) int64; sums of distances and of similarities (width,)."""
    counts = np.zeros(width * bins, np.int64)
    distances, similarities = np.zeros(width), np.zeros(width)
    for batch in batches:
        shared, distance = batch["shared_labels"].astype(np.int64), batch["distance"].astype(np.float64)
        place = np.minimum((distance * (bins / farthest)).astype(np.int64), bins - 1)
        counts += np.bincount(shared * bins + place, minlength=width * bins)
        distances += np.bincount(shared, distance, minlength=width)
        similarities += np.bincount(shared, batch["jaccard"].astype(np.float64), minlength=width)
    return counts.reshape(width, bins), distances, similarities


def vaex_module() -> ModuleType:
    """The vaex module; `UserError` saying what to install where there is none."""
    try:
        return importlib.import_module("vaex")
    except ImportError as error:
        raise UserError(
            f"vaex cannot be imported ({error}): `pip install vaex-core`, or use engine batches: the same results"
        ) from None


def _by_vaex(path: Path, width: int, bins: int, farthest: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As `_by_batches`, in one pass of vaex."""
    if not path.exists():
        raise UserError(f"vaex reads {path}, which is not there; install pyarrow and evaluate again")
    vaex = vaex_module()
    table = vaex.open(str(path))
    try:
        table["distance64"] = table["distance"].astype("float64")
        table["jaccard64"] = table["jaccard"].astype("float64")
        table["place"] = (table["distance64"] * (bins / farthest)).astype("int64").clip(0, bins - 1)
        by_shared = {"binby": "shared_labels", "limits": [-0.5, width - 0.5], "shape": width, "delay": True}
        limits = [[-0.5, width - 0.5], [-0.5, bins - 0.5]]
        counts = table.count(binby=["shared_labels", "place"], limits=limits, shape=(width, bins), delay=True)
        distances, similarities = table.sum("distance64", **by_shared), table.sum("jaccard64", **by_shared)
        table.execute()
        return counts.get().astype(np.int64), np.asarray(distances.get()), np.asarray(similarities.get())
    finally:
        table.close()
