"""Images a second of 1, 2, ... processes, each on one thread (or one GPU), beside those of one.

    python -m tests.benchmarks.scaling [--processes "1 2"] [--method baseline] [--batch_size 24] [--image_size 128]
                                       [--steps 3] [--rounds 3] [--json FILE]

Every process trains ResNet50 on --batch_size images of its own, so that N processes share a batch of N times as many;
a step is what the engine runs, gathering and DDP included. Groups of processes take turns, round by round, and ratios
are formed within a round. Live batch norm takes its statistics over all processes, fixed batch norm sends nothing.
"N apart" are N processes that each train a network of their own at the same time: what the machine has to give.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import tempfile
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.multiprocessing as mp

from tests.benchmarks.step import METHODS, fake_split, trainer_of
from tests.benchmarks.timing import arguments, default_device, ratio, show
from utilities.batch import Batch
from utilities.parallel import distributed
from utilities.training import precision
from utilities.training.allocator import keep_freed_memory

BATCH_NORM = {"live": "no", "fixed": "yes"}


class Group(NamedTuple):
    """Processes that run at the same time, and whether they train one network."""

    processes: int
    together: bool

    def __str__(self) -> str:
        return f"{self.processes}{'' if self.together else ' apart'}"


def measure(
    rank: int, group: Group, start: Barrier, port: int, freeze: str, args: SimpleNamespace, folder: str
) -> None:
    """One process of `group`: the seconds of its steps into `folder`, after one that is not counted."""
    torch.set_num_threads(1)
    keep_freed_memory()
    world, own = (group.processes, rank) if group.together else (1, 0)
    if world > 1:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
        os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    default_device()  # in this process as well
    device = distributed.start("auto" if group.together or not torch.cuda.is_available() else f"cuda:{rank}")
    split = fake_split(4_000, 60)
    more = ["--freeze_batch_norm", freeze, "--savename", str(rank - own)]
    trainer = trainer_of(METHODS[args.method], split, args, folder, more)
    rows = torch.as_tensor(np.asarray(trainer.method.epoch_batches(0)[0])).reshape(world, -1)[own]
    images = torch.randn(args.batch_size, 3, args.image_size, args.image_size).to(
        device, memory_format=torch.channels_last
    )
    labels = torch.from_numpy(split.labels)[rows].to(device)
    batch = Batch(images, labels, rows.to(device), images if trainer.method.second_view else None)
    trainer.train_step(batch, 0.5)
    if device.type == "cuda":
        torch.cuda.synchronize()
    start.wait()
    began = time.perf_counter()
    for _ in range(args.steps):
        trainer.train_step(batch, 0.5)
    if device.type == "cuda":
        torch.cuda.synchronize()
    Path(folder, f"seconds{rank}.json").write_text(json.dumps((time.perf_counter() - began) / args.steps))
    trainer.close()
    distributed.stop()


def seconds_of_a_step(group: Group, freeze: str, args: SimpleNamespace) -> float:
    with tempfile.TemporaryDirectory() as folder:
        barrier = mp.get_context("spawn").Barrier(group.processes)
        mp.spawn(measure, (group, barrier, _free_port(), freeze, args, folder), nprocs=group.processes)
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
    if gpus := torch.cuda.device_count():  # a process needs one of its own
        worlds = [world for world in worlds if world <= gpus]
    groups = [*(Group(world, True) for world in worlds), *(Group(world, False) for world in worlds if world > 1)]
    rows: list[dict[str, Any]] = []
    for name, freeze in BATCH_NORM.items():
        # seconds an image, so that `ratio` of one process and of N says how many times more images N do
        seconds: dict[str, list[float]] = {str(group): [] for group in groups}
        for number in range(args.rounds):
            for group in groups if number % 2 == 0 else reversed(groups):
                step = seconds_of_a_step(group, freeze, args)
                seconds[str(group)].append(step / (group.processes * args.batch_size))
        for group in groups:
            rows.append(
                {
                    "batch norm": name,
                    "processes": str(group),
                    "images/s": 1 / statistics.median(seconds[str(group)]),
                    f"times {groups[0]} process": ratio(seconds, str(groups[0]), str(group)),
                    "target": "at least 1.7" if group == (2, True) else "",
                }
            )
    device = default_device()
    title = (
        f"{args.method}, ResNet50, {args.batch_size} images a process, {args.image_size} px, "
        f"{precision.resolve('auto', device)}, one {'GPU' if device.type == 'cuda' else 'thread'} each"
    )
    show(title, rows, args.json)


if __name__ == "__main__":
    main()
