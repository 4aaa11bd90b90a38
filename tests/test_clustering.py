"""Matching of clusters from one clustering to the next, k-means, and merging of small clusters."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
import torch.nn.functional as F

from utilities.errors import UserError
from utilities.neighbours.clustering import Clusters, _lloyd, kmeans, match_clusters, merge_small


def test_a_three_cycle_is_undone():
    previous = torch.tensor([0, 1, 2] * 4)
    current = torch.tensor([1, 2, 0] * 4)
    assert torch.equal(match_clusters(previous, current, 3), previous)


@pytest.mark.parametrize("k", range(2, 17))
def test_any_relabelling_is_undone(k):
    random = torch.Generator().manual_seed(k)
    for _ in range(20):
        previous = torch.cat([torch.arange(k), torch.randint(k, (10 * k,), generator=random)])
        relabelled = torch.randperm(k, generator=random)[previous]
        assert torch.equal(match_clusters(previous, relabelled, k), previous)


def test_the_cost_is_least_over_all_permutations():
    random = torch.Generator().manual_seed(0)
    for _ in range(30):
        previous, current = torch.randint(4, (2, 25), generator=random)
        matched = match_clusters(previous, current, 4)

        def cost(labels, previous=previous):
            return sum(int(((labels == c) ^ (previous == c)).sum()) for c in range(4))

        assert cost(matched) == min(cost(torch.tensor(p)[current]) for p in permutations(range(4)))
        # a renumbering: the partition itself is untouched
        assert torch.equal(matched[:, None] == matched, current[:, None] == current)


def test_matching_again_changes_nothing():
    previous, current = torch.randint(5, (2, 60), generator=torch.Generator().manual_seed(1))
    once = match_clusters(previous, current, 5)
    assert torch.equal(match_clusters(previous, once, 5), once)
    assert torch.equal(match_clusters(once, once, 5), once)


def test_empty_clusters_take_the_numbers_that_are_left():
    previous = torch.tensor([0, 0, 1, 1, 2, 2])
    current = torch.tensor([2, 2, 2, 2, 0, 0])  # 1 is empty
    matched = match_clusters(previous, current, 3)
    assert matched[4] == 2
    assert set(matched.tolist()) <= {0, 1, 2}
    assert torch.equal(match_clusters(previous, torch.zeros(6, dtype=torch.int64), 1 + 2), torch.zeros(6).long())


def test_assignments_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="6 and 5 images"):
        match_clusters(torch.zeros(6).long(), torch.zeros(5).long(), 2)


def blobs(k: int = 4, each: int = 1000, spread: float = 0.05, width: int = 8):
    random = torch.Generator().manual_seed(2)
    centres = F.normalize(torch.randn(k, width, generator=random))
    truth = torch.arange(k * each) % k
    return centres[truth] + spread * torch.randn(k * each, width, generator=random), truth


def test_separate_blobs_are_found_from_all_rows():
    features, truth = blobs()
    assignment, centroids = kmeans(features, 4, seed=0, iterations=20, redo=3)
    assert assignment.dtype == torch.int64
    assert assignment.shape == (4000,)
    assert centroids.shape == (4, 8)
    assert torch.equal(match_clusters(truth, assignment, 4), truth)
    # 1000 rows a cluster: a mean over 256 of them, as faiss draws by default, would be 10 times as far off
    means = torch.stack([features[assignment == c].mean(0) for c in range(4)])
    assert (centroids - means).abs().max() < 1e-5


def test_equal_seeds_give_equal_clusters():
    features = torch.randn(300, 5, generator=torch.Generator().manual_seed(3))
    one, two = (kmeans(features, 6, seed=7, iterations=5, redo=2) for _ in range(2))
    assert torch.equal(one.assignment, two.assignment)
    assert torch.equal(one.centroids, two.centroids)
    other = kmeans(features, 6, seed=8, iterations=5, redo=2)
    assert not torch.equal(one.centroids, other.centroids)


def test_every_row_is_assigned_to_its_nearest_centroid():
    features = torch.randn(200, 4, generator=torch.Generator().manual_seed(4))
    assignment, centroids = kmeans(features, 7, seed=0, iterations=3, redo=1)
    assert torch.equal(assignment, torch.cdist(features, centroids).argmin(1))


def inertia(features, clusters: Clusters) -> float:
    return (features - clusters.centroids[clusters.assignment]).square().sum().item()


def test_more_iterations_and_more_starts_are_no_worse():
    features = torch.rand(400, 3, generator=torch.Generator().manual_seed(5))
    by_iterations = [inertia(features, kmeans(features, 8, seed=1, iterations=n, redo=1)) for n in (0, 1, 3, 30)]
    assert by_iterations == sorted(by_iterations, reverse=True)
    by_starts = [inertia(features, kmeans(features, 8, seed=1, iterations=2, redo=n)) for n in (1, 2, 5, 20)]
    assert by_starts == sorted(by_starts, reverse=True)
    assert by_starts[0] > by_starts[-1]


def test_starts_are_drawn_by_squared_distance():
    """98 rows at 0, one at 1, one at 3: after a start at 0, 3 is drawn with probability 9/10."""
    features = torch.zeros(100, 1)
    features[40], features[70] = 1.0, 3.0
    drawn = []
    for seed in range(500):
        first, second = kmeans(features, 2, seed=seed, iterations=0, redo=1).centroids.flatten()
        if first == 0:
            drawn.append(second.item())
    assert set(drawn) == {1.0, 3.0}  # never a second start on the first
    assert sum(d == 3 for d in drawn) / len(drawn) == pytest.approx(0.9, abs=4 * (0.09 / len(drawn)) ** 0.5)


def test_an_emptied_cluster_starts_anew_far_from_the_others():
    features = torch.tensor([[50.0], [50.1], [50.2], [55.0]])
    lost = torch.tensor([[50.1], [999.0]])
    centroids = _lloyd(features, features.square().flatten(), lost[None], iterations=10)[0]
    torch.testing.assert_close(centroids.sort(0).values, torch.tensor([[50.1], [55.0]]))


def test_duplicates_and_as_many_clusters_as_rows():
    same = torch.ones(6, 3)
    assert kmeans(same, 3, seed=0, iterations=5, redo=1).assignment.unique().numel() == 1
    distinct = torch.eye(5)
    assert kmeans(distinct, 5, seed=0, iterations=5, redo=1).assignment.unique().numel() == 5
    assert not kmeans(distinct, 1, seed=0, iterations=5, redo=1).assignment.any()


def test_clusters_of_nearly_equal_rows_are_told_apart():
    """Two directions 1e-4 apart on the unit sphere: without centring, half of the rows go to the wrong one."""
    random = torch.Generator().manual_seed(6)
    one = F.normalize(torch.randn(1, 256, generator=random))
    step = 1e-4 * F.normalize(torch.randn(1, 256, generator=random))
    truth = torch.arange(600) % 2
    features = F.normalize(one + truth[:, None] * step + 1e-6 * torch.randn(600, 256, generator=random))
    for seed in range(3):
        found = kmeans(features, 2, seed=seed, iterations=20, redo=1)
        assert torch.equal(match_clusters(truth, found.assignment, 2), truth)


def test_starts_that_run_together_end_as_they_would_alone():
    """Also where the rows are more than one block, and starts stop moving after different numbers of iterations."""
    features = torch.randn(5000, 6, generator=torch.Generator().manual_seed(7))
    lengths, starts = features.square().sum(1), features[:12].view(3, 4, 6)
    together = _lloyd(features, lengths, starts, iterations=30)
    for start, centroids in zip(starts, together, strict=True):
        expected = start
        for _ in range(30):
            nearest = torch.cdist(features.double(), expected.double()).argmin(1)
            expected = torch.stack([features[nearest == c].mean(0) for c in range(4)])
        torch.testing.assert_close(centroids, expected, rtol=0, atol=1e-4)


def test_bad_input_is_named():
    with pytest.raises(UserError, match="9 clusters of 4 images"):
        kmeans(torch.eye(4), 9, seed=0, iterations=1, redo=1)
    with pytest.raises(UserError, match="NaN"):
        kmeans(torch.full((4, 2), torch.nan), 2, seed=0, iterations=1, redo=1)


def test_bfloat16_features_are_clustered_in_float32_under_autocast():
    features, truth = blobs(each=50)
    with torch.autocast("cpu", torch.bfloat16):
        clusters = kmeans(features.bfloat16(), 4, seed=0, iterations=20, redo=2)
    assert clusters.centroids.dtype == torch.float32
    assert torch.equal(match_clusters(truth, clusters.assignment, 4), truth)


def clusters_of(sizes, positions) -> Clusters:
    assignment = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    return Clusters(assignment, torch.tensor(positions, dtype=torch.float32)[:, None])


def test_small_clusters_join_the_nearest():
    clusters = clusters_of([10, 2, 8], [0.0, 0.9, 2.0])
    merged = merge_small(clusters, minimum=5)
    assert torch.bincount(merged, minlength=3).tolist() == [12, 0, 8]
    assert torch.equal(merge_small(clusters, minimum=2), clusters.assignment)
    assert torch.bincount(clusters.assignment).tolist() == [10, 2, 8]  # the input is left alone


def test_merging_goes_on_until_all_are_large_enough_or_one_is_left():
    chain = clusters_of([1, 2, 3, 10], [0.0, 1.0, 3.0, 100.0])
    merged = merge_small(chain, minimum=6)  # 0 joins 1; 2 (the first of two sizes of 3) and 1 find each other
    assert sorted(torch.bincount(merged, minlength=4).tolist()) == [0, 0, 6, 10]
    assert (merged[6:] == 3).all()
    assert merge_small(chain, minimum=1000).unique().numel() == 1


def test_empty_clusters_are_neither_merged_nor_joined():
    clusters = clusters_of([4, 0, 1], [0.0, 10.0, 9.0])
    assert torch.bincount(merge_small(clusters, minimum=3), minlength=3).tolist() == [5, 0, 0]
