"""Errors on their way out of the workers of a DataLoader.

A DataLoader raises a worker's exception with the traceback as its message. One with a message for users says all that
is to be said: it leaves the worker as a value and is raised, as it was, where it arrives.
"""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator, Sequence
from types import FrameType
from typing import Any

from torch.utils.data import Dataset

from utilities.errors import RunFailure, UserError
from utilities.signals import PATIENCE, SIGNALS


class Carrying(Dataset[Any]):
    """A data set with a `UserError` or `RunFailure` as an item or batch where reading it raises one; `arriving` raises
    it.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, item: int) -> Any:
        try:
            return self.dataset[item]
        except (UserError, RunFailure) as error:
            return error

    def __getitems__(self, items: Sequence[int]) -> Any:
        try:
            return self.dataset.__getitems__(items)
        except (UserError, RunFailure) as error:
            return error


def arriving(items: Iterable[Any]) -> Iterator[Any]:
    """What a DataLoader over `Carrying` gives."""
    for item in items:
        if isinstance(item, (UserError, RunFailure)):
            raise item
        yield item


def as_is(item: Any) -> Any:
    """The `collate_fn` of items that need no collating."""
    return item


def patient(_: int) -> None:
    """`worker_init_fn` of a training: a signal to all processes of a job leaves those that read images the time in
    which the training saves; a second one, or that of the DataLoader, ends them.
    """

    def later(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        signal.alarm(int(PATIENCE))

    for number in SIGNALS:
        signal.signal(number, later)
