"""Weights from files: read without running code, names made those of a network, first layers for other bands."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from utilities.errors import UserError

VISIBLE = {"R": 0, "G": 1, "B": 2, "B04": 0, "B03": 1, "B02": 2}  # band name -> channel of an RGB network


def inflate_stem(weight: Tensor, bands: tuple[str, ...]) -> Tensor:
    """First-layer filters for other bands: (O, 3, k, k) in R, G, B order -> (O, C, k, k).

    Visible bands keep their filter, every other band gets the mean of the three, and all are rescaled by 3 / C, so
    that (with all or none of R, G, B present) an image equal in all bands excites the layer as a gray RGB image does.
    """
    mean = weight.mean(1)
    filters = [weight[:, VISIBLE[band]] if band in VISIBLE else mean for band in bands]
    visible = torch.stack(filters, 1)
    return visible * (weight.shape[1] / len(bands))


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


def load_pretrained(
    net: nn.Module,
    state: dict[str, Tensor],
    bands: tuple[str, ...],
    *,
    source: str,
    stems: Sequence[str] = ("conv1",),
    classifiers: Sequence[str] = (),
) -> None:
    """Fill `net` in place, its first layers (stems) for the bands. Every tensor must be there and fit.

    Three channels are R, G, B, except in a network of this project: it was trained on bands in their order.
    classifiers: modules of the file that `net` does not have.
    """
    in_band_order = any("backbone.net." in name for name in state)
    state = normalise_names(state)
    for name in (f"{stem}.weight" for stem in stems):
        stem = state.get(name)
        if stem is not None and not (in_band_order and stem.shape[1] == len(bands)):
            if stem.shape[1] == 3:
                state = {**state, name: inflate_stem(stem, bands)}
            elif stem.shape[1] != len(bands):
                raise UserError(
                    f"--weights {source} is for {stem.shape[1]} bands; this run has {len(bands)}: {', '.join(bands)}"
                )
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
