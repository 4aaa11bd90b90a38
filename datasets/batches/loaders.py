"""From index batches to batches on the device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from datasets.base import RetrievalDataset
from datasets.batches.transforms import Augmentation, DeviceTransform, draw
from datasets.batches.workers import Carrying, arriving, as_is, patient
from utilities import seeding
from utilities.batch import Batch, IndexBatches
from utilities.parallel import distributed


class _CurrentBatches(Sampler[list[int]]):
    """Index batches that can be exchanged between epochs, so that workers stay alive."""

    def __init__(self) -> None:
        self.batches: Sequence[np.ndarray] = []

    def __iter__(self) -> Iterator[list[int]]:
        return (batch.tolist() for batch in self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class Loader:
    """Feeds one split. Global index batches in, this rank's augmented batches on the device out.

    `small` (epochs, transform): the first epochs of training go through this cheaper transform instead.
    `skipped` collects the rows of images that could not be read (only with the data set's `skip_broken`).
    """

    def __init__(
        self,
        dataset: RetrievalDataset,
        transform: DeviceTransform,
        *,
        augmentation: Augmentation,
        device: torch.device,
        num_workers: int,
        small: tuple[int, DeviceTransform] | None = None,
    ) -> None:
        self.dataset = dataset
        self.small = small
        self.transform = transform
        self.augmentation = augmentation
        self.device = device
        self.skipped: set[int] = set()
        self._current = _CurrentBatches()
        self._loader = DataLoader(
            Carrying(dataset),
            batch_sampler=self._current,
            collate_fn=as_is,  # __getitems__ gives the batch whole
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            prefetch_factor=4 if num_workers else None,
            pin_memory=device.type == "cuda",
            worker_init_fn=patient,
        )

    def training(
        self,
        batches: IndexBatches,
        *,
        seed: int,
        epoch: int,
        start: int = 0,
        second_view: bool = False,
    ) -> Iterator[tuple[int, Batch]]:
        """This rank's share of each global batch from number `start` on, augmented, with that number.

        Augmentation depends on (seed, epoch, number of the batch, place in the global batch) alone. A batch whose
        images are all skipped as broken is left out; several ranks cannot spare a single image (RunFailure).
        """
        transform = self.small[1] if self.small and epoch < self.small[0] else self.transform
        rank, world = distributed.rank(), distributed.world_size()
        shares = [batch.reshape(world, -1)[rank] for batch in batches[start:]]
        for number, (batch, share) in enumerate(self._fetch(shares), start):
            if distributed.is_active():
                distributed.check_share(len(batch.indices), len(batches[number]))
            if not len(batch.indices):
                continue
            place = torch.from_numpy(np.isin(share, batch.indices.numpy()))
            views = []
            for view in range(1 + second_view):
                source = seeding.generator("cpu", seed, "augmentation", epoch, number, view)
                draws = draw(world * len(share), source)[rank * len(share) :][: len(share)][place]
                views.append(draws)
            batch = batch.to(self.device)
            raw = batch.images
            yield (
                number,
                batch._replace(
                    images=transform.training(raw, views[0], self.augmentation),
                    second_view=transform.training(raw, views[1], self.augmentation) if second_view else None,
                ),
            )

    def evaluation(self, rows: np.ndarray, batch_size: int) -> Iterator[Batch]:
        """Every given row once, in order, centre-cropped; ranks take turns row by row."""
        own = rows[distributed.rank() :: distributed.world_size()]
        shares = [own[i : i + batch_size] for i in range(0, len(own), batch_size)]
        for batch, _ in self._fetch(shares):
            batch = batch.to(self.device)
            yield batch._replace(images=self.transform.evaluation(batch.images))

    def view(self, rows: np.ndarray, batch_size: int, draws: torch.Tensor) -> Iterator[Batch]:
        """As `evaluation`, each image augmented by its own draws, (len(dataset), DRAWS) by row."""
        own = rows[distributed.rank() :: distributed.world_size()]
        shares = [own[i : i + batch_size] for i in range(0, len(own), batch_size)]
        for batch, _ in self._fetch(shares):
            own_draws = draws[batch.indices]
            batch = batch.to(self.device)
            yield batch._replace(images=self.transform.training(batch.images, own_draws, self.augmentation))

    def close(self) -> None:
        """End the processes that read images. Left to the end of the program, they are waited for in vain, 5 s each."""
        readers: Any = self._loader._iterator  # torch has no public way to end persistent workers
        if readers is not None:
            self._loader._iterator = None
            readers._shutdown_workers()
            for process in readers._workers:
                process.kill()  # which waits for a disk

    def _fetch(self, shares: Sequence[np.ndarray]) -> Iterator[tuple[Batch, np.ndarray]]:
        self._current.batches = shares
        for share, batch in zip(shares, arriving(self._loader), strict=True):
            if len(batch.indices) < len(share):
                self.skipped |= set(share.tolist()) - set(batch.indices.tolist())
            yield batch, share
