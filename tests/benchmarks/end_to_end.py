"""Whole pieces of a run beside what they cannot do without.

    python -m tests.benchmarks.end_to_end [--parts "epoch precision validation start"] [--rounds 3] [--json FILE]

epoch       an epoch of `train_baseline` on generated images, read from the prepared array and augmented, beside the
            same steps on batches that are already on the device
precision   a training step in the default precision and layout beside plain float32 and contiguous, 224 px
validation  `Trainer.validate`, from stored pixels to a saved checkpoint and curves, with the labels of MLRSNet
            (`../shared/data`), beside the network's forward pass and one bare search (faiss; torch on a GPU) over as
            many images. An untrained network embeds all of them alike, so that many nearest ones are too close to
            call in float32 and searched for again: its head is set to spread them, unless --validation_spread no
start       seconds from starting `train_baseline.py` on the demo data to its first step, in a process of its own;
            of another backbone than ResNet50 with --start_arch

Both sides of a row take turns; ratios are formed turn by turn. Sizes are flags, and stand in the table.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

import parameters
from architectures.embedding import EmbeddingNetwork
from datasets.base import RetrievalDataset
from datasets.batches.loaders import Loader
from datasets.open import open_data, open_loader
from tests.benchmarks.evaluator import mlrsnet_labels
from tests.benchmarks.step import fake_split, trainer_of
from tests.benchmarks.timing import arguments, best_faiss_kernels, default_device, paired, ratio, show
from train_baseline import Baseline
from utilities.batch import Batch
from utilities.neighbours.search import faiss_module
from utilities.training import precision
from utilities.training.allocator import keep_freed_memory
from utilities.training.engine import Trainer

DEVICE = default_device()
ROOT = Path(__file__).resolve().parents[2]
NEVER = str(10**6)  # epochs or steps


def row(what: str, seconds: Mapping[str, Sequence[float]], images: int, target: str) -> dict[str, Any]:
    """One line of the table; "ours" beside the one other candidate."""
    other = next(name for name in seconds if name != "ours")
    return {
        "what": what,
        "seconds": statistics.median(seconds["ours"]),
        "images/s": images / statistics.median(seconds["ours"]),
        "beside": other,
        "its images/s": images / statistics.median(seconds[other]),
        "time ratio": ratio(seconds, "ours", other),
        "target": target,
    }


def settings_of(folder: Path, *flags: str) -> parameters.Settings:
    fixed = ["--weights", "none", "--save_path", str(folder), "--log_every_steps", NEVER, "--nb_epochs", NEVER]
    return parameters.parse("baseline", [*fixed, *flags])


def epoch(args: Namespace, folder: Path) -> dict[str, Any]:
    """With the loader and the prepared array, and with batches that stay on the device."""
    side, batch_size = args.image_size, args.batch_size
    settings = settings_of(
        folder, "--source_path", str(folder), "--use_npmem", "--image_size", str(side), "--batch_size", str(batch_size),
        "--demo_side", str(round(side * 8 / 7)), "--demo_images_per_category", str(args.demo_images),
        "--num_workers", str(args.num_workers),
    )  # fmt: skip
    data = open_data(settings, DEVICE)
    method = Baseline(settings, data.train.dataset)
    trainer = Trainer(method, data, settings, DEVICE)
    trainer.train_epoch()  # starts the workers
    batches = method.epoch_batches(0)
    feed = data.train.training(batches, seed=0, epoch=0, start=0, second_view=False)
    resident = [Batch(*(None if part is None else part.clone() for part in batch)) for _, batch in feed]

    def without_loader() -> None:
        for batch in resident:
            trainer.train_step(batch, 0.5)

    seconds = paired({"ours": trainer.train_epoch, "images resident": without_loader}, args.rounds, warm_up=0)
    trainer.close()
    images = len(batches) * batch_size
    what = f"epoch, {images} images of {side} px in batches of {batch_size}, {args.num_workers} workers"
    return row(what, seconds, images, "at most 1.03")


def default_precision(args: Namespace, folder: Path) -> dict[str, Any]:
    """A step as it comes and a step as it was: float32, NCHW."""
    precision.full_convolutions()
    split, count = fake_split(1_000, 60), args.precision_batch
    size = SimpleNamespace(batch_size=count)
    steps: dict[str, Callable[[], None]] = {}
    for name, flags, layout in (
        ("ours", (), torch.channels_last),
        ("float32 contiguous", ("--precision", "fp32", "--contiguous"), torch.contiguous_format),
    ):
        trainer = trainer_of(Baseline, split, size, str(folder), flags)
        drawn = torch.as_tensor(np.asarray(trainer.method.epoch_batches(0)[0]))
        images = torch.randn(count, 3, 224, 224).to(DEVICE, memory_format=layout)
        batch = Batch(images, torch.from_numpy(split.labels)[drawn].to(DEVICE), drawn.to(DEVICE))
        steps[name] = lambda trainer=trainer, batch=batch: trainer.train_step(batch, 0.5)  # type: ignore[misc]
    seconds = paired(steps, args.rounds)
    what = f"step at 224 px, batch {count}, {precision.resolve('auto', DEVICE)} channels_last"
    return row(what, seconds, count, "at most 0.33 (3 times the images/s)")


SPREAD_BY = 1000  # images by whose features the head of the validated network is set


class InMemory(RetrievalDataset):
    """As many different images as wanted (up to 65,536), stored as uint8, made from a small pool of random ones.

    Their labels are MLRSNet's: random ones repeat no label set, as no archive does, and what a validation counts
    through distinct sets would be counted through pairs of images.
    """

    title = "random pixels"
    label_names = tuple(f"label{number}" for number in range(60))
    bands, dtype = ("R", "G", "B"), np.dtype(np.uint8)
    mean, std = (127.5,) * 3, (73.9,) * 3

    def __init__(self, folder: Path, images: int, side: int) -> None:
        super().__init__(source_path=folder, split="val")
        self.band_sides = (side,) * 3
        self.names = np.arange(images).astype(str)
        self.labels = mlrsnet_labels(images, torch.Generator().manual_seed(0)).numpy()
        self.pool = np.random.default_rng(0).integers(0, 256, (256, 3, side, side), np.uint8)

    def read(self, row: int) -> np.ndarray:
        return self.pool[row % len(self.pool)] ^ np.uint8(row // len(self.pool))


def validation(args: Namespace, folder: Path) -> dict[str, Any]:
    """All that a validation does, and a forward pass and a search alone."""
    side, images, count = args.validation_size, args.validation_images, 250
    settings = settings_of(
        folder, "--savename", "validation", "--image_size", str(side), "--resize_to", str(side),
        "--eval_batch_size", str(count), "--num_workers", str(args.num_workers),
    )  # fmt: skip
    dataset = InMemory(folder, images, side)
    loader = open_loader(settings, dataset, DEVICE)
    method = Baseline(settings, dataset)
    trainer = Trainer(method, SimpleNamespace(train=loader, val=loader, test=None, description={}), settings, DEVICE)
    if args.validation_spread == "yes":
        spread(method.network, loader, min(images, SPREAD_BY))
    resident = torch.randn(count, 3, side, side).to(DEVICE, memory_format=torch.channels_last)

    def bare() -> None:
        trainer.model.eval()
        with torch.inference_mode(), precision.autocast("auto", DEVICE):
            rows = torch.cat([method.embed(resident[: images - i]) for i in range(0, images, count)])
        if DEVICE.type == "cpu":
            faiss_module().knn(rows.numpy(), rows.numpy(), 9)
        else:
            for block in rows.split(4096):
                (block @ rows.T).topk(9)

    warm_up = int(images < 10_000)
    seconds = paired({"ours": trainer.validate, "forward and search": bare}, args.rounds, warm_up)
    trainer.close()
    return row(f"validation of {images:,} images of {side} px", seconds, images, "at most 0.6")


def spread(network: EmbeddingNetwork, loader: Loader, images: int) -> None:
    """Give the head the whitened principal components of the features: embeddings in all directions, as trained."""
    network.eval()
    with torch.inference_mode(), precision.autocast("auto", DEVICE):
        features = torch.cat([network.features(b.images) for b in loader.evaluation(np.arange(images), 250)])
    (head,) = network.heads.values()
    mean = features.mean(0)
    _, deviations, components = torch.linalg.svd(features - mean, full_matrices=False)
    found = min(head.out_features, images - 1)
    with torch.no_grad():
        head.weight.zero_()[:found] = components[:found] / deviations[:found, None]
        head.bias.copy_(-head.weight @ mean)


def start(args: Namespace, folder: Path) -> dict[str, Any]:
    """A training script by the clock, its demo data already generated."""
    folder = folder / "start"
    folder.mkdir()
    demo = ["--dataset", "Demo", "--source_path", str(folder), "--demo_images_per_category", str(args.demo_images)]
    demo += ["--batch_size", "60", "--arch", args.start_arch]
    settings = settings_of(folder, *demo)
    open_data(settings, DEVICE)
    found = []
    for number in range(args.rounds):
        runs = folder / f"start{number}"
        command = [sys.executable, str(ROOT / "train_baseline.py"), *demo, "--save_path", str(runs)]
        command += ["--log_every_steps", "1", "--nb_epochs", "2"]
        begin = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=ROOT)
        lines = runs / "Demo" / "baseline" / "metrics.jsonl"
        while not (lines.exists() and lines.stat().st_size):
            if process.poll() is not None:
                raise RuntimeError(process.communicate()[1].decode()[-2000:])
            time.sleep(0.01)
        found.append(time.perf_counter() - begin)
        process.kill()
        process.communicate()
    return {
        "what": f"start of train_baseline.py to its first step ({args.start_arch}, batch 60, 64 px) on the demo data",
        "seconds": statistics.median(found),
        "target": "below 10",
    }


PARTS = {"epoch": epoch, "precision": default_precision, "validation": validation, "start": start}


def main() -> None:
    args = arguments(
        __doc__ or "", parts=" ".join(PARTS), rounds=3, image_size=128, batch_size=60, demo_images=25, num_workers=1,
        precision_batch=8, validation_images=2000, validation_size=64, validation_spread="yes",
        start_arch="resnet50",
    )  # fmt: skip
    torch.manual_seed(0)
    keep_freed_memory()  # as every script does
    best_faiss_kernels()
    with tempfile.TemporaryDirectory() as name:
        rows = [PARTS[part](args, Path(name)) for part in args.parts.split()]
    show("Whole pieces of a run, ResNet50, baseline", rows, args.json)


if __name__ == "__main__":
    main()
