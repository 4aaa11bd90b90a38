"""Run the project's scripts as a user does: in a process of their own, from the checkout."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import torch

ROOT = Path(__file__).parent.parent
# Without GPUs, which `test_gpu.py` is for: runs are compared bit for bit, and two processes may find one GPU.
ENVIRONMENT = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
    "WANDB_SILENT": "true",
    "PYTHONPATH": str(ROOT),
    "CUDA_VISIBLE_DEVICES": "",
}


# a run of seconds: small images, a small network, a handful of steps
TINY = (
    "--arch", "resnet18", "--image_size", 32, "--batch_size", 16, "--num_samples_per_class", 2, "--sz_embedding", 16,
    "--num_workers", 0, "--nb_epochs", 3, "--eval_epoch", 2, "--log_every_steps", 2, "--backend", "torch",
    "--demo_images_per_category", 8, "--demo_side", 48,
)  # fmt: skip


def run(
    script: str, *argv: object, code: int = 0, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Output of `python <script>.py argv`, whose exit code must be `code`."""
    done = subprocess.run(
        [sys.executable, str(ROOT / f"{script}.py"), *map(str, argv)],
        capture_output=True,
        text=True,
        env=ENVIRONMENT | (env or {}),
        timeout=300,
        check=False,
    )
    assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done


def run_ranks(world: int, script: str, *argv: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    """As `run`, by torchrun on `world` processes; the script is a path from the checkout's root."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(world)]
    done = subprocess.run(
        [*launcher, str(ROOT / f"{script}.py"), *map(str, argv)],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        timeout=300,
        check=False,
    )
    assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done


def kill_when(condition, script: str, *argv: object) -> None:
    """Start the script and SIGKILL it as soon as `condition()` holds."""
    process = subprocess.Popen(
        [sys.executable, str(ROOT / f"{script}.py"), *map(str, argv)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=ENVIRONMENT,
        start_new_session=True,
    )
    deadline = time.monotonic() + 200
    while not condition():
        if process.poll() is not None:
            raise AssertionError(f"ended with {process.returncode} before it could be killed:\n{process.stdout.read()}")
        if time.monotonic() > deadline:
            os.killpg(process.pid, signal.SIGKILL)
            raise AssertionError("the condition never came true")
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def records(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


class Output(NamedTuple):
    stdout: str
    stderr: str


def run_inside(script: str, *argv: object, code: int = 0) -> Output:
    """As `run` in this process, which saves the seconds of importing torch; for what is not about processes.

    With as many threads as `run` gives: sums over other numbers of threads differ in the last bit.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    out, err = io.StringIO(), io.StringIO()
    ended = 0
    no_gpu = mock.patch.object(torch.cuda, "is_available", return_value=False)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), no_gpu:
        try:
            importlib.import_module(script).main([str(word) for word in argv])
        except SystemExit as stop:
            ended = stop.code if isinstance(stop.code, int) else 1
        finally:
            torch.set_num_threads(threads)
    assert ended == code, f"exit code {ended}\n{out.getvalue()[-3000:]}\n{err.getvalue()[-3000:]}"
    return Output(out.getvalue(), err.getvalue())


def complete_records(folder: Path) -> list[dict]:
    """As `records` of a run that may be writing its last line."""
    lines = (folder / "metrics.jsonl").read_text().split("\n")[:-1]
    return [json.loads(line) for line in lines]


def losses(folder: Path) -> list[tuple]:
    return [(r["epoch"], r["step"], r["split"], r.get("losses"), r.get("scores")) for r in records(folder)]


def state(folder: Path, name: str = "last.pt") -> dict:
    return torch.load(folder / name, weights_only=True)


def assert_same(one: dict, other: dict, part: str) -> None:
    """Two checkpoints at one place of a run, with the same tensors in `part`."""
    for place in ("epoch", "batch", "step", "best", "scores"):
        assert one.get(place) == other.get(place), place
    assert one[part].keys() == other[part].keys()
    for name, tensor in one[part].items():
        assert torch.equal(tensor, other[part][name]), name


def assert_same_run(one: Path, other: Path) -> None:
    """The same losses, scores, weights, optimizer state and best network, bit for bit."""
    assert losses(one) == losses(other)
    assert_same(state(one, "best.pt"), state(other, "best.pt"), "network")
    a, b = state(one), state(other)
    assert_same(a, b, "method")
    for number, values in a["optimizer"]["state"].items():
        for key, value in values.items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(b["optimizer"]["state"][number][key]))
