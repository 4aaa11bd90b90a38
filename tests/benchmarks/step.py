"""What a training step costs beyond the bare network.

    python -m tests.benchmarks.step [--methods "baseline diva"] [--batch_size 120] [--image_size 128] [--rounds 7]
                                    [--whole no]

The bare step is a ResNet50 with a linear head: forward, sum, backward, fused AdamW, in the same precision and memory
format; for DiVA, another forward pass without gradient before it. The method's step is what the engine runs: gather,
mining, loss, backward, clipping, optimizer, `after_step`, bookkeeping. Both work on the same images, already on the
device; they take turns, and the ratio is the median over rounds. The training split is as large as MLRSNet's (43,664
images, 60 labels), which is what SNDL's memory holds. Clustering (D&C) happens between epochs and is not in it.

What a method adds is far less than a machine's speed changes between two turns. It is told by itself as well: the
difference of the same two steps around a hollow network, whose parameters are all there, for optimizer, clipping and
momentum encoder, but convolve nothing. With `--whole no` only this is measured, beside one bare step for all methods.
"""

from __future__ import annotations

import statistics
import tempfile
from argparse import Namespace
from collections.abc import Callable, Sequence
from types import SimpleNamespace

import numpy as np
import torch
from torch import nn

import parameters
from architectures.embedding import EmbeddingNetwork
from tests.benchmarks.timing import arguments, default_device, paired, ratio, show
from train_baseline import Baseline
from train_bier import BIER
from train_dac import DivideAndConquer
from train_diva import DiVA
from train_sndl import SNDL
from utilities.batch import Batch
from utilities.training import optim, precision
from utilities.training.allocator import keep_freed_memory
from utilities.training.engine import Trainer
from utilities.training.method import Method

METHODS: dict[str, type[Method]] = {kind.name: kind for kind in (Baseline, DiVA, DivideAndConquer, BIER, SNDL)}


def fake_split(images: int, labels: int) -> SimpleNamespace:
    """As much of a data set as a method looks at; five labels an image."""
    generator = np.random.default_rng(0)
    table = generator.random((images, labels)) < 4 / labels
    table[np.arange(images), generator.integers(0, labels, images)] = True
    return SimpleNamespace(bands=("R", "G", "B"), labels=table, names=np.arange(images).astype(str))


def hollow_out(module: nn.Module) -> None:
    """Let every backbone in `module` compute next to nothing, with a gradient for each of its parameters."""
    for network in module.modules():
        if isinstance(network, EmbeddingNetwork):
            backbone = network.backbone
            weights = list(backbone.parameters())
            mixing = torch.randn(len(network.bands), backbone.features)

            def forward(
                images: torch.Tensor, weights: list[nn.Parameter] = weights, mixing: torch.Tensor = mixing
            ) -> torch.Tensor:
                return (
                    images.mean((2, 3)) @ mixing.to(images.device)
                    + torch.stack([w.flatten()[0] for w in weights]).sum() * 1e-6
                )

            backbone.forward = forward


def bare_step(
    bands: Sequence[str], images: torch.Tensor, *, second_forward: bool, hollow: bool = False
) -> Callable[[], None]:
    """A step of the network alone; with `second_forward`, after a pass without gradient."""
    network = EmbeddingNetwork(arch="resnet50", bands=tuple(bands), heads={"embedding": 512})
    if hollow:
        hollow_out(network)
    network = network.to(images.device, memory_format=torch.channels_last).train()
    groups = [{"params": list(network.parameters()), "lr": 1e-5}]
    optimizer = optim.build(groups, {"optim": "adamw", "weight_decay": 0.0})

    def step() -> None:
        with precision.autocast("auto", images.device):
            if second_forward:
                with torch.no_grad():
                    network.backbone(images)
            features = network.backbone(images)
        loss = network.heads["embedding"](features.float()).sum() * 1e-6
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step


def trainer_of(
    kind: type[Method], split: SimpleNamespace, args: Namespace | SimpleNamespace, folder: str, more: Sequence[str] = ()
) -> Trainer:
    """The engine around a method, ready for a step in its first epoch; more: further flags."""
    given = {
        "weights": "none", "lr": 1e-5, "batch_size": args.batch_size, "save_path": folder, "log_every_steps": 10**6,
    }  # fmt: skip
    flags = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    settings = parameters.parse(kind.name, [*flags, *more])
    feed = SimpleNamespace(dataset=split, skipped=set(), close=lambda: None)
    device = default_device()
    trainer = Trainer(
        kind(settings, split), SimpleNamespace(train=feed, val=feed, test=None, description={}), settings, device
    )
    if isinstance(trainer.method, DivideAndConquer):
        trainer.method.drawn_from = [0]
    trainer.model.train()
    return trainer


def step_and_bare(
    name: str, split: SimpleNamespace, images: torch.Tensor, args: Namespace, folder: str, *, hollow: bool = False
) -> dict[str, list[float]]:
    """Seconds of the steps of method `name` and of the bare ones, under `name` and "bare"."""
    trainer = trainer_of(METHODS[name], split, args, folder)
    if hollow:
        hollow_out(trainer.method)
    drawn = torch.arange(args.batch_size) if name == "dac" else torch.as_tensor(trainer.method.epoch_batches(0)[0])
    labels = torch.from_numpy(split.labels)[drawn].to(images.device)
    second_view = trainer.method.second_view
    batch = Batch(images, labels, drawn.to(images.device), images if second_view else None)
    candidates = {
        "bare": bare_step(split.bands, images, second_forward=second_view, hollow=hollow),
        name: lambda: trainer.train_step(batch, 0.5),
    }
    seconds = paired(candidates, args.rounds)
    trainer.close()
    return seconds


def main() -> None:
    args = arguments(__doc__ or "", methods=" ".join(METHODS), batch_size=120, image_size=128, rounds=7, whole="yes")
    device = default_device()
    torch.manual_seed(0)
    keep_freed_memory()  # as every script does
    split = fake_split(43_664, 60)
    images = torch.randn(args.batch_size, 3, args.image_size, args.image_size, device=device)
    images = images.contiguous(memory_format=torch.channels_last)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        if args.whole == "no":  # one bare step for all methods, three times
            bare = bare_step(split.bands, images, second_forward=False)
            of_one_pass = statistics.median(paired({"bare": bare}, 3)["bare"])
        for name in args.methods.split():
            hollow = step_and_bare(name, split, images, args, folder, hollow=True)
            added = statistics.median(a - b for a, b in zip(hollow[name], hollow["bare"], strict=True))
            if args.whole == "no":
                rows.append({"method": name, "added [ms]": added * 1e3, "1 + added / bare": 1 + added / of_one_pass})
                continue
            seconds = step_and_bare(name, split, images, args, folder)
            rows.append(
                {
                    "method": name,
                    "step [s]": statistics.median(seconds[name]),
                    "bare step [s]": statistics.median(seconds["bare"]),
                    "ratio": ratio(seconds, name, "bare"),
                    "added [ms]": added * 1e3,
                    "1 + added / bare": 1 + added / statistics.median(seconds["bare"]),
                    "images/s": args.batch_size / statistics.median(seconds[name]),
                }
            )
    title = (
        f"Training step, ResNet50, batch {args.batch_size}, {args.image_size} px, {precision.resolve('auto', device)}"
    )
    show(title, rows, args.json)


if __name__ == "__main__":
    main()
