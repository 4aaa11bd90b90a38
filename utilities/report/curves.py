"""losses.png and scores.png: how a training went, from the records of its `metrics.jsonl`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from utilities.report.figures import (
    DASHES,
    INK,
    MUTED,
    PAPER,
    SERIES,
    Axes,
    Figure,
    caption,
    cells,
    headline,
    save,
    styled,
    whole_ticks,
)

Series = Mapping[str, Sequence[tuple[float, float]]]  # name -> [(epoch, value)]
REWARDS = "a term below zero is a reward, taken off the total"


class Curved(NamedTuple):
    """The run whose curves are drawn.

    name        as titles say it: "diva on Demo"
    best        epoch of the network in best.pt, 0 where none is known; selected_by: the measure that chose it
    below_zero  why loss terms may be negative (`Method.below_zero`)
    """

    name: str = ""
    best: int = 0
    selected_by: str = ""
    below_zero: str = ""


UNKNOWN = Curved()


def curves(folder: Path, records: Sequence[dict[str, Any]], run: Curved = UNKNOWN) -> None:
    """losses.png and scores.png in `folder`; without data no picture is made."""
    for field, name, title in (("losses", "losses.png", "loss terms"), ("scores", "scores.png", "scores")):
        series = _series(records, field)
        if not series:
            continue
        said = []
        if run.best:
            by = f", the best {run.selected_by} of val" if run.selected_by else ""
            said.append(f"dashed line: epoch {run.best}, whose network is best.pt{by}")
        if field == "losses" and any(value < 0 for points in series.values() for _, value in points):
            said.append(run.below_zero or REWARDS)
        splits = dict.fromkeys(record["split"] for record in records if record.get(field) and "split" in record)
        with styled():
            whole = f"{', '.join(filter(None, (run.name, *splits)))}: {title}"
            save(_panels(series, _series(records, "chance"), whole, run.best, said), folder / name)


def _series(records: Sequence[dict[str, Any]], field: str) -> dict[str, list[tuple[float, float]]]:
    """name -> [(epoch, value)]; names carry the split where more than one was scored."""
    splits = {record.get("split") for record in records if field in record}
    position = epoch_positions(records)
    series: dict[str, list[tuple[float, float]]] = {}
    for record, epoch in zip(records, position, strict=True):
        for name, value in (record.get(field) or {}).items():
            if value is not None and np.isfinite(value):
                whole = f"{name} ({record['split']})" if len(splits) > 1 else name
                series.setdefault(whole, []).append((epoch, float(value)))
    return series


def epoch_positions(records: Sequence[dict[str, Any]]) -> list[float]:
    """Epochs done at each record: whole ones at the last step of an epoch, between them in proportion to its steps."""
    last: dict[int, int] = {}
    for record in records:
        last[record["epoch"]] = max(record["step"], last.get(record["epoch"], 0))
    ends = sorted(last)
    steps = [record["step"] for record in records]
    return np.interp(steps, [0, *(last[epoch] for epoch in ends)], [0, *ends]).tolist()


def _panels(series: Series, chance: Series, title: str, best: int, said: Sequence[str]) -> Figure:
    """Small multiples: measures that differ only in K share a panel, every other series has its own.

    A series that has a level of chance gets a thin line at the last of them: it changes with the images only.
    """
    panels: dict[str, dict[str, Sequence[tuple[float, float]]]] = {}
    for name, points in series.items():
        panels.setdefault(name.partition("@")[0], {})[name] = points
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    figure = Figure((max(5.6, 3.9 * columns + 0.4), 2.7 * lines + 0.8), layout="constrained")
    headline(figure, title)
    caption(figure, said)
    grid = figure.subplots(lines, columns, squeeze=False)
    for axes, (name, members) in zip(cells(grid), panels.items(), strict=False):
        _panel(axes, members, {member: chance[member][-1][1] for member in members if member in chance})
        if best:
            axes.axvline(best, color=MUTED, linewidth=1.1, linestyle=(0, (4, 2)), zorder=1.5)  # over the grid
        axes.set(title=name if len(members) > 1 else next(iter(members)), xlabel="epoch")
    for axes in cells(grid)[len(panels) :]:
        axes.set_axis_off()
    return figure


def _panel(axes: Axes, members: Series, chance: Mapping[str, float]) -> None:
    for number, (member, points) in enumerate(members.items()):
        epochs, values = zip(*points, strict=True)
        marker = "o" if len(points) < 25 else None
        axes.plot(
            epochs, values, color=SERIES[number % len(SERIES)], linestyle=DASHES[number % len(DASHES)],
            linewidth=1.8, marker=marker, markersize=3, label=member,
        )  # fmt: skip
    _whole_epochs(axes, [epoch for points in members.values() for epoch, _ in points])
    _widen(axes)
    low, high = axes.get_ylim()
    if low < 0 < high:
        axes.axhline(0, color=INK, linewidth=0.8, zorder=0.6)
    if chance:
        lowest = min(chance.values())  # its name stands below it
        axes.set_ylim(min(low, lowest - 0.11 * (max(high, lowest) - min(low, lowest))), max(high, *chance.values()))
    for number, member in enumerate(members):
        if member in chance:
            _chance_line(axes, chance[member], SERIES[number % len(SERIES)])
    if len(members) > 1:
        axes.legend(fontsize=7.5)


def _chance_line(axes: Axes, level: float, colour: str) -> None:
    axes.axhline(level, color=colour, linewidth=0.8, linestyle=(0, (1, 1.5)))
    axes.annotate(
        "chance", (0.99, level), (0, -2), xycoords=axes.get_yaxis_transform(), textcoords="offset points",
        ha="right", va="top",  # a curve rises: the end below the line stays free
        fontsize=6.5, color=colour, annotation_clip=False,
        bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 0.6},  # over the line of the best epoch
    )  # fmt: skip


def _whole_epochs(axes: Axes, epochs: Sequence[float]) -> None:
    """From one whole epoch to another, with ticks at whole ones only, where few have a value at these."""
    first, last = np.floor(min(epochs)), np.ceil(max(epochs))
    if first == last:
        first, last = first - 1, last + 1
    known = sorted({epoch for epoch in epochs if float(epoch).is_integer()})
    margin = 0.04 * (last - first)
    axes.set_xlim(first - margin, last + margin)
    if known == sorted(set(epochs)) and len(known) <= 6:
        axes.set_xticks(known)  # of validations, each of which is to be told
    else:
        whole_ticks(axes.xaxis)


def _widen(axes: Axes, share: float = 0.1) -> None:
    """A y range of at least that share of its values, or the rounding of a constant would look like a curve."""
    low, high = axes.get_ylim()
    missing = share * max(abs(low), abs(high)) - (high - low)
    if missing > 0:
        axes.set_ylim(low - missing / 2, high + missing / 2)
