"""Images per second of backbones, trained and embedded, in float32 and under bf16 autocast, side by side.

    python -m tests.benchmarks.backbones --names resnet50,timm/tf_efficientnet_lite0 --rounds 3

A training step is forward, backward and optimizer of the backbone alone on random images; "auto" is the format that
`--precision auto` takes here.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from architectures.choice import build_backbone
from architectures.fill import Origin
from tests.benchmarks.timing import arguments, default_device, paired, show
from utilities.training import precision

RGB = ("R", "G", "B")


def candidates(name: str, count: int, side: int, device: torch.device) -> tuple[str, dict[str, Callable[[], object]]]:
    """The format of `auto`, and "train bf16", "embed fp32", ... -> a step on `count` images."""
    options: dict[str, Any] = {"frozen": False, "freeze_batch_norm": True, "image_size": side}
    net = build_backbone(name, bands=RGB, origin=Origin("none"), **options)
    net.to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-5, fused=True)
    images = torch.randn(count, 3, side, side).to(device, memory_format=torch.channels_last)

    def train(form: str) -> None:
        net.train()
        with precision.autocast(form, device):
            features = net(images)
        optimizer.zero_grad(set_to_none=True)
        nn.functional.normalize(features.float()).square().sum().backward()
        optimizer.step()

    def embed(form: str) -> None:
        net.eval()
        with torch.inference_mode(), precision.autocast(form, device):
            net(images)

    steps: dict[str, Callable[[], object]] = {}
    for form in ("fp32", "bf16"):
        steps[f"train {form}"] = lambda form=form: train(form)  # type: ignore[misc]
        steps[f"embed {form}"] = lambda form=form: embed(form)  # type: ignore[misc]
    return precision.resolve("auto", device, net), steps


def main() -> None:
    names = "resnet50,timm/tf_efficientnet_lite0"
    args = arguments(__doc__.splitlines()[0], names=names, batch_size=16, image_size=224, rounds=3)
    device, rows = default_device(), []
    for name in args.names.split(","):
        auto, steps = candidates(name, args.batch_size, args.image_size, device)
        seconds = paired(steps, args.rounds)
        speed = {f"{what} [images/s]": args.batch_size / statistics.median(taken) for what, taken in seconds.items()}
        rows.append({"backbone": name, **speed, "auto": auto})
    show(f"Backbones, {args.image_size} px, batch {args.batch_size}", rows, args.json)


if __name__ == "__main__":
    main()
