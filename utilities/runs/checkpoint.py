"""`last.pt` and `best.pt`: written atomically, read with weights_only=True, with a fallback for a damaged file.

Payloads hold tensors and plain Python types only.
"""

from __future__ import annotations

import contextlib
import sys
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from utilities.errors import RunFailure, UserError
from utilities.files import replacing

FORMAT = 1
LAST, PREVIOUS, BEST = "last.pt", "last.previous.pt", "best.pt"


def save(folder: Path, name: str, payload: dict[str, Any]) -> None:
    """Write `folder/name` through a temporary file and a rename.

    `last.pt` keeps its predecessor as `last.previous.pt`. Raises RunFailure when it cannot be written (a full disk);
    what was there before stays.
    """
    target = folder / name
    previous = folder / PREVIOUS if name == LAST else None
    try:
        with replacing(target, durable=True, previous=previous) as temporary, temporary.open("wb") as file:
            torch.save({"format": FORMAT, **payload}, file)
    except (OSError, RuntimeError) as error:  # torch's zip writer turns a short write into a RuntimeError
        raise RunFailure(
            f"{target} could not be written ({error}); the checkpoints written before are intact. Free some space",
            resumable=folder,
        ) from error


class _DamagedError(Exception):
    """A file is not as it was written; the message says in what."""


def _read(path: Path) -> dict[str, Any]:
    """The payload of a file as it was written. Raises _DamagedError, or UserError for a file of another format."""
    try:
        with zipfile.ZipFile(path) as parts:
            changed = parts.testzip()  # torch compares no checksums: weights with a flipped bit would be taken
        if changed is None:
            payload = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # which one depends on the byte that is wrong
        raise _DamagedError(f"{type(error).__name__}: {str(error)[:120]}") from error
    if changed is not None:
        raise _DamagedError(f"checksum of {changed}")
    if not isinstance(payload, dict) or payload.get("format") != FORMAT:
        raise UserError(f"{path} is not a checkpoint of format {FORMAT}; use the version that wrote it")
    return payload


def present(folder: Path, name: str = LAST) -> list[Path]:
    """The files from which `load` reads, in the order in which it tries them."""
    candidates = [folder / name] + ([folder / PREVIOUS] if name == LAST else [])
    return [path for path in candidates if path.exists()]


def load(folder: Path, name: str = LAST) -> dict[str, Any] | None:
    """The payload of `folder/name`, on the CPU; None when there is none yet.

    A damaged `last.pt` is reported and its predecessor taken. Raises UserError when nothing readable is left.
    """
    found = present(folder, name)
    if not found:
        return None
    for path in found:
        try:
            payload = _read(path)
        except _DamagedError as error:
            print(f"warning: {path} is damaged ({error})", file=sys.stderr)
            continue
        if path != found[0] or path.name != name:
            print(f"warning: going on from {path} (step {payload.get('step', '?')})", file=sys.stderr)
        return payload
    damaged = " and ".join(path.name for path in found)
    raise UserError(f"no readable checkpoint in {folder}: {damaged} damaged; {_instead(folder, name)}")


def _instead(folder: Path, name: str) -> str:
    """What may be done without the files of this name."""
    for other in (LAST, BEST):
        for path in present(folder, other) if other != name else ():
            with contextlib.suppress(_DamagedError, UserError):
                _read(path)
                choice = "last" if other == LAST else "best"
                return f"{path.name} is sound: evaluate it with --checkpoint {choice}" + (
                    ", or train on for another best one" if other == LAST else ", or train again"
                )
    return "train again"


def settings(folder: Path) -> dict[str, Any]:
    """The flags of the newest checkpoint, whose tensors are not read; {} where none tells them."""
    for name in (LAST, PREVIOUS, BEST):
        try:
            payload = torch.load(folder / name, map_location="cpu", weights_only=True, mmap=True)
            return dict(payload["settings"])
        except Exception:  # absent, damaged, of an earlier version: `load` tells what it needs to
            continue
    return {}


def check_same_data(folder: Path, was: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise UserError where a run would go on with other images or labels than its checkpoint was trained on."""
    for key in ("dataset", "label_names", "bands", "train_fingerprint"):
        if was[key] != now[key]:
            raise UserError(
                f"{folder} was trained on other data: {key} was {_short(was[key])} and is now {_short(now[key])}; "
                "give the --source_path of the original data or start a new run"
            )


def note_other_files(was: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Say so where images have other files than when the checkpoint was written: their pixels may be others."""
    keys = {split: f"{split}_files" for split in ("train", "val")}
    splits = [split for split, key in keys.items() if key in was and key in now and was[key] != now[key]]
    if splits:
        warnings.warn(
            f"files of the {' and '.join(splits)} split have another size or time than when this run left off: a copy, "
            "or images that were exchanged, which a new run should be started for",
            stacklevel=2,
        )


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) < 80 else text[:77] + "..."
