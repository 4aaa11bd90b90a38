"""Embedding a split, and an epoch of `--frozen`, beside the bare network.

    python -m tests.benchmarks.embedding [--parts "embedding frozen"] [--arch resnet50] [--image_size 224]
                                         [--images 20000] [--batch_size 128] [--shown 512] [--rounds 3] [--json FILE]

embedding  what an evaluation runs, its fused copy of the backbone made anew for every split (`utilities.inference`),
           beside the bare forward pass in bf16 autocast and in float32, all channels_last. Pixels are on the device
           already. Rows of `--shown` images stand for `--images`: the copy is counted once, the rest is linear
frozen     an epoch of the baseline's heads from stored features, engine and all, beside the same from images

Sides take turns. With one thread on a CPU, seconds are those of this process: others' work does not count.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from architectures.embedding import EmbeddingNetwork
from tests.benchmarks.step import fake_split, trainer_of
from tests.benchmarks.timing import arguments, default_device, show
from train_baseline import Baseline
from utilities.batch import Batch
from utilities.inference import way as inference
from utilities.training import precision

Row = dict[str, Any]


def seconds_of(run: Callable[[], object], device: torch.device) -> float:
    clock = time.process_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = clock()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - start


def in_turns(candidates: Mapping[str, Callable[[], object]], rounds: int, device: torch.device) -> dict[str, float]:
    """Median seconds of each."""
    taken: dict[str, list[float]] = {name: [] for name in candidates}
    for number in range(rounds + 1):  # the first warms up
        for name, run in candidates.items():
            seconds = seconds_of(run, device)
            if number:
                taken[name].append(seconds)
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


def pixels(args: Namespace, count: int, device: torch.device) -> Tensor:
    images = torch.randn(count, 3, args.image_size, args.image_size, device=device)
    return images.contiguous(memory_format=torch.channels_last)


def embedding(args: Namespace, device: torch.device) -> list[Row]:
    network = EmbeddingNetwork(arch=args.arch, bands=("R", "G", "B"), heads={"embedding": 512}).eval()
    network = network.to(device, memory_format=torch.channels_last)
    batch, batches = pixels(args, args.batch_size, device), -(-args.shown // args.batch_size)
    number_format = precision.resolve("auto", device, network)

    @torch.inference_mode()
    def bare(wanted: str) -> None:
        with precision.autocast(wanted, device):
            for _ in range(batches):
                network.embed(batch)

    first: list[float] = []  # seconds of the first batch, for which the copy is made

    @torch.inference_mode()
    def ours() -> None:
        with inference.embedding(network.backbone, images=args.images, number_format=number_format) as way:
            first.append(seconds_of(lambda: network.embed(batch), device))
            for _ in range(batches):
                network.embed(batch)
        assert way.name == inference.FUSED, way.reason

    sides = {"ours": ours} | {name: lambda name=name: bare(name) for name in ("bf16", "fp32")}
    taken = in_turns(sides, args.rounds, device)
    once = statistics.median(first[1:])
    an_image = (taken["ours"] - once) / (batches * args.batch_size)
    whole = once + an_image * (args.images - args.batch_size)
    rows = []
    for against in ("bf16", "fp32"):
        theirs = taken[against] / (batches * args.batch_size)
        rows.append(
            {
                "what": f"embedding {args.images:,} images of {args.image_size} px, {args.arch}, {number_format}",
                "images/s": args.images / whole,
                "beside": f"bare network, eager, {against}",
                "its images/s": 1 / theirs,
                "time ratio": whole / (theirs * args.images),
                "target": "at most 0.75",
            }
        )
    return rows


class Repeating:
    """A feed of one batch, of images or of features."""

    def __init__(self, split: SimpleNamespace, batch: Tensor) -> None:
        self.dataset, self.skipped, self.batch = split, set[int](), batch

    def training(self, batches: Any, **_: Any) -> Any:
        for number, rows in enumerate(batches):
            indices = torch.from_numpy(rows)
            labels = torch.from_numpy(self.dataset.labels[rows])
            yield number, Batch(self.batch[: len(rows)], labels, indices).to(self.batch.device)

    def close(self) -> None: ...


def frozen(args: Namespace, device: torch.device) -> list[Row]:
    """One epoch of --shown images each, a validation and its drawing left out."""
    size = min(args.batch_size, args.shown) // 2 * 2
    split = fake_split(args.shown, 17)
    more = [
        "--arch",
        args.arch,
        "--frozen",
        "--stored_views",
        "0",
        "--nb_epochs",
        "1000",
        "--baseline_loss",
        "batch_nca",
    ]
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_of(Baseline, split, SimpleNamespace(batch_size=size), folder, more)
        width = trainer.method.network.backbone.features
        feeds = {
            "images": Repeating(split, pixels(args, size, device)),
            "features": Repeating(split, torch.randn(size, width, device=device)),
        }

        def epoch(kind: str) -> None:
            trainer.data = SimpleNamespace(train=feeds[kind], val=feeds[kind], test=None)
            trainer.train_epoch()

        taken = in_turns({kind: lambda kind=kind: epoch(kind) for kind in feeds}, args.rounds, device)
        trainer.close()
    return [
        {
            "what": f"epoch of --frozen, {args.shown:,} images of {args.image_size} px, from stored features",
            "images/s": args.shown / taken["features"],
            "beside": "from images on the device",
            "its images/s": args.shown / taken["images"],
            "time ratio": taken["features"] / taken["images"],
            "target": "at most 0.02",
        }
    ]


def main() -> None:
    args = arguments(
        __doc__ or "", parts="embedding frozen", arch="resnet50", image_size=224, images=20_000, batch_size=128,
        shown=512, rounds=3,
    )  # fmt: skip
    device = default_device()
    parts = {"embedding": embedding, "frozen": frozen}
    rows = [row for part in args.parts.split() for row in parts[part](args, device)]
    show("Embedding", rows, args.json)


if __name__ == "__main__":
    main()
