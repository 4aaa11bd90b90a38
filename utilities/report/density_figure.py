"""distance_density.png: how far apart images lie that share labels, and images that do not."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from utilities.neighbours.density import Densities
from utilities.report.figures import INK, MUTED, PAPER, SERIES, Axes, Figure, caption, headline, save, shades, styled

FEW = 30  # pairs: fewer have no density that could be told from chance, and each is drawn as a tick
MANY = 1000  # pairs: from here on a density is drawn as firmly as any


def distance_density(path: Path, densities: Densities, *, title: str) -> None:
    """Densities of intra (a label shared) and inter distances, their overlap, and below by labels shared."""
    edges = densities.edges.numpy()
    counts = densities.counts.numpy()
    with styled():
        figure = Figure((8, 6.8), layout="constrained")
        headline(figure, title)
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2.6))
        _both_kinds(upper, densities, counts, edges)
        ticked = _by_shared_labels(lower, counts, edges, densities.means.numpy())
        said = f"; of fewer than {FEW} pairs, a tick for each" if ticked else ""
        caption(figure, [f"dotted: mean distance; the paler, the fewer pairs{said}"])
        save(figure, path)


def _both_kinds(axes: Axes, densities: Densities, counts: np.ndarray, edges: np.ndarray) -> None:
    kinds = np.stack([counts[1:].sum(0), counts[0]])
    middles, (intra, inter) = _pooled_density(kinds, edges)
    highest = max(intra.max(), inter.max(), 1e-9)
    for pairs, values, colour, dash, name in (
        (kinds[0], intra, SERIES[0], "-", f"intra: {_pairs(kinds[0])}, a label shared"),
        (kinds[1], inter, SERIES[1], (0, (5, 1.5)), f"inter: {_pairs(kinds[1])}, none shared"),
    ):
        firm = firmness(pairs.sum())
        axes.fill_between(middles, values, color=colour, alpha=0.16 * firm, linewidth=0)
        axes.plot(middles, values, color=colour, linestyle=dash, linewidth=0.6 + 1.4 * firm, label=name)
    overlap = densities.overlap()
    said = "no overlap: only one kind of pair"
    if np.isfinite(overlap):
        said = f"overlap {overlap:.3f}, {_pairs(counts)} in bins of {edges[1] - edges[0]:.2g}"
        if densities.share < 1:
            drawn = f"{_pairs(counts)} of {counts.sum() / densities.share:,.0f}"
            said = f"overlap {overlap:.4f} ± {densities.error:.1g}, {drawn} in bins of {edges[1] - edges[0]:.2g}"
    both = np.minimum(intra, inter)
    axes.fill_between(middles, both, facecolor="none", edgecolor=MUTED, hatch="////", linewidth=0, label=said)
    axes.set(ylabel="density", ylim=(0, 1.4 * highest))  # the legend has the upper part to itself
    axes.legend(loc="upper left")


def firmness(pairs: int) -> float:
    """How firmly a density of so many pairs is drawn: from .25 of FEW to 1 of MANY, by their logarithm."""
    known = np.log(max(FEW, pairs) / FEW) / np.log(MANY / FEW)
    return 0.25 + 0.75 * float(min(1.0, known))


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


def _by_shared_labels(axes: Axes, counts: np.ndarray, edges: np.ndarray, means: np.ndarray) -> bool:
    """For every number of shared labels a ridge with its mean distance, the paler the fewer pairs.

    Of fewer than FEW, ticks; returns whether there are such.
    """
    present = [number for number in range(len(counts)) if counts[number].sum()][:8]
    colours = shades(len(present))
    ticked = False
    for place, number in enumerate(present):
        pairs, colour = counts[number].sum(), colours[place]
        if pairs < FEW:
            at = (edges[:-1] + edges[1:])[np.flatnonzero(counts[number])] / 2
            axes.axhline(place, color=INK, linewidth=0.7, zorder=9 - place)
            axes.vlines(at, place, place + 0.45, color=colour, linewidth=1.6, zorder=9 - place)
            ticked = True
            continue
        middles, (density,) = _pooled_density(counts[[number]], edges)
        ridge, firm = 0.9 * density / max(density.max(), 1e-12), firmness(pairs)
        axes.fill_between(
            middles, place, place + ridge, color=colour, alpha=0.75 * firm, linewidth=0, zorder=9 - place
        )  # fmt: skip
        axes.plot(middles, place + ridge, color=INK, alpha=firm, linewidth=0.7, zorder=9 - place)
        axes.plot((means[number],) * 2, (place, place + 0.9), color=PAPER, linewidth=1.6, zorder=9)
        axes.plot((means[number],) * 2, (place, place + 0.9), color=INK, linewidth=0.8, linestyle=":", zorder=9)
    axes.set_yticks(range(len(present)), [f"{number}  ({_pairs(counts[number])})" for number in present])
    axes.set(
        xlabel="distance between embeddings",
        ylabel="labels shared",
        xlim=_extent(counts, edges),
        ylim=(-0.3, max(1, len(present))),
    )
    axes.grid(axis="y", visible=False)
    return ticked


def _extent(counts: np.ndarray, edges: np.ndarray) -> tuple[float, float]:
    used = np.flatnonzero(counts.sum(0))
    if not len(used):
        return 0.0, 2.0
    return max(0.0, edges[used[0]] - 0.05), min(2.0, edges[used[-1] + 1] + 0.05)
