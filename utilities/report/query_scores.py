"""The value of every measure for every query of an evaluation, on disk: what runs are compared by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from utilities.files import replacing

NAME = "query_scores.npz"


def write_query_scores(folder: Path, names: Sequence[str] | np.ndarray, per_query: Mapping[str, Tensor]) -> None:
    """`query`, the names of the queries (Q,), and (Q,) float64 a measure under its name, NaN where it leaves one out.

    `pandas.DataFrame(dict(numpy.load("query_scores.npz")))` is a table of it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    columns = {name: values.double().numpy() for name, values in per_query.items()}
    with replacing(folder / NAME) as temporary:
        np.savez_compressed(temporary, query=np.asarray(names, dtype=np.str_), **columns)  # type: ignore[arg-type]


def read_query_scores(folder: Path) -> tuple[list[str], dict[str, Tensor]]:
    """Names of the queries and (Q,) values by measure; nothing where an evaluation of before kept none."""
    if not (folder / NAME).exists():
        return [], {}
    with np.load(folder / NAME) as columns:
        values = {name: torch.from_numpy(columns[name]) for name in columns.files if name != "query"}
        return columns["query"].tolist(), values
