"""Evaluate saved runs on one split: scores with chance levels, neighbours as pictures, and a comparison of runs.

    python evaluate_model.py --load_from_checkpoint RUN [RUN ...] --source_path DIR --dataset_type test
    python evaluate_model.py --load_from_checkpoint RUN --dataset_type test --gallery_split train
    python evaluate_model.py --load_from_checkpoint RUN --query image.jpg --top 20

Each run gets `evaluation_results/<initial, best or last>_<split>/` in its folder, or `..._<split>_in_<gallery split>/`:
`scores.json`, the same as text in `evaluate_model.txt`, the neighbours as a table, `retrievals.png`,
`label_scores.png`, `embedding_map.png`, `report.html`, and on val (or with `--is_plot_dist`) `distance_density.png`.

`--query` searches by example instead: images, BigEarthNet patch folders or names of images, of which the nearest in the
split go to `search_results/<network>_<split>/<query>/`: `search.html`, `retrievals.png`, `hits.csv`, and `hits.geojson`
for BigEarthNet. The embeddings of the split stay beside them, so that the next search is a matter of seconds.
"""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

import parameters
from architectures.embedding import EmbeddingNetwork
from datasets.base import SPLITS, RetrievalDataset
from datasets.bigearthnet.footprints import outlines
from datasets.examples import Example, Examples, find_example
from datasets.open import open_files, open_loader, open_split
from utilities import seeding
from utilities.errors import UserError, main_guard
from utilities.files import check_writable
from utilities.flags.settings import Settings
from utilities.measures import evaluation
from utilities.measures.formulae import Relevance
from utilities.neighbours import density, embedding_file
from utilities.neighbours import search as neighbours
from utilities.parallel import distributed
from utilities.report import comparison, results
from utilities.report.page import Collection
from utilities.runs import checkpoint
from utilities.runs import folder as run_folder
from utilities.search import results as search_results
from utilities.search.example import Search, Shown
from utilities.training import engine, precision


def check_runs(folders: Sequence[Path], args: Settings) -> None:
    """Raise UserError before hours of work where one of the folders is no run, has no checkpoint or comes twice, and
    where results cannot be written."""
    name = checkpoint_name(args)
    for number, folder in enumerate(folders):
        run_folder.read_args(folder)
        if not checkpoint.present(folder, name):
            raise UserError(f"{folder} has no {name} yet; train on with --load_from_checkpoint {folder}")
        if folder.resolve() in [other.resolve() for other in folders[:number]]:
            raise UserError(f"--load_from_checkpoint names {folder} twice; give each run once")
        check_writable(folder / ("search_results" if args.query else "evaluation_results"), "results in")
    if len(folders) > 1 and not args.query:
        check_writable(comparison_folder(folders, args), "--comparison_path")


def checkpoint_name(args: Settings) -> str:
    return checkpoint.LAST if args.checkpoint == "last" or args.is_evaluate_initial else checkpoint.BEST


def load_network(folder: Path, run: Settings, args: Settings) -> tuple[EmbeddingNetwork, dict[str, Any]]:
    """The network of best.pt or last.pt, or as it was before training, and the description of its data."""
    payload = checkpoint.load(folder, checkpoint_name(args))
    assert payload is not None  # `check_runs` has looked
    if args.is_evaluate_initial:
        seeding.seed_initialisation(run.random_seed)
        return EmbeddingNetwork(**payload["network_description"], weights=run.weights), payload["data"]
    network = EmbeddingNetwork(**payload["network_description"])
    state = payload.get("network")
    if state is None:  # last.pt holds the whole method
        prefix = "network."
        state = {k.removeprefix(prefix): v for k, v in payload["method"].items() if k.startswith(prefix)}
    network.load_state_dict(state)
    return network, payload["data"]


def check_data(dataset: RetrievalDataset, data: dict[str, Any], folder: Path) -> None:
    """The images must be of the kind that the network was trained on, label for label and band for band."""
    for key, now in (("label_names", list(dataset.label_names)), ("bands", list(dataset.bands))):
        if list(data[key]) != now:
            differing = sorted(set(data[key]) ^ set(now)) or "their order"
            raise UserError(f"{folder} was trained with other {key.replace('_', ' ')} than this data has: {differing}")


def embed(
    network: EmbeddingNetwork, run: Settings, dataset: RetrievalDataset, device: torch.device
) -> tuple[Tensor, Tensor]:
    """(M, D) embeddings and (M,) rows; rows are missing where broken images were skipped."""
    layout = torch.channels_last if run.channels_last else torch.contiguous_format
    network.to(device).to(memory_format=layout).eval()
    loader = open_loader(run, dataset, device)
    batches = loader.evaluation(np.arange(len(dataset)), run.eval_batch_size)
    bar = tqdm(
        batches, f"embedding {dataset.split}", -(-len(dataset) // run.eval_batch_size), disable=None, leave=False
    )
    with precision.autocast(run.precision, device):
        return evaluation.embed_split(network.embed, bar, len(dataset))


def embed_once(
    path: Path, network: EmbeddingNetwork, run: Settings, dataset: RetrievalDataset, device: torch.device, refresh: bool
) -> tuple[Tensor, Tensor]:
    """As `embed`, from `path` where an earlier search left there what the same network made of the same files."""
    flags = ("image_size", "resize_to", "per_image_normalisation", "channels_last")
    facts = {name: run[name] for name in flags} | {
        "fingerprint": dataset.fingerprint(),
        "bands": list(dataset.bands),
        "precision": precision.resolve(run.precision, device),
        "device": device.type,
        "files": dataset.state(placed=True),
        "skip_broken_images": dataset.skip_broken,
    }
    key = embedding_file.digest(network, dataset.names, facts)
    kept = None if refresh or distributed.world_size() > 1 else embedding_file.load(path, key)
    if kept is not None and not any(map(dataset.readable, set(range(len(dataset))) - set(kept[1].tolist()))):
        print(f"note: embeddings of {embedding_file.date(path)} are used; --refresh embeds the images anew", flush=True)
        return kept
    embedded = embed(network, run, dataset, device)
    if distributed.is_main():
        embedding_file.save(path, key, *embedded)
    return embedded


class Embedded(NamedTuple):
    """A split, and the embeddings (M, D) of its rows (M,)."""

    dataset: RetrievalDataset
    embeddings: Tensor
    rows: Tensor

    @property
    def labels(self) -> Tensor:
        return torch.from_numpy(self.dataset.labels)[self.rows]

    def images(self) -> Collection:
        names, labels = self.dataset.names[self.rows], self.dataset.labels[self.rows]
        return Collection(names, labels, lambda row: self.dataset.thumbnail(int(self.rows[row]), 192))


def evaluate_run(folder: Path, args: Settings, device: torch.device) -> dict[str, Any]:
    """Evaluate one run and write its results; returns the content of scores.json."""
    run = parameters.of_run(folder, args)
    datasets = [open_split(run, split) for split in (args.dataset_type, args.gallery_split) if split]
    network, data = load_network(folder, run, args)
    for dataset in datasets:
        check_data(dataset, data, folder)
    start = time.perf_counter()
    queries, *others = [Embedded(dataset, *embed(network, run, dataset, device)) for dataset in datasets]
    seconds = {"embed": time.perf_counter() - start}
    gallery = others[0] if others else None
    searched = None if gallery is None else (gallery.embeddings, gallery.labels)
    with progress_bar(len(queries.rows), args.eval_metric) as bar:
        result = evaluation.evaluate(
            queries.embeddings,
            queries.labels,
            metrics=list(dict.fromkeys([*args.eval_metric, results.SHOWN_BY])),
            ks=parameters.KS,
            relevance=Relevance(args.relevance, args.relevance_threshold),
            backend=args.backend,
            gallery=searched,
            device=device,
            progress=bar.update,
        )
    content = result.report()
    content["protocol"] |= {
        **description(folder, run, args, device),
        **sides(queries, gallery),
        "seconds": seconds | result.seconds,
    }
    content["protocol"]["notes"] += [note for dataset in datasets for note in other_data(dataset, data)]
    densities = None
    if args.dataset_type == "val" or args.is_plot_dist:
        densities = density.distance_densities(queries.embeddings, queries.labels, gallery=searched, device=device)
    if distributed.is_main():
        where = split_name(args)
        target = folder / "evaluation_results" / f"{network_name(args)}_{where.replace(' ', '_')}"
        replaced = results.replaced(target, content)
        text = results.write_results(
            target,
            result,
            content,
            queries.images(),
            queries.embeddings,
            gallery=None if gallery is None else gallery.images(),
            label_names=queries.dataset.label_names,
            title=f"{folder.name} on {run.dataset}, {where}, {network_name(args)} network",
            pictured_queries=args.retrieval_queries,
            densities=densities,
            map_method=args.map_method,
        )
        print(f"{text}saved in {target}{replaced}\n")
    return content


def progress_bar(queries: int, metrics: Sequence[str]) -> tqdm:
    """Over this process's share of the queries, twice where the whole ranking is measured; none without a terminal."""
    passes = 1 + any("@" not in name for name in metrics)
    total = passes * queries // distributed.world_size()
    return tqdm(desc="searching", total=total, disable=None, leave=False)


def other_data(dataset: RetrievalDataset, data: dict[str, Any]) -> list[str]:
    """A note where a split that training saw is not the one that it saw."""
    seen = data.get(f"{dataset.split}_fingerprint", now := dataset.fingerprint())
    return [] if seen == now else [f"{dataset.split} holds other images or labels than when this run was trained"]


def description(folder: Path, run: Settings, args: Settings, device: torch.device) -> dict[str, Any]:
    """What was evaluated, for the protocol."""
    return {
        "run": str(folder),
        "network": network_name(args),
        "split": args.dataset_type,
        "gallery_split": args.gallery_split or args.dataset_type,
        "dataset": run.dataset,
        "image_size": run.image_size,
        "precision": precision.resolve(run.precision, device),
    }


def sides(queries: Embedded, gallery: Embedded | None) -> dict[str, Any]:
    """Which images were compared, for the protocol."""
    found: dict[str, Any] = {
        "fingerprint": queries.dataset.fingerprint(),
        "label_names": list(queries.dataset.label_names),
        "skipped_images": len(queries.dataset) - len(queries.rows),
    }
    if gallery is not None:
        found["gallery_fingerprint"] = gallery.dataset.fingerprint()
        found["skipped_images"] += len(gallery.dataset) - len(gallery.rows)
    return found


def split_name(args: Settings) -> str:
    """ "test", or "test in train" where another split is searched."""
    return args.dataset_type + (f" in {args.gallery_split}" if args.gallery_split else "")


def comparison_folder(folders: Sequence[Path], args: Settings) -> Path:
    what = f"{network_name(args)}_{split_name(args).replace(' ', '_')}"
    return Path(args.comparison_path or comparison.place(folders) / f"comparison_{what}")


def compare(folders: Sequence[Path], contents: Sequence[dict[str, Any]], args: Settings) -> None:
    """Print the table of several runs, and save it and its figure."""
    target = comparison_folder(folders, args)
    title = f"{len(folders)} runs, {split_name(args)}, {network_name(args)} network"
    runs = comparison.describe(folders, contents, parameters.INCIDENTAL)
    print(comparison.write_comparison(target, runs, title=title))
    print(f"saved in {target}")


def search_run(folder: Path, args: Settings, device: torch.device) -> None:
    """Find what lies nearest to each --query in the split that is searched, write it down and print it."""
    run = parameters.of_run(folder, args)
    split = args.gallery_split or args.dataset_type
    dataset = open_split(run, split)
    network, data = load_network(folder, run, args)
    check_data(dataset, data, folder)
    others = functools.cache(lambda: [open_files(run, other) for other in SPLITS if other != split])
    examples = [find_example(given, dataset, others) for given in args.query]
    asked = Examples(examples, dataset)
    embeddings, _ = embed(network, Settings({**run, "num_workers": 0}), asked, device)  # before the long work
    target = folder / "search_results" / f"{network_name(args)}_{split}"
    gallery = Embedded(dataset, *embed_once(target / "embeddings.npz", network, run, dataset, device, args.refresh))
    if not distributed.is_main():
        return
    used: set[str] = set()
    for number, example in enumerate(examples):
        found = nearest(example, embeddings[number], gallery, args, device)
        search = describe_search(number, example, asked, found, gallery, args.top)
        search = search._replace(about=f"{search.about}; {folder.name}, {network_name(args)} network")
        numbered = (f"{example.stem}-{count}" for count in itertools.count(2))
        name = next(name for name in itertools.chain([example.stem], numbered) if name not in used)
        used.add(name)
        replaced = ", in place of an earlier search" if (target / name).exists() else ""
        print(search_results.write_search(target / name, search))
        print(f"saved in {target / name}{replaced}\n")


def nearest(
    example: Example, embedding: Tensor, gallery: Embedded, args: Settings, device: torch.device
) -> neighbours.Neighbours:
    """Rows of the gallery's embeddings nearest to an example (D,), itself left out where it is one of them."""
    own = None
    if example.dataset is gallery.dataset:
        own = (gallery.rows == example.row).nonzero().flatten()
        embedding = gallery.embeddings[own[0]]  # to the last bit what an evaluation searches for
    found = neighbours.search(
        embedding[None].to(device), gallery.embeddings.to(device), args.top, query_rows=own, backend=args.backend
    )
    return neighbours.Neighbours(found.indices[0].cpu(), found.distances[0].cpu())


def describe_search(
    number: int, example: Example, asked: Examples, found: neighbours.Neighbours, gallery: Embedded, top: int
) -> Search:
    """The search as people see it: images, labels, places and what there is to say about it."""
    dataset, rows = gallery.dataset, gallery.rows[found.indices].tolist()
    places, notes = outlines(dataset, rows)
    (own_place,), own_notes = outlines(asked.sources[number][0], [asked.sources[number][1]])
    hits = [
        Shown(str(dataset.names[row]), dataset.thumbnail(row, 192), dataset.labels[row], place)
        for row, place in zip(rows, places, strict=True)
    ]
    said = [f"the query is an image of the {example.dataset.split} split"] if example.dataset else []
    if example.dataset is dataset:
        said = [f"{said[0]}; it is left out of the hits by its index"]
    if top > len(rows):
        said.append(f"--top {top} is more than there are: all {len(rows)} images are shown")
    if skipped := len(dataset) - len(gallery.rows):
        said.append(f"{skipped} unreadable images were left out")
    return Search(
        Shown(example.name, asked.thumbnail(number, 320), example.labels, own_place),
        hits,
        found.distances.tolist(),
        dataset.label_names,
        title=f"Nearest to {example.name}",
        about=f"{len(rows)} of {len(gallery.rows):,} images of {type(dataset).__name__}, {dataset.split} split; "
        "Euclidean distance of unit embeddings",
        notes=[*said, *dict.fromkeys([*own_notes, *notes])],
    )


def network_name(args: Settings) -> str:
    return "initial" if args.is_evaluate_initial else args.checkpoint


@main_guard
def main(argv: Sequence[str] | None = None) -> None:
    args = parameters.start_evaluation(argv)
    folders = [Path(folder) for folder in args.load_from_checkpoint]
    check_runs(folders, args)
    with engine.session(args) as device:
        if args.query:
            for folder in folders:
                search_run(folder, args, device)
            return
        contents = [evaluate_run(folder, args, device) for folder in folders]
        if len(folders) > 1 and distributed.is_main():
            compare(folders, contents, args)


if __name__ == "__main__":
    main()
