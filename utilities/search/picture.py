"""The picture of a search by example: the query on the left, the hits beside it in lines, the nearest first."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from utilities.report.figures import INK, MUTED, PAPER, Axes, page, rectangle, save, styled
from utilities.report.retrievals import (
    GAP,
    HEAD,
    LINE,
    MARGIN,
    MOST_LABELS,
    SIDE,
    draw_comparison,
    draw_image,
    draw_labels,
    draw_legend,
)
from utilities.search.example import Search, Shown, spelled

_COLUMNS = 7
_MOST_HITS = 42  # six lines; the page has them all
_TOP = MARGIN + 0.62


def draw_search(path: Path, search: Search) -> None:
    """Hits with rank, distance and labels; where the query's labels are known, those shared, extra and missing."""
    shown = list(zip(search.hits[:_MOST_HITS], search.distances, strict=False))
    lines = [range(start, min(start + _COLUMNS, len(shown))) for start in range(0, max(1, len(shown)), _COLUMNS)]
    heights = [_height(search, [search.query, *(shown[place][0] for place in line)]) for line in lines]
    with styled():
        figure, axes = page(2 * MARGIN + (1 + _COLUMNS) * (SIDE + GAP) + GAP, _TOP + MARGIN + sum(heights))
        more = f" (the nearest {len(shown)} of {len(search.hits)})" if len(shown) < len(search.hits) else ""
        _heading(axes, f"{search.title}{more}", search)
        _draw_query(axes, search)
        top = _TOP
        for line, height in zip(lines, heights, strict=True):
            for column, place in enumerate(line):
                left = MARGIN + (column + 1) * (SIDE + GAP) + GAP
                _draw_hit(axes, left, top, place, *shown[place], search)
            top += height
        axes.text(MARGIN, top, search.about, fontsize=7.5, color=MUTED, va="center")
        save(figure, path)


def _height(search: Search, images: list[Shown]) -> float:
    """Of a line: as many label lines as the fullest of its images needs."""
    query = search.query.labels
    needed = [1]
    for image in images:
        masks = [labels for labels in (query, image.labels) if labels is not None]
        needed.append(int(np.logical_or.reduce(masks).sum()) if masks else 0)
    return HEAD + SIDE + 0.14 + min(max(needed), MOST_LABELS) * LINE + 0.22


def _heading(axes: Axes, title: str, search: Search) -> None:
    if search.query.labels is not None:
        draw_legend(axes, title)
        return
    axes.text(MARGIN, MARGIN + 0.06, title, fontsize=12, weight="bold", va="center")
    said = "above an image: rank, distance"
    if search.label_names:
        said = f"the labels of the query are not known      {said}; below: its labels"
    axes.text(MARGIN, MARGIN + 0.33, said, color=MUTED, fontsize=8.5, va="center")


def _draw_query(axes: Axes, search: Search) -> None:
    axes.text(MARGIN, _TOP + HEAD / 2, "query", fontsize=8, weight="bold", va="center")
    query = search.query
    width, height = SIDE * min(1.0, query.aspect), SIDE / max(1.0, query.aspect)  # of all of it, as it was given
    left, top = MARGIN + (SIDE - width) / 2, _TOP + HEAD + (SIDE - height) / 2
    axes.imshow(query.pixels, extent=(left, left + width, top + height, top), interpolation="lanczos", aspect="auto")
    axes.set_autoscale_on(False)
    rectangle(axes, left, top, width, height, fill=False, edgecolor=INK, linewidth=1.6)
    if query.looked_at < 1:
        _frame(axes, left, top, width, height, query.looked_at)
        axes.text(
            MARGIN + SIDE, _TOP + HEAD / 2, "framed: looked at", fontsize=7, color=MUTED, va="center", ha="right"
        )  # fmt: skip
    if search.query.labels is not None:
        draw_labels(axes, MARGIN, _TOP + HEAD + SIDE, _in_ink(search, search.query))


def _frame(axes: Axes, left: float, top: float, width: float, height: float, share: float) -> None:
    """Around the middle of a picture, that share of each side; what lies outside is darkened."""
    across, down = width * (1 - share) / 2, height * (1 - share) / 2
    for x, y, w, h in (
        (left, top, width, down),
        (left, top + height - down, width, down),
        (left, top + down, across, height - 2 * down),
        (left + width - across, top + down, across, height - 2 * down),
    ):
        rectangle(axes, x, y, w, h, color=INK, alpha=0.45, linewidth=0)
    inside = (left + across, top + down, width - 2 * across, height - 2 * down)
    rectangle(axes, *inside, fill=False, edgecolor=PAPER, linewidth=1.2)


def _draw_hit(axes: Axes, left: float, top: float, place: int, hit: Shown, distance: float, search: Search) -> None:
    draw_image(axes, left, top + HEAD, hit.pixels)
    if search.query.labels is not None and hit.labels is not None:
        draw_comparison(axes, left, top, place, distance, search.query.labels, hit.labels, search.label_names)
        return
    axes.text(left, top + HEAD / 2, f"{place + 1}", fontsize=8, weight="bold", va="center")
    axes.text(left + SIDE, top + HEAD / 2, f"{distance:.2f}", fontsize=7, color=MUTED, va="center", ha="right")
    draw_labels(axes, left, top + HEAD + SIDE, _in_ink(search, hit))


def _in_ink(search: Search, image: Shown) -> list[tuple[str, str]]:
    if image.labels is None:
        return []
    return [(name, INK) for name in spelled(image.labels, search.label_names)] or [("no label", INK)]
