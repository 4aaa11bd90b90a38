"""Images per second of backbones, trained and embedded, in float32 and in bf16, side by side.

    python -m tests.benchmarks.backbones [--names resnet50,timm/tf_efficientnet_lite0] [--image_size 224]
                                         [--batch_size 8] [--rounds 3] [--json FILE]

A training step is forward, backward and optimizer of the backbone alone on random images, its batch norm fixed; bf16 is
autocast. Embedding is what an evaluation does (`utilities.inference`: through the fused copy, made before). "auto" is
the format that `--precision auto` takes here. The four take turns. With one thread on a CPU, seconds
are those of this process.
"""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from architectures.choice import build_backbone
from architectures.fill import Origin
from tests.benchmarks.embedding import in_turns
from tests.benchmarks.timing import arguments, default_device, show
from utilities.inference import way as inference
from utilities.training import precision

RGB = ("R", "G", "B")
FORMATS = ("fp32", "bf16")


def trained(net: nn.Module, images: Tensor, optimizer: torch.optim.Optimizer, form: str) -> None:
    """One step."""
    with precision.autocast(form, images.device):
        features = net(images)
    optimizer.zero_grad(set_to_none=True)
    nn.functional.normalize(features.float()).square().sum().backward()
    optimizer.step()


@torch.inference_mode()
def embedded(net: nn.Module, images: Tensor, form: str) -> None:
    with precision.autocast(form, images.device):
        net(images)


def speeds(name: str, count: int, side: int, rounds: int, device: torch.device) -> dict[str, Any]:
    """A row of the table."""
    options: dict[str, Any] = {"frozen": False, "freeze_batch_norm": True, "image_size": side}
    net = build_backbone(name, bands=RGB, origin=Origin("none"), **options)
    net.to(device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-5, fused=True)
    images = torch.randn(count, 3, side, side).to(device, memory_format=torch.channels_last)
    steps: dict[str, Callable[[], object]] = {}
    with contextlib.ExitStack() as stack:
        for form in FORMATS:
            still = copy.deepcopy(net).eval()
            stack.enter_context(
                inference.embedding(still, images=inference.FROM_IMAGES, number_format=form)  # of a whole split
            )
            steps[f"train {form}"] = functools.partial(trained, net, images, optimizer, form)
            steps[f"embed {form}"] = functools.partial(embedded, still, images, form)
        seconds = in_turns(steps, rounds, device)
    found = {f"{what} [images/s]": count / taken for what, taken in seconds.items()}
    return {"backbone": name, **found, "auto": precision.resolve("auto", device, net)}


def main() -> None:
    names = "resnet50,timm/tf_efficientnet_lite0"
    args = arguments(__doc__ or "", names=names, batch_size=8, image_size=224, rounds=3)
    device = default_device()
    rows = [speeds(n, args.batch_size, args.image_size, args.rounds, device) for n in args.names.split(",")]
    show(f"Backbones, {args.image_size} px, batch {args.batch_size}", rows, args.json)


if __name__ == "__main__":
    main()
