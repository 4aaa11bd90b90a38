"""SIGTERM and SIGHUP end a run in order, wherever it is: what is lost is nothing, or one validation."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.scripts import ENVIRONMENT, ROOT, TINY
from tests.test_engine import Toy, no_curves, toy_data, trainer_settings  # noqa: F401 - the fixture is used by itself
from utilities import signals
from utilities.errors import main_guard
from utilities.runs import checkpoint
from utilities.runs.logger import read_metrics
from utilities.signals import Stopped
from utilities.training import engine
from utilities.training.engine import Trainer

CPU = torch.device("cpu")
TRACED = (
    "engine.py",
    "run.py",
    "checkpoint.py",
    "logger.py",
    "loss_window.py",
    "folder.py",
    "lock.py",
    "validation.py",
    "payload.py",
    "test_engine.py",
)
MOMENTS = 10


def here(number: int = signal.SIGTERM) -> None:
    os.kill(os.getpid(), number)


class SignalAtLine:
    """Sends SIGTERM when the given one of the lines of training is reached: any moment, and the same one every time."""

    def __init__(self, at: int) -> None:
        self.at, self.lines = at, 0

    def __call__(self, frame, event, argument):
        return self.line if os.path.basename(frame.f_code.co_filename) in TRACED else None

    def line(self, frame, event, argument):
        if event == "line":
            self.lines += 1
            if self.lines == self.at:
                here()
        return self.line


def train(settings, at: int = 0) -> int:
    """Lines of a training, which may be stopped at one of them."""
    tracer = SignalAtLine(at)
    with signals.orderly():
        sys.settrace(tracer)
        try:
            engine.train(Toy(), toy_data(), settings, CPU)
        finally:
            sys.settrace(None)
    return tracer.lines


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run without any interruption: its folder and how many lines it took."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("utilities.report.curves.curves", lambda *given: None)
        path = tmp_path_factory.mktemp("whole")
        return path / "Demo" / "baseline", train(trainer_settings(path))


def log(folder: Path) -> list[tuple]:
    return [(r["epoch"], r["step"], r.get("losses"), r.get("scores")) for r in read_metrics(folder)]


def assert_same(folder: Path, other: Path) -> None:
    assert log(folder) == log(other)
    for name in (checkpoint.LAST, checkpoint.BEST):
        one, two = checkpoint.load(folder, name), checkpoint.load(other, name)
        part = "method" if name == checkpoint.LAST else "network"
        assert (one["step"], one.get("best")) == (two["step"], two.get("best"))
        assert all(torch.equal(one[part][key], value) for key, value in two[part].items())


@pytest.mark.parametrize("draw", range(MOMENTS))
def test_stopped_anywhere_and_resumed_is_the_same_run(tmp_path, whole, draw):
    straight, lines = whole
    at = int(np.random.default_rng(draw).integers(1, lines))
    settings = trainer_settings(tmp_path)
    with pytest.raises(Stopped):
        train(settings, at)
    folder = tmp_path / "Demo" / "baseline"
    assert list(tmp_path.glob("Demo/*")) in ([], [folder])
    if not folder.exists():
        return  # it had not begun
    assert not list(folder.glob("*.tmp"))
    train(trainer_settings(tmp_path, load_from_checkpoint=str(folder)))
    assert_same(folder, straight)


def in_step(monkeypatch, step: int, what) -> None:
    forward = Toy.forward

    def then(self, batch):
        if self.step == step - 1:
            what()
        return forward(self, batch)

    monkeypatch.setattr(Toy, "forward", then)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_saves_at_the_end_of_the_step_and_says_how_to_go_on(tmp_path, monkeypatch, capsys, number, code):
    signal.signal(number, signal.SIG_DFL)  # under nohup, SIGHUP is ignored, by a run as well
    in_step(monkeypatch, 5, lambda: here(number))
    with pytest.raises(SystemExit) as stop:
        main_guard(engine.train)(Toy(), toy_data(), trainer_settings(tmp_path), CPU)
    assert stop.value.code == code
    folder = tmp_path / "Demo" / "baseline"
    said = capsys.readouterr()
    assert (
        said.err == f"stopped by {signal.Signals(number).name}; training goes on with --load_from_checkpoint {folder}\n"
    )
    assert "saved at epoch 2, step 5\n" in said.out
    assert [checkpoint.load(folder)[key] for key in ("epoch", "batch", "step")] == [1, 2, 5]
    assert signal.getsignal(number) is signal.SIG_DFL


def test_without_save_on_signal_it_stops_at_once(tmp_path, monkeypatch):
    in_step(monkeypatch, 5, here)
    with pytest.raises(Stopped):
        train(trainer_settings(tmp_path, "--save_on_signal", "no"))
    assert checkpoint.load(tmp_path / "Demo" / "baseline")["step"] == 3, "the end of the epoch before"


def test_a_step_without_end_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(signals, "PATIENCE", 0.2)

    def endless():
        here()
        time.sleep(20)

    in_step(monkeypatch, 5, endless)
    start = time.monotonic()
    with pytest.raises(Stopped):
        train(trainer_settings(tmp_path))
    assert time.monotonic() - start < 15
    assert checkpoint.load(tmp_path / "Demo" / "baseline")["step"] == 3


def test_a_signal_that_comes_twice_is_one_and_validation_ends_at_once(tmp_path, monkeypatch):
    def twice():
        here()
        here()

    in_step(monkeypatch, 5, twice)
    with pytest.raises(Stopped):
        train(trainer_settings(tmp_path))
    assert checkpoint.load(tmp_path / "Demo" / "baseline")["step"] == 5
    monkeypatch.undo()
    after = []
    monkeypatch.setattr(Trainer, "validate", lambda trainer: (here(), after.append(trainer)))
    with pytest.raises(Stopped):
        train(trainer_settings(tmp_path, load_from_checkpoint=str(tmp_path / "Demo" / "baseline")))
    assert not after
    assert checkpoint.load(tmp_path / "Demo" / "baseline")["unvalidated"]


def test_a_reader_of_images_that_dies_of_the_same_signal_is_no_error():
    def end_with_it():
        with signals.orderly(), signals.held_back():
            here()
            raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Terminated")

    with pytest.raises(Stopped):
        end_with_it()
    with signals.orderly(), pytest.raises(RuntimeError, match="other"), signals.held_back():
        raise RuntimeError("some other")


def test_what_is_ignored_stays_ignored():
    """As after `nohup`."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals.orderly():
            here(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


def test_a_signal_to_every_process_of_a_run_saves_it_and_ends_its_readers(demo_run, tmp_path):
    """As Slurm and a closed terminal send it: those that read images get it, too."""
    given = ["--source_path", demo_run[0], "--save_path", tmp_path, *TINY, "--num_workers", 1, "--nb_epochs", 500]
    process = subprocess.Popen(
        [sys.executable, ROOT / "train_baseline.py", *map(str, given)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT, start_new_session=True,
    )  # fmt: skip
    folder = tmp_path / "Demo" / "baseline"
    try:
        while not (folder / "last.pt").exists():
            assert process.poll() is None
            time.sleep(0.02)
        time.sleep(0.1)
        os.killpg(process.pid, signal.SIGTERM)
        start = time.monotonic()
        out, err = process.communicate(timeout=60)  # until the last has closed its output
        assert time.monotonic() - start < signals.PATIENCE
    finally:
        process.kill()
    assert process.returncode == 143, err
    assert err.splitlines()[-1] == f"stopped by SIGTERM; training goes on with --load_from_checkpoint {folder}"
    assert "Traceback" not in err
    saved = checkpoint.load(folder)
    assert f"saved at epoch {saved['epoch'] + 1}, step {saved['step']}" in out or saved["batch"] == 0
