"""What `last.pt` and `best.pt` hold of a training, and how it goes on from there.

Randomness needs nothing: it is a function of seed and step.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from utilities.flags.settings import Settings
from utilities.parallel import distributed
from utilities.runs import checkpoint
from utilities.training.loss_window import LossWindow
from utilities.training.method import Method
from utilities.training.run import say


class Training(Protocol):
    """What of a run goes into its checkpoints, or comes from there (`engine.Trainer`, which says what it means)."""

    method: Method
    optimizer: torch.optim.Optimizer
    epoch: int
    batch: int
    step: int
    best: float
    best_epoch: int
    unvalidated: bool
    window: LossWindow
    data: Any
    args: Settings
    folder: Path
    device: torch.device


def last(training: Training) -> dict[str, Any]:
    """All that a resumed run needs."""
    return {
        "method": training.method.state_dict(),
        "optimizer": training.optimizer.state_dict(),
        "epoch": training.epoch,
        "batch": training.batch,
        "step": training.step,
        "best": training.best,
        "best_epoch": training.best_epoch,
        "unvalidated": training.unvalidated,
        "window": training.window.state(),
        "world_size": distributed.world_size(),
        **_identity(training),
    }


def best(training: Training, scores: Mapping[str, float]) -> dict[str, Any]:
    """The network alone, with its scores on the val split."""
    return {
        "network": training.method.network.state_dict(),
        "epoch": training.epoch,
        "step": training.step,
        "scores": dict(scores),
        **_identity(training),
    }


def _identity(training: Training) -> dict[str, Any]:
    """What rebuilds the network, tells which data it belongs to, and the flags that it was trained with."""
    return {
        "method_name": training.method.name,
        "network_description": training.method.network.description(),
        "data": training.data.description,
        "settings": training.args.recorded,
    }


def restore(training: Training, kept: dict[str, Any]) -> None:
    """Set a new training to where `last.pt` was written, on as many processes as there are now."""
    checkpoint.check_same_data(training.folder, kept["data"], training.data.description)
    if distributed.is_main():
        checkpoint.note_other_files(kept["data"], training.data.description)
    training.method.load_state_dict(kept["method"])
    training.optimizer.load_state_dict(kept["optimizer"])
    training.epoch, training.batch, training.step = kept["epoch"], kept["batch"], kept["step"]
    training.best, training.unvalidated = kept["best"], kept.get("unvalidated", False)
    training.best_epoch = kept.get("best_epoch", 0)
    training.window.load(kept["window"], training.device)
    world = distributed.world_size()
    if kept["world_size"] != world:
        training.batch = training.batch * kept["world_size"] // world
        say(
            f"note: the run had {kept['world_size']} processes and goes on with {world}: batches, and so the "
            "numbers from here on, differ from those of an uninterrupted run"
        )
    say(f"resuming {training.folder} at epoch {training.epoch + 1}, step {training.step}")
