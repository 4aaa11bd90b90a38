"""Curves and densities, and the only matplotlib import: Figure and Agg, without pyplot, without a display."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from utilities.files import replacing
from utilities.measures.summaries import LabelTable
from utilities.neighbours.density import Densities

INK, MUTED, FAINT, PAPER = "#1b1f24", "#6b7280", "#e2e5ea", "#ffffff"
PALE = "#b8d3e6"  # of the first colour of a series
OTHERS = "#b4bac3"  # what a picture is not about, still to be seen
SERIES = ("#0067a5", "#d9680f", "#0b7a4b", "#8a3f9e", "#b3261e", "#7a6a00", "#2f8fa8", "#555b66")
DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.2, 1.5)))
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "text.parse_math": False,  # names may hold any number of dollar signs
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "grid.color": FAINT,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "legend.frameon": False,
}


def save(figure: Figure, path: Path, dots_per_inch: int = 150) -> None:
    """Write a PNG, making the folder where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=dots_per_inch, facecolor=PAPER)


def page(width: float, height: float) -> tuple[Figure, Axes]:
    """An empty page of that many inches, drawn on in inches from its upper left corner."""
    figure = Figure((width, height))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    return figure, axes


def rectangle(axes: Axes, left: float, top: float, width: float, height: float, **style: Any) -> None:
    axes.add_patch(Rectangle((left, top), width, height, **style))


def styled() -> AbstractContextManager[None]:
    """The project's fonts and colours, for as long as it lasts."""
    return mpl.rc_context(STYLE)


# --- distances ----------------------------------------------------------------------------------------------


def distance_density(path: Path, densities: Densities, *, title: str) -> None:
    """Densities of intra (a label shared) and inter distances, their overlap, and below by labels shared."""
    edges = densities.edges.numpy()
    counts = densities.counts.numpy()
    with styled():
        figure = Figure((8, 6.4), layout="constrained")
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2.4))
        kinds = np.stack([counts[1:].sum(0), counts[0]])
        middles, (intra, inter) = _pooled_density(kinds, edges)
        for values, colour, dash, name in (
            (intra, SERIES[0], "-", f"intra: {_pairs(kinds[0])}, a label shared"),
            (inter, SERIES[1], (0, (5, 1.5)), f"inter: {_pairs(kinds[1])}, none shared"),
        ):
            upper.fill_between(middles, values, color=colour, alpha=0.16, linewidth=0)
            upper.plot(middles, values, color=colour, linestyle=dash, linewidth=2, label=name)
        both = np.minimum(intra, inter)
        overlap = densities.overlap()
        said = "no overlap: only one kind of pair"
        if np.isfinite(overlap):
            said = f"overlap {overlap:.3f}, {_pairs(counts)} in bins of {edges[1] - edges[0]:.2g}"
            if densities.share < 1:
                drawn = f"{_pairs(counts)} of {counts.sum() / densities.share:,.0f}"
                said = f"overlap {overlap:.4f} ± {densities.error:.1g}, {drawn} in bins of {edges[1] - edges[0]:.2g}"
        upper.fill_between(middles, both, facecolor="none", edgecolor=MUTED, hatch="////", linewidth=0, label=said)
        highest = max(intra.max(), inter.max(), 1e-9)
        upper.set(title=title, ylabel="density", ylim=(0, 1.4 * highest))  # the legend has the upper part to itself
        upper.legend(loc="upper left")
        _by_shared_labels(lower, counts, edges, densities.means.numpy())
        save(figure, path)


def _pairs(counts: np.ndarray) -> str:
    return f"{counts.sum():,} pair{'s' if counts.sum() != 1 else ''}"


def _pooled_density(counts: np.ndarray, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Middles of the bins and densities of counts (rows, bins), each row's area 1 unless it is empty.

    Bins are pooled until the used ones are 2 n^(1/3) (Rice's rule) for the fewest pairs n of a row: in bins finer
    than that few pairs make nothing but spikes.
    """
    pairs = counts.sum(1)
    used = np.flatnonzero(counts.sum(0))
    fine = used[-1] - used[0] + 1 if len(used) else 1
    enough = max(1.0, fine / (2 * pairs[pairs > 0].min(initial=counts.sum().clip(1)) ** (1 / 3)))
    bins = counts.shape[1]
    factor = max(size for size in range(1, bins // 10 + 1) if bins % size == 0 and size <= enough)
    pooled, edges = counts.reshape(len(counts), -1, factor).sum(2), edges[::factor]
    return (edges[:-1] + edges[1:]) / 2, pooled / np.maximum(1, pairs)[:, None] / np.diff(edges)


def _by_shared_labels(axes: Axes, counts: np.ndarray, edges: np.ndarray, means: np.ndarray) -> None:
    """One ridge for every number of shared labels, with a tick at the mean distance."""
    present = [number for number in range(len(counts)) if counts[number].sum()][:8]
    shades = mpl.colormaps["viridis"](np.linspace(0.85, 0.1, max(1, len(present))))
    for place, number in enumerate(present):
        middles, (density,) = _pooled_density(counts[[number]], edges)
        ridge = 0.9 * density / max(density.max(), 1e-12)
        axes.fill_between(middles, place, place + ridge, color=shades[place], alpha=0.75, linewidth=0, zorder=9 - place)
        axes.plot(middles, place + ridge, color=INK, linewidth=0.7, zorder=9 - place)
        axes.plot((means[number],) * 2, (place, place + 0.9), color=PAPER, linewidth=1.6, zorder=9)
        axes.plot((means[number],) * 2, (place, place + 0.9), color=INK, linewidth=0.8, linestyle=":", zorder=9)
    axes.set_yticks(range(len(present)), [f"{number}  ({_pairs(counts[number])})" for number in present])
    axes.set(xlabel="distance between embeddings (dotted: mean)", ylabel="labels shared")
    axes.set_xlim(_extent(counts, edges))
    axes.grid(axis="y", visible=False)


def _extent(counts: np.ndarray, edges: np.ndarray) -> tuple[float, float]:
    used = np.flatnonzero(counts.sum(0))
    if not len(used):
        return 0.0, 2.0
    return max(0.0, edges[used[0]] - 0.05), min(2.0, edges[used[-1] + 1] + 0.05)


# --- labels and maps ----------------------------------------------------------------------------------------


def label_bars(path: Path, table: LabelTable, label_names: Sequence[str], *, title: str) -> None:
    """Of the queries that carry a label: how many of the K nearest carry it, and how often one does, each over chance.

    The best on top, by the first, then the second, then by name.
    """
    k = table.nearest
    support, precision, recall = (values.numpy() for values in (table.support, table.precision, table.recall))
    asked = [label for label in range(len(support)) if support[label]]
    by_name = sorted(asked, key=lambda label: label_names[label], reverse=True)  # the last is drawn on top
    order = sorted(by_name, key=lambda label: (precision[label], recall[label]))
    places = np.arange(len(order))
    with styled():
        figure = Figure((8, 1.6 + 0.3 * max(1, len(order))), layout="constrained")
        axes = figure.subplots()
        for up, height, colour, values, chance, what in (
            (0.14, 0.44, SERIES[0], precision, table.chance.numpy(), f"share of the {k} nearest that carry it"),
            (-0.22, 0.2, PALE, recall, table.recall_chance.numpy(), f"queries with one or more among the {k}"),
        ):
            axes.barh(places + up, values[order], height=height, color=colour, label=what)
            said = "the same by chance" if up > 0 else "_"  # once in the legend
            axes.vlines(
                chance[order], places + up - height / 2 - 0.03, places + up + height / 2 + 0.03,
                color=INK, linewidth=1.4, label=said,
            )  # fmt: skip
        names = [f"{label_names[label]}  ({int(support[label]):,})" for label in order]
        axes.set_yticks(places, names, color=INK)
        axes.set(
            title=title,
            xlabel="share, of the queries that carry the label (their number)",
            xlim=(0, 1.005),
            ylim=(-0.6, max(0.6, len(order) - 0.4)),
        )
        axes.grid(axis="y", visible=False)
        figure.legend(loc="outside lower right", ncols=3, fontsize=8)
        save(figure, path)


def embedding_map(
    path: Path, points: np.ndarray, labels: np.ndarray, label_names: Sequence[str], *, title: str, most: int = 12
) -> None:
    """One small map a label, the most frequent first: images that carry it over all the others. points (N, 2)."""
    order = np.argsort(-labels.sum(0), kind="stable")[:most].tolist()
    columns = min(4, len(order))
    lines = -(-len(order) // columns)
    with styled():
        figure = Figure((2.6 * columns, 2.75 * lines + 0.75))
        figure.set_layout_engine("constrained", w_pad=0.08, h_pad=0.08)
        figure.suptitle(title, x=0.01, ha="left", fontsize=12, weight="bold")
        grid = figure.subplots(lines, columns, squeeze=False)
        size = float(np.clip(6000 / max(1, len(points)), 2, 24))
        for axes, label in zip(_cells(grid), order, strict=False):
            has = labels[:, label]
            axes.scatter(points[~has, 0], points[~has, 1], s=size, color=OTHERS, linewidths=0)
            axes.scatter(points[has, 0], points[has, 1], s=size, color=SERIES[0], linewidths=0, alpha=0.8)
            axes.set_title(f"{label_names[label]} ({int(has.sum()):,})", fontsize=9)
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set(visible=True, color=FAINT)
        for axes in list(_cells(grid))[len(order) :]:
            axes.set_axis_off()
        named = f"the {len(order)} most frequent of {labels.shape[1]}" if len(order) < labels.shape[1] else "all"
        figure.supxlabel(f"blue: carries the label; {named} labels", x=0.01, ha="left", fontsize=9, color=MUTED)
        save(figure, path, 200)


# --- curves -------------------------------------------------------------------------------------------------


def curves(folder: Path, records: Sequence[dict[str, Any]]) -> None:
    """losses.png and scores.png from a run's `metrics.jsonl` records; without data no picture is made."""
    for field, name, title in (("losses", "losses.png", "Loss terms"), ("scores", "scores.png", "Scores")):
        series = _series(records, field)
        if series:
            with styled():
                save(_panels(series, _series(records, "chance"), title), folder / name)


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


def _panels(
    series: dict[str, list[tuple[float, float]]], chance: dict[str, list[tuple[float, float]]], title: str
) -> Figure:
    """Small multiples: measures that differ only in K share a panel, every other series has its own.

    A series that has a level of chance gets a thin line at the last of them: it changes with the images only.
    """
    panels: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for name, points in series.items():
        panels.setdefault(name.partition("@")[0], {})[name] = points
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    figure = Figure((3.9 * columns + 0.4, 2.7 * lines + 0.5), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, weight="bold")
    grid = figure.subplots(lines, columns, squeeze=False)
    for axes, (name, members) in zip(_cells(grid), panels.items(), strict=False):
        for number, (member, points) in enumerate(members.items()):
            epochs, values = zip(*points, strict=True)
            marker = "o" if len(points) < 25 else None
            axes.plot(
                epochs, values, color=SERIES[number % len(SERIES)], linestyle=DASHES[number % len(DASHES)],
                linewidth=1.8, marker=marker, markersize=3, label=member,
            )  # fmt: skip
            if member in chance:
                _chance_line(axes, chance[member][-1][1], SERIES[number % len(SERIES)])
        axes.set(title=name if len(members) > 1 else next(iter(members)), xlabel="epoch")
        _whole_epochs(axes, [epoch for points in members.values() for epoch, _ in points])
        _widen(axes)
        if len(members) > 1:
            axes.legend(fontsize=7.5)
    for axes in list(_cells(grid))[len(panels) :]:
        axes.set_axis_off()
    return figure


def _chance_line(axes: Axes, level: float, colour: str) -> None:
    axes.axhline(level, color=colour, linewidth=0.8, linestyle=(0, (1, 1.5)))
    axes.annotate(
        "chance", (0.99, level), (0, -2), xycoords=axes.get_yaxis_transform(), textcoords="offset points",
        ha="right", va="top",  # a curve rises: the end below the line stays free
        fontsize=6.5, color=colour, annotation_clip=False,
    )  # fmt: skip


def _whole_epochs(axes: Axes, epochs: Sequence[float]) -> None:
    """From one whole epoch to another, with ticks at whole ones only."""
    first, last = np.floor(min(epochs)), np.ceil(max(epochs))
    if first == last:
        first, last = first - 1, last + 1
    margin = 0.04 * (last - first)
    axes.set_xlim(first - margin, last + margin)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _widen(axes: Axes, share: float = 0.1) -> None:
    """A y range of at least that share of its values, or the rounding of a constant would look like a curve."""
    low, high = axes.get_ylim()
    missing = share * max(abs(low), abs(high)) - (high - low)
    if missing > 0:
        axes.set_ylim(low - missing / 2, high + missing / 2)


def _cells(grid: np.ndarray) -> Iterator[Axes]:
    return iter(grid.ravel())
