"""Evaluate saved runs on one split: scores with chance levels, neighbours as pictures, and a comparison of runs.

    python evaluate_model.py --load_from_checkpoint RUN [RUN ...] --source_path DIR --dataset_type test
    python evaluate_model.py --load_from_checkpoint RUN --dataset_type test --gallery_split train

Each run gets `evaluation_results/<initial, best or last>_<split>/` in its folder, or `..._<split>_in_<gallery split>/`:
`scores.json`, the same as text in `evaluate_model.txt`, the neighbours as a table, `retrievals.png`, `report.html`, and
on val (or with `--is_plot_dist`) `distance_density.png`.
"""

from __future__ import annotations

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
from datasets.base import RetrievalDataset
from datasets.open import open_loader, open_split
from utilities import checkpoint, comparison, density, distributed, engine, evaluation, precision, results, seeding
from utilities.errors import UserError, main_guard
from utilities.metrics import Relevance
from utilities.report import Collection
from utilities.settings import Settings


def load_network(folder: Path, run: Settings, args: Settings) -> tuple[EmbeddingNetwork, dict[str, Any]]:
    """The network of best.pt or last.pt, or as it was before training, and the description of its data."""
    name = checkpoint.LAST if args.checkpoint == "last" or args.is_evaluate_initial else checkpoint.BEST
    payload = checkpoint.load(folder, name)
    if payload is None:
        raise UserError(f"{folder} has no {name} yet; train on with --load_from_checkpoint {folder}")
    if args.is_evaluate_initial:
        seeding.seed_everything(run.random_seed, "initialisation")
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
    network.to(device, memory_format=torch.channels_last if run.channels_last else torch.contiguous_format).eval()
    loader = open_loader(run, dataset, device)
    batches = loader.evaluation(np.arange(len(dataset)), run.eval_batch_size)
    bar = tqdm(
        batches, f"embedding {dataset.split}", -(-len(dataset) // run.eval_batch_size), disable=None, leave=False
    )
    with precision.autocast(run.precision, device):
        return evaluation.embed_split(network.embed, bar, len(dataset))


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
    result = evaluation.evaluate(
        queries.embeddings,
        queries.labels,
        metrics=list(dict.fromkeys([*args.eval_metric, results.SHOWN_BY])),
        ks=parameters.KS,
        relevance=Relevance(args.relevance, args.relevance_threshold),
        backend=args.backend,
        gallery=searched,
        device=device,
    )
    content = result.report()
    content["protocol"] |= {
        **description(folder, run, args, device),
        **sides(queries, gallery),
        "seconds": seconds | result.seconds,
    }
    densities = None
    if args.dataset_type == "val" or args.is_plot_dist:
        densities = density.distance_densities(queries.embeddings, queries.labels, gallery=searched, device=device)
    if distributed.is_main():
        where = split_name(args)
        text = results.write_results(
            folder / "evaluation_results" / f"{network_name(args)}_{where.replace(' ', '_')}",
            result,
            content,
            queries.images(),
            queries.embeddings,
            gallery=None if gallery is None else gallery.images(),
            label_names=queries.dataset.label_names,
            title=f"{folder.name} on {run.dataset}, {where}, {network_name(args)} network",
            pictured_queries=args.retrieval_queries,
            densities=densities,
        )
        print(text)
    return content


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
    found = {
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


def network_name(args: Settings) -> str:
    return "initial" if args.is_evaluate_initial else args.checkpoint


@main_guard
def main(argv: Sequence[str] | None = None) -> None:
    args = parameters.parse_evaluation(argv)
    folders = [Path(folder) for folder in args.load_from_checkpoint]
    with engine.session(args) as device:
        contents = [evaluate_run(folder, args, device) for folder in folders]
        if len(folders) > 1 and distributed.is_main():
            print(comparison.comparison(folders, contents))


if __name__ == "__main__":
    main()
