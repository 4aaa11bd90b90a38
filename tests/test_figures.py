"""Pictures: they are made of whatever comes, hold what they should, and need neither pyplot nor a display."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from utilities.measures.summaries import LabelTable, label_table
from utilities.neighbours.density import distance_densities
from utilities.report import figures
from utilities.report.retrievals import EXTRA, SHARED, Retrieval, retrievals

NAMES = [f"a rather long label name {number}" for number in range(14)]


def picture(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(int)


def holds(pixels: np.ndarray, colour: str) -> bool:
    wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    return bool((np.abs(pixels - wanted).max(-1) < 4).any())


def thumbnail(row: int) -> np.ndarray:
    image = np.zeros((20, 30, 3), np.uint8)
    image[..., 2] = 40 * row
    return image


@pytest.fixture
def labels() -> np.ndarray:
    rows = np.zeros((6, 14), bool)
    rows[0] = rows[1] = rows[2, :3] = True
    rows[3, 1] = True
    return rows


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[figures.Figure]:
    """The figures that are saved from here on."""
    kept: list[figures.Figure] = []
    saved = figures.save

    def keep(figure: figures.Figure, path: Path, dots_per_inch: int = 150) -> None:
        kept.append(figure)
        saved(figure, path, dots_per_inch)

    monkeypatch.setattr(figures, "save", keep)
    return kept


def test_retrievals_mark_what_is_shared_and_what_is_not(tmp_path: Path, labels: np.ndarray) -> None:
    path = tmp_path / "new folder" / "retrievals.png"
    shared = [Retrieval(0, [1], [0.1])]
    retrievals(path, shared, thumbnail=thumbnail, labels=labels, label_names=NAMES, title="title")
    few = picture(path)
    lines = [
        Retrieval(0, [1, 2, 3], [0.1, 0.2, 0.3], "best", "ndcg@8 0.9"),
        Retrieval(3, [2, 4]),
        Retrieval(4, []),
    ]
    retrievals(path, lines, thumbnail=thumbnail, labels=labels, label_names=NAMES, title="title")
    many = picture(path)
    assert many.shape[0] > few.shape[0]
    assert many.shape[1] > few.shape[1]
    assert holds(many, SHARED)
    assert holds(many, EXTRA)
    assert holds(many, "#000050")  # the image of row 2


def test_retrievals_from_another_gallery(tmp_path: Path, labels: np.ndarray) -> None:
    asked: list[int] = []

    def gallery(row: int) -> np.ndarray:
        asked.append(row)
        return thumbnail(row)

    retrievals(
        tmp_path / "a.png",
        [Retrieval(5, [0])],
        thumbnail=thumbnail,
        labels=labels,
        label_names=NAMES,
        title="",
        gallery_thumbnail=gallery,
        gallery_labels=labels[:1],
    )
    assert asked == [0]
    assert picture(tmp_path / "a.png").size


def test_nothing_found_is_still_a_picture(tmp_path: Path, labels: np.ndarray) -> None:
    path = tmp_path / "a.png"
    retrievals(path, [], thumbnail=thumbnail, labels=labels, label_names=NAMES, title="none")
    assert picture(tmp_path / "a.png").size


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0], ids=["no labels", "both kinds", "one kind of pair"])
def test_distance_density(tmp_path: Path, share: float) -> None:
    draw = torch.Generator().manual_seed(1)
    rows = torch.nn.functional.normalize(torch.randn(50, 4, generator=draw), dim=1)
    densities = distance_densities(rows, torch.rand(50, 12, generator=draw) < share)
    figures.distance_density(tmp_path / "density.png", densities, title="distances")
    assert holds(picture(tmp_path / "density.png"), figures.INK)


def test_distances_of_few_pairs_have_counts_and_no_spikes(tmp_path: Path, drawn: list[figures.Figure]) -> None:
    """44 images as in a run on the demo, then two of them: one pair."""
    draw = torch.Generator().manual_seed(1)
    rows = torch.nn.functional.normalize(torch.randn(44, 16, generator=draw), dim=1)
    labels = torch.rand(44, 6, generator=draw) < 0.3
    densities = distance_densities(rows, labels)
    figures.distance_density(tmp_path / "a.png", densities, title="distances")
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
    figures.distance_density(tmp_path / "a.png", share, title="distances")
    legend = drawn.pop().axes[0].get_legend()
    assert legend is not None
    pairs = int(densities.counts.sum())
    assert f"± 0.003, {pairs:,} pairs of {4 * pairs:,} in bins" in legend.get_texts()[2].get_text()

    one = distance_densities(rows[:2], torch.ones(2, 3).bool())
    figures.distance_density(tmp_path / "a.png", one, title="distances")
    assert [label.get_text() for label in drawn[1].axes[1].get_yticklabels()] == ["3  (1 pair)"]


def test_label_bars_leave_out_labels_that_nobody_asks_for(tmp_path: Path, labels: np.ndarray) -> None:
    carried = torch.from_numpy(labels)
    indices = torch.tensor([[1, 2], [0, 2], [0, 1], [4, 5], [0, 5], [0, 1]])
    heights = []
    for queries in (carried, carried * (torch.arange(14) < 5)):
        table = label_table(indices, queries, carried, per_query={})
        figures.label_bars(tmp_path / "labels.png", table, NAMES, title="labels")
        heights.append(picture(tmp_path / "labels.png").shape[0])
    assert heights[0] > heights[1]


def test_label_bars_break_ties_by_recall_then_name(tmp_path: Path, drawn: list[figures.Figure]) -> None:
    """All five labels are found by all queries that carry them; "d" in fewer images, "e" by half of them only."""
    ones = torch.ones(5, dtype=torch.float64)
    recall, precision = ones.clone(), ones.clone()
    precision[3], recall[4] = 0.2, 0.5
    table = LabelTable(4, 3 * ones, recall, precision, 0.1 * ones, 0.3 * ones, {})
    figures.label_bars(tmp_path / "labels.png", table, ["b", "c", "a", "d", "e"], title="labels")
    axes = drawn[0].axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()][::-1] == [
        "a  (3)",
        "b  (3)",
        "c  (3)",
        "e  (3)",
        "d  (3)",
    ]
    assert "share" in axes.get_xlabel()


def test_bars_of_labels_have_their_chance(tmp_path: Path, drawn: list[figures.Figure]) -> None:
    """A label on nearly all images is found by every query, as by chance; the main bar is precision."""
    ones = torch.ones(2, dtype=torch.float64)
    table = LabelTable(
        8, 5 * ones, ones, torch.tensor([0.9, 0.5]), torch.tensor([0.9, 0.1]), torch.tensor([1, 0.6]), {}
    )
    figures.label_bars(tmp_path / "labels.png", table, ["pavement", "ship"], title="labels")
    axes = drawn[0].axes[0]
    assert sorted(round(float(bar.get_width()), 3) for bar in axes.patches[:2]) == [0.5, 0.9]
    assert {bar.get_height() for bar in axes.patches[:2]} > {bar.get_height() for bar in axes.patches[2:]} or (
        axes.patches[0].get_height() > axes.patches[2].get_height()
    )
    ticks = [[float(line[0][0]) for line in group.get_segments()] for group in axes.collections]
    assert ticks == [pytest.approx([0.1, 0.9]), pytest.approx([0.6, 1.0])]


def test_embedding_map(tmp_path: Path, labels: np.ndarray) -> None:
    points = np.random.default_rng(0).normal(size=(6, 2))
    figures.embedding_map(tmp_path / "map.png", points, labels, NAMES, title="map", most=5)
    pixels = picture(tmp_path / "map.png")
    assert holds(pixels, figures.OTHERS)
    assert holds(pixels, figures.FAINT)  # the frames


def test_embedding_map_says_what_it_shows(tmp_path: Path, drawn: list[figures.Figure], labels: np.ndarray) -> None:
    """Dots of six images are larger than those of 5,000, and a colour is explained."""
    few = np.random.default_rng(0).normal(size=(6, 2))
    many = np.random.default_rng(0).normal(size=(4998, 2))
    figures.embedding_map(tmp_path / "few.png", few, labels, NAMES, title="map", most=5)
    figures.embedding_map(tmp_path / "many.png", many, np.tile(labels, (833, 1)), NAMES, title="map", most=14)
    sizes = [figure.axes[0].collections[0].get_sizes()[0] for figure in drawn]  # type: ignore[attr-defined]
    assert sizes[0] > sizes[1]
    said = [[text.get_text() for text in figure.texts] for figure in drawn]
    assert "blue: carries the label; the 5 most frequent of 14 labels" in said[0]
    assert "blue: carries the label; all labels" in said[1]


def test_curves(tmp_path: Path) -> None:
    records = [
        {"epoch": 1, "step": 10, "split": "train", "losses": {"margin": 1.0, "shared": None}},
        {"epoch": 2, "step": 20, "split": "train", "losses": {"margin": 0.5, "shared": float("nan")}},
        {"epoch": 2, "step": 20, "split": "val", "scores": {"recall@1": 0.5, "recall@2": 0.7, "map@1": 0.2}},
        {"epoch": 2, "step": 20, "split": "test", "scores": {"recall@1": 0.4}},
    ]
    figures.curves(tmp_path / "figures", records)
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == ["losses.png", "scores.png"]
    one, several = picture(tmp_path / "figures" / "losses.png"), picture(tmp_path / "figures" / "scores.png")
    assert several.shape[1] > one.shape[1]  # shared never had a value; recall and map have a panel each


@pytest.mark.parametrize("epochs", [(1,), (7,), (1, 2), (5, 10, 60)])
def test_epochs_of_curves_are_whole(tmp_path: Path, drawn: list[figures.Figure], epochs: tuple[int, ...]) -> None:
    records = [{"epoch": e, "step": 10 * e, "split": "val", "scores": {"recall@1": 0.5}} for e in range(1, 61)]
    figures.curves(tmp_path, [record if record["epoch"] in epochs else record | {"scores": {}} for record in records])
    (axes,) = drawn[0].axes
    low, high = axes.get_xlim()
    ticks = [tick for tick in axes.get_xticks() if low <= tick <= high]
    assert ticks
    assert all(float(tick).is_integer() for tick in ticks)
    assert low < epochs[0] <= epochs[-1] < high
    assert high - low <= max(2, epochs[-1] - epochs[0]) * 1.1


def test_scores_are_drawn_over_their_chance(tmp_path: Path, drawn: list[figures.Figure]) -> None:
    scores, chance = {"recall@1": 0.9, "recall@8": 0.95, "overlap": 0.3}, {"recall@1": 0.2, "recall@8": 0.6}
    figures.curves(tmp_path, [{"epoch": 1, "step": 9, "split": "val", "scores": scores, "chance": chance}])
    recall, overlap = drawn[0].axes
    assert [float(line.get_ydata()[0]) for line in recall.lines] == [0.9, 0.2, 0.95, 0.6]  # type: ignore[index]
    assert [text.get_text() for text in recall.texts] == ["chance", "chance"]
    assert recall.get_ylim()[0] < 0.2
    assert len(overlap.lines) == 1


def test_a_constant_stays_flat(tmp_path: Path, drawn: list[figures.Figure]) -> None:
    records = [{"epoch": e, "step": e, "split": "val", "scores": {"map@8": 0.5 + e * 1e-6}} for e in (1, 2, 3)]
    figures.curves(tmp_path, records)
    low, high = drawn[0].axes[0].get_ylim()
    assert low < 0.49
    assert high > 0.51


def test_records_within_an_epoch_stand_where_they_were_written() -> None:
    """Epochs of 10, then of 20 steps, with a line of losses every 8 steps."""
    lines = [(1, 8), (1, 10), (2, 16), (2, 24), (2, 30)]
    records = [{"epoch": epoch, "step": step} for epoch, step in lines]
    assert figures.epoch_positions(records) == pytest.approx([0.8, 1, 1.3, 1.7, 2])


def test_curves_of_a_run_without_records(tmp_path: Path) -> None:
    figures.curves(tmp_path / "figures", [])
    assert not (tmp_path / "figures").exists()


def test_dollar_signs_in_names_are_dollar_signs(tmp_path: Path, labels: np.ndarray) -> None:
    """Between two of them matplotlib reads a formula, and fails where it is none."""
    said = "$_{$"
    names = [f"{said} {name}" for name in NAMES]
    lines = [Retrieval(0, [1, 2], [0.1, 0.2], said, said)]
    retrievals(tmp_path / "a.png", lines, thumbnail=thumbnail, labels=labels, label_names=names, title=said)
    indices = torch.tensor([[1, 2], [0, 2], [0, 1], [4, 5], [0, 5], [0, 1]])
    carried = torch.from_numpy(labels)
    figures.label_bars(tmp_path / "b.png", label_table(indices, carried, carried, per_query={}), names, title=said)
    figures.embedding_map(tmp_path / "c.png", np.random.default_rng(0).normal(size=(6, 2)), labels, names, title=said)
    densities = distance_densities(torch.nn.functional.normalize(torch.rand(6, 4), dim=1), carried)
    figures.distance_density(tmp_path / "d.png", densities, title=said)
    assert all(picture(tmp_path / f"{letter}.png").size for letter in "abcd")


def test_pyplot_is_never_imported() -> None:
    code = "import sys; from utilities.report import retrievals; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1]).returncode == 0
