"""k-means of this project beside faiss's and scikit-learn's: time and objective, from the same rows.

    python -m tests.benchmarks.clusters [--images 43664] [--clusters 8] [--iterations 25] [--redo 3] [--rounds 3]

Rows are those of `tests.benchmarks.evaluator`; the objective is the summed squared distance to the nearest centroid.
All use all rows. scikit-learn stops by its own tolerance as well.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from tests.benchmarks.evaluator import data
from tests.benchmarks.timing import arguments, best_faiss_kernels, paired, ratio, show
from utilities.neighbours.clustering import kmeans
from utilities.neighbours.search import faiss_module
from utilities.training.allocator import keep_freed_memory


def main() -> None:
    args = arguments(__doc__ or "", images=43_664, clusters=8, iterations=25, redo=3, rounds=3)
    keep_freed_memory()  # as every script does
    kernels = best_faiss_kernels()
    rows, _ = data(args.images)
    centroids: dict[str, torch.Tensor] = {}

    def ours() -> None:
        centroids["ours"] = kmeans(rows, args.clusters, seed=0, iterations=args.iterations, redo=args.redo).centroids

    def theirs() -> None:
        algorithm = faiss_module().Kmeans(
            rows.shape[1], args.clusters, niter=args.iterations, nredo=args.redo, seed=1,
            max_points_per_centroid=len(rows), min_points_per_centroid=1,
        )  # fmt: skip
        algorithm.train(rows.numpy())
        algorithm.index.search(rows.numpy(), 1)
        centroids["faiss"] = torch.from_numpy(algorithm.centroids)

    def learned() -> None:
        from sklearn.cluster import KMeans

        found = KMeans(args.clusters, max_iter=args.iterations, n_init=args.redo, random_state=0).fit(rows.numpy())
        centroids["scikit-learn"] = torch.from_numpy(found.cluster_centers_)

    candidates = {"ours": ours, "faiss": theirs, "scikit-learn": learned}
    seconds = paired(candidates, args.rounds)
    lines: list[dict[str, Any]] = []
    for name in candidates:
        objective = sum(float((torch.cdist(part, centroids[name]) ** 2).amin(1).sum()) for part in rows.split(4096))
        what = f"faiss.Kmeans, {kernels}" if name == "faiss" else name
        lines.append({"k-means": what, "seconds": float(np.median(seconds[name])), "objective": f"{objective:.1f}"})
        lines[-1] |= {"ours / it": ratio(seconds, "ours", name), "target": "at most 0.5" if name == "faiss" else ""}
    show(f"{args.clusters} clusters of {args.images:,} rows, {args.redo} starts", lines, args.json)


if __name__ == "__main__":
    main()
