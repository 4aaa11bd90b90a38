"""The registry of this folder."""

from __future__ import annotations

from torch import nn

from utilities.flags.registry import Registry

CRITERIA: Registry[nn.Module] = Registry("criterion")


def of_batches() -> list[str]:
    """Names of the criteria that take a batch as it is, without mined triplets."""
    return CRITERIA.taking("embeddings", "labels", "indices")
