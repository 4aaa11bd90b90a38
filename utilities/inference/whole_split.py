"""The embeddings of a whole split, of which every rank computes its share."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
import torch.distributed as dist
from torch import Tensor

from utilities.batch import Batch
from utilities.errors import UserError
from utilities.parallel.distributed import communication_device, gather_uneven, world_size

_GATHERED_ROWS = 2**15  # that each rank sends at a time


def embed_split(embed: Callable[[Tensor], Tensor], batches: Iterable[Batch], size: int) -> tuple[Tensor, Tensor]:
    """Embed the images of a split; every rank passes its own share of the batches and gets all embeddings.

    embed takes `Batch.images` and returns (B, D) rows. Returns embeddings (M, D) float32 and their rows in
    the split (M,) int64, rising, both on the CPU. M < size where broken images were skipped; a row embedded
    twice or outside [0, size) is a ValueError, since it would count twice in every score.
    """
    parts: list[Tensor] = []
    rows: list[Tensor] = []
    with torch.inference_mode():
        for batch in batches:
            if len(batch.indices):
                parts.append(embed(batch.images).float())
                rows.append(batch.indices)
    embeddings, indices = _gather(parts, rows)
    if not len(indices):
        raise UserError(f"none of the {size} images of this split could be embedded")
    order = indices.argsort()
    indices = indices[order]
    if indices[0] < 0 or indices[-1] >= size or (indices[1:] == indices[:-1]).any():
        raise ValueError(f"rows of a split of {size} images must be given once each and lie inside it")
    return embeddings[order], indices


def _gather(parts: list[Tensor], rows: list[Tensor]) -> tuple[Tensor, Tensor]:
    """All ranks' parts on the CPU, each row beside its number, in no order; a rank may have none."""
    own = torch.cat([part.cpu() for part in parts]) if parts else torch.empty(0, 0)
    own_rows = torch.cat(rows).cpu() if rows else torch.empty(0, dtype=torch.int64)
    if world_size() == 1:
        return own, own_rows
    device = communication_device()
    largest = torch.tensor([own.shape[1], len(own)], device=device)
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    width, longest = largest.tolist()
    own = own.reshape(len(own), width)
    # block by block: a GPU holds what it embeds, and never what all embed
    blocks = [slice(start, start + _GATHERED_ROWS) for start in range(0, longest, _GATHERED_ROWS)]
    return (
        torch.cat([gather_uneven(own[block].to(device)).cpu() for block in blocks] or [own]),
        torch.cat([gather_uneven(own_rows[block].to(device)).cpu() for block in blocks] or [own_rows]),
    )
