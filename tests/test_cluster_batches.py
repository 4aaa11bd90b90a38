"""Clusters that survive a restart, and batches of one cluster at a time."""

import numpy as np
import pytest
import torch

from datasets.batches.cluster_batches import ClusterBatches
from utilities.errors import UserError
from utilities.neighbours.clustering import TrackedClusters

SIZES = (12, 30, 7)  # rows of clusters 0, 2 and 5


@pytest.fixture
def clustered():
    """(labels, assignment) of three clusters in mixed order, and three rows that belong to none."""
    generator = np.random.default_rng(0)
    assignment = generator.permutation(np.repeat([0, 2, 5, -1], [*SIZES, 3]))
    labels = generator.random((len(assignment), 4)) < 0.3
    labels[np.arange(len(labels)), generator.integers(0, 4, len(labels))] = True
    return labels, assignment


def batches_of(clustered, order="shuffled", batch_size=6, seed=0):
    return ClusterBatches(*clustered, batch_size=batch_size, samples_per_class=2, seed=seed, order=order)


@pytest.mark.parametrize("order", ["shuffled", "in_turn"])
def test_a_batch_lies_in_one_cluster_and_holds_no_image_twice(clustered, order):
    for batch in batches_of(clustered, order).epoch(0):
        assert len(set(clustered[1][batch].tolist())) == 1
        assert len(set(batch.tolist())) == 6


def test_shuffled_clusters_come_in_proportion_to_their_size(clustered):
    epochs = [clustered[1][batches_of(clustered).epoch(e)[:, 0]] for e in range(6)]
    for clusters in epochs:
        assert np.bincount(clusters, minlength=6).tolist() == [2, 0, 5, 0, 0, 1]
    assert len({tuple(clusters) for clusters in epochs}) > 1, "in an order that is new in every epoch"


def test_clusters_in_turn_repeat_the_small_ones(clustered):
    sampler = batches_of(clustered, "in_turn")
    clusters = clustered[1][sampler.epoch(0)[:, 0]]
    assert clusters.tolist() == [0, 2, 5] * 5
    batches = sampler.epoch(0)
    assert np.array_equal(batches[0], batches[6]), "cluster 0 has two batches, then starts again"


def test_epochs_are_a_function_of_seed_and_epoch(clustered):
    sampler = batches_of(clustered)
    sampler.epoch(7)
    assert np.array_equal(sampler.epoch(1), batches_of(clustered).epoch(1))
    assert not np.array_equal(sampler.epoch(1), sampler.epoch(2))
    assert not np.array_equal(sampler.epoch(1), batches_of(clustered, seed=1).epoch(1))


def test_a_cluster_smaller_than_a_batch_is_an_error(clustered):
    with pytest.raises(UserError, match="--batch_size 8 is more than the 7 images with a label to draw from"):
        batches_of(clustered, batch_size=8)


def tracked(k=3, size=60):
    return TrackedClusters(size=size, k=k, width=3, iterations=20, redo=2, seed=0)


def blobs(order, per_blob=20):
    """Rows around far-apart centres, one blob after the other in the given order."""
    generator = torch.Generator().manual_seed(0)
    centres = 10 * torch.eye(3)[torch.tensor(order)].repeat_interleave(per_blob, 0)
    return centres + 0.1 * torch.randn(len(centres), 3, generator=generator)


def test_clusters_keep_their_numbers_and_count_what_changed():
    clusters, rows = tracked(), torch.arange(60)
    clusters.divide(blobs([0, 1, 2]), rows, epoch=0)
    first = clusters.assignment.clone()
    assert sorted(torch.bincount(first).tolist()) == [20, 20, 20]
    clusters.divide(blobs([2, 0, 1]), rows, epoch=2)  # other places, other starts, the same groups
    assert torch.equal(clusters.assignment, first)
    assert clusters.changed == 0
    assert clusters.made_in == 2
    moved = blobs([0, 1, 2])
    moved[:6] = moved[20]
    clusters.divide(moved, rows, epoch=4)
    assert clusters.changed.item() == pytest.approx(0.1)
    assert torch.equal(clusters.assignment[6:], first[6:])


def test_small_clusters_join_others_for_drawing_and_stay_for_matching():
    clusters, rows = tracked(), torch.arange(60)
    uneven = blobs([0, 1, 2])
    uneven[5:20] = uneven[20]  # five rows stay around the first centre
    clusters.divide(uneven, rows, epoch=0)
    assert sorted(torch.bincount(clusters.assignment).tolist()) == [5, 20, 35]
    assignment = clusters.assignment.clone()
    drawn_from = clusters.drawn_from(10)
    assert torch.equal(clusters.assignment, assignment)
    drawn = torch.bincount(drawn_from)
    assert drawn[drawn > 0].min() >= 10
    assert drawn.sum() == 60
    large = torch.bincount(clusters.assignment)[clusters.assignment] >= 10
    assert torch.equal(drawn_from[large], clusters.assignment[large])
    assert torch.equal(clusters.drawn_from(5), clusters.assignment), "merged for a batch, not for good"
    assert clusters.drawn_from(36).unique().numel() == 1


def test_centroids_have_the_numbers_of_their_clusters():
    clusters, rows = tracked(), torch.arange(60)
    clusters.divide(blobs([0, 1, 2]), rows, epoch=0)
    moved = blobs([2, 0, 1])
    clusters.divide(moved, rows, epoch=2)
    means = torch.stack([moved[clusters.assignment == k].mean(0) for k in range(3)])
    torch.testing.assert_close(clusters.centroids, means)


def test_rows_that_are_not_clustered_stay_outside():
    clusters = tracked()
    clusters.divide(blobs([0, 1, 2]), torch.arange(50), epoch=0)
    assert (clusters.assignment[50:] == -1).all()
    assert (clusters.drawn_from(1)[50:] == -1).all()


def test_when_a_clustering_is_due():
    clusters = tracked()
    assert clusters.due(3, every=2), "the first one at any epoch"
    clusters.made_in.fill_(4)
    assert [epoch for epoch in range(4, 10) if clusters.due(epoch, every=2)] == [6, 8]
