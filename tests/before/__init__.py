"""A run folder, kept embeddings and prepared pixels as commit 9b37bbf wrote them (2026-11-26), for `test_before.py`.

    python train_baseline.py --source_path ../data --save_path ../runs --arch resnet18 --image_size 32 --batch_size 16
        --num_samples_per_class 2 --sz_embedding 4 --num_workers 0 --nb_epochs 2 --eval_epoch 1 --log_every_steps 2
        --backend torch --demo_images_per_category 8 --demo_side 48 --use_npmem --eval_metric recall@1
    python evaluate_model.py --load_from_checkpoint ../runs/Demo/baseline --query lake_00001 --top 3 --num_workers 0

Whole checkpoints would be 180 MB: last.json and best.json hold all of them but the numbers of their large tensors,
which `rebuilt` draws. Pixels are decoded anew in the order of names.npy.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

FOLDER = Path(__file__).parent
_KEPT = 8  # numbers of a tensor that are written down


def described(value: Any) -> Any:
    """The content of a checkpoint as JSON: what made last.json and best.json of the two files."""
    if isinstance(value, torch.Tensor):
        kept = value.tolist() if value.numel() <= _KEPT else None
        return {"tensor": list(value.shape), "dtype": str(value.dtype).removeprefix("torch."), "value": kept}
    if isinstance(value, dict):
        return {"items": [[key, described(entry)] for key, entry in value.items()]}
    if isinstance(value, list | tuple):
        return {type(value).__name__: [described(entry) for entry in value]}
    return value


def rebuilt(value: Any, name: str = "") -> Any:
    """What `described` made the description of; large tensors hold small random numbers, variances positive ones."""
    if not isinstance(value, dict):
        return value
    if "items" in value:
        return {key: rebuilt(entry, str(key)) for key, entry in value["items"]}
    if "tensor" not in value:
        ((kind, entries),) = value.items()
        return (tuple if kind == "tuple" else list)(rebuilt(entry, name) for entry in entries)
    dtype = getattr(torch, value["dtype"])
    if value["value"] is not None:
        return torch.tensor(value["value"], dtype=dtype)
    numbers = 0.05 * torch.randn(value["tensor"], generator=torch.Generator().manual_seed(len(name)))
    positive = name.endswith(("running_var", "exp_avg_sq"))
    return (numbers.abs() + 0.5 if name.endswith("running_var") else numbers.abs() if positive else numbers).to(dtype)


def write_checkpoints(folder: Path) -> None:
    for name in ("last", "best"):
        torch.save(rebuilt(json.loads((FOLDER / f"{name}.json").read_text())), folder / f"{name}.pt")
