"""Evaluate saved runs on one split: scores with chance levels, neighbours as pictures, and a comparison of runs.

    python evaluate_model.py --load_from_checkpoint RUN [RUN ...] --source_path DIR --dataset_type test

Each run gets `evaluation_results/<initial, best or last>_<split>/` in its folder: `scores.json`, the same as text in
`evaluate_model.txt`, `retrievals.png`, and on val (or with `--is_plot_dist`) `distance_density.png`.
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
from utilities import checkpoint, density, distributed, engine, evaluation, figures, precision, run_folder, seeding
from utilities.errors import UserError, main_guard
from utilities.metrics import Relevance
from utilities.retrieval_picture import Retrieval, retrievals
from utilities.settings import Settings

SHOWN = 8  # neighbours in retrievals.png
SHOWN_BY = "label_jaccard@8"  # what its queries are ordered by


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
        metrics=list(dict.fromkeys([*args.eval_metric, SHOWN_BY])),
        ks=parameters.KS,
        relevance=Relevance(args.relevance, args.relevance_threshold),
        backend=args.backend,
        device=device,
    )
    content = result.report()
    content["protocol"] |= {
        "run": folder.name,
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
    if distributed.is_main():
        target = folder / "evaluation_results" / f"{network_name(args)}_{args.dataset_type}"
        target.mkdir(parents=True, exist_ok=True)
        run_folder.write_json(target / "scores.json", run_folder.json_safe(content))
        text = summary(folder, content)
        (target / "evaluate_model.txt").write_text(text)
        print(text)
        draw_retrievals(target, result, dataset, rows, args.retrieval_queries)
    if args.dataset_type == "val" or args.is_plot_dist:
        densities = density.distance_densities(embeddings, labels, device=device)
        if distributed.is_main():
            title = f"{dataset.title.split(' (')[0]}, {args.dataset_type}: distances between images"
            figures.distance_density(target / "distance_density.png", densities, title=title)
    return content


def network_name(args: Settings) -> str:
    return "initial" if args.is_evaluate_initial else args.checkpoint


def summary(folder: Path, content: dict[str, Any]) -> str:
    """The scores with their chance levels as a text table, and under which rules they were measured."""
    protocol = content["protocol"]
    lines = [
        f"{folder}: {protocol['network']} network on the {protocol['split']} split of {protocol['dataset']}",
        f"{protocol['queries']} queries, each against the {protocol['gallery'] - 1} other images; "
        f"{protocol['self_match']}; ties {protocol['ties']}",
        "",
        f"{'measure':<20}{'score':>8}{'chance':>8}",
    ]
    lines += [f"{name:<20}{score:>8.4f}{content['chance'][name]:>8.4f}" for name, score in content["scores"].items()]
    lines += ["", *(f"note: {note}" for note in protocol["notes"])]
    if protocol["skipped_images"]:
        lines.append(f"note: {protocol['skipped_images']} unreadable images were left out")
    return "\n".join(lines).rstrip() + "\n"


def draw_retrievals(
    target: Path, result: evaluation.Evaluation, dataset: RetrievalDataset, rows: Tensor, queries: int
) -> None:
    """retrievals.png: queries at even steps from the best to the worst by the mean Jaccard of their neighbours."""
    values = result.scores.per_query[SHOWN_BY].nan_to_num(-1.0)
    ranked = values.argsort(descending=True, stable=True)
    places = torch.linspace(0, len(ranked) - 1, min(queries, len(ranked))).round().long()
    found = []
    for place in places.tolist():
        query = int(ranked[place])
        share = 1 - place / max(1, len(ranked) - 1)
        found.append(
            Retrieval(
                query,
                result.neighbours.indices[query, :SHOWN].tolist(),
                result.neighbours.distances[query, :SHOWN].tolist(),
                heading={1.0: "best", 0.0: "worst"}.get(share, f"{100 * share:.0f} % rank"),
                note=f"Jaccard {values[query]:.2f}",
            )
        )
    retrievals(
        target / "retrievals.png",
        found,
        thumbnail=lambda row: dataset.thumbnail(int(rows[row]), 192),
        labels=dataset.labels[rows.numpy()],
        label_names=dataset.label_names,
        title=f"{dataset.title.split(' (')[0]}, {dataset.split}: queries from the best to the worst",
    )


def comparison(folders: Sequence[Path], contents: Sequence[dict[str, Any]]) -> str:
    """One line a run, one column a measure."""
    names = [n for n in ("recall@1", "r_precision@8", "map@8", "label_jaccard@8") if n in contents[0]["scores"]]
    names = names or list(contents[0]["scores"])[:6]
    width = max(len(folder.name) for folder in folders) + 2
    lines = [f"{'run':<{width}}" + "".join(f"{name:>17}" for name in names)]
    for folder, content in zip(folders, contents, strict=True):
        lines.append(f"{folder.name:<{width}}" + "".join(f"{content['scores'][name]:>17.4f}" for name in names))
    return "\n".join(lines)


@main_guard
def main(argv: Sequence[str] | None = None) -> None:
    args = parameters.parse_evaluation(argv)
    folders = [Path(folder) for folder in args.load_from_checkpoint]
    with engine.session(args) as device:
        contents = [evaluate_run(folder, args, device) for folder in folders]
        if len(folders) > 1 and distributed.is_main():
            print(comparison(folders, contents))


if __name__ == "__main__":
    main()
