"""What an evaluation leaves behind, also of data that no one would wish for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from utilities.files import filling
from utilities.measures.formulae import Relevance
from utilities.measures.search_and_measure import evaluate
from utilities.neighbours.density import distance_densities
from utilities.neighbours.table import read_neighbours
from utilities.report.evaluation_folder import LEFTOVERS, SHOWN_BY, _stem, write_results
from utilities.report.page_parts import Collection
from utilities.report.query_scores import read_query_scores

METRICS = ("recall@1", "map@8", "map", "ndcg", "ndcg_jaccard@4", "knn_f1@3", SHOWN_BY)
FILES = {
    "scores.json", "evaluate_model.txt", "report.html", "query_scores.npz",
    "retrievals.png", "label_scores.png", "distance_density.png", "embedding_map.png",
}  # fmt: skip


def images(labels: Tensor, name: str = "image") -> Collection:
    return Collection(
        [f"{name} {row}" for row in range(len(labels))], labels.numpy(), lambda row: np.full((20, 20, 3), row, np.uint8)
    )


def write(
    folder: Path,
    rows: Tensor,
    labels: Tensor,
    gallery: tuple[Tensor, Tensor] | None = None,
    *,
    pictured: int = 3,
    files: int = 0,
) -> dict[str, Any]:
    result = evaluate(rows, labels, metrics=METRICS, ks=(), relevance=Relevance(), backend="torch", gallery=gallery)
    content = result.report()
    content["protocol"] |= {"skipped_images": 0, "split": "train", "gallery_split": "train"}
    with filling(folder, LEFTOVERS) as fresh:
        text = write_results(
            fresh, result, content, images(labels), rows,
            gallery=None if gallery is None else images(gallery[1], "other"),
            label_names=[f"label {number}" for number in range(labels.shape[1])], title="A run",
            pictured_queries=pictured, query_files=files, map_method="pca",
            densities=distance_densities(rows, labels, gallery=gallery),
        )  # fmt: skip
    expected = FILES if len(rows) > 2 else FILES - {"embedding_map.png"}
    expected = expected | {"retrievals"} if files else expected
    expected = expected if pictured else expected - {"retrievals.png"}
    assert {path.name for path in folder.iterdir()} - {"neighbours.parquet", "neighbours.npz"} == expected
    assert all(path.stat().st_size for path in folder.iterdir())
    assert (folder / "evaluate_model.txt").read_text() == text

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    return json.loads((folder / "scores.json").read_text(), parse_constant=refuse)


def embeddings(count: int, seed: int = 1) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(count, 5, generator=draw), dim=1)


def some_labels(count: int, seed: int = 2) -> Tensor:
    return torch.rand(count, 4, generator=torch.Generator().manual_seed(seed)) < 0.4


def test_scores_json_holds_scores_labels_and_neighbours(tmp_path: Path) -> None:
    content = write(tmp_path, embeddings(20), some_labels(20))
    assert list(content["scores"]) == list(content["interval"]) == list(content["chance"]) == list(METRICS)
    assert [line["label"] for line in content["labels"]["table"]] == [f"label {number}" for number in range(4)]
    assert set(content["labels"]["macro"]) == {"recall", "precision"}
    table = read_neighbours(tmp_path)
    for line in content["neighbours"]["by_shared_labels"]:
        chosen = table["shared_labels"] == line["shared_labels"]
        assert line["pairs"] == chosen.sum()
        assert line["mean_distance"] == pytest.approx(table["distance"][chosen].astype(float).mean())
        assert line["mean_jaccard"] == pytest.approx(table["jaccard"][chosen].astype(float).mean())
    assert {"search", "whole_ranking", "score", "summaries"} <= content["protocol"]["seconds"].keys()


def test_another_gallery(tmp_path: Path) -> None:
    content = write(tmp_path, embeddings(9), some_labels(9), gallery=(embeddings(30, 3), some_labels(30, 4)))
    table = read_neighbours(tmp_path)
    assert all(name.startswith("image ") for name in table["query"])
    assert all(name.startswith("other ") for name in table["image"])
    assert content["protocol"]["self_match"] == "no query is part of the gallery: nothing is left out"
    assert "each against the 30 images of train" in (tmp_path / "evaluate_model.txt").read_text()


def test_no_image_carries_a_label(tmp_path: Path) -> None:
    content = write(tmp_path, embeddings(6), torch.zeros(6, 4).bool())
    assert content["scores"] == {
        "recall@1": 0, "map@8": 0, "map": None, "ndcg": None, "ndcg_jaccard@4": None, "knn_f1@3": 0, SHOWN_BY: 0,
    }  # fmt: skip
    assert content["chance"]["map"] is None
    assert content["protocol"]["queries_without_labels"] == 6
    assert any("6 queries carry no label" in note for note in content["protocol"]["notes"])


def test_all_images_carry_the_same_labels(tmp_path: Path) -> None:
    content = write(tmp_path, embeddings(6), torch.tensor([[True, False, True, False]]).expand(6, 4))
    assert all(value == pytest.approx(1) for value in {**content["scores"], **content["chance"]}.values())
    assert content["neighbours"]["intra_inter_overlap"] is None


def test_a_collapsed_embedding_scores_what_the_order_of_images_does(tmp_path: Path) -> None:
    rows = torch.eye(5)[:1].expand(12, 5)
    labels = some_labels(12)
    content = write(tmp_path, rows, labels)
    first = [labels[1], *[labels[0]] * 11]  # of equally near images the one of the lowest index, not oneself
    expected = [float((a & b).sum() / a.sum().clamp(min=1)) for a, b in zip(labels, first, strict=True)]
    assert content["scores"]["recall@1"] == pytest.approx(sum(expected) / 12)


def test_two_images(tmp_path: Path) -> None:
    content = write(tmp_path, embeddings(2), torch.tensor([[True, True], [True, False]]))
    assert content["scores"]["recall@1"] == 0.75
    assert "K = 8 is cut to 1: a query finds no more images" in content["protocol"]["notes"]


def test_pictures_of_an_earlier_evaluation_do_not_stay(tmp_path: Path) -> None:
    write(tmp_path, embeddings(6), some_labels(6))
    write(tmp_path, embeddings(2), torch.tensor([[True, True], [True, False]]))  # without a map of its embeddings
    write(tmp_path, embeddings(6), some_labels(6), pictured=0)


def test_a_picture_a_query_on_request(tmp_path: Path) -> None:
    """From the best to the worst, each with its place and name; all of them where more are asked for than there are."""
    content = write(tmp_path, embeddings(9), some_labels(9), pictured=0, files=3)
    names = sorted(path.name for path in (tmp_path / "retrievals").iterdir())
    values = read_query_scores(tmp_path)[1][SHOWN_BY].nan_to_num(-1.0)
    order = values.argsort(descending=True, stable=True).tolist()
    assert names == [f"{place}_image {order[row]}.png" for place, row in ((1, 0), (2, 4), (3, 8))]
    with Image.open(tmp_path / "retrievals" / names[0]) as picture:
        assert picture.format == "PNG"
        assert picture.width > 3 * picture.height  # one line
    assert content["scores"]
    write(tmp_path, embeddings(9), some_labels(9), pictured=0, files=100)
    names = sorted(path.name for path in (tmp_path / "retrievals").iterdir())
    assert names == [f"{place:03}_image {row}.png" for place, row in enumerate(order, start=1)]
    write(tmp_path, embeddings(9), some_labels(9), pictured=0)  # without: those of before are gone


@pytest.mark.parametrize(
    ("name", "stem"),
    [("a/b.c/d.tif", "a_b.c_d"), ("S2A_20170613T101031.2_87_48", "S2A_20170613T101031.2_87_48"), (".png", ".png")],
)
def test_pictures_are_named_after_images(name: str, stem: str) -> None:
    assert _stem(name) == stem
