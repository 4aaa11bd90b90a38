"""Pictures of a data set: how labels are distributed, which come together, and what the images look like."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utilities.report.figures import (
    INK,
    MUTED,
    PAPER,
    SERIES,
    Figure,
    headline,
    numbers,
    page,
    save,
    styled,
    whole_ticks,
)


class Picture(NamedTuple):
    """pixels (H, W, 3) uint8, or None where they cannot be read; what to write below."""

    pixels: np.ndarray | None
    name: str
    labels: Sequence[str]


def labels_per_image(path: Path, counts: Mapping[str, Sequence[int]], *, title: str) -> None:
    """counts: split -> how many images carry 0, 1, ... labels. Shares, so that splits of any size compare."""
    most = max(map(len, counts.values()))
    width = 0.84 / len(counts)
    with styled():
        figure = Figure((1.8 + max(4.2, 0.5 * most), 3.6), layout="constrained")
        axes = figure.subplots()
        for number, (split, images) in enumerate(counts.items()):
            shares = 100 * np.asarray(images) / max(1, sum(images))
            places = np.arange(len(images)) + (number - (len(counts) - 1) / 2) * width
            axes.bar(places, shares, width * 0.94, color=SERIES[number], label=f"{split} ({sum(images):,})")
        headline(figure, title)
        axes.set(xlabel="labels of an image", ylabel="% of the images")
        axes.set_xticks(range(most))
        axes.grid(axis="x", visible=False)
        axes.legend()
        save(figure, path)


def images_per_label(
    path: Path, counts: Mapping[str, Sequence[int]], label_names: Sequence[str], *, title: str
) -> None:
    """counts: split -> images that carry each label, stacked; the most frequent label on top."""
    total = np.sum(list(counts.values()), axis=0)
    order = np.argsort(total, kind="stable")
    places = np.arange(len(order))
    with styled():
        figure = Figure((8, 1.2 + 0.2 * len(order)), layout="constrained")
        axes = figure.subplots()
        left = np.zeros(len(order))
        for number, (split, images) in enumerate(counts.items()):
            own = np.asarray(images)[order]
            axes.barh(places, own, left=left, height=0.76, color=SERIES[number], label=split)
            left += own
        for place, count in zip(places, total[order], strict=True):
            axes.annotate(f"{count:,}", (count, place), (3, 0), textcoords="offset points", va="center", fontsize=7.5)
        names = [textwrap.shorten(label_names[label], 48, placeholder=" …") for label in order]
        axes.set_yticks(places, names, color=INK, fontsize=8)
        headline(figure, title)
        axes.set(xlabel="images", xlim=(0, 1.1 * max(1, total.max())), ylim=(-0.6, len(order) - 0.4))
        whole_ticks(axes.xaxis)
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.grid(axis="y", visible=False)
        axes.legend(loc="lower right")
        save(figure, path)


def co_occurrence(path: Path, counts: np.ndarray, label_names: Sequence[str], *, title: str) -> None:
    """counts (L, L): images that carry the row's and the column's label, in every cell that is not empty.

    Colours are shares of the images with the row's label; white, where there is no such image.
    """
    with np.errstate(invalid="ignore"):
        shares = counts / np.diag(counts)[:, None]
    names = [textwrap.shorten(name, 32, placeholder=" …") for name in label_names]
    side = 2.8 + 0.26 * len(names)
    with styled():
        figure = Figure((side + 0.6, side), layout="constrained")
        headline(figure, title)
        axes = figure.subplots()
        image = axes.imshow(100 * shares, cmap="viridis", vmin=0, vmax=100, interpolation="nearest")
        rows, columns = counts.nonzero()
        colours = [INK if share > 0.55 else PAPER for share in shares[rows, columns]]  # on yellow, on blue
        numbers(axes, columns, rows, counts[rows, columns], colours)
        axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7, color=INK)
        axes.set_yticks(range(len(names)), names, fontsize=7, color=INK)
        axes.set(xlabel="… carry this label too (cells: images)", ylabel="of the images with this label …")
        axes.grid(visible=False)
        bar = figure.colorbar(image, ax=axes, shrink=0.6, label="% of the images")
        bar.outline.set_visible(False)
        save(figure, path)


def contact_sheet(path: Path, pictures: Sequence[Picture], *, title: str, columns: int = 8) -> None:
    """The images in a grid with their names and labels."""
    cell, side, margin, head = 1.72, 1.6, 0.25, 0.55
    captions = [_caption(picture.labels) for picture in pictures]
    tall = side + 0.3 + 0.1 * max((len(caption) for caption in captions), default=1)
    columns = max(3, min(columns, len(pictures)))
    lines = max(1, -(-len(pictures) // columns))
    width, height = 2 * margin + columns * cell, 2 * margin + head + lines * tall
    with styled():
        figure, axes = page(width, height)
        axes.text(margin, margin + 0.12, title, fontsize=13, weight="bold", va="center")
        for number, picture in enumerate(pictures):
            left, top = margin + number % columns * cell, margin + head + number // columns * tall
            if picture.pixels is None:
                axes.text(left + side / 2, top + side / 2, "cannot be read", color=SERIES[4], ha="center")
            else:
                axes.imshow(picture.pixels, extent=(left, left + side, top + side, top), interpolation="antialiased")
            name = picture.name if len(picture.name) <= 34 else f"…{picture.name[-33:]}"
            size = min(5.6, 5.6 * 29 / len(name))  # what fits below the picture
            axes.text(left, top + side + 0.05, name, fontsize=size, color=MUTED, va="top")
            axes.text(left, top + side + 0.16, "\n".join(captions[number]), fontsize=6, va="top", linespacing=1.15)
        axes.set(xlim=(0, width), ylim=(height, 0))
        save(figure, path)


def _caption(labels: Sequence[str], most: int = 4) -> list[str]:
    text = "\xa0· ".join(labels) or "no label"  # names may hold commas; a dot stays with the label before it
    lines = textwrap.wrap(text, 34, break_on_hyphens=False)
    return lines if len(lines) <= most else [*lines[: most - 1], f"{lines[most - 1][:32]} …"]
