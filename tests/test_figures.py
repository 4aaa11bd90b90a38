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
from utilities.report.density_figure import distance_density
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
    (legend,) = drawn[0].legends
    handle = legend.legend_handles[[text.get_text() for text in legend.get_texts()].index("the same by chance")]
    assert handle.get_marker() == "|", "upright in the legend as on the bars"  # type: ignore[union-attr]
    assert handle.get_linestyle() == "None"  # type: ignore[union-attr]
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
    assert "blue: carries the label; the 4 commonest and, last, the 1 rarest of 14 labels" in drawn[0].get_supxlabel()
    assert "blue: carries the label; all labels" in drawn[1].get_supxlabel()


def test_embedding_map_shows_the_rarest_labels_as_well(tmp_path: Path, drawn: list[figures.Figure]) -> None:
    """Label i of 20 is carried by i of 400 images, the first by none; dots of a handful are large."""
    labels = np.arange(400)[:, None] < np.arange(20)
    points = np.random.default_rng(0).normal(size=(400, 2))
    names = [f"label {i}" for i in range(20)]
    figures.embedding_map(tmp_path / "map.png", points, labels, names, title="map", about="half of the variance")
    shown = [axes.get_title(loc="left") for axes in drawn[0].axes]
    assert shown == [f"label {i} ({i})" for i in (*range(19, 11, -1), 4, 3, 2, 1)]
    said = drawn[0].get_supxlabel()
    assert "the 8 commonest and, last, the 4 rarest of 20 labels; 1 label is carried by no image" in said
    assert "half of the variance" in said
    many = np.tile(points, (20, 1))
    carried = np.stack([np.arange(8000) < 4000, np.arange(8000) < 3], 1)
    figures.embedding_map(tmp_path / "map.png", many, carried, names[:2], title="map")
    common, rare = ([c.get_sizes()[0] for c in axes.collections] for axes in drawn[1].axes)  # type: ignore[attr-defined]
    assert common[0] == common[1] == rare[0]
    assert rare[1] > 10 * rare[0]


def test_a_long_title_is_whole(tmp_path: Path, drawn: list[figures.Figure], labels: np.ndarray) -> None:
    points = np.random.default_rng(0).normal(size=(6, 2))
    for count in (3, 12, 40):
        figures.embedding_map(tmp_path / "map.png", points, labels, NAMES, title="a-run-of-mine " * count, most=3)
        (title,) = [text for text in drawn[-1].texts if text.get_text().startswith("a-run")]
        drawn[-1].draw_without_rendering()  # type: ignore[attr-defined]
        assert title.get_window_extent().x1 <= drawn[-1].bbox.x1
        assert title.get_text().split() == ["a-run-of-mine"] * count


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
    distance_density(tmp_path / "d.png", densities, title=said)
    assert all(picture(tmp_path / f"{letter}.png").size for letter in "abcd")


def test_pyplot_is_never_imported() -> None:
    code = "import sys; from utilities.report import retrievals; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1]).returncode == 0
