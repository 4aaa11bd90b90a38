"""Networks of saved runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from architectures.embedding import EmbeddingNetwork
from utilities import seeding
from utilities.errors import UserError
from utilities.runs import checkpoint

_PREFIX = "network."  # in last.pt, which holds the whole method


def read_network(folder: Path, name: str) -> tuple[EmbeddingNetwork, dict[str, Any]]:
    """The network of best.pt or last.pt in a run's folder, and the description of its data in plain values."""
    payload = _payload(folder, name)
    network = EmbeddingNetwork(**payload["network_description"])
    state = payload.get("network")
    if state is None:
        state = {k.removeprefix(_PREFIX): v for k, v in payload["method"].items() if k.startswith(_PREFIX)}
    network.load_state_dict(state)
    return network, payload["data"]


def untrained_network(folder: Path, *, seed: int, weights: str) -> tuple[EmbeddingNetwork, dict[str, Any]]:
    """As `read_network`, the network as it was before training."""
    payload = _payload(folder, checkpoint.LAST)
    seeding.seed_initialisation(seed)
    return EmbeddingNetwork(**payload["network_description"], weights=weights), payload["data"]


def _payload(folder: Path, name: str) -> dict[str, Any]:
    payload = checkpoint.load(folder, name)
    if payload is None:
        raise UserError(f"{folder} has no {name} yet; train on with --load_from_checkpoint {folder}")
    return payload
