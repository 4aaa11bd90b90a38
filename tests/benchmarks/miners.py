"""Time of each miner beside its counterpart in pytorch-metric-learning (PML).

    python -m tests.benchmarks.miners [--batch 120 512] [--per_class 2] [--threads 1] [--json FILE]

One-hot labels, since PML takes no others; D = 512. Both sides take turns of five calls in one run, so that what
else the machine does hits both; a turn counts by its fastest call, and the ratio is that of the medians over turns. The
two sides need not return equally many triplets, so their numbers stand beside the times.

Only `distance` and `semihard` have a counterpart that mines by the same rule. For the others the nearest one
is named: on one-hot labels PML's "hard" triplets are those from which `softhard` draws one per anchor, and
the coarse ones of `multilabel_semihard`; BatchEasyHardMiner is the PML miner that, as `softhard`, returns
one triplet per anchor, but with the hardest positive.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytorch_metric_learning
import torch
from pytorch_metric_learning import miners as pml
from torch.nn.functional import normalize, one_hot

from batchminer import MINERS
from utilities.seeding import generator
from utilities.tensors.labels import PairRule

DIM = 512
TURN = 5  # calls: the first of them finds the caches full of the other side's arrays
RELATION = PairRule("jaccard")
CUTOFFS = {"lower_cutoff": 0.5, "upper_cutoff": 1.4}
HYPER_PARAMETERS: dict[str, dict[str, Any]] = {
    "distance": {"relation": RELATION, **CUTOFFS},
    "semihard": {"relation": RELATION, "margin": 0.2},
    "softhard": {"relation": RELATION},
    "multilabel_semihard": {"max_triplets": 100, "coarse_draws": 3},
    "nearest_beyond": {"relation": RELATION, "lower_cutoff": 0.5},
    "random_distance": {"relation": RELATION, **CUTOFFS},
    "shared_distance": {"positive": "distance", **CUTOFFS},
    "intra_random": {"with_replacement": False},
}
HARD = ("TripletMarginMiner hard (nearest)", lambda: pml.TripletMarginMiner(type_of_triplets="hard"))
COUNTERPARTS: list[tuple[str, tuple[str, Callable[[], Any]] | None]] = [
    ("distance", ("DistanceWeightedMiner", pml.DistanceWeightedMiner)),
    (
        "semihard",
        ("TripletMarginMiner semihard", lambda: pml.TripletMarginMiner(type_of_triplets="semihard")),
    ),
    ("softhard", HARD),
    (
        "softhard",
        (
            "BatchEasyHardMiner (nearest)",
            lambda: pml.BatchEasyHardMiner(pos_strategy="hard", neg_strategy="semihard"),
        ),
    ),
    ("multilabel_semihard", HARD),
    ("nearest_beyond", None),
    ("random_distance", None),
    ("shared_distance", None),
    ("intra_random", None),
]


def make_batch(count: int, per_class: int, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings (B, D) of overlapping classes and the class of each (B,)."""
    g = generator("cpu", "benchmark", count)
    classes = torch.arange(count) // per_class
    centres = torch.randn(len(classes.unique()), DIM, generator=g)
    embeddings = 0.4 * centres[classes] + torch.randn(count, DIM, generator=g)
    embeddings += torch.randn(DIM, generator=g)
    # Some images are far from their class, as in training, so that there are hard triplets.
    strays = torch.rand(count, 1, generator=g) < 0.3
    embeddings = torch.where(strays, torch.randn(count, DIM, generator=g), embeddings)
    return normalize(embeddings, dim=1).to(device), classes.to(device)


def seconds_of(call: Callable[[], Any], device: str) -> tuple[float, int]:
    """Shortest duration of `TURN` calls, and how many triplets that one returned."""
    return min(seconds_of_one(call, device) for _ in range(TURN))


def seconds_of_one(call: Callable[[], Any], device: str) -> tuple[float, int]:
    """Duration of one call, and how many triplets it returned."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    result = call()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start, len(result[0])


def alternate(calls: list[Callable[[], Any]], device: str, budget: float) -> list[dict[str, float]]:
    """Median time and number of triplets of each call, taken in turns until `budget` seconds are spent."""
    for call in calls:
        call()
    taken: list[list[tuple[float, int]]] = [[] for _ in calls]
    start = time.perf_counter()
    while time.perf_counter() - start < budget or len(taken[0]) < 5:
        for call, results in zip(calls, taken, strict=True):
            results.append(seconds_of(call, device))
    return [
        {
            "milliseconds": 1000 * statistics.median(s for s, _ in results),
            "triplets": statistics.median(t for _, t in results),
            "turns": len(results),
        }
        for results in taken
    ]


def compare(count: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    embeddings, classes = make_batch(count, options.per_class, options.device)
    labels, indices = one_hot(classes).bool(), torch.arange(count, device=options.device)
    g = generator(options.device, "draws")
    rows = []
    for name, counterpart in COUNTERPARTS:
        miner = MINERS[name](**HYPER_PARAMETERS[name])
        calls: list[Callable[[], Any]] = [lambda m=miner: m(embeddings, labels, indices, g)]
        if counterpart:
            reference = counterpart[1]()
            calls.append(lambda m=reference: m(embeddings, classes))
        ours, *theirs = alternate(calls, options.device, options.seconds)
        row: dict[str, Any] = {"batch": count, "miner": name, "ours": ours}
        if counterpart:
            row |= {"counterpart": counterpart[0], "pml": theirs[0]}
            row["ratio"] = theirs[0]["milliseconds"] / ours["milliseconds"]
        rows.append(row)
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| B | miner | ms | triplets | PML counterpart | ms | triplets | times faster |",
        "| ---: | --- | ---: | ---: | --- | ---: | ---: | ---: |",
    ]
    for row in rows:
        cells = [
            row["batch"],
            row["miner"],
            f"{row['ours']['milliseconds']:.2f}",
            f"{row['ours']['triplets']:.0f}",
        ]
        if "pml" in row:
            cells += [
                row["counterpart"],
                f"{row['pml']['milliseconds']:.2f}",
                f"{row['pml']['triplets']:.0f}",
            ]
            cells.append(f"{row['ratio']:.1f}")
        else:
            cells += ["none", "", "", ""]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def processor(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    described = Path("/proc/cpuinfo")
    lines = described.read_text().splitlines() if described.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, nargs="+", default=[120, 512], help="batch sizes")
    parser.add_argument("--per_class", type=int, default=2, help="images of each class in a batch")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--seconds", type=float, default=2.0, help="time spent on each row")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    machine = {
        "processor": processor(options.device),
        "threads": options.threads,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "pytorch_metric_learning": pytorch_metric_learning.__version__,
        "date": date.today().isoformat(),
    }
    print(", ".join(f"{key} {value}" for key, value in machine.items()))
    print(f"D = {DIM}, one-hot labels, {options.per_class} images per class, medians over turns of {TURN} calls\n")
    rows = [row for count in options.batch for row in compare(count, options)]
    print(table(rows))
    if options.json:
        options.json.write_text(json.dumps({"machine": machine, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
