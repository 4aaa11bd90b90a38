"""`--gpu_ids`: one process a GPU of this machine, by torchrun."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import torch

from utilities.errors import UserError


def launch_each(chosen: Sequence[int] | None, argv: Sequence[str]) -> None:
    """Make these the visible GPUs; for several, start the program again with `argv`, one process each.

    None: those that there are, in this process. Raises UserError for a GPU that torch does not see.
    """
    if not chosen or "RANK" in os.environ:
        return
    seen = torch.cuda.device_count()
    if len(set(chosen)) < len(chosen) or not all(0 <= gpu < seen for gpu in chosen):
        raise UserError(
            f"--gpu_ids {' '.join(map(str, chosen))}: torch sees {seen} GPUs, numbered from 0; name each once, or "
            "leave --gpu_ids out"
        )
    named = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(seen)))  # a job may be given only some
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(named.split(",")[gpu] for gpu in chosen)
    # CUDA starts by being asked for its GPUs where torch cannot ask NVML, and reads the variable no more
    if len(chosen) == 1 and torch.cuda.device_count() != 1:
        raise UserError(
            f"--gpu_ids {' '.join(map(str, chosen))} comes too late for CUDA on this machine; set "
            f"CUDA_VISIBLE_DEVICES={os.environ['CUDA_VISIBLE_DEVICES']} before the command and leave --gpu_ids out"
        )
    if len(chosen) > 1:
        cores = len(os.sched_getaffinity(0))
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // len(chosen))))  # torchrun's own is 1
        launcher = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            f"--nproc_per_node={len(chosen)}",
        ]
        os.execv(sys.executable, [*launcher, sys.argv[0], *argv])
