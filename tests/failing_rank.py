"""A training script whose last rank fails in its second step: `failing_rank.py {raise,kill} FLAGS`."""

from __future__ import annotations

import os
import signal
import sys

import train_baseline
from utilities.batch import Batch
from utilities.parallel import distributed

HOW = sys.argv.pop(1)


class Failing(train_baseline.Baseline):
    def forward(self, batch: Batch) -> dict:
        if self.step == 1 and distributed.rank() == distributed.world_size() - 1:
            if HOW == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise ArithmeticError("this rank fails")
        return super().forward(batch)


train_baseline.Baseline = Failing  # type: ignore[misc]

if __name__ == "__main__":
    train_baseline.main()
