"""Networks of saved runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from architectures.embedding import EmbeddingNetwork
from utilities import seeding
from utilities.errors import UserError
from utilities.flags.settings import Settings
from utilities.runs import checkpoint as checkpoints
from utilities.runs.checkpoint import BEST, LAST
from utilities.runs.folder import read_args

if TYPE_CHECKING:
    from datasets.network_input import Prepare

_PREFIX = "network."  # in last.pt, which holds the whole method


def load_network(
    run: str | Path, checkpoint: str = "best", device: torch.device | str = "cpu"
) -> tuple[EmbeddingNetwork, Prepare]:
    """(network, prepare) of a run's folder: `network.embed(prepare("image.jpg"))` is the (1, D) unit embedding that
    `evaluate_model.py --query image.jpg --precision fp32` searches for, to the bit. `prepare` takes a path, an array
    or a tensor (`datasets.network_input.Prepare`).

    checkpoint  "best" or "last"

    Raises UserError where the folder is no run or holds no such checkpoint.
    """
    from datasets.network_input import Prepare  # whoever builds a network needs no data sets

    folder, names = Path(run), {"best": BEST, "last": LAST}
    if checkpoint not in names:
        raise UserError(f"there is no checkpoint {checkpoint!r} of a run; choices: {', '.join(names)}")
    args = read_args(folder)
    network, data = read_network(folder, names[checkpoint])
    layout = torch.channels_last if args["channels_last"] else torch.contiguous_format
    network.to(device).to(memory_format=layout).eval().requires_grad_(False)
    return network, Prepare(args, data, device)


def read_network(folder: Path, name: str) -> tuple[EmbeddingNetwork, dict[str, Any]]:
    """The network of best.pt or last.pt in a run's folder, and the description of its data in plain values."""
    payload = _payload(folder, name)
    network = EmbeddingNetwork(**payload["network_description"])
    state = payload.get("network")
    if state is None:
        state = {k.removeprefix(_PREFIX): v for k, v in payload["method"].items() if k.startswith(_PREFIX)}
    network.load_state_dict(state)
    return network, payload["data"]


def untrained_network(folder: Path, run: Settings) -> tuple[EmbeddingNetwork, dict[str, Any]]:
    """As `read_network`, the network as it was before training. run: the flags that it ran with."""
    payload = _payload(folder, LAST)
    seeding.seed_initialisation(run.random_seed)
    names = ("weights", "weights_bands", "missing_bands")  # of which older runs have the first
    start: dict[str, Any] = {name: run.get(name) for name in names}
    return EmbeddingNetwork(**payload["network_description"], **start), payload["data"]


def _payload(folder: Path, name: str) -> dict[str, Any]:
    payload = checkpoints.load(folder, name)
    if payload is None:
        raise UserError(f"{folder} has no {name} yet; train on with --load_from_checkpoint {folder}")
    return payload
