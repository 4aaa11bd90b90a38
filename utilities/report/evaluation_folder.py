"""What an evaluation leaves behind: scores as JSON and text, neighbours as a table, pictures and the HTML report."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from utilities.errors import UserError
from utilities.files import json_safe, read_json, write_json
from utilities.measures import protocols
from utilities.measures.search_and_measure import Evaluation
from utilities.measures.summaries import Details, bootstrap_intervals, label_table
from utilities.neighbours.density import Densities
from utilities.neighbours.embedding_map import EmbeddingMap, embedding_map
from utilities.neighbours.statistics import neighbour_statistics, why_rising
from utilities.neighbours.table import write_neighbours
from utilities.report import figures
from utilities.report.density_figure import distance_density
from utilities.report.page_parts import Collection
from utilities.report.query_scores import write_query_scores
from utilities.report.report_page import write_report
from utilities.report.retrievals import Retrieval, retrievals

SHOWN = 8  # neighbours in retrievals.png
SHOWN_BY = "label_jaccard@8"  # what queries are ordered by in the pictures
SEED = 0
PICTURES = ("retrievals.png", "label_scores.png", "distance_density.png", "embedding_map.png", "report.html")
FILES = "retrievals"  # a folder with a picture a query
# Of an evaluation before: not each writes them all.
LEFTOVERS = (*PICTURES, FILES, "neighbours.parquet", "neighbours.npz")


def write_results(
    folder: Path,
    evaluation: Evaluation,
    content: dict[str, Any],
    images: Collection,
    embeddings: Tensor,
    *,
    gallery: Collection | None,
    label_names: Sequence[str],
    title: str,
    pictured_queries: int,
    query_files: int,
    densities: Densities | None,
    map_method: str,
    pictures: bool = True,
) -> str:
    """Fill `folder`; content is what scores.json will hold, to which `_details` are added. Returns the text.

    pictured_queries, query_files   how many queries retrievals.png holds, and how many have a file each in retrievals/
    pictures  False: neither pictures nor the page.
    images and embeddings (M, D) are those of the queries; gallery: what was searched, where that is not the same.
    """
    searched = images if gallery is None else gallery
    started = time.perf_counter()
    codes = content["protocol"].get("codes")
    details = _details(folder, evaluation, images, searched, farthest=codes["bits"] if codes else 2.0)
    content["interval"] = {name: list(bounds) for name, bounds in details.intervals.items()}
    content["labels"] = details.labels.report(label_names)
    content["neighbours"] = details.neighbours.report()
    content["protocol"]["seconds"]["summaries"] = round(time.perf_counter() - started, 4)
    write_json(folder / "scores.json", json_safe(content))
    text = summary(title, content)
    (folder / "evaluate_model.txt").write_text(text, encoding="utf-8")
    if not pictures:
        return text
    _draw_retrievals(folder, evaluation, images, searched, label_names, title, pictured_queries, query_files)
    figures.label_bars(folder / "label_scores.png", details.labels, label_names, title=f"{title}: labels found again")
    if densities is not None:
        distance_density(folder / "distance_density.png", densities, title=f"{title}: distances")
    plane = _draw_map(folder, embeddings, images, label_names, title, map_method)
    write_report(
        folder / "report.html",
        evaluation,
        images,
        details=details,
        gallery=gallery,
        label_names=label_names,
        title=title,
        about=_about(content["protocol"]),
        show_by=SHOWN_BY,
        plane=plane,
    )
    return text


def _draw_map(
    folder: Path, embeddings: Tensor, images: Collection, label_names: Sequence[str], title: str, method: str
) -> EmbeddingMap | None:
    """embedding_map.png, and what it shows; None where there are too few images for a map."""
    if len(embeddings) <= 2:
        return None
    plane = embedding_map(embeddings, method=method, seed=SEED)
    figures.embedding_map(
        folder / "embedding_map.png",
        plane.points.numpy(),
        images.labels,
        label_names,
        title=f"{title}: {plane.name} of the embeddings",
        about=plane.about,
    )
    return plane


def _draw_retrievals(
    folder: Path,
    evaluation: Evaluation,
    images: Collection,
    searched: Collection,
    label_names: Sequence[str],
    title: str,
    pictured_queries: int,
    query_files: int,
) -> None:
    """retrievals.png, and a file each of some queries in retrievals/."""
    drawn = functools.partial(
        retrievals,
        thumbnail=images.thumbnail,
        labels=images.labels,
        gallery_thumbnail=searched.thumbnail,
        gallery_labels=searched.labels,
        label_names=label_names,
    )
    if pictured_queries:
        said = f"{title}: queries by the mean Jaccard similarity of what they find"
        drawn(folder / "retrievals.png", chosen_queries(evaluation, pictured_queries), title=said)
    for place, line in enumerate(chosen_queries(evaluation, query_files), start=1):
        name = str(images.names[line.query])
        drawn(folder / FILES / f"{place:0{len(str(query_files))}}_{_stem(name)}.png", [line], title=f"{title}: {name}")


def replaced(folder: Path, content: dict[str, Any]) -> str:
    """What to say when the scores that lie in `folder` went by another relevance or other measures; else ""."""
    if not (folder / "scores.json").exists():
        return ""
    try:
        before = read_json(folder / "scores.json")
        was, now = ((c["protocol"]["relevance"], *c["scores"]) for c in (before, content))
    except (UserError, KeyError, TypeError):
        return " (replaces a scores.json that could not be read)"
    if set(was) == set(now):
        return ""
    return f" (replaces an evaluation of {', '.join(was[1:])} under relevance {was[0]})"


def _details(
    folder: Path, evaluation: Evaluation, images: Collection, searched: Collection, *, farthest: float
) -> Details:
    """What stands beside the scores; the table of neighbours is written for it, and the values of the queries.

    farthest: the largest distance that there can be.
    """
    labels, gallery_labels = torch.from_numpy(images.labels), torch.from_numpy(searched.labels)
    write_neighbours(
        folder,
        evaluation.neighbours,
        query_names=images.names,
        gallery_names=searched.names,
        query_labels=labels,
        gallery_labels=gallery_labels,
    )
    per_query = evaluation.scores.per_query
    write_query_scores(folder, images.names, per_query)
    return Details(
        intervals=bootstrap_intervals(per_query, seed=SEED),
        labels=label_table(
            evaluation.neighbours.indices,
            labels,
            gallery_labels,
            per_query=per_query,
            inside=torch.from_numpy(np.isin(images.names, searched.names)),
        ),
        neighbours=neighbour_statistics(folder, labels=labels.shape[1], farthest=farthest),
    )


def summary(title: str, content: dict[str, Any]) -> str:
    """The scores with intervals and chance levels as a text table, and the rules they were measured under."""
    protocol = content["protocol"]
    lines = [title, _about(protocol), "", f"{'measure':<20}{'score':>8}{'95 % interval':>18}{'chance':>9}"]
    for name, score in content["scores"].items():
        low, high = content["interval"][name]
        lines.append(f"{name:<20}{score:>8.4f}{f'{low:.4f} {high:.4f}':>18}{content['chance'][name]:>9.4f}")
    if "published" in content:
        lines += ["", *protocols.lines(content["published"])]
    lines += ["", *_neighbour_lines(content), *(f"note: {note}" for note in protocol["notes"])]
    lines.append(f"{protocol['self_match']}; ties {protocol['ties']}")
    if protocol["skipped_images"]:
        lines.append(f"note: {protocol['skipped_images']} unreadable images were left out")
    return "\n".join(lines).rstrip() + "\n"


def _neighbour_lines(content: dict[str, Any]) -> list[str]:
    """The table of neighbours by the number of labels they share with their query."""
    lines_of = content["neighbours"]["by_shared_labels"]
    nearest = content["neighbours"]["pairs"] // content["protocol"]["queries"]
    lines = [f"among the {nearest} nearest of each query", ""]
    lines += [f"{'labels shared':<20}{'pairs':>12}{'mean distance':>16}{'mean Jaccard':>15}"]
    for line in lines_of:
        lines.append(
            f"{line['shared_labels']:<20}{line['pairs']:>12,}{line['mean_distance']:>16.4f}{line['mean_jaccard']:>15.4f}"
        )
    why = why_rising(lines_of, nearest)
    return [*lines, *([f"note: {why}"] if why else []), ""]


def _about(protocol: dict[str, Any]) -> str:
    inside, split = protocol["query_in_gallery"], protocol["gallery_split"]
    against = f"the {protocol['gallery']} images of {split}"
    if inside == protocol["queries"]:
        against = f"the {protocol['gallery'] - 1} other images" + (f" of {split}" if split != protocol["split"] else "")
    elif inside:
        against += f" without itself ({inside} queries are among them)"
    return f"{protocol['queries']} queries, each against {against}; relevance {protocol['relevance']}"


def chosen_queries(evaluation: Evaluation, most: int) -> list[Retrieval]:
    """Up to `most` at even steps from the best to the worst by the mean Jaccard similarity of what they find."""
    values = evaluation.scores.per_query[SHOWN_BY].nan_to_num(-1.0)
    ranked = values.argsort(descending=True, stable=True)
    last = len(ranked) - 1
    places = torch.linspace(0, last, min(most, len(ranked)), dtype=torch.float64).round().long().unique()
    found = []
    for place in places.tolist():
        query = int(ranked[place])
        heading = "best" if place == 0 else "worst" if place == last else f"top {100 * place / last:.0f} %"
        found.append(
            Retrieval(
                query,
                evaluation.neighbours.indices[query, :SHOWN].tolist(),
                evaluation.neighbours.distances[query, :SHOWN].tolist(),
                heading=heading,
                note=f"{values[query]:.2f}",
            )
        )
    return found


def _stem(name: str) -> str:
    """Of a picture of an image: its name without slashes, and without the suffix of a file."""
    stem, _, suffix = name.replace("/", "_").rpartition(".")
    return stem if stem and suffix.isalpha() and len(suffix) <= 4 else name.replace("/", "_")
