"""report.html: what it holds, and that it works in a browser without network."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.browser import browser, missing
from utilities.errors import UserError
from utilities.measures.formulae import Relevance
from utilities.measures.search_and_measure import Evaluation, evaluate
from utilities.measures.summaries import Details, bootstrap_intervals, label_table
from utilities.neighbours.embedding_map import embedding_map
from utilities.neighbours.statistics import neighbour_statistics
from utilities.neighbours.table import write_neighbours
from utilities.report import page_parts
from utilities.report import report_page as report
from utilities.report.page_parts import Collection
from utilities.report.report_page import write_report

NAMES = ["field", "</script><b>water", 'tres & "trees"']


def thumbnail(row: int) -> np.ndarray:
    return np.full((150, 200, 3), 40 + row, np.uint8)


def example(count: int = 30, more: Sequence[str] = ()) -> tuple[Evaluation, Collection, torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    rows = torch.nn.functional.normalize(torch.randn(count, 5, generator=draw), dim=1)
    labels = torch.rand(count, 3, generator=draw) < 0.5
    labels[0] = False
    metrics = ("recall", "label_jaccard@4", "ap@4", "map", *more)
    result = evaluate(rows, labels, metrics=metrics, ks=(1, 4), relevance=Relevance("identical"), backend="torch")
    return result, Collection([f"image_{row}.jpg" for row in range(count)], labels.numpy(), thumbnail), rows


def details(folder: Path, result: Evaluation, images: Collection) -> Details:
    labels = torch.from_numpy(images.labels)
    write_neighbours(
        folder, result.neighbours, query_names=images.names, gallery_names=images.names,
        query_labels=labels, gallery_labels=labels,
    )  # fmt: skip
    per_query = result.scores.per_query
    table = label_table(result.neighbours.indices, labels, labels, per_query=per_query)
    return Details(bootstrap_intervals(per_query, seed=0), table, neighbour_statistics(folder, labels=3))


def write(path: Path, *, more: Sequence[str] = (), **options: Any) -> tuple[dict[str, Any], str]:
    result, images, rows = example(more=more)
    arguments = {
        "label_names": NAMES, "title": "A run", "about": "test", "show_by": "label_jaccard@4",
        "most_queries": 12, "plane": embedding_map(rows, method="pca", seed=0), **options,
    }  # fmt: skip
    write_report(path, result, images, details=details(path.parent, result, images), **arguments)  # type: ignore[arg-type]
    page = path.read_text()
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return json.loads(found.group(1)), page


def test_what_the_page_holds(tmp_path: Path) -> None:
    result, images, _ = example()
    data, page = write(tmp_path / "new" / "report.html")
    assert not re.search(r"https?://(?!www\.w3\.org)", page)  # nothing is fetched
    assert data["labels"] == NAMES
    assert data["cuts"] == ["1", "4", "all"]
    assert [(line["name"], list(line["cells"])) for line in data["measures"]] == [
        ("recall", ["1", "4"]),  # one line, and one sentence, for both K
        ("label_jaccard", ["4"]),
        ("ap", ["4"]),
        ("map", ["all"]),
    ]
    cells = [cell for line in data["measures"] for cell in line["cells"].values()]
    assert [cell["name"] for cell in cells] == list(result.scores.scores)
    for cell in cells:
        assert cell["low"] <= cell["score"] <= cell["high"]
    assert len(data["queries"]) == 12
    values = [query["scores"]["label_jaccard@4"] for query in data["queries"]]
    everything = result.scores.per_query["label_jaccard@4"]
    assert min(values) == pytest.approx(float(everything.min()), abs=1e-6)
    assert max(values) == pytest.approx(float(everything.max()), abs=1e-6)
    for query in data["queries"]:
        image = data["images"][query["image"]]
        row = int(image["name"].removeprefix("image_").removesuffix(".jpg"))
        assert image["labels"] == np.flatnonzero(images.labels[row]).tolist()
        names = [data["images"][other]["name"] for other, _ in query["neighbours"]]
        assert names == [f"image_{other}.jpg" for other in result.neighbours.indices[row].tolist()]
    assert len({image["name"] for image in data["images"]}) == len(data["images"])  # each once
    assert len(data["map"]["points"]) == 30
    assert [key for key, _ in data["label_columns"]] == [
        "label", "support", "precision", "chance", "recall", "recall_chance", "map", "label_jaccard@4"
    ]  # fmt: skip
    assert [line["support"] for line in data["label_table"]] == images.labels.sum(0).tolist()
    assert [total["label"] for total in data["label_totals"]] == [
        "mean over labels",
        "mean over queries and their labels",
    ]
    assert sum(line["pairs"] for line in data["neighbours"]["lines"]) == 30 * 4
    assert sum(line["share"] for line in data["neighbours"]["lines"]) == pytest.approx(1, abs=1e-5)


def test_the_page_explains_its_words(tmp_path: Path) -> None:
    data, page = write(tmp_path / "report.html", more=("hit@2", "acg@2", "ndcg"))
    meanings = {line["name"]: line["meaning"] for line in data["measures"]}
    assert meanings["hit"].endswith("(relevance identical)")
    assert "relevance" not in meanings["acg"]
    assert [line["name"] for line in data["measures"] if not line["bounded"]] == ["acg"]
    symbols = [entry.split(":")[0] for entry in data["symbols"].split("; ")]
    assert symbols == ["rel_j", "precision@j", "R"]
    assert "<footer" not in page  # it said what the header says, in other numbers


def test_the_page_does_not_grow_with_the_neighbours_of_an_evaluation(tmp_path: Path, monkeypatch) -> None:
    result, _, _ = example()
    assert write(tmp_path / "report.html")[0]["queries_note"].count("the 4 nearest that it finds.") == 1
    monkeypatch.setattr(report, "MOST_NEIGHBOURS", 2)
    data, _ = write(tmp_path / "report.html")
    assert data["queries_note"].count("the 2 nearest that it finds.") == 1
    for query in data["queries"]:
        row = int(data["images"][query["image"]]["name"].removeprefix("image_").removesuffix(".jpg"))
        found = [(data["images"][other]["name"], distance) for other, distance in query["neighbours"]]
        nearest = zip(result.neighbours.indices[row, :2].tolist(), result.neighbours.distances[row, :2], strict=True)
        assert found == [(f"image_{other}.jpg", pytest.approx(float(d), abs=1e-4)) for other, d in nearest]


def test_another_gallery_is_another_collection(tmp_path: Path) -> None:
    _, images, _ = example()
    gallery = Collection([f"other_{row}.jpg" for row in range(30)], images.labels, thumbnail)
    data, _ = write(tmp_path / "report.html", gallery=gallery, plane=None)
    for query in data["queries"]:
        assert data["images"][query["image"]]["name"].startswith("image_")
        assert all(data["images"][other]["name"].startswith("other_") for other, _ in query["neighbours"])
    assert data["map"] is None


@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_map_keeps_groups_apart_and_is_repeatable(method: str) -> None:
    if method == "tsne":
        pytest.importorskip("sklearn")
    draw = torch.Generator().manual_seed(1)
    rows = torch.cat([torch.eye(4)[:1].expand(20, 4), torch.eye(4)[1:2].expand(20, 4)])
    rows = torch.nn.functional.normalize(rows + 0.02 * torch.randn(40, 4, generator=draw), dim=1)
    points = embedding_map(rows, method=method, seed=0).points
    assert torch.equal(points, embedding_map(rows, method=method, seed=0).points)
    apart = torch.cdist(points, points)
    assert apart[:20, :20].max() < apart[:20, 20:].min()


def test_map_methods_are_listed() -> None:
    with pytest.raises(UserError, match="choices: pca, tsne"):
        embedding_map(torch.eye(3), method="umap", seed=0)
    assert embedding_map(torch.ones(3, 1), method="tsne", seed=0).points.shape == (3, 2)


def test_a_map_says_how_much_of_the_variance_it_shows() -> None:
    """Rows along three axes at right angles, with variances 6 : 3 : 1."""
    rows = torch.zeros(6, 5, dtype=torch.float64)
    for axis, variance in enumerate((6.0, 3.0, 1.0)):
        rows[2 * axis, axis], rows[2 * axis + 1, axis] = variance**0.5, -(variance**0.5)
    plane = embedding_map(rows, method="pca", seed=0)
    assert plane.shares == pytest.approx((0.6, 0.3))
    assert plane.about == "90 % of the variance is to be seen, 60 % across and 30 % up"
    assert embedding_map(torch.ones(3, 2), method="pca", seed=0).shares == (0, 0)


@pytest.mark.skipif(missing() is not None, reason=str(missing()))
def test_it_works_in_a_browser(tmp_path: Path) -> None:
    write(tmp_path / "report.html")
    with browser() as page:
        page.open(tmp_path / "report.html")
        cards = "return document.querySelectorAll('#grid .card').length"
        numbers = "return [...document.querySelectorAll('#grid strong')].map(e => e.textContent)"
        assert page.run("return document.title") == "A run"
        assert page.run(cards) == 12
        assert page.run("return document.querySelectorAll('#scores tr').length") == 4
        assert page.run("return document.querySelectorAll('#labels .bar .chance').length") == 3
        assert page.run("return document.querySelectorAll('#scores-table .track .chance').length") == 5
        assert page.run("return document.querySelectorAll('#chips b').length") == 0  # a name is never markup
        assert page.run("return document.querySelectorAll('#chips button')[1].textContent") == NAMES[1]

        assert page.run("return document.querySelectorAll('#labels tr').length") == 3
        assert page.run("return document.querySelectorAll('#labels-totals tr').length") == 2
        assert page.run("return document.querySelectorAll('#neighbours tr').length") >= 3
        rows = "[...document.querySelectorAll('#labels tr, #labels-totals tr')]"
        assert page.run(f"return new Set({rows}.map(row => row.cells.length)).size") == 1
        page.run("document.querySelectorAll('#labels-columns button')[5].click()")
        assert page.run("return document.querySelectorAll('#labels-columns th')[5].ariaSort") == "descending"

        rising = page.run(numbers)
        assert rising == sorted(rising)
        page.run("find('order').value = 'best'; find('order').dispatchEvent(new Event('input'))")
        assert page.run(numbers) == rising[::-1]

        page.run("document.querySelector('#chips button').click()")
        carrying = page.run("return visible().every(q => data.images[q.image].labels.includes(0))")
        assert carrying
        assert 0 < page.run(cards) < 12
        assert "of 12 queries" in page.run("return find('count').textContent")
        page.run("find('clear').click()")
        page.run("find('name').value = 'image_0.'; find('name').dispatchEvent(new Event('input'))")
        assert page.run(cards) <= 1
        page.run("find('name').value = ''; find('name').dispatchEvent(new Event('input'))")

        page.run("document.querySelector('#grid .card').click()")
        assert page.run("return find('dialog').open")
        assert page.run("return document.querySelectorAll('#dialog-neighbours .card').length") == 4
        assert page.run("return document.querySelectorAll('#dialog-about div').length") == 5
        page.run("find('close').click()")
        assert not page.run("return find('dialog').open")

        page.run("setTheme('light')")
        light = page.run("return getComputedStyle(document.body).backgroundColor")
        page.run("find('theme').click()")
        assert page.run("return getComputedStyle(document.body).backgroundColor") != light
        assert page.log() == []


@pytest.mark.skipif(missing() is not None, reason=str(missing()))
def test_a_narrow_screen_scrolls_down_only(tmp_path: Path) -> None:
    write(tmp_path / "report.html")
    with browser(500, 900) as page:
        page.open(tmp_path / "report.html")
        assert page.run("return document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.skipif(missing() is not None, reason=str(missing()))
def test_tables_scroll_visibly_on_a_phone(tmp_path: Path) -> None:
    write(tmp_path / "report.html")
    with browser() as page:
        page.resize(390, 844)
        page.open(tmp_path / "report.html")
        assert page.run("return document.documentElement.scrollWidth <= innerWidth")
        table = "const box = find('scores-table').parentElement;"
        assert page.run(f"{table} return box.scrollWidth > box.clientWidth")
        assert page.run(f"{table} return box.nextElementSibling.offsetHeight > 0")  # says that there is more
        first = "find('scores').rows[0].cells"
        assert page.run(f"return {first}[1].getBoundingClientRect().right <= innerWidth")
        page.run(f"{table} box.scrollLeft = 1000")
        assert page.run(f"return {first}[3].getBoundingClientRect().right <= innerWidth")
        assert page.run(f"return {first}[0].getBoundingClientRect().left") >= 0  # names stay
        assert page.run("return [...document.querySelectorAll('.meaning')].every(e => e.offsetHeight > 0)")
        assert (
            page.run("return getComputedStyle(document.querySelector('.meaning')).display") == "block"
        )  # its own lines
        texts = "[...document.querySelectorAll('.measure strong')].flatMap(e => [...e.childNodes]).filter(n => n.data)"
        lines = "{ const r = document.createRange(); r.selectNode(n); return [n.data, r.getClientRects().length] }"
        parts = page.run(f"return {texts}.map(n => {lines})")
        assert ["label_", 1] in parts
        assert all(count == 1 for _, count in parts), "a name breaks behind its underscores alone"
        page.resize(1200, 900)
        assert page.run("hint(); return document.querySelectorAll('.hidden-part').length") == 0


@pytest.mark.skipif(missing() is not None, reason=str(missing()))
def test_the_map_has_its_top_on_top_and_opens_what_is_clicked(tmp_path: Path) -> None:
    """The highest point is marked, found among the pixels, and every shown query is clicked."""
    data, _ = write(tmp_path / "report.html")
    points = np.array(data["map"]["points"])
    with browser() as page:
        page.open(tmp_path / "report.html")
        drawn = "find('map').getContext('2d').getImageData(0, 0, 1520, 1140).data"
        first = page.run(f"const p = {drawn}; for (let i = 3; ; i += 4) if (p[i]) return [(i >> 2) % 1520, i >> 2]")
        left = 40 + points[points[:, 1].argmax(), 0] * 1440
        assert first[0] == pytest.approx(left, abs=6)
        assert first[1] // 1520 < 40
        shown = [number for number, image in enumerate(data["map"]["images"]) if image is not None]
        assert len(shown) >= 12
        for number in shown:
            image = data["map"]["images"][number]
            if not any(query["image"] == image for query in data["queries"]):
                continue
            x, y = points[number]
            opened = page.run(
                "const map = find('map'), box = map.getBoundingClientRect();"
                f"const x = box.left + (40 + {x} * 1440) * box.width / 1520;"
                f"const y = box.top + (40 + {1 - y} * 1060) * box.height / 1140;"
                "map.dispatchEvent(new MouseEvent('click', {clientX: x, clientY: y}));"
                "const title = find('dialog-title').textContent; find('close').click(); return title"
            )
            assert opened == data["images"][image]["name"]


@pytest.mark.skipif(missing() is not None, reason=str(missing()))
def test_images_far_down_are_there_when_the_page_is_printed(tmp_path: Path) -> None:
    write(tmp_path / "report.html", most_queries=30)
    with browser() as page:
        page.resize(200, 200)
        page.open(tmp_path / "report.html")
        assert page.run("return document.images.length") == 30
        assert page.run("return [...document.images].every(image => image.complete && image.naturalWidth > 0)")


def test_no_rules_and_no_script_stand_in_two_pages() -> None:
    """What pages share is in `page.css`, `page.js` and `page_of_data.js` alone."""
    folder = Path(page_parts.__file__).parent
    pages = [*folder.glob("*.html"), *folder.parent.glob("search/*.html")]
    assert len(pages) == 3
    found: dict[tuple[str, str], set[str]] = {}
    for source in (*pages, *(folder / name for name in page_parts.PARTS)):
        text = source.read_text()
        if source in pages:
            text = "\n".join(part for _, part in re.findall(r"<(style|script)>\n(.*?)</\1>", text, re.DOTALL))
        lines = [
            line
            for line in map(str.strip, text.splitlines())
            if len(line) > 8 and not line.startswith(("//", "/*page"))
        ]
        assert len(lines) > 5
        for both in itertools.pairwise(lines):
            found.setdefault(both, set()).add(source.name)
    assert {lines: names for lines, names in found.items() if len(names) > 1} == {}
