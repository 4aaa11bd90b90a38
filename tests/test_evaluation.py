"""Embedding a split and evaluating it, in one process and in two."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from utilities.batch import Batch
from utilities.errors import UserError
from utilities.inference.whole_split import embed_split
from utilities.measures.formulae import Relevance
from utilities.measures.search_and_measure import Evaluation, evaluate
from utilities.neighbours.density import distance_densities

METRICS = ("recall", "map@2", "hit@1", "ndcg@4", "knn_f1@3", "map", "ndcg_jaccard")


def embed(images: Tensor) -> Tensor:
    return torch.nn.functional.normalize(images.flatten(1), dim=1)


def images(count: int) -> Tensor:
    return torch.randn(count, 1, 3, 4, generator=torch.Generator().manual_seed(1))


def labels(count: int) -> Tensor:
    return torch.rand(count, 5, generator=torch.Generator().manual_seed(2)) < 0.4


def batches(rows: list[int], size: int = 4, count: int = 30) -> Iterator[Batch]:
    everything = images(count)
    for chunk in torch.tensor(rows, dtype=torch.int64).split(size):
        yield Batch(everything[chunk], labels(count)[chunk], chunk)


def run(embeddings: Tensor, count: int = 30, **options: object) -> Evaluation:
    arguments = {
        "labels": labels(count),
        "metrics": METRICS,
        "ks": (1, 4),
        "relevance": Relevance("share"),
        "backend": "torch",
        **options,
    }
    return evaluate(embeddings, **arguments)  # type: ignore[arg-type]


def test_rows_come_back_in_order_whatever_the_batches() -> None:
    embeddings, rows = embed_split(embed, batches([7, 3, 29, 0, 12, 5]), 30)
    assert rows.tolist() == [0, 3, 5, 7, 12, 29]
    assert torch.equal(embeddings, embed(images(30))[rows])
    assert embeddings.dtype == torch.float32
    assert not embeddings.is_inference()


def test_half_precision_heads_come_back_as_float32() -> None:
    embeddings, _ = embed_split(lambda x: embed(x).bfloat16(), batches(list(range(8))), 30)
    assert embeddings.dtype == torch.float32


def test_a_row_that_counts_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="once each"):
        embed_split(embed, batches([1, 2, 3, 4, 1]), 30)
    with pytest.raises(ValueError, match="inside it"):
        embed_split(embed, batches([1, 2, 29]), 20)


def test_no_image_at_all() -> None:
    with pytest.raises(UserError, match="none of the 30 images"):
        embed_split(embed, [], 30)
    empty = Batch(images(30)[:0], labels(30)[:0], torch.empty(0, dtype=torch.int64))
    embeddings, _ = embed_split(embed, [empty, *batches([3])], 30)
    assert len(embeddings) == 1


def test_report_has_what_scores_json_promises() -> None:
    result = run(embed(images(30)))
    report = result.report()
    scores, protocol = report["scores"], report["protocol"]
    assert list(scores) == list(report["chance"]) == [
        "recall@1", "recall@4", "map@2", "hit@1", "ndcg@4", "knn_f1@3", "map", "ndcg_jaccard"
    ]  # fmt: skip
    assert all(0 <= value <= 1 for value in scores.values())
    assert set(protocol["seconds"]) == {"search", "whole_ranking", "score"}
    assert protocol["queries"] == protocol["gallery"] == protocol["query_in_gallery"] == 30
    assert result.neighbours.indices.shape == (30, 4)


def test_random_embeddings_score_at_chance() -> None:
    count = 1500
    rows = torch.nn.functional.normalize(torch.randn(count, 16, generator=torch.Generator().manual_seed(5)), dim=1)
    result = run(rows, count)
    for name, level in result.scores.chance.items():
        values = result.scores.per_query[name]
        values = values[~values.isnan()]
        assert abs(result.scores.scores[name] - level) < 5 * float(values.std()) / count**0.5


def test_gallery_order_does_not_matter() -> None:
    rows, carried = embed(images(30)), labels(30)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(3))
    arguments = {"metrics": METRICS, "ks": (4,), "relevance": Relevance("share"), "backend": "torch"}
    one = evaluate(rows[:9], carried[:9], gallery=(rows, carried), **arguments)  # type: ignore[arg-type]
    shuffled = (rows[order], carried[order])
    other = evaluate(rows[:9], carried[:9], gallery=shuffled, **arguments)  # type: ignore[arg-type]
    assert one.scores.scores == pytest.approx(other.scores.scores, abs=1e-12)
    finds_itself = carried[:9].any(1).double().mean().item()
    assert one.scores.scores["hit@1"] == pytest.approx(finds_itself)


def test_queries_that_a_larger_gallery_holds_do_not_find_themselves() -> None:
    """They score as among all images, of which they are some."""
    rows, carried = embed(images(30)), labels(30)
    whole = run(rows)
    own = torch.tensor([29, 3, 4, 11])
    found = run(rows[own], labels=carried[own], gallery=(rows, carried), query_rows=own)
    assert not (found.neighbours.indices == own[:, None]).any()
    assert torch.equal(found.neighbours.indices, whole.neighbours.indices[own])
    for name, values in found.scores.per_query.items():
        torch.testing.assert_close(values, whole.scores.per_query[name][own], rtol=0, atol=1e-12, equal_nan=True)
    assert found.scores.protocol["query_in_gallery"] == 4
    few = {"labels": carried[own], "gallery": (rows[:20], carried[:20])}
    some = run(rows[own], **few, query_rows=own.where(own < 20, -1))
    assert torch.equal(some.neighbours.indices[0], run(rows[own], **few).neighbours.indices[0]), "is not among these"
    assert not (some.neighbours.indices[1:] == own[1:, None]).any()
    assert some.scores.protocol["query_in_gallery"] == 3
    others = {"labels": carried[:9], "gallery": (rows[9:], carried[9:])}
    apart = run(rows[:9], **others, query_rows=torch.full((9,), -1))
    assert apart.neighbours.indices.shape == (9, 4)
    assert "nothing is left out" in apart.scores.protocol["self_match"]


def test_queries_and_gallery_with_different_labels() -> None:
    rows = embed(images(30))
    with pytest.raises(UserError, match="queries carry 5 labels and the gallery 4"):
        run(rows, gallery=(rows, labels(30)[:, :4]))


def test_unknown_metric_is_found_before_the_search() -> None:
    with pytest.raises(UserError, match="choices: recall@K"):
        run(torch.full((30, 4), torch.nan), metrics=("recal@1",))


def in_another(embeddings: Tensor, carried: Tensor) -> tuple[dict[str, float], Tensor]:
    """Two queries, fewer than processes, against the other images."""
    gallery = (embeddings[2:], carried[2:])
    options = {"metrics": METRICS, "ks": (1, 4), "relevance": Relevance("share"), "backend": "torch"}
    result = evaluate(embeddings[:2], carried[:2], gallery=gallery, **options)  # type: ignore[arg-type]
    return result.scores.scores, distance_densities(embeddings[:2], carried[:2], gallery=gallery).counts


def _worker(number: int, world: int, rendezvous: str, results: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=number, world_size=world)
    share = list(range(number, 29, world)) if number < 2 else []  # the third rank has no image
    embeddings, rows = embed_split(embed, batches(share), 30)
    result = evaluate(
        embeddings,
        labels(30)[rows],
        metrics=METRICS,
        ks=(1, 4),
        relevance=Relevance("share"),
        backend="torch",
    )
    counts = distance_densities(embeddings, labels(30)[rows], block=7).counts
    between = in_another(embeddings, labels(30)[rows])
    torch.save((embeddings, rows, *result.neighbours, result.scores.scores, counts, *between), f"{results}/{number}.pt")
    dist.destroy_process_group()


def test_three_processes_one_of_them_idle_equal_one(tmp_path: Path) -> None:
    mp.spawn(_worker, (3, str(tmp_path / "rendezvous"), str(tmp_path)), nprocs=3)
    rows = [row for row in range(29) if row % 3 < 2]
    embeddings, _ = embed_split(embed, batches(rows), 30)
    alone = evaluate(
        embeddings,
        labels(30)[rows],
        metrics=METRICS,
        ks=(1, 4),
        relevance=Relevance("share"),
        backend="torch",
    )
    counts = distance_densities(embeddings, labels(30)[rows]).counts
    for number in range(3):
        theirs = torch.load(tmp_path / f"{number}.pt")
        assert torch.equal(theirs[0], embeddings)
        assert theirs[1].tolist() == rows
        assert torch.equal(theirs[2], alone.neighbours.indices)
        assert torch.equal(theirs[3], alone.neighbours.distances)
        assert theirs[4] == alone.scores.scores
        assert torch.equal(theirs[5], counts)
        scores, between = in_another(embeddings, labels(30)[rows])
        assert theirs[6] == scores
        assert torch.equal(theirs[7], between)
