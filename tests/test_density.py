"""Distance densities: counted pair by pair, whatever the block size."""

from __future__ import annotations

import math

import pytest
import torch

from utilities.neighbours.density import distance_densities


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
    for block in (1, 7):
        assert torch.equal(distance_densities(rows, labels, block=block).counts, whole.counts)


def test_overlap_is_zero_apart_and_one_alike() -> None:
    apart = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]])
    labels = torch.tensor([[1, 0], [1, 0], [0, 1], [0, 1]]).bool()
    assert distance_densities(apart, labels).overlap() == 0
    assert distance_densities(apart, labels).inter[-1] == 4  # a distance of exactly 2 is counted
    alike = torch.tensor([[1.0, 0.0]]).expand(4, 2)
    assert distance_densities(alike, labels).overlap() == 1


def test_without_both_kinds_of_pairs_there_is_no_overlap() -> None:
    rows, _ = data()
    assert math.isnan(distance_densities(rows, torch.ones(60, 2).bool()).overlap())
    assert math.isnan(distance_densities(rows, torch.zeros(60, 2).bool()).overlap())
    ones = torch.ones(60, 2).bool()
    for asked, carried in ((ones, ~ones), (~ones, ones)):  # labels on one side alone: no pairs at all
        found = distance_densities(rows, asked, gallery=(rows, carried))
        assert found.counts.sum() == 0
        assert math.isnan(found.overlap())


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
    small = distance_densities(rows[:20], labels[:20], gallery=(rows[20:], labels[20:]), bins=40, block=1)
    assert torch.equal(small.counts, counts)


def test_no_pair_of_an_image_with_itself() -> None:
    """Among all in a gallery of all, every pair is counted twice and none of an image with itself."""
    rows, labels = data()
    twice = distance_densities(rows, labels, gallery=(rows, labels), query_rows=torch.arange(60), block=7)
    assert torch.equal(twice.counts, 2 * distance_densities(rows, labels).counts)


@pytest.mark.parametrize("gallery", [False, True])
def test_of_many_pairs_a_share_is_counted_with_its_error(gallery: bool) -> None:
    draw = torch.Generator().manual_seed(2)
    labels = torch.rand(1024, 4, generator=draw) < 0.4
    rows = torch.nn.functional.normalize(
        labels.float() @ torch.randn(4, 16, generator=draw) + torch.randn(1024, 16, generator=draw)
    )
    labels[:, 0] |= ~labels.any(1)
    options = {"gallery": (rows[512:], labels[512:])} if gallery else {}
    images, own = (rows[:512], labels[:512]) if gallery else (rows, labels)
    whole = distance_densities(images, own, block=16, **options)  # type: ignore[arg-type]
    assert (whole.share, whole.error) == (1, 0)
    some, again = (distance_densities(images, own, block=16, most_pairs=50_000, **options) for _ in range(2))  # type: ignore[arg-type]
    assert torch.equal(some.counts, again.counts)
    assert some.counts.sum() <= 60_000
    assert some.share == pytest.approx(some.counts.sum().item() / whole.counts.sum().item())
    assert some.counts.sum() % 16**2 == 0  # whole blocks, each image in equally many pairs
    assert 0 < some.error < 0.02
    assert abs(some.overlap() - whole.overlap()) < 4 * some.error + 0.002  # fewer pairs a bin overlap a little less
    assert some.means[0].item() == pytest.approx(whole.means[0].item(), abs=0.01)


def test_the_error_of_a_share_is_that_over_many_orders() -> None:
    """Estimated errors are as large as overlaps really scatter about that of all pairs."""
    draw = torch.Generator().manual_seed(3)
    labels = torch.rand(600, 4, generator=draw) < 0.4
    labels[:, 0] |= ~labels.any(1)
    rows = torch.nn.functional.normalize(
        labels.float() @ torch.randn(4, 8, generator=draw) + torch.randn(600, 8, generator=draw)
    )
    whole = distance_densities(rows, labels, bins=20).overlap()
    off, estimated = [], []
    for seed in range(30):
        order = torch.randperm(600, generator=torch.Generator().manual_seed(seed))
        found = distance_densities(rows[order], labels[order], bins=20, most_pairs=20_000, block=10)
        off.append((found.overlap() - whole) ** 2)
        estimated.append(found.error**2)
    assert 0.5 < (sum(estimated) / sum(off)) ** 0.5 < 2
