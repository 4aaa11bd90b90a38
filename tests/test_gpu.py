"""Training, evaluation and clustering on a GPU; what they must give is known from the CPU."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.benchmarks.step import METHODS, fake_split, trainer_of
from tests.scripts import TINY, records
from utilities.batch import Batch
from utilities.measures.formulae import RELEVANCE_RULES, Relevance, metric_names
from utilities.measures.search_and_measure import evaluate
from utilities.neighbours.clustering import _lloyd, kmeans, match_clusters

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
DEVICE = torch.device("cuda")


class Split(SimpleNamespace):
    """`fake_split` with a length: clusters are of embeddings of all of it."""

    def __len__(self) -> int:
        return len(self.labels)


class NoisePictures:
    """Feeds the engine pictures of noise that are on the device already; `training` stops after two batches."""

    def __init__(self, split: Split, side: int) -> None:
        self.dataset, self.side = split, side
        self.skipped: set[str] = set()

    def batch(self, rows: np.ndarray, *, second_view: bool = False) -> Batch:
        indices = torch.from_numpy(rows).to(DEVICE)
        shape = (len(rows), 3, self.side, self.side)
        views = [torch.randn(shape, device=DEVICE) for _ in range(1 + second_view)]
        labels = torch.from_numpy(self.dataset.labels[rows]).to(DEVICE)
        return Batch(views[0], labels, indices, views[1] if second_view else None)

    def training(self, batches: Sequence[np.ndarray], *, second_view: bool, **_: Any) -> list[tuple[int, Batch]]:
        return [(number, self.batch(np.asarray(batches[number]), second_view=second_view)) for number in range(2)]

    def evaluation(self, rows: np.ndarray, batch_size: int) -> Iterator[Batch]:
        for start in range(0, len(rows), batch_size):
            yield self.batch(rows[start : start + batch_size])

    def close(self) -> None: ...


@pytest.mark.parametrize("method", METHODS)
def test_two_steps_of_every_method_give_finite_losses(method: str, tmp_path: Path) -> None:
    split = Split(**vars(fake_split(96, 12)))
    more = [*map(str, TINY), *(["--dac_nb_clusters", "2"] if method == "dac" else [])]
    trainer = trainer_of(METHODS[method], split, SimpleNamespace(batch_size=16), str(tmp_path), more)
    feed = NoisePictures(split, side=32)
    trainer.data = SimpleNamespace(train=feed, val=feed, test=None, description={})
    try:
        trainer.train_epoch()
    finally:
        trainer.close()
    assert trainer.device.type == "cuda"
    assert {tensor.device.type for tensor in trainer.method.state_dict().values()} == {"cuda"}
    assert (trainer.step, trainer.epoch) == (2, 1)
    losses = records(trainer.folder)[-1]["losses"]  # means over both steps
    assert losses
    assert all(math.isfinite(value) for value in losses.values()), losses
    assert all(parameter.isfinite().all() for parameter in trainer.method.parameters())


def unit_rows(count: int, seed: int) -> torch.Tensor:
    return F.normalize(torch.randn(count, 16, generator=torch.Generator().manual_seed(seed)), dim=1)


def label_rows(count: int, seed: int) -> torch.Tensor:
    rows = torch.rand(count, 9, generator=torch.Generator().manual_seed(seed)) < 0.3
    rows[::11] = False
    return rows


@pytest.mark.parametrize("rule", RELEVANCE_RULES)
@pytest.mark.parametrize("own_gallery", [True, False])
def test_scores_are_those_of_the_cpu(rule: str, own_gallery: bool) -> None:
    """Every measure there is, of the top K and of the whole ranking, in several blocks; with ties in distance."""
    queries = unit_rows(150, seed=1)
    queries[40:60] = queries[0]
    gallery = None if own_gallery else (torch.cat([queries[:50], unit_rows(70, seed=2)]), label_rows(120, seed=3))
    cpu, gpu = (
        evaluate(
            queries, label_rows(150, seed=4), metrics=metric_names(), ks=(1, 5, 20), relevance=Relevance(rule),
            backend="torch", gallery=gallery, device=device, block_bytes=200_000,
        )
        for device in ("cpu", DEVICE)
    )  # fmt: skip
    assert torch.equal(gpu.neighbours.indices, cpu.neighbours.indices)
    assert torch.equal(gpu.neighbours.distances, cpu.neighbours.distances)
    assert gpu.scores.protocol == cpu.scores.protocol
    assert gpu.scores.scores.keys() == cpu.scores.scores.keys()
    for name, expected in cpu.scores.per_query.items():
        # sums of float64 in another order
        torch.testing.assert_close(gpu.scores.per_query[name], expected, rtol=0, atol=1e-12, equal_nan=True)
    for kind in ("scores", "chance"):
        found, expected = getattr(gpu.scores, kind), getattr(cpu.scores, kind)
        assert found == pytest.approx(expected, rel=0, abs=1e-12, nan_ok=True)


def test_kmeans_finds_the_clusters_of_the_cpu_and_finds_them_again() -> None:
    random = torch.Generator().manual_seed(2)
    truth = torch.arange(2000) % 5
    features = F.normalize(torch.randn(5, 8, generator=random))[truth] + 0.05 * torch.randn(2000, 8, generator=random)
    cpu, gpu, again = (
        kmeans(features.to(device), 5, seed=0, iterations=20, redo=3) for device in ("cpu", DEVICE, DEVICE)
    )
    assert gpu.assignment.device.type == gpu.centroids.device.type == "cuda"
    assert torch.equal(match_clusters(truth, gpu.assignment.cpu(), 5), truth)
    assert torch.equal(match_clusters(truth, cpu.assignment, 5), truth)
    ours, theirs = (found.centroids[found.assignment[:5]].cpu() for found in (gpu, cpu))  # the first row of each blob
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    assert torch.equal(again.assignment, gpu.assignment)
    assert torch.equal(again.centroids, gpu.centroids)


def test_an_emptied_cluster_starts_anew_far_from_the_others() -> None:
    features = torch.tensor([[50.0], [50.1], [50.2], [55.0]], device=DEVICE)
    lost = torch.tensor([[[50.1], [999.0]]], device=DEVICE)
    (centroids,) = _lloyd(features, features.square().flatten(), lost, iterations=10)
    torch.testing.assert_close(centroids.cpu().sort(0).values, torch.tensor([[50.1], [55.0]]))
