"""From a value of --arch to a network: one of the registered ones, or any of timm's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from architectures import timm_models
from architectures.base import BACKBONES, Backbone
from utilities.flags.flag import AUTO

PREFIX = "timm/"


class Architectures(tuple[str, ...]):
    """The choices of --arch: registered names, and every `timm/NAME`."""

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or (isinstance(name, str) and name.startswith(PREFIX) and name != PREFIX)


def architectures() -> Architectures:
    return Architectures((*BACKBONES.names(), f"{PREFIX}NAME"))


def build_backbone(arch: str, *, image_size: int | None, **options: Any) -> Backbone:
    """The backbone that --arch names.

    image_size  side of its images where it is for one size alone (transformers); options: see `resnet.ResNet`
    """
    if arch.startswith(PREFIX):
        return timm_models.TimmBackbone(arch.removeprefix(PREFIX), image_size=image_size, **options)
    return BACKBONES[arch](**options)


def input_defaults(settings: Mapping[str, Any]) -> dict[str, Any]:
    """--input_scaling and --interpolation where they are not given, and the scaling of the network's own pretraining.

    Photographs get what a timm network was trained with, everything else the statistics of the data set.
    Raises UserError for a network that timm does not have.
    """
    found: dict[str, Any] = {"input_mean": settings.get("input_mean"), "input_std": settings.get("input_std")}
    scaling, interpolation = "dataset", "bilinear"
    if settings["arch"].startswith(PREFIX) and not found["input_mean"]:
        own = timm_models.own_input(settings["arch"].removeprefix(PREFIX), settings["weights"])
        found = {"input_mean": list(own.mean), "input_std": list(own.std)}
        photographs = settings["dataset"] != "BigEarthNet"
        scaling = own.scaling if photographs and settings["weights"] != "none" else scaling
        interpolation = own.interpolation
    for name, value in (("input_scaling", scaling), ("interpolation", interpolation)):
        found[name] = value if settings[name] == AUTO else settings[name]
    return found
