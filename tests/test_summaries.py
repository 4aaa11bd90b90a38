"""Intervals by their law, the table of labels by loops."""

from __future__ import annotations

import math

import pytest
import torch

from utilities.measures.summaries import bootstrap_intervals, label_table


def test_interval_is_that_of_the_mean() -> None:
    values = torch.randn(4000, generator=torch.Generator().manual_seed(1)).double() * 3 + 5
    low, high = bootstrap_intervals({"a": values}, seed=0, draws=2000)["a"]
    error = float(values.std()) / 4000**0.5
    assert low == pytest.approx(float(values.mean()) - 1.96 * error, abs=0.15 * error)
    assert high == pytest.approx(float(values.mean()) + 1.96 * error, abs=0.15 * error)


def test_interval_covers_the_truth_as_often_as_it_says() -> None:
    draw = torch.Generator().manual_seed(2)
    covered = 0
    for number in range(200):
        values = torch.rand(60, generator=draw).double()
        low, high = bootstrap_intervals({"a": values}, seed=number, draws=300)["a"]
        covered += low <= 0.5 <= high
    assert 0.86 < covered / 200 < 0.99


def test_interval_leaves_out_what_the_score_leaves_out() -> None:
    values = torch.tensor([0.0, 1.0] * 50).double()
    some = torch.cat([values, torch.full((40,), torch.nan)])
    low, high = bootstrap_intervals({"a": some}, seed=0)["a"]
    assert low == pytest.approx(0.4, abs=0.03)
    assert high == pytest.approx(0.6, abs=0.03)
    assert all(map(math.isnan, bootstrap_intervals({"a": values * torch.nan}, seed=0)["a"]))


def test_interval_depends_on_the_seed_only() -> None:
    values = torch.rand(50).double()
    one = bootstrap_intervals({"a": values, "b": values}, seed=3)
    assert one["a"] == one["b"] == bootstrap_intervals({"a": values}, seed=3)["a"]
    assert one["a"] != bootstrap_intervals({"a": values}, seed=4)["a"]
    assert bootstrap_intervals({}, seed=0) == {}


def test_blocks_of_draws_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    values = torch.rand(50).double()
    whole = bootstrap_intervals({"a": values}, seed=3)
    monkeypatch.setattr("utilities.measures.summaries._BLOCK_LABELS", 1)
    assert bootstrap_intervals({"a": values}, seed=3)["a"] == pytest.approx(whole["a"], abs=1e-12)


def test_table_of_labels_equals_loops() -> None:
    draw = torch.Generator().manual_seed(5)
    queries, gallery = (torch.rand(count, 6, generator=draw) < 0.3 for count in (25, 40))
    queries[:, 5] = False
    indices = torch.randint(40, (25, 4), generator=draw)
    score = torch.rand(25, generator=draw).double()
    score[3] = torch.nan
    table = label_table(indices, queries, gallery, per_query={"map": score})
    for label in range(5):
        asking = [row for row in range(25) if queries[row, label]]
        tops = [[bool(gallery[i, label]) for i in indices[row].tolist()] for row in asking]
        assert table.support[label] == len(asking)
        assert table.recall[label].item() == pytest.approx(sum(map(any, tops)) / len(asking))
        assert table.precision[label].item() == pytest.approx(sum(map(sum, tops)) / 4 / len(asking))
        assert table.chance[label].item() == pytest.approx(gallery[:, label].float().mean().item())
        values = [float(score[row]) for row in asking if row != 3]
        assert table.means["map"][label].item() == pytest.approx(sum(values) / len(values))
        others = [not gallery[row, label] for row in range(40)]
        none = sum(others) * (sum(others) - 1) * (sum(others) - 2) * (sum(others) - 3) / (40 * 39 * 38 * 37)
        assert table.recall_chance[label].item() == pytest.approx(1 - none)
    carried = torch.tensor([[True, True], [False, True], [False, True], [False, True]])
    own = label_table(torch.zeros(4, 2).long(), carried, carried, per_query={}, inside=True)
    assert own.chance.tolist() == pytest.approx([0, 1])  # the query itself is no image that could be found
    assert own.recall_chance.tolist() == pytest.approx([0, 1])
    some = label_table(
        torch.zeros(4, 2).long(), carried, carried, per_query={}, inside=torch.tensor([0, 1, 1, 0]).bool()
    )
    assert some.chance.tolist() == pytest.approx([1 / 4, 1])  # of the first label, whose query is from elsewhere
    assert some.recall_chance.tolist() == pytest.approx([1 / 2, 1])
    half = label_table(
        torch.zeros(4, 1).long(), ~carried, carried, per_query={}, inside=torch.tensor([0, 1, 1, 1]).bool()
    )
    assert half.chance.tolist() == pytest.approx([0, 1])  # three queries of the first label: (1 - 1) / 3 each
    lines = table.report([f"label {number}" for number in range(6)])["table"]
    assert [line["support"] for line in lines] == table.support.tolist()
    assert lines[2]["map"] == table.means["map"][2]
    assert math.isnan(lines[5]["recall"])
    assert table.nearest == 4
    assert table.support[5] == 0
    assert table.recall[5].isnan()
    assert table.macro()["recall"] == pytest.approx(table.recall[:5].mean().item())
    pairs = table.support[:5] / table.support.sum()
    assert table.micro()["precision"] == pytest.approx((pairs * table.precision[:5]).sum().item())
