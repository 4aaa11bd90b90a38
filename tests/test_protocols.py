"""Published protocols: the measures against slow twins and scikit-learn, and GRN-SNDL's split of UC Merced."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import parameters
from datasets.base import SPLITS
from datasets.files.split_lists import read_stored_split
from datasets.ucmerced.dataset import STORED_SPLITS, UCMerced, grn_split
from tests.miniatures import SHARED
from utilities.errors import DatasetError, UserError
from utilities.measures import protocols
from utilities.measures.chance import expected_ap_found
from utilities.neighbours.search import Neighbours, search


def problem(
    queries: int = 60, images: int = 90, labels: int = 7
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Embeddings and labels of queries and gallery; query 3 lies on images 8 and 9, image 5 and query 2 lack labels."""
    draw = torch.Generator().manual_seed(0)
    q, g = (F.normalize(torch.randn(n, 4, generator=draw), dim=1) for n in (queries, images))
    asked, carried = (torch.rand(n, labels, generator=draw) < 0.35 for n in (queries, images))
    g[8] = g[9] = q[3]
    carried[9] = ~carried[8]
    asked[2] = carried[5] = False
    return q, g, asked, carried


def found(q: torch.Tensor, g: torch.Tensor, k: int) -> Neighbours:
    return search(q, g, k, backend="torch")


def test_grn_is_the_f1_of_scikit_learns_classifier_weighted_by_distance() -> None:
    metrics, neighbors = pytest.importorskip("sklearn.metrics"), pytest.importorskip("sklearn.neighbors")
    q, g, asked, carried = problem()
    classifier = neighbors.KNeighborsClassifier(n_neighbors=10, weights="distance", algorithm="brute")
    near = found(q, g, 12)
    # as it is told the same distances: to the last bit 0 for the query that lies on two images
    far = torch.full((len(q), len(g)), 9.0, dtype=torch.float64)
    precomputed = far.scatter(1, near.indices, near.distances.double()).numpy()
    classifier.set_params(metric="precomputed").fit(np.zeros((len(g), len(g))), carried.int().numpy())
    expected = metrics.f1_score(
        asked.int().numpy(), classifier.predict(precomputed), average="samples", zero_division=0
    )
    assert near.distances[3, 0] < 1e-3
    content = protocols.measured("grn", near, asked, carried)
    assert content["scores"] == {"knn_weighted_f1@10": pytest.approx(expected, abs=1e-12)}


def test_grn_counts_images_at_distance_0_alone() -> None:
    carried = torch.tensor([[1, 0], [0, 1], [0, 1], [0, 1]]).bool()
    asked = torch.tensor([[1, 0]]).bool()
    near = Neighbours(torch.arange(4)[None], torch.tensor([[0.0, 0.1, 0.1, 0.1]]))
    assert protocols.measured("grn", near, asked, carried)["scores"]["knn_weighted_f1@10"] == 1
    away = near._replace(distances=torch.tensor([[0.02, 0.1, 0.1, 0.1]]))  # 50 votes against 30
    assert protocols.measured("grn", away, asked, carried)["scores"]["knn_weighted_f1@10"] == 1
    equal = near._replace(distances=torch.full((1, 4), 0.1))
    assert protocols.measured("grn", equal, asked, carried)["scores"]["knn_weighted_f1@10"] == 0


def test_geobench_is_scikit_learns_micro_average_precision_of_the_shares_of_votes() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    q, g, asked, carried = problem()
    near = found(q, g, 8)
    shares = carried.float()[near.indices[:, :5]].mean(1).numpy()
    expected = metrics.average_precision_score(asked.int().numpy(), shares, average="micro")
    content = protocols.measured("geobench", near, asked, carried)
    assert content["scores"] == {"knn_micro_map@5": pytest.approx(expected, abs=1e-12)}


def test_csmae_is_the_harmonic_mean_of_means_and_not_the_mean_of_pairs() -> None:
    q, g, asked, carried = problem()
    near = found(q, g, 10)
    precision = recall = of_pairs = 0.0
    for row in range(len(q)):
        own = set(asked[row].nonzero().ravel().tolist())
        for image in near.indices[row].tolist():
            other = set(carried[image].nonzero().ravel().tolist())
            precision += len(own & other) / max(1, len(other)) / 10
            recall += len(own & other) / max(1, len(own)) / 10
            of_pairs += 2 * len(own & other) / max(1, len(own) + len(other)) / 10
    precision, recall = precision / len(q), recall / len(q)
    scores = protocols.measured("csmae", near, asked, carried)["scores"]
    assert scores["label_precision@10"] == pytest.approx(precision)
    assert scores["label_recall@10"] == pytest.approx(recall)
    assert scores["label_f1_of_means@10"] == pytest.approx(2 * precision * recall / (precision + recall))
    assert scores["label_f1_of_means@10"] != pytest.approx(of_pairs / len(q), abs=0.01)


def test_prithvi_divides_by_the_relevant_images_that_were_found() -> None:
    q, g, asked, carried = problem(labels=3)
    near = found(q, g, 25)
    values = []
    for row in range(len(q)):
        relevant = [bool((asked[row] & carried[image]).any()) for image in near.indices[row, :20].tolist()]
        hits = [sum(relevant[: rank + 1]) / (rank + 1) for rank, hit in enumerate(relevant) if hit]
        values.append(sum(hits) / len(hits) if hits else 0.0)
    scores = protocols.measured("prithvi", near, asked, carried)["scores"]
    assert scores == {"ap_found@20": pytest.approx(sum(values) / len(values))}


@pytest.mark.parametrize("name", protocols.PROTOCOLS)
def test_intervals_hold_the_score_and_random_neighbours_score_chance(name, monkeypatch) -> None:
    _, _, asked, carried = problem(400, 300)
    draw = torch.Generator().manual_seed(1)
    near = Neighbours(torch.rand(400, 300, generator=draw).argsort(1)[:, :20], torch.ones(400, 20))
    content = protocols.measured(name, near, asked, carried)
    for measure, score in content["scores"].items():
        low, high = content["interval"][measure]
        assert low < score < high
        assert low - 0.01 < content["chance"][measure] < high + 0.01
    monkeypatch.setattr(protocols, "_BLOCK", 5000)
    assert protocols.measured(name, near, asked, carried)["scores"] == pytest.approx(content["scores"], abs=1e-12)
    assert name in protocols.lines(content)[0]


def test_chance_draws_no_image_twice() -> None:
    """Of a gallery as small as the depth everything is found: means over it, in whatever order, and of the order the
    expected value in closed form."""
    _, _, asked, carried = problem(500, 10)
    everything = Neighbours(torch.arange(10).expand(500, 10), torch.ones(500, 10))
    content = protocols.measured("csmae", everything, asked, carried)
    assert content["chance"] == pytest.approx(content["scores"], abs=1e-12)
    _, _, asked, carried = problem(500, 20)
    near = Neighbours(torch.arange(20).expand(500, 20), torch.ones(500, 20))
    relevant = (asked.double() @ carried.double().T > 0).sum(1).double()
    expected = float(expected_ap_found(torch.full((500,), 20.0).double(), relevant, 20).mean())
    assert protocols.measured("prithvi", near, asked, carried)["chance"]["ap_found@20"] == pytest.approx(
        expected, abs=0.002
    )


def test_what_is_drawn_for_chance_is_every_ordered_choice_alike() -> None:
    drawn = protocols.different(5, 60_000, 3, torch.Generator().manual_seed(0))
    counts = torch.bincount(drawn @ torch.tensor([25, 5, 1]), minlength=125)
    assert (counts > 0).sum() == 60, "each of 5 * 4 * 3 choices, and no other"
    assert (counts[counts > 0] - 1000).abs().max() < 5 * 1000**0.5


def test_the_flag_sets_splits_relevance_and_measures() -> None:
    args = parameters.parse_evaluation(["--load_from_checkpoint", "run", "--protocol", "prithvi"])
    assert (args.dataset_type, args.gallery_split, args.relevance) == ("val", "test", "share")
    assert "ap_found@20" in args.eval_metric
    for protocol in protocols.PROTOCOLS.values():
        assert max(int(metric.split("@")[1]) for metric in protocol.metrics) >= protocol.depth
    same = ["--protocol", "grn", "--gallery_split", "train", "--dataset_type", "test"]
    assert parameters.parse_evaluation(["--load_from_checkpoint", "run", *same]).gallery_split == "train"
    with pytest.raises(UserError, match="--protocol grn means --gallery_split train, and --gallery_split val was"):
        parameters.parse_evaluation(["--load_from_checkpoint", "r", "--protocol", "grn", "--gallery_split", "val"])
    for elsewhere in (["--query", "x"], ["--export", "geoparquet", "x"]):  # which it leaves as they are without it
        args = parameters.parse_evaluation(["--load_from_checkpoint", "r", "--protocol", "prithvi", *elsewhere])
        assert (args.dataset_type, args.gallery_split) == ("test", None)
    other = ["--protocol", "grn", "--dataset", "Folder", "--source_path", "x"]
    with pytest.raises(UserError, match="--protocol is of the run's own data set"):
        parameters.parse_evaluation(["--load_from_checkpoint", "r", *other])


# GRN-SNDL's split of UC Merced --------------------------------------------------------------------------------


def all_files() -> dict[str, str]:
    """Name -> `<scene>/<file>` of the 2,100 images, from the stored lists of names."""
    names = np.concatenate([read_stored_split(STORED_SPLITS, split) for split in SPLITS]).tolist()
    return {name: f"{re.sub('[0-9]+$', '', name)}/{name}.tif" for name in names}


def test_the_split_of_grn_is_theirs_to_the_name() -> None:
    split = grn_split(all_files())
    assert {name: len(part) for name, part in split.items()} == {"train": 1470, "val": 210, "test": 420}
    assert split["train"][:3] == ["agricultural42", "agricultural41", "agricultural91"]
    digests = {part: hashlib.sha256("\n".join(split[part]).encode()).hexdigest()[:8] for part in SPLITS}
    assert digests == {"train": "59b12695", "val": "a3b88821", "test": "87573a46"}
    assert len({name for part in split.values() for name in part}) == 2100


def test_other_images_have_no_split_of_grn() -> None:
    files = all_files()
    files.pop("beach05")
    with pytest.raises(DatasetError, match="leave out --ucmerced_split grn"):
        grn_split(files)


@pytest.mark.skipif(not (SHARED / "UCMerced").is_dir(), reason="the real UC Merced is not at hand")
def test_the_split_of_grn_on_the_real_images() -> None:
    parts = [UCMerced(source_path=Path(SHARED / "UCMerced"), split=split, split_rule="grn") for split in SPLITS]
    assert [len(part) for part in parts] == [1470, 210, 420]
    ours = UCMerced(source_path=Path(SHARED / "UCMerced"), split="test")
    assert set(ours.names) != set(parts[2].names)
    for part in parts:
        row = int(np.flatnonzero(part.names == part.names[7])[0])
        other = next(p for p in (ours, *[UCMerced(source_path=SHARED / "UCMerced", split=s) for s in ("train", "val")])
                     if part.names[7] in p.names)  # fmt: skip
        same = int(np.flatnonzero(other.names == part.names[7])[0])
        assert np.array_equal(part.labels[row], other.labels[same])
        assert np.array_equal(part.read(row), other.read(same))


def test_runs_of_before_have_our_split() -> None:
    args = parameters.parse("baseline", ["--dataset", "UCMerced", "--ucmerced_split", "grn"])
    assert args.ucmerced_split == "grn"
    assert "ucmerced_split" not in parameters.RESUMABLE, "a resumed run keeps its split"
