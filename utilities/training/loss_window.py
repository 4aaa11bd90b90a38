"""Losses between two log lines: collected on the device, checked for non-finite values, read once."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from utilities.errors import RunFailure
from utilities.parallel.distributed import mean_over_ranks
from utilities.runs.checkpoint import LAST

GRADIENT_NORM = "gradient_norm"


class Entry(NamedTuple):
    """One step in the window; values (terms + observed,) float32, the last one the norm of the gradient."""

    epoch: int
    step: int
    terms: tuple[str, ...]
    observed: tuple[str, ...]
    values: Tensor

    @property
    def watched(self) -> Tensor:
        """(terms + 1,) float32: what must be finite, the loss terms and the norm of the gradient."""
        return torch.cat([self.values[: len(self.terms)], self.values[-1:]])


class LossWindow:
    """Loss terms and observations since the last log line, left on the device until somebody reads them."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.images = 0
        self.seconds = 0.0
        self.rates: list[float] = []
        self.unchecked = 0
        self.unshared = 0
        self.started = time.perf_counter()

    @property
    def count(self) -> int:
        return len(self.entries)

    def restart_clock(self) -> None:
        """Called where waiting that is not training (validation, saving) ends."""
        self.started = time.perf_counter()

    def add(
        self,
        epoch: int,
        step: int,
        images: int,
        terms: Mapping[str, Tensor],
        observed: Mapping[str, Tensor],
        rates: list[float],
    ) -> None:
        values = torch.stack([t.detach().float() for t in (*terms.values(), *observed.values())])
        self.entries.append(Entry(epoch, step, tuple(terms), tuple(observed), values))
        self.images += images
        self.rates = rates
        self._count_time()

    def _count_time(self) -> None:
        now = time.perf_counter()
        self.seconds += now - self.started
        self.started = now

    def check(self, folder: Path) -> None:
        """Raise RunFailure at the first step with a non-finite term, naming every term.

        The norm of the gradient counts as a term: miners find nothing among embeddings that are not numbers, and
        the loss of no triplet is a calm zero.
        """
        fresh = self.entries[self.unchecked :]
        if fresh and not torch.isfinite(torch.cat([entry.watched for entry in fresh])).all():
            raise RunFailure(_complaint(next(e for e in fresh if not torch.isfinite(e.watched).all()), folder))
        self.unchecked = len(self.entries)

    def share(self) -> None:
        """Put the mean over the ranks in the place of what each saw: a term may be of a rank's own images alone.

        Every rank calls it, with the same steps in its window.
        """
        fresh = self.entries[self.unshared :]
        if fresh:
            means = mean_over_ranks(torch.cat([entry.values for entry in fresh]))
            parts = means.split([len(entry.values) for entry in fresh])
            self.entries[self.unshared :] = [e._replace(values=part) for e, part in zip(fresh, parts, strict=True)]
        self.unshared = len(self.entries)

    def read(self, folder: Path) -> dict[str, Any]:
        """The record of this window over all ranks, each of which calls this; the window is then empty."""
        self.check(folder)  # waits for the steps that a GPU has still to do, which count
        self._count_time()
        self.share()
        terms: dict[str, list[float]] = {}
        observed: dict[str, list[float]] = {}
        values = iter(torch.cat([entry.values for entry in self.entries]).tolist())  # one transfer for all steps
        for entry in self.entries:
            for kind, names in ((terms, entry.terms), (observed, entry.observed)):
                for name in names:
                    kind.setdefault(name, []).append(next(values))
        losses = _means(terms)
        if len(losses) > 1:
            losses["total"] = sum(sum(values) for values in terms.values()) / len(self.entries)
        record = {
            "epoch": self.entries[-1].epoch + 1,
            "step": self.entries[-1].step,
            "split": "train",
            "losses": losses,
            "observed": _means(observed),
            "seconds": round(self.seconds, 3),
            "images_per_second": round(self.images / self.seconds, 1) if self.seconds else 0.0,
            "learning_rates": self.rates,
        }
        self.entries, self.images, self.seconds, self.unchecked, self.unshared = [], 0, 0.0, 0, 0
        return record

    def state(self) -> dict[str, Any]:
        """Plain values that every rank can load: of a window that was shared."""
        entries = [(*entry[:-1], entry.values.tolist()) for entry in self.entries]
        return {"entries": entries, "images": self.images, "seconds": self.seconds, "rates": self.rates}

    def load(self, state: Mapping[str, Any], device: torch.device) -> None:
        """device: that of the steps to come."""
        self.entries = [
            Entry(epoch, step, tuple(terms), tuple(observed), torch.tensor(values, device=device))
            for epoch, step, terms, observed, values in state["entries"]
        ]
        self.unshared = len(self.entries)
        self.images, self.seconds, self.rates = state["images"], state["seconds"], state["rates"]


def _complaint(entry: Entry, folder: Path) -> str:
    values = zip((*entry.terms, GRADIENT_NORM), entry.watched.tolist(), strict=True)
    terms = ", ".join(f"{name} = {value:g}" for name, value in values)
    saved = f"{folder / LAST} is of an earlier step and stays usable; " if (folder / LAST).exists() else ""
    return (
        f"loss or gradient is not finite at epoch {entry.epoch + 1}, step {entry.step}: {terms}. {saved}lower --lr, or "
        "try --clip_gradient or --precision fp32"
    )


def _means(values: Mapping[str, list[float]]) -> dict[str, float]:
    """In the order of the numbers that names end in: slices take turns at random, lines and legends should not."""
    names = sorted(values, key=lambda name: int(re.findall(r"\d*$", name)[0] or 0))
    return {name: sum(values[name]) / len(values[name]) for name in names}
