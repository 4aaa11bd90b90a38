"""The neighbours of an evaluation as a table on disk, from which pictures and reports are drawn again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from utilities.errors import UserError
from utilities.files import replacing
from utilities.neighbours.search import Neighbours
from utilities.tensors.labels import jaccard_of_counts

_BLOCK_LABELS = 2**22  # label entries of images held together
NUMBERS = ("rank", "distance", "shared_labels", "jaccard")
COLUMNS = ("query", "image", *NUMBERS)


def write_neighbours(
    folder: Path,
    neighbours: Neighbours,
    *,
    query_names: Sequence[str] | np.ndarray,
    gallery_names: Sequence[str] | np.ndarray,
    query_labels: Tensor,
    gallery_labels: Tensor,
) -> Path:
    """One row a (query, rank) to `neighbours.parquet`, or `neighbours.npz` where pyarrow is not installed.

    Columns: query and image names, rank from 1, distance float32, shared_labels int16, jaccard float32.
    Written to a temporary name and renamed; a table of the other kind, from another machine, is removed.
    """
    k = neighbours.indices.shape[1]
    shared, similarity = _compare(neighbours.indices, query_labels, gallery_labels)
    images = neighbours.indices.numpy().ravel()
    table = {
        "query": (np.repeat(np.arange(len(query_names), dtype=np.int32), k), np.asarray(query_names)),
        "rank": np.tile(np.arange(1, k + 1, dtype=np.int32), len(query_names)),
        "image": (images.astype(np.int32), np.asarray(gallery_names)),
        "distance": neighbours.distances.numpy().ravel().astype(np.float32),
        "shared_labels": shared,
        "jaccard": similarity,
    }
    folder.mkdir(parents=True, exist_ok=True)
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        path, other = folder / "neighbours.npz", folder / "neighbours.parquet"
        spelled: dict[str, Any] = {name: _spelled(column) for name, column in table.items()}
        with replacing(path) as temporary:
            np.savez_compressed(temporary, **spelled)
    else:
        path, other = folder / "neighbours.parquet", folder / "neighbours.npz"
        columns = {
            name: pyarrow.DictionaryArray.from_arrays(column[0], [str(value) for value in column[1]])
            if isinstance(column, tuple)
            else pyarrow.array(column)
            for name, column in table.items()
        }
        with replacing(path) as temporary:
            parquet.write_table(pyarrow.table(columns), temporary, compression="zstd")
    other.unlink(missing_ok=True)
    return path


def _spelled(column: Any) -> np.ndarray:
    return column[1][column[0]] if isinstance(column, tuple) else column


def _compare(indices: Tensor, query_labels: Tensor, gallery_labels: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Shared labels int16 and Jaccard similarity float32 of every (query, neighbour), flattened."""
    queries, gallery = query_labels.float(), gallery_labels.float()
    shared = np.empty(indices.shape, np.int16)
    similarity = np.empty(indices.shape, np.float32)
    step = max(1, _BLOCK_LABELS // max(1, indices.shape[1] * gallery.shape[1]))
    for start in range(0, len(indices), step):
        part = slice(start, start + step)
        retrieved = gallery[indices[part]]
        counts = torch.bmm(retrieved, queries[part].unsqueeze(2)).squeeze(2)
        shared[part] = counts.numpy()
        similarity[part] = jaccard_of_counts(counts, queries[part].sum(1, keepdim=True), retrieved.sum(2)).numpy()
    return shared.ravel(), similarity.ravel()


def read_neighbours(folder: Path) -> dict[str, np.ndarray]:
    """The table of `write_neighbours` as columns; `UserError` where there is none."""
    path = _path(folder)
    if path.suffix == ".parquet":
        table = _parquet(path).read_table(path)
        return {name: table[name].to_numpy() for name in COLUMNS}
    with np.load(path) as columns:
        return {name: columns[name] for name in COLUMNS}


def read_batches(folder: Path, *, rows: int = 2**20) -> Iterator[dict[str, np.ndarray]]:
    """The columns of numbers in pieces of up to `rows` rows, without holding the table (but for an .npz)."""
    path = _path(folder)
    if path.suffix == ".parquet":
        with _parquet(path).ParquetFile(path) as file:
            for batch in file.iter_batches(rows, columns=list(NUMBERS)):
                yield {name: batch[name].to_numpy() for name in NUMBERS}
        return
    with np.load(path) as table:
        columns = {name: table[name] for name in NUMBERS}
    for start in range(0, len(columns["rank"]), rows):
        yield {name: column[start : start + rows] for name, column in columns.items()}


def count_rows(folder: Path) -> int:
    """Rows of the table."""
    path = _path(folder)
    if path.suffix == ".parquet":
        return int(_parquet(path).read_metadata(path).num_rows)
    with np.load(path) as columns:
        return len(columns["rank"])


def _path(folder: Path) -> Path:
    for name in ("neighbours.parquet", "neighbours.npz"):
        if (folder / name).exists():
            return folder / name
    raise UserError(f"{folder} holds no neighbours.parquet or neighbours.npz; run evaluate_model.py on it first")


def _parquet(path: Path) -> ModuleType:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise UserError(f"{path} is read with pyarrow ({error}): pip install pyarrow") from None
    return parquet
