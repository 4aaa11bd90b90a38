"""comparison.html: one file without network that shows several runs side by side, and what each finds for one query.

The page is `comparison.html` beside this module; here its data are gathered and put in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from utilities.measures.formulae import LOWER_IS_BETTER
from utilities.neighbours.table import read_neighbours
from utilities.report import differences
from utilities.report.compared import Run, notes, shown
from utilities.report.differences import Group, Pair
from utilities.report.page_parts import Collection, Images, plain, write_page

TEMPLATE = Path(__file__).with_name("comparison.html")
MOST_QUERIES = 48
MOST_FOUND = 3000  # images below all queries together
NEAREST = 8  # of a query in a run


class Pictured(NamedTuple):
    """What there is to see: images of the queries and of the gallery, and by the name of each run the folder of its
    evaluation, with the neighbours that it found."""

    queries: Collection
    gallery: Collection
    label_names: Sequence[str]
    results: Mapping[str, Path]


def write_comparison_page(
    path: Path,
    runs: Sequence[Run],
    groups: Sequence[Group],
    compared: Sequence[Pair],
    pictured: Pictured,
    *,
    title: str,
) -> None:
    """Write the page. A group is shown by what its first run finds; queries are those on which these runs differ most,
    and others at even steps from the hardest to the easiest."""
    measures, apart = shown(runs), notes(runs)
    first = [group.runs[0] for group in groups]
    by = _shown_by(first)
    together = bool(by) and not apart and len({tuple(run.query_names) for run in runs}) == 1
    data: dict[str, Any] = {
        "title": title,
        "notes": apart,
        # of other images there is another level of chance
        "measures": [
            {"name": name, "chance": None if apart else _plain(runs[0].number("chance", name))} for name in measures
        ],
        "runs": [_run(run, measures) for run in runs],
        "flags": [[f"--{flag}", list(values.items())] for flag, values in differences.differing_flags(runs).items()],
        "how": differences.HOW,
        "differences": differences.rows(compared),
        "words": differences.in_words(groups, compared) if compared else [],
        "by": by,
        "lower_is_better": by.split("@")[0] in LOWER_IS_BETTER,
        "labels": list(pictured.label_names),
        "groups": [
            {
                "name": group.name,
                "shown": "" if len(group.runs) == 1 else f"first of {len(group.runs)} seeds: {run.name}",
            }
            for group, run in zip(groups, first, strict=True)
        ],
        "queries": [],
        "images": [],
    }
    if together:
        data |= _queries(first, by, pictured)
    write_page(path, data, TEMPLATE)


def _shown_by(runs: Sequence[Run]) -> str:
    """The measure under each picture: how alike the labels of the nearest are, else the first that all have."""
    common = [name for name in runs[0].per_query if all(name in run.per_query for run in runs)]
    return "label_jaccard@8" if "label_jaccard@8" in common else next(iter(common), "")


def _run(run: Run, measures: Sequence[str]) -> dict[str, Any]:
    scores = [[_plain(value) for value in (run.number("scores", m), *run.interval(m))] for m in measures]
    return {"name": run.name, "method": run.method, "scores": scores}


def _plain(value: float | None) -> float | None:
    return None if value is None else plain(value)


def _queries(runs: Sequence[Run], by: str, pictured: Pictured) -> dict[str, Any]:
    """The queries with what every run finds for them, and the images, each once."""
    values = torch.stack([run.per_query[by] for run in runs])
    tables = [read_neighbours(pictured.results[run.name]) for run in runs]
    places = {name: place for place, name in enumerate(map(str, pictured.gallery.names))}
    own = {name: place for place, name in enumerate(map(str, pictured.queries.names))}
    images = Images(pictured.queries, pictured.gallery)
    queries = []
    for row in chosen(values, min(MOST_QUERIES, max(1, MOST_FOUND // (NEAREST * len(runs))))):
        found = []
        for table in tables:
            depth = len(table["rank"]) // len(runs[0].query_names)
            lines = range(row * depth, row * depth + min(NEAREST, depth))
            found.append(
                [[images.number(places[str(table["image"][i])]), round(float(table["distance"][i]), 4)] for i in lines]
            )
        image = images.number(own[runs[0].query_names[row]], query=True)
        queries.append({"image": image, "values": [plain(value) for value in values[:, row]], "found": found})
    return {"queries": queries, "images": images.records}


def chosen(values: Tensor, most: int) -> list[int]:
    """Up to `most` of Q queries from their values (runs, Q): half of them those on which the runs differ most, the
    others at even steps from the smallest to the largest mean. In the order of the data."""
    known = values.nan_to_num(0)
    apart = (known.amax(0) - known.amin(0)).argsort(descending=True, stable=True)
    order = known.mean(0).argsort(stable=True)
    rest = most - min(most, len(order)) // 2
    steps = torch.linspace(0, len(order) - 1, min(rest, len(order)), dtype=torch.float64).round().long()
    picked = dict.fromkeys([*apart[: most // 2].tolist(), *order[steps].tolist()])
    return sorted(picked)
