"""Evaluate saved runs on one split: scores with chance levels, neighbours as pictures, and a comparison of runs.

    python evaluate_model.py --load_from_checkpoint RUN [RUN ...] --source_path DIR --dataset_type test
    python evaluate_model.py --load_from_checkpoint RUN --dataset_type test --gallery_split train
    python evaluate_model.py --load_from_checkpoint RUN --protocol grn
    python evaluate_model.py --load_from_checkpoint RUN --query image.jpg --top 20
    python evaluate_model.py --load_from_checkpoint RUN --export onnx DIR

Each run gets `evaluation_results/<initial, best or last>_<split>/` in its folder, or `..._<split>_in_<gallery split>/`:
`scores.json`, the same as text in `evaluate_model.txt`, the neighbours as a table, `query_scores.npz` (each measure of
each query), `retrievals.png`, `label_scores.png`, `embedding_map.png`, `report.html`, on val (or with
`--is_plot_dist`) `distance_density.png`, and with `--retrieval_files N` a picture each of N queries in `retrievals/`.

Several runs end with a comparison: their scores, the flags in which they differ, and paired differences of methods
(runs of one recipe over seeds are taken together), of which it says which are larger than chance.

`--protocol` measures as a publication does, to the letter (docs/protocols.md).

`--query` searches by example instead: images, BigEarthNet patch folders or names of images, of which the nearest in the
split go to `search_results/<network>_<split>/<query>/`: `search.html`, `retrievals.png`, `hits.csv`, and `hits.geojson`
for BigEarthNet and GeoTIFFs. The embeddings of the split stay beside them, so that the next search takes seconds.

`--export` writes the network (safetensors, torch_export, onnx) or the embeddings of the split (geoparquet, faiss) with
a model card for other tools.

Flags, which `--help all` and docs/flags.md explain:

    run and data    --load_from_checkpoint  --source_path  --cache_path  --dataset_type  --gallery_split  --checkpoint
                    --is_evaluate_initial  --skip_broken_images  --ben_splits  --ben_index_path
    other archives  --dataset  --folder_labels_csv  --folder_bands  --folder_band_scale  --folder_proportions
                    --folder_seed
    scores          --eval_metric  --relevance  --relevance_threshold  --protocol  --scores_only  --comparison_path
    pictures        --retrieval_queries  --retrieval_files  --map_method  --is_plot_dist
    search          --query  --top  --refresh  --query_bands  --boa_offset
    codes           --codes  --code_bits  --code_seed
    other tools     --export
    machine         --device  --precision  --backend  --threads  --eval_batch_size  --num_workers
"""

from __future__ import annotations

from utilities.flags import early  # noqa: F401 - first: answers --help in a moment

# isort: split

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import parameters
from architectures import saved
from architectures.embedding import EmbeddingNetwork
from datasets.base import ALL, SPLITS, RetrievalDataset
from datasets.batches.raw_input import raw_input
from datasets.examples import Examples, find_example
from datasets.open import open_files, open_loader, open_split, stored_feed
from datasets.query_files import Reading
from utilities.batch import Feed
from utilities.errors import main_guard
from utilities.evaluation import places
from utilities.evaluation.checks import check_data, check_runs, named_runs
from utilities.evaluation.embedded import embed, embed_once
from utilities.evaluation.scores import fit_coder, score, write
from utilities.export import formats
from utilities.export.subject import read_subject
from utilities.files import filling
from utilities.flags.settings import Settings
from utilities.neighbours import coders
from utilities.parallel import distributed
from utilities.report import compared, comparison
from utilities.report.compared import Run
from utilities.report.comparison_page import Pictured
from utilities.report.page_parts import Collection
from utilities.runs import folder as run_folder
from utilities.search.nearest import search_each
from utilities.training import engine


def load_network(folder: Path, run: Settings, args: Settings) -> tuple[EmbeddingNetwork, dict[str, Any]]:
    """The network of best.pt or last.pt, or as it was before training, and the description of its data."""
    if args.is_evaluate_initial:
        found = saved.untrained_network(folder, run)
    else:
        found = saved.read_network(folder, places.checkpoint_name(args))
    if args.get("codes"):
        coders.check(args.codes, args.code_bits, found[0].dimensions)  # before anything is embedded
    return found


def evaluate_run(folder: Path, args: Settings, device: torch.device) -> dict[str, Any]:
    """Evaluate one run and write its results; returns the content of scores.json."""
    run = parameters.of_run(folder, args)
    datasets = [open_split(run, split) for split in (args.dataset_type, args.gallery_split) if split]
    network, data = load_network(folder, run, args)
    for dataset in datasets:
        check_data(dataset, data, folder, args)
    feeds = open_feeds(network, datasets, folder, run, args, device)
    scored = score(network, feeds, run, args, device, ks=parameters.KS)
    return write(folder, scored, data, run, args)


def open_feeds(
    network: EmbeddingNetwork,
    datasets: Sequence[RetrievalDataset],
    folder: Path,
    run: Settings,
    args: Settings,
    device: torch.device,
) -> list[Feed]:
    """The images of each split; of a run that trained heads on stored features, the features of its backbone."""
    loaders = [open_loader(run, dataset, device) for dataset in datasets]
    if args.is_evaluate_initial or not run.get("stored_views"):
        return list(loaders)
    layout = torch.channels_last if run.channels_last else torch.contiguous_format
    network.to(device).to(memory_format=layout).eval()
    return [stored_feed(loader, network, run, run_folder.save_path(folder), views=0) for loader in loaders]


def compare(folders: Sequence[Path], contents: Sequence[dict[str, Any]], args: Settings) -> None:
    """Print the table of several runs, and save it and its figure."""
    target = places.comparison_folder(folders, args)
    data = ", ".join(dict.fromkeys(content["protocol"]["dataset"] for content in contents))
    title = f"{len(folders)} runs on {data}, {places.split_name(args)}, {places.network_name(args)} network"
    kept = [places.results_folder(folder, args) for folder in folders]
    runs = compared.describe(folders, contents, parameters.INCIDENTAL, kept)
    seen = None if args.scores_only else pictured(folders[0], args, runs, kept)
    with filling(target, comparison.LEFTOVERS) as fresh:
        text = comparison.write_comparison(fresh, runs, title=title, pictured=seen)
    print(text)
    print(f"saved in {target}")


def pictured(folder: Path, args: Settings, runs: Sequence[Run], results: Sequence[Path]) -> Pictured:
    """The images that all runs were asked, as `folder` reads them, and where each run's answers lie."""
    run = parameters.of_run(folder, args)
    opened = [open_split(run, split) for split in dict.fromkeys([args.dataset_type, args.gallery_split]) if split]
    queries, *others = [Collection(d.names, d.labels, functools.partial(d.thumbnail, side=192)) for d in opened]
    folders = {each.name: where for each, where in zip(runs, results, strict=True)}
    return Pictured(queries, others[0] if others else queries, opened[0].label_names, folders)


def search_run(folder: Path, args: Settings, device: torch.device) -> None:
    """Find what lies nearest to each --query in the split that is searched, write it down and print it."""
    run = parameters.of_run(folder, args)
    split = places.searched_split(args)
    dataset = open_split(run, split)
    network, data = load_network(folder, run, args)
    check_data(dataset, data, folder, args)
    unsearched = [other for other in SPLITS if split not in (ALL, other)]
    others = functools.cache(lambda: [open_files(run, other) for other in unsearched])
    examples = [find_example(given, dataset, others) for given in args.query]
    reading = Reading(args.boa_offset, args.query_bands)
    at_once = open_loader(Settings({**run, "num_workers": 0}), Examples(examples, dataset, reading), device)
    asked = embed(network, at_once, run, device)  # what is wrong with them shows before the long work
    kept = places.kept_embeddings(folder, args)
    gallery = embed_once(kept, network, open_loader(run, dataset, device), run, device, refresh=args.refresh)
    coder = fit_coder(args, gallery)
    asked, gallery = asked.coded(coder), gallery.coded(coder)
    if distributed.is_main():
        target, name = places.search_folder(folder, args), run_folder.placed(folder).name
        by = f"{name}, {places.what_searches(args, coder)}"
        notes = coders.notes(coder, gallery.codes) if coder and gallery.codes else []
        options = {"top": args.top, "network": by, "backend": args.backend, "device": device}
        seen = run.image_size / run.resize_to
        search_each(examples, asked, gallery, target, looked_at=seen, notes=notes, **options)


def export_run(folder: Path, args: Settings, device: torch.device) -> None:
    """Write the network, or the embeddings of the split, in the format of --export into its folder."""
    form, target = args.export[0], Path(args.export[1])
    evaluated = parameters.of_run(folder, args)
    run = Settings({**evaluated, "precision": args.precision or "fp32"})  # in which graphs compute
    network, data = load_network(folder, run, args)
    command = parameters.command_of(run_folder.read_args(folder))
    which = places.network_name(args)
    subject = read_subject(folder, places.checkpoint_name(args), which, network, data, command)
    if form == "safetensors":
        formats.export_tensors(target, subject)
        return
    dataset = open_split(run, args.dataset_type)
    check_data(dataset, data, folder, args)
    if form in formats.TABLES:
        embedded = embed(network, open_loader(run, dataset, device), run, device)
        if distributed.is_main():
            formats.export_rows(form, target, subject, embedded, archive=args.dataset)
    elif distributed.is_main():
        feed = open_loader(Settings({**run, "num_workers": 0}), dataset, torch.device("cpu"))
        formats.export_graph(form, target, subject, *raw_input(feed, formats.CHECKED))


@main_guard
def main(argv: Sequence[str] | None = None) -> None:
    args = parameters.start_evaluation(argv)
    folders = named_runs(args.load_from_checkpoint)
    check_runs(folders, args)
    with engine.session(args) as device:
        if args.export:
            export_run(folders[0], args, device)
        elif args.query:
            for folder in folders:
                search_run(folder, args, device)
        else:
            contents = [evaluate_run(folder, args, device) for folder in folders]
            if len(folders) > 1 and distributed.is_main():
                compare(folders, contents, args)


if __name__ == "__main__":
    main()
