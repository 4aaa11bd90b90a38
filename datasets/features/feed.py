"""A split as features of a frozen backbone: batches of (B, F) rows in the place of images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from datasets.features.files import CENTRE, FeatureFiles
from utilities import seeding
from utilities.batch import Batch, IndexBatches
from utilities.parallel import distributed


class FeatureFeed:
    """As `datasets.batches.loaders.Loader`, of features that were computed once.

    files  the features of the split
    views  V, augmented looks at each image to train from; 0: none (a split that is only evaluated)
    """

    way = "stored features"  # how a split is embedded from here, for the protocol

    def __init__(self, files: FeatureFiles, views: int) -> None:
        self.files, self.dataset = files, files.dataset
        self.skipped: set[int] = set()
        files.prepare(range(views))
        self._views = [files.array(view) for view in range(views)]
        self._centre: np.ndarray | None = None  # of the training split: few methods embed it

    def training(
        self, batches: IndexBatches, *, seed: int, epoch: int, start: int = 0, second_view: bool = False
    ) -> Iterator[tuple[int, Batch]]:
        """This rank's share of each global batch from number `start` on, with that number.

        Which view stands for an image depends on (seed, epoch, row) alone, see `views_of`.
        """
        of_row = views_of(len(self.dataset), len(self._views), seed=seed, epoch=epoch)
        rank, world = distributed.rank(), distributed.world_size()
        for number, whole in enumerate(batches[start:], start):
            rows = whole.reshape(world, -1)[rank]
            batch, kept = self._batch(rows, gather(self._views, of_row[0, rows], rows))
            if distributed.is_active():
                distributed.check_share(len(batch.indices), len(whole))
            if not len(batch.indices):
                continue
            if second_view:
                second = gather(self._views, of_row[1, kept], kept)
                batch = batch._replace(second_view=torch.from_numpy(second))
            yield number, batch.to(self.files.loader.device)

    def evaluation(self, rows: np.ndarray, batch_size: int) -> Iterator[Batch]:
        """Features of the centre crop of every given row once, in order; ranks take turns row by row."""
        if self._centre is None:
            self._centre = self.files.array(CENTRE)
        own = rows[distributed.rank() :: distributed.world_size()]
        for i in range(0, len(own), batch_size):
            share = own[i : i + batch_size]
            yield self._batch(share, self._centre[share])[0].to(self.files.loader.device)

    def close(self) -> None:
        """End the processes that read the images of the features."""
        self.files.loader.close()

    def _batch(self, rows: np.ndarray, features: np.ndarray) -> tuple[Batch, np.ndarray]:
        """The rows without skipped images, whose features are NaN, and which these are."""
        skipped = np.isnan(features[:, 0])
        if skipped.any():
            self.skipped |= set(rows[skipped].tolist())
            rows, features = rows[~skipped], features[~skipped]
        labels = torch.from_numpy(self.dataset.labels[rows])
        return Batch(torch.from_numpy(features), labels, torch.from_numpy(rows)), rows


def views_of(size: int, views: int, *, seed: int, epoch: int) -> np.ndarray:
    """(2, size) int64: the view of each row in an epoch, and another one where V > 1 (`second_view`).

    A row goes through its V views one epoch after the other, from one drawn by the seed on.
    """
    first = np.random.default_rng(seeding.derive(seed, "stored views")).integers(views, size=size) + epoch
    apart = np.random.default_rng(seeding.derive(seed, "second stored view", epoch)).integers(
        1, max(views, 2), size=size
    )
    return np.stack([first, first + apart]) % views


def gather(arrays: Sequence[np.ndarray], of_row: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """(B, F): row i of array of_row[i]. A view at a time: whole rows are copied, and nothing else is read."""
    out = np.empty((len(rows), arrays[0].shape[1]), np.float32)
    for view in np.unique(of_row).tolist():
        place = np.flatnonzero(of_row == view)
        out[place] = arrays[view][rows[place]]
    return out
