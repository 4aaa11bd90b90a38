"""SIGTERM and SIGHUP, by which batch systems and closed terminals end a process: an orderly end, not a sudden one.

`orderly` turns them into an exception, as Python does with Ctrl-C. Within `held_back` they are noted only: the block
looks at `noted` where it can stop, and has PATIENCE seconds for it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

SIGNALS = (signal.SIGTERM, signal.SIGHUP)
PATIENCE = 20.0  # seconds: Slurm and torchrun kill 30 s after SIGTERM, and a checkpoint takes some
AGAIN = 2.0  # seconds within which one request may come twice: from Slurm and from torchrun, which got it from Slurm


class Stopped(KeyboardInterrupt):  # what ends a run on Ctrl-C ends it on a signal
    """This process was asked to end by the signal of this number."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    @property
    def name(self) -> str:
        return signal.Signals(self.number).name


class _State:
    process = 0  # in which signals are turned into exceptions
    held = False
    noted = 0  # number of a signal that came while they were held back
    raised = -AGAIN  # when: monotonic seconds


@contextlib.contextmanager
def orderly() -> Iterator[None]:
    """Within, SIGTERM and SIGHUP raise Stopped. What is ignored stays so (nohup), and so does a handler of others."""
    if threading.current_thread() is not threading.main_thread():  # which alone may change them
        yield
        return
    ours = [number for number in SIGNALS if signal.getsignal(number) is signal.SIG_DFL]
    for number in ours:
        signal.signal(number, _on_signal)
    _State.process, _State.held, _State.noted, _State.raised = os.getpid(), False, 0, -AGAIN
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


@contextlib.contextmanager
def held_back(wanted: bool = True) -> Iterator[None]:
    """Stopped is raised at the end of the block, and in it only after PATIENCE seconds. Where not `wanted`: at once."""
    if not wanted:
        yield
        return
    _State.held = True
    try:
        yield
    except RuntimeError as error:
        if not _State.noted:
            raise
        raise _stopped() from error  # a reader of images or another rank that the same signal ended
    finally:
        _State.held = False
        _set_alarm(0)
    if _State.noted:
        raise _stopped()


def noted() -> bool:
    """Whether a signal waits for the end of `held_back`."""
    return bool(_State.noted)


def stop() -> NoReturn:
    """Raise Stopped; where the signal came to another process of this run alone, as if it had been SIGTERM."""
    raise _stopped()


def _stopped() -> Stopped:
    _State.raised = time.monotonic()
    return Stopped(_State.noted or signal.SIGTERM)


def _on_signal(number: int, frame: FrameType | None) -> None:
    if os.getpid() != _State.process:  # a fork of ours, which has nothing to put in order
        os._exit(128 + number)
    if _State.held:
        if not _State.noted:
            _State.noted = number
            _set_alarm(PATIENCE)
    elif time.monotonic() - _State.raised > AGAIN:
        _State.noted = number
        raise _stopped()


def _set_alarm(seconds: float) -> None:
    if _State.noted:
        if seconds:
            signal.signal(signal.SIGALRM, _on_alarm)
        signal.setitimer(signal.ITIMER_REAL, seconds)


def _on_alarm(number: int, frame: FrameType | None) -> None:
    if _State.held:
        raise _stopped()
