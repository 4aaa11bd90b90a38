"""The results of the study as data: docs/results/*.csv, one line a run, and one line a run of its queries' scores."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from utilities.errors import UserError
from utilities.files import replacing
from utilities.study.plan import ON_VAL, SELECTED_BY

RANKED = (  # every query against all other images of the test split
    "recall@1", "recall@8", "r_precision@8", "map@8", "label_jaccard@8", "ap_found@20", "ndcg",
)  # fmt: skip
MEASURES = (*RANKED, "knn_weighted_f1@10")  # and the one of --protocol grn, the test split against train
PER_QUERY = ("recall@1", "label_jaccard@8")  # what paired tests are made of
COLUMNS = (
    "name", "tier", "row", "trial", "seed", "script", "flags", *(f"val {measure}" for measure in SELECTED_BY),
    *MEASURES, *(f"chance {measure}" for measure in MEASURES), "minutes", "images_per_second", "memory_gb",
    "processor", "threads", "commit", "date",
)  # fmt: skip
TRIALS, RUNS, QUERIES, CURVES, FOUND = "trials.csv", "runs.csv", "queries.csv.gz", "curves.csv", "found.csv"
FOUND_COLUMNS = ("name", "query", "rank", "image", "jaccard")


def read(folder: Path) -> list[dict[str, str]]:
    """All finished runs, trials first."""
    return [line for name in (TRIALS, RUNS) for line in read_csv(folder / name)]


def read_csv(path: Path) -> list[dict[str, str]]:
    """The lines of a table by column; none where there is no file. Raises UserError naming it."""
    if not path.exists():
        return []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read as a table: {error}") from error
    if any(None in line or None in line.values() for line in lines):
        raise UserError(f"{path} has lines with more or fewer cells than its header")
    return lines


def add(
    folder: Path,
    record: Mapping[str, Any],
    curve: Sequence[Mapping[str, Any]] = (),
    queries: Mapping[str, np.ndarray] = MappingProxyType({}),
    found: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Write a run into the tables; one of the same name is replaced. Called by one process alone.

    curve    its scores by epoch
    queries  scores of its queries by measure
    found    the nearest images of some queries
    """
    folder.mkdir(parents=True, exist_ok=True)
    name = record["name"]
    if queries:
        _add_queries(folder, name, queries)
    for file, columns, lines in (
        (CURVES, ("name", "epoch", *SELECTED_BY), curve),
        (FOUND, FOUND_COLUMNS, found),
        (TRIALS if record["tier"] in ON_VAL else RUNS, COLUMNS, [record]),  # last: the run is there now
    ):
        if lines:
            kept = [line for line in read_csv(folder / file) if line["name"] != name]
            added = [{"name": name} | {column: str(line.get(column, "")) for column in columns[1:]} for line in lines]
            _write(folder / file, columns, [*kept, *added])


def _write(path: Path, columns: Sequence[str], lines: Sequence[Mapping[str, Any]]) -> None:
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)


def read_queries(folder: Path) -> dict[tuple[str, str], np.ndarray]:
    """(run, measure) -> (Q,) float64, the value of each query of the test split in the order of names."""
    path = folder / QUERIES
    if not path.exists():
        return {}
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    return {(name, measure): np.array([float(value) for value in values]) for name, measure, *values in rows}


def _add_queries(folder: Path, name: str, values: Mapping[str, np.ndarray]) -> None:
    """Write the scores of a run's queries, to four digits; those of a run of the same name are replaced."""
    kept = {key: scores for key, scores in read_queries(folder).items() if key[0] != name}
    kept |= {(name, measure): scores for measure, scores in values.items()}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for (run, measure), scores in kept.items():
        writer.writerow([run, measure, *(f"{score:.4g}" for score in scores.tolist())])
    with replacing(folder / QUERIES) as temporary, gzip.GzipFile(temporary, "wb", mtime=0) as file:
        file.write(text.getvalue().encode())
