"""torchvision's ResNets as backbones: any band count, weights from several homes, batch norm live or frozen."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import torch
import torchvision
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from architectures.base import BACKBONES, Backbone
from utilities.errors import UserError

VISIBLE = {"R": 0, "G": 1, "B": 2, "B04": 0, "B03": 1, "B02": 2}  # band name -> channel of an RGB network


class ResNet(Backbone):
    """A torchvision ResNet without its classifier: (B, C, H, W) float -> (B, features) pooled.

    bands              names of the C input channels; R, G, B (or B04, B03, B02) keep their pretrained filters
    weights            "none", "imagenet" (V1), "imagenet_v2" or the path of a .pth / .pt / .safetensors file in
                       torchvision's, timm's or pretrainedmodels' naming
    frozen             no gradient into any weight, batch-norm statistics fixed
    freeze_batch_norm  batch-norm statistics fixed while all weights train (Roth et al. 2020, Sanakoyeu et al. 2019)

    Without pretrained weights, the last batch norm of each residual block starts at 0 (Goyal et al. 2017, Accurate,
    Large Minibatch SGD, section 5.1).
    """

    arch: ClassVar[str]

    def __init__(self, *, bands: tuple[str, ...], weights: str, frozen: bool, freeze_batch_norm: bool) -> None:
        super().__init__()
        # Training from scratch starts with blocks that are the identity.
        net = torchvision.models.get_model(self.arch, weights=None, zero_init_residual=True)
        self.features = net.fc.in_features
        net.fc = nn.Identity()
        if weights != "none":
            load_pretrained(net, pretrained_state(self.arch, weights), bands, source=weights)
        elif len(bands) != 3:
            net.conv1 = _stem(net.conv1, len(bands))
            nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.net = net
        self.frozen = frozen
        self.freeze_batch_norm = freeze_batch_norm or frozen
        if frozen:
            self.requires_grad_(False)
        self.train()

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images)

    def train(self, mode: bool = True) -> ResNet:
        """As in any module, except that frozen batch norm stays in evaluation mode."""
        super().train(mode)
        if self.freeze_batch_norm:
            for module in self.modules():
                if isinstance(module, _BatchNorm):  # also once it is torch's SyncBatchNorm
                    module.eval()
        return self


def _stem(conv: nn.Conv2d, channels: int) -> nn.Conv2d:
    return nn.Conv2d(channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, bias=False)  # type: ignore[arg-type]


def inflate_stem(weight: Tensor, bands: tuple[str, ...]) -> Tensor:
    """First-layer filters for other bands: (O, 3, k, k) in R, G, B order -> (O, C, k, k).

    Visible bands keep their filter, every other band gets the mean of the three, and all are rescaled by 3 / C, so
    that (with all or none of R, G, B present) an image equal in all bands excites the layer as a gray RGB image does.
    """
    mean = weight.mean(1)
    filters = [weight[:, VISIBLE[band]] if band in VISIBLE else mean for band in bands]
    visible = torch.stack(filters, 1)
    return visible * (weight.shape[1] / len(bands))


def pretrained_state(arch: str, weights: str) -> dict[str, Tensor]:
    """State dict of `weights`, named as its source names it. Raises UserError."""
    if weights in ("imagenet", "imagenet_v2"):
        version = "IMAGENET1K_V1" if weights == "imagenet" else "IMAGENET1K_V2"
        enum = torchvision.models.get_model_weights(arch)
        if version not in enum.__members__:
            raise UserError(
                f"--weights {weights}: torchvision has no {version} for {arch}; it has {list(enum.__members__)}"
            )
        entry = enum[version]
        try:
            state = entry.get_state_dict(progress=False, check_hash=True)
        except (OSError, RuntimeError) as error:
            cache = Path(torch.hub.get_dir()) / "checkpoints" / Path(entry.url).name
            raise UserError(
                f"--weights {weights} could not be downloaded ({error}). Put the file of {entry.url} at {cache}, or "
                "give its path with --weights PATH, or train from scratch with --weights none"
            ) from error
        return state
    return read_state(Path(weights))


def read_state(path: Path) -> dict[str, Tensor]:
    """Tensors of a .pth / .pt / .pth.tar (torch.save) or .safetensors file. Raises UserError naming the file."""
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "no such file"
        raise UserError(f"--weights {path}: {what}; choices: none, imagenet, imagenet_v2 or an existing file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # every reader has its own exceptions; the file's name is what helps
        reason = str(error).partition("\n")[0]  # torch goes on with advice that does not apply here
        raise UserError(f"--weights {path} cannot be read as .pth or .safetensors: {reason}") from error
    for key in ("state_dict", "model", "network"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    tensors = {k: v for k, v in state.items() if isinstance(v, Tensor)} if isinstance(state, dict) else {}
    if not tensors:
        raise UserError(f"--weights {path} holds no state dict of tensors")
    return tensors


def normalise_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Drop wrappers' prefixes (DDP, `backbone.net.` of this project) and classifiers (fc, last_linear)."""
    prefixes = ("module.", "network.", "backbone.", "net.", "model.", "encoder.")
    clean = {}
    for name, tensor in state.items():
        while name.startswith(prefixes):
            name = name.split(".", 1)[1]
        if not name.startswith(("fc.", "last_linear.", "heads.")):
            clean[name] = tensor
    return clean


def load_pretrained(net: nn.Module, state: dict[str, Tensor], bands: tuple[str, ...], *, source: str) -> None:
    """Fill `net` in place, adapting its first layer to the bands. Every tensor must be there and fit.

    Three channels are R, G, B, except in a network of this project: it was trained on bands in their order.
    """
    in_band_order = any("backbone.net." in name for name in state)
    state = normalise_names(state)
    stem = state.get("conv1.weight")
    if stem is not None and not (in_band_order and stem.shape[1] == len(bands)):
        if stem.shape[1] == 3:
            state = {**state, "conv1.weight": inflate_stem(stem, bands)}
        elif stem.shape[1] != len(bands):
            raise UserError(
                f"--weights {source} is for {stem.shape[1]} bands; this run has {len(bands)}: {', '.join(bands)}"
            )
    if len(bands) != 3:
        net.conv1 = _stem(net.conv1, len(bands))  # type: ignore[arg-type]
    # torchvision's oldest files lack the step counter of batch norm, which nothing here reads.
    wanted = {k: v for k, v in net.state_dict().items() if not k.endswith("num_batches_tracked")}
    missing = [k for k in wanted if k not in state]
    unfit = [k for k in wanted if k in state and state[k].shape != wanted[k].shape]
    if missing or unfit:
        raise UserError(
            f"--weights {source} is not a {type(net).__name__} of this --arch: {len(missing)} tensors missing "
            f"({', '.join(missing[:3])} ...), {len(unfit)} of another shape ({', '.join(unfit[:3])} ...)"
        )
    net.load_state_dict({k: state[k] for k in wanted}, strict=False)


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
