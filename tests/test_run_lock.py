"""One process trains a run at a time; whoever comes second leaves it as it is."""

from __future__ import annotations

import multiprocessing
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.scripts import ROOT, run_inside
from utilities.errors import UserError
from utilities.runs import lock
from utilities.runs.lock import LOCK, RunLock


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_of_two_processes_on_a_run_the_second_is_refused_and_changes_nothing(demo_run, tmp_path):
    """The second one's process is this: it would train on to 40 epochs and rewrite args.json and metrics.jsonl."""
    folder = tmp_path / "baseline"
    shutil.copytree(demo_run[1], folder)
    code = f"import pathlib, time; from utilities.runs.lock import RunLock; RunLock(pathlib.Path({str(folder)!r}))"
    code += "; print('held', flush=True); time.sleep(60)"
    first = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert first.stdout.readline() == "held\n"
        before = contents(folder)
        done = run_inside("train_baseline", "--load_from_checkpoint", folder, "--nb_epochs", 40, code=2)
        assert f"error: {folder} is being trained by process {first.pid} since 20" in done.stderr
        assert f" on {platform.node()}: wait until it ends, or stop it" in done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert contents(folder) == before
    finally:
        first.kill()
        first.wait()
        first.stdout.close()
    RunLock(folder).release()
    assert (folder / LOCK).read_text() == "", "it ended orderly"


def test_a_killed_run_goes_on_while_its_readers_of_images_still_live(tmp_path):
    """A forked reader has the lock's descriptor: it closes it, or a restart right after a kill would be refused."""
    path = tmp_path / "pid"

    def train() -> None:
        RunLock(tmp_path)
        reader = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
        reader.start()
        path.write_text(str(reader.pid))
        os.kill(os.getpid(), signal.SIGKILL)

    trainer = multiprocessing.get_context("fork").Process(target=train)
    trainer.start()
    trainer.join()
    reader = int(path.read_text())
    try:
        os.kill(reader, 0)  # it lives
        RunLock(tmp_path).release()
    finally:
        os.kill(reader, signal.SIGKILL)


def test_what_another_machine_left_and_disks_without_locks_are_noted(tmp_path, monkeypatch, recwarn):
    (tmp_path / LOCK).write_text("process 7 since 2026-11-28 10:00 on elsewhere\n")
    RunLock(tmp_path).release()
    assert "was last trained by process 7 since 2026-11-28 10:00 on elsewhere" in str(recwarn.pop().message)
    RunLock(tmp_path).release()
    assert not recwarn.list, "once"

    def unsupported(*given):
        raise OSError(lock.errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(lock.fcntl, "flock", unsupported)
    RunLock(tmp_path).release()
    assert "takes no locks" in str(recwarn.pop().message)


def test_a_folder_that_may_not_be_written_is_refused(tmp_path):
    (tmp_path / LOCK).mkdir()
    with pytest.raises(UserError, match="cannot be written"):
        RunLock(tmp_path)
