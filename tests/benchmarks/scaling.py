"""Images a second of 1, 2, ... processes, each on one thread (or one GPU), beside those of one.

    python -m tests.benchmarks.scaling [--processes "1 2"] [--method baseline] [--batch_size 24] [--image_size 128]
                                       [--steps 3] [--rounds 3] [--json FILE]

Every process trains ResNet50 on --batch_size images of its own, so that N processes share a batch of N times as many;
a step is what the engine runs, gathering and DDP included. Groups of processes take turns, round by round, and ratios
are formed within a round. Live batch norm takes its statistics over all processes, fixed batch norm sends nothing.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.multiprocessing as mp

from tests.benchmarks.step import METHODS, fake_split, trainer_of
from tests.benchmarks.timing import arguments, ratio, show
from utilities import distributed, precision
from utilities.batch import Batch

BATCH_NORM = {"live": "no", "fixed": "yes"}


def measure(rank: int, world: int, port: int, freeze: str, args: SimpleNamespace, folder: str) -> None:
    """One process of `world`: the seconds of its steps into `folder`, after one that is not counted."""
    torch.set_num_threads(1)
    if world > 1:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
        os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    device = distributed.start("auto")
    split = fake_split(4_000, 60)
    trainer = trainer_of(METHODS[args.method], split, args, folder, ["--freeze_batch_norm", freeze])
    rows = torch.as_tensor(np.asarray(trainer.method.epoch_batches(0)[0])).reshape(world, -1)[rank]
    images = torch.randn(args.batch_size, 3, args.image_size, args.image_size).to(
        device, memory_format=torch.channels_last
    )
    labels = torch.from_numpy(split.labels)[rows].to(device)
    batch = Batch(images, labels, rows.to(device), images if trainer.method.second_view else None)
    trainer.train_step(batch, 0.5)
    distributed.barrier()
    start = time.perf_counter()
    for _ in range(args.steps):
        trainer.train_step(batch, 0.5)
    if device.type == "cuda":
        torch.cuda.synchronize()
    distributed.barrier()
    Path(folder, f"seconds{rank}.json").write_text(json.dumps((time.perf_counter() - start) / args.steps))
    trainer.close()
    distributed.stop()


def seconds_of_a_step(world: int, freeze: str, args: SimpleNamespace) -> float:
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(measure, (world, _free_port(), freeze, args, folder), nprocs=world)
        return max(json.loads(path.read_text()) for path in Path(folder).glob("seconds*.json"))


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return int(listener.getsockname()[1])


def main() -> None:
    given = arguments(
        __doc__ or "", processes="1 2", method="baseline", batch_size=24, image_size=128, steps=3, rounds=3
    )
    args = SimpleNamespace(**vars(given))  # what child processes get
    os.environ["OMP_NUM_THREADS"] = "1"
    worlds = [int(word) for word in args.processes.split()]
    rows: list[dict[str, Any]] = []
    for name, freeze in BATCH_NORM.items():
        # seconds an image, so that `ratio` of one process and of N says how many times more images N do
        seconds: dict[str, list[float]] = {str(world): [] for world in worlds}
        for number in range(args.rounds):
            for world in worlds if number % 2 == 0 else reversed(worlds):
                step = seconds_of_a_step(world, freeze, args)
                seconds[str(world)].append(step / (world * args.batch_size))
        for world in worlds:
            rows.append(
                {
                    "batch norm": name,
                    "processes": world,
                    "images/s": 1 / statistics.median(seconds[str(world)]),
                    f"times {worlds[0]} process": ratio(seconds, str(worlds[0]), str(world)),
                    "target": "at least 1.7" if world == 2 else "",
                }
            )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    title = (
        f"{args.method}, ResNet50, {args.batch_size} images a process, {args.image_size} px, "
        f"{precision.resolve('auto', device)}, one {'GPU' if device.type == 'cuda' else 'thread'} each"
    )
    show(title, rows, args.json)


if __name__ == "__main__":
    main()
