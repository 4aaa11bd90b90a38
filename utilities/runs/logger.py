"""Where numbers go: `metrics.jsonl` always, Weights & Biases on request. The only wandb import of the project."""

from __future__ import annotations

import inspect
import json
import os
import shutil
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from utilities.errors import RunFailure, UserError
from utilities.files import replacing

METRICS, SPOILT = "metrics.jsonl", "metrics.spoilt.jsonl"
REACHED = "wandb/reached_step"  # the last step that W&B was given
HEADER_OF_PIECE = 7  # bytes of a file of W&B that holds no record
SETTLED = 60
PROJECT_EXCLUDES = "/\\#?%:"  # characters that W&B takes in no name of a project


def wandb_module() -> Any:
    """The wandb package. Raises UserError where it is missing."""
    try:
        import wandb
    except ImportError as error:
        raise UserError(
            f"--log_online needs the package wandb ({error}): pip install wandb, or leave --log_online out"
        ) from error
    return wandb


def check_wandb(mode: str | None, project: str) -> None:
    """Raise UserError before any work when the run could not be logged as asked: no package, no key, no such name."""
    if mode is None:
        return
    wandb = wandb_module()
    if not project or len(project) > 128 or set(project) & set(PROJECT_EXCLUDES):
        raise UserError(
            f"--project {project!r} is no name of a Weights & Biases project: 1 to 128 characters, none of "
            f"{' '.join(PROJECT_EXCLUDES)}"
        )
    if mode == "online" and not os.environ.get("WANDB_API_KEY") and not _logged_in(wandb):
        raise UserError(
            "--log_online needs a key: set WANDB_API_KEY, give --wandb_key KEY, or log offline with --wandb_dryrun"
        )


def _logged_in(wandb: Any) -> bool:
    """Whether `wandb login` or settings of W&B hold a key, without asking anybody for one."""
    if "prompt" in inspect.signature(wandb.login).parameters:  # since 0.31, which will drop what came before
        return bool(wandb.login(prompt=False, verify=False))
    return bool(wandb.api.api_key)


def scrub_key(argv: list[str]) -> None:
    """Take every --wandb_key and its value out of `argv` in place; wandb would copy the command line into the run."""
    kept, words = [], iter(argv)
    for word in words:
        name, equals, _ = word.partition("=")
        if name.replace("-", "_") != "__wandb_key":
            kept.append(word)
        elif not equals:
            next(words, None)
    argv[:] = kept


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The records of a run, oldest first. Lines that are none are left out with a warning; a last one that a kill cut
    off, without. Raises UserError for a file that cannot be read.
    """
    lines = _lines(folder / METRICS)
    records = [record for record in map(_record, lines) if record is not None]
    if spoilt := _spoilt(lines):
        named = f"line {spoilt[0]} is" if len(spoilt) == 1 else f"lines {', '.join(map(str, spoilt[:5]))} are"
        more = f" and {len(spoilt) - 5} more" if len(spoilt) > 5 else ""
        warnings.warn(f"{folder / METRICS}: {named} no record of a run{more}, and left out", stacklevel=2)
    return records


def drop_later(folder: Path, step: int, *, validated: bool) -> None:
    """Drop the records that a checkpoint of this step has not seen: later ones and, if not validated, its scores.

    A file with lines that are no records is kept beside as SPOILT, whatever they are.
    """
    kept = [
        record
        for record in read_metrics(folder)
        if record["step"] < step or (record["step"] == step and (validated or "scores" not in record))
    ]
    path = folder / METRICS
    if _spoilt(_lines(path)):
        path.replace(folder / SPOILT)
    with replacing(path) as temporary:
        temporary.write_text("".join(json.dumps(record) + "\n" for record in kept))


def _lines(path: Path) -> list[bytes]:
    """Without their ends: the last is empty where the file was written whole."""
    try:
        return path.read_bytes().split(b"\n") if path.exists() else [b""]
    except OSError as error:
        raise UserError(
            f"{path} cannot be read: {error.strerror}; move it away, the checkpoints go on without"
        ) from error


def _spoilt(lines: Sequence[bytes]) -> list[int]:
    """Numbers, from 1, of the lines that are no records; the last may be cut off."""
    return [number for number, line in enumerate(lines[:-1], 1) if _record(line) is None]


def _record(line: bytes) -> dict[str, Any] | None:
    """One line as `Logger.log` writes it, or None."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):  # foreign bytes are the first as well
        return None
    if not isinstance(record, dict) or not isinstance(record.get("split"), str):
        return None
    whole = [record.get("epoch"), record.get("step")]
    numbers = [record.get("seconds"), record.get("images_per_second")]
    tables = [record.get(name, {}) for name in ("losses", "observed", "scores", "chance")]
    cells = [value for table in tables if isinstance(table, dict) for value in table.values() if value is not None]
    fine = (
        all(type(value) is int for value in whole)
        and all(type(value) in (int, float) for value in numbers + cells)
        and all(isinstance(table, dict) for table in tables)
    )
    return record if fine else None


class Logger:
    """Appends records of one run.

    wandb_mode  None, "online" or "offline"
    """

    def __init__(self, folder: Path, *, wandb_mode: str | None, run: Mapping[str, Any]) -> None:
        self.path = folder / METRICS
        self.reached = folder / REACHED
        missing = _missing(folder) if wandb_mode else []
        self.file = self.path.open("ab", buffering=0)  # what cannot be written is not tried again at the end
        self.wandb_run = _start_wandb(folder, wandb_mode, run) if wandb_mode else None
        for record in missing:
            self._log_to_wandb(record)

    def log(self, record: dict[str, Any]) -> None:
        """One line: {"epoch", "step", "split", "losses" | "scores" and "chance", ...}; the step never falls."""
        left = (json.dumps(record) + "\n").encode()
        try:
            while left:
                left = left[self.file.write(left) :]
        except OSError as error:
            raise RunFailure(
                f"{self.path} could not be written ({error.strerror}). Free some space", resumable=self.path.parent
            ) from error
        self._log_to_wandb(record)

    def _log_to_wandb(self, record: dict[str, Any]) -> None:
        if self.wandb_run is None:
            return
        self.wandb_run.log(_flat(record), step=record["step"])
        self.reached.parent.mkdir(exist_ok=True)  # which W&B makes, unless its own settings turn it off
        self.reached.write_text(f"{record['step']}\n")

    def close(self) -> None:
        self.file.close()
        if self.wandb_run is not None:
            self.wandb_run.finish()


def is_known_to_wandb(folder: Path) -> bool:
    """Whether an earlier part of the run in `folder` was logged to W&B."""
    return (folder / REACHED).exists() or any(folder.glob("wandb/*run-*"))


def _missing(folder: Path) -> list[dict[str, Any]]:
    """What W&B has not got of the run: parts that were not logged there, and the last step, which it writes down when
    the next one begins, so that a kill has lost it."""
    records = read_metrics(folder)
    try:
        reached = int((folder / REACHED).read_text())
    except (OSError, ValueError):  # of a version that kept no account, or the first part that is logged
        reached = records[-1]["step"] if records and is_known_to_wandb(folder) else 0
    return [record for record in records if record["step"] >= min(reached, records[-1]["step"])]


def _flat(record: Mapping[str, Any]) -> dict[str, float]:
    """{"split": "val", "scores": {"recall@1": x}} -> {"val/scores/recall@1": x, "epoch": ...}."""
    split, flat = record["split"], {"epoch": record["epoch"]}
    for key, value in record.items():
        if isinstance(value, Mapping):
            flat |= {f"{split}/{key}/{name}": number for name, number in value.items()}
        elif key in ("seconds", "images_per_second"):
            flat[f"{split}/{key}"] = value
    return flat


def drop_empty_pieces(folder: Path) -> None:
    """Remove the pieces of a run that was killed before W&B wrote anything: `wandb sync` stops at one of them.

    Not those of the last SETTLED seconds: W&B may still be writing when the process of a run has ended.
    """
    for piece in folder.glob("wandb/offline-run-*"):
        written = any(file.stat().st_size > HEADER_OF_PIECE for file in piece.glob("*.wandb"))
        if not written and time.time() - piece.stat().st_mtime > SETTLED:
            shutil.rmtree(piece)


def _start_wandb(folder: Path, mode: str, run: Mapping[str, Any]) -> Any:
    """A new run, or the next piece of the run with the same id."""
    scrub_key(sys.argv)
    wandb = wandb_module()
    drop_empty_pieces(folder)
    try:
        return wandb.init(
            mode=mode,
            id=run["wandb_run_id"],
            resume="allow" if mode == "online" else None,
            project=run["project"],
            group=run["group"],
            name=run["savename"],
            config=dict(run["config"]),
            dir=str(folder),
            settings=wandb.Settings(console="off", disable_git=True, x_disable_stats=True, silent=True),
        )
    except wandb.errors.Error as error:
        raise RunFailure(
            f"Weights & Biases does not take the run ({error}). Mend that, leave out --log_online or give "
            "--wandb_dryrun",
            resumable=folder,
        ) from error
