"""Distance densities: counted pair by pair, whatever the block size."""

from __future__ import annotations

import math

import pytest
import torch

from utilities.neighbours.density import distance_densities, intra_inter_overlap


def data(count: int = 60) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    rows = torch.nn.functional.normalize(torch.randn(count, 8, generator=draw), dim=1)
    labels = torch.rand(count, 5, generator=draw) < 0.3
    labels[::9] = False
    return rows, labels


def test_equal_to_a_loop_over_pairs() -> None:
    rows, labels = data()
    found = distance_densities(rows, labels, bins=40)
    counts = torch.zeros(6, 40, dtype=torch.int64)
    distances: dict[int, list[float]] = {}
    for i in range(60):
        for j in range(i):
            if labels[i].any() and labels[j].any():
                shared = int((labels[i] & labels[j]).sum())
                distance = math.dist(rows[i].tolist(), rows[j].tolist())
                counts[shared, min(39, int(distance * 20))] += 1
                distances.setdefault(shared, []).append(distance)
    assert torch.equal(found.counts, counts)
    for shared, values in distances.items():
        assert found.means[shared].item() == pytest.approx(sum(values) / len(values), abs=1e-7)
    assert torch.equal(found.intra + found.inter, counts.sum(0))


def test_block_size_does_not_matter() -> None:
    rows, labels = data()
    whole = distance_densities(rows, labels)
    for block_bytes in (1, 20_000):
        assert torch.equal(distance_densities(rows, labels, block_bytes=block_bytes).counts, whole.counts)


def test_overlap_is_zero_apart_and_one_alike() -> None:
    apart = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]])
    labels = torch.tensor([[1, 0], [1, 0], [0, 1], [0, 1]]).bool()
    assert intra_inter_overlap(apart, labels) == 0
    assert distance_densities(apart, labels).inter[-1] == 4  # a distance of exactly 2 is counted
    alike = torch.tensor([[1.0, 0.0]]).expand(4, 2)
    assert intra_inter_overlap(alike, labels) == 1


def test_without_both_kinds_of_pairs_there_is_no_overlap() -> None:
    rows, _ = data()
    assert math.isnan(intra_inter_overlap(rows, torch.ones(60, 2).bool()))
    assert math.isnan(intra_inter_overlap(rows, torch.zeros(60, 2).bool()))


def test_pairs_with_another_gallery() -> None:
    rows, labels = data()
    found = distance_densities(rows[:20], labels[:20], gallery=(rows[20:], labels[20:]), bins=40)
    counts = torch.zeros(6, 40, dtype=torch.int64)
    for i in range(20):
        for j in range(20, 60):
            if labels[i].any() and labels[j].any():
                distance = math.dist(rows[i].tolist(), rows[j].tolist())
                counts[int((labels[i] & labels[j]).sum()), min(39, int(distance * 20))] += 1
    assert torch.equal(found.counts, counts)
    small = distance_densities(rows[:20], labels[:20], gallery=(rows[20:], labels[20:]), bins=40, block_bytes=1)
    assert torch.equal(small.counts, counts)
