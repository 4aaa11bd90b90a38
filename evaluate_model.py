"""Evaluate saved runs on one split: scores with chance levels, neighbours as pictures, and a comparison of runs.

    python evaluate_model.py --load_from_checkpoint RUN [RUN ...] --source_path DIR --dataset_type test

Each run gets `evaluation_results/<initial, best or last>_<split>/` in its folder: `scores.json`, the same as text in
`evaluate_model.txt`, the neighbours as a table, `retrievals.png`, `report.html`, and on val (or with `--is_plot_dist`)
`distance_density.png`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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


def evaluate_run(folder: Path, args: Settings, device: torch.device) -> dict[str, Any]:
    """Evaluate one run and write its results; returns the content of scores.json."""
    run = parameters.of_run(folder, args)
    dataset = open_split(run, args.dataset_type)
    network, data = load_network(folder, run, args)
    check_data(dataset, data, folder)
    start = time.perf_counter()
    embeddings, rows = embed(network, run, dataset, device)
    seconds = {"embed": time.perf_counter() - start}
    labels = torch.from_numpy(dataset.labels)[rows]
    result = evaluation.evaluate(
        embeddings,
        labels,
        metrics=list(dict.fromkeys([*args.eval_metric, results.SHOWN_BY])),
        ks=parameters.KS,
        relevance=Relevance(args.relevance, args.relevance_threshold),
        backend=args.backend,
        device=device,
    )
    content = result.report()
    content["protocol"] |= {
        "run": str(folder),
        "network": network_name(args),
        "split": args.dataset_type,
        "dataset": run.dataset,
        "fingerprint": dataset.fingerprint(),
        "label_names": list(dataset.label_names),
        "image_size": run.image_size,
        "precision": precision.resolve(run.precision, device),
        "skipped_images": len(dataset) - len(rows),
        "seconds": seconds | result.seconds,
    }
    densities = None
    if args.dataset_type == "val" or args.is_plot_dist:
        densities = density.distance_densities(embeddings, labels, device=device)
    if distributed.is_main():
        text = results.write_results(
            folder / "evaluation_results" / f"{network_name(args)}_{args.dataset_type}",
            result,
            content,
            Collection(dataset.names[rows], dataset.labels[rows], lambda row: dataset.thumbnail(int(rows[row]), 192)),
            embeddings,
            label_names=dataset.label_names,
            title=f"{folder.name} on {run.dataset}, {args.dataset_type}, {network_name(args)} network",
            pictured_queries=args.retrieval_queries,
            densities=densities,
        )
        print(text)
    return content


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
