"""A method: the one module that an engine trains, whose state is the checkpoint and whose forward is the paper."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from utilities import seeding
from utilities.batch import Batch, IndexBatches
from utilities.errors import UserError
from utilities.tensors.labels import PairRule

ADVISED = 20  # batches on whose labels there may be advice


class BatchSampler(Protocol):
    """Draws an epoch: global index batches, a function of the epoch alone."""

    def epoch(self, epoch: int) -> IndexBatches: ...


class Method(nn.Module):
    """Base of the five methods.

    A method owns `network` (what embeds and is evaluated), its criteria, and whatever it must remember: all of it
    parameters or buffers, so that `state_dict()` forgets nothing. The seams are `forward`, `after_step`,
    `epoch_batches`, `embed` and `param_groups`.

    `epoch_batches` gives index batches rather than tensors: the engine can then skip to the middle of an epoch,
    cut every global batch into the ranks' shares and feed any method through one loader.
    """

    name: ClassVar[str]
    second_view: ClassVar[bool] = False  # whether Batch.second_view is wanted
    unused_parameters: ClassVar[bool] = False  # whether a step may leave parameters without gradient (DDP)
    below_zero: ClassVar[str] = ""  # a sentence, without its full stop, on loss terms that may be negative; for figures

    network: Any  # an architectures.embedding.EmbeddingNetwork, which this floor does not import
    sampler: BatchSampler
    advice: Callable[[list[Tensor]], str] | None = None  # on labels (B, L) of some batches: what is amiss, or ""
    relation: PairRule | None = None  # by which every batch needs both kinds of pairs, its miner's where it has one

    def __init__(self, *, seed: int) -> None:
        super().__init__()
        seeding.seed_initialisation(seed)
        self.seed = seed
        self.step = 0  # these are set by the engine before each forward: steps done, epoch, batch of the epoch
        self.epoch = 0
        self.batch = 0
        self.observed: dict[str, Tensor] = {}  # what a forward pass shows beside its losses, () each: logged
        # set by the engine: () -> (N, D) on the CPU; takes another function than `embed` on request
        self.embed_training_set: Callable[..., Tensor]

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Named, already weighted loss terms, each () float32; their sum is minimised."""
        raise NotImplementedError

    def after_step(self) -> None:
        """What follows the optimizer step: momentum encoders, queues, memory banks."""

    def epoch_batches(self, epoch: int) -> IndexBatches:
        """Global index batches of an epoch, each of world size x batch size rows."""
        return self.sampler.epoch(epoch)

    def embed(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, D) float32 unit rows, as at test time."""
        return self.network.embed(images)

    def param_groups(self, args: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Backbone, heads and everything else, each at its own rate; frozen parameters are left out."""
        backbone = {id(p) for p in self.network.backbone.parameters()}
        heads = {id(p) for p in self.network.parameters()} - backbone
        trained = [p for p in self.parameters() if p.requires_grad]
        groups = [
            {
                "name": "backbone",
                "params": [p for p in trained if id(p) in backbone],
                "lr": args["backbone_lr"],
            },
            {"name": "heads", "params": [p for p in trained if id(p) in heads], "lr": args["lr"]},
            {
                "name": "criterion",
                "params": [p for p in trained if id(p) not in backbone | heads],
                "lr": args.get("criterion_lr"),  # absent where a method gives all of these a rate of their own
                "weight_decay": 0.0,
            },
        ]
        return [group for group in groups if group["params"]]

    def generator(self, device: torch.device) -> torch.Generator:
        """What miners draw from in this step: equal on all ranks, equal after a resume."""
        return seeding.generator(device, self.seed, "mining", self.step)

    def needed(self) -> dict[str, Callable[[Tensor], bool]]:
        """What a batch must hold for a step to teach anything, in words, and whether labels (B, L) hold it."""
        relation = self.relation
        if relation is None:
            return {}
        by = f"pair of images by the relation {relation.relation} (--label_relation, or the miner's own)"
        return {
            f"positive {by}": lambda labels: bool(relation.pairs(labels).positive.any()),
            f"negative {by}": lambda labels: bool(relation.pairs(labels).negative.any()),
        }

    def check_batches(self, batches: IndexBatches, labels: np.ndarray) -> None:
        """Raise UserError where no batch, warn where not every batch holds what is `needed`; warn of what there is
        `advice` on. labels (N, L)."""
        for what, held in self.needed().items():
            lacking = [batch for batch in batches if not held(torch.from_numpy(labels[batch]))]
            if lacking:
                change = "" if self.relation is None else ", or change the relation"
                message = (
                    f"{len(lacking)} of {len(batches)} batches hold no {what}; raise --batch_size or "
                    f"--num_samples_per_class{change}"
                )
                if len(lacking) == len(batches):
                    raise UserError(message)
                warnings.warn(message, stacklevel=2)
        some = [torch.from_numpy(labels[batch]) for batch in batches[:ADVISED]]
        if self.advice is not None and (said := self.advice(some)):
            warnings.warn(said, stacklevel=2)


def at_own_rate(
    groups: list[dict[str, Any]], module: nn.Module, *, name: str, lr: float, **options: Any
) -> list[dict[str, Any]]:
    """The groups with the parameters of `module` moved into one of their own."""
    moved = {id(p) for p in module.parameters()}
    rest = [{**group, "params": [p for p in group["params"] if id(p) not in moved]} for group in groups]
    own = {"name": name, "params": [p for p in module.parameters() if p.requires_grad], "lr": lr, **options}
    return [group for group in (*rest, own) if group["params"]]
