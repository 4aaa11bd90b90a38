"""Embeddings of a split kept on disk, so that a search by example need not embed an archive again."""

from __future__ import annotations

import hashlib
import json
import time
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from utilities.files import replacing


def digest(network: nn.Module, names: Sequence[str] | np.ndarray, facts: Mapping[str, Any]) -> str:
    """SHA-256 of all that decides the embeddings: weights and buffers, the images by name in their order, and facts
    as plain values (input size, precision, bands, state of the files, ...). Pixels are not looked at."""
    hashed = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    hashed.update("\n".join(map(str, names)).encode())
    for name, tensor in sorted(network.state_dict().items()):
        hashed.update(name.encode())
        hashed.update(tensor.detach().cpu().contiguous().numpy())
    return hashed.hexdigest()


def save(path: Path, key: str, embeddings: Tensor, rows: Tensor) -> None:
    """embeddings (M, D) and rows (M,) on the CPU, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, key=np.array(key), embeddings=embeddings.numpy(), rows=rows.numpy())


def date(path: Path) -> str:
    """When it was saved, in local time."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(path.stat().st_mtime))


def load(path: Path, key: str) -> tuple[Tensor, Tensor] | None:
    """What was saved under the same key; None where there is nothing, something else, or a damaged file."""
    try:
        with np.load(path, allow_pickle=False) as file:
            if str(file["key"]) != key:
                return None
            return torch.from_numpy(file["embeddings"]), torch.from_numpy(file["rows"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None  # whoever asks embeds the images and saves them anew
