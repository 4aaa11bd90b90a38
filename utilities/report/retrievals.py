"""The picture of retrievals: queries, what was found for them, and which labels agree."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utilities.report.figures import FAINT, INK, MUTED, Axes, page, rectangle, save, styled

SHARED, EXTRA, MISSING = "#0b7a4b", "#b3261e", "#6b7280"
MARKS = {SHARED: "✓", EXTRA: "+", MISSING: "–"}  # what tells them apart without colour


class Retrieval(NamedTuple):
    """One line of the picture: a query, what it found, and why it is shown ("best", "ndcg@8 0.93")."""

    query: int
    neighbours: Sequence[int]
    distances: Sequence[float] = ()
    heading: str = ""
    note: str = ""


SIDE, GAP, LINE, HEAD, MARGIN = 1.3, 0.16, 0.135, 0.2, 0.25  # inches
MOST_LABELS = 9


def retrievals(
    path: Path,
    found: Sequence[Retrieval],
    *,
    thumbnail: Callable[[int], np.ndarray],
    labels: np.ndarray,
    label_names: Sequence[str],
    title: str,
    gallery_thumbnail: Callable[[int], np.ndarray] | None = None,
    gallery_labels: np.ndarray | None = None,
) -> None:
    """Queries on the left, their neighbours beside them, every label said to be shared, extra or missing.

    thumbnail(row) gives (H, W, 3) uint8; labels (N, L) bool. The gallery's are those of the queries unless
    given. The bar below an image is as long as its Jaccard similarity with the query.
    """
    gallery_thumbnail = gallery_thumbnail or thumbnail
    gallery_labels = labels if gallery_labels is None else gallery_labels
    columns = 1 + max((len(line.neighbours) for line in found), default=0)
    heights = [_line_height(line, labels, gallery_labels) for line in found]
    width = 2 * MARGIN + columns * (SIDE + GAP) + GAP
    height = 2 * MARGIN + 0.62 + sum(heights)
    with styled():
        figure, axes = page(width, height)
        draw_legend(axes, title)
        top = MARGIN + 0.62
        for line, line_height in zip(found, heights, strict=True):
            if top > MARGIN + 0.62:
                axes.plot((MARGIN, width - MARGIN), (top - 0.09,) * 2, color=FAINT, linewidth=1)
            _draw_query(axes, top, line, thumbnail(line.query), names_of(labels[line.query], label_names))
            for rank, row in enumerate(line.neighbours):
                left = MARGIN + (rank + 1) * (SIDE + GAP) + GAP
                draw_image(axes, left, top + HEAD, gallery_thumbnail(row))
                distance = line.distances[rank] if len(line.distances) else None
                draw_comparison(axes, left, top, rank, distance, labels[line.query], gallery_labels[row], label_names)
            top += line_height
        save(figure, path)


def _line_height(line: Retrieval, labels: np.ndarray, gallery_labels: np.ndarray) -> float:
    query = labels[line.query]
    lines = max([int(query.sum()), *(int((query | gallery_labels[row]).sum()) for row in line.neighbours)])
    return HEAD + SIDE + 0.14 + min(lines, MOST_LABELS) * LINE + 0.22


def draw_legend(axes: Axes, title: str) -> None:
    axes.text(MARGIN, MARGIN + 0.06, title, fontsize=12, weight="bold", va="center")
    left = MARGIN
    for colour, what in (
        (SHARED, "shared with the query"),
        (EXTRA, "not in the query"),
        (MISSING, "missing"),
    ):
        axes.text(left, MARGIN + 0.33, MARKS[colour], color=colour, fontsize=9, weight="bold", va="center")
        axes.text(left + 0.13, MARGIN + 0.33, what, color=colour, fontsize=8.5, va="center")
        left += 0.35 + 0.069 * len(what)
    rectangle(axes, left, MARGIN + 0.31, 0.5, 0.045, color=FAINT)
    rectangle(axes, left, MARGIN + 0.31, 0.3, 0.045, color=SHARED)
    said = "Jaccard similarity of the labels      above an image: rank, labels shared, distance"
    axes.text(left + 0.58, MARGIN + 0.33, said, color=MUTED, fontsize=8.5, va="center")


def _draw_query(axes: Axes, top: float, line: Retrieval, image: np.ndarray, names: list[str]) -> None:
    heading = line.heading or "query"
    axes.text(MARGIN, top + HEAD / 2, heading, fontsize=8, weight="bold", va="center")
    axes.text(MARGIN + SIDE, top + HEAD / 2, line.note, fontsize=7.5, color=MUTED, va="center", ha="right")
    draw_image(axes, MARGIN, top + HEAD, image)
    rectangle(axes, MARGIN, top + HEAD, SIDE, SIDE, fill=False, edgecolor=INK, linewidth=1.6)
    draw_labels(axes, MARGIN, top + HEAD + SIDE, [(name, INK) for name in names] or [("no label", INK)])


def draw_comparison(
    axes: Axes,
    left: float,
    top: float,
    rank: int,
    distance: float | None,
    query: np.ndarray,
    carried: np.ndarray,
    label_names: Sequence[str],
) -> None:
    """What stands around a neighbour: rank, distance, and its labels (L,) bool beside those of the query."""
    shared, extra, missing = query & carried, carried & ~query, query & ~carried
    jaccard = shared.sum() / max(1, (query | carried).sum())
    axes.text(left, top + HEAD / 2, f"{rank + 1}", fontsize=8, weight="bold", va="center")
    about = f"{int(shared.sum())} of {int(query.sum())} shared"
    if distance is not None:
        about += f" · {distance:.2f}"
    axes.text(left + SIDE, top + HEAD / 2, about, fontsize=7, color=MUTED, va="center", ha="right")
    bar = top + HEAD + SIDE + 0.035
    rectangle(axes, left, bar, SIDE, 0.045, color=FAINT, linewidth=0)
    rectangle(axes, left, bar, SIDE * jaccard, 0.045, color=SHARED, linewidth=0)
    kinds = ((shared, SHARED), (extra, EXTRA), (missing, MISSING))
    lines = [(name, colour) for mask, colour in kinds for name in names_of(mask, label_names)]
    draw_labels(axes, left, top + HEAD + SIDE, lines)


def draw_image(axes: Axes, left: float, top: float, image: np.ndarray) -> None:
    axes.imshow(image, extent=(left, left + SIDE, top + SIDE, top), interpolation="lanczos", aspect="auto")
    axes.set_autoscale_on(False)


def names_of(mask: np.ndarray, label_names: Sequence[str]) -> list[str]:
    return [label_names[label] for label in np.flatnonzero(mask).tolist()]


def draw_labels(axes: Axes, left: float, top: float, lines: Sequence[tuple[str, str]]) -> None:
    """Names below an image, each (name, colour); SHARED, EXTRA and MISSING have their marks."""
    shown = lines if len(lines) <= MOST_LABELS else lines[: MOST_LABELS - 1]
    for number, (name, colour) in enumerate(shown):
        middle = top + 0.17 + number * LINE
        if colour in MARKS:
            axes.text(left, middle, MARKS[colour], fontsize=7.5, color=colour, weight="bold", va="center")
        weight = "bold" if colour == SHARED else "normal"
        style = "italic" if colour == MISSING else "normal"
        indent = 0.11 if colour in MARKS else 0
        text = textwrap.shorten(name, 21, placeholder="…") if len(name) > 21 else name
        axes.text(left + indent, middle, text, fontsize=7, color=colour, weight=weight, style=style, va="center")
    if len(shown) < len(lines):
        middle = top + 0.17 + len(shown) * LINE
        axes.text(left, middle, f"and {len(lines) - len(shown)} more", fontsize=7, color=MUTED, va="center")
