"""What `last.pt` and `best.pt` hold of a training, and how it goes on from there.

Randomness needs nothing: it is a function of seed and step.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from utilities.parallel import distributed
from utilities.runs import checkpoint
from utilities.training.run import say

if TYPE_CHECKING:
    from utilities.training.engine import Trainer


def last(trainer: Trainer) -> dict[str, Any]:
    """All that a resumed run needs."""
    return {
        "method": trainer.method.state_dict(),
        "optimizer": trainer.optimizer.state_dict(),
        "epoch": trainer.epoch,
        "batch": trainer.batch,
        "step": trainer.step,
        "best": trainer.best,
        "best_epoch": trainer.best_epoch,
        "unvalidated": trainer.unvalidated,
        "window": trainer.window.state(),
        "world_size": distributed.world_size(),
        **_identity(trainer),
    }


def best(trainer: Trainer, scores: Mapping[str, float]) -> dict[str, Any]:
    """The network alone, with its scores on the val split."""
    return {
        "network": trainer.method.network.state_dict(),
        "epoch": trainer.epoch,
        "step": trainer.step,
        "scores": dict(scores),
        **_identity(trainer),
    }


def _identity(trainer: Trainer) -> dict[str, Any]:
    """What rebuilds the network, tells which data it belongs to, and the flags that it was trained with."""
    return {
        "method_name": trainer.method.name,
        "network_description": trainer.method.network.description(),
        "data": trainer.data.description,
        "settings": trainer.args.recorded,
    }


def restore(trainer: Trainer, kept: dict[str, Any]) -> None:
    """Set a new trainer to where `last.pt` was written, on as many processes as there are now."""
    checkpoint.check_same_data(trainer.folder, kept["data"], trainer.data.description)
    if distributed.is_main():
        checkpoint.note_other_files(kept["data"], trainer.data.description)
    trainer.method.load_state_dict(kept["method"])
    trainer.optimizer.load_state_dict(kept["optimizer"])
    trainer.epoch, trainer.batch, trainer.step = kept["epoch"], kept["batch"], kept["step"]
    trainer.best, trainer.unvalidated = kept["best"], kept.get("unvalidated", False)
    trainer.best_epoch = kept.get("best_epoch", 0)
    trainer.window.load(kept["window"], trainer.device)
    world = distributed.world_size()
    if kept["world_size"] != world:
        trainer.batch = trainer.batch * kept["world_size"] // world
        say(
            f"note: the run had {kept['world_size']} processes and goes on with {world}: batches, and so the "
            "numbers from here on, differ from those of an uninterrupted run"
        )
    say(f"resuming {trainer.folder} at epoch {trainer.epoch + 1}, step {trainer.step}")
