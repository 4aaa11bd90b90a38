"""Files of weights: read without running code from them, and what they tell about themselves."""

from __future__ import annotations

import json
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from architectures.sources import SOURCES, Source, canonical
from utilities.errors import UserError

# Where files keep their weights, in order of preference: this project's best.pt and last.pt, then what trainers of
# others call it. Averages of weights come last: they are beside the weights themselves.
WRAPPERS = (
    "network", "method", "state_dict", "teacher", "model_state", "model_state_dict", "model", "net", "encoder",
    "backbone", "ema", "ema_state_dict", "model_ema", "state_dict_ema", "params",
)  # fmt: skip


class Weights(NamedTuple):
    """The tensors of a file, under its own names, and what it says about them.

    source  bands and scaling; None where it does not tell
    arch    of a run of this project; None elsewhere
    mean, std  of a photograph's bands in 0..1, where a run of this project was scaled by its network's own
    """

    state: dict[str, Tensor]
    source: Source | None = None
    arch: str | None = None
    mean: list[float] | None = None
    std: list[float] | None = None


def read_weights(path: Path) -> Weights:
    """The file of --weights: .safetensors, or anything that torch.save wrote. Raises UserError naming the file."""
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "no such file"
        raise UserError(f"--weights {path}: {what}; choices: none, imagenet, imagenet_v2 or an existing file")
    content = _content(path)
    state = _tensors(content)
    if not state:
        held = ", ".join(map(str, list(content)[:5])) if isinstance(content, Mapping) else type(content).__name__
        raise UserError(f"--weights {path} holds no state dict of tensors; it holds {held or 'nothing'}")
    if isinstance(content, Mapping) and isinstance(content.get("network_description"), Mapping):
        return Weights(state, **_of_this_project(content))
    return Weights(state, _beside(path))


def _content(path: Path) -> Any:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError:
            # Classes in the file (settings of its trainer) become empty shells; none of their code is imported.
            names = torch.serialization.get_unsafe_globals_in_checkpoint(path) if zipfile.is_zipfile(path) else []
            if not names:
                raise
            shells: list[Any] = [(_Shell, name) for name in names]
            with torch.serialization.safe_globals(shells):
                return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the byte that is wrong decides among ten kinds, KeyError and AssertionError too
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        # torch goes on with advice that does not apply here, and begins with it where it will not read an object
        reason = next((line for line in lines if line.startswith(("Trying to", "WeightsUnpickler"))), lines[0])
        clean = "torch.save(torch.load('FILE', weights_only=False)['state_dict'], 'clean.pth')"
        raise UserError(
            f"--weights {path} cannot be read as .pth or .safetensors: {reason}. Where it opens, and you trust it, "
            f'write its tensors alone: python -c "import torch; {clean}"'
        ) from error


class _Shell:
    """Stands for any class or function of a file."""

    def __init__(self, *_: object, **__: object) -> None: ...

    def __setstate__(self, _: object) -> None: ...

    def __setitem__(self, *_: object) -> None: ...


def _tensors(content: Any) -> dict[str, Tensor]:
    """The state dict within, `_orig_mod.` of torch.compile taken out of its names."""
    for _ in range(4):
        inner = [key for key in WRAPPERS if isinstance(content, Mapping) and isinstance(content.get(key), Mapping)]
        if not inner:
            break
        content = content[inner[0]]
    if not isinstance(content, Mapping):
        return {}
    return {str(name).replace("_orig_mod.", ""): t for name, t in content.items() if isinstance(t, Tensor)}


def _of_this_project(payload: Mapping[str, Any]) -> dict[str, Any]:
    """Of best.pt or last.pt; runs from before --input_scaling took their data set's statistics."""
    data = payload.get("data", {})
    bands = tuple(payload["network_description"]["bands"])
    scaling = data.get("input_scaling", "dataset")
    own = {key: [x / 255 for x in data[key]] for key in ("mean", "std") if scaling == "network"}
    return {"source": Source(bands, scaling), "arch": payload["network_description"]["arch"], **own}


def _beside(path: Path) -> Source | None:
    """What the config.json beside the file, or for reBEN a folder's name, tells about its bands."""
    try:
        config = json.loads((path.parent / "config.json").read_text())
    except (OSError, ValueError):
        config = None
    if isinstance(config, dict) and isinstance(config.get("bands"), list):
        bands = tuple(canonical(str(band)) for band in config["bands"])
        return Source(bands, str(config.get("input_scaling", "dataset")))
    # reBEN's config tells how many bands; their order changed with the version, which the name of its repository has
    named = re.findall(r"-(s2|all)-(v0\.\d\.\d)(?![\d.])", str(path.absolute()))
    return SOURCES.get("reben_{}_{}".format(*named[-1])) if isinstance(config, dict) and named else None
