"""Losses between two log lines."""

import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from utilities.errors import RunFailure
from utilities.training import loss_window
from utilities.training.loss_window import GRADIENT_NORM, LossWindow

FOLDER = Path("run")


def add(window, step, norm=1.0, observed=None, **terms):
    values = {name: torch.tensor(value) for name, value in terms.items()}
    seen = {name: torch.tensor(value) for name, value in (observed or {}).items()}
    window.add(2, step, 10, values, seen | {GRADIENT_NORM: torch.tensor(norm)}, [0.1 * step])


def filled():
    window = LossWindow()
    add(window, 5, norm=1.0, a=1.0, b=4.0)
    add(window, 6, norm=3.0, a=3.0, observed={"coverage": 0.5})  # a step without b, as D&C's slices take turns
    return window


def test_a_record_holds_means_over_the_steps_that_had_the_term():
    record = filled().read(FOLDER)
    assert record["losses"] == {"a": 2.0, "b": 4.0, "total": 4.0}, "total: (1 + 4 + 3) / 2 steps"
    assert record["observed"] == {GRADIENT_NORM: 2.0, "coverage": 0.5}
    assert (record["epoch"], record["step"], record["learning_rates"]) == (3, 6, [pytest.approx(0.6)])


def test_numbered_terms_stand_in_the_order_of_their_numbers():
    window = LossWindow()
    for step, k in enumerate((10, 2, 1)):
        add(window, step, **{f"slice{k}": 1.0})
    add(window, 3, whole=1.0, bce=1.0)
    assert list(window.read(FOLDER)["losses"]) == ["whole", "bce", "slice1", "slice2", "slice10", "total"]


def test_waiting_for_the_steps_of_a_device_counts_as_their_time(monkeypatch):
    window, check = filled(), LossWindow.check
    monkeypatch.setattr(LossWindow, "check", lambda self, folder: (time.sleep(0.2), check(self, folder)))
    seconds = window.seconds
    assert window.read(FOLDER)["seconds"] >= seconds + 0.2


def test_images_per_second_are_those_of_the_time_since_the_clock_was_restarted(monkeypatch):
    now = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(loss_window, "time", SimpleNamespace(perf_counter=lambda: now.seconds))
    window = LossWindow()

    def at(seconds, call, *given, **named):
        now.seconds = seconds
        return call(*given, **named)

    at(100, window.restart_clock)  # a validation took so long
    at(102, add, window, 1, a=1.0)
    saved = LossWindow()
    saved.load(window.state(), torch.device("cpu"))
    at(105, add, window, 2, a=1.0)
    record = at(108, window.read, FOLDER)
    assert (record["seconds"], record["images_per_second"]) == (8.0, 2.5)
    at(113, add, window, 3, a=1.0)
    record = at(113, window.read, FOLDER)
    assert (record["seconds"], record["images_per_second"]) == (5.0, 2.0), "of this window alone"
    at(200, saved.restart_clock)
    record = at(203, saved.read, FOLDER)
    assert (record["seconds"], record["images_per_second"]) == (5.0, 2.0), "2 s before it was saved, 3 s after"


def test_reading_empties_the_window():
    window = filled()
    window.read(FOLDER)
    assert window.count == 0
    add(window, 7, a=9.0)
    assert window.read(FOLDER)["losses"] == {"a": 9.0}, "one term has no total"


def test_a_saved_window_goes_on_as_if_nothing_had_happened():
    straight, saved = filled(), LossWindow()
    saved.load(filled().state(), torch.device("cpu"))
    for window in (straight, saved):
        add(window, 7, a=5.0)
    ours, theirs = straight.read(FOLDER), saved.read(FOLDER)
    timing = ("seconds", "images_per_second")
    assert {k: v for k, v in ours.items() if k not in timing} == {k: v for k, v in theirs.items() if k not in timing}


@pytest.mark.parametrize("bad", [{"a": float("nan")}, {"a": 1.0, "norm": float("inf")}])
def test_the_first_step_that_is_not_finite_is_named_with_every_term(bad):
    window = filled()
    add(window, 7, **bad)
    add(window, 8, a=float("nan"))
    with pytest.raises(RunFailure, match=r"at epoch 3, step 7: a = \S+, gradient_norm = "):
        window.check(FOLDER)


def test_what_is_only_observed_may_be_anything():
    window = LossWindow()
    add(window, 1, a=1.0, observed={"x": float("nan")})
    window.check(FOLDER)
