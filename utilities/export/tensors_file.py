"""model.safetensors: the backbone in its library's own naming, and the heads."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from utilities.files import replacing

_BACKBONE = "backbone.net."  # of an EmbeddingNetwork; what comes behind is the library's


def named_tensors(network: nn.Module) -> dict[str, Tensor]:
    """Weights and buffers by name: `conv1.weight` as in the library, `heads.<head>.weight` and `.bias`."""
    state = network.state_dict()
    return {name.removeprefix(_BACKBONE): tensor.detach().cpu().contiguous() for name, tensor in state.items()}


def write_tensors(path: Path, network: nn.Module) -> None:
    from safetensors.torch import save

    with replacing(path) as temporary:  # save_file would leave a file that nobody else may read
        temporary.write_bytes(save(named_tensors(network), {"format": "pt"}))
