"""Statistics of the table of neighbours: equal to a loop over its rows, whoever counts."""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path

import pytest
import torch

from utilities.errors import UserError
from utilities.neighbours import statistics as module
from utilities.neighbours.search import Neighbours
from utilities.neighbours.statistics import neighbour_statistics, why_rising
from utilities.neighbours.table import count_rows, read_batches, read_neighbours, write_neighbours

NEEDS_VAEX = pytest.mark.skipif(importlib.util.find_spec("vaex") is None, reason="vaex is not installed")
ENGINES = ["batches", pytest.param("vaex", marks=NEEDS_VAEX)]


def write(folder: Path, queries: int = 40, k: int = 5, labels: int = 6) -> None:
    draw = torch.Generator().manual_seed(1)
    asked, gallery = (torch.rand(count, labels, generator=draw) < 0.4 for count in (queries, 70))
    indices = torch.randint(70, (queries, k), generator=draw)
    distances = torch.rand(queries, k, generator=draw).double() * 2
    distances[0] = torch.tensor([0.0, 0.01, 0.5, 1.0, 2.0])  # at the edges of bins
    write_neighbours(
        folder, Neighbours(indices, distances), query_names=[f"q{i}" for i in range(queries)],
        gallery_names=[f"g{i}" for i in range(70)], query_labels=asked, gallery_labels=gallery,
    )  # fmt: skip


@pytest.mark.parametrize("engine", ENGINES)
def test_equal_to_a_loop_over_the_rows(tmp_path: Path, engine: str) -> None:
    pytest.importorskip("pyarrow")
    write(tmp_path)
    found = neighbour_statistics(tmp_path, labels=6, engine=engine, bins=50)
    table = read_neighbours(tmp_path)
    counts = torch.zeros(7, 50, dtype=torch.int64)
    rows: dict[int, list[tuple[float, float]]] = {}
    for shared, distance, jaccard in zip(table["shared_labels"], table["distance"], table["jaccard"], strict=True):
        counts[int(shared), min(49, int(float(distance) * 25))] += 1
        rows.setdefault(int(shared), []).append((float(distance), float(jaccard)))
    assert torch.equal(found.densities.counts, counts)
    assert found.densities.inter[-1] + found.densities.intra[-1] > 0  # the distance of exactly 2
    for shared in range(7):
        values = rows.get(shared)
        if not values:
            assert found.densities.means[shared].isnan()
            continue
        assert found.densities.means[shared].item() == pytest.approx(sum(d for d, _ in values) / len(values), abs=1e-12)
        assert found.similarities[shared].item() == pytest.approx(sum(j for _, j in values) / len(values), abs=1e-12)


def test_lines_of_the_report(tmp_path: Path) -> None:
    write(tmp_path)
    report = neighbour_statistics(tmp_path, labels=6).report()
    lines = report["by_shared_labels"]
    assert report["pairs"] == sum(line["pairs"] for line in lines) == 200
    assert [line["shared_labels"] for line in lines] == sorted({line["shared_labels"] for line in lines})
    assert lines[0]["mean_jaccard"] == 0
    assert not any(math.isnan(value) for line in lines for value in line.values())
    assert 0 < report["intra_inter_overlap"] < 1


@pytest.mark.parametrize("engine", ENGINES)
def test_distances_of_codes_are_told_apart_up_to_their_bits(tmp_path: Path, engine: str) -> None:
    """Images that share a label differ in 3 bits of 64, the others in 40: no overlap, where 2 is not the farthest."""
    pytest.importorskip("pyarrow")
    carried = torch.tensor([[1, 0], [0, 1]]).bool().repeat(10, 1)
    indices = torch.tensor([[0, 1]]).expand(10, 2)
    found = Neighbours(indices, torch.tensor([[3.0, 40.0]]).expand(10, 2).double())
    names = [f"g{i}" for i in range(20)]
    labels = {"query_labels": carried[:1].expand(10, 2), "gallery_labels": carried}
    write_neighbours(tmp_path, found, query_names=names[:10], gallery_names=names, **labels)
    densities = neighbour_statistics(tmp_path, labels=2, farthest=64, engine=engine).densities
    assert densities.overlap() == 0
    assert densities.edges[-1] == 64
    assert densities.counts[1].nonzero().tolist() == [[3 * 200 // 64]]


def test_without_pyarrow_the_numbers_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyarrow")
    write(tmp_path / "parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    write(tmp_path / "npz")
    monkeypatch.undo()
    assert (tmp_path / "npz" / "neighbours.npz").exists()
    one, other = (neighbour_statistics(tmp_path / name, labels=6) for name in ("parquet", "npz"))
    assert one.report() == other.report()
    assert count_rows(tmp_path / "parquet") == count_rows(tmp_path / "npz") == 200
    for name in ("parquet", "npz"):
        assert [len(batch["rank"]) for batch in read_batches(tmp_path / name, rows=90)] == [90, 90, 20]
    with pytest.raises(UserError, match="not there; install pyarrow"):
        neighbour_statistics(tmp_path / "npz", labels=6, engine="vaex")


def test_vaex_is_asked_for_only_where_it_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyarrow")
    write(tmp_path)
    asked = []
    monkeypatch.setattr(
        module, "_by_vaex", lambda *given: asked.append(given) or module._by_batches(iter(()), *given[1:])
    )
    neighbour_statistics(tmp_path, labels=6)
    assert not asked
    monkeypatch.setattr(module, "_VAEX_ROWS", 199)
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    neighbour_statistics(tmp_path, labels=6)
    assert not asked, "not installed"
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: object())
    neighbour_statistics(tmp_path, labels=6)
    assert len(asked) == 1


def test_missing_vaex_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyarrow")
    write(tmp_path)
    monkeypatch.setitem(sys.modules, "vaex", None)
    with pytest.raises(UserError, match="pip install vaex-core"):
        neighbour_statistics(tmp_path, labels=6, engine="vaex")
    with pytest.raises(UserError, match="choices: auto, batches, vaex"):
        neighbour_statistics(tmp_path, labels=6, engine="spark")


def test_a_folder_without_a_table(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no neighbours"):
        neighbour_statistics(tmp_path, labels=6)


def test_distances_that_rise_with_shared_labels_are_explained() -> None:
    lines = [{"shared_labels": shared, "mean_distance": d} for shared, d in ((0, 0.3), (2, 0.4), (3, 0.2), (4, 0.25))]
    said = why_rising(lines, 8)
    assert said.startswith("among the 8 nearest the mean distance rises from 0 to 2 shared labels and elsewhere: ")
    assert "and elsewhere" not in why_rising(lines[:3], 8)
    assert why_rising(lines[1:3], 8) == ""
    assert why_rising([], 8) == ""
