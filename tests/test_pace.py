"""The note on steps that become slow on a loaded machine, and --threads."""

from __future__ import annotations

import pytest
import torch

from tests.scripts import TINY, run_inside
from utilities.training.engine import Trainer
from utilities.training.pace import Pace


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def said(seconds, *, load, threads=2):
    """Notes of steps that take so long each."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        clock = Clock()
        pace = Pace(clock, lambda: load)
        notes = []
        for duration in [0.0, *seconds]:
            clock.now += duration
            notes.append(pace.step())
    finally:
        torch.set_num_threads(before)
    return [note for note in notes if note]


FAST, SLOW = [9.0, 9.0] + 6 * [1.3], 8 * [3.4]


def test_a_loaded_machine_is_told_once_with_the_flag_that_helps():
    (note,) = said(FAST + SLOW, load=3.1)
    assert "3.4 s, 2.6 times" in note
    assert "--threads 1" in note


@pytest.mark.parametrize(
    ("seconds", "load", "threads"),
    [
        (FAST + SLOW, 2.0, 2),  # slower, but nobody else is there: larger images, a slow disk
        (FAST + SLOW, 3.1, 1),  # no other thread to wait for
        (FAST + 8 * [2.0], 3.1, 2),  # not that much slower
        (FAST + [60.0] + 8 * [1.3], 3.1, 2),  # one step
        ([9.0, 9.0] + 14 * [3.4], 3.1, 2),  # slow from the start: nothing to compare with
    ],
)
def test_nothing_is_said_without_a_reason(seconds, load, threads):
    assert not said(seconds, load=load, threads=threads)


def test_validations_do_not_count_and_other_images_begin_anew():
    clock = Clock()
    pace = Pace(clock, lambda: 9.0)
    for duration in FAST:
        clock.now += duration
        pace.step()
    for _ in range(3):
        clock.now += 100
        pace.pause()
        for _ in range(3):
            clock.now += 1.3
            assert not pace.step()
    pace.restart()
    for duration in SLOW + SLOW:
        clock.now += duration
        assert not pace.step()


def test_threads_are_those_of_the_flag(tmp_path, monkeypatch):
    """And a resumed run may have others."""
    argv = ["--source_path", tmp_path / "data", "--save_path", tmp_path, *TINY, "--demo_images_per_category", 4]
    seen: list[int] = []
    epoch = Trainer.train_epoch

    def watched(trainer):
        seen.append(torch.get_num_threads())
        epoch(trainer)

    monkeypatch.setattr(Trainer, "train_epoch", watched)
    run_inside("train_baseline", *argv, "--nb_epochs", 1, "--threads", 3)
    folder = tmp_path / "Demo" / "baseline"
    run_inside("train_baseline", "--load_from_checkpoint", folder, "--nb_epochs", 2, "--threads", 2)
    assert seen == [3, 2]
