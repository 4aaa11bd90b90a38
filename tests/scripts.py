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

ROOT = Path(__file__).parent.parent
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "WANDB_SILENT": "true", "PYTHONPATH": str(ROOT)}


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
    """As `run` in this process, which saves the seconds of importing torch; for what is not about processes."""
    out, err = io.StringIO(), io.StringIO()
    ended = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            importlib.import_module(script).main([str(word) for word in argv])
        except SystemExit as stop:
            ended = stop.code if isinstance(stop.code, int) else 1
    assert ended == code, f"exit code {ended}\n{out.getvalue()[-3000:]}\n{err.getvalue()[-3000:]}"
    return Output(out.getvalue(), err.getvalue())
