"""A search as rows, text, features, page and picture: what they hold, and that names never become markup."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from tests.browser import browser, missing
from utilities.files import filling
from utilities.report.figures import PAPER, Figure
from utilities.search.example import Search, Shown, features, hit_rows, label_counts, text_table
from utilities.search.picture import draw_search
from utilities.search.search_folder import LEFTOVERS, write_search

NAMES = ["field", "</script><b>water", 'trees & "bushes"', "Beaches, dunes, sands"]
SQUARE = [[10.0, 50.0], [10.1, 50.0], [10.1, 50.1], [10.0, 50.1], [10.0, 50.0]]


def shown(name: str, labels: tuple[int, ...] | None, place: bool = False) -> Shown:
    mask = None if labels is None else np.isin(np.arange(len(NAMES)), labels)
    pixels = np.full((40, 50, 3), 60 + 10 * len(name), np.uint8)
    return Shown(name, pixels, mask, SQUARE if place else None)


def example(known: tuple[int, ...] | None = (0, 1), *, place: bool = False) -> Search:
    hits = [shown("<i>a", (0, 1)), shown("b", (1, 2), place), shown("c", ())]
    return Search(
        shown("query<b>", known, place), hits, [0.1, 0.25, 1.5], NAMES, "Nearest to <b>", "3 & more", ["a <note>"]
    )


def test_rows_of_the_table() -> None:
    first, second, third = hit_rows(example())
    assert first == {
        "rank": 1, "image": "<i>a", "distance": "0.100000", "labels": "field; </script><b>water",
        "shared_labels": "field; </script><b>water", "jaccard": "1.0000",
    }  # fmt: skip
    assert (second["shared_labels"], second["jaccard"]) == ("</script><b>water", "0.3333")
    assert (third["labels"], third["shared_labels"], third["jaccard"]) == ("", "", "0.0000")


def test_rows_where_the_labels_of_the_query_are_not_known() -> None:
    assert all(row["shared_labels"] == row["jaccard"] == "" for row in hit_rows(example(None)))
    text = text_table(example(None))
    assert "✓" not in text
    assert "shared" not in text


def test_a_query_and_a_hit_without_labels_share_nothing() -> None:
    assert hit_rows(example(()))[2]["jaccard"] == "0.0000"


def test_the_text_table_ticks_what_is_shared() -> None:
    lines = text_table(example()).splitlines()
    assert "note: a <note>" in lines
    assert lines[-3].split() == ["1", "0.1000", "2", "<i>a", "✓field;", "✓</script><b>water"]
    assert lines[-1].endswith("no label")


def test_labels_are_counted_over_the_hits() -> None:
    assert label_counts(example()) == [(NAMES[1], 2), (NAMES[0], 1), (NAMES[2], 1)]
    assert label_counts(example()._replace(hits=[], distances=[])) == []


def test_features_are_the_query_and_the_hits() -> None:
    query, first, second, _ = features(example(None, place=True))
    assert query["geometry"] == {"type": "Polygon", "coordinates": [SQUARE]}
    assert query["properties"]["labels"] is None
    assert first["geometry"] is None
    assert second["properties"] == {
        "role": "hit", "rank": 2, "name": "b", "distance": 0.25, "labels": [NAMES[1], NAMES[2]],
    }  # fmt: skip


@pytest.mark.parametrize("place", [True, False])
def test_places_are_written_where_there_are_some(tmp_path: Path, place: bool) -> None:
    for known in (True, place):
        with filling(tmp_path / "new" / "folder", LEFTOVERS) as fresh:
            write_search(fresh, example(place=known))
    written = {path.name for path in (tmp_path / "new" / "folder").iterdir()}
    assert written == {"search.html", "retrievals.png", "hits.csv"} | ({"hits.geojson"} if place else set())


class Tags(HTMLParser):
    """Every tag, and all text outside scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.feed(re.sub(r"<(script|style)>.*?</\1>", "", page, flags=re.DOTALL))

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("known", [(0, 1), None])
def test_names_reach_the_page_as_text(tmp_path: Path, known: tuple[int, ...] | None) -> None:
    write_search(tmp_path, example(known, place=True))
    page = (tmp_path / "search.html").read_text()
    read = Tags(page)
    for text in ("query<b>", "<i>a", "</script><b>water", 'trees & "bushes"', "3 & more", "a <note>", "50.0500° N"):
        assert text in read.text, text
    assert read.tags.count("img") == 4
    assert "<!--" not in page
    assert not re.search(r"https?:|src=\"(?!data:)", page)  # nothing is fetched


@pytest.mark.parametrize("known", [(0, 1), None])
def test_the_picture_grows_by_lines_and_stops(tmp_path: Path, known: tuple[int, ...] | None) -> None:
    heights = []
    for count in (0, 1, 7, 8, 60):
        hits = [shown(f"hit {number}", (0, 1)) for number in range(count)]
        search = example(known)._replace(hits=hits, distances=[0.01 * number for number in range(count)])
        draw_search(tmp_path / "retrievals.png", search)
        with Image.open(tmp_path / "retrievals.png") as picture:
            heights.append(picture.height)
    assert heights[0] <= heights[1] == heights[2] < heights[3] < heights[4] < 6.5 * heights[1]


def test_the_picture_shows_the_whole_query_and_frames_what_was_looked_at(tmp_path: Path, drawn: list[Figure]) -> None:
    search = example()
    wide = search.query._replace(size=(1203, 640), looked_at=0.875)
    draw_search(tmp_path / "a.png", search._replace(query=wide))
    axes = drawn[0].axes[0]
    left, right, bottom, top = axes.images[0].get_extent()
    assert (right - left) / (bottom - top) == pytest.approx(1203 / 640)
    frames = [patch for patch in axes.patches if to_hex(patch.get_edgecolor()) == PAPER]
    assert [(f.get_width(), f.get_height()) for f in frames] == [  # type: ignore[attr-defined]
        (pytest.approx(0.875 * (right - left)), pytest.approx(0.875 * (bottom - top)))
    ]
    words = [text.get_text() for text in axes.texts]
    assert "framed: looked at" in words
    assert search.about in words, "the run and the split"
    draw_search(tmp_path / "a.png", search)
    assert "framed: looked at" not in [text.get_text() for text in drawn[1].axes[0].texts]


@pytest.mark.skipif(missing() is not None, reason=str(missing()))
def test_the_page_picks_hits_by_label_and_has_two_themes(tmp_path: Path) -> None:
    write_search(tmp_path, example(place=True))
    ranks = "return [...document.querySelectorAll('.hit:not([hidden]) .head strong')].map(e => e.textContent).join('')"
    colour = "return getComputedStyle(document.body).backgroundColor"
    with browser() as page:
        page.open(tmp_path / "search.html")
        assert page.run(ranks) == "123"
        page.run("document.querySelectorAll('.counts button')[0].click()")
        assert page.run(ranks) == "12"
        page.run("document.querySelectorAll('.counts button')[2].click()")
        assert page.run(ranks) == "2"
        assert "1 of 3 hits" in page.run("return document.getElementById('picked').textContent")
        for number in (0, 2):
            page.run(f"document.querySelectorAll('.counts button')[{number}].click()")
        assert page.run(ranks) == "123"
        before = page.run(colour)
        page.run("document.getElementById('theme').click()")
        assert page.run(colour) != before
        assert page.run("return document.documentElement.scrollWidth <= innerWidth")
        assert page.log() == []
