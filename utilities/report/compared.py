"""The runs of a comparison: what each scored, how long it trained, and what forbids to compare them."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from torch import Tensor

from utilities.report.query_scores import read_query_scores
from utilities.runs import folder as run_folder
from utilities.runs.logger import read_metrics

SHOWN = ("recall@1", "r_precision@8", "map@8", "label_jaccard@8")


class Run(NamedTuple):
    """One evaluated run.

    content            what its scores.json holds: scores, intervals, chance, protocol
    images_per_second  of training, None where the network was not trained
    minutes            of training, None likewise
    recipe             flags that decide scores, as JSON: equal for runs that differ in their seed, which is `seed`
    query_names        of the queries, and the value of each measure for each of them, `per_query` (Q,); empty where the
                       evaluation kept none
    """

    name: str
    method: str
    content: dict[str, Any]
    images_per_second: float | None
    minutes: float | None
    recipe: str = ""
    seed: int = 0
    query_names: Sequence[str] = ()
    per_query: Mapping[str, Tensor] = MappingProxyType({})

    def number(self, part: str, measure: str) -> float | None:
        """A score or chance level; None where no query could be scored."""
        value = self.content[part].get(measure)
        return None if value is None or value != value else float(value)

    def interval(self, measure: str) -> tuple[float | None, float | None]:
        low, high = self.content["interval"][measure]
        return (None, None) if low is None or low != low else (float(low), float(high))


def common_parent(folders: Sequence[Path]) -> Path:
    """The deepest folder in which all run folders lie."""
    return Path(os.path.commonpath([folder.resolve().parent for folder in folders]))


def place(folders: Sequence[Path]) -> Path:
    """Where a comparison is saved: beside runs that lie in one folder, else in the current one."""
    parents = {folder.resolve().parent for folder in folders}
    return parents.pop() if len(parents) == 1 else Path()


def describe(
    folders: Sequence[Path],
    contents: Sequence[dict[str, Any]],
    incidental: Collection[str],
    results: Sequence[Path] | None = None,
) -> list[Run]:
    """The runs, named by their place under the common parent, with how fast and how long they trained.

    incidental  flags that decide nothing about scores
    results     folders of their evaluations, which keep the values of each query
    """
    parent = common_parent(folders)
    runs = []
    for folder, content in zip(folders, contents, strict=True):
        untrained = content["protocol"]["network"] == "initial"
        trained = [] if untrained else [record for record in read_metrics(folder) if record["split"] == "train"]
        seconds = sum(record["seconds"] for record in trained)
        images = sum(record["seconds"] * record["images_per_second"] for record in trained)
        name = str(folder.resolve().relative_to(parent))
        args = run_folder.read_args(folder)
        kept = {key: value for key, value in args.items() if key not in incidental and key != "random_seed"}
        recipe = json.dumps(kept, sort_keys=True)
        speed, minutes = (images / seconds, seconds / 60) if seconds else (None, None)
        runs.append(Run(name, args["method"], content, speed, minutes, recipe, args.get("random_seed", 0)))
    if results is not None:
        runs = [Run(*run[:7], *read_query_scores(where)) for run, where in zip(runs, results, strict=True)]
    return runs


def notes(runs: Sequence[Run]) -> list[str]:
    """What forbids to compare the scores: other images or labels."""
    keys = ("fingerprint", "gallery_fingerprint")
    data = {tuple(run.content["protocol"].get(key) for key in keys) for run in runs}
    if len(data) == 1:
        return []
    sets = ", ".join(f"{run.name}: {run.content['protocol']['dataset']}" for run in runs)
    return [f"these runs were evaluated on different images or labels ({sets}); their scores do not compare"]


def shown(runs: Sequence[Run]) -> list[str]:
    """The measures of the table and the figure: the usual ones, else the first that all runs have."""
    common = [name for name in runs[0].content["scores"] if all(name in run.content["scores"] for run in runs)]
    return [name for name in SHOWN if name in common] or common[:4]


def table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:]])
