"""From a value of --arch to a network: one of the registered ones, or any of timm's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from architectures import resnet, timm_models
from architectures.base import BACKBONES, Backbone
from architectures.checkpoints import Weights
from architectures.fill import Origin
from utilities.errors import UserError
from utilities.flags.flag import AUTO

PREFIX = "timm/"
# Values of --input_scaling
OF_PHOTOGRAPHS = ("dataset", "imagenet", "network", "tensorflow", "satlas")
OF_DIGITAL_NUMBERS = ("dataset", "reflectance", "reflectance_clipped", "satlas", "seco", "softcon", "reben")


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

    Weights whose source is known bring its scaling along, a timm network its own for photographs; everything else is
    standardised by the statistics of the data set. Raises UserError for a network that timm does not have, and for a
    file of weights that cannot be read or is of another --arch.
    """
    found: dict[str, Any] = {name: settings.get(name) for name in ("input_mean", "input_std")}
    scaling, interpolation = "dataset", "bilinear"
    fitting = OF_PHOTOGRAPHS if _of_photographs(settings) else OF_DIGITAL_NUMBERS
    if not settings["load_from_checkpoint"]:
        if settings["arch"].startswith(PREFIX):
            own = timm_models.own_input(settings["arch"].removeprefix(PREFIX), settings["weights"])
            _check_timm(settings, own.fixed_size)
            found = {"input_mean": list(own.mean), "input_std": list(own.std)}
            interpolation = own.interpolation
            if own.scaling in fitting and settings["weights"] != "none":
                scaling = own.scaling
        read = _read_file(settings)
        if read.source is not None and read.source.scaling in fitting:
            scaling = read.source.scaling
        if read.mean is not None:
            found = {"input_mean": read.mean, "input_std": read.std}
    if settings["per_image_normalisation"]:
        scaling = "dataset"
    for name, value in (("input_scaling", scaling), ("interpolation", interpolation)):
        found[name] = value if settings[name] == AUTO else settings[name]
    return found


def _of_photographs(settings: Mapping[str, Any]) -> bool:
    """Whether the data set's images are 8-bit RGB."""
    if settings["dataset"] == "Folder":
        return settings["folder_bands"].lower() in ("rgb", "r,g,b")
    return settings["dataset"] != "BigEarthNet"


def _read_file(settings: Mapping[str, Any]) -> Weights:
    """What --weights holds where it is a file."""
    weights, arch = settings["weights"], settings["arch"]
    if weights in ("none", *resnet.NAMED):
        for flag in ("weights_bands", "missing_bands"):
            if settings[flag] and (flag == "weights_bands" or weights == "none"):
                raise UserError(f"--{flag} {settings[flag]} is about a file of --weights, which is {weights}")
        return Weights({})
    read = Origin(weights, settings["weights_bands"]).read()
    if read.arch not in (None, arch):
        raise UserError(f"--weights {weights} is a {read.arch}: give --arch {read.arch}, not {arch}")
    return read


def _check_timm(settings: Mapping[str, Any], fixed_size: bool) -> None:
    """What torchvision's networks take and these do not."""
    if fixed_size and settings["small_epochs"]:
        raise UserError(
            f"--arch {settings['arch']} is built for images of one size; leave out --small_epochs "
            f"{settings['small_epochs']}"
        )
    if settings["weights"] == "imagenet_v2":
        raise UserError(
            f"--weights imagenet_v2 is torchvision's; --arch {settings['arch']} takes imagenet, none or a file (timm "
            "names other weights by a tag: timm/resnet50.a1_in1k)"
        )
