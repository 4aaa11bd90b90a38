"""What each row finds for six images of the test split, side by side."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from utilities.report.figures import FAINT, INK, MUTED, Axes, page, rectangle, save, styled
from utilities.study.analysis import title
from utilities.study.plan import ROWS

MARGIN, NAMES, SIDE, GAP, HEAD, APART = 0.2, 1.35, 0.5, 0.1, 1.05, 0.3  # inches
ACROSS = 3  # queries in a line
AGREES = "#0b7a4b"


def found(
    path: Path, lines: Sequence[Mapping[str, str]], thumbnails: Mapping[str, np.ndarray], labels: Mapping[str, str]
) -> None:
    """Write the picture: a block a query, a line a row of the study, the nearest images from left to right.

    lines       of found.csv, of one tier
    thumbnails  (H, W, 3) uint8 of every image named there, and labels its labels in words
    """
    names = {line["name"] for line in lines}
    rows = {row.name: name for row in ROWS for name in names if name.split("-")[1] == row.name}
    queries = list(dict.fromkeys(line["query"] for line in lines))
    nearest = {(line["name"], line["query"], int(line["rank"])): line for line in lines}
    depth = max(rank for _, _, rank in nearest)
    block = depth * (SIDE + GAP)
    width = 2 * MARGIN + NAMES + ACROSS * block + (ACROSS - 1) * APART
    tall = HEAD + len(rows) * (SIDE + GAP) + APART
    down = -(-len(queries) // ACROSS)
    with styled():
        figure, axes = page(width, 2 * MARGIN + 0.45 + down * tall)
        said = "The nearest images by row of the study; the bar below an image is the Jaccard similarity of its labels"
        axes.text(MARGIN, MARGIN + 0.1, f"{said} with the query's", fontsize=10, weight="bold", va="center")
        for number, query in enumerate(queries):
            top = MARGIN + 0.45 + number // ACROSS * tall
            left = MARGIN + NAMES + number % ACROSS * (block + APART)
            _image(axes, left, top, HEAD - 0.15, thumbnails[query])
            text = f"{query}\n" + textwrap.fill(labels[query], 24)
            axes.text(left + HEAD, top, text, fontsize=8, va="top", color=INK, linespacing=1.3)
            for line, (row, name) in enumerate(rows.items()):
                height = top + HEAD + line * (SIDE + GAP)
                if number % ACROSS == 0:
                    axes.text(MARGIN, height + SIDE / 2, title(row), fontsize=8, va="center", color=MUTED)
                for rank in range(1, depth + 1):
                    hit = nearest.get((name, query, rank))
                    if hit is None:
                        continue
                    place = left + (rank - 1) * (SIDE + GAP)
                    _image(axes, place, height, SIDE, thumbnails[hit["image"]])
                    rectangle(axes, place, height + SIDE + 0.015, SIDE, 0.04, color=FAINT, linewidth=0)
                    agreeing = SIDE * float(hit["jaccard"])
                    rectangle(axes, place, height + SIDE + 0.015, agreeing, 0.04, color=AGREES, linewidth=0)
        save(figure, path, 130)


def _image(axes: Axes, left: float, top: float, side: float, image: np.ndarray) -> None:
    axes.imshow(image, extent=(left, left + side, top + side, top), interpolation="lanczos", aspect="auto")
    axes.set_autoscale_on(False)
