"""A run folder: created whole or not at all, never overwritten."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy
import torch
import torchvision

from utilities.errors import UserError
from utilities.files import read_json, write_json

ARGS, ENVIRONMENT = "args.json", "environment.json"


def create(parent: Path, savename: str, args: Mapping[str, Any], environment: Mapping[str, Any]) -> Path:
    """`parent/savename`, or the first free of `savename-2`, `savename-3`, ...

    The two JSON files are written into a hidden folder that is then renamed, so a kill leaves either nothing or a
    folder that resumes. Raises UserError where it cannot be made.
    """
    hidden = parent / f".{savename}.{os.urandom(6).hex()}"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        hidden.mkdir()
        write_json(hidden / ARGS, args)
        write_json(hidden / ENVIRONMENT, environment)
        (hidden / "figures").mkdir()
        return _named(hidden, parent, savename)
    except OSError as error:
        raise UserError(f"no run folder can be made in {parent} ({error}); give another --save_path") from error
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def _named(hidden: Path, parent: Path, savename: str) -> Path:
    """Give the folder the first free name."""
    number = 1
    while True:
        target = parent / (savename if number == 1 else f"{savename}-{number}")
        try:
            if not target.exists():
                hidden.rename(target)  # fails if somebody else made it non-empty in between
                break
        except OSError:
            if not target.exists():
                raise
        number += 1
    if number > 1:
        print(f"note: {parent / savename} exists; this run is saved as {target}", flush=True)
    return target


def read_args(folder: Path) -> dict[str, Any]:
    """args.json of a run. Raises UserError when the folder is no run folder."""
    path = folder / ARGS
    if not path.is_file():
        raise UserError(
            f"--load_from_checkpoint {folder} is not a run folder (no {ARGS}); give <save_path>/<dataset>/<savename>"
        )
    args = read_json(path)
    if not isinstance(args, dict) or not all(isinstance(args.get(name), str) for name in ("method", "dataset")):
        raise UserError(f"{path} does not hold the flags of a run; give <save_path>/<dataset>/<savename>")
    return args


def placed(folder: Path) -> Path:
    """The folder with its name and all above it, also of `.` and `../run`; links stay what they are."""
    return Path(os.path.abspath(folder))


def save_path(folder: Path) -> Path:
    """Above <dataset>/<savename>; of a run that was moved elsewhere, the folder in which it lies: nothing is written
    above that."""
    parent = placed(folder).parent
    return parent.parent if parent.name == read_args(folder)["dataset"] else parent


def wandb_run_id(folder: Path) -> str:
    """Under which W&B knows the run. Raises UserError where environment.json does not say it."""
    environment = read_json(folder / ENVIRONMENT)
    found = environment.get("wandb_run_id") if isinstance(environment, dict) else None
    if not isinstance(found, str):
        raise UserError(f"{folder / ENVIRONMENT} names no wandb_run_id; mend it, or go on without --log_online")
    return found


def describe_environment(device: torch.device) -> dict[str, Any]:
    """Versions, device and code state of this process."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "numpy": numpy.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "cpu",
        "threads": torch.get_num_threads(),
        "git_commit": _git_commit(),
    }


def _git_commit() -> str | None:
    """Commit of the code with "+changes" where the tree is dirty; None outside a checkout."""
    here = Path(__file__).resolve().parent

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(here), *words], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
