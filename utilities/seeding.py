"""Randomness as a function of (seed, purpose, epoch, step, rank).

Nothing random depends on how a run got to where it is, so a resumed run draws what an uninterrupted one
would have drawn without restoring any generator's state. Purposes keep streams apart: miners draw alike on
every rank, augmentation differs by rank.
"""

from __future__ import annotations

import hashlib
import random

import numpy as np
import torch


def derive(*parts: object) -> int:
    """A 63-bit seed from any printable parts, equal on every machine."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def generator(device: torch.device | str, *parts: object) -> torch.Generator:
    """A fresh generator on `device` seeded by the parts."""
    return torch.Generator(device).manual_seed(derive(*parts))


def seed_everything(*parts: object) -> None:
    """Seed the global generators of Python, numpy and torch (initial weights; whatever a library draws)."""
    seed = derive(*parts)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - libraries draw from the legacy generator
    torch.manual_seed(seed)


def seed_layers(device: torch.device, *parts: object) -> None:
    """Before a step: what layers draw from torch's global generator of the device, as dropout does.

    Microseconds; `torch.manual_seed` takes a third of a millisecond where CUDA has not begun.
    """
    seed = derive(*parts)
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


def seed_initialisation(seed: int) -> None:
    """Before the networks of a run are built: equal seeds give equal initial weights, whatever ran before."""
    seed_everything(seed, "initialisation")
