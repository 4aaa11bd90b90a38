"""What all figures share, labels and maps: the only matplotlib import, Figure and Agg, without pyplot and a display."""

from __future__ import annotations

import functools
import textwrap
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Rectangle
from matplotlib.path import Path as Path2D
from matplotlib.textpath import TextPath
from matplotlib.ticker import MaxNLocator

from utilities.files import replacing
from utilities.measures.summaries import LabelTable

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


def shades(count: int) -> np.ndarray:
    """(count, 4) colours in an order, from light to dark."""
    return mpl.colormaps["viridis"](np.linspace(0.85, 0.1, max(1, count)))


def styled() -> AbstractContextManager[None]:
    """The project's fonts and colours, for as long as it lasts."""
    return mpl.rc_context(STYLE)


def headline(figure: Figure, title: str, *, size: float = 12) -> None:
    """The title over a whole figure, from its left edge: smaller where it is long, in lines where it is longer."""
    room = 72 * figure.get_figwidth() / 0.68  # points of characters, by the mean width of bold ones
    fits = max(20, int(room / (0.75 * size)))
    lines = textwrap.wrap(title, fits, break_on_hyphens=False) or [""]
    shown = min(size, room / max(map(len, lines)))
    figure.suptitle("\n".join(lines), x=0.01, ha="left", fontsize=shown, weight="bold")


def caption(figure: Figure, said: Sequence[str], *, size: float = 8.5) -> None:
    """Sentences below a whole figure, each on lines of its own; "" is none."""
    fits = max(30, int(72 * figure.get_figwidth() / (0.56 * size)))
    lines = [line for sentence in said for line in textwrap.wrap(sentence, fits, break_on_hyphens=False)]
    if lines:
        figure.supxlabel("\n".join(lines), x=0.01, ha="left", fontsize=size, color=MUTED, linespacing=1.35)


def cells(grid: np.ndarray) -> list[Axes]:
    """The panels of a grid, line by line."""
    return list(grid.ravel())


def numbers(
    axes: Axes, x: np.ndarray, y: np.ndarray, values: np.ndarray, colours: Sequence[str], *, room: float = 0.2
) -> None:
    """Whole numbers >= 0 around places of the axes, within `room` inches of width: as outlines, all at once.

    Thousands of them take a hundredth of the time of as many texts.
    """
    paths = []
    for value in values.tolist():
        digits = [_digit(character) for character in str(value)]
        size = min(6.5 / 72, room / (0.636 * len(digits)))  # DejaVu's digits are 0.636 em wide and 0.73 high
        starts = 0.636 * (np.arange(len(digits)) - len(digits) / 2)
        moved = [
            Path2D(size * (np.asarray(digit.vertices) + (start, -0.365)), digit.codes)
            for digit, start in zip(digits, starts.tolist(), strict=True)
        ]
        paths.append(Path2D.make_compound_path(*moved))
    drawn = PathCollection(
        paths,
        offsets=np.column_stack([x, y]),
        offset_transform=axes.transData,
        facecolors=list(colours),
        linewidths=0,
    )
    drawn.set_transform(axes.get_figure(root=True).dpi_scale_trans)  # type: ignore[union-attr]
    drawn.set_in_layout(False)
    axes.add_collection(drawn, autolim=False)


@functools.cache
def _digit(character: str) -> Path2D:
    """Its outline, one em high."""
    return TextPath((0, 0), character, size=1, prop=FontProperties("DejaVu Sans"))


def whole_ticks(axis: Axis) -> None:
    """Ticks at whole numbers only."""
    axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


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
        figure = Figure((8, 1.8 + 0.3 * max(1, len(order))), layout="constrained")
        headline(figure, title)
        axes = figure.subplots()
        drawn: list[Any] = []
        for up, height, colour, values, chance, what in (
            (0.14, 0.44, SERIES[0], precision, table.chance.numpy(), f"share of the {k} nearest that carry it"),
            (-0.22, 0.2, PALE, recall, table.recall_chance.numpy(), f"queries with one or more among the {k}"),
        ):
            drawn.append(axes.barh(places + up, values[order], height=height, color=colour, label=what))
            low, high = places + up - height / 2 - 0.03, places + up + height / 2 + 0.03
            axes.vlines(chance[order], low, high, color=INK, linewidth=1.4)
        # upright in the legend as in the chart
        drawn += axes.plot([], [], "|", color=INK, markersize=10, markeredgewidth=1.4, label="the same by chance")
        names = [f"{shortened(label_names[label], 46)}  ({int(support[label]):,})" for label in order]
        axes.set_yticks(places, names, color=INK)
        axes.set(
            xlabel="share, of the queries that carry the label (their number)",
            xlim=(0, 1.005),
            ylim=(-0.6, max(0.6, len(order) - 0.4)),
        )
        axes.grid(axis="y", visible=False)
        figure.legend(handles=drawn, loc="outside lower right", ncols=3, fontsize=8)
        save(figure, path)


def embedding_map(
    path: Path,
    points: np.ndarray,
    labels: np.ndarray,
    label_names: Sequence[str],
    *,
    title: str,
    about: str = "",
    most: int = 12,
) -> None:
    """One small map a label, the commonest first and then the rarest: images that carry it over all the others.

    points (N, 2); about: what else is to be said of the map.
    """
    carriers = labels.sum(0)
    order, said = _commonest_and_rarest(carriers, most)
    columns = min(4, max(1, len(order)))
    lines = max(1, -(-len(order) // columns))
    with styled():
        figure = Figure((max(5.4, 2.6 * columns), 2.75 * lines + 0.85))
        figure.set_layout_engine("constrained", w_pad=0.08, h_pad=0.08)
        headline(figure, title)
        grid = figure.subplots(lines, columns, squeeze=False)
        size = float(np.clip(6000 / max(1, len(points)), 2, 24))
        for axes, label in zip(cells(grid), order, strict=False):
            has = labels[:, label]
            own = float(np.clip(3000 / carriers[label], size, 24))  # a handful among thousands is still to be seen
            axes.scatter(points[~has, 0], points[~has, 1], s=size, color=OTHERS, linewidths=0)
            axes.scatter(points[has, 0], points[has, 1], s=own, color=SERIES[0], linewidths=0, alpha=0.8)
            axes.set_title(f"{shortened(label_names[label], 26)} ({int(carriers[label]):,})", fontsize=9)
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set(visible=True, color=FAINT)
        for axes in cells(grid)[len(order) :]:
            axes.set_axis_off()
        caption(figure, [f"blue: carries the label; {said}", about])
        save(figure, path, 200)


def _commonest_and_rarest(carriers: np.ndarray, most: int) -> tuple[list[int], str]:
    """Up to `most` labels by how many images (L,) carry them, a third of them the rarest; and which these are."""
    order = np.argsort(-carriers, kind="stable").tolist()
    carried = [label for label in order if carriers[label]]
    nobody = len(order) - len(carried)
    rest = f"; {nobody} label{'s are' if nobody > 1 else ' is'} carried by no image" if nobody else ""
    if len(carried) <= most:
        return carried, f"{'all' if not nobody else 'the'} labels{' that occur' if nobody else ''}{rest}"
    rare = most // 3
    said = f"the {most - rare} commonest and, last, the {rare} rarest of {len(order)} labels{rest}"
    return carried[: most - rare] + carried[len(carried) - rare :], said


def shortened(name: str, most: int) -> str:
    return name if len(name) <= most else f"{name[: most - 2].rstrip()} …"
