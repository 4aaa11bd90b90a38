"""What a search by example leaves behind: a page, a picture, a table of the hits and, where known, their places."""

from __future__ import annotations

import csv
from pathlib import Path

from utilities import geojson
from utilities.search.example import COLUMNS, Search, features, hit_rows, text_table
from utilities.search.picture import draw_search
from utilities.search.search_page import write_search_page

LEFTOVERS = ("hits.geojson",)  # of a search before whose hits had places


def write_search(folder: Path, search: Search) -> str:
    """Fill `folder` with search.html, retrievals.png, hits.csv and, where places are known, hits.geojson.

    Returns the hits as a text table.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "hits.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(hit_rows(search))
    if search.located:
        geojson.write_geojson(folder / "hits.geojson", features(search))
    draw_search(folder / "retrievals.png", search)
    write_search_page(folder / "search.html", search)
    return text_table(search)
