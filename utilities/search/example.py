"""An example, what was found for it, and how the two compare: as rows of a table, as text, as places on a map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from utilities import geojson
from utilities.tensors.labels import jaccard_of_counts

COLUMNS = ("rank", "image", "distance", "labels", "shared_labels", "jaccard")
MOST_ASPECT = 12.0
SEPARATOR = "; "  # between labels, whose names may hold commas


class Shown(NamedTuple):
    """An image as people see it.

    name, pixels (H, W, 3) uint8, labels (L,) bool or None where they are not known, outline on the ground in WGS 84
    or None. Of a query also its size: width and height before the pixels became a square, None where it was one; and
    looked_at: the share of each side, from the middle on, that the network saw.
    """

    name: str
    pixels: np.ndarray
    labels: np.ndarray | None
    outline: geojson.Ring | None = None
    size: tuple[int, int] | None = None
    looked_at: float = 1.0

    @property
    def aspect(self) -> float:
        """Width over height, within what can be shown of a strip."""
        width, height = self.size or (1, 1)
        return float(np.clip(width / height, 1 / MOST_ASPECT, MOST_ASPECT))


class Search(NamedTuple):
    """An example and what was found for it, the nearest first.

    title and about say in words what was searched; notes are what a reader has to know besides.
    """

    query: Shown
    hits: Sequence[Shown]
    distances: Sequence[float]
    label_names: Sequence[str]
    title: str
    about: str
    notes: Sequence[str] = ()

    @property
    def located(self) -> bool:
        """Whether a place is known of any image."""
        return any(image.outline for image in (self.query, *self.hits))


class Agreement(NamedTuple):
    """Labels of a hit beside those of the query, each (L,) bool. `jaccard` is 0 where both carry none."""

    shared: np.ndarray
    extra: np.ndarray
    missing: np.ndarray

    @property
    def jaccard(self) -> float:
        shared, extra, missing = (torch.tensor(int(mask.sum())) for mask in self)
        return jaccard_of_counts(shared, shared + missing, shared + extra).item()


def agreement(query: Shown, hit: Shown) -> Agreement | None:
    """None where the labels of either are not known."""
    if query.labels is None or hit.labels is None:
        return None
    return Agreement(query.labels & hit.labels, hit.labels & ~query.labels, query.labels & ~hit.labels)


def spelled(labels: np.ndarray | None, label_names: Sequence[str]) -> list[str]:
    """Names of the labels carried."""
    return [] if labels is None else [label_names[label] for label in np.flatnonzero(labels).tolist()]


def label_counts(search: Search) -> list[tuple[str, int]]:
    """How many hits carry each label, the most frequent first; labels that none carries are left out."""
    known = [hit.labels for hit in search.hits if hit.labels is not None]
    counts = np.asarray(known, np.int64).reshape(len(known), len(search.label_names)).sum(0)
    order = np.argsort(-counts, kind="stable").tolist()
    return [(search.label_names[label], int(counts[label])) for label in order if counts[label]]


def hit_rows(search: Search) -> list[dict[str, Any]]:
    """One row a hit under COLUMNS; the last two are empty where the labels of the query are not known."""
    rows = []
    for rank, (hit, distance) in enumerate(zip(search.hits, search.distances, strict=True), start=1):
        labels = SEPARATOR.join(spelled(hit.labels, search.label_names))
        compared = agreement(search.query, hit)
        shared, jaccard = ("", "") if compared is None else (
            SEPARATOR.join(spelled(compared.shared, search.label_names)),
            f"{compared.jaccard:.4f}",
        )  # fmt: skip
        rows.append(dict(zip(COLUMNS, (rank, hit.name, f"{distance:.6f}", labels, shared, jaccard), strict=True)))
    return rows


def text_table(search: Search) -> str:
    """The hits for a terminal: rank, distance, how many labels are shared, name, labels (shared ones with a tick)."""
    lines = [search.title, search.about, *(f"note: {note}" for note in search.notes), ""]
    known = search.query.labels is not None
    if known:
        lines.append(f"labels of the query: {_joined(spelled(search.query.labels, search.label_names))}")
    width = max((len(hit.name) for hit in search.hits), default=5)
    shared_column = f"  {'shared':>6}" if known else ""
    lines.append(
        f"{'rank':>4}  {'distance':>8}{shared_column}  {'image':<{width}}{'  labels' if search.label_names else ''}"
    )
    for rank, (hit, distance) in enumerate(zip(search.hits, search.distances, strict=True), start=1):
        compared = agreement(search.query, hit)
        count = "" if compared is None else f"  {int(compared.shared.sum()):>6}"
        names = spelled(hit.labels, search.label_names)
        if compared is not None:
            ticked = set(spelled(compared.shared, search.label_names))
            names = [f"✓{name}" if name in ticked else name for name in names]
        carried = "" if hit.labels is None else _joined(names)
        lines.append(f"{rank:>4}  {distance:>8.4f}{count}  {hit.name:<{width}}  {carried}".rstrip())
    return "\n".join(lines) + "\n"


def _joined(names: Sequence[str]) -> str:
    return SEPARATOR.join(names) or "no label"


def features(search: Search) -> list[dict[str, Any]]:
    """GeoJSON features: the query, then the hits. An image without a known place is an unlocated feature."""
    query = {"role": "query", "rank": 0, "name": search.query.name, "distance": 0.0}
    found = [geojson.feature(search.query.outline, query | _labels(search, search.query))]
    for rank, (hit, distance) in enumerate(zip(search.hits, search.distances, strict=True), start=1):
        about = {"role": "hit", "rank": rank, "name": hit.name, "distance": round(distance, 6)}
        found.append(geojson.feature(hit.outline, about | _labels(search, hit)))
    return found


def _labels(search: Search, image: Shown) -> dict[str, Any]:
    return {"labels": None if image.labels is None else spelled(image.labels, search.label_names)}
