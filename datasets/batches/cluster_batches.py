"""Batches of one cluster at a time: what divide and conquer trains its slices on."""

from __future__ import annotations

import numpy as np

from datasets.batches.samplers import ClassBalancedBatches
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

    Batches of one epoch are a pure function of (seed, epoch, assignment), and so are `turns`.
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
        self._assignment = assignment
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

    def turns(self, batches: np.ndarray, groups: np.ndarray, epoch: int) -> list[int]:
        """Whose turn each batch of the epoch is, of the groups (N,) int into which clusters fall: the group of a random
        image of the batch's cluster, so that groups come in proportion to their size."""
        random = np.random.default_rng(seeding.derive("turns", self.seed, epoch))
        of_cluster = {self._assignment[rows[0]]: groups[rows] for rows, _ in self._clusters}
        return [int(random.choice(of_cluster[number])) for number in self._assignment[batches[:, 0]]]
