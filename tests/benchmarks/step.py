"""What a training step costs beyond the bare network.

    python -m tests.benchmarks.step [--batch_size 120] [--image_size 128] [--rounds 7]

The bare step is a ResNet50 with a linear head: forward, sum, backward, fused AdamW, in the same precision and memory
format. The method's step is what the engine runs: gather, mining, loss, backward, optimizer, `after_step`, bookkeeping.
Both work on the same images, already on the device; they take turns, and the ratio is the median over rounds.
"""

from __future__ import annotations

import statistics
import tempfile
from types import SimpleNamespace

import numpy as np
import torch

import parameters
from architectures.embedding import EmbeddingNetwork
from tests.benchmarks.timing import arguments, paired, ratio, show
from train_baseline import Baseline
from utilities import optim, precision
from utilities.batch import Batch
from utilities.engine import Trainer

METHODS = {"baseline": Baseline}


def fake_split(images: int, labels: int) -> SimpleNamespace:
    """As much of a data set as a method looks at."""
    generator = np.random.default_rng(0)
    table = generator.random((images, labels)) < 0.2
    table[np.arange(images), generator.integers(0, labels, images)] = True
    return SimpleNamespace(bands=("R", "G", "B"), labels=table, names=np.arange(images).astype(str))


def main() -> None:
    args = arguments(__doc__ or "", batch_size=120, image_size=128, rounds=7)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    split = fake_split(2000, 17)
    images = torch.randn(args.batch_size, 3, args.image_size, args.image_size, device=device)
    images = images.contiguous(memory_format=torch.channels_last)
    indices = torch.arange(args.batch_size, device=device)
    batch = Batch(images, torch.from_numpy(split.labels)[: args.batch_size].to(device), indices)

    bare = EmbeddingNetwork(arch="resnet50", bands=split.bands, heads={"embedding": 512})
    bare = bare.to(device, memory_format=torch.channels_last)
    optimizer = optim.build([{"params": list(bare.parameters()), "lr": 1e-5}], {"optim": "adamw", "weight_decay": 0.0})

    def bare_step() -> None:
        with precision.autocast("auto", device):
            features = bare.backbone(images)
        loss = bare.heads["embedding"](features.float()).sum() * 1e-6
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, kind in METHODS.items():
            flags = [
                "--weights",
                "none",
                "--batch_size",
                str(args.batch_size),
                "--lr",
                "1e-5",
                "--save_path",
                folder,
            ]
            settings = parameters.parse(name, [*flags, "--log_every_steps", "1000000"])
            feed = SimpleNamespace(dataset=split, skipped=set())
            data = SimpleNamespace(train=feed, val=feed, description={})
            trainer = Trainer(kind(settings, split), data, settings, device)
            trainer.model.train()
            bare.train()
            candidates = {"bare": bare_step, name: lambda trainer=trainer: trainer.train_step(batch, 0.5)}
            seconds = paired(candidates, args.rounds)
            trainer.close()
            rows.append(
                {
                    "method": name,
                    "step [s]": statistics.median(seconds[name]),
                    "bare step [s]": statistics.median(seconds["bare"]),
                    "ratio": ratio(seconds, name, "bare"),
                    "images/s": args.batch_size / statistics.median(seconds[name]),
                }
            )
    title = (
        f"Training step, ResNet50, batch {args.batch_size}, {args.image_size} px, {precision.resolve('auto', device)}"
    )
    show(title, rows, args.json)


if __name__ == "__main__":
    main()
