"""distance_density.png: what is drawn of many pairs, and of a handful."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from utilities.neighbours.density import Densities, distance_densities
from utilities.report.density_figure import FEW, distance_density, firmness
from utilities.report.figures import Figure


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0], ids=["no labels", "both kinds", "one kind of pair"])
def test_distance_density(tmp_path: Path, share: float) -> None:
    draw = torch.Generator().manual_seed(1)
    rows = torch.nn.functional.normalize(torch.randn(50, 4, generator=draw), dim=1)
    densities = distance_densities(rows, torch.rand(50, 12, generator=draw) < share)
    distance_density(tmp_path / "density.png", densities, title="distances")
    with Image.open(tmp_path / "density.png") as picture:
        assert picture.size == (1200, 1020)


def test_distances_of_few_pairs_have_counts_and_no_spikes(tmp_path: Path, drawn: list[Figure]) -> None:
    """44 images as in a run on the demo, then two of them: one pair."""
    draw = torch.Generator().manual_seed(1)
    rows = torch.nn.functional.normalize(torch.randn(44, 16, generator=draw), dim=1)
    labels = torch.rand(44, 6, generator=draw) < 0.3
    densities = distance_densities(rows, labels)
    distance_density(tmp_path / "a.png", densities, title="distances")
    upper, lower = drawn[0].axes
    for line in upper.lines:
        places, values = (np.asarray(data) for data in (line.get_xdata(), line.get_ydata()))
        assert (values * np.diff(places)[0]).sum() == pytest.approx(1)
        turns = np.diff(np.sign(np.diff(values[values > 0])))
        assert (turns != 0).sum() <= 12
    assert not lower.texts
    ticks = [label.get_text() for label in lower.get_yticklabels()]
    assert ticks[0] == f"0  ({densities.inter.sum():,} pairs)"
    legend = upper.get_legend()
    assert legend is not None
    assert f"overlap {densities.overlap():.3f}" in legend.get_texts()[2].get_text()
    assert f"{densities.counts.sum():,} pairs" in legend.get_texts()[2].get_text()

    share = densities._replace(share=0.25, error=0.0031)
    distance_density(tmp_path / "a.png", share, title="distances")
    legend = drawn.pop().axes[0].get_legend()
    assert legend is not None
    pairs = int(densities.counts.sum())
    assert f"± 0.003, {pairs:,} pairs of {4 * pairs:,} in bins" in legend.get_texts()[2].get_text()

    one = distance_densities(rows[:2], torch.ones(2, 3).bool())
    distance_density(tmp_path / "a.png", one, title="distances")
    assert [label.get_text() for label in drawn[1].axes[1].get_yticklabels()] == ["3  (1 pair)"]


def test_three_pairs_are_ticks_and_a_hundred_paler_than_thousands(tmp_path: Path, drawn: list[Figure]) -> None:
    """Label sets whose pairs share 0, 1, 2 and 3 labels: few of the last, hundreds, thousands of the first."""
    counts = torch.zeros(4, 200, dtype=torch.int64)
    counts[0, 100:140] = 200  # 8,000 pairs
    counts[1, 90:130] = 60  # 2,400
    counts[2, 80:120] = 4  # 160
    counts[3, [70, 80, 95]] = 1
    edges = torch.linspace(0, 2, 201, dtype=torch.float64)
    means = (counts * (edges[:-1] + 0.005)).sum(1) / counts.sum(1)
    distance_density(tmp_path / "a.png", Densities(edges, counts, means), title="distances")
    lower = drawn[0].axes[1]
    ticks = [c.get_segments() for c in lower.collections if hasattr(c, "get_segments")]
    assert [[float(segment[0][0]) for segment in group] for group in ticks] == [pytest.approx([0.705, 0.805, 0.955])]
    filled = [c.get_alpha() for c in lower.collections if not hasattr(c, "get_segments")]
    assert len(filled) == 3, "three pairs have no density"
    assert filled[0] == filled[1] > 1.5 * filled[2]
    assert f"of fewer than {FEW} pairs, a tick for each" in drawn[0].get_supxlabel()
    drawn[0].draw_without_rendering()  # type: ignore[attr-defined]
    assert all(text.get_window_extent().x1 <= drawn[0].bbox.x1 for text in drawn[0].texts), "nothing is cut off"


def test_firmness_rises_with_the_number_of_pairs() -> None:
    values = [firmness(pairs) for pairs in (0, FEW, 100, 500, 1000, 10**6)]
    assert values == sorted(values)
    assert values[0] == values[1] == 0.25
    assert values[-2] == values[-1] == 1
