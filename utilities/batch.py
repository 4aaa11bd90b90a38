"""The records that flow through a training step, and what gives them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

IndexBatches = Sequence[np.ndarray] | np.ndarray  # an epoch: rows of the split, (B,) int64 a batch


class Batch(NamedTuple):
    """Images of one step with their labels.

    images       (B, C, H, W) uint8 / uint16 as stored, float32 once `datasets.batches.transforms` has run;
                 Sentinel-2 patches travel as (B, P) uint16, every band at its own resolution.
                 With --stored_views (B, F) float32: features of a frozen backbone in their place.
    labels       (B, L) bool, multi-hot.
    indices      (B,) int64, row in the split: memory banks, clusters, gathering over ranks.
    second_view  as images, an independently augmented copy; None unless the method asks for it.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    second_view: Tensor | None = None

    def to(self, device: torch.device | str) -> Batch:
        """Move every tensor; asynchronous from pinned memory."""
        return Batch(*(None if t is None else t.to(device, non_blocking=True) for t in self))  # type: ignore[arg-type]


class Triplets(NamedTuple):
    """Index triplets into a batch, each (T,) int64 on the embeddings' device; T may be 0.

    cls is the class through which a triplet was formed, or -1 where it was formed through whole label sets.
    """

    anchor: Tensor
    positive: Tensor
    negative: Tensor
    cls: Tensor

    @property
    def count(self) -> int:  # type: ignore[override]  # tuple.count counts equal elements, which nobody asks of tensors
        """T, the number of triplets."""
        return len(self.anchor)


class Feed(Protocol):
    """One split (`datasets.base.RetrievalDataset`) and its batches (`datasets.batches.loaders.Loader`)."""

    dataset: Any
    skipped: set[int]

    def training(
        self, batches: IndexBatches, *, seed: int, epoch: int, start: int, second_view: bool
    ) -> Iterator[tuple[int, Batch]]: ...

    def evaluation(self, rows: np.ndarray, batch_size: int) -> Iterator[Batch]: ...

    def close(self) -> None: ...
