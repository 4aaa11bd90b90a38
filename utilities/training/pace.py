"""Steps that take much longer than the first ones while others work on the machine, and the flag that helps."""

from __future__ import annotations

import os
import statistics
import time
from collections import deque
from collections.abc import Callable

import torch

WARM_UP = 2  # first steps, which also allocate and choose algorithms
WINDOW = 5  # steps whose median is compared
SLOWER = 2.0  # times as long
OTHERS = 0.75  # of a core that others keep busy, on average over a minute


class Pace:
    """Compares steps on a CPU. Threads of one step wait for each other: a core that somebody else takes now and then
    costs all of them, while fewer threads would not feel it.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter, load: Callable[[], float] | None = None) -> None:
        self._clock, self._load = clock, load or (lambda: os.getloadavg()[0])
        self.restart()

    def restart(self) -> None:
        """What is to come is not to be compared with what was: images of another size."""
        self._seen, self._first, self._said = 0, 0.0, False
        self._last: float | None = None
        self._recent: deque[float] = deque(maxlen=WINDOW)

    def pause(self) -> None:
        """Where something else than training begins: a validation, a new epoch."""
        self._last = None

    def step(self) -> str:
        """After each step: a note, once; "" where there is nothing to say."""
        now = self._clock()
        if self._last is not None:
            self._seen += 1
            if self._seen > WARM_UP:
                self._recent.append(now - self._last)
        self._last = now
        if self._said or len(self._recent) < WINDOW:
            return ""
        median = statistics.median(self._recent)
        if not self._first:
            self._first = median
        threads, load = torch.get_num_threads(), self._load()
        if median < SLOWER * self._first or threads < 2 or load < threads + OTHERS:
            return ""
        self._said = True
        return (
            f"note: a step takes {median:.2g} s, {median / self._first:.1f} times as long as the first ones, and "
            f"others work on this machine (load {load:.1f}, {threads} threads here): threads wait for each other; stop "
            "and go on with --load_from_checkpoint and --threads 1, or fewer than now"
        )
