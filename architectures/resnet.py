"""torchvision's ResNets as backbones: any band count, batch norm live or frozen."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import torch
import torchvision
from torch import nn

from architectures.base import BACKBONES, Backbone
from architectures.checkpoints import Weights
from architectures.fill import Origin, fill
from architectures.sources import SOURCES
from utilities.errors import UserError

NAMED = {"imagenet": "IMAGENET1K_V1", "imagenet_v2": "IMAGENET1K_V2"}  # values of --weights


class ResNet(Backbone):
    """A torchvision ResNet without its classifier: (B, C, H, W) float -> (B, features) pooled.

    bands              names of the C input channels, by which pretrained filters find them
    origin             its weights: "none", "imagenet" (V1), "imagenet_v2" or the path of a file
    frozen             no gradient into any weight, batch-norm statistics fixed
    freeze_batch_norm  batch-norm statistics fixed while all weights train (Roth et al. 2020, Sanakoyeu et al. 2019)

    Without pretrained weights, the last batch norm of each residual block starts at 0 (Goyal et al. 2017, Accurate,
    Large Minibatch SGD, section 5.1).
    """

    arch: ClassVar[str]

    def __init__(self, *, bands: tuple[str, ...], origin: Origin, frozen: bool, freeze_batch_norm: bool) -> None:
        # Training from scratch starts with blocks that are the identity.
        net = torchvision.models.get_model(self.arch, weights=None, zero_init_residual=True)
        features = net.fc.in_features
        net.fc = nn.Identity()
        if len(bands) != 3:
            old = net.conv1
            net.conv1 = nn.Conv2d(len(bands), old.out_channels, old.kernel_size, old.stride, old.padding, bias=False)
            nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")
        if origin.weights != "none":
            fill(net, pretrained(self.arch, origin), bands, origin)
        super().__init__(net, features, frozen=frozen, freeze_batch_norm=freeze_batch_norm)


def pretrained(arch: str, origin: Origin) -> Weights:
    """torchvision's weights by name, or those of a file. Raises UserError."""
    if origin.weights not in NAMED:
        return origin.read()
    version = NAMED[origin.weights]
    enum = torchvision.models.get_model_weights(arch)
    if version not in enum.__members__:
        raise UserError(
            f"--weights {origin.weights}: torchvision has no {version} for {arch}; it has {list(enum.__members__)}"
        )
    entry = enum[version]
    try:
        return Weights(entry.get_state_dict(progress=False, check_hash=True), SOURCES["imagenet"])
    except (OSError, RuntimeError) as error:
        cache = Path(torch.hub.get_dir()) / "checkpoints" / Path(entry.url).name
        raise UserError(
            f"--weights {origin.weights} could not be downloaded ({error}). Put the file of {entry.url} at {cache}, or "
            "give its path with --weights PATH, or train from scratch with --weights none"
        ) from error


def _register_all() -> None:
    for arch in (
        "resnet18",
        "resnet34",
        "resnet50",
        "resnet101",
        "resnet152",
        "resnext50_32x4d",
        "wide_resnet50_2",
    ):
        BACKBONES.register(arch)(type(arch, (ResNet,), {"arch": arch}))


_register_all()
