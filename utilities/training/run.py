"""What a training keeps on disk: its folder and the lock on it, the log, checkpoints, the flags as they ran."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from utilities.files import write_json
from utilities.flags.settings import Settings
from utilities.parallel import distributed
from utilities.runs import checkpoint
from utilities.runs import folder as run_folder
from utilities.runs.lock import RunLock
from utilities.runs.logger import Logger, drop_later, is_known_to_wandb, read_metrics
from utilities.training import optim

PAUSE = 20.0  # seconds without a checkpoint or a drawing, where these would take longer than the epochs between them


class Run:
    """A new run folder, or that of `--load_from_checkpoint`, locked. Every rank has one; rank 0 alone writes.

    data: what was trained on, in plain values (`Data.description`), and precision: "bf16" or "fp32", for
    environment.json.
    """

    def __init__(self, args: Settings, device: torch.device, data: Mapping[str, Any], precision: str) -> None:
        self.args, self.precision = args, precision
        self.resumed = bool(args["load_from_checkpoint"])
        self.lock: RunLock | None = None
        self.logger: Logger | None = None
        self.saved = self.drawn = time.perf_counter()
        self.folder = self._reopen() if self.resumed else self._create(device, data)

    def _reopen(self) -> Path:
        folder = Path(self.args["load_from_checkpoint"])
        if distributed.is_main():
            self.lock = RunLock(folder)
        distributed.barrier()  # the others load nothing where there is no lock
        return folder

    def _create(self, device: torch.device, data: Mapping[str, Any]) -> Path:
        name = ""
        if distributed.is_main():
            environment = run_folder.describe_environment(device) | {
                "precision": self.precision,
                "world_size": distributed.world_size(),
                "wandb_run_id": os.urandom(6).hex(),
                "data": data,
            }
            parent = Path(self.args["save_path"]) / self.args["dataset"]
            name = str(run_folder.create(parent, self.args["savename"], self.args.recorded, environment))
            self.lock = RunLock(Path(name))
        name = distributed.broadcast_object(name)
        say(f"run folder {name}")
        return Path(name)

    def load(self) -> dict[str, Any] | None:
        """The checkpoint to go on from; None at the start."""
        return checkpoint.load(self.folder) if self.resumed else None

    def open_log(self, *, step: int, validated: bool) -> None:
        """Records that a checkpoint of this step has not seen are dropped."""
        if not distributed.is_main():
            return
        about = {key: self.args[key] for key in ("project", "group", "savename")} | {"config": self.args.recorded}
        if self.resumed and not self.args["wandb_mode"] and is_known_to_wandb(self.folder):
            say(
                "note: earlier parts of this run were logged to Weights & Biases and this one is not: --log_online or "
                "--wandb_dryrun is given at each part (the next part with one brings this one along)"
            )
        if self.args["wandb_mode"]:
            about["wandb_run_id"] = run_folder.wandb_run_id(self.folder)
        if self.resumed:
            drop_later(self.folder, step, validated=validated)
        self.logger = Logger(self.folder, wandb_mode=self.args["wandb_mode"], run=about)

    def log(self, record: dict[str, Any]) -> None:
        if self.logger is not None:
            self.logger.log(record)

    def save(self, name: str, payload: dict[str, Any]) -> None:
        """`last.pt` or `best.pt`."""
        if distributed.is_main():
            checkpoint.save(self.folder, name, payload)
        self.saved = time.perf_counter()

    def is_saved(self) -> bool:
        """Whether there is a `last.pt`, or the one before, on every rank."""
        return bool(distributed.broadcast_object(bool(checkpoint.present(self.folder))))

    def is_save_due(self) -> bool:
        """Whether an epoch ends with `last.pt`, on every rank: from stored features, some take less than writing it."""
        if not self.args["stored_views"]:
            return True
        return distributed.broadcast_object(time.perf_counter() - self.saved > PAUSE)

    def record_flags(self, epoch: int) -> None:
        """What this resumption, which goes on at `epoch`, changes goes into args.json: the next one may be plain."""
        if not distributed.is_main():
            return
        before = run_folder.read_args(self.folder)
        note = optim.stretched(epoch, before["nb_epochs"], self.args)
        if note:
            say(note)
        now = self.args.recorded | {"load_from_checkpoint": before["load_from_checkpoint"]}
        write_json(self.folder / run_folder.ARGS, before | now)

    def draw_curves(self, *, last: bool, **about: Any) -> None:
        """Not after every validation, some of which take less than drawing does, but after the last.

        about: of the run, for `utilities.report.curves.Curved`.
        """
        if distributed.is_main() and (last or time.perf_counter() - self.drawn > PAUSE):
            from utilities.report import curves  # matplotlib, which the first step need not wait for

            run = curves.Curved(f"{run_folder.placed(self.folder).name} on {self.args['dataset']}", **about)
            try:
                curves.curves(self.folder / "figures", read_metrics(self.folder), run)
            except OSError as error:  # they can be drawn again, the epoch cannot
                say(f"note: {self.folder / 'figures'} could not be drawn ({error.strerror or error})")
            self.drawn = time.perf_counter()

    def discard(self) -> bool:
        """A new run that failed before its first step leaves no folder, so that the next try has its name. False: it
        is one that goes on, which stays."""
        if self.resumed:
            return False
        if distributed.is_main():
            shutil.rmtree(self.folder, ignore_errors=True)
        return True

    def close(self) -> None:
        if self.logger is not None:
            self.logger.close()
        if self.lock is not None:
            self.lock.release()


def say(text: str) -> None:
    """Print a line above the progress bar, in one of several processes."""
    if distributed.is_main():
        tqdm.write(text)
