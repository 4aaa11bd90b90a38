"""Several evaluated runs side by side: one table and one figure, and means over runs that differ in their seed."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from utilities.files import write_json
from utilities.report import differences
from utilities.report.compared import Run, notes, shown, table
from utilities.report.comparison_page import Pictured, write_comparison_page
from utilities.report.figures import INK, SERIES, Axes, Figure, save, styled

CONTENT = "comparison.json"
LEFTOVERS = ("differences.csv", "comparison.html")  # of a comparison before: not each writes them


class OverSeeds(NamedTuple):
    """Runs of one recipe with different seeds: mean and sample standard deviation of each measure of the table.

    method  with what sets its recipes apart, where there are several (`differences.groups`)
    """

    method: str
    names: list[str]
    scores: dict[str, tuple[float, float]]


def over_seeds(runs: Sequence[Run]) -> list[OverSeeds]:
    """Every recipe of which there are runs with two seeds or more, on one set of images; measures that all can have."""
    found = []
    for name, same in differences.groups(runs):
        if len(same) < 2 or notes(same):
            continue
        scores = {}
        for measure in shown(runs):
            values = [value for run in same if (value := run.number("scores", measure)) is not None]
            if len(values) == len(same):
                scores[measure] = statistics.mean(values), statistics.stdev(values)
        found.append(OverSeeds(name, [run.name for run in same], scores))
    return found


def write_comparison(folder: Path, runs: Sequence[Run], *, title: str, pictured: Pictured | None = None) -> str:
    """Fill `folder` with comparison.md, .csv, .json, .png, where there are pictures also .html, and where there are
    differences with differences.csv; returns the text of the first."""
    folder.mkdir(parents=True, exist_ok=True)
    seeds = over_seeds(runs)
    groups = differences.groups(runs)
    flags, compared = differences.differing_flags(runs), differences.pairs(groups)
    parts = [title, "", markdown(runs), *(f"\nnote: {note}" for note in notes(runs))]
    parts += ["", "mean ± standard deviation over seeds", "", seeds_markdown(seeds)] if seeds else []
    parts += ["", differences.markdown(groups, compared, flags)] if flags or compared else []
    text = "\n".join(parts) + "\n"
    (folder / "comparison.md").write_text(text, encoding="utf-8")
    rows = [_row(run) for run in runs]
    pairs = differences.rows(compared)
    content = {
        "title": title,
        "runs": rows,
        "over_seeds": [line._asdict() for line in seeds],
        "differing_flags": flags,
        "differences": pairs,
    }
    write_json(folder / CONTENT, content)
    _write_csv(folder / "comparison.csv", rows)
    _write_csv(folder / "differences.csv", pairs)
    draw(folder / "comparison.png", runs, title=title)
    if pictured is not None:
        write_comparison_page(folder / "comparison.html", runs, groups, compared, pictured, title=title)
    return text


def _write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """The file, or none where there are no rows."""
    if rows:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(dict.fromkeys(column for row in rows for column in row)))
            writer.writeheader()
            writer.writerows(rows)


def markdown(runs: Sequence[Run]) -> str:
    """One line a run under the level of chance: method, scores, images a second and minutes of training."""
    columns = shown(runs)
    rows = [["run", "method", *columns, "images/s", "training min"]]
    if not notes(runs):
        rows.append(["level of chance", "", *(_digits(runs[0].number("chance", column)) for column in columns), "", ""])
    for run in runs:
        speed = "-" if run.images_per_second is None else f"{run.images_per_second:.0f}"
        scores = [_digits(run.number("scores", column)) for column in columns]
        rows.append([run.name, run.method, *scores, speed, _two_digits(run.minutes)])
    return table(rows)


def seeds_markdown(lines: Sequence[OverSeeds]) -> str:
    """One line a recipe: method, its runs, mean ± standard deviation of the scores."""
    columns = list(dict.fromkeys(measure for line in lines for measure in line.scores))
    rows = [["method", "runs", *columns]]
    for line in lines:
        cells = ["{:.4f} ± {:.4f}".format(*line.scores[c]) if c in line.scores else "-" for c in columns]
        rows.append([line.method, ", ".join(line.names), *cells])
    return table(rows)


def _digits(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _two_digits(value: float | None) -> str:
    """0.033, 3.3 and 33, but 330 in full."""
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


def _row(run: Run) -> dict[str, Any]:
    """Everything about a run in plain values, one key a column."""
    protocol = run.content["protocol"]
    row: dict[str, Any] = {"run": run.name, "method": run.method}
    row |= {key: protocol[key] for key in ("dataset", "split", "network", "queries", "gallery")}
    for measure in run.content["scores"]:
        low, high = run.interval(measure)
        row |= {measure: run.number("scores", measure), f"{measure} low": low, f"{measure} high": high}
        row[f"{measure} chance"] = run.number("chance", measure)
    speed = None if run.images_per_second is None else round(run.images_per_second, 2)
    minutes = None if run.minutes is None else round(run.minutes, 4)
    return row | {"images_per_second": speed, "minutes": minutes}


# --- figure -------------------------------------------------------------------------------------------------


def draw(path: Path, runs: Sequence[Run], *, title: str) -> None:
    """A panel a measure: every run's score with its 95 % interval, and the level of chance."""
    measures = shown(runs)
    with styled():
        figure = Figure((2.2 + 2.35 * len(measures), 1.75 + 0.44 * len(runs)))
        figure.set_layout_engine("constrained", wspace=0.06)
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, weight="bold")
        panels = figure.subplots(1, len(measures), sharey=True, squeeze=False)[0]
        for axes, measure in zip(panels, measures, strict=True):
            _panel(axes, runs, measure)
        panels[0].set_yticks(range(len(runs)), [_shortened(run.name) for run in runs], color=INK)
        panels[0].set_ylim(len(runs) - 0.4, -0.75)  # the first run on top
        handles, names = panels[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower right", ncols=3, fontsize=8)
        save(figure, path)


def _panel(axes: Axes, runs: Sequence[Run], measure: str) -> None:
    for place, run in enumerate(runs):
        score, chance, (low, high) = run.number("scores", measure), run.number("chance", measure), run.interval(measure)
        first = place == 0
        if low is not None and high is not None:
            label = "95 % interval over queries" if first else None
            axes.plot(
                (low, high), (place, place), color=SERIES[0], alpha=0.4, linewidth=6, label=label,
                solid_capstyle="butt",  # other ends stand out by half the line's width
            )  # fmt: skip
        if chance is not None:
            label = "level of chance" if first else None
            axes.plot(
                (chance,) * 2, (place - 0.5, place + 0.5), color=INK, linewidth=1.2, solid_capstyle="butt", label=label
            )
        if score is not None:
            axes.plot(score, place, "o", color=SERIES[0], markersize=6, label="score" if first else None)
            axes.annotate(f"{score:.3f}", (score, place), (0, 6), textcoords="offset points", ha="center", fontsize=8)
    axes.set_title(measure)
    axes.margins(x=0.14)
    axes.tick_params(axis="y", length=0)
    axes.locator_params(axis="x", nbins=4)
    axes.grid(axis="y", visible=False)


def _shortened(name: str, most: int = 30) -> str:
    return name if len(name) <= most else f"…{name[1 - most :]}"
