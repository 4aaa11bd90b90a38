"""Figures of the study: scores with intervals, the matrix of differences, score against cost, learning curves."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from utilities.report.figures import DASHES, INK, MUTED, OTHERS, SERIES, Figure, save, styled
from utilities.study.analysis import LEVEL, Study, signed, title
from utilities.study.plan import FEATURES, ROWS, SELECTED_BY

LUMA = (0.299, 0.587, 0.114)  # how light red, green and blue look (ITU-R BT.601)
TIERS = {"frozen": "heads on stored features", "finetuned": "all weights trained"}


def scores(path: Path, study: Study) -> None:
    """Mean of each row and its 95 % interval over queries and seeds together, both tiers, two measures."""
    tiers = [tier for tier in TIERS if study.rows(tier)]
    names = [row.name for row in ROWS if any(study.of(tier, row.name) for tier in tiers)]
    with styled():
        figure = Figure((9, 0.62 + 0.36 * len(names)), layout="constrained")
        panels = figure.subplots(1, len(SELECTED_BY), sharey=True)
        for axes, measure in zip(panels, SELECTED_BY, strict=True):
            for tier, colour, marker, offset in zip(tiers, SERIES, "os", (0.0, 0.22), strict=False):
                label: str | None = TIERS[tier]
                for place, name in enumerate(names):
                    if not study.of(tier, name):
                        continue
                    row = study.summary(tier, name)
                    low, high = row.intervals.get(measure, (math.nan, math.nan))
                    axes.plot([low, high], [place + offset] * 2, color=colour, linewidth=1.6)
                    seeds = [float(line[measure]) for line in study.of(tier, name)]
                    axes.plot(seeds, [place + offset] * len(seeds), "|", color=colour, alpha=0.35, markersize=5)
                    axes.plot(row.means[measure], place + offset, marker, color=colour, markersize=5.5, label=label)
                    label = None
            axes.set(title=measure, yticks=range(len(names)), yticklabels=[title(name) for name in names])
            axes.tick_params(axis="y", labelcolor=INK, length=0)
            axes.set_ylim(len(names) - 0.4, -0.6)
            axes.grid(axis="y", visible=False)
        panels[-1].legend(loc="lower left", fontsize=8)
        figure.supxlabel(
            "test split of UC Merced; mean over seeds (strokes: single runs), 95 % interval over queries and seeds, "
            "over queries alone where there is one seed",
            fontsize=8, color=MUTED,
        )  # fmt: skip
        save(figure, path)


def differences(path: Path, study: Study, measure: str, tier: str) -> None:
    """Row less column of every pair, bold where it is larger than chance."""
    rows = sorted(study.rows(tier), key=lambda row: -study.summary(tier, row).means[measure])
    if len(rows) < 2:
        return
    found = study.differences(tier, rows, measure)
    size = len(rows)
    values = np.full((size, size), np.nan)
    for i, a in enumerate(rows):
        for j, b in enumerate(rows):
            if i != j:
                values[i, j] = signed(a, b, found)
    limit = float(np.nanmax(np.abs(values)))
    with styled():
        figure = Figure((2.6 + 0.62 * size, 1.9 + 0.46 * size), layout="constrained")
        axes = figure.subplots()
        picture = axes.imshow(values, cmap="PuOr_r", vmin=-limit, vmax=limit, aspect="auto")
        light = picture.to_rgba(values)[..., :3] @ LUMA
        for (i, a), (j, b) in itertools.permutations(enumerate(rows), 2):
            clear = (found[a, b] if (a, b) in found else found[b, a])[1] < LEVEL
            colour = "white" if light[i, j] < 0.5 else MUTED if light[i, j] > 0.85 and not clear else INK
            text = f"{values[i, j]:+.3f}".replace("0.", ".")
            weight = "bold" if clear else "normal"
            axes.text(j, i, text, ha="center", va="center", fontsize=7.5, color=colour, weight=weight)
        names = [title(row) for row in rows]
        axes.set(xticks=range(size), yticks=range(size), yticklabels=names)
        axes.set_xticklabels(names, rotation=38, ha="right")
        axes.tick_params(length=0, labelcolor=INK)
        axes.grid(visible=False)
        axes.set_title(f"{measure}, row less column, {TIERS[tier]}")
        figure.supxlabel(
            f"bold: larger than chance, p < {LEVEL:g} after Holm over {len(found)} pairs", fontsize=8, color=MUTED
        )
        save(figure, path)


def cost(path: Path, study: Study, measure: str) -> None:
    """Score against minutes of training, both tiers."""
    tiers = [tier for tier in TIERS if study.rows(tier)]
    with styled():
        figure = Figure((7.4, 4.4), layout="constrained")
        axes = figure.subplots()
        points = []
        for tier, colour, marker in zip(tiers, SERIES, "os", strict=False):
            label: str | None = TIERS[tier]
            for name in study.rows(tier):
                row = study.summary(tier, name)
                if name == FEATURES:
                    axes.axhline(row.means[measure], color=OTHERS, linestyle=DASHES[1], label="features, no training")
                    continue
                if math.isnan(row.minutes):  # not timed
                    continue
                axes.plot(row.minutes, row.means[measure], marker, color=colour, label=label)
                points.append((row.minutes, row.means[measure], row.title))
                label = None
        _labelled(axes, points)
        axes.set(xscale="log", xlabel="minutes of training on one thread", ylabel=measure, title="What a score costs")
        low, high = axes.get_xlim()
        high *= (high / low) ** 0.15  # room for the last name
        axes.set_xlim(low, high)
        ticks = [base * 10.0**power for power in range(-3, 5) for base in (1, 2, 5)]
        ticks = [tick for tick in ticks if low <= tick <= high]
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=3)
        save(figure, path)


def _labelled(axes: object, points: Sequence[tuple[float, float, str]]) -> None:
    """Names beside their points, moved apart where they would cover each other."""
    if not points:
        return
    places: list[tuple[float, float]] = []
    across, along = [math.log(point[0]) for point in points], [point[1] for point in points]
    line = 0.045 * ((max(along) - min(along)) or 1)
    longest = 0.25 * (max(across) - min(across))
    for x, y, name in sorted(points, key=lambda point: point[1]):
        height = y
        for other in sorted(h for place, h in places if abs(place - math.log(x)) <= longest):
            if abs(height - other) < line:
                height = other + line
        places.append((math.log(x), height))
        start = x
        for other_x, other_y, _ in sorted(points):  # behind every marker that it would cover
            if start < other_x < start * math.exp(longest / 2) and abs(other_y - height) < line:
                start = other_x
        axes.annotate(  # type: ignore[attr-defined]
            name, (x, y), xytext=(start * 1.06, height), fontsize=7, color=INK, va="center", zorder=1.5,
            arrowprops={"arrowstyle": "-", "color": OTHERS, "linewidth": 0.6},
        )  # fmt: skip


def curves(path: Path, points: Sequence[Mapping[str, str]]) -> None:
    """Val scores by epoch of the first seed of each row, which looks alike in both tiers."""
    named: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for point in points:
        tier, _, rest = point["name"].partition("-")
        line = named.setdefault((tier, rest.rpartition("-")[0]), [])
        line.append((int(point["epoch"]), float(point[SELECTED_BY[1]])))
    trained = [row.name for row in ROWS if row.name != FEATURES]
    tiers = [tier for tier in TIERS if any((tier, row) in named for row in trained)]
    if not tiers:
        return
    with styled():
        figure = Figure((4.6 * len(tiers) + 1.8, 4.2), layout="constrained")
        panels = np.atleast_1d(figure.subplots(1, len(tiers)))
        handles = {}
        for axes, tier in zip(panels, tiers, strict=True):
            for number, row in enumerate(trained):
                if (tier, row) not in named:
                    continue
                epochs, values = zip(*sorted(named[tier, row]), strict=True)
                colour, style = SERIES[number % len(SERIES)], DASHES[number // len(SERIES) % len(DASHES)]
                (drawn,) = axes.plot(epochs, values, color=colour, linestyle=style, marker=".", label=title(row))
                handles[number] = drawn
            axes.set(title=TIERS[tier], xlabel="epoch", ylabel=f"val {SELECTED_BY[1]}")
            shown = sorted({epoch for row in trained for epoch, _ in named.get((tier, row), [])})
            axes.set_xticks(shown)
        ordered = [handles[number] for number in sorted(handles)]
        figure.legend(handles=ordered, loc="outside right center", fontsize=8, handlelength=3.6)  # of a dash and a half
        save(figure, path)
