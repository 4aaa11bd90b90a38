"""What happens between a command line that is right and the first line of a run."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from utilities.flags.settings import Settings
from utilities.parallel.launch import launch_each
from utilities.runs import logger


def start_run(args: Settings, argv: Sequence[str], notes: Iterable[str]) -> None:
    """The W&B key into the environment and a look at W&B, the GPUs of `--gpu_ids` (several: the program starts again
    with `argv`, one process each), and notes for who started it. Raises UserError where W&B or a GPU is not there."""
    if args.wandb_key:
        os.environ["WANDB_API_KEY"] = args.wandb_key
    logger.check_wandb(args.wandb_mode, args.project)
    launch_each(args.gpu_ids, argv)
    say(notes)


def say(notes: Iterable[str]) -> None:
    """Print the notes, in one of several processes."""
    if int(os.environ.get("RANK", 0)) == 0:
        for note in notes:
            print(f"note: {note}", flush=True)
