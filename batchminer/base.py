"""What a miner is, the registry of miners, and the two ways to draw from a mask without a loop."""

from __future__ import annotations

import torch
from torch import Tensor

from utilities.batch import Triplets
from utilities.labels import PairRule
from utilities.registry import Registry


class Miner:
    """Chooses triplets in a batch. Stateless but for its hyper-parameters; never carries gradient.

    Subclasses take `relation: PairRule` and their own hyper-parameters as keyword-only arguments.
    """

    relation: PairRule

    def __call__(
        self,
        embeddings: Tensor,
        labels: Tensor,
        indices: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Triplets:
        """embeddings (B, D) unit rows of any float type; labels (B, L) bool; indices (B,) int64 image ids, so
        that two rows of one image never form a pair; generator on the embeddings' device."""
        raise NotImplementedError


MINERS: Registry[Miner] = Registry("miner")
