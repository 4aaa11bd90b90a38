"""The table of neighbours: what is written is read back, with pyarrow and without."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from utilities.errors import UserError
from utilities.neighbours.search import Neighbours
from utilities.neighbours.table import read_neighbours, write_neighbours


@pytest.mark.parametrize("with_pyarrow", [True, False])
def test_round_trip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_pyarrow: bool) -> None:
    if with_pyarrow:
        pytest.importorskip("pyarrow")
    else:
        monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setattr("utilities.neighbours.table._BLOCK_LABELS", 1)
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / ("neighbours.npz" if with_pyarrow else "neighbours.parquet")).touch()  # of an earlier one
    queries = torch.tensor([[1, 1, 0], [0, 0, 0]]).bool()
    gallery = torch.tensor([[1, 0, 0], [1, 1, 1], [0, 0, 1]]).bool()
    found = Neighbours(torch.tensor([[1, 0], [2, 1]]), torch.tensor([[0.1, 0.2], [0.3, 0.4]]).double())
    path = write_neighbours(
        tmp_path / "new", found, query_names=["q0", "q1"], gallery_names=np.array(["a", "b", "c"]),
        query_labels=queries, gallery_labels=gallery,
    )  # fmt: skip
    assert path.suffix == (".parquet" if with_pyarrow else ".npz")
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    table = read_neighbours(tmp_path / "new")
    assert table["query"].tolist() == ["q0", "q0", "q1", "q1"]
    assert table["rank"].tolist() == [1, 2, 1, 2]
    assert table["image"].tolist() == ["b", "a", "c", "b"]
    assert table["distance"].tolist() == pytest.approx([0.1, 0.2, 0.3, 0.4], abs=1e-7)
    assert table["shared_labels"].tolist() == [2, 1, 0, 0]
    assert table["jaccard"].tolist() == pytest.approx([2 / 3, 1 / 2, 0, 0])


class Largest(TorchDispatchMode):
    """The most elements of any tensor that is made."""

    elements = 0

    def __torch_dispatch__(self, call: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = call(*args, **kwargs or {})
        self.elements = max(self.elements, made.numel() if isinstance(made, torch.Tensor) else 0)
        return made


def test_memory_does_not_grow_with_queries_times_labels(tmp_path: Path) -> None:
    labels, names = torch.zeros(64, 20_000).bool(), [str(number) for number in range(64)]
    labels[:, :3] = True
    found = Neighbours(torch.arange(64).repeat(64, 1)[:, :32], torch.zeros(64, 32).double())
    with Largest() as largest:
        write_neighbours(
            tmp_path, found, query_names=names, gallery_names=names, query_labels=labels, gallery_labels=labels
        )
    assert largest.elements <= 2**22, "not 64 queries x 32 images x 20,000 labels"
    assert (read_neighbours(tmp_path)["shared_labels"] == 3).all()


def test_two_evaluations_may_write_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    labels, names = torch.eye(2).bool(), ["a", "b"]
    found = Neighbours(torch.tensor([[1], [0]]), torch.tensor([[0.1], [0.2]]).double())

    def write() -> Path:
        return write_neighbours(
            tmp_path, found, query_names=names, gallery_names=names, query_labels=labels, gallery_labels=labels
        )

    plain = parquet.write_table

    def write_and_be_overtaken(*given: Any, **options: Any) -> None:
        monkeypatch.setattr(parquet, "write_table", plain)
        plain(*given, **options)
        write()

    monkeypatch.setattr(parquet, "write_table", write_and_be_overtaken)
    path = write()
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_without_a_table(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no neighbours"):
        read_neighbours(tmp_path)
