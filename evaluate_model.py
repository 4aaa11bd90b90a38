"""Evaluate saved runs on one split: scores with chance levels, neighbours as pictures, and a comparison of runs.

    python evaluate_model.py --load_from_checkpoint RUN [RUN ...] --source_path DIR --dataset_type test
    python evaluate_model.py --load_from_checkpoint RUN --dataset_type test --gallery_split train
    python evaluate_model.py --load_from_checkpoint RUN --protocol grn
    python evaluate_model.py --load_from_checkpoint RUN --query image.jpg --top 20
    python evaluate_model.py --load_from_checkpoint RUN --export onnx DIR

Each run gets `evaluation_results/<initial, best or last>_<split>/` in its folder, or `..._<split>_in_<gallery split>/`:
`scores.json`, the same as text in `evaluate_model.txt`, the neighbours as a table, `query_scores.npz` (each measure of
each query), `retrievals.png`, `label_scores.png`, `embedding_map.png`, `report.html`, and on val (or with
`--is_plot_dist`) `distance_density.png`.

Several runs end with a comparison: their scores, the flags in which they differ, and paired differences of methods
(runs of one recipe over seeds are taken together), of which it says which are larger than chance.

`--protocol` measures as a publication does, to the letter (docs/protocols.md).

`--query` searches by example instead: images, BigEarthNet patch folders or names of images, of which the nearest in the
split go to `search_results/<network>_<split>/<query>/`: `search.html`, `retrievals.png`, `hits.csv`, and `hits.geojson`
for BigEarthNet. The embeddings of the split stay beside them, so that the next search is a matter of seconds.

`--export` writes the network (safetensors, torch_export, onnx) or the embeddings of the split (geoparquet, faiss) with
a model card for other tools.
"""

from __future__ import annotations

from utilities.flags import early  # noqa: F401 - first: answers --help in a moment

# isort: split

import functools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

import parameters
from architectures import saved
from architectures.embedding import EmbeddingNetwork
from datasets.base import ALL, SPLITS, RetrievalDataset
from datasets.batches.raw_input import raw_input
from datasets.examples import Examples, find_example
from datasets.open import open_files, open_loader, open_split, stored_feed
from datasets.query_files import Reading
from utilities.errors import UserError, main_guard
from utilities.export import run as exports
from utilities.export.subject import check_folder, read_subject
from utilities.files import check_writable, filling
from utilities.flags.settings import Settings
from utilities.inference.embedding import describe
from utilities.measures import evaluation, protocols
from utilities.measures.formulae import Relevance
from utilities.neighbours import coders, density
from utilities.neighbours.coders import Coder
from utilities.parallel import distributed
from utilities.report import compared, comparison, results
from utilities.report.compared import Run
from utilities.report.comparison_page import Pictured
from utilities.report.page import Collection
from utilities.runs import checkpoint
from utilities.runs import folder as run_folder
from utilities.search.gallery import Embedded, embed, embed_once, sides
from utilities.search.run import search_each
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
        if not args.export:
            check_writable(folder / ("search_results" if args.query else "evaluation_results"), "results in")
    if args.export:
        check_export(folders, args)
    elif len(folders) > 1 and not args.query:
        check_writable(comparison_folder(folders, args), "--comparison_path")


def check_export(folders: Sequence[Path], args: Settings) -> None:
    """Raise UserError where --export names no format, or a folder that cannot take it, or more than one run."""
    exports.check_format(args.export)
    if len(folders) > 1 or args.query:
        other = "--query" if args.query else f"{len(folders)} runs in --load_from_checkpoint"
        raise UserError(f"--export writes one network into one folder, and cannot go with {other}; give one run alone")
    check_folder(Path(args.export[1]))


def checkpoint_name(args: Settings) -> str:
    return checkpoint.LAST if args.checkpoint == "last" or args.is_evaluate_initial else checkpoint.BEST


def load_network(folder: Path, run: Settings, args: Settings) -> tuple[EmbeddingNetwork, dict[str, Any]]:
    """The network of best.pt or last.pt, or as it was before training, and the description of its data."""
    if args.is_evaluate_initial:
        found = saved.untrained_network(folder, run)
    else:
        found = saved.read_network(folder, checkpoint_name(args))
    if args.get("codes"):
        coders.check(args.codes, args.code_bits, found[0].dimensions)  # before anything is embedded
    return found


def check_data(dataset: RetrievalDataset, data: dict[str, Any], folder: Path, args: Settings) -> None:
    """The images must be of the kind that the network was trained on, label for label and band for band.

    Of another archive (--dataset) as many bands are asked for, which are normalised as the run's own.
    """
    if not (dataset.label_names or args.query or args.get("export")):
        raise UserError(
            f"the images of {dataset.source_path} carry no labels, which every measure compares: give their table with "
            "--labels_csv, or search them with --query"
        )
    if args.dataset:
        if len(dataset.bands) != len(data["bands"]):
            had = " ".join(data["bands"])
            raise UserError(f"{folder} was trained on {had}, and --bands names {' '.join(dataset.bands)}; give as many")
        dataset.mean, dataset.std = tuple(data["mean"]), tuple(data["std"])
        return
    for key, now in (("label_names", list(dataset.label_names)), ("bands", list(dataset.bands))):
        if list(data[key]) != now:
            differing = sorted(set(data[key]) ^ set(now)) or "their order"
            raise UserError(f"{folder} was trained with other {key.replace('_', ' ')} than this data has: {differing}")


def evaluate_run(folder: Path, args: Settings, device: torch.device) -> dict[str, Any]:
    """Evaluate one run and write its results; returns the content of scores.json."""
    run = parameters.of_run(folder, args)
    datasets = [open_split(run, split) for split in (args.dataset_type, args.gallery_split) if split]
    network, data = load_network(folder, run, args)
    for dataset in datasets:
        check_data(dataset, data, folder, args)
    start = time.perf_counter()
    largest = max(map(len, datasets))
    feeds = open_feeds(network, datasets, folder, run, args, device)
    queries, *others = [embed(network, feed, run, device, largest=largest) for feed in feeds]
    seconds = {"embed": time.perf_counter() - start}
    coder = fit_coder(args, others[0] if others else queries)
    queries, gallery = queries.coded(coder), others[0].coded(coder) if others else None
    with progress_bar(len(queries.rows), args.eval_metric) as bar:
        result = evaluation.evaluate(
            queries.searched,
            queries.labels,
            metrics=list(dict.fromkeys([*args.eval_metric, results.SHOWN_BY])),
            ks=parameters.KS,
            relevance=Relevance(args.relevance, args.relevance_threshold),
            backend=args.backend,
            gallery=None if gallery is None else (gallery.searched, gallery.labels),
            device=device,
            progress=bar.update,
        )
    content = result.report()
    content["protocol"] |= {
        **description(folder, run, args, precision.resolve(run.precision, device, network), coder),
        **(describe(queries.way) if queries.way else {}),
        **sides(queries, gallery),
        "seconds": seconds | result.seconds,
    }
    if args.protocol:
        carried = queries.labels if gallery is None else gallery.labels
        content["published"] = protocols.measured(args.protocol, result.neighbours, queries.labels, carried)
    content["protocol"]["notes"] += [note for dataset in datasets for note in other_data(dataset, data)]
    densities = None
    if coder is None and (args.dataset_type == "val" or args.is_plot_dist):
        others_searched = None if gallery is None else (gallery.embeddings, gallery.labels)
        densities = density.distance_densities(
            queries.embeddings, queries.labels, gallery=others_searched, device=device
        )
    if distributed.is_main():
        target = results_folder(folder, args)
        replaced = results.replaced(target, content)
        with filling(target, results.LEFTOVERS) as fresh:
            text = results.write_results(
                fresh,
                result,
                content,
                queries.images(),
                queries.embeddings,
                gallery=None if gallery is None else gallery.images(),
                label_names=queries.dataset.label_names,
                title=f"{folder.name} on {run.dataset}, {split_name(args)}, {what_searches(args, coder)}",
                pictured_queries=args.retrieval_queries,
                densities=densities,
                map_method=args.map_method,
                pictures=not args.scores_only,
            )
        print(f"{text}saved in {target}{replaced}\n")
    return content


def open_feeds(
    network: EmbeddingNetwork,
    datasets: Sequence[RetrievalDataset],
    folder: Path,
    run: Settings,
    args: Settings,
    device: torch.device,
) -> list[Any]:
    """The images of each split; of a run that trained heads on stored features, the features of its backbone."""
    loaders = [open_loader(run, dataset, device) for dataset in datasets]
    if args.is_evaluate_initial or not run.get("stored_views"):
        return loaders
    layout = torch.channels_last if run.channels_last else torch.contiguous_format
    network.to(device).to(memory_format=layout).eval()
    return [stored_feed(loader, network, run, folder.parent.parent, views=0) for loader in loaders]


def progress_bar(queries: int, metrics: Sequence[str]) -> tqdm:
    """Over this process's share of the queries, twice where the whole ranking is measured; none without a terminal."""
    passes = 1 + any("@" not in name for name in metrics)
    total = passes * queries // distributed.world_size()
    return tqdm(desc="searching", total=total, disable=None, leave=False)


def other_data(dataset: RetrievalDataset, data: dict[str, Any]) -> list[str]:
    """A note where a split that training saw is not the one that it saw."""
    seen = data.get(f"{dataset.split}_fingerprint", now := dataset.fingerprint())
    return [] if seen == now else [f"{dataset.split} holds other images or labels than when this run was trained"]


def description(folder: Path, run: Settings, args: Settings, number_format: str, coder: Coder | None) -> dict[str, Any]:
    """What was evaluated, for the protocol."""
    return {
        "run": str(folder),
        "network": network_name(args),
        "split": args.dataset_type,
        "gallery_split": args.gallery_split or args.dataset_type,
        "dataset": run.dataset,
        "image_size": run.image_size,
        "precision": number_format,
        "codes": coder and {"kind": coder.kind, "bits": coder.bits, "seed": args.code_seed},
    }


def split_name(args: Settings) -> str:
    """ "test", or "test in train" where another split is searched."""
    return args.dataset_type + (f" in {args.gallery_split}" if args.gallery_split else "")


def results_name(args: Settings, split: str) -> str:
    """Of the folder of results: "best_test_in_train", "best_test_itq64" for those of codes."""
    codes = f"_{args.codes}{args.code_bits or ''}" if args.codes else ""
    archive = f"_{args.dataset}" if args.dataset else ""
    return f"{network_name(args)}{archive}_{split.replace(' ', '_')}{codes}"


def pictured(folder: Path, args: Settings, runs: Sequence[Run], results: Sequence[Path]) -> Pictured:
    """The images that all runs were asked, as `folder` reads them, and where each run's answers lie."""
    run = parameters.of_run(folder, args)
    opened = [open_split(run, split) for split in dict.fromkeys([args.dataset_type, args.gallery_split]) if split]
    queries, *others = [Collection(d.names, d.labels, functools.partial(d.thumbnail, side=192)) for d in opened]
    folders = {each.name: where for each, where in zip(runs, results, strict=True)}
    return Pictured(queries, others[0] if others else queries, opened[0].label_names, folders)


def results_folder(folder: Path, args: Settings) -> Path:
    return folder / "evaluation_results" / results_name(args, split_name(args))


def what_searches(args: Settings, coder: Coder | None) -> str:
    """ "best network", or "best network, codes itq, 64 bits"."""
    return f"{network_name(args)} network" + (f", codes {coder}" if coder else "")


def fit_coder(args: Settings, gallery: Embedded) -> Coder | None:
    """What makes --codes of embeddings, learned from those that are searched; None without --codes."""
    return coders.fit(args.codes, args.code_bits, gallery.embeddings, seed=args.code_seed) if args.codes else None


def comparison_folder(folders: Sequence[Path], args: Settings) -> Path:
    default = compared.place(folders) / f"comparison_{results_name(args, split_name(args))}"
    return Path(args.comparison_path or default)


def compare(folders: Sequence[Path], contents: Sequence[dict[str, Any]], args: Settings) -> None:
    """Print the table of several runs, and save it and its figure."""
    target = comparison_folder(folders, args)
    title = f"{len(folders)} runs, {split_name(args)}, {network_name(args)} network"
    kept = [results_folder(folder, args) for folder in folders]
    runs = compared.describe(folders, contents, parameters.INCIDENTAL, kept)
    seen = None if args.scores_only else pictured(folders[0], args, runs, kept)
    with filling(target, comparison.LEFTOVERS) as fresh:
        text = comparison.write_comparison(fresh, runs, title=title, pictured=seen)
    print(text)
    print(f"saved in {target}")


def search_run(folder: Path, args: Settings, device: torch.device) -> None:
    """Find what lies nearest to each --query in the split that is searched, write it down and print it."""
    run = parameters.of_run(folder, args)
    split = args.gallery_split or args.dataset_type
    dataset = open_split(run, split)
    network, data = load_network(folder, run, args)
    check_data(dataset, data, folder, args)
    unsearched = [other for other in SPLITS if split not in (ALL, other)]
    others = functools.cache(lambda: [open_files(run, other) for other in unsearched])
    examples = [find_example(given, dataset, others) for given in args.query]
    reading = Reading(args.boa_offset, args.query_bands)
    at_once = open_loader(Settings({**run, "num_workers": 0}), Examples(examples, dataset, reading), device)
    asked = embed(network, at_once, run, device)  # what is wrong with them shows before the long work
    kept = folder / "search_results" / f"{network_name(args)}_{split}" / "embeddings.npz"
    gallery = embed_once(kept, network, open_loader(run, dataset, device), run, device, refresh=args.refresh)
    coder = fit_coder(args, gallery)
    asked, gallery = asked.coded(coder), gallery.coded(coder)
    if distributed.is_main():
        target, by = (
            folder / "search_results" / results_name(args, split),
            f"{folder.name}, {what_searches(args, coder)}",
        )
        search_each(examples, asked, gallery, target, top=args.top, network=by, backend=args.backend, device=device)


def export_run(folder: Path, args: Settings, device: torch.device) -> None:
    """Write the network, or the embeddings of the split, in the format of --export into its folder."""
    form, target = args.export[0], Path(args.export[1])
    evaluated = parameters.of_run(folder, args)
    run = Settings({**evaluated, "precision": args.precision or "fp32"})  # in which graphs compute
    network, data = load_network(folder, run, args)
    command = parameters.command_of(run_folder.read_args(folder))
    subject = read_subject(folder, checkpoint_name(args), network_name(args), network, data, command)
    if form == "safetensors":
        exports.export_tensors(target, subject)
        return
    dataset = open_split(run, args.dataset_type)
    check_data(dataset, data, folder, args)
    if form in exports.TABLES:
        embedded = embed(network, open_loader(run, dataset, device), run, device)
        if distributed.is_main():
            exports.export_rows(form, target, subject, embedded)
    elif distributed.is_main():
        feed = open_loader(Settings({**run, "num_workers": 0}), dataset, torch.device("cpu"))
        exports.export_graph(form, target, subject, *raw_input(feed, exports.CHECKED))


def network_name(args: Settings) -> str:
    return "initial" if args.is_evaluate_initial else args.checkpoint


@main_guard
def main(argv: Sequence[str] | None = None) -> None:
    args = parameters.start_evaluation(argv)
    folders = [Path(folder) for folder in args.load_from_checkpoint]
    check_runs(folders, args)
    with engine.session(args) as device:
        if args.export:
            export_run(folders[0], args, device)
            return
        if args.query:
            for folder in folders:
                search_run(folder, args, device)
            return
        contents = [evaluate_run(folder, args, device) for folder in folders]
        if len(folders) > 1 and distributed.is_main():
            compare(folders, contents, args)


if __name__ == "__main__":
    main()
