"""What a person reads while a run trains: a line an epoch."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

KEPT = 5  # of the latest epochs, whose mean is what another one takes: images grow, batches change
TERMS = 6  # shown at most


class Progress:
    """Losses, speed and time left of a run, over all ranks.

    epochs      of the whole run
    eval_epoch  epochs between validations
    """

    def __init__(self, epochs: int, eval_epoch: int) -> None:
        self.epochs, self.eval_epoch = epochs, eval_epoch
        self.durations: list[float] = []  # seconds of the latest epochs that were trained whole, without validation
        self.validation = 0.0  # seconds of the latest one
        self._begin(0)

    def _begin(self, step: int) -> None:
        self.step, self.started = step, time.perf_counter()
        self.losses: dict[str, float] = {}  # sums over steps
        self.steps, self.seconds, self.images = 0, 0.0, 0.0
        self.rates: list[float] = []

    def begin(self, step: int, *, whole: bool) -> None:
        """An epoch begins after this step; not `whole`: in its middle, after a resumption."""
        self._begin(step)
        self.whole = whole

    def add(self, record: Mapping[str, Any]) -> None:
        """A line of losses of this epoch (`LossWindow.read`)."""
        steps = record["step"] - self.step
        for name, value in record["losses"].items():
            self.losses[name] = self.losses.get(name, 0.0) + value * steps
        self.step, self.steps = record["step"], self.steps + steps
        self.seconds += record["seconds"]
        self.images += record["seconds"] * record["images_per_second"]
        self.rates = record["learning_rates"]

    def line(self, epoch: int, best: str) -> str:
        """Of an epoch that has ended, the `epoch`-th; best: the best validation so far, "" before the first."""
        if self.whole:
            self.durations = [*self.durations, time.perf_counter() - self.started][-KEPT:]
        means = {name: total / max(1, self.steps) for name, total in self.losses.items()}
        names = sorted(means, key=lambda name: name != "total")  # which a run of one term has not
        shown = [f"{name} {means[name]:.4g}" for name in names[:TERMS]] + ["..."] * (len(names) > TERMS)
        rates = dict.fromkeys(f"{rate:.2g}" for rate in self.rates)
        parts = [
            f"epoch {epoch}/{self.epochs}",
            "  ".join(shown),
            f"{self.images / self.seconds:.0f} images/s" if self.seconds else "",
            f"lr {' '.join(rates)}",
            self._left(epoch),
            best,
        ]
        return "  ".join(part for part in parts if part)

    def _left(self, epoch: int) -> str:
        """Time left, of epochs and validations as the latest were."""
        if not self.durations or epoch >= self.epochs:
            return ""
        validations = -(-self.epochs // self.eval_epoch) - epoch // self.eval_epoch
        mean = sum(self.durations) / len(self.durations)
        return f"{duration((self.epochs - epoch) * mean + validations * self.validation)} left"


def duration(seconds: float) -> str:
    """45 s, 12 min, 3 h 05 min."""
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02} min"
