"""Batches of one cluster at a time: what divide and conquer trains its slices on."""

from __future__ import annotations

import numpy as np

from datasets.samplers import ClassBalancedBatches
from utilities import seeding

ORDERS = ("shuffled", "in_turn")


class ClusterBatches:
    """Class-balanced batches within each cluster, the clusters mixed.

    labels      (N, L) bool
    assignment  (N,) int, cluster of each row; rows below 0 are never drawn. Every cluster that has rows has at
                least `batch_size` of them with a label
    order       "shuffled": the batches of all clusters in random order, so that a cluster's turn comes in
                proportion to its size. "in_turn": one batch of each cluster after the other until the longest is
                through, shorter ones starting again

    Batches of one epoch are a pure function of (seed, epoch, assignment).
    """

    def __init__(
        self,
        labels: np.ndarray,
        assignment: np.ndarray,
        *,
        batch_size: int,
        samples_per_class: int,
        seed: int,
        order: str,
    ) -> None:
        if order not in ORDERS:
            raise ValueError(f"unknown order of clusters {order!r}; choices: {', '.join(ORDERS)}")
        self.order, self.seed = order, seed
        self._clusters = []
        for number in np.unique(assignment[assignment >= 0]).tolist():
            rows = np.flatnonzero(assignment == number)
            own_seed = seeding.derive("cluster", number, seed)
            sampler = ClassBalancedBatches(
                labels[rows], batch_size=batch_size, samples_per_class=samples_per_class, seed=own_seed
            )
            self._clusters.append((rows, sampler))

    def epoch(self, epoch: int) -> np.ndarray:
        """(batches, batch_size) int64 rows of the data set, each batch from one cluster."""
        of_cluster = [rows[sampler.epoch(epoch)] for rows, sampler in self._clusters]
        if self.order == "in_turn":
            longest = max(map(len, of_cluster))
            return np.stack([batches[i % len(batches)] for i in range(longest) for batches in of_cluster])
        batches = np.concatenate(of_cluster)
        return np.random.default_rng(seeding.derive("order of clusters", self.seed, epoch)).permutation(batches)
