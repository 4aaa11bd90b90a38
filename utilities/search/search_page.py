"""search.html: one file without network that shows an example and what was found for it.

The page is `search_page.html` beside this module; here its parts are written as markup, with every name escaped and
images as JPEG data addresses. It reads without scripts; with them, hits can be picked by label.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np

from utilities.report.page_parts import data_address, whole
from utilities.search.example import Search, Shown, agreement, label_counts, spelled

WITHOUT_LABELS = "These images carry no labels: hits are ranked by distance alone."
TEMPLATE = Path(__file__).with_name("search_page.html")
_QUERY_SIDE, _HIT_SIDE = 320, 192


def write_search_page(path: Path, search: Search) -> None:
    """Write the page to `path`."""
    parts = {
        "TITLE": escape(search.title),
        "ABOUT": escape(search.about),
        "NOTES": "".join(f'<p class="note">{escape(note)}</p>' for note in search.notes),
        "LEGEND": _legend(known=search.query.labels is not None) if search.label_names else WITHOUT_LABELS,
        "QUERY": _query(search),
        "HIDDEN": "" if search.label_names else " hidden",
        "COUNTS": _counts(search),
        "HITS": "\n".join(_hit(search, place) for place in range(len(search.hits))),
    }
    page = whole(TEMPLATE)
    for name, markup in parts.items():
        page = page.replace(f"<!--{name}-->", markup)
    path.write_text(page, encoding="utf-8")


def _legend(*, known: bool) -> str:
    if not known:
        return "The labels of the query are not known; those below the hits are the archive's."
    return (
        '<span class="shared">✓ shared with the query</span> <span class="extra">+ not in the query</span> '
        '<span class="missing">– missing</span> <span>bar: Jaccard similarity of the labels</span>'
    )


def _query(search: Search) -> str:
    query = search.query
    if not search.label_names:
        labels = ""
    elif query.labels is None:
        labels = '<p class="muted">labels not known</p>'
    else:
        labels = _list([("", "", name) for name in spelled(query.labels, search.label_names)])
    return f"{_framed(query)}<p><strong>{_breakable(query.name)}</strong></p>{_place(query)}{labels}"


def _hit(search: Search, place: int) -> str:
    hit = search.hits[place]
    compared = agreement(search.query, hit)
    if hit.labels is None:
        bar, labels = "", ""
    elif compared is None:
        bar, labels = "", _list([("", "", name) for name in spelled(hit.labels, search.label_names)])
    else:
        bar = f'<div class="jaccard"><b style="width:{100 * compared.jaccard:.0f}%"></b></div>'
        kinds = (
            ("shared", "✓ ", compared.shared),
            ("extra", "+ ", compared.extra),
            ("missing", "– ", compared.missing),
        )
        labels = _list([(kind, mark, name) for kind, mark, mask in kinds for name in spelled(mask, search.label_names)])
    carried = "" if hit.labels is None else " ".join(map(str, np.flatnonzero(hit.labels).tolist()))
    return (
        f'<li class="hit" data-labels="{carried}"><p class="head"><strong>{place + 1}</strong>'
        f"<span>distance {search.distances[place]:.3f}</span></p>{_image(hit, _HIT_SIDE)}{bar}"
        f'<p class="name">{_breakable(hit.name)}</p>{_place(hit)}{labels}</li>'
    )


def _counts(search: Search) -> str:
    """Bars of how many hits carry a label; those of the query are ticked. Each is a button that picks its hits."""
    counts, number = label_counts(search), {name: label for label, name in enumerate(search.label_names)}
    asked = set(spelled(search.query.labels, search.label_names))
    rows = [
        f'<li><button type="button" aria-pressed="false" data-label="{number[name]}">'
        f'<span class="{"shared" if name in asked else ""}">{"✓ " if name in asked else ""}{escape(name)}</span>'
        f'<span class="count">{count}</span><i style="width:{100 * count / len(search.hits):.1f}%"></i></button></li>'
        for name, count in counts
    ]
    return "".join(rows) or '<li class="muted">none</li>'


def _breakable(name: str) -> str:
    """A name whose lines may break behind its underscores."""
    return escape(name).replace("_", "_<wbr>")


def _image(image: Shown, side: int) -> str:
    return f'<img class="image" src="{data_address(image.pixels, side)}" alt="{escape(image.name)}">'


def _framed(query: Shown) -> str:
    """The whole query as it was given, and a frame around the part that the network looked at."""
    picture = f'<div class="query" style="aspect-ratio:{query.aspect:.4f}">{_image(query, _QUERY_SIDE)}'
    if query.looked_at >= 1:
        return f"{picture}</div>"
    return (
        f'{picture}<i style="inset:{50 * (1 - query.looked_at):.2f}%"></i></div>'
        '<p class="muted">framed: what the network looked at</p>'
    )


def _place(image: Shown) -> str:
    if image.outline is None:
        return ""
    longitude, latitude = np.mean(image.outline[:-1], axis=0).tolist()
    north, east = "N" if latitude >= 0 else "S", "E" if longitude >= 0 else "W"
    return f'<p class="place">{abs(latitude):.4f}° {north}, {abs(longitude):.4f}° {east}</p>'


def _list(lines: Sequence[tuple[str, str, str]]) -> str:
    """Labels as a list, each (class, mark, name)."""
    if not lines:
        return '<p class="muted">no label</p>'
    return (
        '<ul class="labels">'
        + "".join(f"<li{kind and f' class={kind}'}>{mark}{escape(name)}</li>" for kind, mark, name in lines)
        + "</ul>"
    )
