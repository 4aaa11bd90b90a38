"""The scores of one network: splits embedded, searched and measured, and all of it written."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from utilities.batch import Feed
from utilities.evaluation import places
from utilities.evaluation.checks import other_data
from utilities.evaluation.embedded import Embedded, embed, rows_in, sides
from utilities.files import filling
from utilities.flags.settings import Settings
from utilities.inference.way import describe
from utilities.measures import protocols
from utilities.measures.formulae import Relevance
from utilities.measures.search_and_measure import Evaluation, evaluate
from utilities.neighbours import coders, density
from utilities.neighbours.coders import Coder
from utilities.parallel import distributed
from utilities.report import evaluation_folder
from utilities.runs import folder as run_folder
from utilities.training import precision


class Scored(NamedTuple):
    """What one network scored.

    gallery        None where the queries are searched among themselves
    coder          of --codes; None without
    densities      of distances, where they are asked for
    number_format  "bf16" or "fp32", in which images were embedded
    seconds        of each part
    """

    result: Evaluation
    queries: Embedded
    gallery: Embedded | None
    coder: Coder | None
    densities: density.Densities | None
    number_format: str
    seconds: dict[str, float]


def score(
    network: Any, feeds: Sequence[Feed], run: Settings, args: Settings, device: torch.device, *, ks: Sequence[int]
) -> Scored:
    """Embed the queries and, where there is a second feed, the gallery, and measure what the queries find.

    run: settings of the run, args: those of the evaluation. ks: cut-offs of measures that are named without one.
    """
    start = time.perf_counter()
    largest = max(len(feed.dataset) for feed in feeds)
    queries, *others = [embed(network, feed, run, device, largest=largest) for feed in feeds]
    seconds = {"embed": time.perf_counter() - start}
    coder = fit_coder(args, others[0] if others else queries)
    queries, gallery = queries.coded(coder), others[0].coded(coder) if others else None
    own = None if gallery is None else rows_in(gallery, queries)
    with _progress_bar(len(queries.rows), args.eval_metric) as bar:
        result = evaluate(
            queries.searched,
            queries.labels,
            metrics=list(dict.fromkeys([*args.eval_metric, evaluation_folder.SHOWN_BY])),
            ks=ks,
            relevance=Relevance(args.relevance, args.relevance_threshold),
            backend=args.backend,
            gallery=None if gallery is None else (gallery.searched, gallery.labels),
            query_rows=own,
            device=device,
            progress=bar.update,
        )
    densities = None
    if coder is None and not args.scores_only and (args.dataset_type == "val" or args.is_plot_dist):
        searched = None if gallery is None else (gallery.embeddings, gallery.labels)
        densities = density.distance_densities(
            queries.embeddings, queries.labels, gallery=searched, query_rows=own, device=device
        )
    number_format = precision.resolve(run.precision, device, network)
    return Scored(result, queries, gallery, coder, densities, number_format, seconds | result.seconds)


def fit_coder(args: Settings, gallery: Embedded) -> Coder | None:
    """What makes --codes of embeddings, learned from those that are searched; None without --codes."""
    return coders.fit(args.codes, args.code_bits, gallery.embeddings, seed=args.code_seed) if args.codes else None


def _progress_bar(queries: int, metrics: Sequence[str]) -> tqdm:
    """Over this process's share of the queries, twice where the whole ranking is measured; none without a terminal."""
    passes = 1 + any("@" not in name for name in metrics)
    total = passes * queries // distributed.world_size()
    return tqdm(desc="searching", total=total, disable=None, leave=False)


def write(folder: Path, scored: Scored, data: Mapping[str, Any], run: Settings, args: Settings) -> dict[str, Any]:
    """Fill the folder of results of the run in `folder` and print the scores; returns the content of scores.json.

    data: what the run was trained on. Every rank calls this; rank 0 alone writes.
    """
    queries, gallery, coder = scored.queries, scored.gallery, scored.coder
    content = _content(folder, scored, data, run, args)
    if not distributed.is_main():
        return content
    target = places.results_folder(folder, args)
    replaced = evaluation_folder.replaced(target, content)
    name = run_folder.placed(folder).name
    title = f"{name} on {run.dataset}, {places.split_name(args)}, {places.what_searches(args, coder)}"
    with filling(target, evaluation_folder.LEFTOVERS) as fresh:
        text = evaluation_folder.write_results(
            fresh,
            scored.result,
            content,
            queries.images(),
            queries.embeddings,
            gallery=None if gallery is None else gallery.images(),
            label_names=queries.dataset.label_names,
            title=title,
            pictured_queries=args.retrieval_queries,
            query_files=args.retrieval_files,
            densities=scored.densities,
            map_method=args.map_method,
            pictures=not args.scores_only,
        )
    print(f"{text}saved in {target}{replaced}\n")
    return content


def _content(folder: Path, scored: Scored, data: Mapping[str, Any], run: Settings, args: Settings) -> dict[str, Any]:
    """What scores.json holds: scores, their levels of chance, and the protocol by which they were measured."""
    queries, gallery, coder = scored.queries, scored.gallery, scored.coder
    content = scored.result.report()
    content["protocol"] |= {
        "run": str(folder),
        "network": places.network_name(args),
        "split": args.dataset_type,
        "gallery_split": args.gallery_split or args.dataset_type,
        "dataset": run.dataset,
        "other_archive": bool(args.dataset),
        "image_size": run.image_size,
        "precision": scored.number_format,
        "codes": coder and {"kind": coder.kind, "bits": coder.bits, "seed": args.code_seed},
        **(describe(queries.way) if queries.way else {}),
        **sides(queries, gallery),
        "seconds": scored.seconds,
    }
    if args.protocol:
        carried = queries.labels if gallery is None else gallery.labels
        content["published"] = protocols.measured(args.protocol, scored.result.neighbours, queries.labels, carried)
    searched = gallery or queries
    if coder is not None and searched.codes is not None:
        content["protocol"]["notes"] += coders.notes(coder, searched.codes)
    splits = [queries.dataset] if gallery is None else [queries.dataset, gallery.dataset]
    content["protocol"]["notes"] += [note for dataset in splits for note in other_data(dataset, data)]
    return content
