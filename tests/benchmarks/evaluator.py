"""Time and memory of the evaluator beside bare searches, bare sorts, literal loops and pytorch-metric-learning.

    python -m tests.benchmarks.evaluator [--images 20000] [--queries 1024] [--rounds 3] [--device cpu] [--json FILE]

The label matrix is MLRSNet's (`../shared/data`), the 512-d embeddings are synthetic: a random direction a label plus
noise. The two sides of a row take turns in one run, and ratios are formed turn by turn. With --images 109161 the
archive is complete; searches and sorts of `--queries` rows then stand for all rows, whose cost is the same, since both
sides are linear in the number of queries. Loops and pytorch-metric-learning run on as many images as they manage.
"""

from __future__ import annotations

import argparse
import math
import resource
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datasets.mlrsnet.dataset import label_table
from tests.benchmarks.timing import best_faiss_kernels, machine, paired, ratio, show
from utilities.measures.formulae import Metric, Relevance, expand_metrics
from utilities.measures.ranking import whole_ranking_values
from utilities.measures.scoring import facts_for, score, top_k_values
from utilities.neighbours.density import distance_densities
from utilities.neighbours.exact import full_float32
from utilities.neighbours.search import faiss_module, search
from utilities.training.allocator import keep_freed_memory

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "MLRSNet"
KS = (1, 2, 4, 8)
ORIGINAL = expand_metrics(["recall", "r_precision@K", "map@K"], KS)
WHOLE = [Metric(name, None) for name in ("map", "map_at_r", "ndcg", "acg", "wap")]
SHARE = Relevance("share")


def mlrsnet_labels(images: int, draw: torch.Generator) -> Tensor:
    """(N, 60) bool labels of so many images of MLRSNet, in random order; some twice where these are more than it has.

    Where the data set is not at hand, labels are drawn that are as frequent on average.
    """
    if not DATA.is_dir():
        return torch.rand(images, 60, generator=draw) < 0.084
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        labels = torch.from_numpy(label_table(DATA, "repair").labels)
    order = torch.randperm(len(labels), generator=draw)
    return labels[order.repeat(-(-images // len(labels)))[:images]]


def data(images: int) -> tuple[Tensor, Tensor]:
    """(N, 512) unit rows and (N, 60) labels of the first `images` of MLRSNet in a fixed random order."""
    draw = torch.Generator().manual_seed(0)
    labels = mlrsnet_labels(images, draw)
    directions = torch.randn(labels.shape[1], 512, generator=draw)
    rows = torch.randn(len(labels), 512, generator=draw).mul_(1.5).add_(labels.float() @ directions)
    return torch.nn.functional.normalize(rows, dim=1, out=rows), labels


def top_k(rows: Tensor, labels: Tensor, queries: int, rounds: int) -> dict[str, Any]:
    """Search and all original measures against the bare search of the same arrays."""
    own = torch.arange(queries)
    device = rows.device

    def bare() -> None:
        if device.type == "cpu":
            faiss_module().knn(rows[:queries].numpy(), rows.numpy(), max(KS) + 1)
        else:
            for block in rows[:queries].split(4096):
                (block @ rows.T).topk(max(KS) + 1)

    def ours() -> None:
        found = search(rows[:queries], rows, max(KS), query_rows=own.to(device))
        score(found.indices, labels[:queries], labels, metrics=ORIGINAL, relevance=Relevance(), query_rows=own)

    seconds = paired({"ours": ours, "bare": bare}, rounds, warm_up=int(queries < 50_000))
    against = f"faiss.knn, {best_faiss_kernels()}" if device.type == "cpu" else "product and topk"
    return _row("top 8, all original measures", seconds, against, queries, 0.95 if device.type == "cpu" else 1.2)


def densities(rows: Tensor, labels: Tensor, rounds: int) -> dict[str, Any]:
    """Distance densities, of a share of the pairs where there are many, against the distances of all pairs alone."""

    def bare() -> None:
        doubled = rows.double()
        for block in doubled.split(512):
            (2 - 2 * block @ doubled[: len(doubled) // 2].T).clamp_(min=0).sqrt_()  # half: each pair once

    found = distance_densities(rows, labels, device=rows.device)
    seconds = paired({"ours": lambda: distance_densities(rows, labels, device=rows.device), "bare": bare}, rounds, 0)
    row = _row("densities of distances", seconds, "float64 distances of all pairs", len(rows), None)
    return {**row, "target": f"{found.share:.1%} of the pairs, overlap {found.overlap():.4f} ± {found.error:.1g}"}


def literal(rows: Tensor, labels: Tensor, queries: int, rounds: int) -> dict[str, Any]:
    """The three measures, given the neighbours, against loops over samples, ranks and labels."""
    own = torch.arange(queries)
    found = search(rows[:queries].cpu(), rows.cpu(), max(KS), query_rows=own).indices
    facts = facts_for(labels[:queries], labels, own, ORIGINAL, Relevance())  # chance levels, which loops lack
    asked, retrieved = labels[:queries].int().numpy(), labels[found].int().numpy()

    def ours() -> None:
        top_k_values(found, labels[:queries], labels, ORIGINAL, Relevance(), facts)

    seconds = paired({"ours": ours, "loops": lambda: loops(asked, retrieved)}, rounds)
    row = _row("three measures given the neighbours", seconds, "loops", queries, None)
    return {**row, "times faster": round(1 / ratio(seconds, "ours", "loops")), "target": "300 times faster"}


def loops(asked: np.ndarray, retrieved: np.ndarray) -> None:
    """recall, r_precision and map at every K as the original computes them: label by label of numpy arrays.

    asked (Q, L), retrieved (Q, K, L).
    """
    for k in KS:
        union = retrieved[:, :k].sum(1).clip(0, 1)
        for query in range(len(asked)):
            inside, size = 0, 0
            for label in range(asked.shape[1]):
                size += asked[query, label] == 1
                inside += asked[query, label] == 1 and union[query, label] == 1
            hits, precisions = 0, 0.0
            for rank in range(k):
                inside, size = 0, 0
                for label in range(asked.shape[1]):
                    size += retrieved[query, rank, label] == 1
                    inside += retrieved[query, rank, label] == 1 and asked[query, label] == 1
                relevant = size > 0 and inside == size
                hits += relevant
                precisions += relevant * hits / (rank + 1)


def whole_against_sort(rows: Tensor, labels: Tensor, queries: int, rounds: int) -> dict[str, Any]:
    """All measures of the whole ranking against one matrix product and one sort of each row."""
    own = torch.arange(queries)
    facts = facts_for(labels[:queries], labels, own, WHOLE, SHARE)
    block = 128 if rows.device.type == "cpu" else 1024

    def bare() -> None:
        with full_float32():
            for part in rows[:queries].split(block):
                (part @ rows.T).sort(dim=1)

    def ours() -> None:
        whole_ranking_values(
            rows[:queries],
            rows,
            labels[:queries],
            labels,
            metrics=WHOLE,
            relevance=SHARE,
            facts=facts,
            query_rows=own,
            block_bytes=block * len(rows) * 10,
        )

    seconds = paired({"ours": ours, "bare": bare}, rounds)
    return _row("whole ranking: map, map_at_r, ndcg, acg, wap", seconds, "bare product and sort", queries, 1.5)


def whole_against_pml(images: int, rounds: int) -> dict[str, Any]:
    """The whole ranking against AccuracyCalculator, which knows the first two of our five measures."""
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator

    rows, labels = data(images)
    labels[labels.sum(1) == 0, 0] = True  # it divides by the labels of a lone query
    calculator = AccuracyCalculator(
        include=("mean_average_precision", "mean_average_precision_at_r"),
        k=None,
        device=torch.device("cpu"),
        label_comparison_fn=lambda a, b: (a * b).sum(-1) > 0,
    )
    own, options = torch.arange(images), {"metrics": WHOLE, "relevance": SHARE}

    def ours() -> None:
        facts = facts_for(labels, labels, own, WHOLE, SHARE)
        whole_ranking_values(rows, rows, labels, labels, facts=facts, query_rows=own, **options)  # type: ignore[arg-type]

    seconds = paired({"ours": ours, "pml": lambda: calculator.get_accuracy(rows, labels.long())}, rounds)
    row = _row("whole ranking, all queries", seconds, "AccuracyCalculator", images, None)
    return {**row, "times faster": round(1 / ratio(seconds, "ours", "pml"), 1), "target": "20 times faster"}


def memory(images: int, queries: int) -> dict[str, Any]:
    """Peak memory of a process of its own that ranks the whole gallery, embeddings and libraries included."""
    command = [sys.executable, "-m", "tests.benchmarks.evaluator", "--only_memory", str(images), str(queries)]
    used = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    gib = f"{used.strip().splitlines()[-1]} GiB"
    return {"row": f"memory of the whole ranking, N = {images:,}", "ours s": gib, "target": "below 2 GiB"}


def _measure_memory(images: int, queries: int) -> None:
    rows, labels = data(images)
    own = torch.arange(queries)
    facts = facts_for(labels[:queries], labels, own, WHOLE, SHARE)
    options: dict[str, Any] = {"metrics": WHOLE, "relevance": SHARE, "facts": facts, "query_rows": own}
    whole_ranking_values(rows[:queries], rows, labels[:queries], labels, **options)
    print(round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2))


def _row(
    what: str, seconds: dict[str, list[float]], against: str, queries: int, target: float | None
) -> dict[str, Any]:
    other = next(name for name in seconds if name != "ours")
    return {
        "row": f"{what}, {queries:,} queries",
        "ours s": round(float(np.median(seconds["ours"])), 3),
        "against": against,
        "theirs s": round(float(np.median(seconds[other])), 3),
        "ratio": round(ratio(seconds, "ours", other), 4),
        "target": "" if target is None else f"at most {target}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--queries", type=int, default=1024, help="rows of the whole ranking")
    parser.add_argument("--search_queries", type=int, help="rows of the search; default: all images")
    parser.add_argument("--pml_images", type=int, default=5000, help="pytorch-metric-learning takes 18 GiB for these")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json")
    parser.add_argument("--only_memory", type=int, nargs=2, metavar=("IMAGES", "QUERIES"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    keep_freed_memory()  # as every script does
    best_faiss_kernels()
    if args.only_memory:
        _measure_memory(*args.only_memory)
        return
    rows, labels = data(args.images)
    rows = rows.to(args.device)
    queries = min(args.queries, len(rows))
    tests: list[Callable[[], dict[str, Any]]] = [
        lambda: top_k(rows, labels, min(args.search_queries or math.inf, len(rows)), args.rounds),  # type: ignore
        lambda: densities(rows, labels, args.rounds),
        lambda: literal(rows, labels, min(20_000, len(rows)), args.rounds),
        lambda: whole_against_sort(rows, labels, queries, args.rounds),
        lambda: memory(args.images, min(queries, 256)),
    ]
    if args.pml_images:
        tests.append(lambda: whole_against_pml(args.pml_images, 1))
    results = []
    for test in tests:
        results.append(test())
        print(results[-1], flush=True)
    show(f"Evaluator, N = {args.images:,}, D = 512; {machine()}", results, args.json)


if __name__ == "__main__":
    main()
