"""report.html: one file without network that lets a person look into an evaluation.

The page is `report.html` beside this module; here its data are gathered. Names reach the page as text only, never as
markup.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from utilities.measures.formulae import LOWER_IS_BETTER, SYMBOLS, UNBOUNDED
from utilities.measures.search_and_measure import Evaluation
from utilities.measures.summaries import Details, LabelTable
from utilities.neighbours.embedding_map import EmbeddingMap
from utilities.neighbours.statistics import NeighbourStatistics, why_rising
from utilities.report.page_parts import Collection, Images, plain, write_page

TEMPLATE = Path(__file__).with_name("report.html")
MOST_NEIGHBOURS = 20  # of a query on the page, each an image within it


def write_report(
    path: Path,
    evaluation: Evaluation,
    queries: Collection,
    *,
    details: Details,
    label_names: Sequence[str],
    title: str,
    about: str,
    show_by: str,
    most_queries: int = 200,
    gallery: Collection | None = None,
    plane: EmbeddingMap | None = None,
) -> None:
    """Write the page, with up to MOST_NEIGHBOURS neighbours of a query.

    show_by is the metric by which queries are sorted first; up to most_queries of them are shown, at even
    steps from the worst to the best. gallery: where the neighbours come from, unless from the queries
    themselves. plane: a map of the queries' embeddings.
    """
    scores = evaluation.scores
    images = Images(queries, gallery or queries)
    shown = [_query(row, evaluation, images) for row in _even_steps(scores.per_query[show_by], most_queries)]
    nearest = min(MOST_NEIGHBOURS, evaluation.neighbours.indices.shape[1])
    data = {
        "title": title,
        "about": about,
        "labels": list(label_names),
        **_scores_table(evaluation, details.intervals),
        "symbols": _symbols(scores.protocol["definitions"].values()),
        "notes": [*scores.protocol["notes"], f"{scores.protocol['self_match']}; ties {scores.protocol['ties']}"],
        **_labels(details.labels, label_names, show_by),
        "neighbours": _neighbours(details.neighbours, evaluation.neighbours.indices.shape[1]),
        "queries": shown,
        "queries_note": f"{len(shown)} of {len(queries.names)} queries, at even steps from the worst to the best by "
        f"{show_by}. Choose labels to filter, click an image to see the {nearest} nearest that it finds. –: left out "
        "by the measure.",
        "sortable": [show_by, *(name for name in scores.per_query if name != show_by)],
        "lower_is_better": list(LOWER_IS_BETTER),
        "images": images.records,
        "map": None if plane is None else _map(plane, queries.labels, images),
    }
    write_page(path, data, TEMPLATE)


def _query(row: int, evaluation: Evaluation, images: Images) -> dict[str, Any]:
    """One query with its scores, and its neighbours as (image, distance)."""
    indices, distances = (found[row, :MOST_NEIGHBOURS].tolist() for found in evaluation.neighbours)
    return {
        "image": images.number(row, query=True),
        "scores": {name: plain(values[row]) for name, values in evaluation.scores.per_query.items()},
        "neighbours": [
            [images.number(other, query=False), round(distance, 4)]
            for other, distance in zip(indices, distances, strict=True)
        ],
    }


def _even_steps(values: Tensor, most: int) -> list[int]:
    """Up to `most` queries at even steps of the order by value; those left out of the metric come first."""
    order = values.nan_to_num(-1.0).argsort(stable=True)
    places = torch.linspace(0, len(order) - 1, min(most, len(order)), dtype=torch.float64).round().long()
    return order[places].tolist()


def _scores_table(evaluation: Evaluation, intervals: Mapping[str, tuple[float, float]]) -> dict[str, Any]:
    """A line a measure, said once for all its K; its scores stand in the columns of these, which are `cuts`.

    Measures of the whole ranking have no K: theirs is the column "all", the last.
    """
    scores = evaluation.scores
    lines: dict[str, dict[str, Any]] = {}
    for name, value in scores.scores.items():
        base, _, cut = name.partition("@")
        meaning = scores.protocol["definitions"][name]
        line = lines.setdefault(
            f"{base}: {meaning}", {"name": base, "meaning": meaning, "bounded": base not in UNBOUNDED, "cells": {}}
        )
        line["cells"][cut or "all"] = {
            "name": name,
            "score": plain(value),
            "low": plain(intervals[name][0]),
            "high": plain(intervals[name][1]),
            "chance": plain(scores.chance[name]),
        }
    cuts = {cut for line in lines.values() for cut in line["cells"]}
    return {"cuts": sorted(cuts, key=lambda cut: (cut == "all", cut.zfill(9))), "measures": list(lines.values())}


def _symbols(definitions: Iterable[str]) -> str:
    """What the symbols mean that occur in the definitions; nothing where none does."""
    text = " ".join(definitions)
    used = [symbol for symbol in SYMBOLS if re.search(rf"(?<!\w){re.escape(symbol)}(?!\w)", text)]
    return "; ".join(f"{symbol}: {SYMBOLS[symbol]}" for symbol in used)


def _labels(table: LabelTable, label_names: Sequence[str], show_by: str) -> dict[str, Any]:
    """The table of labels: its columns as (key, title), its lines, and the means below it."""
    average_precisions: Sequence[str] = ("map", "map_at_r", "map@8")
    means = [name for name in average_precisions if name in table.means][:1]
    means += [show_by] if show_by in table.means else []
    content = table.report(label_names)
    keys = ["precision", "chance", "recall", "recall_chance", *means]
    titles = {"chance": "by chance", "recall_chance": "by chance"}
    lines = [
        {"label": line["label"], "support": line["support"], **{key: plain(line[key]) for key in keys}}
        for line in content["table"]
    ]
    totals = [
        {"label": said, **{key: plain(value) for key, value in content[kind].items()}}
        for kind, said in (("macro", "mean over labels"), ("micro", "mean over queries and their labels"))
    ]
    return {
        "label_columns": [["label", "label"], ["support", "queries"], *([key, titles.get(key, key)] for key in keys)],
        "label_table": lines,
        "label_totals": totals,
        "labels_note": f"Among the {table.nearest} nearest images of the queries that carry a label. Precision: share "
        "of the images that carry it; recall: share of these queries that find it once or more; each beside what a "
        "random order of the gallery gives, the tick on the bar; measures: their mean over these queries. –: no query "
        "carries the label, or none has a value.",
    }


def _neighbours(statistics: NeighbourStatistics, nearest: int) -> dict[str, Any]:
    """The table of neighbours by the number of labels they share with their query."""
    content = statistics.report()
    overlap = content["intra_inter_overlap"]
    said = "" if math.isnan(overlap) else f" Distances with and without a shared label overlap by {overlap:.3f}."
    why = why_rising(content["by_shared_labels"], nearest)
    said += f" {why[0].upper()}{why[1:]}." if why else ""
    return {
        "note": f"All {content['pairs']:,} pairs of a query and one of its {nearest} nearest.{said}",
        "lines": [
            {
                "shared": line["shared_labels"],
                "pairs": line["pairs"],
                "share": plain(line["pairs"] / content["pairs"]),
                "distance": plain(line["mean_distance"]),
                "jaccard": plain(line["mean_jaccard"]),
            }
            for line in content["by_shared_labels"]
        ],
    }


def _map(plane: EmbeddingMap, labels: np.ndarray, images: Images) -> dict[str, Any]:
    """Points scaled into the unit square, with the labels and the image of each."""
    points = plane.points
    low, high = points.amin(0), points.amax(0)
    unit = ((points - low) / (high - low).clamp(min=1e-12)).double()
    return {
        "points": [[round(x, 4), round(y, 4)] for x, y in unit.tolist()],
        "labels": [np.flatnonzero(row).tolist() for row in labels[: len(points)]],
        "images": [images.query_number(row) for row in range(len(points))],
        "note": f"{plane.name} of the embeddings of {len(points)} queries: {plane.about}. Labels chosen above are "
        "highlighted; click near a point to see what the query finds, where it is one of those shown.",
    }
